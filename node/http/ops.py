"""/healthz and /readyz: whether the process lives, and whether it can take a write (PROTOCOL §13)."""

from typing import Literal

from aiohttp import web
from msgspec import Struct

from node.errors import LogDamaged, NotReady, StorageFailed, StorageFull
from node.http.body import encoded
from node.http.describe import PUBLIC, describes
from node.http.forms import Count
from node.http.keys import NODE


class Alive(Struct, frozen=True, kw_only=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Ready(Struct, frozen=True, kw_only=True):
    """Writes are taken; `log_size` counts the entries of the log."""

    status: Literal["ready"] = "ready"
    log_size: Count


@describes("whether the process lives", who=PUBLIC, answers={200: Alive}, reads_node=False)
def healthz(request: web.Request) -> bytes:
    return encoded(Alive())


@describes(
    "whether writes are taken",
    who=PUBLIC,
    answers={200: Ready},
    refuses=(NotReady, LogDamaged, StorageFull, StorageFailed),
)
def readyz(request: web.Request) -> bytes:
    """503 where the writer has stopped, or the disk takes nothing; it starts only once the views stand at the log's head."""
    node = request.app[NODE]
    node.require_ready()
    return encoded(Ready(log_size=node.log.announced().size))
