"""A log checked by several processes: stretches handed out in order, beside them the walk through the file's pages, and the fold
that the views are held against.

Always: what is found does not depend on how many processes there are: the structure of the file, the first bad offset of the
log, then what belongs to no entry, then the views. What lies behind the first bad offset is not waited for.
Always: whoever reads the file before its structure is known to hold is a process that may be taken down, and goes through
no more rows than it was asked for.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct, structs

from node.events.log_check import Checked, Damage, LogCheck
from node.events.log_file import structural_problem
from replay.chain import log_check, require_format
from replay.live_views import REMEDY, Folded, FoldTask, fold_and_compare, standing
from replay.probe import first_unreadable_offset
from replay.progress import Bar
from replay.workers import Failed, Gone, NotDone, Progress, Tell, Worker, whoever_speaks

_STRETCH = 1024
_QUICK_STRETCH = 4096


class Survey(Struct, frozen=True):
    """Asks how many entries there are."""


class Stretch(Struct, frozen=True):
    """Asks for the entries of [first, end)."""

    first: int
    end: int
    is_quick: bool


class Rest(Struct, frozen=True):
    """Asks for what belongs to no entry (with `is_whole`), and for the roots at these sizes."""

    is_whole: bool
    items: int | None
    sizes: tuple[int, ...]


class Rested(Struct, frozen=True):
    """`roots` are None where `damage` is there."""

    damage: Damage | None
    roots: tuple[bytes, ...]


def survey(log_dir: Path) -> int | Damage:
    """How many entries the log has, by a process of its own. Raises NotDone where there is no log that this version reads."""
    match _ask(log_dir, Survey()):
        case Gone(how=how):
            return Damage(0, f"opening the file ends the reader: {how}")
        case Failed(offset=offset, words=words):
            return Damage(offset, words)
        case size:
            return size


def rest_of(log_dir: Path, task: Rest) -> Rested:
    """What is in no stretch; to be asked once all stretches were found to hold."""
    match _ask(log_dir, task):
        case Gone(how=how):
            return Rested(Damage(None, f"reading the tables to their end ends the reader: {how}"), ())
        case Failed(offset=offset, words=words):
            return Rested(Damage(offset, words), ())
        case rested:
            return rested


class Walked(Struct, frozen=True):
    """What is wrong with the structure of the LMDB file in a folder, or None."""

    problem: str | None


class LogRun:
    """One verification of the log in `log_dir`, by so many processes at a time.

    With `walks`, the structure of its file is checked beside the rest, and `problem` says what is wrong with it.
    """

    def __init__(self, log_dir: Path, *, workers: int, is_quick: bool, bar: Bar, walks: bool = False) -> None:
        self._log_dir, self._workers, self._is_quick, self._bar = log_dir, workers, is_quick, bar
        self._stretches: Iterator[Stretch] = iter(())
        self._readers: list[Worker] = []
        self._to_walk: list[Path] = [log_dir] if walks else []
        self._walkers: list[Worker] = []
        self._problems: dict[Path, str | None] = {}
        self._folder: Worker | None = None
        self._then: FoldTask | None = None
        self._stands = False
        self._folded_to = 0
        self.items = 0
        self.damage: Damage | None = None
        self.folded: Folded | None = None

    def check(self, first: int, end: int, folding: FoldTask | None) -> None:
        """Check the entries of [first, end) and do the fold; `problem`, `damage` and `folded` say what came of it."""
        self._bar.expect((end - first) + (0 if folding is None else end))
        self._stretches = self._cut(first, end)
        if folding is not None and folding.live is not None:
            self._to_walk.append(folding.live)
        try:
            # The longest first, as it cannot be divided. With one process it comes when the log is known to hold.
            if folding is not None and self._workers > 1:
                self._start_fold(folding)
            self._read()
            if folding is not None and self.problem is None:
                self._finish_fold(folding)
        finally:
            for worker in self._active():
                worker.end()

    @property
    def problem(self) -> str | None:
        return self._problems.get(self._log_dir)

    def _cut(self, first: int, end: int) -> Iterator[Stretch]:
        width = _QUICK_STRETCH if self._is_quick else _STRETCH
        while first < end:
            # At multiples of the width, wherever the first one starts.
            stop = min(end, (first // width + 1) * width)
            yield Stretch(first, stop, self._is_quick)
            first = stop

    def _active(self) -> list[Worker]:
        return [*self._walkers, *self._readers, *([] if self._folder is None else [self._folder])]

    def _read(self) -> None:
        self._hire()
        while (self._readers or self._walkers) and self.problem is None:
            for worker in whoever_speaks(self._active()):
                if worker is self._folder:
                    self._hear_fold()
                elif worker in self._walkers:
                    self._hear_walker(worker)
                else:
                    self._hear_reader(worker)
            self._hire()

    def _hire(self) -> None:
        while len(self._active()) < self._workers and self._to_walk:
            walker = Worker(_make_walker)
            self._walkers.append(walker)
            walker.give(self._to_walk.pop(0))
        while len(self._active()) < self._workers and (stretch := self._next()) is not None:
            reader = Worker(partial(_make_reader, self._log_dir))
            self._readers.append(reader)
            reader.give(stretch)

    def _next(self) -> Stretch | None:
        stretch = next(self._stretches, None)
        is_behind = stretch is not None and self.damage is not None and stretch.first > self.damage.offset
        return None if is_behind else stretch

    def _hear_walker(self, walker: Worker) -> None:
        match walker.hear():
            case Walked(problem=problem):
                self._problems[walker.task] = problem
            case Gone(how=words) | Failed(words=words):
                raise NotDone(f"the structure of the file could not be checked: {words}")
        self._walkers.remove(walker)
        walker.end()
        self._fold_on()

    def _hear_reader(self, reader: Worker) -> None:
        stretch = reader.task
        match reader.hear():
            case Checked(items=items, damage=damage):
                self.items += items
                if damage is not None and (self.damage is None or damage.offset <= self.damage.offset):
                    self.damage = damage
                self._bar.advance(stretch.end - stretch.first)
                self._go_on(reader)
            case Gone(how=how):
                self._note_unreadable(reader, f"reading it ends the reader: {how}")
            case Failed(words=words):
                self._note_unreadable(reader, words)

    def _go_on(self, reader: Worker) -> None:
        stretch = self._next()
        if stretch is not None:
            reader.give(stretch)
        else:
            self._dismiss(reader)

    def _note_unreadable(self, reader: Worker, words: str) -> None:
        stretch = reader.task
        self._dismiss(reader)
        offset = first_unreadable_offset(self._log_dir, stretch.first, stretch.end)
        damage = Damage(stretch.first if offset is None else offset, words)
        if self.damage is None or damage.offset <= self.damage.offset:
            self.damage = damage

    def _dismiss(self, reader: Worker) -> None:
        self._readers.remove(reader)
        reader.end()

    def _start_fold(self, task: FoldTask) -> None:
        self._folder = Worker(_make_folder)
        self._stands = task.live is None or task.live in self._problems
        if task.end is not None:
            self._folder.give(task)
            return
        self._then = task
        if not self._stands:
            self._folder.give(structs.replace(task, end=_standing(task)))
        self._fold_on()

    def _fold_on(self) -> None:
        """Compare and fold to the head, once the fold stands where the live views do and those were walked through."""
        task = self._then
        if task is None or not self._stands or (task.live is not None and task.live not in self._problems):
            return
        self._folder.give(structs.replace(task, problem=self._problems.get(task.live)))
        self._then = None

    def _finish_fold(self, task: FoldTask) -> None:
        if self._folder is None and self.folded is None:
            end = None if self.damage is None else self.damage.offset
            self._start_fold(structs.replace(task, end=end))
        while self._folder is not None:
            # Behind the first bad offset the fold can find nothing that would be named.
            if self.damage is not None and self._folded_to >= self.damage.offset:
                self._end_fold(Folded(""))
            else:
                self._hear_fold()

    def _hear_fold(self) -> None:
        match self._folder.hear():
            case Progress(entries=entries):
                self._folded_to += entries
                self._bar.advance(entries)
            case Gone(how=how):
                self._end_fold(_unread(how))
            case Failed(offset=offset, words=words):
                self._end_fold(Folded("", of_views=Damage(offset, words)))
            case Folded(of_log=None) if self._then is not None:
                self._stands = True
                self._fold_on()
            case Folded() as folded:
                self._end_fold(folded)

    def _end_fold(self, folded: Folded) -> None:
        self._folder.end()
        self._folder, self._then, self.folded = None, None, folded
        of_log = folded.of_log
        if of_log is not None and (self.damage is None or of_log.offset < self.damage.offset):
            self.damage = of_log


def _ask(log_dir: Path, task: object) -> object:
    """What a process of its own makes of one task."""
    reader = Worker(partial(_make_reader, log_dir))
    try:
        reader.give(task)
        return reader.result()
    finally:
        reader.end()


def _standing(task: FoldTask) -> int:
    """How far to fold before the live views may be looked at: as far as they say they stand, if they say so."""
    reader = Worker(_make_standing)
    try:
        reader.give(task)
        found = reader.result()
        return found if isinstance(found, int) else 0
    except NotDone:  # is told by whoever compares
        return 0
    finally:
        reader.end()


def _unread(how: str) -> Folded:
    return Folded("", of_views=Damage(None, f"reading the live views ends the reader: {how}; {REMEDY}"))


def _make_reader(log_dir: Path) -> object:
    require_format(log_dir)
    return partial(_read, log_check(log_dir))


def _make_folder() -> object:
    return fold_and_compare


def _make_walker() -> object:
    return lambda folder, _: Walked(structural_problem(folder))


def _make_standing() -> object:
    return standing


def _read(log: LogCheck, task: Survey | Stretch | Rest, _: Tell) -> int | Checked | Rested:
    match task:
        case Survey():
            return log.size
        case Stretch(first=first, end=end, is_quick=is_quick):
            return log.check_quickly(first, end) if is_quick else log.check(first, end)
        case Rest(is_whole=is_whole, items=items, sizes=sizes):
            damage = log.check_rest(items) if is_whole else None
            return Rested(damage, () if damage else tuple(map(log.root_at, sizes)))
