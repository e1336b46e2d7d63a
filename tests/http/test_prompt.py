"""Requests that are answered past aiohttp's router and tasks: with the answer that the long way gives, and nothing left over."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import make_mocked_request

from node.http.app import ROUTES
from node.http.prompt import PROMPT, is_prompt
from node.keys import Signer
from tests.clocks import CountedClock
from tests.served import ADMIN_KEY, SEED, Served, config_for

OF_THEIR_TIME = {b"date", b"connection"}


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, *paths: str, method: str = "GET", version: str = "1.1", more: str = "") -> None:
        head = f"Host: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{more}\r\n"
        self._writer.write("".join(f"{method} {path} HTTP/{version}\r\n{head}" for path in paths).encode())

    async def answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Status line without the version, header fields, body."""
        async with asyncio.timeout(5):
            status, *fields = (await self._reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
            named = {name.lower(): text for name, text in (field.split(b": ", 1) for field in fields)}
            body = await self._reader.readexactly(int(named[b"content-length"]))
        return status.split(b" ", 1)[1], {n: t for n, t in named.items() if n not in OF_THEIR_TIME}, body


@asynccontextmanager
async def connected(http: Served) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def asked(http: Served, path: str, **how: str) -> tuple[bytes, dict[bytes, bytes], bytes]:
    async with connected(http) as connection:
        # A connection's task takes its first request, if that comes before the task has begun to wait.
        connection.send("/healthz")
        await connection.answer()
        connection.send(path, **how)
        return await connection.answer()


@pytest.mark.parametrize(
    "how",
    [
        {"version": "1.0", "more": "Connection: keep-alive\r\n"},
        {"more": "Connection: close\r\n"},
        {"more": "Expect: nothing-special\r\n"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "path", ["/v1/facts/{id}", "/v1/facts?entity={entity}", "/v1/facts/{absent}", "/healthz", "/readyz"]
)
async def test_the_answer_is_the_one_that_the_long_way_gives(http, path, how):
    record = await http.write()
    path = path.format(**record, absent=record["id"][:-1] + ("0" if record["id"][-1] != "0" else "1"))
    assert await asked(http, path) == await asked(http, path, **how)


async def test_an_escaped_name_is_the_name(http):
    record = await http.write()
    escaped = record["id"].replace("-", "%2D")
    assert await asked(http, f"/v1/facts/{record['id']}") == await asked(http, f"/v1/facts/{escaped}")


async def test_each_prompt_route_is_found_where_the_router_finds_it(http):
    app = http._runner.app
    prompt = [route for route in ROUTES if is_prompt(route.handler)]
    assert {route.path for route in prompt} >= {"/v1/facts", "/v1/facts/{fact_id}"}
    for path in [re.sub(r"\{[^}]+\}", "0190-ab", route.path) for route in ROUTES if route.method == "GET"]:
        request = make_mocked_request("GET", path)
        long_way, found = await app.router.resolve(request), app[PROMPT].find(request._message)
        assert (found is not None) == any(long_way.route.resource.canonical == route.path for route in prompt), path
        if found is not None:
            assert (found[0].route, dict(found[0])) == (long_way.route, dict(long_way))


async def test_requests_sent_in_one_go_are_answered_in_their_order(http):
    records = [await http.write() for _ in range(5)]
    async with connected(http) as connection:
        for _ in range(2):
            connection.send(*(f"/v1/facts/{record['id']}" for record in records))
            for record in records:
                assert record["id"].encode() in (await connection.answer())[2]
            connection.send(f"/v1/facts/{records[0]['id']}")
            assert records[0]["id"].encode() in (await connection.answer())[2]


async def test_a_caller_that_reads_no_answers_is_sent_no_more_of_them_than_the_transport_takes(http):
    record = await http.write(value={"type": "text", "v": "long " * 10_000})
    async with connected(http) as connection:
        for _ in range(300):
            connection.send(f"/v1/facts/{record['id']}")
            await asyncio.sleep(0)
        # Others are served meanwhile.
        (await http.get("/healthz")).expect(200)
        for _ in range(300):
            assert record["id"].encode() in (await connection.answer())[2]


async def test_what_is_refused_holds_on_to_nothing_that_was_read(http):
    gc.disable()
    try:
        for number in range(200):
            # More than LMDB has places for readers, were they only given back by the collector of cycles.
            (await http.get(f"/v1/facts/01890000-0000-7000-8000-{number:012d}")).refused(404, "fact_not_found")
    finally:
        gc.enable()


async def test_what_was_just_written_is_read(http):
    for number in range(20):
        record = await http.write(value={"type": "string", "v": str(number)}, supersedes=True)
        assert (await http.get(f"/v1/facts/{record['id']}")).expect(200)["value"]["v"] == str(number)
        assert (await http.get("/v1/facts", entity=record["entity"])).expect(200)["total"] == 1


@pytest.mark.parametrize("value", [{"type": "null"}, {"type": "string", "v": "green"}], ids=["whatever", "by value"])
async def test_a_fact_that_was_listed_alone_with_its_entity_is_hidden_once_it_is_withdrawn(http, value):
    first = await http.write()
    for _ in range(2):
        assert (await http.get("/v1/facts", entity=first["entity"])).expect(200)["total"] == 1
    await http.write(value=value, confidence=0.0)
    assert (await http.get("/v1/facts", entity=first["entity"])).expect(200)["facts"] == []
    # And asked of alone, behind the entity that was listed last.
    other = await http.write(entity=f"{first['entity']}/other")
    assert (await http.get("/v1/facts", entity=other["entity"])).expect(200)["total"] == 1
    assert (await http.get("/v1/facts", entity=first["entity"])).expect(200)["total"] == 0


async def test_a_fact_that_is_contradicted_after_it_was_listed_alone_says_so(http):
    first = await http.write()
    for contradicted in (False, True):
        shown = (await http.get("/v1/facts", entity=first["entity"], include_contradicted=True)).expect(200)["facts"]
        assert {fact["contradicted"] for fact in shown} == {contradicted}
        await http.write(value={"type": "string", "v": "red"}, source=f"{first['source']}/other")


async def test_an_item_that_changes_on_disk_after_it_was_served_is_served_no_more(tmp_path, clock: CountedClock):
    folder = tmp_path / "damaged"
    http = await Served(folder, clock, Signer.from_seed(SEED), config_for(folder)).start()
    try:
        record = await http.write(value={"type": "string", "v": "amber-and-jet"})
        for path in (f"/v1/facts/{record['id']}", f"/v1/facts?entity={record['entity']}"):
            assert "amber-and-jet" in (await asked(http, path))[2].decode()
        with (folder / "log" / "data.mdb").open("r+b") as file:
            stored = file.read()
            found = stored.find(b"amber-and-jet")
            while found >= 0:
                file.seek(found)
                file.write(b"AMBER")
                found = stored.find(b"amber-and-jet", found + 1)
        refusal = (await http.get(f"/v1/facts/{record['id']}")).refused(503, "log_damaged")
        assert refusal["offset"] == record["log_offset"]
        (await http.get("/v1/facts", entity=record["entity"])).refused(503, "log_damaged")
    finally:
        await http.stop()


async def test_a_request_that_came_just_before_its_connection_is_closed_is_answered(http):
    async with connected(http) as connection:
        connection.send("/healthz")
        await connection.answer()
        (kept,) = [one for one in http._runner.server.connections if one.is_idle]
        kept.data_received(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        kept.close()
        assert (await connection.answer())[0] == b"200 OK"
