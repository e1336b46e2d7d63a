"""Facts: by place, id, CID and hash, by what they are about and who says so, and what may be served to peers.

Always: a fact has one row, under its place, whatever happens to it later; index keys end in that place, so each lists in log order.
Always: a fact retracts, supersedes and is served only from where it is shown: a held one does nothing until it is promoted.

Does not judge expiry (the reader's time decides, see `fact_queries.py`) and does not detect contradictions.
"""

import heapq
import struct
from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct, structs
from propcache.api import cached_property

from node.clock import parse_hlc
from node.events.conflicts import ConflictResolved
from node.events.entry import Entry
from node.events.event import ERASED, Event
from node.events.facts import Fact, FactAsserted, FactsSealed, Scope, Seal
from node.events.gardens import FactPromoted, FactQuarantined, FactRejected
from node.events.peers import BatchReceived, PushReceived, Receipt
from node.events.tombstones import (
    EntityErased,
    EntityTombstoned,
    PeerTombstoned,
    TombstoneRevoked,
    TombstoneScope,
    reaches,
)
from node.projections.base import (
    LAST_PLACE,
    PLACE_BYTES,
    Handles,
    Place,
    Projection,
    Table,
    TableSpec,
    new_text_key,
    place_key,
    place_of,
    text_key,
)
from node.projections.fact_indexes import (
    BY_CID,
    BY_HASH,
    BY_ID,
    BY_PLACE,
    BY_RELATION,
    BY_SOURCE,
    BY_SUBJECT,
    INDEXES,
    SCOPE_KEYS,
    SERVABLE,
    UNSEALED,
    Servable,
    hex_key,
    id_key,
    index_prefixes,
    own_word_row,
    servable_row,
)
from node.projections.fact_rows import (
    DIGEST_BYTES,
    FactRow,
    Speaker,
    compared,
    digest_of,
    is_own_word,
    may_be_relayed,
    may_travel,
    new_row,
    relation_of,
    speaker_of,
    speech_of,
)
from node.uris import normal_uri, uuid_bytes

_HLC = struct.Struct(">QQ")
# So many facts about an entity are sorted rather than merged relation by relation.
FEW = 16


class Withdrawal(Struct, frozen=True, array_like=True):
    """From which place on a fact no longer stands in plain reads: its source retracted or superseded it."""

    by: Place
    kind: str


class Retraction(Struct, frozen=True, array_like=True):
    """A retraction, for facts that arrive after it. `value_text` None retracts whatever the source said."""

    place: Place
    value_type: str
    value_text: str | None


class Hiding(Struct, frozen=True, array_like=True):
    """A tombstone at work: what is hidden of its entity. `origin` None where it reaches the facts of every origin."""

    scope: TombstoneScope
    origin: str | None

    def hides(self, fact: Fact) -> bool:
        return reaches(self.scope, fact.scope) and self.origin in (None, fact.origin)


class Left(Struct, frozen=True):
    """A fact was withdrawn, from a place on."""

    place: Place
    until: Place


_WITHDRAWN = TableSpec("facts/withdrawn", Withdrawal)
_RETRACTIONS = TableSpec("facts/retractions", Retraction, hashed=((0, 32),))
_SUPERSEDED = TableSpec("facts/superseded_ids", Place, hashed=((0, 16),), is_open=True)
# What is shown and not withdrawn, by speech, value and place; the first fact of an entity and relation is not in it.
_STANDING = TableSpec("facts/standing", bytes, hashed=((0, 32),))
# By entity and tombstone.
_HIDINGS = TableSpec("facts/hidings", Hiding, hashed=((0, 32),))
_SUBJECT = INDEXES.index(BY_SUBJECT)
# In place of a value's digest: whatever the value.
_ANY_VALUE = bytes(DIGEST_BYTES)


