"""What may be told one caller about a fact beside its record: what became of it, its conflicts, who vouched for it, its proof.

Always: what is said of other facts, that they are there included, is said of those alone that the caller may read.
"""

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from node.commands.attestations import holds, known_keys
from node.commands.decision import Principal
from node.commands.introductions import sealing_chain
from node.commands.manifests import parse_stored
from node.commands.reading import readable_by
from node.commands.seals import seal_holds
from node.errors import ManifestConflict, Unavailable
from node.events.checkpoint import Checkpoint, sign_checkpoint
from node.events.entry import open_header
from node.events.evidence import FACT_ITEMS
from node.events.facts import Fact, body_of
from node.events.gardens import FactPromoted
from node.events.proof_bundle import Bundle, make_bundle
from node.events.rotations import RotationEvent
from node.events.tree import root_at
from node.http.keys import NODE
from node.http.moments import asked_moment
from node.projections.access import Access, readable_at
from node.projections.base import Place
from node.projections.conflicts import At, Conflict
from node.projections.fact_queries import find_fact, may_be_many
from node.projections.fact_rows import FactRow
from node.projections.fates import What, fates_of
from node.projections.told_facts import is_told
from node.projections.view import View
from node.runtime import Node
from node.times import format_ms, parse_rfc3339

Read = TypeVar("Read")


class Happening(Struct, frozen=True, kw_only=True):
    """Something that happened to a fact. `by` and `log_offset` are None where no fact that may be read did it."""

    what: What
    at: str
    log_offset: int | None
    by: str | None


class AttestationShown(Struct, frozen=True, kw_only=True):
    """`verified` as it was when the fact came; `verified_now` under the key held now, None where none is."""

    issuer: str
    signature: str
    verified: bool
    verified_now: bool | None


class SealShown(Struct, frozen=True, kw_only=True):
    origin: str
    seal: str
    verified_now: bool | None


class ConflictShown(Struct, frozen=True, kw_only=True):
    """A conflict as one of its sides sees it: `fact_id` is the other side."""

    conflict_id: str
    fact_id: str
    status: Literal["unresolved", "resolved"]
    resolved_by: str | None
    detected_at: str


class _Judged(Struct, frozen=True):
    """What is looked at of an item: how a source's trust was weighed, where it says so."""

    judgement: object = None


async def read_named(name: str, node: Node, use: Callable[[View], Read]) -> Read:
    """A reading of the fact of that name: on the loop, unless it may have to look through any number of facts."""
    if may_be_many(name):
        return await node.read(use)
    with node.view() as view:
        return use(view)


async def vouched_fact(request: web.Request, principal: Principal) -> Fact:
    """The fact that the path names, as it stands or stood `as_of`, held against the log. Raises FactNotFound, LogDamaged."""
    node, moment, name = request.app[NODE], asked_moment(request), request.match_info["fact_id"]

    def read(view: View) -> Fact:
        row = find_fact(name, readable_by(principal, view), view, moment.at)
        node.vouch_for((row,))
        return row.fact

    return await read_named(name, node, read)


