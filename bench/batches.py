"""batch(c): how many facts a second a real node takes in batches over c connections, between two halves of the yardstick.

Always: a fresh node, stopped by SIGTERM, whose log is then read: acknowledged <= stored <= acknowledged + one batch a connection.
"""

import secrets
from pathlib import Path
from statistics import mean

from bench import load, served, yardstick

FACTS = 100
CONNECTIONS = 4
# What a batch is held against (bench/README.md).
YARDSTICK = 64


def batch_figures(folder: Path, seconds: int) -> dict[str, float]:
    """Facts a second, latency of a batch, and the yardstick beside it."""
    before = _yardstick(folder / "before", seconds / 2)
    seen = _post_batches(folder, seconds)
    after = _yardstick(folder / "after", seconds / 2)
    name = f"batch({CONNECTIONS})"
    return {
        name: seen.per_second * FACTS,
        f"p50 {name}": seen.p50_us / 1000,
        f"p99 {name}": seen.p99_us / 1000,
        f"G({YARDSTICK}) beside": mean((before, after)),
    }


def _yardstick(folder: Path, seconds: float) -> float:
    folder.mkdir()
    return yardstick.facts_per_second(folder, YARDSTICK, seconds)


def _post_batches(folder: Path, seconds: int) -> load.Load:
    bearer, port = secrets.token_urlsafe(32), load.free_port()
    settings = served.settings_of(folder, port=port, bearer=bearer, entity_uri="stigmem://bench.example")
    root = f"http://127.0.0.1:{port}"
    with served.running(served.SERVE, settings, ready=f"{root}/readyz", output=folder / "output"):
        seen = load.post_batches(
            f"{root}/v1/facts/batch", facts=FACTS, connections=CONNECTIONS, seconds=seconds, bearer=bearer
        )
    stored = served.count_facts(folder / "data")
    if not seen.created * FACTS <= stored <= (seen.created + CONNECTIONS) * FACTS:
        raise served.ServerFailed(f"{seen.created} batches acknowledged, {stored} facts in the log")
    return seen
