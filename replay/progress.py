"""The bar that says how far a command has come, how fast, and how long it will still take.

Always: on standard error, and only where that is a terminal; what is read by a program gets nothing.
"""

import shutil
import sys

from tqdm import tqdm


class Bar:
    """A bar over entries. One per command, closed by `with`."""

    def __init__(self) -> None:
        # tqdm's monitor is a thread, and workers are forked.
        tqdm.monitor_interval = 0
        # A terminal that does not say how large it is would get nothing.
        columns, lines = shutil.get_terminal_size()
        self._bar = tqdm(
            total=0,
            unit=" entries",
            unit_scale=True,
            leave=False,
            file=sys.stderr,
            ncols=columns,
            nrows=lines,
            disable=not sys.stderr.isatty(),
        )

    def expect(self, entries: int) -> None:
        """So many more entries are to be gone through."""
        if not self._bar.disable:
            self._bar.total += entries
            self._bar.refresh()

    def advance(self, entries: int) -> None:
        self._bar.update(entries)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
