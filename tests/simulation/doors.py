"""What a node answers a peer, below HTTP: what `node/http/exchange.py` and its neighbours do, without the sockets.

What they do with a view is their own code; here is only what a request would have gone through before.
"""

import msgspec

from node.commands.exchange import ServePage, TakeCosignature
from node.commands.introductions import held_manifest
from node.commands.peer_tokens import authenticate, parse_peer_token
from node.commands.pushes import examine_push
from node.commands.tombstones import ServeTombstones
from node.errors import ManifestNotFound, PeerFailed, Refusal, Unavailable
from node.events.checkpoint import open_checkpoint, origin_of
from node.events.manifest_proof import checkpoint_at, consistency_proof, inclusion_proof
from node.http.cursors import opened_kept_cursor
from node.http.exchange import PullQuery, PushBody, page_body
from node.http.tombstones import ServedQuery, served_page
from node.peer_client import PeerRefused
from node.runtime import Node
from tests.simulation.nodes import SimulatedNode
from tests.simulation.transport import COSIGN, MANIFEST, PULL, PUSH, TOMBSTONES, Request


async def answer(at: SimulatedNode, request: Request) -> bytes | PeerRefused | PeerFailed:
    """The answer of a node to a request that arrived, a refusal included. Raises NodeCrashed."""
    act = {PULL: _pull, PUSH: _push, COSIGN: _cosign, MANIFEST: _manifest, TOMBSTONES: _tombstones}[request.path]
    try:
        return await act(at, request)
    except Refusal as refusal:
        # As the client takes them: one that may pass by itself is no word on what was asked.
        return PeerFailed(refusal.detail) if isinstance(refusal, Unavailable) else PeerRefused(403, refusal.code)


def look_up(node: Node, path: str, params: dict[str, str]) -> bytes:
    """The node's log as anybody may see it: its checkpoint and the proofs between two."""
    if path == "/v1/log/checkpoint":
        size = node.log.announced().size
        return checkpoint_at(node.log, size, node.log_origin(size), node.signer).encode()
    asked = {name: int(text) for name, text in params.items()}
    if path == "/v1/log/proof/consistency":
        origin = node.log_origin(asked["to"])
        return msgspec.json.encode(consistency_proof(node.log, asked["from"], asked["to"], origin, node.signer))
    if path == "/v1/log/proof/inclusion":
        origin = node.log_origin(asked["size"])
        return msgspec.json.encode(inclusion_proof(node.log, asked["offset"], asked["size"], origin, node.signer))
    raise PeerRefused(404, "not_found")


async def _pull(at: SimulatedNode, request: Request) -> bytes:
    claims = _claims(at, request)
    asked = PullQuery(cursor=request.params.get("cursor"), limit=min(at.most_facts, int(request.params["limit"])))
    command = ServePage(claims=claims, scope=asked.scope, cursor=asked.cursor, limit=asked.limit)
    scopes = (await at.execute(command)).reply
    with at.node.view() as view:
        return page_body(asked, claims.iss, scopes, at.sync.lags_ms(), at.clock.now_ms(), at.node, view)[0]


async def _push(at: SimulatedNode, request: Request) -> bytes:
    claims, body = _claims(at, request), msgspec.json.decode(request.body, type=PushBody)
    with at.node.view() as view:
        command = examine_push(body.facts, body.sender_hlc, claims=claims, view=view, context=at.node.context())
    return msgspec.json.encode((await at.execute(command)).reply)


async def _manifest(at: SimulatedNode, request: Request) -> bytes:
    with at.node.view() as view:
        manifest = held_manifest(request.params["entity_uri"], view, at.node.context())
    if manifest is None:
        raise ManifestNotFound("no manifest of that entity is held here")
    return manifest


async def _tombstones(at: SimulatedNode, request: Request) -> bytes:
    scopes = (await at.execute(ServeTombstones(claims=_claims(at, request)))).reply
    cursor = request.params.get("cursor")
    asked = ServedQuery(cursor=cursor, limit=int(request.params["limit"]))
    with at.node.view() as view:
        return msgspec.json.encode(
            served_page(asked, -1 if cursor is None else opened_kept_cursor(cursor), scopes, None, view)
        )


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
