"""What only an admin may approve: what a repeated declaration asks for, and a forked log's new line (PROTOCOL §5.1, §10.3).

Always: what is approved is what was recorded when it was held back, not what the peer says by now.
"""

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal
from node.commands.gardens import require_operator
from node.commands.peers import find_peer
from node.errors import LogForked, NotAwaitingApproval
from node.events.event import Event
from node.events.peers import PeerCheckpointAccepted, PeerTermsApproved
from node.projections.peers import Peer
from node.projections.view import View


class ApprovePeer(Struct, frozen=True, kw_only=True):
    principal: Principal
    peer_id: str
    accept_checkpoint: bool


def decide_approve_peer(command: ApprovePeer, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    peer = find_peer(command.peer_id, view)
    return Decision(events=(_approved(peer, command.accept_checkpoint),), actor=command.principal.actor())


def _approved(peer: Peer, accept_checkpoint: bool) -> Event:
    if peer.status == "revoked" and peer.fork is not None:
        # A word of its own: whoever approves peers by the dozen shall not take a forked log along.
        if not accept_checkpoint:
            raise LogForked("accept_checkpoint: true takes the line that the peer's log went on with")
        return PeerCheckpointAccepted(peer_id=peer.peer_id, node_id=peer.node_id, checkpoint=peer.fork.shown)
    if accept_checkpoint:
        raise NotAwaitingApproval("accept_checkpoint: the peer's log has not forked")
    if peer.reason != "awaiting_approval":
        raise NotAwaitingApproval("nothing about this peer waits for an admin")
    return PeerTermsApproved(peer_id=peer.peer_id, node_id=peer.node_id)
