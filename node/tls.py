"""TLS: what this node shows and asks of others in a handshake, on both sides of it (PROTOCOL §13).

Always: TLS 1.3. A peer's certificate is checked before a byte of a request is sent: signed by a CA that is trusted for peers, for
the host that was asked, and with the peer's node_id as a URI in its subject alternative names; or it is one that was pinned for
this peer. Files are read at the start and on `load`, all or none: what was read stays in force where a later reading fails.
A private key that others than its owner can read is refused.

Does not decide: which routes want a client's certificate, and whether it fits who asks (see node/http/exchange.py).
"""

import ssl
import time
from pathlib import Path
from typing import Protocol, Self

from msgspec import Struct

from node.certificates import Certificate, certificate_of, first_in
from node.config import Config
from node.private_files import why_not_private

_REFUSED_OURS = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    }
)
_OTHER_VERSION = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})


class TlsFileError(Exception):
    """A certificate, key or CA file that cannot be used: one line that names its setting."""


class TlsPeer(Protocol):
    """Whom a connection is meant for: its node_id, and the fingerprints of certificates that were pinned for it."""

    @property
    def node_id(self) -> str: ...

    @property
    def tls_pins(self) -> tuple[str, ...]: ...


class _Loaded(Struct, frozen=True, kw_only=True):
    """What one reading of the files came to. `own` and `server` are None where the node speaks no TLS itself."""

    own: Certificate | None
    server: ssl.SSLContext | None
    by_ca: ssl.SSLContext
    by_pin: ssl.SSLContext


class Tls:
    """The contexts of one node, for its own door and for each peer."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loaded: _Loaded | None = None
        self._towards: dict[tuple[str, tuple[str, ...]], PeerContext] = {}

    @classmethod
    def opened(cls, config: Config) -> Self:
        """Raises TlsFileError."""
        tls = cls(config)
        # The system's CAs take as long to read as much else at start: where no file is named, the first peer at https waits.
        if tls.has_files:
            tls.load()
        return tls

    @property
    def has_files(self) -> bool:
        config = self._config
        return bool(config.tls_cert_file or config.tls_client_ca_file or config.federation_tls_ca_file)

    @property
    def own(self) -> Certificate | None:
        return self._in_force().own

    @property
    def server(self) -> ssl.SSLContext | None:
        """For who connects to this node; None where it serves plain http. Ask anew for each connection.

        An SSLError of its handshakes has what is still to be sent in `alert`.
        """
        return None if self._config.tls_cert_file is None else self._in_force().server

    def load(self) -> None:
        """Read all files again. Raises TlsFileError, and what was in force stays."""
        self._loaded = _loaded(self._config)
        self._towards = {}

    def towards(self, peer: TlsPeer) -> "PeerContext":
        """For connections to this peer. The same one until the files are read again, so that its connections are used again."""
        who = (peer.node_id, peer.tls_pins)
        context = self._towards.get(who)
        if context is None:
            loaded = self._in_force()
            context = PeerContext(ssl.PROTOCOL_TLS_CLIENT)
            context.expect(loaded.by_pin if peer.tls_pins else loaded.by_ca, peer)
            self._towards[who] = context
        return context

    def _in_force(self) -> _Loaded:
        if self._loaded is None:
            self.load()
        return self._loaded


class PeerContext(ssl.SSLContext):
    """A shared context, for handshakes with one peer: it begins them in that peer's name, and lends nothing else of its own.

    One for each peer: aiohttp uses a connection again where host, port and context are the same.
    """

    def expect(self, shared: ssl.SSLContext, peer: TlsPeer) -> None:
        self._shared, self._peer = shared, peer

    def wrap_bio(self, *arguments: object, **options: object) -> ssl.SSLObject:
        begun = self._shared.wrap_bio(*arguments, **options)
        begun.expected = self._peer
        return begun


class _PeerHandshake(ssl.SSLObject):
    """A handshake that ends only once the other side is who was meant: before that nothing is sent."""

    expected: TlsPeer

    def do_handshake(self) -> None:
        super().do_handshake()
        shown = certificate_in(self)
        fault = "it shows no certificate" if shown is None else fault_in(shown, self.expected)
        if fault is not None:
            raise ssl.SSLCertVerificationError(1, fault)


class _DoorContext(ssl.SSLContext):
    """The context of this node's door: its handshakes keep hold of what they are about to send."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *others: object, **options: object):
        begun = super().wrap_bio(incoming, outgoing, *others, **options)
        begun.outgoing = outgoing
        return begun


