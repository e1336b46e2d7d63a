"""Outgoing HTTP to peers: where we may connect, how much we take, and for how long.

Always (PROTOCOL §5.1): every address is checked when the URL is registered and again for each connection, on the very
addresses that are then connected to; a name that resolves to something else later (DNS rebinding) leads nowhere.
An answer is capped while it streams and is never inflated. No proxy from the environment, no cookies.
What is asked is asked of somebody: at https, nothing is sent before the certificate is the peer's own (see node/tls.py).
A token goes to the origin it was given for and to no log line.

Does not check: what an answer says (see node/sync.py). Who may be a peer at all is decided in node/commands/peers.py.
"""

import asyncio
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from node.config import Config, is_loopback_host
from node.errors import PeerAnswerInvalid, PeerFailed, PeerTlsRefused, PeerUnreachable, PeerUrlForbidden
from node.tls import Tls, TlsFileError, TlsPeer, words_for

DOCUMENT_BYTES = 1 << 20
TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
REFUSAL_BYTES = 1 << 14
REFUSAL_CHARS = 200
_JSON = "application/json"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TellOfRefusal = Callable[[str, PeerTlsRefused], Awaitable[None]]


class PeerRefused(Exception):
    """The peer answered, and said no. `code` is the peer's word: data to show or compare, nothing to trust."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


class PeerClient:
    """`resolver` turns names into addresses, unchecked; the system's where none is given.

    `tell` hears of each peer with which no TLS comes about, by its node_id: once, until there is TLS with it or another reason.
    """

    def __init__(
        self,
        *,
        allow_loopback: bool,
        allow_private: bool,
        allow_insecure_http: bool,
        resolver: AbstractResolver | None = None,
        tls: Tls | None = None,
        tell: TellOfRefusal | None = None,
    ) -> None:
        self._resolver = resolver
        self._tls = tls or Tls(Config())
        self._tell = tell
        self._told: dict[str, str] = {}
        self._allow_loopback = allow_loopback
        self._allow_private = allow_private
        self._allow_insecure_http = allow_insecure_http
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            # The cache would hand out addresses that were checked for another moment.
            connector=aiohttp.TCPConnector(
                resolver=CheckedResolver(self, self._resolver or aiohttp.ThreadedResolver()), use_dns_cache=False
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check_url(self, url: str) -> str:
        """The base URL in its one spelling, without a trailing slash. A name is resolved on connecting, not here."""
        parts = _split(url)
        if parts.query or parts.fragment:
            raise PeerUrlForbidden("a query or a fragment")
        return self._normal(url).rstrip("/")

    def same_origin(self, url: str, base: str) -> bool:
        """Whether both name the same scheme, host and port. What is no URL has no origin."""
        try:
            return _origin(_split(url)) == _origin(_split(base))
        except PeerUrlForbidden:
            return False

    async def get_json(
        self,
        url: str,
        *,
        peer: TlsPeer,
        token: str | None = None,
        params: dict[str, str] | None = None,
        max_bytes: int = DOCUMENT_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        target = URL(self._normal(url), encoded=True).update_query(params or {})
        return await self._exchange(
            "GET", target, None, peer=peer, token=token, max_bytes=max_bytes, timeout_s=timeout_s
        )

    async def get_text(self, url: str, *, peer: TlsPeer, max_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
        """A document that is text, such as a signed note."""
        target = URL(self._normal(url), encoded=True)
        return await self._exchange(
            "GET", target, None, peer=peer, token=None, max_bytes=max_bytes, timeout_s=timeout_s, media="text/plain"
        )

    async def post_json(
        self,
        url: str,
        body: bytes,
        *,
        peer: TlsPeer,
        token: str | None = None,
        max_bytes: int = DOCUMENT_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        target = URL(self._normal(url), encoded=True)
        return await self._exchange(
            "POST", target, body, peer=peer, token=token, max_bytes=max_bytes, timeout_s=timeout_s
        )

    def check_address(self, address: Address) -> None:
        """Refuse an address at which no peer may live; what is wrapped in an IPv6 address counts as itself."""
        inner = _unwrapped(address)
        if inner.is_loopback:
            if not self._allow_loopback:
                raise PeerUrlForbidden("a loopback address")
        elif _is_never_a_peer(inner):
            raise PeerUrlForbidden("a link-local, multicast, unspecified or reserved address")
        elif not inner.is_global and not self._allow_private:
            raise PeerUrlForbidden("a private address")

    def _normal(self, url: str) -> str:
        """Everything about a URL that can be checked without resolving its name."""
        parts = _split(url)
        scheme, host, port = _origin(parts)
        address = _literal(host)
        if address is not None:
            self.check_address(address)
        is_loopback = is_loopback_host(host) if address is None else _unwrapped(address).is_loopback
        if is_loopback and not self._allow_loopback:
            raise PeerUrlForbidden("a loopback address")
        if scheme == "http" and not is_loopback and not self._allow_insecure_http:
            raise PeerUrlForbidden("plain http beyond loopback")
        shown_host = f"[{host}]" if ":" in host else host
        shown_port = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
        shown_query = f"?{parts.query}" if parts.query else ""
        return f"{scheme}://{shown_host}{shown_port}{parts.path}{shown_query}"

    async def _exchange(
        self,
        method: str,
        target: URL,
        body: bytes | None,
        *,
        peer: TlsPeer,
        token: str | None,
        max_bytes: int,
        timeout_s: float,
        media: str = _JSON,
    ) -> bytes:
        headers = {"Accept": media} | ({"Content-Type": _JSON} if body is not None else {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(method, target, body, headers, max_bytes, peer)
        except TimeoutError:
            raise PeerUnreachable(f"no whole answer within {timeout_s:g} s") from None
        except aiohttp.ClientResponseError:
            raise PeerAnswerInvalid("the answer is no HTTP") from None
        except (aiohttp.ClientError, OSError) as error:
            if target.scheme == "https" and (why := _why_no_tls(error)) is not None:
                refusal = PeerTlsRefused(f"no TLS: {why}")
                await self._tell_of(peer.node_id, refusal)
                raise refusal from None
            raise PeerUnreachable(_words_for(error)) from None
        except TlsFileError as error:
            raise PeerUnreachable(str(error)) from error

    async def _tell_of(self, node_id: str, refusal: PeerTlsRefused) -> None:
        if self._tell is not None and self._told.get(node_id) != refusal.detail:
            self._told[node_id] = refusal.detail
            await self._tell(node_id, refusal)

    async def _follow(
        self, method: str, target: URL, body: bytes | None, headers: dict[str, str], max_bytes: int, peer: TlsPeer
    ) -> bytes:
        """aiohttp's own redirects would carry the request to another port of the same host."""
        if self._session is None:
            raise RuntimeError("the client is not started")
        # It is part of what aiohttp keeps a connection under, so no other peer of the same host gets this one's.
        context = self._tls.towards(peer) if target.scheme == "https" else True
        for _ in range(MAX_REDIRECTS + 1):
            request = self._session.request(
                method, target, data=body, headers=headers, allow_redirects=False, ssl=context
            )
            async with request as response:
                self._told.pop(peer.node_id, None)
                if response.status not in _REDIRECTS:
                    return await _taken(response, max_bytes, headers["Accept"])
                target = self._redirected(method, target, response.headers.get("Location", ""))
        raise PeerAnswerInvalid(f"more than {MAX_REDIRECTS} redirects")

    def _redirected(self, method: str, target: URL, location: str) -> URL:
        try:
            there = target.join(URL(location)).with_fragment(None)
        except ValueError:
            raise PeerAnswerInvalid("a redirect to no URL") from None
        if method != "GET" or not location or not self.same_origin(str(there), str(target)):
            raise PeerAnswerInvalid("a redirect that is not followed: only GET, only within its origin")
        return URL(self._normal(str(there)), encoded=True)


