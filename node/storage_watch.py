"""Whether the disk takes writes and the folder lies where it was opened: asked once a second, so that a node recovers by itself.

Always: after a failure of the disk nothing is written before a commit went through that tried all an append needs, and the last
entries were found sound, as at a start. Views that the disk did not keep whole are made anew, beside those that are read meanwhile.
What fails is told once, and again when its words change.

Does not know how an append fails (see writer.py, events/store.py).
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from node.errors import LogDamaged, Refusal
from node.events.log import Log
from node.log_watch import recent_damage
from node.projections.views import Views
from node.writer import Writer

LOOK_EVERY_S = 1.0

_log = structlog.get_logger("stigmem.storage_watch")


class StorageWatch:
    """Looks after a writer's storage until it is closed, or the log is found damaged."""

    def __init__(
        self,
        log: Log,
        writer: Writer,
        *,
        kept_views: Callable[[Views], Awaitable[Views]],
        note_damage: Callable[[LogDamaged], None],
    ) -> None:
        """`kept_views` gives the views, or others made anew where the disk did not keep them."""
        self._log, self._writer, self._kept_views, self._note_damage = log, writer, kept_views, note_damage
        self._told: str | None = None
        self._task = asyncio.create_task(self._run(), name="stigmem-storage-watch")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except LogDamaged as damage:
                self._note_damage(damage)
                return
            except Refusal as refusal:
                self._writer.storage_failure = refusal
                self._tell(refusal)

    async def _look(self) -> None:
        if self._writer.storage_failure is None:
            await asyncio.to_thread(self._log.store.require_in_place)
            return
        self._tell(self._writer.storage_failure)
        await self._writer.try_log(self._require_sound)
        await self._writer.resume(self._kept_views)
        self._told = None
        _log.info("storage_recovered", log_size=self._log.head().size)

    def _require_sound(self) -> None:
        damage = recent_damage(self._log)
        if damage is not None:
            raise damage

    def _tell(self, refusal: Refusal) -> None:
        if refusal.detail != self._told:
            self._told = refusal.detail
            _log.error(refusal.code, detail=refusal.detail)
