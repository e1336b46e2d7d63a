"""Chains of rotations (PROTOCOL §11): what is believed of them, and from when to when a key proves anything."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.canonical import b64url_encode, canonical_json
from node.events.rotations import (
    CAPABILITY_TRUST_MS,
    LEEWAY_MS,
    MAX_TRIED,
    PEER_TOKEN_TRUST_MS,
    ChainBroken,
    ChainForked,
    ChainKey,
    KeyChain,
    chain_of,
    first_key,
    keys_for,
    keys_trusted_on,
    open_rotation,
    sign_rotation,
)
from node.keys import Signer

ENTITY = "stigmem://org-a.example"
KEYS = [Signer.from_seed(bytes([number]) * 32) for number in range(8)]
AT = 1_777_896_000_000
HOUR_MS = 3_600_000


def step(old: int, new: int, *, at_ms: int = AT, since_ms: int | None = None, **changes: Any) -> dict[str, Any]:
    """A rotation between two of the keys, signed by the old one; members changed after that."""
    document = sign_rotation(
        KEYS[old], KEYS[new].public_key, entity_uri=ENTITY, rotated_ms=at_ms, compromised_since_ms=since_ms
    )
    return {name: value for name, value in (json.loads(document) | changes).items() if value is not None}


def resigned(signer: Signer, members: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in members.items() if name != "rotation_sig"}
    return rest | {"rotation_sig": b64url_encode(signer.sign(canonical_json(rest)))}


def told(*steps: dict[str, Any], key: int, held: KeyChain = ()) -> KeyChain:
    return chain_of(ENTITY, KEYS[key].public_key, [open_rotation(one) for one in steps], held)


def numbers(chain: KeyChain) -> list[int]:
    return [[signer.public_key for signer in KEYS].index(key.public_key) for key in chain]


STEPS = [step(n, n + 1, at_ms=AT + n * HOUR_MS) for n in range(7)]


@given(st.integers(0, 7), st.integers(0, 7))
def test_from_whichever_key_is_held_the_chain_leads_to_the_newest(held, newest):
    chain = told(*STEPS[:newest], key=newest)
    assert numbers(chain) == list(range(newest + 1))

    before = told(*STEPS[:held], key=held)
    if held <= newest:
        assert told(*STEPS[:newest], key=newest, held=before) == chain
        assert told(*STEPS[:newest], key=newest, held=first_key(KEYS[held].public_key)) == chain
    else:
        with pytest.raises(ChainBroken):
            told(*STEPS[:newest], key=newest, held=before)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([step(0, 1, rotated_at="2026-05-04T13:00:00.000Z")], id="a member changed"),
        pytest.param([step(0, 1, old_public_key=KEYS[2].public_key_b64)], id="another old key than its id says"),
        pytest.param([resigned(KEYS[1], step(0, 1))], id="signed by the new key"),
        pytest.param(
            [resigned(KEYS[2], step(0, 1, old_public_key=None))], id="signed by a stranger, the old key untold"
        ),
        pytest.param([resigned(KEYS[0], step(0, 1, entity_uri="stigmem://org-b.example"))], id="of another entity"),
        pytest.param([resigned(KEYS[0], step(0, 1, new_key_id="ab" * 32))], id="an id that is not the new key's"),
        pytest.param([step(0, 2), step(2, 1, at_ms=AT - 1)], id="time goes back"),
        pytest.param([step(0, 2), step(3, 1)], id="a gap"),
        pytest.param([step(1, 0), step(0, 1)], id="a key comes back"),
        pytest.param([step(0, 2)], id="it leads elsewhere"),
        pytest.param([{"old_key_id": "ab"}], id="no rotation"),
        pytest.param([[]], id="no object"),
        pytest.param([resigned(KEYS[0], step(0, 1, new_public_key=b64url_encode(bytes(32))))], id="a weak key"),
    ],
)
def test_a_chain_with_a_link_that_does_not_hold_is_not_believed(steps):
    with pytest.raises(ChainBroken):
        told(*steps, key=1, held=first_key(KEYS[0].public_key))


def test_another_key_without_a_chain_is_not_believed():
    with pytest.raises(ChainBroken):
        told(key=1, held=first_key(KEYS[0].public_key))


def test_two_successors_of_one_key_are_a_fork_and_the_second_is_named():
    held = told(step(0, 1), key=1)

    with pytest.raises(ChainForked) as caught:
        told(step(0, 2), key=2, held=held)

    assert json.loads(caught.value.rotation) == step(0, 2)


def test_what_was_told_first_of_a_key_that_was_rotated_away_is_what_counts():
    held = told(step(0, 1), key=1)

    later = told(step(0, 1, at_ms=AT + HOUR_MS), step(1, 2, at_ms=AT + HOUR_MS), key=2, held=held)

    assert later[0] == held[0] and numbers(later) == [0, 1, 2]


def test_a_newcomer_who_is_not_told_the_first_key_knows_what_came_behind_it():
    assert numbers(told(resigned(KEYS[0], step(0, 1, old_public_key=None)), step(1, 2), key=2)) == [1, 2]


def test_a_reference_node_says_previous_key_id_and_signature():
    members = {
        name: value for name, value in step(0, 1).items() if name in ("new_key_id", "new_public_key", "rotated_at")
    }
    members |= {"previous_key_id": KEYS[0].key_id}
    members["signature"] = b64url_encode(KEYS[0].sign(canonical_json(members)))

    assert numbers(told(members, key=1, held=first_key(KEYS[0].public_key))) == [0, 1]


def test_a_key_proves_nothing_dated_later_than_ten_minutes_behind_its_rotation():
    chain = told(step(0, 1), key=1)

    assert keys_for(chain, AT + LEEWAY_MS) == (KEYS[1].public_key, KEYS[0].public_key)
    assert keys_for(chain, AT + LEEWAY_MS + 1) == (KEYS[1].public_key,)
    assert keys_for(chain, 0) == (KEYS[1].public_key, KEYS[0].public_key)


def test_a_compromised_key_proves_nothing_dated_after_it_was_taken_and_is_not_trusted_on():
    chain = told(step(0, 1, since_ms=AT - HOUR_MS), key=1)

    assert keys_for(chain, AT - HOUR_MS) == (KEYS[1].public_key, KEYS[0].public_key)
    assert keys_for(chain, AT - HOUR_MS + 1) == (KEYS[1].public_key,)
    assert keys_trusted_on(chain, CAPABILITY_TRUST_MS, issued_ms=AT - HOUR_MS, now_ms=AT) == ()


@pytest.mark.parametrize("current", [0, 40, 500, 999])
def test_of_a_long_chain_the_keys_nearest_to_a_date_are_tried_and_the_one_of_that_date_always(current):
    """Rotated every second: ten minutes' leeway holds hundreds of keys."""
    keys = [number.to_bytes(32, "big") for number in range(1000)]
    closed = [ChainKey(key, AT + n * 1000, AT + n * 1000 + LEEWAY_MS, True) for n, key in enumerate(keys[:-1])]
    chain = (*closed, ChainKey(keys[-1], None, None, True))

    tried = keys_for(chain, AT + current * 1000)

    places = [keys.index(key) for key in tried]
    assert len(tried) == MAX_TRIED and places == sorted(places, reverse=True)
    assert current in places and all(place in places for place in range(current, min(current + 20, 1000)))


