"""N(c): how many durable signed facts a second a real node takes over HTTP, and whether it kept each one.

Always: a fresh node in a fresh folder for every measurement, stopped by SIGTERM. Then its log is read offline, and the
measurement fails unless acknowledged <= stored <= acknowledged + connections: when wrk hangs up, each connection may
have one request on its way.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from bench import load

ROOT = Path(__file__).parents[1]
# The entry point behind `stigmem serve`, run from this tree whatever is installed.
SERVE = [sys.executable, "-c", "import sys; from node.cli import main; sys.exit(main())", "serve"]
PLAIN_SERVER = [sys.executable, "-m", "bench.plain_server"]
START_S = 20
STOP_S = 15


class ServerFailed(Exception):
    """A server did not start, did not stop, or did not keep what it acknowledged."""


def facts_per_second(folder: Path, connections: int, seconds: int) -> load.Load:
    """One measurement of a node in `folder`, checked against its log."""
    data_dir, bearer, port = folder / "data", secrets.token_urlsafe(32), load.free_port()
    settings = settings_of(folder, port=port, bearer=bearer, entity_uri="stigmem://bench.example")
    with running(SERVE, settings, ready=f"http://127.0.0.1:{port}/readyz", output=folder / "output"):
        url = f"http://127.0.0.1:{port}/v1/facts"
        seen = load.post_facts(url, connections=connections, seconds=seconds, bearer=bearer)
    stored = count_facts(data_dir)
    if not seen.created <= stored <= seen.created + connections:
        raise ServerFailed(f"{seen.created} facts acknowledged over {connections} connections, {stored} in the log")
    return seen


def plain_requests_per_second(folder: Path, connections: int, seconds: int) -> load.Load:
    """The same load on a handler that does nothing: what HTTP in Python costs by itself."""
    port = load.free_port()
    url = f"http://127.0.0.1:{port}/v1/facts"
    with running([*PLAIN_SERVER, str(port)], {}, ready=f"http://127.0.0.1:{port}/readyz", output=folder / "output"):
        return load.post_facts(url, connections=connections, seconds=seconds, bearer="none")


def settings_of(folder: Path, *, port: int, bearer: str, entity_uri: str) -> dict[str, str]:
    """What a node in `folder` is started with."""
    return {
        "STIGMEM_HOST": "127.0.0.1",
        "STIGMEM_PORT": str(port),
        "STIGMEM_NODE_URL": f"http://127.0.0.1:{port}",
        "STIGMEM_DATA_DIR": str(folder / "data"),
        "STIGMEM_ADMIN_KEY": bearer,
        "STIGMEM_ENTITY_URI": entity_uri,
        "STIGMEM_LOG_LEVEL": "warning",
    }


def count_facts(data_dir: Path) -> int:
    """How many facts were asserted in the log of a node that is not running (docs/log-format.md)."""
    with lmdb.open(str(data_dir / "log"), readonly=True, create=False, max_dbs=8) as environment:
        headers = environment.open_db(b"headers", create=False)
        with environment.begin(db=headers) as snapshot:
            return sum(json.loads(value[:-64])["type"] == "fact.asserted.1" for _, value in snapshot.cursor())


def cpu_s(pid: int) -> float:
    """Processor time that a process and its threads have spent; of Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: list[str], settings: dict[str, str], *, ready: str, output: Path) -> Iterator[int]:
    """A server as a process of its own, by its id, from its first answer to SIGTERM. Raises ServerFailed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STIGMEM_")}
    with output.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=inherited | settings, stdout=sink, stderr=sink)
        try:
            _await_ready(process, ready, output)
            yield process.pid
        finally:
            _stop(process)
    if process.returncode != 0:
        raise ServerFailed(f"exit status {process.returncode}\n{_tail(output)}")


def _await_ready(process: subprocess.Popen[bytes], url: str, output: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"no 200 from {url} within {START_S} s\n{_tail(output)}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-20:])
