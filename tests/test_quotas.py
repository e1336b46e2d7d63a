"""Token buckets: what a principal gets is bounded over every stretch of time, and what is refused comes in time."""

from hypothesis import given
from hypothesis import strategies as st

from node.quotas import Quota

SECOND_NS = 1_000_000_000
# Waits in nanoseconds and costs, as one principal asks: nothing to several minutes, one fact to more than a bucket.
ASKED = st.lists(st.tuples(st.integers(0, 200 * SECOND_NS), st.integers(1, 40)), max_size=60)


class Time:
    def __init__(self) -> None:
        self.now_ns = 7

    def __call__(self) -> int:
        return self.now_ns


def test_a_bucket_gives_a_minute_s_share_at_once_and_then_as_it_fills():
    time = Time()
    quota = Quota(30, time)

    assert [quota.take("a") for _ in range(31)] == [*[0] * 30, 2]
    time.now_ns += 2 * SECOND_NS - 1
    assert quota.take("a") == 1
    time.now_ns += 1
    assert (quota.take("a"), quota.take("a")) == (0, 2)
    time.now_ns += 60 * SECOND_NS
    assert [quota.take("a") for _ in range(31)] == [*[0] * 30, 2]


def test_one_who_has_used_up_its_share_takes_nothing_of_another_s():
    quota = Quota(1, Time())

    assert (quota.take("a"), quota.take("a"), quota.take("b")) == (0, 60, 0)


def test_a_cost_above_a_whole_bucket_is_taken_from_a_full_one_and_owed():
    time = Time()
    quota = Quota(10, time)

    assert quota.take("a", 25) == 0
    assert quota.standing("a").remaining == 0
    assert quota.take("a") == 96
    time.now_ns += 96 * SECOND_NS
    assert (quota.take("a"), quota.take("a")) == (0, 6)


def test_what_is_taken_instead_of_one_costs_no_more_and_refused_that_one():
    time = Time()
    quota = Quota(10, time)
    quota.take("a")

    assert quota.take_instead("a", 8) == 0
    assert quota.standing("a").remaining == 2
    quota.take("a")
    assert quota.take_instead("a", 3) == 12
    assert quota.standing("a").remaining == 1
    time.now_ns += 12 * SECOND_NS
    quota.take("a")
    assert quota.take_instead("a", 3) == 0
    assert quota.standing("a").remaining == 0
    time.now_ns += 60 * SECOND_NS
    quota.take("a")
    assert (quota.take_instead("a", 11), quota.take("a")) == (0, 12)


def test_no_limit_is_no_bucket():
    quota = Quota(0, Time())

    assert {quota.take("a", 1000) for _ in range(1000)} == {0}
    assert (quota.standing("a"), len(quota)) == (None, 0)


def test_buckets_that_are_full_again_are_forgotten():
    time = Time()
    quota = Quota(60, time)

    for number in range(100_000):
        quota.take(number)
        time.now_ns += SECOND_NS // 100
    assert len(quota) < 4096


@given(per_minute=st.integers(1, 30), asked=ASKED)
def test_over_any_stretch_of_time_no_more_is_given_than_a_bucket_and_what_flows_in(per_minute: int, asked):
    time, given_at = Time(), []
    quota = Quota(per_minute, time)

    for wait_ns, cost in asked:
        time.now_ns += wait_ns
        if quota.take("a", cost) == 0:
            given_at.append((time.now_ns, cost))

    for first, (begin_ns, _) in enumerate(given_at):
        for last, (end_ns, cost) in enumerate(given_at[first:], first):
            before = sum(cost for _, cost in given_at[first:last])
            # The last one may overdraw, from a full bucket alone.
            least = before + min(cost, per_minute)
            assert least * 60 * SECOND_NS <= per_minute * (60 * SECOND_NS + end_ns - begin_ns)


@given(per_minute=st.integers(1, 30), asked=ASKED)
def test_whoever_waits_as_long_as_it_was_told_is_given_what_it_asked_for_and_a_second_earlier_not(
    per_minute: int, asked
):
    time = Time()
    quota = Quota(per_minute, time)

    for wait_ns, cost in asked:
        time.now_ns += wait_ns
        wait_s = quota.take("a", cost)
        if wait_s:
            time.now_ns += (wait_s - 1) * SECOND_NS
            assert quota.take("a", cost) == (1 if wait_s > 1 else wait_s)
            time.now_ns += SECOND_NS
            assert quota.take("a", cost) == 0


@given(per_minute=st.integers(1, 30), asked=ASKED)
def test_what_a_bucket_is_said_to_hold_can_be_taken_and_no_more(per_minute: int, asked):
    time = Time()
    quota = Quota(per_minute, time)
    for wait_ns, cost in asked:
        time.now_ns += wait_ns
        quota.take("a", cost)

    standing = quota.standing("a")

    assert standing.limit == per_minute and 0 <= standing.remaining <= per_minute
    assert {quota.take("a") for _ in range(standing.remaining)} <= {0}
    assert quota.take("a") > 0
    time.now_ns += quota.standing("a").resets_in_s * SECOND_NS
    assert quota.standing("a") == type(standing)(limit=per_minute, remaining=per_minute, resets_in_s=0)
