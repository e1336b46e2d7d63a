"""The application: the one route table, its middlewares, and its parts."""

import asyncio
import re
from functools import cache

from aiohttp import web
from aiohttp.typedefs import Handler

from node.config import is_loopback_host
from node.countersign import Countersigner
from node.errors import WrongHost
from node.http import (
    api_keys,
    audit,
    batches,
    conflicts,
    docs,
    exchange,
    facts,
    gardens,
    identity,
    log,
    manifests,
    members,
    ops,
    peers,
    provenance,
    quarantine,
    rotations,
    settings,
    tokens,
    tombstones,
    trust,
)
from node.http.body import ROOM, BodyRoom
from node.http.errors import answer_refusals
from node.http.idempotency import TURNS, Turns
from node.http.keys import COUNTERSIGNER, DOCUMENT, FOLLOWER, LARGE_BODIES, NODE, PEERS, SYNC, Document, PullNow
from node.http.openapi import document_of
from node.http.prompt import PROMPT, PromptRoutes, is_prompt, patient
from node.key_following import KeyFollower
from node.peer_client import PeerClient
from node.runtime import Node

_IPV6_HOST = re.compile(r"\[([0-9a-fA-F:.]+)\](?::[0-9]+)?")

ROUTES = (
    web.get("/.well-known/stigmem", identity.discovery),
    web.get("/.well-known/stigmem-manifest.json", manifests.own_manifest),
    web.get("/.well-known/stigmem-manifest-proof.json", manifests.own_manifest_proof),
    web.get("/healthz", ops.healthz),
    web.get("/readyz", ops.readyz),
    web.get("/openapi.json", docs.openapi),
    web.get("/docs", docs.page),
    web.get("/docs/{asset}", docs.asset),
    web.get("/v1/me", identity.me),
    web.post("/v1/auth/keys", api_keys.create_key),
    web.get("/v1/auth/keys", api_keys.list_keys),
    web.get("/v1/auth/keys/{key_id}", api_keys.get_key),
    web.delete("/v1/auth/keys/{key_id}", api_keys.revoke_key),
    web.get("/v1/admin/config", settings.get_settings),
    web.patch("/v1/admin/config", settings.patch_settings),
    web.post("/v1/admin/restore/confirm", settings.confirm_restore),
    web.post("/v1/admin/keys/rotate", rotations.rotate_key),
    web.get("/v1/admin/audit-log", audit.audit_log),
    web.post("/v1/facts", facts.assert_fact),
    web.get("/v1/facts", facts.list_facts),
    web.get("/v1/facts/{fact_id}", facts.get_fact),
    web.post("/v1/facts/batch", batches.assert_facts),
    web.get("/v1/facts/{fact_id}/body", facts.get_body),
    web.post("/v1/facts/{fact_id}/verify-cid", provenance.verify_cid),
    web.get("/v1/facts/{fact_id}/provenance", provenance.get_provenance),
    web.get("/v1/entities/{entity_uri:.+}/history", provenance.entity_history),
    web.get("/v1/conflicts", conflicts.list_conflicts),
    web.post("/v1/conflicts/{conflict_id}/resolve", conflicts.resolve_conflict),
    web.post("/v1/gardens", gardens.create_garden),
    web.get("/v1/gardens", gardens.list_gardens),
    web.get("/v1/gardens/{garden}", gardens.get_garden),
    web.delete("/v1/gardens/{garden}", gardens.delete_garden),
    web.get("/v1/gardens/{garden}/members", members.list_members),
    web.post("/v1/gardens/{garden}/members", members.add_member),
    web.patch("/v1/gardens/{garden}/members/{entity_uri:.+}", members.change_member),
    web.delete("/v1/gardens/{garden}/members/{entity_uri:.+}", members.remove_member),
    web.post("/v1/gardens/{garden}/promote", quarantine.promote_fact),
    web.post("/v1/gardens/{garden}/reject", quarantine.reject_fact),
    web.get("/v1/quarantine", quarantine.list_quarantine),
    web.get("/v1/trust", trust.explain_trust),
    web.post("/v1/tombstones", tombstones.create_tombstone),
    web.get("/v1/tombstones", tombstones.list_tombstones),
    web.get("/v1/tombstones/{tombstone_id}", tombstones.get_tombstone),
    web.post("/v1/tombstones/{tombstone_id}/lift-hold", tombstones.lift_hold),
    web.post("/v1/tombstones/{tombstone_id}/revoke", tombstones.revoke_tombstone),
    web.put("/v1/federation/manifest", manifests.put_manifest),
    web.get("/v1/federation/manifest/{entity_uri:.+}", manifests.get_manifest),
    web.post("/v1/federation/declaration", peers.declare),
    web.post("/v1/federation/peers", peers.register_peer),
    web.get("/v1/federation/peers", peers.list_peers),
    web.patch("/v1/federation/peers/{peer_id}", peers.change_peer),
    web.delete("/v1/federation/peers/{peer_id}", peers.remove_peer),
    web.get("/v1/federation/peers/{peer_id}/capabilities", peers.get_capabilities),
    web.post("/v1/federation/peers/{peer_id}/check", peers.check_now),
    web.post("/v1/federation/peers/{peer_id}/approve", peers.approve_peer),
    web.post("/v1/federation/peers/{peer_id}/pull", peers.pull_now),
    web.get("/v1/federation/audit", audit.federation_audit),
    web.get("/v1/federation/facts", exchange.pull),
    web.get("/v1/federation/tombstones", tombstones.serve_tombstones),
    web.post("/v1/federation/facts/push", exchange.push),
    web.post("/v1/federation/attest", exchange.attest),
    web.post("/v1/federation/capability-tokens", tokens.issue_token),
    web.get("/v1/federation/capability-tokens", tokens.list_tokens),
    web.post("/v1/federation/capability-tokens/verify", tokens.verify_token),
    web.get("/v1/federation/capability-tokens/{token_id}", tokens.get_token),
    web.post("/v1/federation/capability-tokens/{token_id}/revoke", tokens.revoke_token),
    web.post("/v1/federation/capability-tokens/{token_id}/accept", tokens.accept_token),
    web.get("/v1/log/checkpoint", log.checkpoint),
    web.post("/v1/log/cosignatures", exchange.take_cosignature),
    web.get("/v1/log/proof/inclusion", log.inclusion),
    web.get("/v1/log/proof/consistency", log.consistency),
)


