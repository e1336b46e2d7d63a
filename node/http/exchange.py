"""What peers ask for: pages of facts, and signatures on what their bearers wrote (PROTOCOL §5.3, §9).

Always: the token's signature is checked here; whatever follows is decided where its nonce is taken.
"""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node.commands.exchange import FactBody, RefuseExchange, ServePage, SignAttestation
from node.commands.peer_tokens import Claims
from node.errors import FederationDisabled, Refusal
from node.events.facts import Fact, Scope
from node.http.auth import peer_claims
from node.http.body import decode_query, json_response, read_json
from node.http.keys import NODE
from node.http.records import ShownValue, shown_value
from node.http.tokens import token_text
from node.projections.federation_page import MAX_PAGE_FACTS, page_for
from node.runtime import Node
from node.strict_json import decode

MAX_ATTEST_BYTES = 1 << 18


class PullQuery(Struct, frozen=True, kw_only=True):
    scope: str | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_FACTS)] = 100


class AttestBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fact_body: FactBody
    token_json: msgspec.Raw


class ServedFact(Struct, frozen=True, kw_only=True):
    """A fact as peers get it: exactly these members (PROTOCOL §5.3)."""

    id: str
    entity: str
    relation: str
    value: ShownValue
    source: str
    timestamp: str
    hlc: str
    confidence: float
    scope: Scope
    valid_until: str | None
    cid: str
    derived_from: tuple[str, ...]
    supersedes: tuple[str, ...]
    resolves: object
    attestation_chain: tuple[str, ...]
    attestation_chain_issuers: tuple[str, ...]
    origin: str
    seal: str | None
    received_from: None = None


async def pull(request: web.Request) -> web.Response:
    node, claims = request.app[NODE], _peer(request)
    try:
        asked = decode_query(request, PullQuery)
    except Refusal as refusal:
        await _refuse(node, claims, refusal)
    command = ServePage(claims=claims, scope=asked.scope, cursor=asked.cursor, limit=asked.limit)
    scopes = (await node.execute(command)).reply
    page = await node.read(
        lambda view: page_for(view, peer_node_id=claims.iss, scopes=scopes, cursor=asked.cursor, limit=asked.limit)
    )
    facts = [served_fact(fact) for fact in page.facts]
    return json_response({"facts": facts, "cursor": page.cursor, "has_more": page.has_more})


async def attest(request: web.Request) -> web.Response:
    node, claims = request.app[NODE], _peer(request)
    try:
        body = decode(await read_json(request, max_bytes=MAX_ATTEST_BYTES), AttestBody)
        token = token_text(bytes(body.token_json))
    except Refusal as refusal:
        await _refuse(node, claims, refusal)
    signature = (await node.execute(SignAttestation(claims=claims, body=body.fact_body, token=token))).reply
    return json_response({"attestation": signature, "issuer": node.node_id, "key_id": node.signer.key_id})


def served_fact(fact: Fact) -> ServedFact:
    return ServedFact(
        id=fact.id,
        entity=fact.entity,
        relation=fact.relation,
        value=shown_value(fact.value),
        source=fact.source,
        timestamp=fact.timestamp,
        hlc=fact.hlc,
        confidence=fact.confidence,
        scope=fact.scope,
        valid_until=fact.valid_until,
        cid=fact.cid,
        derived_from=fact.derived_from,
        supersedes=fact.supersedes,
        resolves=fact.resolves,
        attestation_chain=fact.attestation_chain,
        attestation_chain_issuers=fact.attestation_chain_issuers,
        origin=fact.origin,
        seal=fact.seal,
    )


def _peer(request: web.Request) -> Claims:
    node = request.app[NODE]
    if not node.config.federation_enabled:
        raise FederationDisabled("STIGMEM_FEDERATION_ENABLED is off")
    claims = peer_claims(request)
    node.sign_of_life(claims.iss).set()
    return claims


async def _refuse(node: Node, claims: Claims, refusal: Refusal) -> None:
    """Refuse a request whose token holds: its nonce is taken all the same (PROTOCOL §5.2). Always raises."""
    await node.execute(RefuseExchange(claims=claims, refusal=refusal))