class FactReader:
    """One caller's reading of one view at one moment, and what may be said to it of facts beside the one it asked for."""

    def __init__(self, view: View, access: Access, node: Node, at: At) -> None:
        self.view, self.access, self.node, self.at = view, access, node, at
        self._dates: dict[int, str] = {}

    def dated(self, offset: int) -> str:
        """When the entry was written."""
        if offset not in self._dates:
            self._dates[offset] = open_header(self.node.log.stored(offset)).at
        return self._dates[offset]

    def became(self, row: FactRow) -> tuple[Happening, ...]:
        """What has happened to a fact, in the order of time."""
        told = [self._told(fate.what, fate.place, fate.at_ms) for fate in fates_of(row, self.view, self.at)]
        return tuple(sorted(told, key=lambda happening: happening.at))

    def conflicts(self, row: FactRow) -> Iterable[ConflictShown]:
        """What a fact contradicts, as far as the caller may read it, oldest first."""
        found = [conflict for conflict in self.view.conflicts.of_fact(row.place) if conflict.detected[0] < self.at.size]
        for conflict in sorted(found, key=lambda conflict: conflict.detected):
            other = self._readable(next(side for side in conflict.facts if side != row.place))
            if other is not None:
                yield self._shown_conflict(conflict, other)

    def attestations(self, fact: Fact) -> tuple[AttestationShown, ...]:
        body, context = body_of(fact), self.node.context()
        shown = []
        for signature, issuer, verified in zip(
            fact.attestation_chain, fact.attestation_chain_issuers, fact.attestation_verified, strict=True
        ):
            keys = known_keys(issuer, self.view, context, dated_ms=parse_rfc3339(fact.timestamp))
            holds_now = holds(body, signature, keys) if keys else None
            shown.append(
                AttestationShown(issuer=issuer, signature=signature, verified=verified, verified_now=holds_now)
            )
        return tuple(shown)

    def seal(self, fact: Fact) -> SealShown | None:
        if fact.seal is None:
            return None
        try:
            chain = sealing_chain(fact.origin, self.view, self.node.context())
        except ManifestConflict:
            chain = ()
        holds_now = seal_holds(fact, chain) if chain else None
        return SealShown(origin=fact.origin, seal=fact.seal, verified_now=holds_now)

    def log_proof(self, row: FactRow) -> Bundle | None:
        """The proof of the entry that brought a fact, in the log as it stands; with its item where all of that may be read.

        None where no entry did, and while no proof is signed because the log does not hold elsewhere, or is not looked through yet.
        """
        if is_told(row):
            return None
        size = self.node.log.announced().size
        try:
            origin = self.node.log_origin(size)
        except Unavailable:
            return None
        return self._signed_proof(row.place, Checkpoint(origin=origin, size=size, root=self._root(size)))

    def _signed_proof(self, place: Place, checkpoint: Checkpoint) -> Bundle:
        log, (offset, index) = self.node.log, place
        first, _ = FACT_ITEMS[open_header(log.stored(offset)).type]
        item = first + index if self._may_read_item(offset, first + index) else None
        note = sign_checkpoint(checkpoint, self.node.signer)
        return make_bundle(log, offset, checkpoint, note, item=item, rotations=self._rotations())

    def _rotations(self) -> tuple[RotationEvent, ...]:
        own = self.view.identity.manifest()
        return () if own is None else parse_stored(own.manifest).rotation_events

    def _root(self, size: int) -> bytes:
        with self.node.log.tree() as read:
            return root_at(size, read)

    def _may_read_item(self, offset: int, number: int) -> bool:
        """How trust was weighed is for operators, as `GET /v1/trust` is."""
        if self.access.moderates is None:
            return True
        item = self.node.log.item(offset, number)
        if item is None:
            return False  # erased since this view was opened
        return msgspec.json.decode(item.content, type=_Judged).judgement is None

    def _told(self, what: What, place: Place | None, at_ms: int | None) -> Happening:
        if place is None:
            return Happening(what=what, at=format_ms(at_ms), log_offset=None, by=None)
        if what in ("promoted", "rejected"):
            return Happening(what=what, at=self.dated(place[0]), log_offset=place[0], by=None)
        doer = self._doer(place)
        return Happening(
            what=what,
            at=self.dated(place[0]),
            log_offset=None if doer is None else place[0],
            by=None if doer is None else doer.fact.id,
        )

    def _doer(self, shown_from: Place) -> FactRow | None:
        """The fact that came to be shown at a place, if it may be read: there it came, or was promoted."""
        event = self.node.log.read(shown_from[0], 1)[0].event
        if not isinstance(event, FactPromoted):
            return self._readable(shown_from)
        promoted = self.view.facts.of_origin(event.origin, event.fact_id)
        return None if promoted is None else self._readable(promoted.place)

    def _readable(self, place: Place) -> FactRow | None:
        row = readable_at(self.view.facts.at(place), self.access, self.at.size)
        if row is not None:
            self.node.vouch_for((row,))
        return row

    def _shown_conflict(self, conflict: Conflict, other: FactRow) -> ConflictShown:
        resolution = self.view.conflicts.resolution(conflict, self.at)
        by = None if resolution is None else self._readable(resolution.place)
        return ConflictShown(
            conflict_id=conflict.conflict_id,
            fact_id=other.fact.id,
            status="unresolved" if self.view.conflicts.is_open(conflict, self.at) else "resolved",
            resolved_by=None if by is None else by.fact.id,
            detected_at=format_ms(conflict.detected_ms),
        )
