"""Entries: what is signed, and that no part of one can change unnoticed."""

import contextlib
import json
from hashlib import sha256

import pytest
from msgspec import structs

from node.errors import LogDamaged
from node.events import EVENT_TYPES
from node.events.entry import Item, is_signed_by, open_entry, open_header, salt_bytes_for, sign_entry
from node.events.event import NODE_ITSELF, event_of, items_of, type_of
from node.keys import key_id_of
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import PEER_SIGNER, SIGNER, samples

SAMPLES = samples()
NAMES = [f"{index}-{type_of(event)}" for index, event in enumerate(SAMPLES)]


def _entry(event=SAMPLES[0]):
    return signed([event], clock=fixed_clock())[0]


@pytest.mark.parametrize("event", SAMPLES, ids=NAMES)
def test_an_event_comes_back_from_its_items(event):
    assert event_of(EVENT_TYPES[type_of(event)], items_of(event)) == event


@pytest.mark.parametrize("event", SAMPLES, ids=NAMES)
def test_an_entry_opens_to_what_was_signed(event):
    entry = _entry(event)
    assert open_entry(entry.stored, entry.items, entry.public_key) == entry
    assert is_signed_by(entry.stored, SIGNER.public_key)
    assert len(entry.items) * 16 <= salt_bytes_for(event)


@pytest.mark.parametrize("event", SAMPLES, ids=NAMES)
def test_each_item_has_a_salt_of_its_own(event):
    salts = [item.salt for item in _entry(event).items]
    assert len(set(salts)) == len(salts)
    assert {len(salt) for salt in salts} == {16}


@pytest.mark.parametrize("event", SAMPLES, ids=NAMES)
def test_an_event_with_an_item_too_many_or_too_few_is_refused(event):
    items = items_of(event)
    event_type = EVENT_TYPES[type_of(event)]
    has_list = event_type.parts and isinstance(getattr(event, event_type.parts[-1]), tuple)
    extra = [*items, b"not an item of this event"]
    with pytest.raises(ValueError):
        event_of(event_type, extra)
    if not has_list and len(items) > 1:
        with pytest.raises(ValueError):
            event_of(event_type, items[1:])


def test_the_header_is_these_bytes():
    event = SAMPLES[1]
    entry = sign_entry(
        event,
        NODE_ITSELF,
        offset=7,
        prev=bytes.fromhex("ab" * 32),
        hlc="1777896000000.001",
        at_ms=1_777_896_000_042,
        signer=SIGNER,
        salts=bytes(range(32)),
    )
    contents = [
        b'{"principal":null,"via":"node","credential":null,"idempotency_key":null,"trace_id":null}',
        b'{"key_hash":"' + b"ab" * 32 + b'"}',
    ]
    salted = [bytes(range(16)) + contents[0], bytes(range(16, 32)) + contents[1]]
    commitments = [sha256(content).hexdigest() for content in salted]
    header = (
        f'{{"v":1,"offset":7,"prev":"{"ab" * 32}","hlc":"1777896000000.001","at":"2026-05-04T12:00:00.042Z",'
        f'"type":"admin_key.created.1","key_id":"{sha256(SIGNER.public_key).hexdigest()}",'
        f'"items":["{commitments[0]}","{commitments[1]}"]}}'
    ).encode()
    assert entry.stored == header + SIGNER.sign(b"stigmem-event/v1\n" + header)
    assert entry.leaf == sha256(b"\x00" + entry.stored).digest()
    assert [item.content for item in entry.items] == contents


def test_the_header_names_nobody_and_holds_no_content():
    for entry in signed(SAMPLES, clock=fixed_clock()):
        header = json.loads(entry.stored[:-64])
        assert list(header) == ["v", "offset", "prev", "hlc", "at", "type", "key_id", "items"]
        assert b"stigmem://" not in entry.stored


def test_a_byte_changed_anywhere_in_an_entry_is_noticed():
    stored = _entry().stored
    assert not any(is_signed_by(_flipped(stored, index, 0x01), SIGNER.public_key) for index in range(len(stored)))


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_header_of_other_bytes_opens_or_is_damage_and_nothing_else(mask):
    stored = _entry().stored
    for index in range(len(stored) - 64):
        with contextlib.suppress(LogDamaged):
            assert open_header(_flipped(stored, index, mask)) != open_header(stored)


@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("part", ["salt", "content"])
def test_an_item_with_another_salt_or_content_does_not_match_its_commitment(index, part):
    entry = _entry()
    old = getattr(entry.items[index], part)
    items = list(entry.items)
    items[index] = structs.replace(items[index], **{part: old[:-1] + bytes([old[-1] ^ 1])})
    with pytest.raises(LogDamaged, match=f"item {index} does not match its commitment"):
        open_entry(entry.stored, tuple(items), entry.public_key)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda items: items[:-1], id="one item too few"),
        pytest.param(lambda items: (*items, items[-1]), id="one item too many"),
        pytest.param(lambda items: items[::-1], id="items in another order"),
        pytest.param(lambda items: (), id="no items"),
    ],
)
def test_other_items_than_the_header_commits_to_are_damage(changed):
    entry = _entry()
    with pytest.raises(LogDamaged):
        open_entry(entry.stored, changed(entry.items), entry.public_key)


def _flipped(stored: bytes, index: int, mask: int) -> bytes:
    return stored[:index] + bytes([stored[index] ^ mask]) + stored[index + 1 :]


def _signed_header(event_type: str = "node.created.1", version: int = 1, items: tuple[Item, ...] = ()) -> bytes:
    header = json.dumps(
        {
            "v": version,
            "offset": 0,
            "prev": "0" * 64,
            "hlc": "1777896000000.000",
            "at": "2026-05-04T12:00:00.000Z",
            "type": event_type,
            "key_id": key_id_of(SIGNER.public_key),
            "items": [item.commitment() for item in items],
        },
        separators=(",", ":"),
    ).encode()
    return header + SIGNER.sign(b"stigmem-event/v1\n" + header)


def test_an_entry_of_another_layout_version_is_not_opened():
    with pytest.raises(LogDamaged, match="layout version 2"):
        open_entry(_signed_header(version=2), (), SIGNER.public_key)


def test_an_entry_of_an_unknown_type_is_not_opened():
    with pytest.raises(LogDamaged, match=r"fact\.imagined\.1"):
        open_entry(_signed_header("fact.imagined.1"), (), SIGNER.public_key)


@pytest.mark.parametrize(
    "content",
    [
        b'{"node_id":"stigmem://a","public_key":"k","software":"s","more":1}',
        b'{"node_id":"stigmem://a","public_key":"k"}',
        b'{"node_id":1,"public_key":"k","software":"s"}',
        b'{"node_id":"\xff","public_key":"k","software":"s"}',
        b"",
    ],
    ids=["unknown member", "member missing", "member of another type", "not UTF-8", "empty"],
)
def test_a_committed_item_that_is_not_the_events_is_damage(content):
    actor = _entry().items[0]
    items = (actor, Item(bytes(16), content))
    with pytest.raises(LogDamaged, match="cannot be read"):
        open_entry(_signed_header(items=items), items, SIGNER.public_key)


def test_an_entry_signed_by_another_key_is_told_apart():
    entry = signed([SAMPLES[0]], clock=fixed_clock(), signer=PEER_SIGNER)[0]
    assert is_signed_by(entry.stored, PEER_SIGNER.public_key)
    assert not is_signed_by(entry.stored, SIGNER.public_key)
