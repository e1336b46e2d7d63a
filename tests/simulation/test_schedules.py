"""A thousand schedules of dropped, delayed, repeated and reordered messages, and of crashes, from a thousand seeds."""

import os

import pytest

from tests.simulation.schedule import run_schedule

GROUPS = 10
PER_GROUP = 1000 if os.environ.get("STIGMEM_TEST_LONG") else 100


@pytest.mark.parametrize("first", range(0, GROUPS * PER_GROUP, PER_GROUP))
async def test_whatever_the_network_does_and_whoever_crashes_everyone_ends_with_what_they_may_have(first: int):
    for seed in range(first, first + PER_GROUP):
        await run_schedule(seed)


async def test_a_seed_goes_the_same_way_to_the_last_byte_whenever_it_is_run():
    assert [await run_schedule(seed) for seed in range(3)] == [await run_schedule(seed) for seed in range(3)]
