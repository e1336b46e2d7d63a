"""Checkpoints as C2SP signed notes, read by a parser that shares no code with the node."""

import pytest

from node.events.checkpoint import Checkpoint, open_checkpoint, origin_of, sign_checkpoint
from tests.events.samples import NODE_ID, PEER_SIGNER, SIGNER
from tests.independent.notes import NoteInvalid, parse_checkpoint

ORIGIN = "org-a.example/stigmem-log"
ROOT = bytes(range(32))
NOTE = sign_checkpoint(Checkpoint(origin=ORIGIN, size=20, root=ROOT), SIGNER)


def _open(note: str, public_key: bytes = SIGNER.public_key) -> Checkpoint:
    return open_checkpoint(note, origin=ORIGIN, public_key=public_key)


def test_a_nodes_log_is_named_after_its_authority():
    assert origin_of(NODE_ID) == ORIGIN


def test_a_checkpoint_says_the_same_to_the_independent_parser():
    assert parse_checkpoint(NOTE, ORIGIN, SIGNER.public_key) == (20, ROOT)
    assert _open(NOTE) == Checkpoint(origin=ORIGIN, size=20, root=ROOT)


def test_a_checkpoint_has_these_lines():
    lines = NOTE.split("\n")
    assert lines[:4] == [ORIGIN, "20", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", ""]
    assert lines[4].startswith(f"\u2014 {ORIGIN} ")
    assert lines[5:] == [""]


def test_there_is_one_checkpoint_per_size():
    assert sign_checkpoint(Checkpoint(origin=ORIGIN, size=20, root=ROOT), SIGNER) == NOTE


def test_a_character_changed_anywhere_is_refused_by_both_readers():
    for index, character in enumerate(NOTE):
        tampered = NOTE[:index] + ("A" if character != "A" else "B") + NOTE[index + 1 :]
        with pytest.raises(ValueError):
            _open(tampered)
        with pytest.raises(NoteInvalid):
            parse_checkpoint(tampered, ORIGIN, SIGNER.public_key)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE.split("\n\n")[0] + "\n",
        NOTE.replace("\n20\n", "\n020\n"),
        NOTE.replace("\n20\n", "\n+20\n"),
        NOTE.replace("\n20\n", "\n\u0662\u0660\n"),
        NOTE.replace("\u2014", "-"),
    ],
    ids=["empty", "blank", "unsigned", "leading zero", "plus sign", "other digits", "hyphen for the dash"],
)
def test_what_is_no_checkpoint_is_refused(note):
    with pytest.raises(ValueError):
        _open(note)


def test_a_checkpoint_of_another_key_is_refused():
    with pytest.raises(ValueError, match="no valid signature"):
        _open(NOTE, PEER_SIGNER.public_key)


def test_a_checkpoint_of_another_log_is_refused():
    note = sign_checkpoint(Checkpoint(origin="org-b.example/stigmem-log", size=20, root=ROOT), SIGNER)
    with pytest.raises(ValueError, match="another log"):
        _open(note)


def test_a_cosignature_of_somebody_else_beside_ours_does_no_harm():
    text = NOTE.split("\n\n")[0] + "\n"
    witness = sign_checkpoint(Checkpoint(origin="witness.example", size=20, root=ROOT), PEER_SIGNER).splitlines()[-1]
    assert _open(f"{NOTE}{witness}\n").size == 20
    with pytest.raises(ValueError, match="no valid signature"):
        _open(f"{text}\n{witness}\n")
