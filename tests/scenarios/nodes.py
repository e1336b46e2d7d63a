"""Real nodes for the scenarios: `stigmem serve` as its own process, in a folder of its own, spoken to over HTTP.

Always: every wait has a deadline; a node's output is a file, so what it said is there after it died; a process is ended
by its pid.
The process sees no STIGMEM_* variable of the machine, only those that the test gave it.

Does not know: organisations, manifests, peers (see tests/scenarios/organisations.py).
"""

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.documented import check_answer

STIGMEM = Path(sys.executable).with_name("stigmem")
START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0
REQUEST_DEADLINE_S = 15.0
ADMIN_KEY = "scenario-admin-key-of-the-one-who-runs-it"
# Below those that the system gives to connections and listeners by itself: nobody is given a node's port before it has started, or
# between two starts. Tests that run side by side take ports of their own, one after another from anywhere among them.
PORTS_EACH = 4000
FIRST_PORT = 12_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 5 * PORTS_EACH
_taken = itertools.count(random.SystemRandom().randrange(PORTS_EACH))


class NodeFailed(AssertionError):
    """A node did not start, answer or stop as a test needs it; carries what the node said."""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: `json` is its decoded body where it has one, `body` the bytes as they came."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, status: int) -> Any:
        if self.status != status:
            raise AssertionError(f"expected {status}, was answered {self.status}: {self.body[:2000]!r}")
        return self.json

    def refused(self, status: int, code: str) -> None:
        assert self.expect(status)["error"] == code


def free_port() -> int:
    """A port that nothing listens on, and that the system gives to nobody; another one each time."""
    while True:
        port = FIRST_PORT + next(_taken) % PORTS_EACH
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def eventually(read: Callable[[], Any], holds: Callable[[Any], object] = bool, *, within_s: float, what: str) -> Any:
    """Reads until what was read holds, and returns it. For what another process does in its own time."""
    deadline = time.monotonic() + within_s
    while not holds(last := read()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:.0f} s; last seen: {last}")
        time.sleep(0.05)
    return last


def environment(settings: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STIGMEM_")}
    return inherited | {"PYTHONUNBUFFERED": "1"} | {f"STIGMEM_{name}": value for name, value in settings.items()}


def run_stigmem(
    *arguments: str, folder: Path, timeout_s: float = 60, **settings: str
) -> subprocess.CompletedProcess[str]:
    """A `stigmem` command that ends by itself, within the deadline."""
    return subprocess.run(
        [STIGMEM, *arguments],
        cwd=folder,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Client:
    """Sends JSON to one node over one connection, kept open. Not for use by two threads at once."""

    def __init__(self, port: int, bearer: str | None = ADMIN_KEY, *, ca_file: Path | None = None) -> None:
        self.bearer = bearer
        if ca_file is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_DEADLINE_S)
        else:
            context = ssl.create_default_context(cafile=ca_file)
            self._connection = http.client.HTTPSConnection(
                "localhost", port, timeout=REQUEST_DEADLINE_S, context=context
            )

    def send(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.bearer is not None:
            headers["Authorization"] = f"Bearer {self.bearer}"
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, path, body=content, headers=headers)
        response = self._connection.getresponse()
        answer = Answer(response.status, response.read())
        check_answer(method, path, answer.status, response.headers, answer.body)
        return answer

    def close(self) -> None:
        self._connection.close()


class RunningNode:
    """One `stigmem serve`, which can be stopped, killed and started again on the same port and folder.

    With a `ca_file` it is spoken to over TLS, and its certificate is to be of that CA.
    """

    def __init__(
        self, folder: Path, *, launcher: Sequence[str] = (), ca_file: Path | None = None, **settings: str
    ) -> None:
        self.folder = folder
        self.port = int(settings.get("PORT", 0)) or free_port()
        self.url = f"{'http' if ca_file is None else 'https'}://localhost:{self.port}"
        self._ca_file = ca_file
        self.data_dir = folder / "stigmem-data"
        self.settings = {"PORT": str(self.port), "ADMIN_KEY": ADMIN_KEY} | settings
        self.output = folder / "stdout.txt"
        self.errors = folder / "stderr.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.launcher = list(launcher)
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> "RunningNode":
        self.launch()
        return self.wait_until_ready()

    def launch(self) -> None:
        """Starts the process and does not wait, so two can start side by side; its output replaces the last one's."""
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*self.launcher, STIGMEM, "serve"],
                cwd=self.folder,
                env=environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )

    def wait_until_ready(self) -> "RunningNode":
        eventually(
            self._is_ready, within_s=START_DEADLINE_S, what=f"the node on port {self.port} is ready ({self.folder})"
        )
        return self

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise NodeFailed(f"it ended with {self.process.returncode} instead of starting:\n{self.said()}")
        try:
            return self.get("/readyz", bearer=None).status == 200
        except OSError:
            return False

    def said(self) -> str:
        return self.output.read_text(errors="replace") + self.errors.read_text(errors="replace")

    def stop(self) -> None:
        """SIGTERM; the node has to end by itself, in time, with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeFailed(f"still running {STOP_DEADLINE_S} s after SIGTERM:\n{self.said()}") from None
        if code != 0:
            raise NodeFailed(f"ended with {code} after SIGTERM:\n{self.said()}")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_DEADLINE_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def client(self, bearer: str | None = ADMIN_KEY) -> Client:
        return Client(self.port, bearer, ca_file=self._ca_file)

    def send(self, method: str, path: str, body: Any = None, bearer: str | None = ADMIN_KEY) -> Answer:
        client = self.client(bearer)
        try:
            return client.send(method, path, body)
        finally:
            client.close()

    def get(self, path: str, bearer: str | None = ADMIN_KEY) -> Answer:
        return self.send("GET", path, bearer=bearer)

    def post(self, path: str, body: Any, bearer: str | None = ADMIN_KEY) -> Answer:
        return self.send("POST", path, body, bearer)

    def log_size(self) -> int:
        return int(self.get("/v1/log/checkpoint", bearer=None).body.split(b"\n")[1])

    def facts(self, query: str = "") -> list[dict[str, Any]]:
        """All facts that an ordinary read of the admin shows, page by page."""
        found, cursor, client = [], "", self.client()
        while cursor is not None:
            page = client.send("GET", f"/v1/facts?limit=1000{query}" + (f"&cursor={cursor}" if cursor else "")).expect(
                200
            )
            found, cursor = found + page["facts"], page["cursor"]
        client.close()
        return found

    def verify_log(self) -> str:
        """`stigmem replay verify` on this node's folder: exit code 0; returns its last line."""
        done = run_stigmem("replay", "verify", "--data-dir", str(self.data_dir), folder=self.folder)
        assert done.returncode == 0, f"replay verify ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout.splitlines()[-1]