class CheckedResolver(AbstractResolver):
    """Resolves a name and refuses it whole if one of its addresses is refused: the next try might pick that one."""

    def __init__(self, client: PeerClient, resolver: AbstractResolver) -> None:
        self._client = client
        self._unchecked = resolver

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        found = await self._unchecked.resolve(host, port, family)
        for result in found:
            address = ipaddress.ip_address(result["host"].partition("%")[0])
            self._client.check_address(address)
            # Plain http was allowed for this name because it means this machine.
            if is_loopback_host(host) and not address.is_loopback:
                raise PeerUrlForbidden("a loopback name that leads elsewhere")
        return found

    async def close(self) -> None:
        await self._unchecked.close()


_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A name that ends in a number is no name: some resolvers would take what is left for an address.
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*(?!(?:0x[0-9a-f]*|[0-9]+)$)[a-z0-9_-]+")
# What inet_aton takes beside four decimal numbers: fewer parts, octal, hexadecimal.
_OLD_IPV4 = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


def _split(url: str) -> SplitResult:
    # urlsplit drops tabs and line breaks without a word, and clients disagree on what a backslash is.
    if not re.fullmatch(r"[!-\[\]-~]{1,2048}", url):
        raise PeerUrlForbidden("not a URL in plain ASCII")
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        raise PeerUrlForbidden("not a URL") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not has_port:
        raise PeerUrlForbidden("not an http or https URL")
    if "@" in parts.netloc:
        raise PeerUrlForbidden("credentials in the URL")
    if _DOT_SEGMENT.search(parts.path):
        raise PeerUrlForbidden("dot segments in the path")
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    host = (parts.hostname or "").removesuffix(".")
    address = _literal(host)
    if address is not None:
        host = str(address)
    elif not _NAME.fullmatch(host):
        raise PeerUrlForbidden("not a host name")
    return parts.scheme, host, parts.port or _DEFAULT_PORTS[parts.scheme]


