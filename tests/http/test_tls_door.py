"""The door that speaks TLS, on real sockets: who gets in, who is turned away, and who says nothing."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog
import uvloop
from aiohttp import ClientSession, web

from node.config import Config
from node.http.connections import GuardedRunner
from node.http.tls_door import TlsSite
from node.tls import Tls, TlsFileError, words_for
from tests.certificates import Authority, CertificateFiles

NODE_ID = "stigmem://org-a.example"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


# The mark is of one version of pytest-asyncio, the fixture of all; and old TLS is what is refused here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning"),
]


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request):
    """A node runs on uvloop, a test on asyncio: they have different TLS."""
    return request.param()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> CertificateFiles:
    return authority.issue("node", NODE_ID)


def settings(own: CertificateFiles, **others: Path) -> Config:
    paths = {name: str(path) for name, path in others.items()}
    return Config(tls_cert_file=str(own.certificate), tls_key_file=str(own.key), **paths)


@asynccontextmanager
async def serving(config: Config, **limits: float) -> AsyncIterator[tuple[int, TlsSite, Tls]]:
    async def hello(request: web.Request) -> web.Response:
        shown = request.protocol.certificate
        return web.Response(text=" ".join(shown.uris) if shown else f"hello {(await request.read()).decode()}")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", hello)
    runner, tls = GuardedRunner(app), Tls.opened(config)
    await runner.setup()
    site = TlsSite(runner, tls, "127.0.0.1", 0, **limits)
    await site.start()
    try:
        yield site.port, site, tls
    finally:
        await runner.cleanup()


def trusting(authority: Authority, shown: CertificateFiles | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


async def said(port: int, context: ssl.SSLContext) -> bytes:
    """What the door answers to one request; ssl.SSLError where there is no handshake."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        try:
            writer.write(REQUEST)
            return await reader.read()
        finally:
            writer.close()


async def test_a_request_in_the_very_flight_that_ends_the_handshake_is_answered(authority, own):
    async with serving(settings(own)) as (port, *_):
        assert [(await said(port, trusting(authority))).endswith(b"hello ") for _ in range(20)] == [True] * 20


async def test_a_connection_is_kept_and_bodies_pass_whole(authority, own):
    async with serving(settings(own)) as (port, *_), ClientSession() as session:
        for body in (b"a", b"b" * 1_000_000):
            url = f"https://localhost:{port}/"
            async with session.post(url, data=body, ssl=trusting(authority)) as answer:
                assert await answer.read() == b"hello " + body


@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2"])
async def test_what_is_older_than_tls_1_3_is_refused_with_one_log_line(authority, own, version):
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]

    async with serving(settings(own)) as (port, site, *_):
        with structlog.testing.capture_logs() as logs, pytest.raises(ssl.SSLError):
            await said(port, context)
        assert site.refused == 1

    assert [(line["event"], line["cause"]) for line in logs] == [
        ("tls_refused", "the other side does not speak TLS 1.3")
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
async def test_openssl_too_gets_tls_1_3_and_nothing_older(authority, own):
    def connect(port: int, version: str) -> str:
        command = ["openssl", "s_client", "-connect", f"localhost:{port}", "-CAfile", authority.certificate, version]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=10, check=False)
        return done.stdout.decode()

    async with serving(settings(own)) as (port, *_):
        new = await asyncio.to_thread(connect, port, "-tls1_3")
        old = await asyncio.to_thread(connect, port, "-tls1_2")

    assert "Verification: OK" in new and "TLSv1.3" in new
    assert "Cipher is (NONE)" in old


async def test_what_is_no_tls_is_refused_and_nothing_of_it_is_logged(own):
    async with serving(settings(own)) as (port, site, *_):
        with structlog.testing.capture_logs() as logs:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /?secret HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionError):
                while await reader.read(100):
                    pass
                raise ConnectionResetError
            writer.close()
        assert site.refused == 1

    assert "secret" not in str(logs) and [line["remote"] for line in logs] == ["127.0.0.1"]


async def test_whoever_says_nothing_is_closed_in_time(own):
    async with serving(settings(own), handshake_timeout_s=0.1) as (port, site, *_):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                assert await reader.read() == b""
                raise ConnectionResetError
        assert site.refused == 1
        writer.close()


async def test_the_oldest_of_too_many_that_say_nothing_gives_way_and_others_are_served(authority, own):
    async with serving(settings(own), max_handshakes=5) as (port, *_):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        assert (await said(port, trusting(authority))).endswith(b"hello ")
        async with asyncio.timeout(5):
            for reader, _ in idle[:3]:
                with pytest.raises(ConnectionError):
                    assert await reader.read() == b""
                    raise ConnectionResetError
        for _, writer in idle:
            writer.close()


