"""A peer that speaks as the public reference node does on the wire (INTEROP.md), over a real socket.

Always: everything here is built from INTEROP.md with json, hashlib and nacl, and nothing of the node's own code.
`declare` and `join` do what the operators on both sides do.
Where the reference would stall for ever on what it is served (INTEROP §7), `pull` raises Poison.

Does not do what no peer of it sees: its conflicts, tombstones, capability tokens.
"""

import asyncio
import base64
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientSession, web
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from yarl import URL

from tests.served import Served

SCOPES = ("local", "team", "company", "public")
DECLARED = ("allowed_scopes", "federation_pubkey", "node_id", "node_url", "signed_at")
REQUIRED = ("id", "entity", "relation", "value", "source", "timestamp", "confidence", "scope")
FUTURE_SKEW_MS, PAST_SKEW_MS = 300_000, 2_592_000_000
HOUR_MS = 3_600_000


class Poison(AssertionError):
    """A served fact on which the reference's pull fails, on this cycle and on each that follows."""


@dataclass
class Registered:
    """A peer as the reference keeps it."""

    peer_id: str
    node_id: str
    node_url: str
    public_key: str
    allowed_scopes: list[str]
    status: str
    cursor: str | None = None


@dataclass
class ReferencePeer:
    """One reference node; `now_ms` is its clock. `facts` is what it wrote, `received` what it took from peers, by id."""

    now_ms: Callable[[], int]
    node_id: str = field(default_factory=lambda: f"stigmem:node:{uuid.uuid4()}")
    key: SigningKey = field(default_factory=SigningKey.generate)
    facts: list[dict[str, Any]] = field(default_factory=list)
    received: dict[str, dict[str, Any]] = field(default_factory=dict)
    peers: dict[str, Registered] = field(default_factory=dict)
    # The key with permission `federate` that registers peers; its own operator has it too.
    federate_key: str = "a-key-that-may-federate"
    # An answer to give to every registration: (status, body, headers).
    registration_answer: tuple[int, dict[str, Any], dict[str, str]] | None = None
    # What it publishes beside its discovery document; the reference publishes none.
    published_manifest: dict[str, Any] | None = None
    # Added to its discovery document.
    discovery: dict[str, Any] = field(default_factory=dict)
    # Each pull: when, with which token, and its query.
    asked: list[dict[str, Any]] = field(default_factory=list)
    # An answer to give to every pull instead of a page: (status, body, headers); status 0 breaks the connection.
    pull_answer: tuple[int, dict[str, Any], dict[str, str]] | None = None

    async def start(self) -> "ReferencePeer":
        app = web.Application()
        app.router.add_get("/.well-known/stigmem", self._well_known)
        app.router.add_get("/.well-known/stigmem-manifest.json", self._manifest)
        app.router.add_post("/v1/federation/peers", self._register)
        app.router.add_post("/v1/federation/peers/{peer_id}/approve", self._approve)
        app.router.add_get("/v1/federation/facts", self._serve_facts)
        app.router.add_route("*", "/{tail:.*}", _not_found)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://localhost:{self._runner.addresses[0][1]}"
        self._session = ClientSession()
        return self

    async def stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    @property
    def public_key(self) -> str:
        return _b64url(bytes(self.key.verify_key))

    # What it says of itself

    def declaration(self, *scopes: str, signed_at: str) -> dict[str, Any]:
        """Its signed declaration (INTEROP §2)."""
        members = {
            "allowed_scopes": sorted(scopes),
            "federation_pubkey": self.public_key,
            "node_id": self.node_id,
            "node_url": self.url,
            "signed_at": signed_at,
        }
        return members | {"declaration_sig": _b64url(self.key.sign(declared_bytes(members)).signature)}

    def manifest(self) -> dict[str, Any]:
        """A manifest as the reference signs it: seven keys, without manifest_version (INTEROP §11)."""
        issued_ms = self.now_ms()
        members = {
            "entities": [self.node_id],
            "entity_uri": self.node_id,
            "expires_at": _isoformat(issued_ms + 365 * 24 * HOUR_MS)[:19] + "Z",
            "issued_at": _isoformat(issued_ms)[:19] + "Z",
            "key_id": hashlib.sha256(bytes(self.key.verify_key)).hexdigest(),
            "public_key": self.public_key,
            "rotation_events": [],
        }
        return members | {"signature": _b64url(self.key.sign(declared_bytes(members)).signature)}

    def write(self, number: int, value: dict[str, Any], *, hlc: str, **changes: Any) -> dict[str, Any]:
        """A local write, as it is then served: every key that INTEROP §5 shows; numbers leave as floats."""
        wall_ms = int(hlc.partition(".")[0])
        fact = {
            "id": str(uuid.UUID(int=number, version=4)),
            "entity": f"stigmem://x.example/test/e{number}",
            "relation": "test:value",
            "value": {"interpret_as": "content", **value},
            "source": self.node_id,
            "timestamp": _isoformat(wall_ms),
            "hlc": hlc,
            "received_from": None,
            "valid_until": None,
            "confidence": 1.0,
            "scope": "public",
            "attested_key_id": None,
            "origin_node_id": None,
            "origin_allowed_scopes": None,
            "garden_id": None,
            "attested": None,
            "contradicted": False,
            "warnings": [],
            "source_trust": None,
            "quarantine_status": None,
            "quarantine_garden_id": None,
            "effective_confidence": None,
            "sanitizer_warnings": [],
            "sanitizer_redacted": False,
            "cid": None,
            "derived_from": [],
        } | changes
        # Hashed as it was written: an integer without a fraction, which the wire then shows with one (INTEROP §6).
        fact["cid"] = cid_of(fact)
        if fact["value"]["type"] == "number":
            fact["value"]["v"] = float(fact["value"]["v"])
        self.facts.append(fact)
        return fact

    async def registered(self, declaration: dict[str, Any]) -> str:
        """Have its operator register a peer by declaration and approve it (INTEROP §2); returns the peer's status."""
        bearer = {"Authorization": f"Bearer {self.federate_key}"}
        async with self._session.post(f"{self.url}/v1/federation/peers", json=declaration, headers=bearer) as answer:
            added = await answer.json()
        fingerprint = f"sha256:{hashlib.sha256(declaration['federation_pubkey'].encode()).hexdigest()}"
        url = f"{self.url}/v1/federation/peers/{added['peer_id']}/approve"
        async with self._session.post(url, json={"pubkey_fingerprint": fingerprint}) as answer:
            return (await answer.json()).get("status", "refused")

    # What it does by itself

    async def pull(self, node_id: str) -> list[dict[str, Any]]:
        """One cycle: one page, whatever has_more says (INTEROP §4). Raises Poison; returns what was new."""
        peer = self.peers[node_id]
        query = {"limit": "100"} | ({"cursor": peer.cursor} if peer.cursor is not None else {})
        status, page = await self.ask(peer, URL(f"{peer.node_url}/v1/federation/facts").with_query(query))
        assert status == 200, (status, page)
        await self.ask(peer, URL(f"{peer.node_url}/v1/federation/tombstones?limit=200"))
        new = [fact for fact in page["facts"] if self._take(fact)]
        if not isinstance(page["cursor"], str):
            raise Poison("a null cursor: it begins again")
        peer.cursor = page["cursor"]
        return new

    async def ask(self, peer: Registered, url: URL, **claims: object) -> tuple[int, Any]:
        """A GET with a fresh token, as the reference's puller sends it."""
        headers = {"Authorization": f"Bearer {self.token(peer, **claims)}", "Stigmem-Verify": "full"}
        async with self._session.get(url, headers=headers) as answer:
            return answer.status, await answer.json()

    def token(self, peer: Registered, **claims: object) -> str:
        now_ms = self.now_ms()
        stated = {
            "iss": self.node_id,
            "sub": peer.node_id,
            "iat": now_ms,
            "exp": now_ms + HOUR_MS,
            "nonce": str(uuid.uuid4()),
            "scopes": peer.allowed_scopes,
        }
        parts = ({"alg": "EdDSA", "typ": "JWT"}, stated | claims)
        signed = ".".join(_b64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        return f"{signed}.{_b64url(self.key.sign(signed.encode()).signature)}"

    def _take(self, fact: dict[str, Any]) -> bool:
        """Whether the fact is new. Raises Poison for each cause of INTEROP §7."""
        missing = [name for name in REQUIRED if fact.get(name) is None]
        if missing or "type" not in fact["value"] or "v" not in fact["value"]:
            raise Poison(f"{missing or 'value'} missing: {fact}")
        if fact["scope"] not in SCOPES:
            raise Poison(f"scope {fact['scope']}")
        if fact.get("cid") is not None and fact["cid"] != cid_of(fact):
            raise Poison(f"cid mismatch: {fact}")
        if fact.get("hlc") is not None:
            self._check_hlc(fact["hlc"])
        if fact["value"].get("interpret_as", "content") == "instruction":
            raise Poison("an instruction, and no quarantine garden")
        known = self.received.get(fact["id"])
        if known is not None and (known["valid_until"] or "9") < (fact.get("valid_until") or "9"):
            raise Poison("valid_until extended on a known id")
        self.received.setdefault(fact["id"], fact)
        return known is None

    def _check_hlc(self, hlc: str) -> None:
        if not re.fullmatch(r"[0-9]+\.[0-9]+", hlc):
            raise Poison(f"hlc {hlc!r}")
        ahead_ms = int(hlc.partition(".")[0]) - self.now_ms()
        if not -PAST_SKEW_MS <= ahead_ms <= FUTURE_SKEW_MS:
            raise Poison(f"hlc {ahead_ms} ms ahead")

    # What it answers

    async def _well_known(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "version": "1.0",
                "node_id": self.node_id,
                "node_url": self.url,
                "auth": "required",
                "federation": "enabled",
                "source_attestation": "off",
                "namespaces": ["stigmem:", "rel:", "memory:", "intent:", "roadmap:", "preference:", "garden:"],
                "spec": "https://example.invalid/spec",
                "cors": {},
                "federation_pubkey": self.public_key,
                "federation_version": "0.5",
                "federation_endpoints": {
                    "peers": "/v1/federation/peers",
                    "facts": "/v1/federation/facts",
                    "push": None,
                },
            }
            | self.discovery
        )

    async def _manifest(self, request: web.Request) -> web.Response:
        if self.published_manifest is None:
            return await _not_found(request)
        return web.json_response(self.published_manifest)

    async def _register(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.federate_key}":
            return _said(401, "Invalid or expired API key")
        if self.registration_answer is not None:
            status, body, headers = self.registration_answer
            return web.json_response(body, status=status, headers=headers)
        body = await request.json()
        if set(body) != {*DECLARED, "declaration_sig"}:
            return _said(422, [{"loc": ["body"], "msg": "field required"}])
        if body["node_id"] in self.peers:
            return _said(409, f"peer already registered (status={self.peers[body['node_id']].status})")
        async with self._session.get(f"{body['node_url']}/.well-known/stigmem") as answer:
            shown = (await answer.json()).get("federation_pubkey")
        signed = declared_bytes({name: body[name] for name in DECLARED})
        is_sound = shown == body["federation_pubkey"] and _is_signed(shown, signed, body["declaration_sig"])
        peer = Registered(
            peer_id=str(uuid.uuid4()),
            node_id=body["node_id"],
            node_url=body["node_url"],
            public_key=body["federation_pubkey"],
            allowed_scopes=body["allowed_scopes"],
            status="pending_approval" if is_sound else "rejected",
        )
        self.peers[peer.node_id] = peer
        return web.json_response({"peer_id": peer.peer_id, "status": peer.status, "verified_at": None}, status=201)

    async def _approve(self, request: web.Request) -> web.Response:
        peer = next(peer for peer in self.peers.values() if peer.peer_id == request.match_info["peer_id"])
        fingerprint = f"sha256:{hashlib.sha256(peer.public_key.encode()).hexdigest()}"
        if (await request.json())["pubkey_fingerprint"] != fingerprint:
            return _said(400, "fingerprint mismatch")
        if peer.status != "pending_approval":
            return _said(409, "not pending")
        peer.status = "active"
        return web.json_response({"peer_id": peer.peer_id, "node_id": peer.node_id, "status": peer.status})

    async def _serve_facts(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization")
        self.asked.append({"at": asyncio.get_running_loop().time(), "token": token, **request.query})
        if self.pull_answer is not None:
            status, body, headers = self.pull_answer
            if status == 0:
                request.transport.abort()
            return web.json_response(body, status=status, headers=headers)
        claims = self._claims(request)
        if isinstance(claims, str):
            return _said(401, claims)
        scopes = {*claims["scopes"]} & {*self.peers[claims["iss"]].allowed_scopes} - {"local", "team"}
        if not scopes:
            return _said(403, "no permitted scopes")
        cursor, limit = request.query.get("cursor"), int(request.query.get("limit", "100"))
        # Compared as text: `W.10` sorts before `W.9` (INTEROP §8).
        waiting = [fact for fact in self.facts if fact["scope"] in scopes and fact["hlc"] > (cursor or "")]
        page = sorted(waiting, key=lambda fact: fact["hlc"])[:limit]
        answer = {"facts": page, "cursor": page[-1]["hlc"] if page else cursor, "has_more": len(waiting) > limit}
        return web.json_response(answer)

    def _claims(self, request: web.Request) -> dict[str, Any] | str:
        """The token's claims, or the code of its refusal."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return "peer token required"
        signed, _, signature = token.rpartition(".")
        claims = json.loads(_from_b64url(signed.partition(".")[2]))
        peer = self.peers.get(claims["iss"])
        if peer is None:
            return "peer not registered"
        if peer.status != "active":
            return "peer_not_approved"
        if not _is_signed(peer.public_key, signed.encode(), signature):
            return "invalid_signature"
        return claims if claims["sub"] == self.node_id else "invalid_sub"


def declared_bytes(members: dict[str, Any]) -> bytes:
    """What a declaration's signature is over: exactly five fields, ASCII (INTEROP §2)."""
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


def cid_of(fact: dict[str, Any]) -> str:
    """INTEROP §6, of a fact as parsed."""
    value = fact["value"]
    v = value.get("v")
    if value["type"] == "null":
        text = "null"
    elif value["type"] == "boolean":
        text = "true" if v else "false"
    else:
        text = str(v)
    members = {name: fact[name] for name in ("entity", "relation", "scope", "source")}
    members |= {"confidence": float(fact["confidence"]), "value_type": value["type"], "value_v": text}
    plain = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(plain.encode()).hexdigest()


async def declare(at: Served, reference: ReferencePeer, *scopes: str) -> dict[str, Any]:
    """The reference's declaration, brought to our node by its operator; returns what our node answers."""
    signed_at = _isoformat(at.clock.now_ms())[:19] + "Z"
    return (await at.post("/v1/federation/peers", reference.declaration(*scopes, signed_at=signed_at))).expect(201)


async def join(at: Served, reference: ReferencePeer, *scopes: str) -> Registered:
    """Register each with the other by a signed declaration, as their operators would."""
    scopes = scopes or ("public",)
    assert (await declare(at, reference, *scopes))["status"] == "active"
    declaration = (await at.post("/v1/federation/declaration", {"allowed_scopes": scopes})).expect(200)
    assert await reference.registered(declaration) == "active"
    return reference.peers[at.node.node_id]


async def _not_found(request: web.Request) -> web.Response:
    return _said(404, "Not Found")


def _said(status: int, detail: object) -> web.Response:
    return web.json_response({"detail": detail}, status=status)


def _isoformat(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="microseconds")


def _is_signed(public_key: str, message: bytes, signature: str) -> bool:
    try:
        VerifyKey(_from_b64url(public_key)).verify(message, _from_b64url(signature))
    except (BadSignatureError, ValueError):
        return False
    return True


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
