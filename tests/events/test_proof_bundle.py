"""Proof bundles: each proves what it holds to three checkers, and no change of any member and no other bytes are taken."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import metamorphic_log
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.events.checkpoint import Checkpoint, log_key, origin_of, sign_checkpoint
from node.events.log import Log
from node.events.proof_bundle import (
    MAX_BUNDLE_BYTES,
    Bundle,
    LogKey,
    check_bundle,
    encode_bundle,
    fact_in,
    make_bundle,
    open_bundle,
)
from node.events.tree import root_at
from replay.bundle_verdict import Asked, key_in_manifest, verdict
from replay.log_source import DoesNotHold
from tests.events.logs import write_log
from tests.events.samples import NODE_ID, PEER_SIGNER, SIGNER, samples
from tests.independent.bundles import check_bundle as check_independently

ORIGIN = origin_of(NODE_ID)
KEY = LogKey(public_key=SIGNER.public_key, origin=ORIGIN)
ANY_ORIGIN = LogKey(public_key=SIGNER.public_key)


def bundle_of(log: Log, offset: int, size: int, *, item: int | None = None, goes_on_from: int | None = None) -> Bundle:
    with log.tree() as read:
        checkpoint = Checkpoint(origin=ORIGIN, size=size, root=root_at(size, read))
    note = sign_checkpoint(checkpoint, SIGNER)
    return make_bundle(log, offset, checkpoint, note, item=item, goes_on_from=goes_on_from)


@cache
def bundles() -> dict[str, bytes]:
    """By name, one of each make: with a fact and an older tree, with an entry alone, with neither."""
    with TemporaryDirectory() as folder:
        entries = write_log(Path(folder), samples())
        log = Log(Path(folder) / "log", is_readonly=True)
        size = len(entries)
        [fact, *_] = [entry.offset for entry in entries if entry.type == "fact.asserted.1"]
        made = {
            "whole": bundle_of(log, fact, size, item=1, goes_on_from=5),
            "entry": bundle_of(log, 3, size - 1),
        }
        log.close()
    leaf = {name: value for name, value in json.loads(encode_bundle(made["entry"])).items() if name in LEAF_MEMBERS}
    return {name: encode_bundle(bundle) for name, bundle in made.items()} | {"leaf": json.dumps(leaf).encode()}


LEAF_MEMBERS = ("log_index", "leaf_hash", "tree_size", "root_hash", "hashes", "checkpoint")


def holds(raw: bytes, key: LogKey = KEY) -> bool:
    try:
        check_bundle(open_bundle(raw), key)
    except ValueError:
        return False
    return True


def holds_independently(raw: bytes) -> bool:
    try:
        check_independently(raw, SIGNER.public_key)
    except (ValueError, KeyError, TypeError):
        return False
    return True


def test_every_item_of_every_event_is_proven_to_all_three_checkers(tmp_path):
    entries = write_log(tmp_path, samples())
    log = Log(tmp_path / "log", is_readonly=True)
    verifier_key = str(log_key(ORIGIN, SIGNER.public_key))
    for entry in (entry for entry in entries if entry.public_key == SIGNER.public_key):
        for index, item in enumerate(entry.items):
            raw = encode_bundle(bundle_of(log, entry.offset, len(entries), item=index, goes_on_from=entry.offset + 1))
            proven = check_bundle(open_bundle(raw), ANY_ORIGIN)
            assert (proven.log_index, proven.item_index, proven.item) == (entry.offset, index, item.content)
            assert proven.header.type == entry.type and proven.checkpoint.origin == ORIGIN
            assert holds_independently(raw)
            said = json.loads(raw)
            path = [bytes.fromhex(node) for node in said["hashes"]]
            metamorphic_log.checkpoint_verify_inclusion(
                said["checkpoint"], [verifier_key], entry.offset, entry.leaf, path
            )
    log.close()


@pytest.mark.parametrize("name", ["whole", "entry", "leaf"])
def test_a_bundle_proves_nothing_under_another_key_or_name(name):
    raw = bundles()[name]

    assert holds(raw) and holds(raw, ANY_ORIGIN) and holds_independently(raw)
    assert not holds(raw, LogKey(public_key=PEER_SIGNER.public_key, origin=ORIGIN))
    assert not holds(raw, LogKey(public_key=PEER_SIGNER.public_key))
    assert not holds(raw, LogKey(public_key=SIGNER.public_key, origin=f"{ORIGIN}2"))


CHARACTERS = st.one_of(st.sampled_from("AZaz09+/=-_ \n\r\x00\u2014\ud800"), st.characters())
OTHER_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([]), st.just({}), st.just([["00" * 32]])
)


@st.composite
def changed(draw: st.DrawFn, value: object) -> object:
    """The value with one change of its own kind, or another value in its place."""
    if draw(st.integers(0, 9)) == 0:
        return draw(OTHER_VALUES)
    match value:
        case str():
            place = draw(st.integers(0, len(value)))
            put = draw(st.one_of(st.just(""), CHARACTERS))
            return value[:place] + put + value[place + draw(st.integers(0, 1)) :]
        case int():
            return value + draw(st.integers().filter(bool))
        case list():
            place = draw(st.integers(0, len(value)))
            put = draw(st.sampled_from([[], ["00" * 32], [draw(changed(value[0]))] if value else [""]]))
            return value[:place] + put + value[place + draw(st.integers(0, 1)) :]
        case dict():
            name = draw(st.sampled_from(sorted(value)))
            return value | {name: draw(changed(value[name]))}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["whole", "entry", "leaf"]), st.data())
def test_a_bundle_with_one_change_in_any_member_is_refused(name, data):
    sound = json.loads(bundles()[name])
    member = data.draw(st.sampled_from(sorted(sound)))
    spoilt = sound | {member: data.draw(changed(sound[member]))}
    raw = json.dumps(spoilt).encode()
    is_sound = raw == json.dumps(sound).encode()

    assert (holds(raw), holds_independently(raw)) == (is_sound, is_sound)


@pytest.mark.parametrize(
    "member",
    ["log_index", "leaf_hash", "hashes", "checkpoint", "log_id", "integrated_time", "entry", "item", "item_salt"],
)
def test_a_bundle_without_one_of_its_members_is_refused(member):
    spoilt = {name: value for name, value in json.loads(bundles()["whole"]).items() if name != member}

    assert not holds(json.dumps(spoilt).encode()) and not holds_independently(json.dumps(spoilt).encode())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw.replace(b"{", b'{"more":1,', 1),
        lambda raw: raw.replace(b"{", b'{"log_index":0,', 1),
        lambda raw: raw + b"{}",
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.decode().encode("utf-16"),
        lambda raw: raw + b" " * MAX_BUNDLE_BYTES,
        lambda raw: raw.replace(b'"hashes": [', b'"hashes": [' + b'"%s",' % (b"0" * 64) * 65, 1),
    ],
    ids=["a member more", "a member twice", "two of them", "a byte order mark", "UTF-16", "too long", "a long path"],
)
def test_what_is_no_single_bundle_is_refused(spoil):
    raw = spoil(bundles()["whole"])

    assert not holds(raw) and not holds_independently(raw)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(LEAF_MEMBERS), inner)),
)
GARBAGE = st.one_of(
    st.binary(),
    st.binary().map(b"{".__add__),
    st.text().map(str.encode),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda raw, place, junk: raw[:place] + junk + raw[place + 1 :],
        st.sampled_from(sorted(bundles().values())),
        st.integers(0, 4000),
        st.binary(max_size=3),
    ),
)


@settings(max_examples=400, deadline=None)
@given(GARBAGE)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"log_index": ' + b"9" * 5000 + b"}")
def test_garbage_of_any_form_is_refused_in_words(raw):
    for judge in (
        lambda: verdict(Asked(file=raw, key=ANY_ORIGIN, older=None, consistency=None, witnesses=())),
        lambda: verdict(Asked(file=bundles()["leaf"], key=KEY, older=raw, consistency=raw, witnesses=())),
        lambda: key_in_manifest(raw),
    ):
        try:
            assert judge()
        except DoesNotHold as error:
            assert str(error)


def test_an_item_that_is_no_fact_is_none():
    assert fact_in("fact.asserted.1", b"[" * 100_000) is None
    assert fact_in("fact.asserted.1", b'{"fact":{}}') is None
    assert fact_in("page.served.1", b"{}") is None
