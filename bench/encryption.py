"""What encryption at rest costs a write: two real nodes side by side, one of them encrypted, loaded in turn.

Always: both run for the whole of it and are loaded in short slices, off, on, on, off, so that a machine that changes its speed
weighs on both. Their logs are read offline afterwards: what was acknowledged is there.
"""

import secrets
from contextlib import ExitStack
from pathlib import Path

from bench import load, served
from bench.served import cpu_s

SIZES = (1, 64)
_TURNS = ("off", "on", "on", "off")


class _Node:
    """A node that is loaded slice by slice."""

    def __init__(self, folder: Path, settings: dict[str, str], stack: ExitStack) -> None:
        folder.mkdir()
        self._data_dir, self._bearer, port = folder / "data", secrets.token_urlsafe(32), load.free_port()
        own = served.settings_of(folder, port=port, bearer=self._bearer, entity_uri="stigmem://bench.example")
        ready = f"http://127.0.0.1:{port}/readyz"
        self._pid = stack.enter_context(
            served.running(served.SERVE, own | settings, ready=ready, output=folder / "output")
        )
        self._url = f"http://127.0.0.1:{port}/v1/facts"
        self._created = self._slices = 0

    def rates(self, connections: int, seconds: int) -> tuple[float, float]:
        """Facts a second over so many connections, and facts a second of the node's processor time."""
        before = cpu_s(self._pid)
        seen = load.post_facts(self._url, connections=connections, seconds=seconds, bearer=self._bearer)
        self._created, self._slices = self._created + seen.created, self._slices + connections
        return seen.per_second, seen.created / (cpu_s(self._pid) - before)

    def require_kept(self) -> None:
        """Raise ServerFailed unless the log of the node, which is stopped, holds what was acknowledged."""
        stored = served.count_facts(self._data_dir)
        if not self._created <= stored <= self._created + self._slices:
            raise served.ServerFailed(f"{self._created} facts acknowledged, {stored} in the log")


def encryption_figures(folder: Path, seconds: int) -> dict[str, float]:
    """`N off(c)` and `N on(c)`, facts a second with encryption off and on, those with `CPU` a second of processor time."""
    key_file = folder / "key.hex"
    key_file.touch(mode=0o600)
    key_file.write_text(secrets.token_hex(32))
    encrypted = {"STIGMEM_AT_REST_ENCRYPTION": "on", "STIGMEM_AT_REST_KEY_FILE": str(key_file)}
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        nodes = {name: _Node(folder / name, given, stack) for name, given in (("off", {}), ("on", encrypted))}
        for node in nodes.values():
            node.rates(64, 1)
        for size in SIZES:
            seen: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
            for turn in _TURNS:
                seen[turn].append(nodes[turn].rates(size, seconds))
            for name, rates in seen.items():
                figures[f"N {name}({size})"] = sum(rate for rate, _ in rates) / len(rates)
                figures[f"N {name}({size}) CPU"] = sum(rate for _, rate in rates) / len(rates)
    for node in nodes.values():
        node.require_kept()
    return figures
