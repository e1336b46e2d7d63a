"""`stigmem peers`: what its verbs ask of a running node, and how they show the answer to whoever runs it.

Always: a peer is named by its peer_id or its node_id. What stems from a peer is shown in printable characters alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec
from msgspec import Struct

from node.client import NodeRefused, ask, columns, plain

PEERS = "/v1/federation/peers"
DECLARATION = "/v1/federation/declaration"
PULL_TIMEOUT_S = 600.0
PEER_ANSWER_BYTES = 1 << 16
# What a terminal shows of an answer that may be a page of anything.
PEER_WORDS = 500
Shown = dict[str, object]


class Registration(Struct, frozen=True, kw_only=True):
    """What a peer answers to our declaration; the reference says no more than the first two (INTEROP §2)."""

    peer_id: str
    status: str
    reason: str | None = None
    detail: str | None = None


class Console(Struct, frozen=True, kw_only=True):
    """The node that is asked, with its bearer. `is_raw` shows its answers as they came."""

    url: str
    bearer: str
    is_raw: bool

    def add(self, peer_url: str, entity_uri: str, scopes: Sequence[str], pins: Sequence[str] | None) -> str:
        body = {"peer_url": peer_url, "peer_entity_uri": entity_uri}
        body |= ({"allowed_scopes": scopes} if scopes else {}) | ({"tls_pins": pins} if pins else {})
        return self._said(self._ask("POST", "", body), _outcome)

    def pin(self, name: str, pins: Sequence[str]) -> str:
        answer = self._ask("PATCH", f"/{self._id(name)}", {"tls_pins": pins})
        return self._said(answer, lambda peer: "\n".join(peer["tls_pins"]) or "nothing is pinned")

    def declare(self, scopes: Sequence[str]) -> str:
        """Our node's signed declaration, as a peer's registration route takes it."""
        return self._declaration(scopes).decode()

    def declare_to(self, peer_url: str, peer_bearer: str, scopes: Sequence[str]) -> str:
        """Bring our declaration to a peer. Raises NodeRefused where that did not register us."""
        declaration = self._declaration(scopes)
        try:
            answer = ask(peer_url, peer_bearer, "POST", PEERS, declaration, max_bytes=PEER_ANSWER_BYTES)
            said = msgspec.json.decode(answer, type=Registration)
        except NodeRefused as refused:
            raise NodeRefused(plain(str(refused)[:PEER_WORDS])) from refused
        except msgspec.DecodeError as error:
            raise NodeRefused(f"{peer_url}: its answer is not that of a registration") from error
        status = plain(_status(msgspec.structs.asdict(said))[:PEER_WORDS])
        if said.status not in ("active", "pending_approval", "pending_verification"):
            raise NodeRefused(f"{peer_url}: {status}")
        return answer.decode() if self.is_raw else f"{peer_url}: {status}{_approval(said, declaration)}"

    def list(self, *, as_of: str | None) -> str:
        return self._said(self._listed(as_of), lambda answer: _table(answer["peers"]))

    def show(self, name: str, *, as_of: str | None) -> str:
        return self._said(msgspec.json.encode(self._find(name, as_of)), _members)

    def check(self, name: str) -> str:
        return self._said(self._ask("POST", f"/{self._id(name)}/check"), _finding)

    def pull(self, name: str, *, from_start: bool) -> str:
        body = {"from": "start"} if from_start else {}
        answer = self._ask("POST", f"/{self._id(name)}/pull", body, timeout_s=PULL_TIMEOUT_S)
        return self._said(answer, lambda cycle: "{ingested} ingested, {known} known, {refused} refused".format(**cycle))

    def approve(self, name: str, *, accept_checkpoint: bool) -> str:
        body = {"accept_checkpoint": accept_checkpoint}
        return self._said(self._ask("POST", f"/{self._id(name)}/approve", body), _outcome)

    def remove(self, name: str) -> str:
        peer = self._find(name)
        self._ask("DELETE", f"/{quote(str(peer['peer_id']), safe='')}")
        return "" if self.is_raw else plain(f"{peer['node_id']}: revoked (removed)")

    def _declaration(self, scopes: Sequence[str]) -> bytes:
        body = {"allowed_scopes": scopes} if scopes else {}
        return ask(self.url, self.bearer, "POST", DECLARATION, msgspec.json.encode(body))

    def _listed(self, as_of: str | None) -> bytes:
        return self._ask("GET", "" if as_of is None else f"?as_of={quote(as_of, safe='')}")

    def _find(self, name: str, as_of: str | None = None) -> Shown:
        peers = msgspec.json.decode(self._listed(as_of))["peers"]
        found = [peer for peer in peers if name in (peer["peer_id"], peer["node_id"])]
        if not found:
            raise NodeRefused(f"peer_not_found: there is no peer {plain(name)}")
        return found[0]

    def _id(self, name: str) -> str:
        return quote(str(self._find(name)["peer_id"]), safe="")

    def _ask(self, method: str, path: str, body: object = None, **options: float) -> bytes:
        content = None if body is None else msgspec.json.encode(body)
        return ask(self.url, self.bearer, method, PEERS + path, content, **options)

    def _said(self, answer: bytes, shown: Callable[[Shown], str]) -> str:
        return answer.decode() if self.is_raw else shown(msgspec.json.decode(answer))


def _approval(said: Registration, declaration: bytes) -> str:
    """What the peer's admin approves the reference's way: the hash of our key's text, not of its bytes (INTEROP §2)."""
    if said.status != "pending_approval":
        return ""
    key = msgspec.json.decode(declaration)["federation_pubkey"]
    fingerprint = hashlib.sha256(key.encode()).hexdigest()
    return f"\n  its admin approves {plain(said.peer_id[:PEER_WORDS])} with pubkey_fingerprint sha256:{fingerprint}"


