"""The digests of views that were just folded, taken by several processes: each reads some of the tables.

Always: the processes are there before the views are opened, because what LMDB has open does not survive a fork.
"""

from pathlib import Path

from msgspec import Struct

from node.projections import PROJECTIONS
from node.projections.views import Views, table_specs
from replay.opening import open_views
from replay.workers import Failed, Gone, NotDone, Tell, Worker


class _Tables(Struct, frozen=True):
    """Asks for the digests of these tables of the views in `folder`."""

    folder: Path
    names: list[str]


class Digests:
    """So many processes, to be closed by `with`."""

    def __init__(self, processes: int) -> None:
        self._workers = [Worker(_make_digesting) for _ in range(processes)]

    def begin(self, views: Views) -> None:
        """Have all tables read, of views to which nothing is written any more."""
        for worker, names in zip(self._workers, _shares(views, len(self._workers)), strict=True):
            worker.give(_Tables(views.folder, names))

    def result(self) -> dict[str, str]:
        """Each projection's digest by name; waits for them. Raises NotDone."""
        tables: dict[str, bytes] = {}
        for worker in self._workers:
            match worker.result():
                case dict(found):
                    tables |= found
                case Gone(how=words) | Failed(words=words):
                    raise NotDone(f"the new views could not be read: {words}")
        return {kind.name: kind.digest_of(tables) for kind in PROJECTIONS}

    def __enter__(self) -> "Digests":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()


def _shares(views: Views, count: int) -> list[list[str]]:
    """The tables in so many shares that are about as much to read: the largest first, each to whom has least."""
    with views.begin() as txn:
        sizes = {spec.name: txn.stat(views.handles[spec.name])["leaf_pages"] for spec in table_specs()}
    shares, loads = [[] for _ in range(count)], [0] * count
    for name in sorted(sizes, key=sizes.get, reverse=True):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += sizes[name]
    return shares


def _make_digesting() -> object:
    return _digests


def _digests(task: _Tables, _: Tell) -> dict[str, bytes]:
    views = open_views(task.folder, is_readonly=True)
    try:
        with views.begin() as txn:
            return {
                spec.name: views.handles.open(spec, txn).digest(is_fresh=True)
                for spec in table_specs()
                if spec.name in task.names
            }
    finally:
        views.close()
