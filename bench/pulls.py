"""A real node that a peer pulls from: facts a second over HTTP, and what that costs those who write meanwhile.

Always: two `stigmem serve` processes register each other; then the peer's own process ends, and what pulls in its name, with
tokens of its key, is threads of this one. An answer that is no page fails the measurement.
Writes without and with pulls are measured on the same node in turn.
"""

import http.client
import json
import os
import secrets
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench import load, served
from node.clock import Clock
from node.commands.peer_tokens import mint_token
from node.keys import Signer, create_key_file
from node.projections.federation_page import MAX_PAGE_FACTS

SPEAKER = "stigmem://bench.example"
LISTENER = "stigmem://listener.example"
SCOPES = ("company",)
FACTS = 10_000
FILL_S = 2
PULLERS = (1, 4)
WRITERS = 4
TURNS = 2
ACTIVE_S = 15
TIMEOUT_S = 30


class PullFailed(served.ServerFailed):
    """A pull was not answered with a page, or the two nodes did not become peers."""


class Page(Struct, frozen=True):
    facts: list[msgspec.Raw]
    cursor: str
    has_more: bool


class Speaker(Struct, frozen=True):
    """The node that is measured, and the key of the peer that it knows."""

    port: int
    bearer: str
    listener: Signer


def pull_figures(folder: Path, seconds: int) -> dict[str, float]:
    """Facts a second for one and for four connections, and the p99 of writes with and without a peer that pulls."""
    with _speaker(folder) as speaker:
        _fill(speaker)
        figures = {f"served({count})": _facts_per_second(speaker, count, seconds) for count in PULLERS}
        return figures | _write_figures(speaker, seconds)


def _facts_per_second(speaker: Speaker, connections: int, seconds: float) -> float:
    start = time.monotonic()
    with _pulling(speaker, connections) as pulls:
        time.sleep(seconds)
    facts = sum(pull.facts for pull in pulls)
    return facts / (time.monotonic() - start)


def _write_figures(speaker: Speaker, seconds: int) -> dict[str, float]:
    idle, pulled = [], []
    for _ in range(TURNS):
        idle.append(_write(speaker, seconds))
        with _pulling(speaker, 1):
            pulled.append(_write(speaker, seconds))
    # Neighbours in time are compared: a machine that changes its speed meanwhile weighs on both.
    ratio = median(with_pulls.p99_us / without.p99_us for with_pulls, without in zip(pulled, idle, strict=True))
    return {
        "p99 idle(4)": median(seen.p99_us for seen in idle) / 1000,
        "p99 pulled(4)": median(seen.p99_us for seen in pulled) / 1000,
        "p99 pulled/idle": ratio,
        "N pulled(4)": median(seen.per_second for seen in pulled),
    }


def _write(speaker: Speaker, seconds: int, connections: int = WRITERS) -> load.Load:
    url = f"http://127.0.0.1:{speaker.port}/v1/facts"
    return load.post_facts(url, connections=connections, seconds=seconds, bearer=speaker.bearer)


def _fill(speaker: Speaker) -> None:
    stored = 0
    while stored < FACTS:
        stored += _write(speaker, FILL_S, connections=64).created


class _Pull(threading.Thread):
    """One connection that asks for page after page, from the beginning again once it has them all."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__(name="pull")
        self._speaker, self._clock, self._over = speaker, Clock.system(), threading.Event()
        self.facts, self.failure = 0, ""

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._speaker.port, timeout=TIMEOUT_S)
        cursor = ""
        try:
            while not self._over.is_set():
                page = self._page(connection, cursor)
                self.facts += len(page.facts)
                cursor = page.cursor if page.has_more else ""
        except (OSError, http.client.HTTPException, msgspec.MsgspecError, PullFailed) as failure:
            self.failure = repr(failure)
        finally:
            connection.close()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _page(self, connection: http.client.HTTPConnection, cursor: str) -> Page:
        signer = self._speaker.listener
        token = mint_token(signer, self._clock, issuer=LISTENER, audience=SPEAKER, scopes=SCOPES)
        asked = f"/v1/federation/facts?limit={MAX_PAGE_FACTS}" + (f"&cursor={cursor}" if cursor else "")
        connection.request("GET", asked, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        raw = answer.read()
        if answer.status != 200:
            raise PullFailed(f"{answer.status}: {raw[:500]!r}")
        return msgspec.json.decode(raw, type=Page)


@contextmanager
def _pulling(speaker: Speaker, connections: int) -> Iterator[list[_Pull]]:
    pulls = [_Pull(speaker) for _ in range(connections)]
    for pull in pulls:
        pull.start()
    try:
        yield pulls
    finally:
        for pull in pulls:
            pull.stop()
    if failures := [pull.failure for pull in pulls if pull.failure]:
        raise PullFailed(failures[0])


@contextmanager
def _speaker(folder: Path) -> Iterator[Speaker]:
    with ExitStack() as stack:
        one, other = _Organisation(folder / "speaker", SPEAKER), _Organisation(folder / "listener", LISTENER)
        stack.enter_context(one.running())
        with other.running():
            one.register(other)
            other.register(one)
            one.await_active(other)
        yield Speaker(port=one.port, bearer=one.bearer, listener=other.signer)


class _Organisation:
    """A node of its own with a key that is known here."""

    def __init__(self, folder: Path, entity_uri: str) -> None:
        folder.mkdir()
        self._folder, self.entity_uri = folder, entity_uri
        self.port, self.bearer = load.free_port(), secrets.token_urlsafe(32)
        self.url = f"http://127.0.0.1:{self.port}"
        self.signer = create_key_file(folder / "signing.key", os.urandom(32))

    @contextmanager
    def running(self) -> Iterator[None]:
        settings = served.settings_of(self._folder, port=self.port, bearer=self.bearer, entity_uri=self.entity_uri) | {
            "STIGMEM_NODE_PRIVATE_KEY_FILE": str(self._folder / "signing.key"),
            "STIGMEM_FEDERATION_ENABLED": "true",
            # It pulls from nobody while it is measured: the peer's process is gone by then.
            "STIGMEM_FEDERATION_PULL_INTERVAL_S": "3600",
            # A peer that is gone is no news.
            "STIGMEM_LOG_LEVEL": "error",
        }
        with served.running(served.SERVE, settings, ready=f"{self.url}/readyz", output=self._folder / "output"):
            yield

    def register(self, other: "_Organisation") -> None:
        self._send("POST", {"peer_url": other.url, "peer_entity_uri": other.entity_uri, "allowed_scopes": list(SCOPES)})

    def await_active(self, other: "_Organisation") -> None:
        deadline = time.monotonic() + ACTIVE_S
        while self._status_of(other) != "active":
            if time.monotonic() > deadline:
                raise PullFailed(f"{other.entity_uri} is no active peer within {ACTIVE_S} s")
            time.sleep(0.05)

    def _status_of(self, other: "_Organisation") -> str:
        peers = self._send("GET")["peers"]
        return next(peer["status"] for peer in peers if peer["node_id"] == other.entity_uri)

    def _send(self, method: str, body: object = None) -> dict:
        headers = {"Authorization": f"Bearer {self.bearer}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/federation/peers", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read())
