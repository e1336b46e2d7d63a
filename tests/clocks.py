"""A clock for tests that moves only when told, with counted random bytes: a log comes out the same byte for byte."""

import hashlib

from node.clock import Clock

START_MS = 1_777_896_000_000  # 2026-05-04T12:00:00.000Z


class CountedClock(Clock):
    """Every reading of the time moves it on by `step_ms`; every draw of random bytes is the hash of the next number."""

    def __init__(self, start_ms: int = START_MS, step_ms: int = 0) -> None:
        super().__init__(self._read, self._draw, lambda: self._time_ms * 1_000_000)
        self._time_ms = start_ms
        self._step_ms = step_ms
        self._draws = 0

    def advance(self, ms: int) -> None:
        """Move the time on, or back where `ms` is negative."""
        self._time_ms += ms

    def set(self, now_ms: int) -> None:
        self._time_ms = now_ms

    def draw_from(self, number: int) -> None:
        """Go on with that draw, whatever was drawn before: two clocks that have gone different ways come together again."""
        self._draws = number

    def _read(self) -> int:
        now_ms = self._time_ms
        self._time_ms += self._step_ms
        return now_ms

    def _draw(self, n: int) -> bytes:
        self._draws += 1
        return hashlib.shake_256(self._draws.to_bytes(8, "big")).digest(n)


def fixed_clock(*, start_ms: int = START_MS, step_ms: int = 0) -> CountedClock:
    return CountedClock(start_ms, step_ms)