def _literal(host: str) -> Address | None:
    """The address that a host is, in any spelling that a system's resolver would take for one."""
    try:
        if ":" in host:
            return ipaddress.IPv6Address(host)
        if _OLD_IPV4.fullmatch(host):
            return ipaddress.IPv4Address(socket.inet_aton(host))
    except (ValueError, OSError):
        raise PeerUrlForbidden("not an address") from None
    return None


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that a gateway or the system would make of an IPv6 one; otherwise the address."""
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback or address.is_unspecified:
        return address
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_never_a_peer(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        is_special = address in _THIS_NETWORK
    else:
        # Teredo hides an address behind a relay; a zone makes the same address another place.
        is_special = address.is_site_local or address.teredo is not None or address.scope_id is not None
    return is_special or address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved


async def _taken(response: aiohttp.ClientResponse, max_bytes: int, media: str) -> bytes:
    is_plain = response.headers.get("Content-Encoding", "identity").strip().lower() == "identity"
    if not 200 <= response.status < 300:
        raise await _refusal(response, is_plain=is_plain)
    if not is_plain:
        raise PeerAnswerInvalid("a compressed answer")
    is_json = response.content_type == _JSON or response.content_type.endswith("+json")
    if not (is_json if media == _JSON else response.content_type == media):
        raise PeerAnswerInvalid("an answer that is not JSON" if media == _JSON else f"an answer that is not {media}")
    raw = await _read(response, max_bytes + 1)
    if len(raw) > max_bytes:
        raise PeerAnswerInvalid(f"an answer of more than {max_bytes} bytes")
    return raw


async def _read(response: aiohttp.ClientResponse, enough: int) -> bytes:
    """Stops as soon as there is enough, however much is said to come."""
    raw = bytearray()
    while len(raw) < enough and (part := await response.content.readany()):
        raw += part
    return bytes(raw)


async def _refusal(response: aiohttp.ClientResponse, *, is_plain: bool) -> Exception:
    said = _members(await _read(response, REFUSAL_BYTES)) if is_plain else {}
    words = (said[name] for name in ("error", "detail") if isinstance(said.get(name), str))
    code = "".join(char for char in next(words, "") if char.isprintable())[:REFUSAL_CHARS]
    if response.status != 429 and response.status < 500:
        return PeerRefused(response.status, code)
    data = {"retry_after_s": wait_s} if (wait_s := _retry_after_s(response, said)) is not None else {}
    return PeerFailed(f"answered {response.status} {code}".strip(), **data)


def _members(raw: bytes) -> dict[str, object]:
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _retry_after_s(response: aiohttp.ClientResponse, said: dict[str, object]) -> int | None:
    # PROTOCOL §5.6 and §13 name the member differently.
    in_body = said.get("retry_after_s", said.get("retry_after", ""))
    text = str(response.headers.get("Retry-After", in_body))
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _words_for(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its name does not resolve"
        case aiohttp.ClientConnectorError():
            return "no connection"
        case _:
            return "the connection broke"


def _why_no_tls(error: aiohttp.ClientError | OSError) -> str | None:
    """Why a handshake came to nothing, or what was said of our certificate right behind it; None for trouble of another kind."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLError() as said):
            return words_for(said)
        case aiohttp.ClientConnectorError(os_error=ssl.SSLError() as said):
            return words_for(said)
        case aiohttp.ClientConnectorError(os_error=ConnectionResetError() | ConnectionAbortedError()):
            # There was a connection, and not every server says why it does not go on.
            return "the other side breaks off the handshake, as one does that does not speak TLS 1.3"
        case aiohttp.ClientOSError(__cause__=ssl.SSLError() as said) | (ssl.SSLError() as said):
            return words_for(said)
        case _:
            return None
