"""What is no proper HTTP, sent to `stigmem serve` over real sockets: requests that two readers would take apart each in its way.

Always: nothing of it is a 5xx or a traceback; each line that is logged is one JSON object; the log stays as it was, but for what a
sound request in odd clothes asks for; and the node answers the next one.
"""

import json
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.scenarios.nodes import ADMIN_KEY, RunningNode
from tests.spoilt import with_other_bytes

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
PATIENCE_S = 2.0
# What means something in HTTP.
ODD_BYTES = (b"\r\n", b"\x00", b"\xff", b"\r", b" ", b":", b"HTTP/1.1", b"%")
FACT = json.dumps(
    {
        "entity": "stigmem://org-a.example/project/apollo",
        "relation": "memory:status",
        "value": {"type": "string", "v": "green"},
        "source": "agent:scribe",
    }
).encode()
HOST, JSON = "Host: localhost", "Content-Type: application/json"
BEARER = f"Authorization: Bearer {ADMIN_KEY}"
CHUNKED, LENGTH = "Transfer-Encoding: chunked", f"Content-Length: {len(FACT)}"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(FACT), FACT)
HIDDEN = b"POST /v1/facts HTTP/1.1\r\n" + "\r\n".join((HOST, BEARER, JSON, LENGTH, "", "")).encode() + FACT


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request by the admin, as it goes over the wire."""
    return "\r\n".join((line, *fields, BEARER, "Connection: close", "", "")).encode("latin-1") + body


def get(*fields: str, target: str = "/v1/me", version: str = "1.1") -> bytes:
    return request(f"GET {target} HTTP/{version}", HOST, *fields)


def post(*fields: str, body: bytes = FACT, version: str = "1.1") -> bytes:
    return request(f"POST /v1/facts HTTP/{version}", HOST, JSON, *fields, body=body)


# Of each: what the node answers, where None is a closed connection without a word.
FRAMING = {
    "length and chunks": (post(LENGTH, CHUNKED, body=IN_CHUNKS), 400),
    "chunks and length": (post(CHUNKED, LENGTH, body=IN_CHUNKS), 400),
    "a length twice": (post(LENGTH, LENGTH), 400),
    "two lengths": (post(LENGTH, "Content-Length: 1"), 400),
    "a list of lengths": (post(f"{LENGTH}, {len(FACT)}"), 400),
    "a length with a sign": (post(f"Content-Length: +{len(FACT)}"), 400),
    "a negative length": (post("Content-Length: -1"), 400),
    "a length in hex": (post("Content-Length: 0x10"), 400),
    "a length with an underscore": (post("Content-Length: 1_0"), 400),
    "an empty length": (post("Content-Length: "), 400),
    "a space before the colon": (post(f"Content-Length : {len(FACT)}"), 400),
    "a length beyond 64 bits": (post("Content-Length: 99999999999999999999999"), 400),
    "a length of 2^63": (post("Content-Length: 9223372036854775808"), 413),
    "chunked twice": (post(CHUNKED, CHUNKED, body=IN_CHUNKS), 400),
    "identity": (post("Transfer-Encoding: identity"), 400),
    "xchunked": (post("Transfer-Encoding: xchunked", body=IN_CHUNKS), 400),
    "chunked behind a control": (post("Transfer-Encoding: \x0bchunked", body=IN_CHUNKS), 400),
    "chunked and then packed": (post("Transfer-Encoding: chunked, gzip", body=IN_CHUNKS), 400),
    "packed and then chunked": (post("Transfer-Encoding: gzip, chunked", body=IN_CHUNKS), 415),
    "chunks in HTTP/1.0": (post(CHUNKED, body=IN_CHUNKS, version="1.0"), 415),
    "a folded coding": (post("Transfer-Encoding:\r\n chunked", body=IN_CHUNKS), 400),
    "a negative chunk": (post(CHUNKED, body=b"-1\r\n"), 400),
    "a chunk beyond 64 bits": (post(CHUNKED, body=b"f" * 18 + b"\r\n"), 400),
    "a chunk that says 0x": (post(CHUNKED, body=b"0x10\r\n"), 400),
    "chunks ended by line feeds": (post(CHUNKED, body=IN_CHUNKS.replace(b"\r", b"")), 400),
    "a chunk extension with a line feed": (post(CHUNKED, body=IN_CHUNKS.replace(b"\r\n", b";\n", 1)), 400),
    "ten thousand trailers": (post(CHUNKED, body=IN_CHUNKS[:-2] + b"X: y\r\n" * 10_000 + b"\r\n"), 400),
    "a body behind GET": (get(f"Content-Length: {len(HIDDEN)}", target="/v1/facts") + HIDDEN, 200),
    "a request behind the last": (get() + HIDDEN, 400),
}
HEADERS = {
    "a folded field": (get("X-A: b\r\n c"), 400),
    "a first field that is folded": (request("GET /v1/me HTTP/1.1", " Host: localhost"), 400),
    "a line feed in a field": (get("X-A: b\nX-B: c"), 400),
    "a carriage return in a field": (get("X-A: b\rX-B: c"), 400),
    "line feeds alone": (get().replace(b"\r", b""), 400),
    "a zero in a value": (get("X-A: b\x00c"), 400),
    "a zero in a name": (get("X\x00A: b"), 400),
    "a field without a colon": (get("XA"), 400),
    "a field without a name": (get(": x"), 400),
    "a space in a name": (get("X A: b"), 400),
    "ten thousand fields": (get(*(f"X-{number}: y" for number in range(10_000))), 400),
    "a field of 20,000 bytes": (get("X-A: " + "y" * 20_000), 400),
    "no host": (request("GET /v1/me HTTP/1.1"), 400),
    "two hosts": (get("Host: evil.example"), 400),
    "two types": (post(JSON, LENGTH), 400),
    "a control in a credential": (get("X-Stigmem-Capability: \x01"), 400),
    "letters of Latin-1 in a credential": (get("X-Stigmem-Capability: \xff\xfe"), 200),
    "an endless trace": (get("traceparent: " + "0" * 9000), 200),
    "an offer of a websocket": (get("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 200),
    "an offer of HTTP/2": (get("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), 200),
    "an expectation that nobody knows": (get("Expect: 200-maybe"), 200),
    "a packed body": (post(LENGTH, "Content-Encoding: gzip"), 415),
    "a body packed twice": (post(LENGTH, "Content-Encoding: gzip, br"), 415),
}
LINES = {
    "a line of 100,000 bytes": (get(target="/" + "x" * 100_000), 400),
    "HTTP/0.9": (b"GET /v1/me\r\n\r\n", 401),
    "HTTP/1.2": (get(version="1.2"), 400),
    "HTTP/9.9": (get(version="9.9"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "an absolute target": (get(target="http://localhost/v1/me"), 200),
    "an absolute target without a path": (get(target="http://localhost"), 404),
    "a port that is none": (get(target="http://localhost:99999/v1/me"), 422),
    "an address that is none": (get(target="http://[::1/v1/me"), 422),
    "a file": (get(target="file:///etc/passwd"), 422),
    "an authority": (get(target="localhost:80"), 422),
    "an asterisk": (get(target="*"), 422),
    "two slashes": (get(target="//evil.example/v1/me"), 404),
    "an empty target": (get(target=""), 422),
    "a space in the target": (get(target="/v1/me x"), 400),
    "a zero in the target": (get(target="/v1/\x00"), 422),
    "bytes beyond ASCII": (get(target="/v1/f\xe4cts"), 422),
    "a path that climbs": (get(target="/docs/../../../etc/passwd"), 404),
    "a path that climbs by escapes": (get(target="/docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404),
    "an escape that is none": (get(target="/v1/facts/%zz"), 404),
    "escapes of no UTF-8": (get(target="/v1/facts/%ff%fe"), 404),
    "an escape of a surrogate": (get(target="/v1/facts/%ed%a0%80"), 404),
    "an escape of a zero": (get(target="/v1/facts/%00"), 404),
    "CONNECT": (request("CONNECT localhost:80 HTTP/1.1", HOST), 404),
    "TRACE": (request("TRACE /v1/me HTTP/1.1", HOST), 405),
    "OPTIONS of all": (request("OPTIONS * HTTP/1.1", HOST), 404),
    "a method that nobody knows": (request("BREW /v1/me HTTP/1.1", HOST), 405),
    "a method of 5,000 letters": (request("G" * 5000 + " /v1/me HTTP/1.1", HOST), 405),
}
RUBBISH = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500, 400),
    "SOCKS": (b"\x05\x01\x00", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
    "the PROXY protocol": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(), 400),
    "zeros": (b"\x00" * 5000, 400),
    "nothing but line ends": (b"\r\n" * 50_000, 400),
}
MULTIPART = request("POST /v1/facts HTTP/1.1", HOST, "Content-Type: multipart/form-data; boundary=x", LENGTH, body=FACT)
SHAPES = FRAMING | HEADERS | LINES | RUBBISH | {"a form of parts": (MULTIPART, 415)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path_factory.mktemp("hostile"), ENTITY_URI="stigmem://org-a.example")
    try:
        yield running.start()
        running.stop()
    finally:
        running.kill()


@contextmanager
def unharmed(node: RunningNode) -> Iterator[None]:
    """Behind it: nothing is stored, nothing but JSON is logged, no traceback in it, and the node answers."""
    size, logged = node.log_size(), node.errors.stat().st_size
    yield
    assert node.log_size() == size
    for line in node.errors.read_bytes()[logged:].splitlines():
        said = json.loads(line)
        assert said["level"] == "info" and "exception" not in said, said


def exchange(node: RunningNode, sent: bytes, *, patience_s: float = PATIENCE_S) -> bytes:
    """All that is answered until the node closes, or waits for more."""
    answered = b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=patience_s) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(1 << 16):
                answered += part
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            return answered
    return answered


def statuses(answered: bytes) -> list[int]:
    return [int(line.split()[1]) for line in answered.split(b"\r\n") if line.startswith(b"HTTP/")]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_odd_request_gets_one_answer_and_hides_no_other(node: RunningNode, shape: str):
    sent, status = SHAPES[shape]

    with unharmed(node):
        answered = exchange(node, sent)

    assert statuses(answered) == [status]
    head, _, body = answered.partition(b"\r\n\r\n")
    assert b"x-content-type-options: nosniff" in head.lower()
    assert status < 400 or body == b"" or json.loads(body)["error"]


def test_a_fact_in_chunks_with_extensions_and_trailers_is_still_one_fact(node: RunningNode):
    dressed = IN_CHUNKS.replace(b"\r\n", b";name=value\r\n", 1)[:-2] + b"Authorization: Bearer x\r\n\r\n"
    size = node.log_size()

    assert statuses(exchange(node, post(CHUNKED, "Expect: 100-continue", body=dressed))) == [100, 201]

    assert node.log_size() == size + 1


def test_whatever_bytes_come_are_answered_or_closed(node: RunningNode):
    """Sound requests with a few bytes changed, cut out or put in between."""
    chance = random.Random(20260504)
    sound = [sent for sent, _ in SHAPES.values() if len(sent) < 4096 and b"/v1/facts" not in sent]

    with unharmed(node):
        for _ in range(3000 if LONG else 60):
            spoilt = with_other_bytes(chance.choice(sound), chance, ODD_BYTES, longest=30)
            answered = exchange(node, spoilt, patience_s=0.2)
            assert all(status < 500 for status in statuses(answered)), answered


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("/v1/me", "localhost", 200),
        ("/v1/me", "LOCALHOST:1", 200),
        ("/v1/me", "[::1]", 200),
        ("/v1/me", "evil.example", 421),
        ("/v1/me", "localhost.evil.example", 421),
        ("/v1/me", "localhost@evil.example", 421),
        ("/v1/me", "127.0.0.1.evil.example", 421),
        ("/v1/me", "", 421),
        ("/v1/me", "[::1].evil.example", 421),
        ("http://evil.example/v1/me", "localhost", 421),
        ("http://localhost@evil.example/v1/me", "localhost", 421),
        ("http://localhost/v1/me", "localhost", 200),
    ],
)
def test_an_open_node_answers_to_no_name_but_its_own_wherever_it_stands(open_node, target: str, host: str, status: int):
    sent = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()

    assert statuses(exchange(open_node, sent)) == [status]


@pytest.fixture(scope="module")
def open_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path_factory.mktemp("open"), AUTH_REQUIRED="false", ENTITY_URI="stigmem://org-a.example")
    try:
        yield running.start()
    finally:
        running.kill()
