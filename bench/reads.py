"""What a read costs beside an aiohttp handler that does nothing: one fact by its id, and the facts of one entity.

Always: a real node that holds FACTS facts or more, each with an entity of its own, and the plain server, both up all the time; each
kind of read is measured between two halves of the same requests to the plain server. An answer other than 200 fails it.
Each kind twice: the same questions again and again, which a node may answer as before; and "anew", where none comes again before
the node has forgotten it, so that every answer is made.
Beside the rates by the wall, which another process moves, the processor time that the server spent on each answer.
"""

import json
import secrets
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from bench import load, served
from bench.served import cpu_s
from node.kept_answers import MAX_ASKED

SCRIPT = Path(__file__).with_name("read.lua")
FACTS = 10_000
FILL_S = 2
CONNECTIONS = 64
PAGE = 1000


class Reads(Struct, frozen=True, kw_only=True):
    """What wrk saw."""

    answered: int
    other: int
    socket_errors: int
    duration_us: int
    p50_us: int
    p99_us: int


class Rate(Struct, frozen=True, kw_only=True):
    """Answers a second, by the wall and of processor time."""

    per_second: float
    per_cpu_second: float


class Server(Struct, frozen=True, kw_only=True):
    """A server under load."""

    port: int
    pid: int
    bearer: str

    def rate(self, paths: Path, seconds: float) -> Rate:
        spent_before = cpu_s(self.pid)
        said = load.run_wrk(
            f"http://127.0.0.1:{self.port}",
            SCRIPT,
            (str(paths), self.bearer),
            connections=CONNECTIONS,
            seconds=seconds,
        )
        seen = msgspec.json.decode(said, type=Reads)
        if seen.other or seen.socket_errors or not seen.answered:
            raise load.LoadFailed(f"not every answer was a 200: {seen}")
        spent = cpu_s(self.pid) - spent_before
        return Rate(per_second=seen.answered / seen.duration_us * 1e6, per_cpu_second=seen.answered / spent)


def read_figures(folder: Path, seconds: int) -> dict[str, float]:
    """For each kind of read its rate, the plain server's, and both of processor time."""
    with _node(folder) as node, _plain(folder) as plain:
        figures: dict[str, float] = {}
        for kind, paths in _paths(node, folder).items():
            figures |= _compared(kind, node, plain, paths, seconds)
        return figures


def _compared(kind: str, node: Server, plain: Server, paths: Path, seconds: int) -> dict[str, float]:
    # wrk takes whole seconds.
    half = max(1, seconds // 2)
    # What a process touches of its files for the first time, and code that has not run yet, is not what is asked for.
    node.rate(paths, half)
    before, own, after = plain.rate(paths, half), node.rate(paths, seconds), plain.rate(paths, half)
    return {
        f"read {kind}": own.per_second,
        f"plain GET {kind}": (before.per_second + after.per_second) / 2,
        f"read {kind} CPU": own.per_cpu_second,
        f"plain GET {kind} CPU": (before.per_cpu_second + after.per_cpu_second) / 2,
    }


def _paths(node: Server, folder: Path) -> dict[str, Path]:
    """The requests of each kind, one path a line."""
    records = list(_records(node))
    kinds = {
        "by id": [f"/v1/facts/{record['id']}" for record in records],
        "by entity": [f"/v1/facts?entity={urllib.parse.quote(record['entity'], safe='')}" for record in records],
    }
    # A parameter that no route knows makes another question of the same answer.
    turns = range(2 + 2 * MAX_ASKED // len(records))
    for kind, paths in list(kinds.items()):
        join = "&" if "?" in paths[0] else "?"
        kinds[f"{kind} anew"] = [f"{path}{join}turn={turn}" for turn in turns for path in paths]
    files = {kind: folder / kind.replace(" ", "-") for kind in kinds}
    for kind, paths in kinds.items():
        files[kind].write_text("\n".join(paths) + "\n")
    return files


def _records(node: Server) -> Iterator[dict[str, str]]:
    cursor = ""
    while cursor is not None:
        page = _page(node, cursor)
        yield from page["facts"]
        cursor = page["cursor"]


def _page(node: Server, cursor: str) -> dict:
    query = urllib.parse.urlencode({"limit": PAGE} | ({"cursor": cursor} if cursor else {}))
    headers = {"Authorization": f"Bearer {node.bearer}"}
    request = urllib.request.Request(f"http://127.0.0.1:{node.port}/v1/facts?{query}", headers=headers)
    with urllib.request.urlopen(request, timeout=load.TIMEOUT_S) as answer:
        return json.loads(answer.read())


@contextmanager
def _node(folder: Path) -> Iterator[Server]:
    bearer, port = secrets.token_urlsafe(32), load.free_port()
    settings = served.settings_of(folder, port=port, bearer=bearer, entity_uri="stigmem://bench.example")
    ready = f"http://127.0.0.1:{port}/readyz"
    with served.running(served.SERVE, settings, ready=ready, output=folder / "output") as pid:
        stored = 0
        while stored < FACTS:
            url = f"http://127.0.0.1:{port}/v1/facts"
            stored += load.post_facts(url, connections=CONNECTIONS, seconds=FILL_S, bearer=bearer).created
        yield Server(port=port, pid=pid, bearer=bearer)


@contextmanager
def _plain(folder: Path) -> Iterator[Server]:
    port = load.free_port()
    command = [*served.PLAIN_SERVER, str(port)]
    ready = f"http://127.0.0.1:{port}/readyz"
    with served.running(command, {}, ready=ready, output=folder / "plain-output") as pid:
        yield Server(port=port, pid=pid, bearer="none")
