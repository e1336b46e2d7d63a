"""Checkpoints by the C2SP texts' rules: three readers that share no code, one of them not ours, on the same notes."""

import json

import metamorphic_log
import pytest

from node.events.checkpoint import bare_note, open_checkpoint
from node.events.cosignature import check_cosignature, cosigned_at
from node.events.signed_note import MAX_NOTE_BYTES, VerifierKey, parse_note, parse_verifier_key
from tests.independent.note_vectors import PATH, TIME_S, build_vectors, cosignature_of
from tests.independent.notes import NoteInvalid, parse_checkpoint

VECTORS = json.loads(PATH.read_text())
ORIGIN, PUBLIC_KEY = VECTORS["origin"], bytes.fromhex(VECTORS["public_key"])
WITNESS = VerifierKey(
    name=VECTORS["witness"]["name"], kind=b"\x04", public_key=bytes.fromhex(VECTORS["witness"]["public_key"])
)
CASES = {case["name"]: case for case in VECTORS["cases"]}
GOOD = {name: case for name, case in CASES.items() if case["size"] is not None}
BAD = {name: case for name, case in CASES.items() if case["size"] is None}
# What the texts rule out, and not only our readers.
RULED_OUT = {name: case for name, case in BAD.items() if not case["stricter"]}
# The library compares key names; which log a text is of is for its caller to compare.
FOR_THE_CALLER = {"another origin", "no origin"}


def test_the_vectors_on_disk_are_those_of_the_module_that_describes_them():
    assert build_vectors() == VECTORS


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD)
def test_a_good_note_says_the_same_to_every_reader(case):
    said = case["size"], bytes.fromhex(case["root"])
    opened = open_checkpoint(case["note"], origin=ORIGIN, public_key=PUBLIC_KEY)
    foreign = metamorphic_log.checkpoint_verify(case["note"], [VECTORS["verifier_key"]])

    assert (opened.size, opened.root) == said
    assert parse_checkpoint(case["note"], ORIGIN, PUBLIC_KEY) == said
    assert (foreign.size, foreign.root) == said


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_the_node_takes_no_note_that(case):
    with pytest.raises(ValueError):
        open_checkpoint(case["note"], origin=ORIGIN, public_key=PUBLIC_KEY)


@pytest.mark.parametrize("name", RULED_OUT)
def test_the_other_readers_take_none_either_that(name):
    with pytest.raises(NoteInvalid):
        parse_checkpoint(CASES[name]["note"], ORIGIN, PUBLIC_KEY)
    if name not in FOR_THE_CALLER:
        with pytest.raises(metamorphic_log.VerifyError):
            metamorphic_log.checkpoint_verify(CASES[name]["note"], [VECTORS["verifier_key"]])


def test_of_a_cosigned_note_the_bare_one_is_left():
    assert bare_note(CASES["cosigned before"]["note"], origin=ORIGIN, public_key=PUBLIC_KEY) == CASES["plain"]["note"]


def test_a_note_of_any_length_ends_at_the_limit():
    padded = CASES["plain"]["note"] + "\u2014 stranger.example AAAAAAAA\n" * (MAX_NOTE_BYTES // 30)

    with pytest.raises(ValueError, match="more than"):
        parse_note(padded)


def test_a_lone_surrogate_is_no_utf_8():
    with pytest.raises(ValueError):
        parse_note(CASES["plain"]["note"].replace("log", "\ud800"))


@pytest.mark.parametrize("name", ["cosigned", "cosigned before"])
def test_a_witness_is_found_on_the_note_that_it_signed(name):
    assert cosigned_at(CASES[name]["note"], WITNESS) == TIME_S
    assert metamorphic_log.verify_signed_note(CASES[name]["note"], [VECTORS["verifier_key"]]) == 1


def test_a_witness_that_did_not_sign_or_signed_another_text_is_not():
    text, other = CASES["plain"]["note"].split("\n\n")[0] + "\n", CASES["one leaf"]["note"].split("\n\n")[0] + "\n"

    with pytest.raises(ValueError, match="no valid signature"):
        cosigned_at(CASES["plain"]["note"], WITNESS)
    for line in (cosignature_of(other), cosignature_of(text, time_s=2**63), cosignature_of(text)[:-6] + "AA==\n"):
        with pytest.raises(ValueError):
            cosigned_at(CASES["cosigned"]["note"] + line, WITNESS)
        with pytest.raises(ValueError):
            check_cosignature(line[:-1], note=CASES["plain"]["note"], name=WITNESS.name, public_key=WITNESS.public_key)


def test_a_verifier_key_is_read_as_it_is_written():
    key = parse_verifier_key(VECTORS["verifier_key"])

    assert (key.name, key.kind, key.public_key) == (ORIGIN, b"\x01", PUBLIC_KEY)
    assert str(key) == VECTORS["verifier_key"]
    assert parse_verifier_key(str(WITNESS)) == WITNESS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace("+", " ", 1),
        lambda text: text.replace("stigmem", "stigmen"),
        lambda text: text.rpartition("+")[0] + "+" + "A" * 44,
        lambda text: text[:-1],
        lambda text: f"{text}\n",
        lambda text: text.rpartition("+")[0] + "+",
    ],
    ids=["empty", "space", "other name", "no key", "cut", "newline", "nothing at the end"],
)
def test_a_spoilt_verifier_key_is_refused(spoil):
    with pytest.raises(ValueError):
        parse_verifier_key(spoil(VECTORS["verifier_key"]))
