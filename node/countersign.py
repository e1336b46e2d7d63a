"""Asking the author's own node for its signature on a fact written here with a capability token (PROTOCOL §9).

Always: bounded: two seconds a request, eight in flight per peer, none for thirty seconds after three failures, and ten seconds for
all the facts of a batch.
Always: the write goes on without an answer; what its absence means is decided with the command.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec
import structlog
from msgspec import Struct, structs

from node.commands.attestations import holds, known_keys
from node.commands.decision import rules_in_force
from node.commands.facts import AssertFact, plan
from node.commands.peer_tokens import mint_token
from node.errors import MalformedJson, PeerAnswerInvalid, PeerUnreachable, PeerUrlForbidden, Refusal
from node.events.facts import body_of
from node.key_following import KeyFollower
from node.peer_client import PeerClient, PeerRefused
from node.projections.peers import Peer
from node.runtime import Node
from node.strict_json import scan_json
from node.uris import authority_of

TIMEOUT_S = 2.0
MAX_IN_FLIGHT = 8
MAX_FAILURES = 3
REST_S = 30.0
BATCH_S = 10.0
_FAILURES = (PeerUnreachable, PeerAnswerInvalid, PeerUrlForbidden, TimeoutError, MalformedJson, msgspec.MsgspecError)

_log = structlog.get_logger("stigmem.countersign")


class AttestRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/federation/attest."""

    fact_body: msgspec.Raw
    token_json: str


class AttestAnswer(Struct, frozen=True, kw_only=True):
    attestation: str


class _Line(Struct):
    """How asking one peer has gone lately."""

    in_flight: int = 0
    failures: int = 0
    resting_until: float = 0.0


class Countersigner:
    """Asks peers for attestations, within limits kept per peer."""

    def __init__(self, node: Node, client: PeerClient) -> None:
        self._node, self._client = node, client
        self._lines: dict[str, _Line] = {}
        self._follower = KeyFollower(node, client)

    async def with_attestation(self, command: AssertFact, token: str) -> AssertFact:
        """The command with its author's attestation, or as it was where none is to be had.

        Raises whatever already keeps the fact from being written: nobody is asked to sign what is refused anyway.
        """
        with self._node.view() as view:
            context = self._node.context()
            planned = plan(command, rules_in_force(view, context.config), view, context)
            author = authority_of(command.principal.grant.subject)
            peer = None if author == self._node.node_id else view.peers.of_node(author)
            keys = known_keys(author, view, context, dated_ms=context.at_ms)
        if peer is None:
            return command
        body = body_of(planned.draft)
        signature = await self._ask(peer, body, token)
        if signature is None:
            return command
        if not holds(body, signature, keys) and not await self._holds_since(peer, body, signature):
            return command
        return structs.replace(command, attestation_chain=(signature,), attestation_chain_issuers=(author,))

    async def with_attestations(self, commands: Sequence[AssertFact], token: str) -> list[AssertFact]:
        """The same for each fact of a batch, as many at a time as may be in flight, for as long as the batch may take."""
        turn, deadline = asyncio.Semaphore(MAX_IN_FLIGHT), time.monotonic() + BATCH_S

        async def attested(command: AssertFact) -> AssertFact:
            async with turn:
                if time.monotonic() > deadline:
                    return command
                try:
                    return await self.with_attestation(command, token)
                except Refusal:
                    # Decided where the facts before it are seen: those may be what it lacks.
                    return command

        return await asyncio.gather(*map(attested, commands))

    async def _holds_since(self, peer: Peer, body: bytes, signature: str) -> bool:
        """Whether it is by a key that the peer's was rotated to."""
        now = await self._follower.follow(peer.node_id, peer.public_key)
        return now is not None and holds(body, signature, (now.keys[-1].public_key,))

    async def _ask(self, peer: Peer, body: bytes, token: str) -> str | None:
        line = self._lines.setdefault(peer.node_id, _Line())
        if line.in_flight >= MAX_IN_FLIGHT or time.monotonic() < line.resting_until:
            return None
        line.in_flight += 1
        try:
            answer = await self._post(peer, body, token)
        except _FAILURES as error:
            line.failures += 1
            if line.failures >= MAX_FAILURES:
                line.failures, line.resting_until = 0, time.monotonic() + REST_S
            _log.warning("attestation_failed", peer=peer.node_id, reason=repr(error))
            return None
        except PeerRefused as refusal:
            # It answered: a refusal is its right and no sign of trouble.
            _log.info("attestation_refused", peer=peer.node_id, status=refusal.status, code=refusal.code)
            return None
        finally:
            line.in_flight -= 1
        line.failures = 0
        return answer

    async def _post(self, peer: Peer, body: bytes, token: str) -> str:
        node = self._node
        bearer = mint_token(
            node.signer, node.clock, issuer=node.node_id, audience=peer.node_id, scopes=peer.allowed_scopes
        )
        request = msgspec.json.encode(AttestRequest(fact_body=msgspec.Raw(body), token_json=token))
        async with asyncio.timeout(TIMEOUT_S):
            raw = await self._client.post_json(
                f"{peer.node_url}/v1/federation/attest", request, peer=peer, token=bearer, timeout_s=TIMEOUT_S
            )
        scan_json(raw)
        return msgspec.json.decode(raw, type=AttestAnswer).attestation
