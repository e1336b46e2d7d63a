"""How much each principal may ask for: token buckets that hold one minute's share and fill again evenly (PROTOCOL §13).

Always: within any time a name is given no more than a full bucket and what flowed in meanwhile. A cost above a whole bucket, such
as a large batch, is taken from a full one and the bucket then owes the rest; so nothing is refused for ever, and the average holds.
What `take` refuses costs nothing. A bucket that is full again is forgotten: memory is bounded by who came within a minute, or owes.

In memory: a restart fills every bucket. Belongs to one thread.
"""

from collections.abc import Callable

from msgspec import Struct

_MINUTE_NS = 60_000_000_000
# How many buckets are looked through for full ones at the least; beyond that, whenever their number has doubled.
_SWEEP_AT = 1024


class Standing(Struct, frozen=True, kw_only=True):
    """What is left of a bucket: `limit` per minute, `remaining` of a full one, and in how many seconds it is full again."""

    limit: int
    remaining: int
    resets_in_s: int


class Quota:
    """One bucket for each name. 0 per minute is no limit."""

    def __init__(self, per_minute: int, monotonic_ns: Callable[[], int]) -> None:
        self._per_minute = per_minute
        self._monotonic_ns = monotonic_ns
        # Per name the instant at which its bucket is full again. In nanoseconds times `per_minute`: one token is a minute, and
        # every sum is exact.
        self._full_at: dict[object, int] = {}
        self._sweep_at = _SWEEP_AT

    def take(self, name: object, cost: int = 1) -> int:
        """0 where `name` may, and then it has taken so many tokens; else after how many seconds it may, at least 1."""
        if not self._per_minute:
            return 0
        now, whole = self._now(), self._per_minute * _MINUTE_NS
        full_at = max(self._full_at.get(name, now), now)
        missing = full_at + min(cost * _MINUTE_NS, whole) - now - whole
        if missing > 0:
            return self._seconds(missing)
        self._full_at[name] = full_at + cost * _MINUTE_NS
        if len(self._full_at) >= self._sweep_at:
            self._forget_full(now)
        return 0

    def take_instead(self, name: object, cost: int) -> int:
        """Take so many tokens instead of the one that was taken last. What `take` answers; refused, that one stays taken."""
        if name in self._full_at:
            self._full_at[name] -= _MINUTE_NS
        if not self.take(name, cost):
            return 0
        self.take(name)
        # As long as it is now that one is gone.
        return self.take(name, cost)

    def standing(self, name: object) -> Standing | None:
        """None where there is no limit."""
        if not self._per_minute:
            return None
        spent = max(self._full_at.get(name, 0) - self._now(), 0)
        remaining = self._per_minute - -(-spent // _MINUTE_NS)
        return Standing(limit=self._per_minute, remaining=max(remaining, 0), resets_in_s=self._seconds(spent))

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)

    def _now(self) -> int:
        return self._monotonic_ns() * self._per_minute

    def _seconds(self, scaled_ns: int) -> int:
        return -(-scaled_ns // (self._per_minute * 1_000_000_000))

    def _forget_full(self, now: int) -> None:
        self._full_at = {name: full_at for name, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._full_at))
