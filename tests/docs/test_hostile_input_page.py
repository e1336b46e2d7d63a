"""The page on hostile input says the bounds that the code has."""

import inspect
from pathlib import Path

from aiohttp import web

from node import peer_client, serve, strict_json, sync
from node.http import batches, body, connections, errors, exchange

KIB, MIB = 1 << 10, 1 << 20
PAGE = (Path(__file__).parents[2] / "docs" / "hostile-input.md").read_text()


def row(of_what: str) -> str:
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {of_what}"))


def test_the_page_says_the_bounds_of_connections():
    defaults = inspect.signature(web.RequestHandler).parameters
    header = row("a header")
    assert f"{connections.MAX_HEADER_BYTES // KIB} KiB, {defaults['max_headers'].default} fields" in header
    assert f"fields of {connections.MAX_FIELD_BYTES // KIB} KiB" in header
    assert f"{connections.HEADER_TIMEOUT_S:.0f} s" in header
    assert defaults["max_line_size"].default == 8190 and "8 KiB" in header
    assert f"{connections.ANSWERS_ROOM_BYTES // MIB} MiB" in row("all answers")
    assert f"above {errors.LARGE_ANSWER_BYTES // KIB} KiB" in row("all answers")
    unread = f"{connections.ANSWER_STEP_BYTES // KIB} KiB must be taken every {connections.ANSWER_TIMEOUT_S:.0f} s"
    assert unread in row("an answer that is not read")
    assert f"{connections.MAX_IDLE:,}" in row("connections that ask")
    assert f"{serve.OPEN_FILES:,}" in PAGE


def test_the_page_says_the_bounds_of_bodies():
    assert f"{batches.MAX_BATCH_BYTES // MIB} MiB by route, {body.BODY_TIMEOUT_S:.0f} s" in row("a body")
    assert batches.MAX_BATCH_BYTES == exchange.MAX_PUSH_BYTES
    values = row("values")
    assert f"{strict_json.MAX_VALUES:,};" in values and f"{strict_json.MAX_LIST_VALUES:,} where" in values
    assert f"| {strict_json.MAX_DEPTH} |" in row("nesting")
    assert f"{body.ROOM_BYTES // MIB} MiB, of each the first {body.ROOMLESS_BYTES // KIB} KiB" in row("all bodies")


def test_the_page_says_the_bounds_of_what_peers_answer():
    said = row("what a peer answers")
    assert f"{peer_client.DOCUMENT_BYTES // MIB} MiB a document, {sync.PAGE_BYTES // MIB} MiB a page" in said
    assert f"{peer_client.TIMEOUT_S:.0f} s, {peer_client.MAX_REDIRECTS} redirects" in said
    assert f"{sync.MAX_CYCLE_PAGES:,}" in row("pages")
