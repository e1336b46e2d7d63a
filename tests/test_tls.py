"""The files of certificates and keys: what is read of them, and the one line that says why one cannot be used."""

import random
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from node.certificates import certificate_of, fingerprint_of, first_in
from node.config import Config
from node.tls import Tls, TlsFileError, fault_in
from tests.certificates import Authority, CertificateFiles, Somebody

NODE_ID = "stigmem://org-a.example"


@pytest.fixture
def own(tmp_path: Path) -> CertificateFiles:
    return Authority(tmp_path).issue("node", NODE_ID, "urn:other")


def opened(own: CertificateFiles, **others: Path) -> Tls:
    paths = {name: str(path) for name, path in others.items()}
    return Tls.opened(Config(tls_cert_file=str(own.certificate), tls_key_file=str(own.key), **paths))


def test_a_certificate_is_known_by_the_fingerprint_that_openssl_prints_and_its_uris(own):
    printed = subprocess.run(
        ["openssl", "x509", "-in", own.certificate, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    ).stdout.partition("=")[2]

    shown = opened(own).own

    assert (shown.fingerprint, shown.uris) == (fingerprint_of(printed), (NODE_ID, "urn:other"))


@pytest.mark.parametrize(
    "uri",
    [
        "stigmem://ORG-A.example",
        "STIGMEM://org-a.example",
        f"{NODE_ID}/",
        f"{NODE_ID}/agent/x",
        f"{NODE_ID}.",
        f"{NODE_ID}:443",
        f"{NODE_ID}\0",
        f"{NODE_ID}\0.evil.example",
        f" {NODE_ID}",
        "stigmem://*.example",
        "stigmem://*",
        "stigmem://org-%61.example",
        "stigmem://org-a.example#",
        "https://org-a.example",
        "org-a.example",
    ],
)
def test_a_uri_that_is_not_the_node_id_byte_for_byte_speaks_for_nobody(tmp_path, uri):
    files = Authority(tmp_path).issue("org-a.example", uri, hosts=("org-a.example", "127.0.0.1"))
    shown = first_in(files.certificate.read_bytes())

    assert "no such URI among its names" in fault_in(shown, Somebody(NODE_ID))
    # Its common name, and hosts of any kind, say nothing; a pin says all, and for this certificate alone.
    assert fault_in(shown, Somebody(NODE_ID, (files.fingerprint,))) is None
    assert "none of those" in fault_in(shown, Somebody(NODE_ID, ("ab" * 32,)))


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, ":".join(["ab"] * 31), "sha1:" + "ab" * 32])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(ValueError, match="fingerprint"):
        fingerprint_of(text)


@pytest.mark.parametrize("text", ["sha256:" + "AB" * 32, ":".join(["aB"] * 32), "ab" * 32 + "\n"])
def test_a_fingerprint_has_one_spelling_within(text):
    assert fingerprint_of(text) == "ab" * 32


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"\x30\x82\xff\xff", bytes(1000)])
def test_bytes_that_are_no_certificate_are_a_value_error(der):
    with pytest.raises(ValueError):
        certificate_of(der)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_with_bytes_changed_is_read_or_a_value_error(own):
    der, chance = ssl.PEM_cert_to_DER_cert(own.certificate.read_text()), random.Random(4)
    read = 0
    for _ in range(4000):
        changed = bytearray(der)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(der))] = chance.randrange(256)
        with suppress(ValueError):
            read += bool(certificate_of(bytes(changed)).fingerprint)
    assert 0 < read < 4000


def test_a_node_without_files_reads_none():
    assert not Tls.opened(Config()).has_files


def _encrypt(own: CertificateFiles) -> None:
    sealed = own.key.with_suffix(".sealed")
    command = ["openssl", "pkcs8", "-topk8", "-in", own.key, "-out", sealed, "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True, timeout=10)
    sealed.rename(own.key)


DAMAGE = {
    "no certificate": (lambda own: own.certificate.unlink(), "STIGMEM_TLS_CERT_FILE: {0} cannot be read (No such file"),
    "a certificate that is none": (lambda own: own.certificate.write_text("x"), "STIGMEM_TLS_CERT_FILE: {0} holds no"),
    "no key": (lambda own: own.key.unlink(), "STIGMEM_TLS_KEY_FILE: {1} cannot be read (No such file"),
    "a key that is none": (lambda own: own.key.write_text("x"), "STIGMEM_TLS_CERT_FILE, STIGMEM_TLS_KEY_FILE: {0} and"),
    "an encrypted key": (_encrypt, "STIGMEM_TLS_KEY_FILE: the key is encrypted"),
    "a key for all to read": (lambda own: own.key.chmod(0o644), "STIGMEM_TLS_KEY_FILE: {1} is open to others"),
    "a key for the group": (lambda own: own.key.chmod(0o640), "STIGMEM_TLS_KEY_FILE: {1} is open to others"),
    "another's key": (
        lambda own: own.key.write_bytes(Authority(own.key.parent / "other").issue("x").key.read_bytes()),
        "STIGMEM_TLS_CERT_FILE, STIGMEM_TLS_KEY_FILE: {0} and {1}: key values mismatch",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_cannot_be_used_are_one_line_that_names_the_setting(own, case):
    damage, words = DAMAGE[case]
    damage(own)

    with pytest.raises(TlsFileError) as refused:
        opened(own)

    assert str(refused.value).startswith(words.format(own.certificate, own.key))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("setting", ["tls_client_ca_file", "federation_tls_ca_file"])
@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_without_a_ca_is_refused(own, tmp_path, setting, content):
    path = tmp_path / "ca-of-nobody.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(TlsFileError, match=f"^STIGMEM_{setting.upper()}: {path}"):
        opened(own, **{setting: path})
