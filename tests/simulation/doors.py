"""What a node answers a peer, below HTTP: the steps of `node/http/exchange.py` and `node/http/log.py` without the sockets."""

import msgspec

from node.commands.exchange import ServePage, TakeCosignature
from node.commands.ingest import examine
from node.commands.peer_tokens import authenticate, check_claims, parse_peer_token
from node.commands.pushes import TakePush
from node.commands.served_facts import served_fact
from node.errors import Refusal
from node.events.checkpoint import open_checkpoint, origin_of
from node.events.manifest_proof import checkpoint_at, consistency_proof, inclusion_proof
from node.peer_client import PeerRefused
from node.projections.federation_page import page_for
from node.runtime import Node
from tests.simulation.nodes import SimulatedNode
from tests.simulation.transport import COSIGN, PULL, PUSH, Request


async def answer(at: SimulatedNode, request: Request) -> bytes | PeerRefused:
    """The answer of a node to a request that arrived, a refusal included. Raises NodeCrashed."""
    act = {PULL: _pull, PUSH: _push, COSIGN: _cosign}[request.path]
    try:
        return await act(at, request)
    except Refusal as refusal:
        return PeerRefused(403, refusal.code)


def look_up(node: Node, path: str, params: dict[str, str]) -> bytes:
    """The node's log as anybody may see it: its checkpoint and the proofs between two."""
    if path == "/v1/log/checkpoint":
        return checkpoint_at(node.log, node.log.announced().size, node.node_id, node.signer).encode()
    asked = {name: int(text) for name, text in params.items()}
    if path == "/v1/log/proof/consistency":
        return msgspec.json.encode(consistency_proof(node.log, asked["from"], asked["to"], node.node_id, node.signer))
    if path == "/v1/log/proof/inclusion":
        return msgspec.json.encode(inclusion_proof(node.log, asked["offset"], asked["size"], node.node_id, node.signer))
    raise PeerRefused(404, "not_found")


async def _pull(at: SimulatedNode, request: Request) -> bytes:
    claims = _claims(at, request)
    cursor, limit = request.params.get("cursor"), min(at.most_facts, int(request.params["limit"]))
    scopes = (await at.execute(ServePage(claims=claims, scope=None, cursor=cursor, limit=limit))).reply
    with at.node.view() as view:
        page = page_for(view, peer_node_id=claims.iss, scopes=scopes, cursor=cursor, limit=limit)
    facts = [served_fact(fact) for fact in page.facts]
    return msgspec.json.encode({"facts": facts, "cursor": page.cursor, "has_more": page.has_more})


async def _push(at: SimulatedNode, request: Request) -> bytes:
    claims = _claims(at, request)
    body = msgspec.json.decode(request.body)
    with at.node.view() as view:
        context, peer = at.node.context(), view.peers.of_node(claims.iss)
        check_claims(claims, view, context)
        outcomes = tuple(examine(msgspec.json.encode(fact), peer, view, context) for fact in body["facts"])
    command = TakePush(
        claims=claims,
        public_key=peer.public_key,
        terms_from=peer.terms_from,
        sender_hlc=body["sender_hlc"],
        outcomes=outcomes,
    )
    return msgspec.json.encode((await at.execute(command)).reply)


async def _cosign(at: SimulatedNode, request: Request) -> bytes:
    claims = _claims(at, request)
    body = msgspec.json.decode(request.body)
    note = body["checkpoint"]
    size = open_checkpoint(note, origin=origin_of(at.node_id), public_key=at.signer.public_key).size
    await at.execute(TakeCosignature(claims=claims, note=note, size=size, cosignature=body["cosignature"]))
    return b"{}"


def _claims(at: SimulatedNode, request: Request):
    with at.node.view() as view:
        return authenticate(parse_peer_token(request.token), view, at.clock.at_ms())
