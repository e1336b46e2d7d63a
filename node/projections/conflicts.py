"""Contradictions: which facts of a group differ, which of them wins, and the record of each pair (PROTOCOL §2.6).

A group is the facts of one entity, relation, scope and garden. A member is live while it is shown, confident, unexpired, and
neither withdrawn nor settled by a resolution.

Always: whatever the order of arrival, and whether in one entry or in many, the same facts make the same group; a pair's record
has the same id on every node.
Always: a fact that is alone with its entity and relation, as nearly all are, costs nothing here: its group is made when the
second comes. Whatever else came before the second has had its group since it came.
Always: members that left keep the places from and until which they stood, so a listing's later pages see its first page's state.

Folded after `facts`, whose rows it reads, and which tells what the entry showed and withdrew. Writes its own tables alone.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, ClassVar, Protocol

from msgspec import Meta, Struct, structs

from node.clock import parse_hlc
from node.events.event import Event
from node.events.facts import Fact
from node.projections.base import LAST_PLACE, PLACE_BYTES, Handles, Place, Projection, TableSpec, place_key, text_key
from node.projections.fact_rows import DIGEST_BYTES, FactRow, digest_of, relation_of
from node.projections.facts import Facts, Left
from node.times import parse_rfc3339
from node.uris import (
    URL_NAMESPACE,
    authority_of,
    is_reserved_entity,
    is_reserved_relation,
    named_uuid,
    normal_uri,
    uuid_bytes,
    uuid_text,
)

MAX_RECORDED = 32
# More entries than any log has: a reader of all there is.
WHOLE = 2**63
PREFIX = "stigmem:conflict:"
# The relations of what the node says about a conflict (see `told_facts.py`).
BETWEEN, STATUS, RESOLVES = "stigmem:conflict:between", "stigmem:conflict:status", "stigmem:resolves"
_TOLD = (BETWEEN, STATUS, RESOLVES)
_NEVER_MS = 2**63 - 1
_RANK = struct.Struct(">dQQ")
_MS = struct.Struct(">Q")


class Member(Struct, frozen=True, array_like=True):
    """A fact in a group: where it stands and since when, until when it is valid (epoch ms), what it says and how it ranks."""

    place: Place
    shown_from: Place
    expires_ms: int
    digest: bytes
    rank: bytes


class Past(Struct, frozen=True, array_like=True):
    """A member that was withdrawn or settled, and from which place on."""

    member: Member
    until: Place


class Group(Struct, frozen=True, array_like=True):
    """`only` is the member of a group of one; from its second on they are in tables. `recorded` are those with pairwise records."""

    only: Member | None
    recorded: tuple[Member, ...]
    has_past: bool


class Conflict(Struct, frozen=True, array_like=True):
    """Two facts that contradicted each other when the second came: sorted by id, as the record's name has them."""

    conflict_id: str
    facts: tuple[Place, Place]
    detected: Place
    detected_ms: int
    hlc: str
    resolved_by: Place | None


class Standing(Struct, frozen=True, array_like=True):
    """How a fact stands in its group: whether another live one says something else, and whether a plain read shows it."""

    is_contradicted: bool
    is_shown: bool


class At(Struct, frozen=True, array_like=True):
    """What a reader looks at: the first `size` entries of the log, and the time by which expiry is judged."""

    # Cursors carry it to callers and back: bounded, for who made one up is refused like anybody with a wrong one.
    size: Annotated[int, Meta(ge=0)]
    now_ms: Annotated[int, Meta(ge=0, le=2**53)]


class Dispute(Struct, frozen=True, array_like=True):
    """What a group's live members say, as far as it matters: up to two of their values, and the highest of their ranks."""

    digests: tuple[bytes, ...]
    top_rank: bytes


class Made(Protocol):
    """What the fold takes from an entry itself: where and when it was made. The rest is in what `facts` tells."""

    offset: int
    hlc: str
    at_ms: int


_UNDISPUTED = Standing(is_contradicted=False, is_shown=True)
_SETTLED_LOSER = Standing(is_contradicted=True, is_shown=False)
_NO_GROUP = Group(only=None, recorded=(), has_past=False)

