"""wrk against a URL: starts it, reads its last line.

Always: what is counted is answers with status 201. Any other answer, or a socket error, fails the run: a rate of
refusals is no rate.
"""

import os
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

import msgspec

SCRIPT = Path(__file__).with_name("write.lua")
BATCH_SCRIPT = Path(__file__).with_name("batch.lua")
# The server and wrk share the machine: more threads would take from what is measured.
MAX_THREADS = 2
# wrk counts what is slower as an error; a disk may well take a second or two.
TIMEOUT_S = 10
INSTALL_WRK = "bench: wrk is not installed: apt-get install wrk (Debian, Ubuntu), dnf install wrk, or brew install wrk"


class LoadFailed(Exception):
    """wrk did not run, or the server did not answer every request with 201."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What wrk saw."""

    created: int
    other: int
    socket_errors: int
    duration_us: int
    p50_us: int
    p99_us: int

    @property
    def per_second(self) -> float:
        return self.created / self.duration_us * 1e6


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def post_facts(url: str, *, connections: int, seconds: int, bearer: str) -> Load:
    """POST facts to `url` for `seconds` over `connections` kept open."""
    arguments = (secrets.token_hex(4), bearer)
    return _seen(run_wrk(url, SCRIPT, arguments, connections=connections, seconds=seconds))


def post_batches(url: str, *, facts: int, connections: int, seconds: int, bearer: str) -> Load:
    """POST batches of so many facts in the same way; `created` counts batches of which every fact was accepted."""
    arguments = (secrets.token_hex(4), bearer, str(facts))
    return _seen(run_wrk(url, BATCH_SCRIPT, arguments, connections=connections, seconds=seconds))


def _seen(said: str) -> Load:
    load = msgspec.json.decode(said, type=Load)
    if load.other or load.socket_errors or not load.created:
        raise LoadFailed(f"not every answer was a 201: {load}")
    return load


def run_wrk(url: str, script: Path, arguments: tuple[str, ...], *, connections: int, seconds: float) -> str:
    """wrk with one of our scripts: the last line that it printed. Raises LoadFailed."""
    threads = min(MAX_THREADS, connections, os.cpu_count() or 1)
    command = [
        "wrk",
        f"-t{threads}",
        f"-c{connections}",
        f"-d{seconds}s",
        f"--timeout={TIMEOUT_S}s",
        f"-s{script}",
        url,
        "--",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise LoadFailed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.splitlines()[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
