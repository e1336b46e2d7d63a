"""Snapshots of an encrypted log: encrypted like it, checked without the key as far as that goes, restored with it."""

import shutil
from pathlib import Path

import pytest

from node.at_rest import AtRestError, Secret
from node.events.at_rest_folder import is_encrypted
from node.events.item_keys import LogLocked
from node.events.key_file import KEY_FILE, NEXT_KEY_FILE, new_file_key, rewrap, unlock, write_file_key
from node.events.log import NODE_KEY, OFFSET_KEY, Log
from replay.chain import Damaged
from replay.opening import unlocked, unlocked_folder
from replay.snapshots.create import Wanted, create_snapshot
from replay.snapshots.manifest import NotASnapshot
from replay.snapshots.restore import opened, restore, verify_snapshots
from replay.storage import Change, change
from tests.at_rest import found_in
from tests.events.samples import SIGNER
from tests.replay.folders import make_folder
from tests.replay.test_storage import entries

ONE, OTHER = Secret("node_key", b"1" * 32), Secret("node_key", b"2" * 32)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    make_folder(made)
    change(made, Change(None, ONE), lambda reached, size: None)
    return made


def snapshot(data_dir: Path, target: Path, secret: Secret | None = ONE, since: int = 0) -> Path:
    with unlocked_folder(data_dir, lambda: secret):
        wanted = Wanted(data_dir=data_dir, target=target, is_folder=False, since=since, signer=SIGNER)
        return create_snapshot(wanted, lambda read, size: None)[0]


def verified(*files: Path, secret: Secret | None) -> list[str]:
    notes: list[str] = []
    with unlocked(lambda: secret), opened(files) as snapshots:
        verify_snapshots(snapshots, (), notes.append)
    return notes


def restored(target: Path, *files: Path, secret: Secret | None) -> Path:
    with unlocked(lambda: secret):
        restore(target, files, (), lambda line: None)
    return target


def test_what_is_restored_says_what_was_said_and_is_encrypted_under_the_same_secret(data_dir, tmp_path):
    made = snapshot(data_dir, tmp_path / "made.snapshot")

    back = restored(tmp_path / "back", made, secret=ONE)

    assert entries(back, ONE) == entries(data_dir, ONE)
    assert is_encrypted(back)
    assert found_in(back, ["stigmem://org-a.example"]) == []
    # The manifest says whose log it is, and nothing in the file says anything else.
    assert found_in(tmp_path, ["memory:status", "agent/assistant"]) == []


def test_without_the_key_it_is_verified_and_not_restored(data_dir, tmp_path):
    made = snapshot(data_dir, tmp_path / "made.snapshot")

    assert any("no key was given" in note for note in verified(made, secret=None))
    assert any("chain, signatures, items and tree hold" in note for note in verified(made, secret=ONE))
    with pytest.raises(LogLocked):
        restored(tmp_path / "back", made, secret=None)
    with pytest.raises(LogLocked):
        snapshot(data_dir, tmp_path / "other.snapshot", None)
    with pytest.raises(AtRestError, match="under another key than the node key"):
        restored(tmp_path / "back", made, secret=OTHER)
    assert not (tmp_path / "back").exists()


def test_snapshots_that_follow_one_another_are_restored_also_where_the_secret_and_the_file_key_changed(
    data_dir, tmp_path
):
    size = len(entries(data_dir, ONE))
    first = snapshot(data_dir, tmp_path / "full.snapshot")
    cut = shortened(data_dir, tmp_path / "cut", size - 5)
    begun = snapshot(cut, tmp_path / "begun.snapshot")
    erase_nothing(data_dir)
    later = snapshot(data_dir, tmp_path / "later.snapshot", since=size - 5)

    back = restored(tmp_path / "back", begun, later, secret=ONE)

    assert entries(back, ONE) == entries(data_dir, ONE)
    assert unlock(back, ONE) == unlock(data_dir, ONE)
    assert entries(restored(tmp_path / "full", first, secret=ONE), ONE) == entries(data_dir, ONE)


def shortened(data_dir: Path, target: Path, size: int) -> Path:
    """The same log as it was at fewer entries, under the same keys."""
    shutil.copytree(data_dir, target)
    log = Log(target / "log", file_keys=unlock(target, ONE))
    with log.store.begin(write=True) as txn:
        for table in ("headers", "items"):
            for key in [key for key, _ in txn.cursor(db=log.store.table(table))]:
                if key >= OFFSET_KEY.pack(size):
                    txn.delete(key, db=log.store.table(table))
        for key in [key for key, _ in txn.cursor(db=log.store.table("tree"))]:
            level, index = NODE_KEY.unpack(key)
            if (index + 1) << level > size:
                txn.delete(key, db=log.store.table("tree"))
    log.close()
    return target


def erase_nothing(data_dir: Path) -> None:
    """What an erasure does to the keys that stay: all are wrapped under another file key."""
    key = new_file_key(unlock(data_dir, ONE)[0].views)
    log = Log(data_dir / "log", file_keys=unlock(data_dir, ONE))
    write_file_key(data_dir / NEXT_KEY_FILE, key, ONE)
    with log.store.begin(write=True) as txn:
        log.items.rewrap(txn, key)
    log.close()
    (data_dir / NEXT_KEY_FILE).replace(data_dir / KEY_FILE)


def test_under_keys_of_before_a_rekey_no_snapshot_is_continued(data_dir, tmp_path):
    cut = shortened(data_dir, tmp_path / "cut", 20)
    begun = snapshot(cut, tmp_path / "begun.snapshot")
    change(data_dir, Change(ONE, ONE), lambda reached, size: None)
    later = snapshot(data_dir, tmp_path / "later.snapshot", since=20)

    with pytest.raises(NotASnapshot, match="under other keys"), unlocked(lambda: ONE), opened([begun, later]):
        pass


def test_after_a_change_of_secret_an_old_snapshot_opens_with_the_old_one(data_dir, tmp_path):
    made = snapshot(data_dir, tmp_path / "made.snapshot")
    rewrap(data_dir, ONE, OTHER)

    assert entries(restored(tmp_path / "back", made, secret=ONE), ONE) == entries(data_dir, OTHER)


def test_a_row_that_does_not_open_is_damage(data_dir, tmp_path):
    log = Log(data_dir / "log", file_keys=unlock(data_dir, ONE))
    with log.store.begin(write=True) as txn:
        items = log.store.table("items")
        key, row = next(iter(txn.cursor(db=items)))
        txn.put(key, row[:-1] + bytes([row[-1] ^ 1]), db=items)
    log.close()

    with pytest.raises((Damaged, NotASnapshot)):
        snapshot(data_dir, tmp_path / "made.snapshot")
