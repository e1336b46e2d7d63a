"""A log whose key was rotated, offline: verified, proven, taken into snapshots, whichever of its keys one holds (PROTOCOL §11)."""

from pathlib import Path

import pytest
from msgspec import UNSET, structs

from node.events.checkpoint import log_key
from node.events.log import Log
from node.events.own_keys import own_keys_of
from node.events.proof_bundle import LogKey, check_bundle
from node.events.signed_note import signature_line
from node.keys import Signer
from replay.chain import Damaged
from replay.folder_log import folder_log
from replay.log_source import DoesNotHold, NotDone, Wanted
from replay.snapshots import create as snapshots
from replay.snapshots.manifest import NotTrusted
from replay.snapshots.restore import restore
from replay.verify import verify
from tests.events.logs import write_log
from tests.events.samples import SIGNER, SUCCESSOR
from tests.replay.folders import make_folder, replay
from tests.replay.sound import sound_events

STRANGER = Signer.from_seed(bytes([7]) * 32)
EVENTS = sound_events(is_rotated=True)
ROTATED_AT = next(offset for offset, event in enumerate(EVENTS) if type(event).__name__ == "KeyRotated")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "data", is_rotated=True)
    return tmp_path / "data"


def found_in(folder: Path) -> tuple[int | None, str]:
    with pytest.raises(Damaged) as caught:
        verify(folder, None, lambda line: None)
    return caught.value.offset, caught.value.words


def wanted(offset: int, **more: object) -> Wanted:
    members = {"offset": offset, "fact_id": None, "item": 0, "size": None, "goes_on_from": None, "note": None}
    return Wanted(**members | more)


def test_a_log_with_a_rotation_verifies(folder):
    assert str(verify(folder, None, lambda line: None)).startswith(f"{len(EVENTS)}:")


def test_its_keys_are_found_with_the_offsets_that_they_sign_from(folder):
    log = Log(folder / "log", is_readonly=True)
    own = own_keys_of(log)
    log.close()

    assert (own.firsts, own.key_ids) == ((0, ROTATED_AT + 1), (SIGNER.key_id, SUCCESSOR.key_id))


@pytest.mark.parametrize(
    ("signers", "offset", "words"),
    [
        ({ROTATED_AT + 1: SIGNER}, ROTATED_AT + 1, "the entry is signed by a key that was rotated away"),
        ({ROTATED_AT + 1: STRANGER}, ROTATED_AT + 1, "the entry is signed by a key that is not this node's"),
        (
            {3: SUCCESSOR, 4: SIGNER, ROTATED_AT + 1: SUCCESSOR},
            3,
            "the entry is signed by a key that is not current there",
        ),
        (
            {ROTATED_AT: STRANGER, ROTATED_AT + 1: SUCCESSOR},
            ROTATED_AT,
            "the entry is signed by a key that is not this node's",
        ),
    ],
    ids=["the old key goes on", "a stranger goes on", "the new key before its time", "a stranger rotates"],
)
def test_an_entry_of_another_key_than_that_of_its_place_is_named(tmp_path, signers, offset, words):
    write_log(tmp_path, EVENTS, signers)

    assert found_in(tmp_path) == (offset, words)


def test_a_rotation_that_the_old_key_did_not_sign_ends_the_chain(tmp_path):
    forged = EVENTS[ROTATED_AT].rotation.replace(b'"rotated_at":"2026', b'"rotated_at":"2027')
    events = [*EVENTS]
    events[ROTATED_AT] = structs.replace(EVENTS[ROTATED_AT], rotation=forged)

    write_log(tmp_path, events, {ROTATED_AT + 1: SUCCESSOR})
    offset, words = found_in(tmp_path)

    assert offset == ROTATED_AT and words == "the rotation is not signed by the key before it"


@pytest.mark.parametrize("offset", [0, ROTATED_AT, ROTATED_AT + 1])
def test_a_bundle_proves_an_entry_to_who_holds_either_key_and_to_nobody_else(folder, offset):
    with folder_log(folder, SUCCESSOR) as log:
        bundle = log.bundle(wanted(offset))

    for key in (SIGNER, SUCCESSOR):
        assert check_bundle(bundle, LogKey(public_key=key.public_key)).log_index == offset
    with pytest.raises(ValueError, match="the log's key"):
        check_bundle(bundle, LogKey(public_key=STRANGER.public_key))
    with pytest.raises(ValueError):
        check_bundle(structs.replace(bundle, rotations=UNSET), LogKey(public_key=SIGNER.public_key))


def test_a_former_key_signs_no_checkpoint(folder):
    with pytest.raises(NotDone, match="not the one that signs this log"), folder_log(folder, SIGNER):
        pass
    with folder_log(folder, SUCCESSOR) as log:
        sound = log.head().note
    with folder_log(folder, None) as log, pytest.raises(DoesNotHold):
        log.bundle(wanted(0, note=_noted(sound, SIGNER)))


def _noted(note: str, signer: Signer) -> str:
    """The same checkpoint under another key."""
    text = note.partition("\n\n")[0] + "\n"
    return f"{text}\n{signature_line(log_key(text.partition(chr(10))[0], signer.public_key), signer.sign(text.encode()))}\n"


def snapshot_of(folder: Path, target: Path, signer: Signer) -> Path:
    asked = snapshots.Wanted(data_dir=folder, target=target, is_folder=False, since=0, signer=signer)
    return snapshots.create_snapshot(asked, lambda read, size: None)[0]


def test_a_snapshot_of_the_current_key_is_restored_and_one_of_a_former_key_is_not_believed(folder, tmp_path):
    sound = snapshot_of(folder, tmp_path / "sound.snapshot", SUCCESSOR)
    stolen = snapshot_of(folder, tmp_path / "stolen.snapshot", SIGNER)

    restore(tmp_path / "again", [sound], (), lambda line: None)
    with pytest.raises(NotTrusted):
        restore(tmp_path / "no", [stolen], (), lambda line: None)

    verify(tmp_path / "again", None, lambda line: None)
    assert not (tmp_path / "no" / "log").exists()


def test_a_diff_across_a_rotation_says_which_key_came(folder):
    done = replay("diff", folder, "--from", str(ROTATED_AT), "--to", str(ROTATED_AT + 1), "--json")

    assert done.code == 0, done.stderr
    assert SIGNER.key_id in done.stdout and SUCCESSOR.key_id in done.stdout
