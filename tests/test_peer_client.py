"""Where a node connects to, and what it takes from a peer that misbehaves, on real servers on loopback."""

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from aiohttp import ThreadedResolver, web

from node.errors import PeerAnswerInvalid, PeerUnreachable, PeerUrlForbidden
from node.peer_client import CheckedResolver, PeerClient, PeerRefused
from tests.certificates import Somebody

SOMEBODY = Somebody("stigmem://org-b.example")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def client(*, loopback: bool = False, private: bool = False, http: bool = False) -> PeerClient:
    return PeerClient(allow_loopback=loopback, allow_private=private, allow_insecure_http=http)


@asynccontextmanager
async def started(**allowed: bool) -> AsyncIterator[PeerClient]:
    peers = client(**allowed)
    await peers.start()
    try:
        yield peers
    finally:
        await peers.close()


OPEN = {"loopback": True, "private": True, "http": True}


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://node.example/", "https://node.example"),
        ("HTTPS://Node.Example:443", "https://node.example"),
        ("https://node.example.:8443/a/b/", "https://node.example:8443/a/b"),
        ("https://93.184.216.34", "https://93.184.216.34"),
        ("https://1572395042", "https://93.184.216.34"),
        ("https://[2606:4700:0::6810:1]/", "https://[2606:4700::6810:1]"),
    ],
)
def test_a_public_https_url_has_one_spelling(url, base):
    assert client().check_url(url) == base


FORBIDDEN_ALWAYS = [
    "",
    "node.example",
    "//node.example",
    "ftp://node.example",
    "file:///etc/passwd",
    "https://",
    "https://user@node.example",
    "https://user:secret@node.example",
    "https://@node.example",
    "https://node.example?x=1",
    "https://node.example#x",
    "https://node.example:0",
    "https://node.example:x",
    "https://node.example:70000",
    "https://node.example/a/../b",
    "https://node.example/%2e%2E/b",
    "https://node.example\\@evil.example",
    "https://node.exa\tmple",
    " https://node.example",
    "https://nödé.example",
    "https://\uff11\uff12\uff17.0.0.1",
    "https://node..example",
    "https://no%64e.example",
    "https://[::1",
    "https://1.2.3.4.5",
    "https://999.1.1.1",
    "http://169.254.169.254",
    "http://169.254.169.254.",
    "http://2852039166",
    "http://0xa9.0xfe.0xa9.0xfe",
    "http://0251.0376.0251.0376",
    "http://[::ffff:169.254.169.254]",
    "http://[::169.254.169.254]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://[2002:a9fe:a9fe::1]",
    "http://[fe80::1]",
    "http://[fe80::1%25eth0]",
    "http://[2606:4700::1%25eth0]",
    "http://[fec0::1]",
    "http://[ff02::1]",
    "http://224.0.0.1",
    "http://240.0.0.1",
    "http://255.255.255.255",
    "http://0.0.0.0",
    "http://0",
    "http://0.1.2.3",
    "http://[::]",
    "http://[::ffff:0.0.0.0]",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
]


@pytest.mark.parametrize("url", FORBIDDEN_ALWAYS)
def test_no_setting_allows_a_url_that_is_malformed_or_leads_to_a_special_address(url):
    with pytest.raises(PeerUrlForbidden):
        client(**OPEN).check_url(url)


LOOPBACK = [
    "http://localhost:8100",
    "http://LOCALHOST.:8100",
    "http://a.localhost",
    "http://127.0.0.1",
    "http://127.1",
    "http://0x7f000001",
    "http://2130706433",
    "http://017700000001",
    "http://0x7f.0.0.1",
    "http://[::1]",
    "http://[::ffff:127.0.0.1]",
    "http://[::ffff:7f00:1]",
    "http://[64:ff9b::7f00:1]",
    "http://[2002:7f00:1::]",
]


@pytest.mark.parametrize("url", LOOPBACK)
def test_a_loopback_peer_is_refused_in_every_spelling_until_it_is_allowed(url):
    with pytest.raises(PeerUrlForbidden):
        client(private=True, http=True).check_url(url)

    assert client(loopback=True).check_url(url)


PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[fd00::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]"]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_peer_is_refused_until_it_is_allowed(host):
    with pytest.raises(PeerUrlForbidden):
        client(loopback=True, http=True).check_url(f"https://{host}")

    assert client(private=True).check_url(f"https://{host}")