class Facts(Projection):
    name: ClassVar[str] = "facts"
    version: ClassVar[int] = 5
    events: ClassVar[tuple[type[Event], ...]] = (
        FactAsserted,
        ConflictResolved,
        FactQuarantined,
        BatchReceived,
        PushReceived,
        FactPromoted,
        FactRejected,
        FactsSealed,
        EntityTombstoned,
        TombstoneRevoked,
        PeerTombstoned,
        EntityErased,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (
        BY_PLACE,
        BY_ID,
        BY_CID,
        BY_HASH,
        BY_SUBJECT,
        BY_RELATION,
        BY_SOURCE,
        _WITHDRAWN,
        _RETRACTIONS,
        _SUPERSEDED,
        SERVABLE,
        UNSEALED,
        _STANDING,
        _HIDINGS,
    )

    def __init__(self, txn: object, handles: Handles) -> None:
        super().__init__(txn, handles)
        # What the last entry folded did to the facts, in order: a row came to be shown, or a place was withdrawn.
        # A row that was withdrawn before it came is told of only where it settles others.
        self.changes: list[FactRow | Left] = []
        # What the last entry folded erased, as it stood before.
        self.erased: tuple[FactRow, ...] = ()
        # Of the subjects looked at: their first fact, and whether it is their only one. Most are looked for twice in a row.
        self._subjects: dict[bytes, tuple[Place, bool]] = {}
        # Of the entity listed last: where the facts about it stand. A listing asks whether they are few, and then for them.
        self._few: tuple[str, list[Place] | None] | None = None
        # That of the one fact that is or was about it, where there is no other.
        self._alone: Place | None = None
        self._has_hidings: bool | None = None

    # A read looks at one or two of the tables.

    @cached_property
    def _by_place(self) -> Table[FactRow]:
        return self.table(BY_PLACE)

    @cached_property
    def _by_id(self) -> Table[bytes]:
        return self.table(BY_ID)

    @cached_property
    def _withdrawn(self) -> Table[Withdrawal]:
        return self.table(_WITHDRAWN)

    @cached_property
    def _by_subject(self) -> Table[bytes]:
        return self.table(BY_SUBJECT)

    @cached_property
    def _indexes(self) -> list[Table[bytes]]:
        return [self.table(spec) for spec in INDEXES]

    # Reading

    def at(self, place: Place) -> FactRow:
        """The row at a place that some index named."""
        return self._at_key(place_key(place))

    def by_id(self, fact_id: str) -> FactRow | None:
        """The fact of that id; where two origins use one id, the one that came first."""
        return next(iter(self.all_by_id(fact_id)), None)

    def all_by_id(self, fact_id: str) -> list[FactRow]:
        """Facts of that id, one per origin, oldest here first."""
        key = uuid_bytes(fact_id)
        return [] if key is None else [self._at_key(place) for place in sorted(self._by_id.values(key))]

    def of_origin(self, origin: str, fact_id: str) -> FactRow | None:
        """The fact that `origin` names `fact_id`: its identity between nodes (PROTOCOL §5.5)."""
        key = uuid_bytes(fact_id)
        found = None if key is None else self._by_id.get(key + text_key(origin))
        return None if found is None else self.at(place_of(found))

    def by_cid(self, cid: str) -> Iterator[FactRow]:
        """Facts of that CID, newest first."""
        key = hex_key(cid.removeprefix("sha256:"))
        rows = iter(()) if key is None else self._newest_first(BY_CID, key)
        return (row for row in rows if row.fact.cid == cid)

    def by_hash(self, fact_hash: str) -> Iterator[FactRow]:
        """Facts of that fact hash, newest first."""
        key = hex_key(fact_hash)
        rows = iter(()) if key is None else self._newest_first(BY_HASH, key)
        return (row for row in rows if row.fact.fact_hash == fact_hash)

    def indexed(
        self, *, entity: str | None, relation: str | None, source: str | None, before: Place
    ) -> Iterator[FactRow]:
        """Rows before a place, newest first, through the narrowest index; the caller still filters by what it asked for."""
        if entity is not None and relation is None:
            few = self.few_about(entity)
            if few is not None:
                return map(self.at, [place for place in reversed(few) if place < before])
            streams = (self._places_back(BY_SUBJECT, key, before) for key in self._subjects_of(entity))
            return map(self.at, heapq.merge(*streams, reverse=True))
        index = _index_for(entity, relation, source)
        if index is None:
            return (row for _, row in self._by_place.scan_back(b"", before=place_key(before)))
        return self._newest_first(*index, before)

    def indexed_forward(
        self, *, entity: str | None, relation: str | None, source: str | None, after: Place, end: int
    ) -> Iterator[FactRow]:
        """The same rows oldest first: behind a place, and before the offset `end`."""
        if entity is not None and relation is None:
            streams = (self._places_on(BY_SUBJECT, key, after, end) for key in self._subjects_of(entity))
            yield from map(self.at, heapq.merge(*streams))
            return
        spec, prefix = _index_for(entity, relation, source) or (BY_PLACE, b"")
        for key, row in self.table(spec).scan(prefix, after=prefix + place_key(after)):
            place = place_of(key)
            if place[0] >= end:
                return
            yield row if spec is BY_PLACE else self.at(place)

    def few_about(self, entity: str) -> list[Place] | None:
        """Where the facts about an entity stand, oldest first; None where they are more than FEW. Costs no more than these."""
        if self._few is None or self._few[0] != entity:
            self._by_subject.flush()
            keys = self._by_subject.stored_keys(new_text_key(entity), FEW + 1)
            places = sorted(map(place_of, keys)) if len(keys) <= FEW else None
            self._few = entity, places
            self._alone = places[0] if len(keys) == 1 and not self._hidings_of(entity) else None
        return self._few[1]

    def is_known_alone(self, place: Place) -> bool:
        """Whether no other fact is or was about the entity of the one there, as far as a listing has just found out."""
        return place == self._alone

    def withdrawal(self, place: Place) -> Withdrawal | None:
        # What withdraws a fact is about the same entity.
        return None if place == self._alone else self._withdrawn.get(place_key(place))

    def withdrawn_from(self, place: Place) -> Place | None:
        withdrawal = self.withdrawal(place)
        return None if withdrawal is None else withdrawal.by

    def servable(self, scope: Scope, after: Place) -> Iterator[tuple[Place, Servable]]:
        """What peers may be given of a scope, from behind a place on, with the place each became servable at."""
        prefix = SCOPE_KEYS[scope]
        for key, row in self.table(SERVABLE).scan(prefix, after=prefix + place_key(after)):
            yield place_of(key), row

    def unsealed(self) -> Iterator[FactRow]:
        """Facts that may travel and carry no seal yet, oldest first."""
        for key, _ in self.table(UNSEALED).scan():
            yield self.at(place_of(key))

    def leaf_start_at(self, place: Place) -> bytes | None:
        """How the leaf hash of the entry starts that made a fact servable at this place; None where none did."""
        for prefix in SCOPE_KEYS.values():
            servable = self.table(SERVABLE).get(prefix + place_key(place))
            if servable is not None:
                return servable.leaf_start
        return None

    def first_beside(self, row: FactRow) -> Place | None:
        """The first fact of the same entity and relation, in whatever state; None where there is no other than this one."""
        first, is_alone = self._subject(text_key(normal_uri(row.fact.entity)) + text_key(relation_of(row.fact)))
        return None if is_alone else first

    def standing(
        self, entity: str, relation: str, scope: Scope, speaker: Speaker, value_digest: bytes | None = None
    ) -> Iterator[FactRow]:
        """Facts of one entity, relation, scope and source identity (PROTOCOL §2.2) that are shown and not withdrawn.

        Newest first; names in normal form; with a digest those of that value. Costs what stands, however much was said.
        """
        speech = (entity, relation, scope, *speaker)
        prefix = text_key(*speech) + (value_digest or b"")
        places = [place_of(key) for key, _ in self.table(_STANDING).scan(prefix)]
        first, _ = self._subject(text_key(entity) + text_key(relation)) or (None, True)
        row = None if first is None else self.at(first)
        if row is not None and self._stands(row) and _standing_key(row).startswith(prefix):
            places.append(row.place)
        return map(self.at, sorted(places, reverse=True))

    def about(self, entity: str) -> list[FactRow]:
        """Every fact about an entity, by its name in normal form, whatever became of it; in the order of their places."""
        self.table(BY_SUBJECT).flush()
        return [
            self.at(place)
            for place in sorted(place_of(key) for key, _ in self.table(BY_SUBJECT).scan(text_key(entity)))
        ]

    def is_tombstoned(self, entity: str, scope: Scope) -> bool:
        """Whether a tombstone of this node's reaches facts about an entity, by its name in normal form, in a scope."""
        return any(hiding.origin is None and reaches(hiding.scope, scope) for hiding in self._hidings_of(entity))

    # Folding

    def fold(self, entry: Entry) -> None:
        self.changes, self.erased = [], ()
        self._few = self._alone = None
        match entry.event:
            case FactAsserted(fact=fact) | ConflictResolved(fact=fact):
                self._add(entry, 0, fact, None)
            case FactQuarantined(fact=fact, garden_id=garden_id, reason=reason):
                self._add(entry, 0, fact, (garden_id, reason))
            case BatchReceived(receipts=receipts) | PushReceived(receipts=receipts):
                for index, receipt in enumerate(receipts):
                    if receipt is not ERASED:
                        self._add(entry, index, receipt.fact, _hold_of(receipt))
            case FactPromoted(fact_id=fact_id, origin=origin, target_garden_id=target):
                self._promote(entry, origin, fact_id, target)
            case FactsSealed(origin=origin, seals=seals):
                for index, seal in enumerate(seals):
                    self._seal(entry, index, origin, seal)
            case FactRejected(fact_id=fact_id, origin=origin):
                self._decide(origin, fact_id, quarantine_status="rejected", decided_from=(entry.offset, 0))
            case _:
                self._fold_tombstone(entry.event)

    def _fold_tombstone(self, event: Event) -> None:
        match event:
            case EntityTombstoned(tombstone=tombstone):
                self._hide(tombstone.entity_uri, text_key(tombstone.id), Hiding(tombstone.scope, None))
            case TombstoneRevoked(tombstone_id=tombstone_id, entity_uri=entity):
                self._hide(entity, text_key(tombstone_id), None)
            case PeerTombstoned(node_id=node_id, tombstone=tombstone, revocation=revocation):
                hiding = Hiding(tombstone.scope, node_id) if revocation is None else None
                self._hide(tombstone.entity_uri, text_key(node_id, tombstone.id), hiding)
            case EntityErased(entity_uri=entity):
                self.erased = tuple(self.about(entity))
                for row in self.erased:
                    self._remove(row)
                self._subjects.clear()
            case _:
                pass  # no other event brings, moves or hides a fact

    def _hide(self, entity: str, tombstone: bytes, hiding: Hiding | None) -> None:
        """Begin to hide what a tombstone reaches, or, with None, cease to."""
        key = text_key(entity) + tombstone
        if hiding is None:
            self.table(_HIDINGS).delete(key)
        else:
            self.table(_HIDINGS).put(key, hiding)
        self._has_hidings = None
        hidings = self._hidings_of(entity)
        for row in self.about(entity):
            hidden = any(one.hides(row.fact) for one in hidings)
            if hidden != row.hidden:
                self._by_place.put(place_key(row.place), structs.replace(row, hidden=hidden))

    def _hidings_of(self, entity: str) -> list[Hiding]:
        # Every write asks, and on nearly every node there are none.
        if self._has_hidings is None:
            self._has_hidings = next(self.table(_HIDINGS).scan(), None) is not None
        return self.table(_HIDINGS).values(text_key(entity)) if self._has_hidings else []

    def _remove(self, row: FactRow) -> None:
        """Remove every row that followed from a fact. What it did to others it did to facts about the same entity, which go too."""
        fact, here = row.fact, place_key(row.place)
        self._by_place.delete(here)
        by_id = id_key(fact)
        if by_id is not None and self._by_id.get(by_id) == here:
            self._by_id.delete(by_id)
        for table, prefix in zip(self._indexes, index_prefixes(fact), strict=True):
            table.delete(prefix + here)
        self.table(_WITHDRAWN).delete(here)
        self.table(UNSEALED).delete(here)
        self.table(_STANDING).delete(_standing_key(row))
        for shown in (row.shown_from, row.sealed_from):
            if shown is not None:
                self.table(SERVABLE).delete(SCOPE_KEYS[fact.scope] + place_key(shown))
        for fact_id in fact.supersedes:
            self.table(_SUPERSEDED).delete(_superseded_key(fact_id, row))
        if fact.confidence == 0.0:
            self.table(_RETRACTIONS).delete(_retraction_key(row))

    def take(self, rows: dict[str, list[tuple[bytes, bytes]]], keys: dict[str, list[bytes]]) -> list[Place]:
        """Take in the rows of plain facts, and the keys of rows without a value (see `plain_facts.py`).

        Returns those that have another fact of their entity and relation before them, oldest first.
        """
        self.flush()
        self._subjects.clear()
        self._few = self._alone = None
        beside_others = self._beside_others(keys[BY_SUBJECT.name])
        for spec in self.tables:
            self.table(spec).put_encoded(rows.get(spec.name, []))
            self.table(spec).put_keys(keys.get(spec.name, []))
        return beside_others

    def stand_beside(self, place: Place) -> None:
        """A plain fact that is not the first of its entity and relation is shown: the only change that is told."""
        row = self.at(place)
        self.table(_STANDING).put(_standing_key(row), b"")
        self.changes = [row]

    def _beside_others(self, keys: list[bytes]) -> list[Place]:
        """Those of new keys of BY_SUBJECT, in order, whose subject is in the table, or is that of another before them."""
        subjects = [key[:-PLACE_BYTES] for key in keys]
        known = set(self.table(BY_SUBJECT).with_prefixes(subjects))
        before = [None, *subjects]
        return sorted(
            place_of(key)
            for key, subject, last in zip(keys, subjects, before, strict=False)
            if subject == last or subject in known
        )

    def _add(self, entry: Entry, index: int, fact: Fact, hold: tuple[str, str] | None) -> None:
        place = (entry.offset, index)
        row = new_row(place, fact, hold)
        # What a peer told is gone may still come by a relay; no other tombstone lets a fact in.
        if fact.received_from is not None and any(one.hides(fact) for one in self._hidings_of(normal_uri(fact.entity))):
            row = structs.replace(row, hidden=True)
        self._by_place.put(place_key(place), row)
        is_first = self._index(place, fact)
        if row.shown_from is not None:
            self._show(entry, row, is_first)

    def _promote(self, entry: Entry, origin: str, fact_id: str, target: str | None) -> None:
        here = (entry.offset, 0)
        row = self._decide(
            origin, fact_id, quarantine_status="promoted", garden_id=target, shown_from=here, decided_from=here
        )
        if row is not None:
            self._show(entry, row, self.first_beside(row) in (None, row.place))

    def _decide(self, origin: str, fact_id: str, **changes: object) -> FactRow | None:
        row = self.of_origin(origin, fact_id)
        if row is None:
            return None
        row = structs.replace(row, **changes)
        self._by_place.put(place_key(row.place), row)
        return row

    def _index(self, place: Place, fact: Fact) -> bool:
        """Enter a fact into the indexes; returns whether it is the first of its entity and relation."""
        here, by_id = place_key(place), id_key(fact)
        if by_id is not None:
            self._by_id.put(by_id, here)
        prefixes = index_prefixes(fact)
        for table, prefix in zip(self._indexes, prefixes, strict=True):
            table.put(prefix + here, b"")
        subject = prefixes[_SUBJECT]
        known = self._subject(subject)
        self._subjects[subject] = (place, True) if known is None else (known[0], False)
        return known is None

    def _show(self, entry: Entry, row: FactRow, is_first: bool) -> None:
        # Our own word has the newest clock here, so nothing that withdraws it can have come before it.
        is_own = is_own_word(row.fact)
        if not is_own:
            self._apply_earlier_withdrawals(row)
        if row.fact.confidence == 0.0:
            self._retract(row)
        for fact_id in row.fact.supersedes:
            self._supersede(row, fact_id)
        stands = is_own or self.withdrawal(row.place) is None
        if stands or row.fact.resolves is not None:
            self.changes.append(row)
        # The first, as nearly all are, is found by being the first: a fact alone with its subject costs nothing here.
        if stands and not is_first:
            self.table(_STANDING).put(_standing_key(row), b"")
        if is_own:
            self._enter(own_word_row(row, entry.leaf))
        elif may_travel(row) and may_be_relayed(row):
            self._enter(servable_row(row, row.shown_from, entry.leaf))

    def _seal(self, entry: Entry, index: int, origin: str, seal: Seal) -> None:
        row = self.of_origin(origin, seal.fact_id)
        if row is not None:
            sealed = structs.replace(row.fact, seal=seal.seal)
            row = structs.replace(row, fact=sealed, sealed_from=(entry.offset, index))
            self._by_place.put(place_key(row.place), row)
            self.table(UNSEALED).delete(place_key(row.place))
            self._enter(servable_row(row, (entry.offset, index), entry.leaf))

    def _enter(self, found: tuple[TableSpec, bytes, object] | None) -> None:
        if found is not None:
            spec, key, row = found
            self.table(spec).put(key, row)

    def _retract(self, row: FactRow) -> None:
        fact = row.fact
        retraction = Retraction(row.place, fact.value.type, _retracted_value(fact))
        digest = None if retraction.value_text is None else digest_of(fact.value)
        self.table(_RETRACTIONS).put(_retraction_key(row), retraction)
        for said in self.standing(normal_uri(fact.entity), relation_of(fact), fact.scope, speaker_of(fact), digest):
            if _retracts(retraction, fact, said.fact):
                self._withdraw(said, Withdrawal(row.shown_from, "retracted"))

    def _supersede(self, row: FactRow, fact_id: str) -> None:
        key = _superseded_key(fact_id, row)
        self.table(_SUPERSEDED).put(key, row.shown_from)
        for old in self.all_by_id(fact_id):
            if _superseded_key(fact_id, old) == key and old.place != row.place:
                self._withdraw(old, Withdrawal(row.shown_from, "superseded"))

    def _apply_earlier_withdrawals(self, row: FactRow) -> None:
        superseded_from = self.table(_SUPERSEDED).get(_superseded_key(row.fact.id, row))
        if superseded_from is not None:
            self._withdraw(row, Withdrawal(superseded_from, "superseded"))
        speech = text_key(*speech_of(row.fact))
        found = (self._first_retraction(speech + said, row) for said in (_ANY_VALUE, digest_of(row.fact.value)))
        earliest = min((retraction for retraction in found if retraction is not None), default=None)
        if earliest is not None:
            by = self.at(earliest[1])
            self._withdraw(row, Withdrawal(by.shown_from or by.place, "retracted"))

    def _first_retraction(self, prefix: bytes, row: FactRow) -> tuple[bytes, Place] | None:
        """The first retraction after a fact, in the order of their HLCs, with the key that orders it."""
        for key, retraction in self.table(_RETRACTIONS).scan(prefix, after=prefix + _hlc_key(row.fact.hlc)):
            if _retracts(retraction, self.at(retraction.place).fact, row.fact):
                return key[len(prefix) :], retraction.place
        return None

    def _withdraw(self, row: FactRow, withdrawal: Withdrawal) -> None:
        key = place_key(row.place)
        if not self.table(_WITHDRAWN).has(key):
            self.table(_WITHDRAWN).put(key, withdrawal)
            self.table(_STANDING).delete(_standing_key(row))
            self.changes.append(Left(row.place, withdrawal.by))

    def _stands(self, row: FactRow) -> bool:
        return row.shown_from is not None and not self.table(_WITHDRAWN).has(place_key(row.place))

    def _subject(self, subject: bytes) -> tuple[Place, bool] | None:
        """The first fact of an entity and relation, and whether it is the only one; None where there is none."""
        known = self._subjects.get(subject)
        if known is None:
            # What this view has added since the last flush is in `_subjects`.
            places = [place_of(key) for key in self.table(BY_SUBJECT).stored_keys(subject, 2)]
            if not places:
                return None
            known = self._subjects[subject] = (places[0], len(places) == 1)
        return known

    def _at_key(self, key: bytes) -> FactRow:
        row = self._by_place.get(key)
        if row is None:
            raise KeyError(place_of(key))
        return row

    def _subjects_of(self, entity: str) -> Iterator[bytes]:
        """The prefixes of an entity's relations in the one index of both: it skips from each to the next."""
        prefix = text_key(entity)
        table, found = self.table(BY_SUBJECT), prefix
        while (key := next(table.scan(prefix, after=found), None)) is not None:
            subject = key[0][: 2 * len(prefix)]
            yield subject
            found = subject + place_key(LAST_PLACE)

    def _newest_first(self, spec: TableSpec, prefix: bytes, before: Place = LAST_PLACE) -> Iterator[FactRow]:
        return map(self.at, self._places_back(spec, prefix, before))

    def _places_back(self, spec: TableSpec, prefix: bytes, before: Place) -> Iterator[Place]:
        for key, _ in self.table(spec).scan_back(prefix, before=prefix + place_key(before)):
            yield place_of(key)

    def _places_on(self, spec: TableSpec, prefix: bytes, after: Place, end: int) -> Iterator[Place]:
        for key, _ in self.table(spec).scan(prefix, after=prefix + place_key(after)):
            place = place_of(key)
            if place[0] >= end:
                return
            yield place


def _index_for(entity: str | None, relation: str | None, source: str | None) -> tuple[TableSpec, bytes] | None:
    """The narrowest index and the prefix in it; None where only the table itself will do."""
    if entity is not None and relation is not None:
        return BY_SUBJECT, text_key(entity) + text_key(relation)
    if source is not None:
        return BY_SOURCE, text_key(source)
    if relation is not None:
        return BY_RELATION, text_key(relation)
    return None


def _hold_of(receipt: Receipt) -> tuple[str, str] | None:
    if receipt.quarantine_garden_id is None or receipt.quarantine_reason is None:
        return None
    return receipt.quarantine_garden_id, receipt.quarantine_reason


def _retracted_value(fact: Fact) -> str | None:
    value = fact.value
    is_blanket = value.type == "null" or (value.type == "string" and value.v == "retracted")
    return None if is_blanket else repr(compared(value))


def _retracts(retraction: Retraction, by: Fact, said: Fact) -> bool:
    if (parse_hlc(said.hlc), said.id) >= (parse_hlc(by.hlc), by.id):
        return False
    if retraction.value_text is None:
        return True
    return (said.value.type, repr(compared(said.value))) == (retraction.value_type, retraction.value_text)


def _superseded_key(fact_id: str, row: FactRow) -> bytes:
    """Whose word on what the id stands for: a source supersedes what it said about the same entity (docs/tombstones.md)."""
    return text_key(fact_id.lower(), normal_uri(row.fact.entity), *speaker_of(row.fact))


def _retraction_key(row: FactRow) -> bytes:
    fact = row.fact
    said = _ANY_VALUE if _retracted_value(fact) is None else digest_of(fact.value)
    return text_key(*speech_of(fact)) + said + _hlc_key(fact.hlc) + place_key(row.place)


def _standing_key(row: FactRow) -> bytes:
    return text_key(*speech_of(row.fact)) + digest_of(row.fact.value) + place_key(row.place)


def _hlc_key(hlc: str) -> bytes:
    return _HLC.pack(*parse_hlc(hlc))
