"""How long a node waits before it asks a peer again that could not, or would not, be asked (PROTOCOL §5.1, §5.3).

Always: at most five minutes, or twenty intervals where those are shorter, and spread, so that peers of one node that came back
do not ask all at once.
"""

import asyncio
import random

MAX_BACKOFF_S = 300.0
MAX_BACKOFF_INTERVALS = 20


def longest_wait_s(interval_s: int) -> float:
    """What no wait exceeds, where a peer is asked every `interval_s`."""
    return min(MAX_BACKOFF_S, MAX_BACKOFF_INTERVALS * float(interval_s))


def backoff_s(failures: int, interval_s: int) -> float:
    """The wait after so many failures in a row: 1, 2, 4, 8 s and so on."""
    return jittered(min(longest_wait_s(interval_s), 2.0 ** min(failures - 1, 10)))


async def wait_for_any(*events: asyncio.Event, timeout_s: float) -> None:
    """Wait until one of them is set, or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def jittered(delay_s: float) -> float:
    return delay_s * random.uniform(0.5, 1.0)