def _outcome(peer: Shown) -> str:
    return "\n".join([plain(f"{peer['node_id']} {peer['peer_id']}: {_status(peer)}"), *_doubts(peer)])


def _finding(peer: Shown) -> str:
    """What was found, and where the peer is not so (an active one outlives a bad document) how it stands."""
    found = peer["found"]
    if found is None:
        return _outcome(peer)
    verdict = "its documents hold" if found["status"] == "active" else _status(found)
    stands = "" if peer["status"] == found["status"] else f"; it stays {_status(peer)}"
    return "\n".join([plain(f"{peer['node_id']}: {verdict}{stands}"), *_doubts(found)])


def _doubts(said: Shown) -> list[str]:
    return [plain(f"  warning: {warning}") for warning in said["warnings"]]


def _status(said: Shown) -> str:
    reason = ": ".join(str(said[name]) for name in ("reason", "detail") if said[name])
    return f"{said['status']} ({reason})" if reason else str(said["status"])


def _members(peer: Shown) -> str:
    width = max(map(len, peer))
    return "\n".join(f"{name:<{width}}  {_value(value)}" for name, value in peer.items())


def _value(value: object) -> str:
    return plain("-" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _table(peers: list[Shown]) -> str:
    return columns([("PEER", "STATUS", "SCOPES", "WE OWE", "WE LACK", "NEXT TRY", "LAST ERROR"), *map(_row, peers)])


def _row(peer: Shown) -> tuple[str, ...]:
    reason = f" ({peer['reason']})" if peer["reason"] else ""
    texts = (
        peer["node_id"],
        f"{peer['status']}{reason}",
        ",".join(peer["allowed_scopes"]),
        _owed(peer["lag"]),
        _lacking(peer["lag"]),
        peer["next_try_at"] or "-",
        peer["last_error"] or "-",
    )
    return tuple(map(str, texts))


def _owed(lag: Shown | None) -> str:
    """What the peer has not asked for yet."""
    if lag is None:
        return "-"
    owed = lag["to_peer"]
    return f"{owed['facts']}{'+' if owed['has_more'] else ''} facts, {owed['seconds']:.0f} s"


def _lacking(lag: Shown | None) -> str:
    """What is known of what we have not fetched: whether there is more, and how old the last whole reading is."""
    if lag is None or lag["from_peer"]["has_more"] is None:
        return "-"
    lacking = lag["from_peer"]
    age = "" if lacking["seconds"] is None else f", {lacking['seconds']:.0f} s ago"
    return f"{'more' if lacking['has_more'] else 'nothing'}{age}"
