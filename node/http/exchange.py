"""What peers ask for and bring: pages of facts, signatures on what their bearers wrote, cosignatures (§5.3, §5.4, §9, §10.3).

Always: the token's signature is checked here; whatever follows is decided where its nonce is taken.
"""

import asyncio
from contextlib import nullcontext
from ssl import SSLError
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.clock import parse_hlc
from node.commands.exchange import FactBody, RefuseExchange, ServePage, SignAttestation, TakeCosignature
from node.commands.fact_lists import with_readable_facts
from node.commands.peer_tokens import Claims
from node.commands.pushes import FactError, Pushed, TakePush, examine_push
from node.commands.served_facts import ServedFact, served_fact
from node.errors import (
    AttestationQuotaExceeded,
    AttestationRefused,
    BodyTooLarge,
    ClientCertificateRefused,
    ClientCertificateRequired,
    CosignatureInvalid,
    CursorForeign,
    FederationDisabled,
    HlcSkew,
    InvalidCursor,
    InvalidHlc,
    PushDisabled,
    QuarantineGardenRequired,
    Refusal,
    RelayLagExceeded,
    ScopeNotPermitted,
    ScopeViolation,
    SourceNotOwned,
    TermsChanged,
    TooLarge,
)
from node.events.checkpoint import open_checkpoint, origin_in
from node.events.facts import Scope
from node.events.manifest_proof import checkpoint_at
from node.http.auth import is_capability_write, peer_claims
from node.http.body import decode_query, encoded_response, json_response, read_body, read_json
from node.http.describe import CAPABILITY, FACT, PEER, WRITES, RefusalBody, describes
from node.http.forms import Base64Url, Count, Sha256
from node.http.keys import LARGE_BODIES, NODE, SYNC
from node.http.tokens import TokenJson, token_text
from node.projections.federation_page import MAX_PAGE_FACTS, page_for
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.tls import fault_in, words_for

MAX_ATTEST_BYTES = 1 << 18
# What a pull takes of a page, and twice what one of ours can have.
MAX_PUSH_BYTES = 8 << 20
_LARGE_PUSH_BYTES = 1 << 16
# A reference node fails for ever on an HLC that is 30 days old (INTEROP §7); a day is left for clocks that differ.
FOREIGN_HLC_AGE_MS = 29 * 86_400_000
LAG_HEADER = "X-Stigmem-Replication-Lag"
# PROTOCOL §5.6: from when on an upstream's lag is told, and its facts are held back.
TOLD_MS, HELD_BACK_MS, RETRY_AFTER_S = 60_000, 300_000, 60
MAX_COSIGNATURE_BYTES = 1 << 14


class PullQuery(Struct, frozen=True, kw_only=True):
    scope: str | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_FACTS)] = 100


class AttestBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fact_body: FactBody
    token_json: TokenJson


class CosignatureBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This node's own checkpoint, without others' lines, and the signature line of the witness."""

    checkpoint: str
    cosignature: str


class PushBody(Struct, frozen=True, kw_only=True):
    """Each fact is judged by itself, so it stays as it came; what else a peer says is ignored (PROTOCOL §1)."""

    facts: list[msgspec.Raw]
    sender_hlc: str | None = None


class FactsServed(Struct, frozen=True, kw_only=True):
    """A page as peers get it."""

    facts: list[ServedFact]
    cursor: str
    has_more: bool


class PushRefused(RefusalBody, frozen=True, kw_only=True):
    """A push of nothing but forbidden facts tells of each of them."""

    accepted: Count | UnsetType = UNSET
    rejected: Count | UnsetType = UNSET
    errors: tuple[FactError, ...] | UnsetType = UNSET


class Attested(Struct, frozen=True, kw_only=True):
    """This node's signature over the fact body."""

    attestation: Base64Url
    issuer: str
    key_id: Sha256


class CosignatureTaken(Struct, frozen=True, kw_only=True):
    """Of how many entries the checkpoint was."""

    size: Count


