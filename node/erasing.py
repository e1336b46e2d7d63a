"""Erasing what tombstones hide: first an event that says what, then the rows, then the files they lay in (docs/tombstones.md).

Always: a note lies in the folder from before the event until the files hold nothing of what was erased, so that whatever is cut
off is finished at the next start. While log and views are written anew nothing is written; reads go on. Of an entity of which
nothing was ever in the log there is nothing in the files: no note, and nothing is written anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from node.commands.tombstones import EraseEntity
from node.durable import sync
from node.errors import Refusal
from node.events.at_rest_folder import FolderKeys
from node.events.erasures import NOTE
from node.events.log import Log
from node.events.store import storage_errors
from node.events.tombstones import ErasedPlace
from node.projections.erased_items import items_about
from node.projections.tombstones import Grave
from node.projections.view import View
from node.projections.views import Views, point_at
from node.writer import Writer

_log = structlog.get_logger("stigmem.erasing")

Read = Callable[[Callable[[View], Any]], Awaitable[Any]]


class _Found(Struct, frozen=True):
    """The first tombstone whose entity is to be erased, where the log holds anything of that, and whether it was erased before."""

    grave: Grave
    places: tuple[ErasedPlace, ...]
    was_erased: bool

    @property
    def is_in_files(self) -> bool:
        """Whether the files may hold anything of it: of one erased before, and revoked since, its key may have been left."""
        return bool(self.places) or self.was_erased


class Eraser:
    """The erasing of one node. `replace` takes the views that the node reads from then on."""

    def __init__(
        self,
        *,
        folder: Path,
        log: Log,
        writer: Writer,
        read: Read,
        replace: Callable[[Views], None],
        keys: FolderKeys,
    ) -> None:
        self._folder, self._log, self._writer, self._keys = folder, log, writer, keys
        self._read, self._replace = read, replace
        self._turn = asyncio.Lock()
        note = folder / NOTE
        # The files hold nothing of what so many entries erase. Not known at start: then whatever was erased is looked at again.
        self._clean_size = 0
        self._unfinished = set(note.read_text().split()) if note.is_file() else set()
        self._tasks: set[asyncio.Future[None]] = set()

    @property
    def unfinished(self) -> frozenset[str]:
        """The ids of tombstones of whose entities the files may still hold something, though the log says that it is erased."""
        return frozenset(self._unfinished)

    async def catch_up(self) -> None:
        """Erase whatever is to be erased and is not yet, to the end once it has begun. A failure is logged: call it again."""
        task = asyncio.ensure_future(self._take_turn())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_turn(self) -> None:
        try:
            async with self._turn:
                await self._catch_up()
        except Refusal as refusal:
            _log.error("erasure_failed", code=refusal.code, detail=refusal.detail)

    async def _catch_up(self) -> None:
        found = await self._read(self._next)
        while found is not None:
            if found.is_in_files:
                self._put_note(found.grave.tombstone.id)
            await self._writer.execute(EraseEntity(tombstone_id=found.grave.tombstone.id, places=found.places))
            found = await self._read(self._next)
        if not (self._folder / NOTE).exists():
            return
        views = await self._writer.rewrite(self._write_anew)
        self._replace(views)
        with storage_errors():
            (self._folder / NOTE).unlink()
            sync(self._folder)
        self._unfinished.clear()
        _log.info("erased", log_size=self._log.head().size)

    def _next(self, view: View) -> _Found | None:
        held = view.tombstones.held_entities()
        graves = list(view.tombstones.newest_first())
        due = (one for one in graves if one.is_to_be_erased and one.tombstone.entity_uri not in held)
        grave = next(due, None)
        if grave is None:
            return None
        entity = grave.tombstone.entity_uri
        was_erased = any(one.erased_at is not None for one in graves if one.tombstone.entity_uri == entity)
        return _Found(grave, tuple(items_about(entity, view, self._log)), was_erased)

    def _put_note(self, tombstone_id: str) -> None:
        self._unfinished.add(tombstone_id)
        with storage_errors():
            note = self._folder / NOTE
            note.touch(mode=0o600)
            with note.open("a") as file:
                file.write(f"{tombstone_id}\n")
            sync(note)
            sync(self._folder)

    def _write_anew(self, views: Views) -> Views:
        size = self._log.head().size
        erased = self._log.erasures(self._clean_size)
        with views.reading() as view:
            graves = list(view.tombstones.newest_first())
        # Of one whose tombstone was revoked there may be news, under the key that it has now.
        gone = [one.tombstone.entity_uri for one in graves if one.erased_at is not None and one.revocation is None]
        with storage_errors():
            key = self._keys.prepare()
        self._log.erase(((offset, item) for offset, items in erased.items() for item in items), gone, key)
        with storage_errors():
            if key is not None:
                self._keys.finish(key)
        self._log.compact()
        with storage_errors():
            made = views.written_anew()
            point_at(made.folder, is_closed=False, file_key=made.file_key)
        self._clean_size = size
        return made
