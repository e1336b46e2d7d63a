"""Going on from a snapshot: the first event behind it, and an admin's word for what may be lost (PROTOCOL §12).

Always: until that word is given, no capability token issued before the restore counts: its revocation may be what was lost.

Does not restore anything (see replay/snapshots/).
"""

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal
from node.commands.gardens import require_operator
from node.errors import NothingToConfirm
from node.events.checkpoint import restored_origin
from node.events.event import NODE_ITSELF
from node.events.identity import NodeRestored, RestoreConfirmed
from node.projections.view import View

SUFFIX_BYTES = 8


class RecordRestore(Struct, frozen=True, kw_only=True):
    """The log stands where a snapshot left it: `size` entries under `root` (hex)."""

    size: int
    root: str


class ConfirmRestore(Struct, frozen=True, kw_only=True):
    """What was issued before the last restore counts again."""

    principal: Principal


def decide_record_restore(command: RecordRestore, view: View, context: Context) -> Decision:
    # Always a new name: a peer can prove what it has seen of the old line, and nobody that there was no more of it.
    origin = restored_origin(context.node_id, context.clock.random_bytes(SUFFIX_BYTES))
    return Decision(events=(NodeRestored(size=command.size, root=command.root, origin=origin),), actor=NODE_ITSELF)


def decide_confirm_restore(command: ConfirmRestore, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    restore = view.identity.last_restore()
    if restore is None or restore.is_confirmed:
        raise NothingToConfirm("no restore waits for an admin's word")
    return Decision(
        events=(RestoreConfirmed(offset=restore.offset),), actor=command.principal.actor(), reply=restore.offset
    )
