"""Certificates for tests: an own CA, and what it signs for nodes, well or badly.

Always: files as openssl would write them, PEM, keys 0600. Nothing here is the node's code.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class CertificateFiles:
    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        parsed = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return hashlib.sha256(parsed.public_bytes(Encoding.DER)).hexdigest()


@dataclass(frozen=True)
class Somebody:
    """Whom a request is meant for."""

    node_id: str
    tls_pins: tuple[str, ...] = ()


class Authority:
    """A CA with its certificate in `certificate`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._subject = folder, _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = folder / f"{name}.pem"
        built = (
            _begun(self._subject, self._subject, self._key, days=30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self.certificate.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(
        self, name: str, *uris: str, hosts: tuple[str, ...] = HOSTS, days: float = 10, is_self_signed: bool = False
    ) -> CertificateFiles:
        """A certificate for these URIs and hosts; with `days` below zero one that ran out so long ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = (_named(name), key) if is_self_signed else (self._subject, self._key)
        names = [*map(x509.UniformResourceIdentifier, uris), *map(_host, hosts)]
        built = _begun(_named(name), issuer, key, days=days)
        if names:
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        files = CertificateFiles(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        files.certificate.write_bytes(built.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM))
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files.key.chmod(0o600)
        return files


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: float
) -> x509.CertificateBuilder:
    end = datetime.now(UTC) + timedelta(days=days)
    begin = min(end, datetime.now(UTC)) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
