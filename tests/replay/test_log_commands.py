"""`stigmem log` on a data folder: what it shows and proves, what it refuses, and that it leaves the folder as it was."""

import json
import shutil
from pathlib import Path

import pytest

from node.events.checkpoint import Checkpoint, log_key, origin_of, sign_checkpoint
from node.events.entry import Entry
from node.events.identity import NodeRestored
from node.keys import create_key_file
from tests.events.samples import NODE_ID, PEER_SIGNER, SIGNER
from tests.independent.bundles import check_bundle
from tests.replay.folders import Result, edit, files_of, flip, key, make_folder, node
from tests.replay.log_command import run_log

ORIGIN = origin_of(NODE_ID)
FACTS_COME_BY = ("fact.asserted.1", "batch.received.1", "fact.quarantined.1", "conflict.resolved.1")
HELD, DONE, BROKEN, NOT_DONE = "holds: signature, place and commitments", 0, 6, 2
KEY = ("--public-key", str(log_key(ORIGIN, SIGNER.public_key)))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Entry]]:
    """A sound folder with one of each event, which no test changes."""
    folder = tmp_path_factory.mktemp("sound")
    entries = make_folder(folder / "data")
    create_key_file(folder / "node.key", bytes(range(32)))
    create_key_file(folder / "other.key", bytes(range(1, 33)))
    return folder, entries


