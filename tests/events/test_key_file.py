"""`at-rest.key`: who opens it, how its secret changes, and what becomes of one that cannot be read."""

from pathlib import Path

import pytest

from node.at_rest import AtRestError, Secret
from node.events.key_file import KEY_FILE, FileKey, add_secret, keep_only, new_file_key, rewrap, unlock, write_file_key

OLD, NEW = Secret("node_key", b"o" * 32), Secret("node_key", b"n" * 32)


@pytest.fixture
def key(tmp_path: Path) -> FileKey:
    made = new_file_key()
    write_file_key(tmp_path / KEY_FILE, made, OLD)
    return made


def test_the_secret_opens_it_and_the_file_shows_no_key(tmp_path, key):
    content = (tmp_path / KEY_FILE).read_bytes()

    assert unlock(tmp_path, OLD) == (key,)
    for secret in (key.items, key.views, OLD.value):
        assert secret not in content and secret.hex().encode() not in content
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert key.items.hex() not in repr(key) and OLD.value.hex() not in repr(OLD)


@pytest.mark.parametrize("secret", [NEW, Secret("key_file", OLD.value), Secret("passphrase", OLD.value)], ids=repr)
def test_another_secret_does_not(tmp_path, key, secret):
    with pytest.raises(AtRestError, match="encrypted under another key than the"):
        unlock(tmp_path, secret)


def test_a_passphrase_opens_it_by_argon2id_with_a_salt_of_its_own(tmp_path, key):
    passphrase = Secret("passphrase", b"open sesame")
    write_file_key(tmp_path / KEY_FILE, key, passphrase)

    assert unlock(tmp_path, passphrase) == (key,)
    assert b'"passes":3,"memory_bytes":268435456' in (tmp_path / KEY_FILE).read_bytes()
    assert b'"salt":""' not in (tmp_path / KEY_FILE).read_bytes()


def test_while_a_secret_is_changed_both_open_it_and_then_the_new_one_alone(tmp_path, key):
    add_secret(tmp_path, OLD, NEW)
    add_secret(tmp_path, OLD, NEW)
    assert unlock(tmp_path, OLD) == unlock(tmp_path, NEW) == (key,)

    keep_only(tmp_path, NEW)
    keep_only(tmp_path, NEW)

    assert unlock(tmp_path, NEW) == (key,)
    with pytest.raises(AtRestError):
        unlock(tmp_path, OLD)


def test_rewrapping_is_both_halves(tmp_path, key):
    rewrap(tmp_path, OLD, NEW)

    assert unlock(tmp_path, NEW) == (key,)
    with pytest.raises(AtRestError):
        unlock(tmp_path, OLD)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"v":2}', b'{"v":1,"id":"00","wraps":[]}'])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / KEY_FILE).write_bytes(content)

    with pytest.raises(AtRestError, match=r"^at-rest\.key cannot be read"):
        unlock(tmp_path, OLD)