def test_plain_http_beyond_loopback_is_refused_until_it_is_allowed():
    with pytest.raises(PeerUrlForbidden):
        client(loopback=True, private=True).check_url("http://node.example")

    assert client(http=True).check_url("http://node.example") == "http://node.example"


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://node.example/manifest?x=1", True),
        ("https://NODE.example:443/manifest", True),
        ("https://node.example:8443/manifest", False),
        ("http://node.example/manifest", False),
        ("https://node.example.evil.example/", False),
        ("https://node.example@evil.example/", False),
        ("/manifest", False),
    ],
)
def test_same_origin_means_scheme_host_and_port(url, is_same):
    assert client().same_origin(url, "https://node.example") is is_same


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[tuple[str, PeerClient]]:
    """A peer on loopback with this handler, and a client that may go there."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with started(loopback=True) as peers:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", peers
    finally:
        await runner.cleanup()


def answering(body: bytes = b"{}", status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, headers={"Content-Type": "application/json", **named})

    return handler


async def echo(request: web.Request) -> web.Response:
    seen = {
        "method": request.method,
        "path": request.path_qs,
        "token": request.headers.get("Authorization"),
        "encoding": request.headers.get("Accept-Encoding"),
        "cookie": request.headers.get("Cookie"),
        "body": (await request.read()).decode(),
    }
    answer = web.json_response(seen)
    answer.set_cookie("session", "1")
    return answer


async def test_a_get_carries_token_and_parameters_and_asks_for_no_compression():
    async with served(echo) as (url, peers):
        raw = await peers.get_json(f"{url}/v1/facts", token="t-1", params={"cursor": "a/b&c"}, peer=SOMEBODY)

    assert b'"path": "/v1/facts?cursor=a/b%26c"' in raw
    assert b'"token": "Bearer t-1"' in raw
    assert b'"encoding": "identity"' in raw


async def test_a_post_carries_its_body():
    async with served(echo) as (url, peers):
        assert b'"body": "{\\"a\\":1}"' in await peers.post_json(f"{url}/v1/x", b'{"a":1}', peer=SOMEBODY)


async def test_cookies_are_not_kept():
    async with served(echo) as (url, peers):
        await peers.get_json(url, peer=SOMEBODY)
        assert b'"cookie": null' in await peers.get_json(url, peer=SOMEBODY)


async def test_an_answer_of_just_the_limit_is_taken_and_one_byte_more_is_not():
    async with served(answering(b"x" * 1000)) as (url, peers):
        assert await peers.get_json(url, max_bytes=1000, peer=SOMEBODY) == b"x" * 1000
        with pytest.raises(PeerAnswerInvalid):
            await peers.get_json(url, max_bytes=999, peer=SOMEBODY)


async def test_an_endless_answer_is_cut_off_at_the_limit():
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        while True:
            await answer.write(b" " * 10_000)

    async with served(endless) as (url, peers):
        with pytest.raises(PeerAnswerInvalid):
            await peers.get_json(url, max_bytes=100_000, peer=SOMEBODY)


@pytest.mark.parametrize("status", [200, 400])
async def test_a_slow_answer_ends_at_the_timeout(status):
    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        while True:
            await answer.write(b" ")
            await asyncio.sleep(0.02)

    async with served(slow) as (url, peers):
        with pytest.raises(PeerUnreachable, match=r"within 0\.2 s"):
            await peers.get_json(url, timeout_s=0.2, peer=SOMEBODY)


async def test_a_compressed_answer_is_refused_unread():
    async with served(answering(gzip.compress(b"{}"), Content_Encoding="gzip")) as (url, peers):
        with pytest.raises(PeerAnswerInvalid):
            await peers.get_json(url, peer=SOMEBODY)


async def test_an_answer_that_is_not_json_is_refused():
    async with served(answering(b"<html>", Content_Type="text/html")) as (url, peers):
        with pytest.raises(PeerAnswerInvalid):
            await peers.get_json(url, peer=SOMEBODY)


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:1/", "https://127.0.0.1/", "http://localhost/", "http://169.254.169.254/", "//evil.example", ""],
    ids=["port", "scheme", "host", "link_local", "no_scheme", "none"],
)
async def test_a_redirect_to_another_origin_is_not_followed(location):
    async with served(answering(status=302, Location=location)) as (url, peers):
        with pytest.raises(PeerAnswerInvalid):
            await peers.get_json(url, token="t-1", peer=SOMEBODY)


def redirecting(hops: int) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        hop = int(request.path.strip("/") or 0)
        if hop == hops:
            return web.json_response({"hop": hop})
        return web.Response(status=307, headers={"Location": f"/{hop + 1}"})

    return handler


async def test_three_redirects_within_the_origin_are_followed_and_a_fourth_is_not():
    async with served(redirecting(3)) as (url, peers):
        assert await peers.get_json(url, peer=SOMEBODY) == b'{"hop": 3}'
    async with served(redirecting(4)) as (url, peers):
        with pytest.raises(PeerAnswerInvalid):
            await peers.get_json(url, peer=SOMEBODY)


async def test_a_post_is_never_redirected():
    async with served(redirecting(1)) as (url, peers):
        with pytest.raises(PeerAnswerInvalid):
            await peers.post_json(url, b"{}", peer=SOMEBODY)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":"nonce_already_seen","detail":"x"}', "nonce_already_seen"),
        (b'{"detail":"peer already registered"}', "peer already registered"),
        (b'{"detail":[{"loc":1}]}', ""),
        (b"<html>", ""),
        (b"[" * 16_000, ""),
        (b'{"error":"a\\u0000b\\u001b[31m\\u202ec"}', "ab[31mc"),
        (b'{"error":"%b"}' % (b"x" * 1000), "x" * 200),
    ],
    ids=["ours", "theirs", "list", "html", "nested", "control_characters", "long"],
)
async def test_a_refusal_carries_status_and_the_peers_code_as_harmless_text(body, code):
    async with served(answering(body, status=401)) as (url, peers):
        with pytest.raises(PeerRefused) as refused:
            await peers.get_json(url, peer=SOMEBODY)

    assert (refused.value.status, refused.value.code) == (401, code)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_peer_that_is_busy_or_broken_is_unreachable(status):
    async with served(answering(b'{"error":"overloaded"}', status=status, Retry_After="7")) as (url, peers):
        with pytest.raises(PeerUnreachable) as refused:
            await peers.get_json(url, peer=SOMEBODY)

    assert refused.value.detail == f"answered {status} overloaded"
    assert refused.value.data == {"retry_after_s": 7}


async def test_the_wait_may_stand_in_the_body_and_a_date_is_no_wait():
    for body in (b'{"retry_after":3}', b'{"error":"relay_lag_exceeded","retry_after_s":3}'):
        async with served(answering(body, status=429)) as (url, peers):
            with pytest.raises(PeerUnreachable) as refused:
                await peers.get_json(url, peer=SOMEBODY)
        assert refused.value.data == {"retry_after_s": 3}

    async with served(answering(status=503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")) as (url, peers):
        with pytest.raises(PeerUnreachable) as refused:
            await peers.get_json(url, peer=SOMEBODY)
    assert refused.value.data == {}


async def test_nobody_listening_is_unreachable(unused_tcp_port):
    async with started(loopback=True) as peers:
        with pytest.raises(PeerUnreachable, match="no connection"):
            await peers.get_json(f"http://127.0.0.1:{unused_tcp_port}", peer=SOMEBODY)


@asynccontextmanager
async def raw_peer(answer: bytes) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", PeerUnreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}", PeerUnreachable),
        (b"SSH-2.0-x\r\n\r\n", PeerAnswerInvalid),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n{}", PeerAnswerInvalid),
    ],
    ids=["closes", "ends_early", "no_http", "long_header"],
)
async def test_a_broken_answer_has_a_name(answer, error):
    async with raw_peer(answer) as url, started(loopback=True) as peers:
        with pytest.raises(error):
            await peers.get_json(url, peer=SOMEBODY)


async def test_a_name_is_refused_on_connecting_by_what_it_resolves_to():
    resolver = CheckedResolver(client(private=True, http=True), ThreadedResolver())

    with pytest.raises(PeerUrlForbidden):
        await resolver.resolve("localhost", 80)
    await resolver.close()


async def test_a_name_that_resolves_to_an_allowed_address_is_connected_to():
    async with served(answering(b'{"a":1}')) as (url, peers):
        assert await peers.get_json(url.replace("127.0.0.1", "localhost"), peer=SOMEBODY) == b'{"a":1}'


async def test_a_literal_address_is_checked_before_each_connection():
    async with served(answering()) as (url, _), started(http=True, private=True) as peers:
        with pytest.raises(PeerUrlForbidden):
            await peers.get_json(url, peer=SOMEBODY)


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:127.0.0.1", "10.1.2.3", "fe80::1"])
def test_a_resolved_address_meets_the_same_rules_as_a_literal_one(address):
    with pytest.raises(PeerUrlForbidden):
        client(http=True).check_address(ipaddress.ip_address(address))


async def test_no_token_shows_in_a_log_line_or_an_error(caplog):
    caplog.set_level(0)
    with structlog.testing.capture_logs() as lines:
        async with served(answering(b'{"error":"no"}', status=401)) as (url, peers):
            with pytest.raises(PeerRefused) as refused:
                await peers.get_json(url, token="t-secret", peer=SOMEBODY)
            with pytest.raises(PeerUnreachable) as unreachable:
                await peers.get_json("http://127.0.0.1:1", token="t-secret", peer=SOMEBODY)

    shown = f"{lines} {caplog.text} {refused.value!r} {unreachable.value!r} {peers!r}"
    assert "t-secret" not in shown