_GROUPS = TableSpec("conflicts/groups", Group, hashed=((0, 16),))
_BY_VALUE = TableSpec("conflicts/by_value", Member, hashed=((0, 32),))
_BY_RANK = TableSpec("conflicts/by_rank", Member, hashed=((0, 16),))
# Until when the last of a group's facts of one value is valid, by value; and the values in the order of that.
_LATEST = TableSpec("conflicts/latest", bytes, hashed=((0, 32),))
_BY_LATEST = TableSpec("conflicts/by_latest", bytes, hashed=((0, 16), (24, 40)))
_PAST = TableSpec("conflicts/past", Past, hashed=((0, 16),))
_RECORDS = TableSpec("conflicts/records", Conflict, hashed=((0, 16),))
_BY_DETECTION = TableSpec("conflicts/by_detection", bytes)
_OF_FACT = TableSpec("conflicts/of_fact", bytes, hashed=((12, 28),))
_TELLING = TableSpec("conflicts/telling", bytes, hashed=((0, 16),))
_SETTLED = TableSpec("conflicts/settled", Place, is_open=True)
_SETTLED_IDS = TableSpec("conflicts/settled_ids", Place, hashed=((0, 32),))


class Conflicts(Projection):
    name: ClassVar[str] = "conflicts"
    version: ClassVar[int] = 5
    # Whatever changes the facts: `Facts` says what it changed.
    events: ClassVar[tuple[type[Event], ...]] = Facts.events
    tables: ClassVar[tuple[TableSpec, ...]] = (
        _GROUPS,
        _BY_VALUE,
        _BY_RANK,
        _LATEST,
        _BY_LATEST,
        _PAST,
        _RECORDS,
        _BY_DETECTION,
        _OF_FACT,
        _TELLING,
        _SETTLED,
        _SETTLED_IDS,
    )

    def __init__(self, txn: object, handles: Handles, facts: Facts) -> None:
        super().__init__(txn, handles)
        self._facts = facts
        self._groups = self.table(_GROUPS)
        # Of reads of a bounded log: nothing that is folded later changes them.
        self._disputes: dict[tuple[bytes, At], Dispute] = {}

    # Reading

    def by_id(self, conflict_id: str) -> Conflict | None:
        """The conflict of that id (`stigmem:conflict:<uuid>`, or its UUID alone)."""
        key = uuid_bytes(conflict_id.removeprefix(PREFIX))
        return None if key is None else self.table(_RECORDS).get(key)

    def telling(self, fact_id: str) -> Conflict | None:
        """The conflict that a fact of that id tells about (see `told_facts.py`)."""
        fact_key = uuid_bytes(fact_id)
        key = None if fact_key is None else self.table(_TELLING).get(fact_key)
        return None if key is None else self._record(key)

    def resolved_by(self, fact_id: str) -> Iterator[Conflict]:
        """The conflicts that facts of that id settled."""
        for row in self._facts.all_by_id(fact_id):
            settled_ids = row.fact.resolves.superseded if row.fact.resolves else ()
            for side in (side for settled_id in settled_ids for side in self._facts.all_by_id(settled_id)):
                for conflict in self.of_fact(side.place):
                    # Both sides lead to it: once is enough.
                    if conflict.resolved_by == row.place and conflict.facts[0] == side.place:
                        yield conflict

    def of_fact(self, place: Place) -> Iterator[Conflict]:
        """The conflicts that a fact is a side of."""
        for found, _ in self.table(_OF_FACT).scan(place_key(place)):
            yield self._record(found[PLACE_BYTES:])

    def newest_first(self, before: Place = LAST_PLACE) -> Iterator[Conflict]:
        """Conflicts detected before a place, last first."""
        for _, key in self.table(_BY_DETECTION).scan_back(b"", before=place_key(before)):
            yield self._record(key)

    def is_open(self, conflict: Conflict, at: At) -> bool:
        """Whether nobody has settled it and both sides still stand."""
        if self.resolution(conflict, at) is not None:
            return False
        return all(self.is_live(self._facts.at(place), at) for place in conflict.facts)

    def resolution(self, conflict: Conflict, at: At) -> FactRow | None:
        """The fact that settled it. One that came into quarantine settles nothing before it is promoted."""
        row = None if conflict.resolved_by is None else self._facts.at(conflict.resolved_by)
        return None if row is None or row.shown_from is None or row.shown_from[0] >= at.size else row

    def settled_from(self, place: Place) -> Place | None:
        """From where on a resolution has put a fact aside."""
        return self.table(_SETTLED).get(place_key(place))

    def is_live(self, row: FactRow, at: At) -> bool:
        """Whether a fact takes part in contradictions."""
        return (
            row.shown_from is not None
            and row.shown_from[0] < at.size
            and row.fact.confidence > 0.0
            and _expires_ms(row.fact) > at.now_ms
            and not self._is_out(self._facts.withdrawn_from(row.place), at)
            and not self._is_out(self.settled_from(row.place), at)
        )

    def standing(self, row: FactRow, at: At) -> Standing:
        """How a fact stands in its group: one that is not live is not disputed, unless a resolution put it aside."""
        if row.shown_from is None or self._facts.is_known_alone(row.place):
            return _UNDISPUTED
        key = _group_key(row)
        # What takes no part in contradictions has no group.
        group = self._groups.get(key)
        if group is None or (group.only is not None and not group.has_past):
            return _UNDISPUTED
        if self._is_out(self.settled_from(row.place), at):
            return _SETTLED_LOSER
        if not self.is_live(row, at):
            return _UNDISPUTED
        dispute = self._dispute(key, group, at)
        if dispute.digests in ((), (digest_of(row.fact.value),)):
            return _UNDISPUTED
        return Standing(is_contradicted=True, is_shown=_rank(row.fact) == dispute.top_rank)

    def live_with(self, row: FactRow, at: At, limit: int) -> list[FactRow]:
        """Up to `limit` live facts of a fact's group, the highest in rank first."""
        key = _group_key(row)
        group = self._groups.get(key) or _NO_GROUP
        standing = (member for member in self._by_rank(key, group) if _stands(member, at))
        return [self._facts.at(member.place) for member in islice(standing, limit)]

    # Folding

    def fold(self, entry: Made) -> None:
        self._remove(self._facts.erased)
        for change in self._facts.changes:
            if isinstance(change, Left):
                self._leave(self._facts.at(change.place), change.until)
            else:
                # By its own number within the entry: what was erased beside it does not move it.
                self._arrive(entry, change.place[1] if change.place[0] == entry.offset else 0, change)

    def _remove(self, erased: tuple[FactRow, ...]) -> None:
        """Remove the groups and the conflicts of an entity's facts, which are all that they are of."""
        for key in {_group_key(row) for row in erased if _takes_part(row.fact)}:
            for spec in (_GROUPS, _BY_VALUE, _BY_RANK, _LATEST, _BY_LATEST, _PAST, _SETTLED_IDS):
                for found in [found for found, _ in self.table(spec).scan(key)]:
                    self.table(spec).delete(found)
        for row in erased:
            here = place_key(row.place)
            self.table(_SETTLED).delete(here)
            for found in [found for found, _ in self.table(_OF_FACT).scan(here)]:
                self._remove_record(found[PLACE_BYTES:])

    def _remove_record(self, key: bytes) -> None:
        conflict = self._record(key)
        self.table(_RECORDS).delete(key)
        self.table(_BY_DETECTION).delete(place_key(conflict.detected))
        for relation in _TOLD:
            self.table(_TELLING).delete(named_uuid(key, relation))
        for place in conflict.facts:
            self.table(_OF_FACT).delete(place_key(place) + key)

    def _arrive(self, entry: Made, index: int, row: FactRow) -> None:
        fact = row.fact
        if fact.confidence == 0.0 or not self._make_way(row):
            return
        withdrawn = self._facts.withdrawn_from(row.place)
        if withdrawn is not None and withdrawn <= row.shown_from:
            # It came withdrawn: it has settled what it names, as wherever it came first, and does not stand itself.
            return
        key, member = _group_key(row), _member(row)
        group = self._groups.get(key)
        if group is None:
            self._groups.put(key, Group(member, (), False))
            return
        settled_by = self.table(_SETTLED_IDS).get(key + text_key(fact.id.lower())) if group.has_past else None
        if settled_by is not None:
            self.table(_SETTLED).put(place_key(row.place), settled_by)
            return
        if group.only is None and next(self.table(_BY_RANK).scan(key), None) is None:
            self._groups.put(key, structs.replace(group, only=member))
            return
        if group.only is not None:
            self._insert(key, group.only)
        self._insert(key, member)
        self._groups.put(key, self._record_pairs(entry, index, key, structs.replace(group, only=None), member))

    def _make_way(self, row: FactRow) -> bool:
        """Give the fact before a new one its group, and settle what the new one settles; False where nothing is beside it."""
        fact = row.fact
        if not _takes_part(fact):
            return False
        first = self._facts.first_beside(row)
        if first is None and fact.resolves is None:
            return False
        key = _group_key(row)
        if first not in (None, row.place) and self._groups.get(key) is None:
            self._represent(self._facts.at(first), row.shown_from)
        if fact.resolves is not None and _may_settle(fact):
            self._settle(key, row)
        return True

    def _represent(self, row: FactRow, here: Place) -> None:
        """Give the first fact of an entity and relation its group, which it did without while it was alone until `here`."""
        key = _group_key(row)
        if self._groups.get(key) is not None or not _takes_part(row.fact) or row.fact.confidence == 0.0:
            return
        withdrawn = self._facts.withdrawn_from(row.place)
        # Of what the same entry brought behind `here`, nothing has happened yet: it leaves when its turn comes.
        is_shown = row.shown_from is not None and row.shown_from < here
        if is_shown and (withdrawn is None or withdrawn > here):
            self._groups.put(key, Group(_member(row), (), False))

    def _record_pairs(self, entry: Made, index: int, key: bytes, group: Group, member: Member) -> Group:
        """Record the pairs that a new member makes, while the group has fewer than 32 facts with records."""
        at = At(entry.offset + 1, entry.at_ms)
        recorded = [other for other in group.recorded if _stands(other, at)]
        if member.expires_ms <= entry.at_ms or len(recorded) >= MAX_RECORDED:
            return structs.replace(group, recorded=tuple(recorded))
        opponents = [other for other in recorded if other.digest != member.digest]
        for other in self._others(key, member.digest, at):
            if len(recorded) >= MAX_RECORDED - 1:
                break
            if other not in recorded:
                recorded.append(other)
                opponents.append(other)
        for number, other in enumerate(opponents):
            self._record_pair(entry, (index << 8) + number, member.place, other.place)
        if opponents:
            recorded.append(member)
        return structs.replace(group, recorded=tuple(recorded))

    def _record_pair(self, entry: Made, number: int, first: Place, second: Place) -> None:
        sides = sorted((self._facts.at(place).fact.id.lower(), place) for place in (first, second))
        if sides[0][0] == sides[1][0]:
            return  # two nodes' facts of one id have no pair of ids to be named by
        made = named_uuid(URL_NAMESPACE, f"{sides[0][0]} {sides[1][0]}")
        if self.table(_RECORDS).has(made):
            return
        detected = (entry.offset, number)
        places = (sides[0][1], sides[1][1])
        self.table(_RECORDS).put(
            made, Conflict(PREFIX + uuid_text(made), places, detected, entry.at_ms, entry.hlc, None)
        )
        self.table(_BY_DETECTION).put(place_key(detected), made)
        for relation in _TOLD:
            self.table(_TELLING).put(named_uuid(made, relation), made)
        for place in places:
            self.table(_OF_FACT).put(place_key(place) + made, b"")

    def _settle(self, key: bytes, resolution: FactRow) -> None:
        """Put the facts that a resolution names aside, those here and those still to come, and close the conflicts among them."""
        by, settled = resolution.shown_from, []
        self._groups.put(key, structs.replace(self._groups.get(key) or _NO_GROUP, has_past=True))
        for fact_id in resolution.fact.resolves.superseded:
            self.table(_SETTLED_IDS).put(key + text_key(fact_id.lower()), by)
            for row in self._facts.all_by_id(fact_id):
                if _group_key(row) == key and row.place != resolution.place:
                    self._leave(row, by)
                    # Another resolution may have named it before: it is out since the first.
                    if not self.table(_SETTLED).has(place_key(row.place)):
                        self.table(_SETTLED).put(place_key(row.place), by)
                    settled.append(row.place)
        for place in settled:
            for conflict in list(self.of_fact(place)):
                self._close(conflict, resolution)

    def _close(self, conflict: Conflict, resolution: FactRow) -> None:
        if conflict.resolved_by is None and all(self.table(_SETTLED).has(place_key(side)) for side in conflict.facts):
            key = uuid_bytes(conflict.conflict_id.removeprefix(PREFIX))
            self.table(_RECORDS).put(key, structs.replace(conflict, resolved_by=resolution.place))

    def _leave(self, row: FactRow, until: Place) -> None:
        """Take a member out of its group, from `until` on."""
        if not _takes_part(row.fact) or row.shown_from is None:
            return
        key = _group_key(row)
        group = self._groups.get(key)
        if group is None:
            return
        member = _member(row)
        if group.only is not None and group.only.place == row.place:
            group = structs.replace(group, only=None)
        elif group.only is None and self.table(_BY_RANK).has(_rank_key(key, member)):
            self.table(_BY_VALUE).delete(_value_key(key, member))
            self.table(_BY_RANK).delete(_rank_key(key, member))
            self._sink_latest(key, member)
        else:
            return
        self.table(_PAST).put(key + place_key(until) + place_key(row.place), Past(member, until))
        kept = tuple(other for other in group.recorded if other.place != row.place)
        self._groups.put(key, structs.replace(group, recorded=kept, has_past=True))

    def _insert(self, key: bytes, member: Member) -> None:
        self.table(_BY_VALUE).put(_value_key(key, member), member)
        self.table(_BY_RANK).put(_rank_key(key, member), member)
        value, expiry = key + member.digest, _MS.pack(member.expires_ms)
        latest = self.table(_LATEST).get(value)
        if latest is None or latest < expiry:
            self._set_latest(key, member.digest, latest, expiry)

    def _sink_latest(self, key: bytes, left: Member) -> None:
        """A member has left: the value's facts are valid until when the last of the others is."""
        value, expiry = key + left.digest, _MS.pack(left.expires_ms)
        if self.table(_LATEST).get(value) == expiry:
            rest = next(self.table(_BY_VALUE).scan_back(value, before=_end(value)), None)
            self._set_latest(key, left.digest, expiry, None if rest is None else _MS.pack(rest[1].expires_ms))

    def _set_latest(self, key: bytes, digest: bytes, old: bytes | None, new: bytes | None) -> None:
        if old == new:
            return
        if old is not None:
            self.table(_BY_LATEST).delete(key + old + digest)
        if new is None:
            self.table(_LATEST).delete(key + digest)
        else:
            self.table(_LATEST).put(key + digest, new)
            self.table(_BY_LATEST).put(key + new + digest, b"")

    # Groups

    def _dispute(self, key: bytes, group: Group, at: At) -> Dispute:
        found = self._disputes.get((key, at))
        if found is None:
            past = self._past(key, group, at)
            digests = self._digests(key, group, past, at)
            top_rank = self._top_rank(key, group, past, at) if digests else b""
            found = Dispute(digests, top_rank)
            # A listing asks for each row, and of the past each answer may be a walk over all that came since.
            if at.size < WHOLE:
                self._disputes[key, at] = found
        return found

    def _digests(self, key: bytes, group: Group, past: list[Member], at: At) -> tuple[bytes, ...]:
        """Up to two values that live members state."""
        found: tuple[bytes, ...] = ()
        for member in past:
            if member.digest not in found:
                found = (*found, member.digest)
            if len(found) == 2:
                return found
        if group.only is not None:
            is_another = _stands(group.only, at) and group.only.digest not in found
            return (*found, group.only.digest) if is_another else found
        for _ in range(2 - len(found)):
            other = next(self._others(key, found[0] if found else b"", at), None)
            if other is None:
                break
            found = (*found, other.digest)
        return found

    def _past(self, key: bytes, group: Group, at: At) -> list[Member]:
        """Members that have left since, but stood when the reader looked."""
        if not group.has_past:
            return []
        rows = self.table(_PAST).scan(key, after=key + place_key((at.size, 0)))
        return [past.member for _, past in rows if _stands(past.member, at)]

    def _top_rank(self, key: bytes, group: Group, past: list[Member], at: At) -> bytes:
        first = next((member.rank for member in self._by_rank(key, group) if _stands(member, at)), b"")
        return max([first, *(member.rank for member in past)])

    def _by_rank(self, key: bytes, group: Group) -> Iterator[Member]:
        """Members, highest in rank first."""
        if group.only is not None:
            yield group.only
            return
        for _, member in self.table(_BY_RANK).scan_back(key, before=_end(key)):
            yield member

    def _others(self, key: bytes, digest: bytes, at: At) -> Iterator[Member]:
        """Live members that say something else, value by value, the one that is valid longest first.

        Those of one's own value are skipped, however many, and values of which all facts have expired are not looked at.
        """
        before = _end(key)
        while (item := next(self.table(_BY_LATEST).scan_back(key, before=before), None)) is not None:
            before = item[0]
            latest, found = before[len(key) : -DIGEST_BYTES], before[-DIGEST_BYTES:]
            if latest <= _MS.pack(at.now_ms):
                return
            if found != digest:
                yield from self._standing_of(key + found, at)

    def _standing_of(self, value: bytes, at: At) -> Iterator[Member]:
        # Last in the order of expiry first: where that one has expired all have.
        for _, member in self.table(_BY_VALUE).scan_back(value, before=_end(value)):
            if member.expires_ms <= at.now_ms:
                return
            if _stands(member, at):
                yield member

    def _record(self, key: bytes) -> Conflict:
        conflict = self.table(_RECORDS).get(key)
        if conflict is None:
            raise KeyError(key)
        return conflict

    @staticmethod
    def _is_out(since: Place | None, at: At) -> bool:
        return since is not None and since[0] < at.size


