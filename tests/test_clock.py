"""The hybrid logical clock under good and bad clocks."""

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.clock import Clock, format_hlc, parse_hlc
from tests.clocks import START_MS, fixed_clock

MOVES = st.lists(st.integers(-10_000, 10_000), max_size=40)
REMOTES = st.tuples(st.integers(START_MS - 5_000, START_MS + 10**9), st.integers(0, 5_000))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1777896000000.007", (1_777_896_000_000, 7)),
        ("1795299844555.0", (1_795_299_844_555, 0)),
        ("1795299844555.12345", (1_795_299_844_555, 12_345)),
        ("0.0", (0, 0)),
    ],
)
def test_an_hlc_is_read_with_padded_and_unpadded_counter(text, parts):
    assert parse_hlc(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        ".",
        "1.",
        ".1",
        "1.2.3",
        "-1.0",
        "+1.0",
        " 1.0",
        "1.0\n",
        "1_0.0",
        "1e3.0",
        "²2.0",
        "٣.0",
        "1" * 14 + ".0",
    ],
    ids=repr,
)
def test_what_is_not_two_sane_runs_of_digits_is_no_hlc(text):
    with pytest.raises(ValueError):
        parse_hlc(text)


@given(MOVES)
def test_hlcs_strictly_increase_as_text_whatever_the_clock_does(moves):
    clock, hlcs = fixed_clock(), []
    for move in moves:
        clock.advance(move)
        hlcs.append(clock.tick())
    assert all(a < b for a, b in pairwise(hlcs))


@given(st.lists(st.one_of(st.integers(-10_000, 10_000), REMOTES), max_size=40))
def test_hlcs_strictly_increase_whatever_peers_send_meanwhile(steps):
    clock, hlcs = fixed_clock(), []
    for step in steps:
        if isinstance(step, tuple):
            clock.observe(format_hlc(*step))
        else:
            clock.advance(step)
        hlcs.append(clock.tick())
    assert all(a < b for a, b in pairwise(hlcs))


@given(MOVES)
def test_at_never_decreases_and_never_lags_behind_the_clock(moves):
    clock, last = fixed_clock(), 0
    for move in moves:
        clock.advance(move)
        at_ms = clock.at_ms()
        assert at_ms >= max(last, clock.now_ms())
        last = at_ms


def test_a_moving_clock_starts_the_counter_again():
    clock = fixed_clock()
    assert [clock.tick(), clock.tick()] == [format_hlc(START_MS, 0), format_hlc(START_MS, 1)]
    clock.advance(1)
    assert clock.tick() == format_hlc(START_MS + 1, 0)


def test_past_999_the_wall_moves_on_by_one_millisecond():
    clock = fixed_clock()
    hlcs = [clock.tick() for _ in range(1001)]
    assert hlcs[999:] == [format_hlc(START_MS, 999), format_hlc(START_MS + 1, 0)]


@given(REMOTES)
def test_a_peer_moves_the_wall_at_most_to_our_own_now(remote):
    clock = fixed_clock()
    clock.observe(format_hlc(*remote))
    wall_ms, _ = parse_hlc(clock.tick())
    # One more where the peer used up the counter of this very millisecond: causality needs the next one.
    assert wall_ms <= START_MS + (1 if remote[0] == START_MS and remote[1] >= 999 else 0)


@given(st.integers(START_MS - 5_000, START_MS), st.integers(0, 5_000))
def test_an_event_after_a_receipt_comes_after_what_was_received(wall_ms, counter):
    clock = fixed_clock(start_ms=START_MS)
    clock.observe(format_hlc(wall_ms, counter))
    assert parse_hlc(clock.tick()) > (wall_ms, counter)


def test_observing_something_old_changes_nothing():
    clock = fixed_clock()
    clock.tick()
    clock.observe(format_hlc(START_MS - 1, 999))
    assert clock.tick() == format_hlc(START_MS, 1)


def test_after_a_restart_with_the_clock_set_back_both_times_go_on_from_the_head():
    clock = fixed_clock(start_ms=START_MS - 60_000)
    clock.resume(format_hlc(START_MS, 41), START_MS)
    assert clock.tick() == format_hlc(START_MS, 42)
    assert clock.at_ms() == START_MS
    clock.advance(60_001)
    assert clock.at_ms() == START_MS + 1


def test_an_id_is_a_uuid_of_version_7_with_its_millisecond_in_front():
    made = fixed_clock().new_id()
    as_uuid = uuid.UUID(made)
    assert (str(as_uuid), as_uuid.version, as_uuid.variant) == (made, 7, uuid.RFC_4122)
    assert as_uuid.int >> 80 == START_MS


def test_ids_of_later_milliseconds_sort_later_and_two_of_one_differ():
    clock = fixed_clock()
    first, twin = clock.new_id(), clock.new_id()
    clock.advance(1)
    assert first != twin
    assert max(first, twin) < clock.new_id()


def test_two_fixed_clocks_hand_out_the_same_ids_and_bytes():
    a, b = fixed_clock(step_ms=3), fixed_clock(step_ms=3)
    assert [a.new_id(), a.random_bytes(16), a.tick()] == [b.new_id(), b.random_bytes(16), b.tick()]


def test_the_system_clock_draws_as_many_bytes_as_asked_and_ticks():
    clock = Clock.system()
    assert len(clock.random_bytes(33)) == 33
    assert clock.tick() < clock.tick()