@describes(
    "a page of facts",
    who=PEER,
    query=PullQuery,
    answers={200: FactsServed},
    sends={
        200: {
            LAG_HEADER: "By how many seconds what others relay through this node is late, where that is over a minute."
        }
    },
    refuses=(CursorForeign, InvalidCursor, RelayLagExceeded, ScopeNotPermitted, *WRITES),
)
async def pull(request: web.Request) -> web.Response:
    node, claims = request.app[NODE], await authenticated_peer(request)
    try:
        asked = decode_query(request, PullQuery)
    except Refusal as refusal:
        await refuse_peer(node, claims, refusal)
    command = ServePage(claims=claims, scope=asked.scope, cursor=asked.cursor, limit=asked.limit)
    scopes = (await node.execute(command)).reply
    # The clock belongs to the loop's thread; the page is encoded where it is read, or every write would wait for that too.
    now_ms, lags_ms = node.clock.now_ms(), request.app[SYNC].lags_ms()
    body, lag_ms = await node.read(lambda view: page_body(asked, claims.iss, scopes, lags_ms, now_ms, node, view))
    return encoded_response(body, headers={LAG_HEADER: str(lag_ms // 1000)} if lag_ms > TOLD_MS else None)


def page_body(
    asked: PullQuery,
    peer_node_id: str,
    scopes: tuple[Scope, ...],
    lags_ms: dict[str, int],
    now_ms: int,
    node: Node,
    view: View,
) -> tuple[bytes, int]:
    """A page as a peer gets it, and how far behind are those whose facts it holds. Raises RelayLagExceeded, LogDamaged."""
    lagging = {node_id for node_id, lag_ms in lags_ms.items() if lag_ms > HELD_BACK_MS}
    page = page_for(
        view, peer_node_id=peer_node_id, scopes=scopes, cursor=asked.cursor, limit=asked.limit, lagging=lagging
    )
    if page.is_held_back and not page.facts:
        raise RelayLagExceeded("what there is came from a node that is too far behind", retry_after_s=RETRY_AFTER_S)
    node.vouch_for(page.rows)
    facts = [served_fact(fact) for fact in page.facts]
    # Every node of our kind publishes a manifest.
    if view.peers.of_node(peer_node_id).manifest is None:
        facts = foreign_facts(facts, now_ms)
    lag_ms = max((lags_ms.get(fact.received_from or "", 0) for fact in page.facts), default=0)
    return msgspec.json.encode(FactsServed(facts=facts, cursor=page.cursor, has_more=page.has_more)), lag_ms


@describes(
    "take a peer's facts",
    who=PEER,
    body=PushBody,
    answers={202: Pushed},
    refuses=(HlcSkew, InvalidHlc, PushDisabled, QuarantineGardenRequired, ScopeViolation, SourceNotOwned, TermsChanged),
    refusal=PushRefused,
)
async def push(request: web.Request) -> web.Response:
    """Too large a push is refused before its token counts as used: the sender may split it and try again."""
    node = request.app[NODE]
    if not node.config.federation_push_enabled:
        raise PushDisabled("STIGMEM_FEDERATION_PUSH_ENABLED is off")
    if is_capability_write(request):
        raise PushDisabled("capability tokens write with POST /v1/facts")
    claims = await authenticated_peer(request)
    try:
        raw = await read_body(request, max_bytes=MAX_PUSH_BYTES)
        # Large ones one at a time, as with batches.
        async with request.app[LARGE_BODIES] if len(raw) > _LARGE_PUSH_BYTES else nullcontext():
            readable = await asyncio.to_thread(with_readable_facts, raw)
        body = decode(readable, PushBody)
    except TooLarge:
        raise
    except Refusal as refusal:
        await refuse_peer(node, claims, refusal)
    if len(body.facts) > MAX_PAGE_FACTS:
        raise BodyTooLarge(f"facts: at most {MAX_PAGE_FACTS}")
    context = node.context()

    def examined(view: View) -> TakePush:
        return examine_push(body.facts, body.sender_hlc, claims=claims, view=view, context=context)

    try:
        command = await node.read(examined)
    except Refusal as refusal:
        await refuse_peer(node, claims, refusal)
    return json_response((await node.execute(command)).reply, 202)


@describes(
    "a signature over a fact body that one of ours wrote elsewhere",
    who=PEER,
    body=AttestBody,
    answers={200: Attested},
    refuses=(*CAPABILITY, *FACT, AttestationQuotaExceeded, AttestationRefused),
)
async def attest(request: web.Request) -> web.Response:
    node, claims = request.app[NODE], await authenticated_peer(request)
    try:
        body = decode(await read_json(request, max_bytes=MAX_ATTEST_BYTES), AttestBody)
        token = token_text(bytes(body.token_json))
    except Refusal as refusal:
        await refuse_peer(node, claims, refusal)
    signature = (await node.execute(SignAttestation(claims=claims, body=body.fact_body, token=token))).reply
    return json_response(Attested(attestation=signature, issuer=node.node_id, key_id=node.signer.key_id))


@describes(
    "a witness's cosignature over a checkpoint of this log",
    who=PEER,
    body=CosignatureBody,
    answers={201: CosignatureTaken},
    refuses=(CosignatureInvalid,),
)
async def take_cosignature(request: web.Request) -> web.Response:
    node, claims = request.app[NODE], await authenticated_peer(request)
    try:
        body = decode(await read_json(request, max_bytes=MAX_COSIGNATURE_BYTES), CosignatureBody)
        size = _own_size(node, body.checkpoint)
    except Refusal as refusal:
        await refuse_peer(node, claims, refusal)
    command = TakeCosignature(claims=claims, note=body.checkpoint, size=size, cosignature=body.cosignature)
    await node.execute(command)
    return json_response(CosignatureTaken(size=size), 201)


def _own_size(node: Node, note: str) -> int:
    """Of how many entries of this log the note is a checkpoint. Raises CosignatureInvalid where it is of none."""
    try:
        said = open_checkpoint(note, origin=origin_in(note, node.node_id), public_key=node.signer.public_key)
    except ValueError as error:
        raise CosignatureInvalid(f"checkpoint: {error}") from error
    # Our own signature is not enough: a copy of our folder may have gone another way under the same key.
    if not 0 < said.size <= node.log.announced().size or note != checkpoint_at(
        node.log, said.size, node.log_origin(said.size), node.signer
    ):
        raise CosignatureInvalid("checkpoint: not of this log as it stands")
    return said.size


def foreign_facts(facts: list[ServedFact], now_ms: int) -> list[ServedFact]:
    """The facts as a reference node can take them: one that it cannot keeps it from every later page (INTEROP §7).

    Instructions stay here: it has no place for one unless its operator made a quarantine garden.
    """
    return [_without_poison(fact, now_ms) for fact in facts if fact.value.interpret_as is UNSET]


def _without_poison(fact: ServedFact, now_ms: int) -> ServedFact:
    value = structs.replace(fact.value, v=None) if fact.value.type == "null" else fact.value
    wall_ms, _ = parse_hlc(fact.hlc)
    if now_ms - FOREIGN_HLC_AGE_MS <= wall_ms <= now_ms:
        return structs.replace(fact, value=value)
    # It stamps the fact on arrival; a seal over an HLC that is not there would hold nowhere.
    return structs.replace(fact, value=value, hlc=UNSET, seal=None)


async def authenticated_peer(request: web.Request) -> Claims:
    """Whose request it is: by its token, and where peers show certificates also by that."""
    node = request.app[NODE]
    if not node.config.federation_enabled:
        raise FederationDisabled("STIGMEM_FEDERATION_ENABLED is off")
    claims = await peer_claims(request)
    if node.config.tls_client_ca_file is not None:
        refusal = _certificate_refusal(request, claims)
        if refusal is not None:
            await refuse_peer(node, claims, refusal)
    node.sign_of_life(claims.iss).set()
    return claims


def _certificate_refusal(request: web.Request, claims: Claims) -> Refusal | None:
    """A token that was stolen is of no use without the key of its issuer's certificate."""
    with request.app[NODE].view() as view:
        peer = view.peers.of_node(claims.iss)
    try:
        shown = request.protocol.certificate
    except SSLError as error:
        return ClientCertificateRefused(words_for(error))
    if shown is None:
        return ClientCertificateRequired("peers show a certificate here, for the node_id that their token names")
    fault = fault_in(shown, peer)
    return None if fault is None else ClientCertificateRefused(fault)


async def refuse_peer(node: Node, claims: Claims, refusal: Refusal) -> None:
    """Refuse a request whose token's signature holds; its nonce is taken unless that is what it came to prove. Always raises."""
    await node.execute(RefuseExchange(claims=claims, refusal=refusal))