def _takes_part(fact: Fact) -> bool:
    return not is_reserved_relation(fact.relation) and not is_reserved_entity(fact.entity)


def _may_settle(fact: Fact) -> bool:
    """Whose resolution counts here: our own, and that of the organisation that the entity belongs to."""
    return fact.received_from is None or fact.origin == authority_of(normal_uri(fact.entity))


def _group_key(row: FactRow) -> bytes:
    fact = row.fact
    return text_key(normal_uri(fact.entity), relation_of(fact), fact.scope, row.garden_id or "")


def _member(row: FactRow) -> Member:
    return Member(row.place, row.shown_from, _expires_ms(row.fact), digest_of(row.fact.value), _rank(row.fact))


def _stands(member: Member, at: At) -> bool:
    return member.shown_from[0] < at.size and member.expires_ms > at.now_ms


def _expires_ms(fact: Fact) -> int:
    return _NEVER_MS if fact.valid_until is None else parse_rfc3339(fact.valid_until)


def _rank(fact: Fact) -> bytes:
    """Higher confidence first, then higher HLC; as bytes in that order."""
    return _RANK.pack(fact.confidence, *parse_hlc(fact.hlc))


def _rank_key(key: bytes, member: Member) -> bytes:
    return key + member.rank + place_key(member.place)


def _value_key(key: bytes, member: Member) -> bytes:
    return key + member.digest + _MS.pack(member.expires_ms) + place_key(member.place)


def _end(prefix: bytes) -> bytes:
    """Behind every key of this prefix."""
    return prefix + b"\xff" * 64