@pytest.fixture
def data_dir(sound, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    shutil.copytree(sound[0] / "data", tmp_path / "data")
    return tmp_path / "data"


def on(folder: Path, command: str, *arguments: object) -> Result:
    return run_log(command, *arguments, "--data-dir", folder / "data")


def fact_of(entries: list[Entry], event_type: str = "fact.asserted.1") -> tuple[int, str]:
    """Where a fact came in by an event of this type that had not come before."""
    first = {fact_id: offset for entry in reversed(entries) for offset, fact_id in facts_of(entry)}
    brought = (facts_of(entry) for entry in entries if entry.type == event_type)
    return next(facts[-1] for facts in brought if facts and first[facts[-1][1]] == facts[-1][0])


def facts_of(entry: Entry) -> list[tuple[int, str]]:
    """Offset and id of the facts that an entry brought."""
    receipts = getattr(entry.event, "receipts", ())
    facts = [receipt.fact for receipt in receipts] or [getattr(entry.event, "fact", None)]
    return [(entry.offset, fact.id) for fact in facts if fact is not None]


def note_of(entries: list[Entry], size: int, root: bytes) -> str:
    return sign_checkpoint(Checkpoint(origin=ORIGIN, size=size, root=root), SIGNER)


def test_nothing_that_reads_a_folder_changes_it(sound):
    folder = sound[0]
    before = files_of(folder)
    for command in (("head",), ("tail",), ("show", "0"), ("proof", "0", "--sign-with", folder / "node.key")):
        assert on(folder, *command).code == DONE

    assert files_of(folder) == before


def test_the_head_is_signed_with_the_key_and_without_it_shows_what_witnesses_signed(sound):
    folder, entries = sound
    signed = on(folder, "head", "--sign-with", folder / "node.key").stdout
    unsigned = on(folder, "head").stdout

    assert signed.startswith(f"size {len(entries)}\nroot ")
    # The log was restored on the way: since then it has another name.
    name = [entry.event.origin for entry in entries if isinstance(entry.event, NodeRestored)][-1]
    key = log_key(name, SIGNER.public_key)
    assert f"\nkey {key}\n\n{name}\n{len(entries)}\n" in signed and f"\n\u2014 {name} " in signed
    assert f"\u2014 {ORIGIN}" not in unsigned and "\u2014 org-b.example " in unsigned


def test_every_entry_is_shown_and_holds(sound):
    folder, entries = sound
    for entry in entries[:: len(entries) // 6]:
        text = on(folder, "show", entry.offset).stdout
        shown = json.loads(on(folder, "show", entry.offset, "--json").stdout)
        assert text.splitlines()[-1] == HELD and f"type      {entry.type}" in text
        assert (shown["header"]["offset"], shown["leaf_hash"]) == (entry.offset, entry.leaf.hex())
        assert [item["commitment"] for item in shown["items"]] == shown["header"]["items"]
        assert shown["problems"] == [] and shown["items"][0]["content"]["via"] == entry.actor.via


def test_a_fact_is_found_by_its_id_where_it_first_came_in(sound):
    folder, entries = sound
    for event_type in FACTS_COME_BY:
        offset, fact_id = fact_of(entries, event_type)
        assert json.loads(on(folder, "show", fact_id, "--json").stdout)["header"]["offset"] == offset


DAMAGES = {
    "an item": ("items", lambda offset: flip(key(offset, 1), 40), "item 1 does not match its commitment"),
    "a salt": ("items", lambda offset: flip(key(offset, 1), 3), "item 1 does not match its commitment"),
    "no item": ("items", lambda offset: lambda txn: txn.delete(key(offset, 1)), "item 1 is missing"),
    "a signature": ("headers", lambda offset: flip(key(offset), -1), "the signature does not verify"),
    "the tree": ("tree", lambda offset: flip(node(0, offset), 0), "the tree has another leaf in this place"),
    "the header": ("headers", lambda offset: flip(key(offset), 1), "the header cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_does_not_hold_is_named_and_no_proof_of_it_is_given_out(sound, data_dir, damage):
    table, change, words = DAMAGES[damage]
    offset, _ = fact_of(sound[1])
    edit(data_dir / "log", table, change(offset))

    shown = on(data_dir.parent, "show", offset)
    proof = on(data_dir.parent, "proof", offset, "--item", "1", "--sign-with", sound[0] / "node.key")

    assert shown.code == BROKEN and f"offset {offset}: {words}" in shown.stderr
    assert (proof.code, proof.stdout) == (BROKEN, "")


@pytest.mark.parametrize("level", [0, 1, 3])
def test_no_root_is_signed_that_is_not_that_of_the_entries(sound, data_dir, level):
    edit(data_dir / "log", "tree", flip(node(level, 0), 5))

    for command in (("head",), ("proof", len(sound[1]) - 1)):
        refused = on(data_dir.parent, *command, "--sign-with", sound[0] / "node.key")
        assert (refused.code, refused.stdout) == (BROKEN, "")
        assert f"offset {2**level - 1}: the tree's hash at level {level}" in refused.stderr


def test_an_entry_that_is_gone_is_named(sound, data_dir):
    edit(data_dir / "log", "headers", lambda txn: txn.delete(key(7)))

    refused = on(data_dir.parent, "head")

    assert (refused.code, refused.stderr) == (BROKEN, "stigmem: offset 7: the entry is missing\n")
    assert on(data_dir.parent, "show", "7").code == BROKEN


def test_a_tail_has_one_line_for_each_entry_and_none_that_a_terminal_obeys(sound):
    folder, entries = sound
    lines = on(folder, "tail", "-n", "1000").stdout.splitlines()

    assert [line.split("  ")[0] for line in lines] == [str(entry.offset) for entry in entries]
    assert [line.split("  ")[2] for line in lines] == [entry.type for entry in entries]
    assert all(line.isprintable() for line in lines)
    assert len(on(folder, "tail", "-n", "3").stdout.splitlines()) == 3
    assert on(folder, "tail", "-n", "0").stdout == ""
    assert on(folder, "tail", "--follow").code == NOT_DONE


@pytest.mark.parametrize("event_type", FACTS_COME_BY)
def test_the_bundle_of_a_fact_proves_it_under_the_key_alone(sound, tmp_path, event_type):
    folder, entries = sound
    _, fact_id = fact_of(entries, event_type)
    arguments = ("--sign-with", folder / "node.key", "--consistency-from", "4", "--size", len(entries))
    assert on(folder, "proof", fact_id, *arguments, "--out", tmp_path / "bundle").code == DONE

    for named in (KEY, ("--public-key", SIGNER.public_key_b64), ("--public-key", SIGNER.public_key.hex())):
        verified = run_log("verify", tmp_path / "bundle", *named)
        shown = json.loads(verified.last_line.removeprefix("fact: "))
        assert (verified.code, shown["id"]) == (DONE, fact_id)
    independently = check_bundle((tmp_path / "bundle").read_bytes(), SIGNER.public_key)
    assert independently["item"] == shown and independently["header"]["type"] == event_type
    stranger = ("--public-key", str(log_key(ORIGIN, PEER_SIGNER.public_key)))
    refused = run_log("verify", tmp_path / "bundle", *stranger)
    assert (refused.code, refused.stdout) == (BROKEN, "")


def test_a_bundle_of_an_offset_holds_an_item_where_it_is_asked_for(sound, tmp_path):
    folder, entries = sound
    offset = next(entry.offset for entry in entries if entry.type == "attestation.signed.1")
    arguments = ("proof", offset, "--sign-with", folder / "node.key", "--out", tmp_path / "bundle")

    assert on(folder, *arguments).code == DONE
    assert "item" not in json.loads((tmp_path / "bundle").read_bytes())
    assert run_log("verify", tmp_path / "bundle", *KEY).last_line.startswith(
        f"holds: entry {offset}, attestation.signed.1"
    )
    assert on(folder, *arguments, "--item", "2").code == DONE
    assert run_log("verify", tmp_path / "bundle", *KEY).last_line.startswith("item 2: ")


def test_a_checkpoint_that_is_handed_in_has_to_be_of_this_log(sound, tmp_path):
    folder, entries = sound
    head = json.loads(on(folder, "proof", "0", "--sign-with", folder / "node.key", "--size", "9").stdout)
    note = tmp_path / "note"
    cases = {
        head["checkpoint"]: DONE,
        note_of(entries, 9, bytes(32)): BROKEN,
        head["checkpoint"].replace("\n9\n", "\n8\n"): BROKEN,
        note_of(entries, len(entries) + 1, bytes(32)): NOT_DONE,
        note_of(entries, 5, bytes(32)): NOT_DONE,
    }
    for text, code in cases.items():
        note.write_text(text)
        assert on(folder, "proof", "7", "--checkpoint", note).code == code, text
    note.write_bytes(b"\xff")
    assert on(folder, "proof", "7", "--checkpoint", note).code == BROKEN


NOT_POSSIBLE = {
    "no key and no checkpoint": ("proof", "0"),
    "an offset that is not there": ("show", "99999"),
    "a fact that is not there": ("show", "018f0000-0000-7000-8000-00000000ffff"),
    "an id that is no text": ("show", "\udcff"),
    "an item that is not there": ("proof", "0", "--item", "2"),
    "another node's key": ("head", "--sign-with", "other.key"),
    "a key file that is not there": ("head", "--sign-with", "missing.key"),
    "a tree that is too small": ("proof", "3", "--sign-with", "node.key", "--size", "3"),
    "a tree of nothing": ("proof", "0", "--sign-with", "node.key", "--size", "0"),
    "a tree that is too large": ("proof", "3", "--sign-with", "node.key", "--size", "99999"),
    "an older tree that is larger": ("proof", "3", "--sign-with", "node.key", "--size", "5", "--consistency-from", "6"),
    "an older tree of nothing": ("proof", "3", "--sign-with", "node.key", "--consistency-from", "0"),
    "a place that cannot be written": ("proof", "3", "--sign-with", "node.key", "--out", "missing/bundle"),
}


@pytest.mark.parametrize("arguments", NOT_POSSIBLE.values(), ids=NOT_POSSIBLE)
def test_what_cannot_be_done_is_said_in_one_line(sound, monkeypatch, arguments):
    monkeypatch.chdir(sound[0])

    done = on(sound[0], *arguments)

    assert (done.code, done.stdout) == (NOT_DONE, "")


def test_a_folder_without_a_log_and_a_file_that_is_none_are_told_apart(tmp_path, data_dir):
    assert run_log("head", "--data-dir", tmp_path / "missing").code == NOT_DONE
    (tmp_path / "empty").mkdir()
    assert run_log("head", "--data-dir", tmp_path / "empty").code == NOT_DONE
    (data_dir / "log" / "data.mdb").write_bytes(b"no LMDB file" * 1000)
    damaged = run_log("head", "--data-dir", data_dir)
    assert damaged.code == BROKEN and "the file is damaged" in damaged.stderr


def test_a_terminal_that_knows_ascii_alone_is_given_escapes(sound, tmp_path):
    folder, entries = sound
    output = tmp_path / "output"
    for command in (("head",), ("tail", "-n", "99"), ("show", fact_of(entries)[1]), ("proof", "0")):
        signed = ("--sign-with", folder / "node.key") if command[0] in ("head", "proof") else ()
        with output.open("w", encoding="ascii") as terminal:
            assert run_log(*command, "--data-dir", folder / "data", *signed, terminal=terminal).code == DONE
        assert output.read_bytes()
    assert json.loads(output.read_bytes())["checkpoint"].startswith(ORIGIN)


def test_a_node_that_does_not_answer_is_said_in_one_line():
    for command in (("head",), ("tail",), ("proof", "0")):
        assert run_log(*command, bearer="some-key").code == NOT_DONE


FILES = {
    "nothing": (b"", BROKEN),
    "bytes": (b"\xff\xfe\x00", BROKEN),
    "an open brace": (b"{", BROKEN),
    "too much": (b"{" * ((1 << 24) + 2), BROKEN),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_proves_nothing_ends_with_one_line(tmp_path, name):
    content, code = FILES[name]
    (tmp_path / "file").write_bytes(content)

    for arguments in (("file", *KEY), ("file", "--manifest", "file"), ("file", *KEY, "--checkpoint", "file")):
        paths = [tmp_path / word if word == "file" else word for word in arguments]
        assert run_log("verify", *paths).code == code
    assert run_log("verify", tmp_path / "missing", *KEY).code == NOT_DONE


@pytest.mark.parametrize(
    "arguments",
    [
        ("--public-key", "00" * 32),
        ("--public-key", "no key"),
        ("--public-key", "a+b+c"),
        (*KEY, "--witness", KEY[1]),
        (*KEY, "--witness", "no key"),
        (*KEY, "--consistency", "note"),
    ],
    ids=["small order", "no key", "no verifier key", "a log's key as witness", "no witness", "a proof between one"],
)
def test_what_verify_is_given_to_judge_by_is_refused_where_it_is_of_no_use(sound, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note").write_text(note_of(sound[1], 5, bytes(32)))

    assert run_log("verify", "note", *KEY).code == DONE
    assert run_log("verify", "note", *arguments).code == NOT_DONE


def test_two_roots_of_one_size_are_a_fork(sound, tmp_path):
    for name, root in (("one", bytes(32)), ("other", bytes(31) + b"\x01")):
        (tmp_path / name).write_text(note_of(sound[1], 5, root))

    forked = run_log("verify", tmp_path / "one", *KEY, "--checkpoint", tmp_path / "other")

    assert forked.code == BROKEN and "the log has forked" in forked.stderr
    assert run_log("verify", tmp_path / "one", *KEY, "--checkpoint", tmp_path / "one").code == DONE