class _DoorHandshake(ssl.SSLObject):
    """A handshake whose failure carries the alert that says why: event loops drop it, and the other side would know nothing."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.alert = self.outgoing.read()
            raise


def certificate_in(connection: ssl.SSLObject) -> Certificate | None:
    """What the other side showed, None for nothing. Raises SSLCertVerificationError where that cannot be read."""
    der = connection.getpeercert(binary_form=True)
    if der is None:
        return None
    try:
        return certificate_of(der)
    except ValueError as error:
        raise ssl.SSLCertVerificationError(1, "its certificate cannot be read") from error


def fault_in(shown: Certificate, peer: TlsPeer) -> str | None:
    """Why a certificate does not speak for this peer, in words; None where it does. Signatures and host are OpenSSL's to check."""
    # By the machine's clock, as OpenSSL goes; a connection outlives a date, and of a pinned certificate OpenSSL looks at none.
    if not shown.is_valid_at(time.time_ns() // 1_000_000):
        return "its certificate has expired, or is not valid yet"
    if peer.tls_pins:
        return None if shown.fingerprint in peer.tls_pins else "its certificate is none of those that were pinned"
    return (
        None
        if peer.node_id in shown.uris
        else f"its certificate is not for {peer.node_id}: no such URI among its names"
    )


def words_for(error: ssl.SSLError) -> str:
    """Why a handshake failed, in words that hold nothing of what the other side sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", "") or str(error.args[-1])
    reason = error.reason or "broken off"
    if reason in _REFUSED_OURS:
        return f"the other side refuses this node's certificate ({reason.partition('_ALERT_')[2].lower()})"
    if reason in _OTHER_VERSION:
        return "the other side does not speak TLS 1.3"
    if reason in _NO_TLS:
        return "the other side does not speak TLS"
    return reason.lower().replace("_", " ")


def _loaded(config: Config) -> _Loaded:
    own = None
    if config.tls_cert_file is not None:
        _require_private(config.tls_key_file)
        own = _own(config.tls_cert_file)
    return _Loaded(
        own=own, server=None if own is None else _server(config), by_ca=_client(config), by_pin=_pinning(config)
    )


def _server(config: Config) -> ssl.SSLContext:
    context = _DoorContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _DoorHandshake
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A resumed session would stand on a certificate that was checked at another time.
    context.num_tickets = 0
    _show(context, config)
    if config.tls_client_ca_file is not None:
        # Agents have none: it is asked for, and where one is shown it has to hold.
        context.verify_mode = ssl.CERT_OPTIONAL
        _trust(context, "STIGMEM_TLS_CLIENT_CA_FILE", config.tls_client_ca_file)
    return context


def _client(config: Config) -> ssl.SSLContext:
    context = _outgoing(config)
    if config.federation_tls_ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, "STIGMEM_FEDERATION_TLS_CA_FILE", config.federation_tls_ca_file)
    return context


def _pinning(config: Config) -> ssl.SSLContext:
    """For a peer whose certificate is known: who signed it, and for which host, says nothing more."""
    context = _outgoing(config)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _outgoing(config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslobject_class = _PeerHandshake
    _show(context, config)
    return context


def _show(context: ssl.SSLContext, config: Config) -> None:
    """Have the context present this node's certificate, where it has one."""
    if config.tls_cert_file is None:
        return
    try:
        # OpenSSL would ask for a passphrase on the terminal, and the node would hang.
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file, password=_no_passphrase)
    except OSError as error:
        words = words_for(error) if isinstance(error, ssl.SSLError) else error.strerror
        raise TlsFileError(
            f"STIGMEM_TLS_CERT_FILE, STIGMEM_TLS_KEY_FILE: {config.tls_cert_file} and {config.tls_key_file}: {words}"
        ) from error


def _no_passphrase() -> str:
    raise TlsFileError("STIGMEM_TLS_KEY_FILE: the key is encrypted, which this version does not open")


def _trust(context: ssl.SSLContext, variable: str, path: str) -> None:
    """What the operator put into the file is trusted as it is, be it a root, a CA below one, or one peer's certificate."""
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _read(variable, path)
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        words = words_for(error) if isinstance(error, ssl.SSLError) else error.strerror
        raise TlsFileError(f"{variable}: {path} holds no certificates in PEM ({words})") from error


def _own(path: str) -> Certificate:
    pem = _read("STIGMEM_TLS_CERT_FILE", path)
    try:
        return first_in(pem)
    except ValueError as error:
        raise TlsFileError(f"STIGMEM_TLS_CERT_FILE: {path} holds no certificate in PEM") from error


def _require_private(path: str) -> None:
    _read("STIGMEM_TLS_KEY_FILE", path)
    reason = why_not_private(Path(path))
    if reason is not None:
        raise TlsFileError(f"STIGMEM_TLS_KEY_FILE: {reason}")


def _read(variable: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise TlsFileError(f"{variable}: {path} cannot be read ({error.strerror})") from error
