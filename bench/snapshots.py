"""How long the longest write waits while `stigmem snapshot create` runs beside the node, and without it.

Always: one caller writes one fact after another, on one node with FACTS or more of them; the loop without a snapshot runs right
after the one beside it, for as long. A snapshot that fails, or an answer but 201, fails the measurement.
"""

import http.client
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import load, served

FACTS = 50_000
FILL_S = 2
CREATE_S = 300
CREATE = [*served.SERVE[:-1], "snapshot", "create"]
REST_S = 1.0


def snapshot_figures(folder: Path) -> dict[str, float]:
    """The longest write beside a snapshot and without one, the difference (ms), and how fast the snapshot was made."""
    bearer, port = secrets.token_urlsafe(32), load.free_port()
    settings = served.settings_of(folder, port=port, bearer=bearer, entity_uri="stigmem://bench.example")
    with served.running(served.SERVE, settings, ready=f"http://127.0.0.1:{port}/readyz", output=folder / "output"):
        stored = _fill(port, bearer)
        writer = _Writer(port, bearer)
        # What the filling left to be written back would weigh on the first of the two alone.
        os.sync()
        _write_for(writer, REST_S)
        beside_ms, spent_s = _beside_a_snapshot(folder, writer)
        _write_for(writer, REST_S)
        idle_ms = _write_for(writer, spent_s)
    return {
        "longest idle": idle_ms,
        "longest beside": beside_ms,
        "longest added": beside_ms - idle_ms,
        "snapshot": stored / spent_s,
    }


def _write_for(writer: "_Writer", seconds: float) -> float:
    ends = time.monotonic() + seconds
    return writer.longest_ms(lambda: time.monotonic() < ends)


def _fill(port: int, bearer: str) -> int:
    stored = 0
    while stored < FACTS:
        url = f"http://127.0.0.1:{port}/v1/facts"
        stored += load.post_facts(url, connections=64, seconds=FILL_S, bearer=bearer).created
    return stored


def _beside_a_snapshot(folder: Path, writer: "_Writer") -> tuple[float, float]:
    command = [*CREATE, "--data-dir", str(folder / "data"), "--out", str(folder / "snapshot")]
    start = time.monotonic()
    with (folder / "create").open("wb") as output:
        process = subprocess.Popen(command, cwd=served.ROOT, stdout=output, stderr=output)
        try:
            longest_ms = writer.longest_ms(lambda: process.poll() is None and time.monotonic() < start + CREATE_S)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise served.ServerFailed(f"snapshot create: {(folder / 'create').read_text(errors='replace').strip()}")
    return longest_ms, time.monotonic() - start


class _Writer:
    """One caller over one connection, who waits for each answer."""

    def __init__(self, port: int, bearer: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=load.TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        self._number = 0

    def longest_ms(self, goes_on: Callable[[], bool]) -> float:
        longest_s = 0.0
        while goes_on():
            start = time.perf_counter()
            self._write()
            longest_s = max(longest_s, time.perf_counter() - start)
        return longest_s * 1000

    def _write(self) -> None:
        self._number += 1
        fact = {
            "entity": f"stigmem://bench.example/beside/{self._number}",
            "relation": "memory:status",
            "value": {"type": "string", "v": "written"},
            "source": "stigmem://bench.example/agent/bench",
        }
        self._connection.request("POST", "/v1/facts", body=json.dumps(fact), headers=self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status != 201:
            raise load.LoadFailed(f"a write was answered {answer.status}: {said[:200]!r}")
