"""`stigmem storage`: what lies under which key, changed offline; cut off anywhere it is undone or finished."""

import os
import shutil
import signal
import sys
from pathlib import Path

import lmdb
import pytest

from node.at_rest import AtRestError, Secret
from node.events.at_rest_folder import LOG_FOLDER, finish_change, is_changing, is_encrypted
from node.events.item_keys import SealedItems
from node.events.key_file import KEY_FILE, unlock
from node.events.log import COPY_FOLDER, OLD_FOLDER, Log
from node.folder_lock import FolderInUse, FolderLock
from node.projections.views import close_current, rebuild
from replay.chain import Damaged
from replay.opening import unlocked_folder
from replay.storage import Change, change
from replay.verify import SizeAndRoot, verify
from tests.at_rest import found_in, state_of
from tests.replay.folders import edit, flip, key, make_folder

ONE, OTHER = Secret("node_key", b"1" * 32), Secret("key_file", b"2" * 32)
SAID = "stigmem://org-a.example"
ENCRYPT, DECRYPT, REKEY = Change(None, ONE), Change(ONE, None), Change(ONE, OTHER)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    make_folder(tmp_path / "data")
    return tmp_path / "data"


def changed(data_dir: Path, *changes: Change) -> None:
    for wanted in changes:
        change(data_dir, wanted, lambda reached, size: None)