@pytest.mark.parametrize("held", range(4))
def test_with_a_compromised_key_those_before_it_are_trusted_on_no_more_either(held):
    """Their files lie beside its own, and whoever rotated before he knew of the theft has yet to say which key it was."""
    steps = [*STEPS[:2], step(2, 3, at_ms=AT + 3 * HOUR_MS, since_ms=AT - HOUR_MS)]
    before = told(*STEPS[: min(held, 2)], key=min(held, 2)) if held < 3 else ()

    chain = told(*steps, key=3, held=before)

    assert keys_for(chain, AT - HOUR_MS) == tuple(KEYS[number].public_key for number in (3, 2, 1, 0))
    assert keys_for(chain, AT - HOUR_MS + 1) == (KEYS[3].public_key,)
    assert keys_trusted_on(chain, CAPABILITY_TRUST_MS, issued_ms=AT - HOUR_MS, now_ms=AT) == ()
    again = told(*steps, STEPS[3], key=4, held=chain)
    assert again[:3] == chain[:3] and again == told(*steps, STEPS[3], key=4)


def test_a_theft_later_than_a_rotation_leaves_what_the_key_before_proves():
    chain = told(STEPS[0], step(1, 2, at_ms=AT + 5 * HOUR_MS, since_ms=AT + 4 * HOUR_MS), key=2)

    assert keys_for(chain, AT + LEEWAY_MS)[-1] == KEYS[0].public_key
    assert KEYS[0].public_key not in keys_for(chain, AT + LEEWAY_MS + 1)
    assert keys_trusted_on(chain, CAPABILITY_TRUST_MS, issued_ms=AT, now_ms=AT + 5 * HOUR_MS) == ()


@pytest.mark.parametrize("window_ms", [PEER_TOKEN_TRUST_MS, CAPABILITY_TRUST_MS])
def test_a_rotated_key_is_trusted_for_its_window_with_what_it_signed_before(window_ms):
    chain = told(step(0, 1), key=1)

    assert keys_trusted_on(chain, window_ms, issued_ms=AT, now_ms=AT + window_ms) == (KEYS[0].public_key,)
    assert keys_trusted_on(chain, window_ms, issued_ms=AT, now_ms=AT + window_ms + 1) == ()
    assert keys_trusted_on(chain, window_ms, issued_ms=AT + 1, now_ms=AT + 2) == ()
