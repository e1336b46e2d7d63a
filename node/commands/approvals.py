"""What only an admin may approve: what a repeated declaration asks for, a forked log's new line, and that of one that goes on
from a snapshot without all that we had seen of it (PROTOCOL §5.1, §10.3, §12).

Always: what is approved is what was recorded when it was held back, not what the peer says by now. A restored log's line has no
such record, for it contradicts nothing: it is the one that the peer shows, under another name than the one held.
"""

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal, require_scopes
from node.commands.gardens import require_operator
from node.commands.peers import find_peer
from node.errors import LogForked, NotAwaitingApproval
from node.events.event import Event
from node.events.peers import PeerCheckpointAccepted, PeerTermsApproved
from node.projections.peers import Peer
from node.projections.view import View


class ApprovePeer(Struct, frozen=True, kw_only=True):
    """`shown` is the peer's checkpoint now, as its pinned key signed it, where there may be a restored line to take."""

    principal: Principal
    peer_id: str
    accept_checkpoint: bool
    shown: str | None


def decide_approve_peer(command: ApprovePeer, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    peer = find_peer(command.peer_id, view)
    return Decision(events=(_approved(peer, command),), actor=command.principal.actor())


def is_renamed(peer: Peer, shown: str) -> bool:
    """Whether a checkpoint gives the peer's log another name than the one held of it does."""
    return peer.seen_checkpoint is not None and _name_in(peer.seen_checkpoint) != _name_in(shown)


def _approved(peer: Peer, command: ApprovePeer) -> Event:
    if peer.status == "revoked" and peer.fork is not None:
        # A word of its own: whoever approves peers by the dozen shall not take a forked log along.
        if not command.accept_checkpoint:
            raise LogForked("accept_checkpoint: true takes the line that the peer's log went on with")
        return PeerCheckpointAccepted(peer_id=peer.peer_id, node_id=peer.node_id, checkpoint=peer.fork.shown)
    if command.accept_checkpoint:
        if peer.status != "active" or command.shown is None or not is_renamed(peer, command.shown):
            raise NotAwaitingApproval(
                "accept_checkpoint: the peer's log has not forked, nor has it gone on from a snapshot"
            )
        return PeerCheckpointAccepted(peer_id=peer.peer_id, node_id=peer.node_id, checkpoint=command.shown)
    if peer.reason != "awaiting_approval":
        raise NotAwaitingApproval("nothing about this peer waits for an admin")
    terms = peer if peer.proposed is None else peer.proposed
    require_scopes(command.principal, terms.allowed_scopes, "peer_id")
    return PeerTermsApproved(peer_id=peer.peer_id, node_id=peer.node_id)


def _name_in(note: str) -> str:
    return note.partition("\n")[0]
