"""Organisations for the scenarios: a node with an identity made by openssl, a manifest, peers, a quarantine garden.

Always: keys and signatures here are openssl's, so that the node's cryptography is checked by somebody else's.
"""

import base64
import hashlib
import json
import subprocess
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tests.scenarios.nodes import RunningNode, eventually

PEERS_DEADLINE_S = 10.0
AUTO_QUARANTINE = "auto-quarantine: source_trust below threshold (t=0.15)"


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=20).stdout


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key in two PEM files, as the tutorial makes them."""

    private: Path
    public: Path

    @classmethod
    def made_in(cls, folder: Path, name: str = "signing") -> "KeyPair":
        folder.mkdir(parents=True, exist_ok=True)
        key = cls(folder / f"{name}.key", folder / f"{name}.pub")
        openssl("genpkey", "-algorithm", "Ed25519", "-out", key.private)
        openssl("pkey", "-in", key.private, "-pubout", "-out", key.public)
        return key

    @property
    def raw_public(self) -> bytes:
        return openssl("pkey", "-in", self.private, "-pubout", "-outform", "DER")[-32:]

    @property
    def key_id(self) -> str:
        return hashlib.sha256(self.raw_public).hexdigest()

    def sign(self, message: bytes) -> bytes:
        # A file, because openssl 3.0 cannot sign a pipe with Ed25519: it asks for the message's size first.
        message_file = self.private.with_suffix(".message")
        message_file.write_bytes(message)
        return openssl("pkeyutl", "-sign", "-inkey", self.private, "-rawin", "-in", message_file)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        message_file, signature_file = self.public.with_suffix(".message"), self.public.with_suffix(".signature")
        message_file.write_bytes(message)
        signature_file.write_bytes(signature)
        arguments = [
            "-verify",
            "-pubin",
            "-inkey",
            self.public,
            "-rawin",
            "-in",
            message_file,
            "-sigfile",
            signature_file,
        ]
        done = subprocess.run(["openssl", "pkeyutl", *arguments], check=False, capture_output=True, timeout=20)
        return done.returncode == 0


class Organisation:
    """One organisation and its node; `org.node` speaks to it as its admin."""

    def __init__(self, folder: Path, name: str, **settings: str) -> None:
        self.name = name
        self.entity_uri = f"stigmem://{name}.example"
        self.assistant = f"{self.entity_uri}/agent/assistant"
        self.bot = f"{self.entity_uri}/agent/bot"
        self.key = KeyPair.made_in(folder / name)
        self.node = RunningNode(
            folder / name,
            NODE_PRIVATE_KEY_FILE="signing.key",
            ENTITY_URI=self.entity_uri,
            FEDERATION_ENABLED="true",
            **{"TRUST_MODE": "strict"} | settings,
        )

    def manifest(self) -> dict[str, Any]:
        """The tutorial's manifest, without a signature."""
        issued = datetime.now(UTC).replace(microsecond=0)
        return {
            "manifest_version": 1,
            "entity_uri": self.entity_uri,
            "public_key": base64url(self.key.raw_public),
            "key_id": self.key.key_id,
            "entities": [self.entity_uri, self.assistant],
            "rotation_events": [],
            "issued_at": issued.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "expires_at": (issued + timedelta(days=365)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def publish(self) -> dict[str, Any]:
        manifest = self.manifest() | {"signature": "__self_sign__"}
        return self.node.send("PUT", "/v1/federation/manifest", manifest).expect(200)

    def register(self, other: "Organisation", *scopes: str, url: str | None = None) -> dict[str, Any]:
        """Registers its node, at another URL than its own where one is given."""
        request: dict[str, Any] = {"peer_url": url or other.node.url, "peer_entity_uri": other.entity_uri}
        if scopes:
            request["allowed_scopes"] = list(scopes)
        return self.node.post("/v1/federation/peers", request).expect(201)

    def peer(self, other: "Organisation") -> dict[str, Any]:
        peers = self.node.get("/v1/federation/peers").expect(200)["peers"]
        return next(peer for peer in peers if peer["node_id"] == other.entity_uri)

    def pull(self, other: "Organisation", *, from_start: bool = False) -> dict[str, Any]:
        """One pull cycle, now; returns how many facts were new, known and refused, and the cursor."""
        path = f"/v1/federation/peers/{self.peer(other)['peer_id']}/pull"
        return self.node.post(path, {"from": "start"} if from_start else {}).expect(200)

    def create_garden(self, slug: str, *, scope: str = "company", quarantine: bool = False) -> str:
        garden = {"slug": slug, "name": slug.title(), "scope": scope, "quarantine": quarantine}
        return self.node.post("/v1/gardens", garden).expect(201)["id"]

    def hold_inbound_facts(self) -> str:
        """Makes the quarantine garden and designates it; returns its id."""
        garden_id = self.create_garden("inbound-quarantine", quarantine=True)
        self.node.send("PATCH", "/v1/admin/config", {"quarantine_garden_id": garden_id}).expect(200)
        return garden_id

    def issue_token(self, subject: str, verb: str = "write") -> dict[str, Any]:
        request = {
            "issuer": self.entity_uri,
            "subject": subject,
            "verb": verb,
            "object": f"{self.entity_uri}/scope/shared",
            "ttl_seconds": 86400,
        }
        return self.node.post("/v1/federation/capability-tokens", request).expect(201)

    def held(self, status: str = "pending") -> list[dict[str, Any]]:
        return self.node.get(f"/v1/quarantine?quarantine_status={status}&limit=1000").expect(200)["items"]

    def assert_fact(self, entity: str, v: str, *, scope: str = "public") -> dict[str, Any]:
        return self.node.post("/v1/facts", self.fact(entity, v, scope=scope)).expect(201)

    def fact(self, entity: str, v: str, *, scope: str = "public") -> dict[str, Any]:
        return {
            "entity": f"{self.entity_uri}/{entity}",
            "relation": "memory:status",
            "value": {"type": "string", "v": v},
            "source": self.assistant,
            "confidence": 0.85,
            "scope": scope,
        }


def start_together(*organisations: Organisation) -> None:
    for organisation in organisations:
        organisation.node.launch()
    for organisation in organisations:
        organisation.node.wait_until_ready()
        organisation.publish()


def await_active(*pairs: tuple[Organisation, Organisation], within_s: float = PEERS_DEADLINE_S) -> None:
    """Waits until each pair's first has the second as an active peer, all within one deadline."""
    deadline = time.monotonic() + within_s
    for one, other in pairs:
        eventually(
            partial(one.peer, other),
            lambda peer: peer["status"] == "active",
            within_s=max(deadline - time.monotonic(), 0),
            what=f"{other.name} is an active peer of {one.name}",
        )


def federate(one: Organisation, other: Organisation, *scopes: str) -> None:
    one.register(other, *scopes)
    other.register(one, *scopes)
    await_active((one, other), (other, one))


def await_first_pulls(org_a: Organisation, org_b: Organisation) -> None:
    """A node pulls once, unasked, when a peer becomes active; a test's own pulls come after that one."""
    for server, client in ((org_a, org_b), (org_b, org_a)):
        eventually(
            lambda server=server, client=client: server.peer(client)["pages_served"],
            within_s=10,
            what=f"{server.name} served its first page to {client.name}",
        )


def peer_token(issuer: Organisation, audience: Organisation, header: Any = None, **changes: Any) -> str:
    """A token for one request of `issuer` to `audience`, signed by openssl."""
    now_ms = time.time_ns() // 1_000_000
    claims = {
        "iss": issuer.entity_uri,
        "sub": audience.entity_uri,
        "iat": now_ms,
        "exp": now_ms + 300_000,
        "nonce": str(uuid.uuid4()),
        "scopes": ["public"],
    } | changes
    parts = ({"alg": "EdDSA", "typ": "JWT"} if header is None else header, claims)
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{base64url(issuer.key.sign(signed.encode()))}"