def proven_rows(data_dir: Path) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of a log that a proof can rest on."""
    rows = {}
    with lmdb.open(str(data_dir / "log"), max_dbs=8, readonly=True, lock=False) as environment:
        for table in ("keys", "headers", "tree"):
            db = environment.open_db(table.encode(), create=False)
            with environment.begin(db=db) as txn:
                rows[table] = list(txn.cursor())
    return rows


def entries(data_dir: Path, secret: Secret | None) -> list[object]:
    log = Log(data_dir / "log", is_readonly=True, file_keys=() if secret is None else unlock(data_dir, secret))
    try:
        return [(entry.actor, entry.event, entry.items) for entry in log.read(0, 10_000)]
    finally:
        log.close()


def verified(data_dir: Path, secret: Secret | None) -> tuple[SizeAndRoot, list[str]]:
    notes: list[str] = []
    with unlocked_folder(data_dir, lambda: secret):
        return verify(data_dir, None, notes.append), notes


@pytest.mark.parametrize(
    ("changes", "secret"),
    [((ENCRYPT,), ONE), ((ENCRYPT, DECRYPT), None), ((ENCRYPT, REKEY), OTHER), ((ENCRYPT, Change(ONE, ONE)), ONE)],
    ids=["encrypted", "and decrypted", "and under another secret", "and under fresh keys"],
)
def test_headers_leaves_and_keys_stay_as_they_were_and_items_say_the_same(data_dir, changes, secret):
    before, said, head = proven_rows(data_dir), entries(data_dir, None), verified(data_dir, None)[0]

    changed(data_dir, *changes)

    assert proven_rows(data_dir) == before
    assert entries(data_dir, secret) == said
    assert verified(data_dir, secret)[0] == head
    assert is_encrypted(data_dir) == (secret is not None)
    assert not is_changing(data_dir)


def test_once_encrypted_nothing_of_what_was_said_is_in_any_file(data_dir):
    assert found_in(data_dir, [SAID])

    changed(data_dir, ENCRYPT)

    assert found_in(data_dir, [SAID]) == []
    assert sorted(path.name for path in data_dir.iterdir()) == [KEY_FILE, "lock", "log"]


@pytest.mark.parametrize(
    ("log", "left"),
    [(LOG_FOLDER, (OLD_FOLDER,)), (LOG_FOLDER, (COPY_FOLDER,)), (COPY_FOLDER, (OLD_FOLDER,))],
    ids=["renamed", "copied", "between the two renames"],
)
def test_where_an_erasure_was_cut_off_no_log_of_before_stays_beside_the_one_that_is_encrypted(data_dir, log, left):
    for name in left:
        shutil.copytree(data_dir / LOG_FOLDER, data_dir / name)
    (data_dir / LOG_FOLDER).rename(data_dir / log)

    changed(data_dir, ENCRYPT)

    assert found_in(data_dir, [SAID]) == []
    assert [path.name for path in data_dir.glob("log*")] == [LOG_FOLDER]


def test_rekeying_gives_every_item_another_key(data_dir):
    changed(data_dir, ENCRYPT)
    old = unlock(data_dir, ONE)

    changed(data_dir, Change(ONE, ONE))

    log = Log(data_dir / "log", is_readonly=True, file_keys=old)
    assert not isinstance(log.items, SealedItems)
    log.close()
    assert unlock(data_dir, ONE)[0].views != old[0].views


@pytest.mark.parametrize(
    ("before", "wanted", "words"),
    [
        ((), DECRYPT, "lies in clear already"),
        ((), REKEY, "lies in clear already"),
        ((ENCRYPT,), ENCRYPT, "is encrypted already"),
        ((ENCRYPT,), Change(OTHER, None), "under another key than the key file that is set"),
    ],
)
def test_what_does_not_fit_the_folder_is_refused_and_leaves_it_as_it_was(data_dir, before, wanted, words):
    changed(data_dir, *before)
    was = {name: state for name, state in state_of(data_dir).items() if name != "lock"}

    with pytest.raises(AtRestError, match=words):
        changed(data_dir, wanted)

    assert {name: state for name, state in state_of(data_dir).items() if name != "lock"} == was


def test_a_folder_in_use_is_left_alone(data_dir):
    with FolderLock(data_dir / "lock"), pytest.raises(FolderInUse):
        changed(data_dir, ENCRYPT)


def test_a_damaged_log_is_given_no_other_form(data_dir):
    edit(data_dir / "log", "items", flip(key(5, 1), 20))

    with pytest.raises(Damaged) as damage:
        changed(data_dir, ENCRYPT)

    assert damage.value.offset == 5
    assert not is_encrypted(data_dir) and not is_changing(data_dir)


def test_without_the_key_the_log_is_verified_as_far_as_that_goes(data_dir):
    head = verified(data_dir, None)[0]
    changed(data_dir, ENCRYPT)

    found, notes = verified(data_dir, None)

    assert found == head
    assert any("chain, signatures and tree hold" in note for note in notes)
    assert any("no key was given" in note for note in notes)


def test_without_the_key_a_header_that_was_changed_is_found_still(data_dir):
    changed(data_dir, ENCRYPT)
    edit(data_dir / "log", "headers", flip(key(7), -3))

    with pytest.raises(Damaged) as damage:
        verified(data_dir, None)

    assert damage.value.offset == 7


def test_with_the_key_live_views_are_held_against_the_log(data_dir):
    changed(data_dir, ENCRYPT)
    file_key = unlock(data_dir, ONE)[0]
    log = Log(data_dir / "log", is_readonly=True, file_keys=(file_key,))
    close_current(data_dir / "views", rebuild(data_dir / "views", log, file_key=file_key))
    log.close()

    _, notes = verified(data_dir, ONE)

    assert any("as the log folds to" in note for note in notes)
    assert found_in(data_dir, [SAID]) == []


@pytest.mark.parametrize("wanted", [ENCRYPT, DECRYPT, REKEY], ids=["encrypt", "decrypt", "rekey"])
def test_killed_at_any_step_it_is_undone_or_finished_by_the_next_that_holds_the_folder(tmp_path: Path, wanted: Change):
    old, new = wanted.old, wanted.new
    outcomes, prepared = set(), tmp_path / "prepared"
    make_folder(prepared)
    if old is not None:
        changed(prepared, ENCRYPT)
        with_views(prepared, old)
    said, rows = entries(prepared, old), proven_rows(prepared)
    for step in range(40):
        data_dir = tmp_path / str(step)
        shutil.copytree(prepared, data_dir)
        if not is_cut_off(data_dir, wanted, step):
            break
        if is_changing(data_dir):
            finish_change(data_dir)
        secret = old if is_encrypted(data_dir) == (old is not None) and opens(data_dir, old) else new
        outcomes.add(secret)
        assert entries(data_dir, secret) == said
        assert proven_rows(data_dir) == rows
        assert not is_changing(data_dir)
        # Whatever it is that views of before were under, none that do not fit are left.
        assert secret == old or not (data_dir / "views").exists()
        assert secret is None or secret == old is None or found_in(data_dir, [SAID]) == []
    else:
        raise AssertionError("it does not end")
    assert outcomes == {old, new}
    assert step > 5


def with_views(data_dir: Path, secret: Secret) -> None:
    file_key = unlock(data_dir, secret)[0]
    log = Log(data_dir / "log", is_readonly=True, file_keys=(file_key,))
    close_current(data_dir / "views", rebuild(data_dir / "views", log, file_key=file_key))
    log.close()


def opens(data_dir: Path, secret: Secret | None) -> bool:
    if secret is None:
        return not is_encrypted(data_dir)
    try:
        return bool(unlock(data_dir, secret))
    except AtRestError:
        return False


def is_cut_off(data_dir: Path, wanted: Change, step: int) -> bool:
    """Make the change in a process that is killed at the n-th call which gives, takes or moves a name in the folder."""
    process = os.fork()
    if process == 0:
        try:
            _kill_at(data_dir, step)
            change(data_dir, wanted, lambda reached, size: None)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def _kill_at(data_dir: Path, step: int) -> None:
    left = [step]

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(data_dir) in str(arguments):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