def make_app(*, node: Node, client: PeerClient, sync: PullNow) -> web.Application:
    """The application over an open node. Bodies are bounded by each handler, not by aiohttp."""
    is_open = not node.config.auth_required
    guards = [guard_open_node] if is_open else []
    app = web.Application(middlewares=[answer_refusals, *guards], client_max_size=0)
    app[NODE], app[PEERS], app[SYNC] = node, client, sync
    app[TURNS], app[LARGE_BODIES] = Turns(lambda: node.secrets), asyncio.Lock()
    app[ROOM] = BodyRoom()
    app[FOLLOWER] = KeyFollower(node, client)
    app[COUNTERSIGNER], app[DOCUMENT] = Countersigner(node, client), own_document
    app[PROMPT] = PromptRoutes(app, require_own_host if is_open else None)
    for route in ROUTES:
        _register(route, app)
    return app


def _register(route: web.RouteDef, app: web.Application) -> None:
    options = {**route.kwargs, "expect_handler": _accept_expect}
    handler = patient(route.handler) if is_prompt(route.handler) else route.handler
    registered = web.RouteDef(route.method, route.path, handler, options).register(app.router)[0]
    if route.method == "GET":
        app[PROMPT].add(route.path, registered, route.handler)


@cache
def own_document() -> Document:
    """The document of all routes; it takes a tenth of a second to make."""
    return docs.etagged(document_of(ROUTES))


@web.middleware
async def guard_open_node(request: web.Request, handler: Handler) -> web.StreamResponse:
    require_own_host(request)
    return await handler(request)


def require_own_host(request: web.Request) -> None:
    """A node without authentication answers only to its own name: else any web page could speak to it (DNS rebinding)."""
    origin = request.headers.get("Origin")
    if not _is_own_host(request.host) or (origin is not None and not _is_own_host(origin.partition("://")[2])):
        raise WrongHost("this node answers to loopback names only")


def _is_own_host(host: str) -> bool:
    literal = _IPV6_HOST.fullmatch(host)
    return is_loopback_host(literal[1] if literal else host.partition(":")[0])


async def _accept_expect(request: web.Request) -> None:
    """`Expect: 100-continue` gets its answer; any other expectation is ignored, as RFC 9110 allows."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The interim answer is not part of the answer whose size is counted.
        request.writer.output_size = 0
