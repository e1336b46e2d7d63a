"""Another organisation as a test needs it: a real node of its own, whose key is at hand to speak in its name.

Always: bodies, seals and CIDs are built here from PROTOCOL §2.3 and §2.4 with rfc8785 and json, not with the node's own code.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from typing import Any

import rfc8785

from node.commands.exchange import IngestBatch
from node.commands.ingest import examine
from node.commands.peers import PeerDocuments, RecordPeerCheck, RegisterPeer
from node.events.manifest_proof import manifest_log_entry
from node.keys import Signer
from node.projections.peers import Peer
from node.writer import Outcome
from tests.served import Served

SEED = bytes(range(100, 132))
NODE_ID = "stigmem://org-b.example"


def b64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(signer: Signer, claims: object, header: object = None) -> str:
    parts = [{"alg": "EdDSA", "typ": "JWT"} if header is None else header, claims]
    signed = ".".join(b64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{signed}.{b64url(signer.sign(signed.encode()))}"


class Organisation:
    """`home` is its own node; `peer_at` names its row at another one."""

    def __init__(self, home: Served) -> None:
        self.home, self.node_id = home, home.node.node_id
        self.assistant = f"{self.node_id}/agent/assistant"
        self._nonces = 0

    @property
    def signer(self) -> Signer:
        """Its key as it is now."""
        return self.home.node.signer

    def documents(self, **changes: object) -> PeerDocuments:
        node = self.home.node
        with node.view() as view:
            own = view.identity.manifest()
        proof = manifest_log_entry(
            node.log, own.offset, self.home.size, own.published_ms, node.log_origin(self.home.size), node.signer
        )
        given = {
            "node_id": self.node_id,
            "public_key": self.signer.public_key_b64,
            "manifest": own.manifest,
            "log_entry": proof,
        }
        return PeerDocuments(**given | changes)

    async def join(
        self,
        at: Served,
        *,
        scopes: tuple[str, ...] = ("public", "company"),
        node_url: str = "http://localhost:1",
        **documents: object,
    ) -> str:
        """Register with a node and be checked by it; returns the peer_id there."""
        registered = RegisterPeer(
            principal=at.admin,
            node_id=self.node_id,
            node_url=node_url,
            allowed_scopes=scopes,
            declaration=None,
        )
        peer_id = (await at.node.execute(registered)).reply
        await at.node.execute(RecordPeerCheck(peer_id=peer_id, documents=self.documents(**documents), failure=""))
        return peer_id

    def peer_at(self, at: Served) -> Peer:
        with at.node.view() as view:
            return view.peers.of_node(self.node_id)

    def nonce(self) -> str:
        self._nonces += 1
        return f"00000000-0000-4000-8000-{self._nonces:012d}"

    def claims(self, at: Served, **changes: object) -> dict[str, object]:
        now_ms = at.clock.now_ms()
        return {
            "iss": self.node_id,
            "sub": at.node.node_id,
            "iat": now_ms,
            "exp": now_ms + 300_000,
            "nonce": self.nonce(),
            "scopes": ["public", "company"],
        } | changes

    def token(self, at: Served, **changes: object) -> str:
        """A peer token for one request to `at`; a claim given as None is left out."""
        claims = {name: value for name, value in self.claims(at, **changes).items() if value is not None}
        return jwt(self.signer, claims)

    async def receive(self, at: Served, *facts: dict[str, Any] | bytes, cursor: str = "c") -> Outcome:
        """Have `at` take in a page of this organisation's facts, as its pulling task would."""
        peer, context = self.peer_at(at), at.node.context()
        raws = [fact if isinstance(fact, bytes) else json.dumps(fact).encode() for fact in facts]
        with at.node.view() as view:
            outcomes = tuple(examine(raw, peer, view, context) for raw in raws)
        batch = IngestBatch(
            node_id=peer.node_id,
            public_key=peer.public_key,
            terms_from=peer.terms_from,
            outcomes=outcomes,
            cursor=cursor,
        )
        return await at.node.execute(batch)

    def served_fact(self, **changes: object) -> dict[str, Any]:
        """A fact as this organisation's node would serve it, sealed; `seal=None` and `cid=None` leave those out."""
        number = changes.pop("number", 1)
        fact = {
            "id": f"01890000-0000-7000-8000-{number:012d}",
            "entity": f"{self.node_id}/project/zeus",
            "relation": "memory:status",
            "value": {"type": "string", "v": "blue"},
            "source": self.assistant,
            "timestamp": "2026-05-04T11:59:00.000Z",
            "hlc": "1777895940000.000",
            "confidence": 0.9,
            "scope": "public",
            "valid_until": None,
            "derived_from": [],
            "supersedes": [],
            "resolves": None,
            "attestation_chain": [],
            "attestation_chain_issuers": [],
            "origin": self.node_id,
            "received_from": None,
        }
        fact |= {name: value for name, value in changes.items() if name not in ("seal", "cid")}
        fact["cid"] = changes.get("cid", cid_of(fact))
        fact["seal"] = changes.get("seal", b64url(self.signer.sign(seal_message(fact))))
        return {name: value for name, value in fact.items() if value is not None or name in ("resolves", "valid_until")}


async def be_strict(at: Served, **settings: object) -> str:
    """Strict mode with a designated quarantine garden; returns the garden's id."""
    garden = {"slug": "quarantine", "name": "Quarantine", "scope": "company", "quarantine": True}
    garden_id = (await at.post("/v1/gardens", garden)).expect(201)["id"]
    changes = {"quarantine_garden_id": garden_id, "trust_mode": "strict"} | settings
    (await at.send("PATCH", "/v1/admin/config", changes)).expect(200)
    return garden_id


async def issue(at: Served, subject: str, **fields: object) -> str:
    """A capability token of `at`, as its bearer sends it."""
    stated = {"issuer": at.node.node_id, "subject": subject, "verb": "write", "object": "*", "ttl_seconds": 3600}
    return (await at.post("/v1/federation/capability-tokens", stated | fields)).expect(201)["token_json"]


def body_of(fact: dict[str, Any]) -> bytes:
    """The fact body (PROTOCOL §2.4)."""
    members = {name: fact[name] for name in ("entity", "relation", "scope", "source", "confidence")}
    value = {name: v for name, v in fact["value"].items() if name != "interpret_as" or v == "instruction"}
    return rfc8785.dumps(members | {"ts": fact["timestamp"], "value": value})


def seal_message(fact: dict[str, Any]) -> bytes:
    members = {name: fact[name] for name in ("id", "valid_until", "derived_from", "supersedes", "resolves", "origin")}
    members |= {"hlc": fact["hlc"] or "", "fact_hash": hashlib.sha256(body_of(fact)).hexdigest()}
    return b"stigmem-fact/v1\n" + rfc8785.dumps(members)


def cid_of(fact: dict[str, Any]) -> str:
    """PROTOCOL §2.3, for values that are no numbers unless their text is given as `value_v`."""
    value = fact["value"]
    v = value.get("v")
    text = {True: "true", False: "false", None: "null"}.get(v) if isinstance(v, bool | None) else str(v)
    members = {name: fact[name] for name in ("entity", "relation", "scope", "source")}
    members |= {"confidence": float(fact["confidence"]), "value_type": value["type"], "value_v": text}
    plain = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(plain.encode()).hexdigest()
