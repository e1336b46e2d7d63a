"""What nobody foresaw: a 500 that tells nothing, and a traceback in the log that holds nothing of the request (PROTOCOL §16)."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from node.logging import configure_logging
from tests.served import ADMIN_KEY, Served, fact

SECRETS = {"Idempotency-Key": "a-key-that-nobody-else-may-guess", "X-Whatever": "a-secret-in-a-header"}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The node's log as it is written to stderr, at the level that says most."""
    root, lines = logging.getLogger(), io.StringIO()
    before, configuration = (root.handlers, root.level), structlog.get_config()
    monkeypatch.setattr(sys, "stderr", lines)
    configure_logging("debug")
    yield lines
    root.handlers, _ = before
    root.setLevel(before[1])
    structlog.configure(**configuration)


async def test_a_failure_nobody_foresaw_is_logged_without_what_was_sent(http: Served, logged: io.StringIO):
    now_ms = http.clock.now_ms()
    # A machine whose clock says nothing that is a time: nobody foresaw it.
    http.clock.set("no time")

    read = await http.send("GET", "/v1/trust?source=agent:a-secret-in-a-query", headers=SECRETS)
    written = await http.send("POST", "/v1/facts", fact(source="agent:a-secret-in-a-body"), headers=SECRETS)
    http.clock.set(now_ms)

    assert {answer.status for answer in (read, written)} == {500}
    assert read.json == written.json == {"error": "internal", "detail": "internal"}
    said = logged.getvalue()
    failures = [json.loads(line) for line in said.splitlines()]
    assert any("Traceback" in failure.get("exception", "") for failure in failures)
    assert [secret for secret in (*SECRETS.values(), ADMIN_KEY, "a-secret-in") if secret in said] == []
