"""`stigmem log` at a running node: head, newest entries and proofs over its own routes.

Always: a bundle is checked under the key that the node's discovery names before it is given out; so is the checkpoint.
What the node may not show stays with the data folder: single entries, and the items of facts (PROTOCOL §10.2).
"""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

from node.canonical import b64url_decode
from node.client import NodeRefused, ask
from node.events.checkpoint import Checkpoint, log_key, stated_origin
from node.events.proof_bundle import Bundle, Consistency, LogKey, check_bundle, check_note, open_bundle
from node.events.signed_note import parse_note
from replay.log_source import DoesNotHold, LogHead, LogLine, NotDone, Wanted

POLL_S = 1.0
_PAGE = 1000


class _Event(Struct, frozen=True, kw_only=True):
    """One event of the admin's audit log, as far as a line shows it."""

    seq: int
    ts: str
    event_type: str
    via: str
    principal: str | None
    fact_id: str | None
    peer_id: str | None
    reason: str
    detail: str


class _Page(Struct, frozen=True, kw_only=True):
    events: tuple[_Event, ...]
    cursor: str | None


class _Discovery(Struct, frozen=True, kw_only=True):
    federation_pubkey: str | None = None


class NodeLog(Struct, frozen=True, kw_only=True):
    """A Source. `bearer` is None for what anybody may ask."""

    url: str
    bearer: str | None

    def head(self) -> LogHead:
        first, key = self._proof("inclusion", offset=0), self._key()
        if key is not None:
            _require(first, key)
        return LogHead(
            size=first.tree_size,
            root=bytes.fromhex(first.root_hash),
            key=None if key is None else log_key(stated_origin(first.checkpoint), key.public_key),
            note=first.checkpoint,
            cosigned=self._cosigned(key),
        )

    def tail(self, count: int, *, follow: bool) -> Iterator[LogLine]:
        newest = -1
        for event in self._newest(count, after=-1):
            newest = event.seq
            yield _line(event)
        while follow:
            time.sleep(POLL_S)
            for event in self._newest(None, after=newest):
                newest = event.seq
                yield _line(event)

    def bundle(self, wanted: Wanted) -> Bundle:
        if wanted.fact_id is not None or wanted.item is not None:
            raise NotDone("a node serves no items of its log: name its folder (--data-dir)")
        if wanted.note is not None:
            raise NotDone("--checkpoint is for a folder: a running node signs by itself")
        key = self._key()
        if key is None:
            raise NotDone("the node does not tell its key, as its federation is off: name its folder (--data-dir)")
        bundle = self._inclusion(wanted, key)
        if wanted.goes_on_from is not None:
            bundle = msgspec.structs.replace(bundle, consistency=self._consistency(wanted.goes_on_from, bundle))
        _require(bundle, key)
        return bundle

    def _inclusion(self, wanted: Wanted, key: LogKey) -> Bundle:
        """In the tree of the size that is asked for, or else of the newest cosigned one that holds the entry, or else of now."""
        cosigned = self._cosigned(key) if wanted.size is None else None
        size = None if cosigned is None else _checked(cosigned, key).size
        if size is None or size <= wanted.offset:
            return self._proof("inclusion", offset=wanted.offset, size=wanted.size)
        return msgspec.structs.replace(self._proof("inclusion", offset=wanted.offset, size=size), checkpoint=cosigned)

    def _consistency(self, size: int, bundle: Bundle) -> Consistency:
        proof = self._proof("consistency", **{"from": size, "to": bundle.tree_size})
        older = self._proof("inclusion", offset=0, size=size)
        return Consistency(tree_size=size, root_hash=older.root_hash, hashes=proof.hashes)

    def _cosigned(self, key: LogKey | None) -> str | None:
        """The newest checkpoint that carries witnesses' lines beside the log's own."""
        note = self._get("/v1/log/checkpoint?cosigned=true").decode()
        if key is not None:
            _checked(note, key)
        return note if len(_read(parse_note, note).lines) > 1 else None

    def _key(self) -> LogKey | None:
        told = _read(_discovery_decoder.decode, self._get("/.well-known/stigmem")).federation_pubkey
        return None if told is None else LogKey(public_key=_read(b64url_decode, told))

    def _proof(self, kind: str, **asked: int | None) -> Bundle:
        query = "&".join(f"{name}={value}" for name, value in asked.items() if value is not None)
        return _read(open_bundle, self._get(f"/v1/log/proof/{kind}?{query}"))

    def _newest(self, count: int | None, *, after: int) -> list[_Event]:
        """The newest `count` events behind the offset `after`, or all of them where that is None; oldest first."""
        found: list[_Event] = []
        cursor: str | None = ""
        while cursor is not None and (count is None or len(found) < count):
            limit = _PAGE if count is None else min(_PAGE, count - len(found))
            page = self._page(limit, cursor)
            found += [event for event in page.events if event.seq > after]
            cursor = None if any(event.seq <= after for event in page.events) else page.cursor
        return found[::-1]

    def _page(self, limit: int, cursor: str) -> _Page:
        if self.bearer is None:
            raise NotDone("STIGMEM_API_KEY: not set; what happens at a node is told to its operator alone")
        return _read(_page_decoder.decode, self._get(f"/v1/admin/audit-log?limit={limit}&cursor={cursor}"))

    def _get(self, path: str) -> bytes:
        try:
            return ask(self.url, self.bearer, "GET", path)
        except NodeRefused as error:
            raise NotDone(str(error)) from error


_discovery_decoder = msgspec.json.Decoder(_Discovery)
_page_decoder = msgspec.json.Decoder(_Page)
Read = TypeVar("Read")


def _read(reader: Callable[[bytes], Read] | Callable[[str], Read], said: bytes | str) -> Read:
    """What the node said, as far as it can be read."""
    try:
        return reader(said)
    except ValueError as error:
        raise NotDone(f"the node's answer cannot be read: {error}") from error


def _require(bundle: Bundle, key: LogKey) -> None:
    try:
        check_bundle(bundle, key)
    except ValueError as error:
        raise DoesNotHold(f"the node's proof: {error}") from error


def _checked(note: str, key: LogKey) -> Checkpoint:
    try:
        return check_note(note, key)
    except ValueError as error:
        raise DoesNotHold(f"the node's checkpoint: {error}") from error


def _line(event: _Event) -> LogLine:
    said = (event.fact_id, event.peer_id, event.reason, event.detail)
    return LogLine(
        offset=event.seq,
        at=event.ts,
        type=event.event_type,
        via=event.via,
        principal=event.principal,
        about=" ".join(text for text in said if text),
    )
