"""Witnessing peers' logs: which checkpoint one is measured against, and what is kept of a fork (PROTOCOL §10.3).

Always: that checkpoint moves on with a page's news, or by itself every ten minutes: alone it is no reason to write.
Always: a fork is recorded with both signed notes, and only an admin takes the line that came last.

Does not fetch or measure anything (see `node/peer_witness.py`).
"""

from msgspec import Struct

from node.commands.decision import Context, Decision
from node.errors import LogForked, TermsChanged
from node.events.event import NODE_ITSELF
from node.events.peers import PeerCheckpointSeen, PeerLogForked
from node.projections.peers import Peer
from node.projections.view import View

SEEN_EVERY_MS = 600_000


class Witnessed(Struct, frozen=True, kw_only=True):
    """`note`, a peer's signed checkpoint, was proved to go on from `after`, the one held of it then (None: the first)."""

    after: str | None
    note: str


class RecordFork(Struct, frozen=True, kw_only=True):
    """Evidence that was verified under the peer's pinned key; members as in PeerLogForked."""

    node_id: str
    held: str
    shown: str
    leaf_hash: str | None
    hashes: tuple[str, ...]


def decide_record_fork(command: RecordFork, view: View, context: Context) -> Decision:
    peer = view.peers.of_node(command.node_id)
    if peer is None or peer.status == "revoked" or peer.seen_checkpoint != command.held:
        raise TermsChanged("the peer changed while its log was measured")
    event = PeerLogForked(
        peer_id=peer.peer_id,
        node_id=peer.node_id,
        held=command.held,
        shown=command.shown,
        leaf_hash=command.leaf_hash,
        hashes=command.hashes,
    )
    return Decision(
        events=(event,), actor=NODE_ITSELF, refusal=LogForked("the peer signed two logs that cannot both be its own")
    )


def seen_with(
    peer: Peer, witnessed: Witnessed | None, *, has_news: bool, now_ms: int
) -> tuple[PeerCheckpointSeen, ...]:
    """The event that stores a newer checkpoint, where it is time for one."""
    if witnessed is None or peer.seen_checkpoint != witnessed.after or witnessed.note == peer.seen_checkpoint:
        return ()
    if peer.seen_checkpoint is not None and not has_news and now_ms - peer.seen_at_ms < SEEN_EVERY_MS:
        return ()
    return (PeerCheckpointSeen(node_id=peer.node_id, checkpoint=witnessed.note),)
