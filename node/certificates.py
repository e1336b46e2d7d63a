"""X.509 certificates as far as a node reads them: whose they are, until when, and their fingerprint.

Always: a certificate speaks for a node by a URI in its subject alternative names that is that node_id, byte for byte.
A fingerprint is the SHA-256 of the whole certificate (DER), in lower-case hex.

Does not check: who signed it. That is OpenSSL's, in the handshake (see node/tls.py).
"""

import hashlib
import re
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64}|[0-9a-f]{2}(?::[0-9a-f]{2}){31})", re.IGNORECASE)


class Certificate(Struct, frozen=True, kw_only=True):
    """Times in epoch ms, both ends included."""

    fingerprint: str
    uris: tuple[str, ...]
    not_before_ms: int
    not_after_ms: int

    def is_valid_at(self, now_ms: int) -> bool:
        return self.not_before_ms <= now_ms <= self.not_after_ms


def certificate_of(der: bytes) -> Certificate:
    """Raises ValueError for what is no certificate, or has names that cannot be read."""
    try:
        parsed = x509.load_der_x509_certificate(der)
        uris = _uris(parsed)
    except (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error
    return Certificate(
        fingerprint=hashlib.sha256(der).hexdigest(),
        uris=uris,
        not_before_ms=_ms(parsed.not_valid_before_utc),
        not_after_ms=_ms(parsed.not_valid_after_utc),
    )


def first_in(pem: bytes) -> Certificate:
    """The certificate that a PEM chain begins with. Raises ValueError."""
    return certificate_of(x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER))


def fingerprint_of(text: str) -> str:
    """A fingerprint as people write one: with or without colons and `sha256:`, in either case. Raises ValueError."""
    match = _FINGERPRINT.fullmatch(text.strip())
    if match is None:
        raise ValueError("no SHA-256 fingerprint of a certificate: 64 hex digits, or 32 pairs with colons between")
    return match[1].replace(":", "").lower()


def _uris(parsed: x509.Certificate) -> tuple[str, ...]:
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
