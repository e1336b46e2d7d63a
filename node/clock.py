"""The node's clock: wall time, the hybrid logical clock, fresh ids and random bytes.

Always: HLCs of `tick` strictly increase and times of `at_ms` never decrease, whatever the machine's clock does.
A peer's HLC moves ours at most up to our own wall clock (PROTOCOL §1).
Everything not determined by a command and a view comes from here, so a fixed clock makes a whole log reproducible.

Does not check: whether a peer's HLC is too far ahead (see node/commands/exchange.py). Belongs to one thread.
"""

import os
import re
import time
from collections.abc import Callable
from typing import Self

# Thirteen digits reach the year 2286; more would break the order of HLCs as strings.
_HLC = re.compile(r"([0-9]{1,13})\.([0-9]{1,9})")
_LAST_COUNTER = 999


def parse_hlc(text: str) -> tuple[int, int]:
    """(wall_ms, counter), to be compared as such: a foreign counter may be unpadded. ValueError where it is no HLC."""
    match = _HLC.fullmatch(text)
    if match is None:
        raise ValueError("not a hybrid logical clock")
    return int(match[1]), int(match[2])


def format_hlc(wall_ms: int, counter: int) -> str:
    return f"{wall_ms:013d}.{counter:03d}"


class Clock:
    """One per node. Time and randomness come in by constructor."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        # What no event carries and no setting of the machine's clock may stretch goes by this one.
        self.monotonic_ns = monotonic_ns
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._wall_ms = 0
        self._counter = -1
        self._at_ms: int | None = None

    @classmethod
    def system(cls) -> Self:
        return cls(lambda: time.time_ns() // 1_000_000, _RandomPool().draw)

    def now_ms(self) -> int:
        """The machine's wall clock, which may jump back."""
        return self._now_ms()

    def at_ms(self) -> int:
        """The wall clock as events carry it: never before a time already handed out."""
        now_ms = self._now_ms()
        if self._at_ms is None or now_ms > self._at_ms:
            self._at_ms = now_ms
        return self._at_ms

    def tick(self) -> str:
        """The HLC of a local event."""
        now_ms = self._now_ms()
        if now_ms > self._wall_ms:
            self._wall_ms, self._counter = now_ms, 0
        elif self._counter >= _LAST_COUNTER:
            self._wall_ms, self._counter = self._wall_ms + 1, 0
        else:
            self._counter += 1
        return format_hlc(self._wall_ms, self._counter)

    def observe(self, remote_hlc: str) -> None:
        """Receipt of a peer's event: ours that follow come after it, unless it lies ahead of our wall clock."""
        remote, now_ms = parse_hlc(remote_hlc), self._now_ms()
        self._move_to(remote if remote[0] <= now_ms else (now_ms, 0))

    def resume(self, hlc: str, at_ms: int) -> None:
        """Go on from the head entry of the log."""
        self._move_to(parse_hlc(hlc))
        self._at_ms = at_ms if self._at_ms is None else max(self._at_ms, at_ms)

    def new_id(self) -> str:
        """A UUIDv7 (RFC 9562): ordered by the millisecond it was made in."""
        time_bits = (self._now_ms() & 0xFFFF_FFFF_FFFF) << 80
        random_bits = int.from_bytes(self._random_bytes(10), "big") & 0x0FFF_3FFF_FFFF_FFFF_FFFF
        digits = f"{time_bits | random_bits | 0x7000_8000_0000_0000_0000:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def random_bytes(self, n: int) -> bytes:
        return self._random_bytes(n)

    def _move_to(self, hlc: tuple[int, int]) -> None:
        self._wall_ms, self._counter = max((self._wall_ms, self._counter), hlc)


class _RandomPool:
    """The system's random bytes, fetched a few kilobytes at a time: a write draws twice, and each fetch is a system call."""

    _POOL_BYTES = 4096

    def __init__(self) -> None:
        self._pool, self._at = b"", 0

    def draw(self, n: int) -> bytes:
        if self._at + n > len(self._pool):
            self._pool, self._at = os.urandom(max(self._POOL_BYTES, n)), 0
        self._at += n
        return self._pool[self._at - n : self._at]