async def test_of_a_burst_that_says_nothing_no_more_than_the_limit_is_held_and_that_is_the_newest(own):
    loop = asyncio.get_running_loop()
    async with serving(settings(own), max_handshakes=3) as (port, *_):
        # Connected before the loop turns once: all are there to be accepted at the same time.
        burst = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for connection in burst:
            connection.setblocking(False)
        async with asyncio.timeout(5):
            for connection in burst[:-3]:
                with suppress(ConnectionError):
                    assert await loop.sock_recv(connection, 100) == b""
        for connection in burst[-3:]:
            with pytest.raises(BlockingIOError):
                connection.recv(100)
        for connection in burst:
            connection.close()


async def test_a_stop_does_not_wait_for_who_says_nothing(own):
    async with asyncio.timeout(5), serving(settings(own)) as (port, *_):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_a_client_may_show_a_certificate_and_need_not(authority, own):
    config = settings(own, tls_client_ca_file=authority.certificate)
    async with serving(config) as (port, *_):
        assert (await said(port, trusting(authority))).endswith(b"hello ")
        shown = authority.issue("peer", "stigmem://org-b.example")
        assert (await said(port, trusting(authority, shown))).endswith(b"stigmem://org-b.example")


async def test_a_certificate_of_one_peer_may_stand_for_its_ca(authority, own, tmp_path):
    """So a peer without a CA is let in, and a second certificate of the same name is not."""
    shown = authority.issue("peer", "stigmem://org-b.example", is_self_signed=True)
    async with serving(settings(own, tls_client_ca_file=shown.certificate)) as (port, *_):
        assert (await said(port, trusting(authority, shown))).endswith(b"stigmem://org-b.example")
        other = Authority(tmp_path / "other", "other-ca").issue("peer", "stigmem://org-b.example", is_self_signed=True)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert await said(port, trusting(authority, other)) == b""
            raise ConnectionResetError


@pytest.mark.parametrize("case", ["expired", "unknown CA", "self-signed"])
async def test_a_certificate_that_is_shown_has_to_hold(authority, own, tmp_path, case):
    issuer = Authority(tmp_path / "other", "other-ca") if case == "unknown CA" else authority
    days = -1 if case == "expired" else 1
    shown = issuer.issue("peer", "stigmem://org-b.example", days=days, is_self_signed=case == "self-signed")

    async with serving(settings(own, tls_client_ca_file=authority.certificate)) as (port, site, *_):
        with structlog.testing.capture_logs() as logs, pytest.raises((ssl.SSLError, ConnectionError)):
            # In TLS 1.3 a client learns of it only with the first answer.
            assert await said(port, trusting(authority, shown)) == b""
            raise ConnectionResetError
        assert site.refused == 1

    assert [line["cause"] for line in logs] == [
        {"expired": "certificate has expired", "self-signed": "self-signed certificate"}.get(
            case, "unable to get local issuer certificate"
        )
    ]


async def test_files_that_are_read_again_count_for_the_next_connection_and_end_the_ones_before(authority, own):
    async with serving(settings(own)) as (port, site, tls):
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting(authority))
        before = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        authority.issue("node", NODE_ID)
        tls.load()
        site.let_go()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                assert await reader.read() == b""
                raise ConnectionResetError
        _, later = await asyncio.open_connection("localhost", port, ssl=trusting(authority))
        after = later.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close(), later.close()

    assert before != after


async def test_files_that_cannot_be_read_again_leave_what_was_read_before(authority, own):
    async with serving(settings(own)) as (port, _, tls):
        own.certificate.write_text("half a certif")
        with pytest.raises(TlsFileError, match=r"^STIGMEM_TLS_CERT_FILE"):
            tls.load()
        assert (await said(port, trusting(authority))).endswith(b"hello ")


async def test_who_shows_a_bad_certificate_is_told_why(authority, own):
    """Else a peer could not tell a refused certificate from a broken network."""
    shown = authority.issue("peer", "stigmem://org-b.example", days=-1)

    async with serving(settings(own, tls_client_ca_file=authority.certificate)) as (port, *_):
        with pytest.raises(ssl.SSLError) as refused:
            await said(port, trusting(authority, shown))

    assert words_for(refused.value) == "the other side refuses this node's certificate (certificate_expired)"
