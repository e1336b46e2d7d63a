"""`python -m bench`: the yardstick and the node in alternating rounds, and what they cost apart.

Always: within a round each size is measured on the yardstick, on the node, and on the yardstick again, on one file system.
Exit status 1 when a measurement failed, 2 when wrk is missing. A missed target is printed and is no failure: it says as
much about the machine as about the node.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

from bench import (
    batches,
    encryption,
    load,
    pages,
    parts,
    pulls,
    reads,
    replay,
    report,
    served,
    snapshots,
    stages,
    yardstick,
)

NEEDS_WRK = frozenset({"node", "batch", "encryption", "reference", "reads", "exchange", "snapshot"})
KINDS = (
    "yardstick",
    "node",
    "batch",
    "encryption",
    "reference",
    "reads",
    "stages",
    "seal",
    "sync",
    "exchange",
    "replay",
    "snapshot",
)


# What is measured in a folder of its own, in this order; seconds are of load.
_BY_KIND: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "batch": batches.batch_figures,
    "encryption": encryption.encryption_figures,
    "reference": lambda folder, seconds: _load_figures(
        "plain", 64, served.plain_requests_per_second(folder, 64, seconds)
    ),
    "reads": reads.read_figures,
    "stages": lambda folder, _: stages.stages_us(folder),
    "sync": lambda folder, _: parts.sync_us(folder),
    "exchange": lambda folder, seconds: (
        pulls.pull_figures(folder / "pulls", seconds) | pages.page_figures(folder / "pages")
    ),
    "replay": lambda folder, _: replay.replay_figures(folder),
    "snapshot": lambda folder, _: snapshots.snapshot_figures(folder),
}


def main() -> int:
    arguments = _arguments()
    kinds = tuple(arguments.only or KINDS)
    if NEEDS_WRK & set(kinds) and not load.is_installed():
        print(load.INSTALL_WRK, file=sys.stderr)
        return 2
    figures: report.Figures = {}
    try:
        for number in range(1, arguments.rounds + 1):
            print(f"round {number} of {arguments.rounds}", file=sys.stderr)
            _measure_round(kinds, arguments.seconds, figures)
    except (load.LoadFailed, served.ServerFailed) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {_file_system()}")
    print(report.table(figures))
    print("\n".join(report.verdicts(figures)))
    return 0


def _measure_round(kinds: tuple[str, ...], seconds: int, figures: report.Figures) -> None:
    for size in report.SIZES:
        halves = [_yardstick(size, seconds / 2)] if "yardstick" in kinds else []
        if "node" in kinds:
            with _fresh_folder() as folder:
                _note(figures, _load_figures("N", size, served.facts_per_second(folder, size, seconds)))
        if halves:
            # Half before the node and half after it: a machine that changes its speed meanwhile weighs on both sides of the ratio.
            halves.append(_yardstick(size, seconds / 2))
            _note(figures, {f"G({size})": mean(halves)})
    for kind, measure in _BY_KIND.items():
        if kind in kinds:
            with _fresh_folder() as folder:
                _note(figures, measure(folder, seconds))
    if "seal" in kinds:
        _note(figures, parts.seal_us())


def _yardstick(size: int, seconds: float) -> float:
    with _fresh_folder() as folder:
        return yardstick.facts_per_second(folder, size, seconds)


@contextmanager
def _fresh_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stigmem-bench-") as folder:
        yield Path(folder)


def _load_figures(name: str, connections: int, seen: load.Load) -> dict[str, float]:
    return {
        f"{name}({connections})": seen.per_second,
        f"p50 {name}({connections})": seen.p50_us / 1000,
        f"p99 {name}({connections})": seen.p99_us / 1000,
    }


def _note(figures: report.Figures, measured: dict[str, float]) -> None:
    for name, value in measured.items():
        figures.setdefault(name, []).append(value)
        print(f"  {name} {value:,.4g}", file=sys.stderr)


def _file_system() -> str:
    folder, mounts = Path(tempfile.gettempdir()).resolve(), Path("/proc/mounts")
    if not mounts.exists():
        return str(folder)
    rows = [line.split()[:3] for line in mounts.read_text().splitlines()]
    # The longest mount point above the folder is the one it lies on.
    _, kind, device = max((len(at), kind, device) for device, at, kind in rows if folder.is_relative_to(at))
    return f"{folder} on {kind} ({device})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure everything (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of load per measurement (default 3)")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="measure these alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
