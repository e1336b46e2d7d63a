"""What is bounded by the minute: signatures for a peer, and refusals that become events (PROTOCOL §9, §16).

Of refusals, those of a known principal for what it may not do are events.

Always: per principal and code, the first ten of a minute are recorded singly and the rest as one count, so nobody can make the
log grow at will. Strangers' refusals are counters and log lines, never events.
"""

from msgspec import Struct

SINGLE_PER_MINUTE = 10
_MINUTE_MS = 60_000


class Overflow(Struct, frozen=True, kw_only=True):
    """Refusals beyond those recorded singly, in the minute that began at `minute_ms` (epoch)."""

    principal: str
    code: str
    count: int
    minute_ms: int


class MinuteShare:
    """How often each of several names did something in the running minute, in memory."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._taken: dict[str, tuple[int, int]] = {}

    def take(self, name: str, now_ms: int) -> bool:
        """Whether `name` may do it once more in this minute; if so, it has."""
        minute = now_ms // _MINUTE_MS
        last, count = self._taken.get(name, (minute, 0))
        count = count + 1 if last == minute else 1
        if count > self._per_minute:
            return False
        self._taken[name] = (minute, count)
        return True


class RefusalLimiter:
    """Counts refusals of the running minute, in memory: a restart forgets at most one minute's surplus."""

    def __init__(self) -> None:
        self._minute_ms = 0
        self._counts: dict[tuple[str, str], int] = {}
        self._overflows: list[Overflow] = []

    def admit(self, principal: str, code: str, now_ms: int) -> bool:
        """Whether this refusal is to be recorded singly."""
        self._turn(now_ms)
        count = self._counts.get((principal, code), 0) + 1
        self._counts[principal, code] = count
        return count <= SINGLE_PER_MINUTE

    def take_overflows(self, now_ms: int) -> list[Overflow]:
        """The counts of minutes that are over, once each."""
        self._turn(now_ms)
        overflows, self._overflows = self._overflows, []
        return overflows

    def _turn(self, now_ms: int) -> None:
        minute_ms = now_ms - now_ms % _MINUTE_MS
        if minute_ms == self._minute_ms:
            return
        self._overflows += [
            Overflow(principal=principal, code=code, count=count - SINGLE_PER_MINUTE, minute_ms=self._minute_ms)
            for (principal, code), count in self._counts.items()
            if count > SINGLE_PER_MINUTE
        ]
        self._minute_ms, self._counts = minute_ms, {}
