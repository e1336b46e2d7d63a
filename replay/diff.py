"""`stigmem replay diff`: what was added, changed and went between two places of a log, in an operator's words (docs/audit.md).

A place is the state before the entry of that offset, so a diff from A to B is what the entries that `audit --from A --to B` lists
came to.

Always: one folder of views is folded to A, a read transaction is held there, and the same folder is folded on to B; then both
states are walked side by side in key order. So memory does not grow with the log, nor with what changed.

Does not compare what the views keep for themselves (indexes, histories, nonces, the audit between nodes). That a fact expires is
no change of the log; whether a contradiction is open is judged at the time of the last entry of either state.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import groupby
from typing import Literal

import lmdb
import msgspec
from msgspec import Struct

from node.events.tokens import CapabilityAccepted
from node.keys import key_id_of
from node.projections.api_keys import ApiKey
from node.projections.base import Projection, Table, place_of
from node.projections.conflicts import At, Conflict
from node.projections.fact_rows import FactRow
from node.projections.facts import Withdrawal
from node.projections.gardens import Garden, Held
from node.projections.members import Member
from node.projections.peers import Peer
from node.projections.tokens import IssuedToken
from node.projections.view import View
from node.projections.views import Views, table_specs
from node.times import format_ms
from replay.checked_log import Evidence, folded
from replay.consequences import settled_from
from replay.opening import open_views

Became = Literal["added", "changed", "went"]
# A fact's states in which it is still there for somebody: a reader, a moderator.
_THERE = ("stands", "held")
SUBJECTS = ("facts", "conflicts", "quarantine", "gardens", "members", "tokens", "api_keys", "peers", "settings")


class Change(Struct, frozen=True, kw_only=True):
    """What became of one thing of a subject. `named` says which it is; `members` has what differs, before and after, None for
    not being there."""

    subject: str
    became: Became
    id: str
    named: dict[str, object]
    members: dict[str, tuple[object, object]]


class _Side(Struct, frozen=True):
    """One of the two states: its view, and where and when it stands."""

    view: View
    at: At


class Ends(Struct, frozen=True, kw_only=True):
    """Where a diff begins and ends: offsets, and the times of the last entries before them (epoch ms, 0 for none)."""

    first: int
    end: int
    first_ms: int
    end_ms: int


def ends_of(evidence: Evidence, first: int, end: int) -> Ends:
    return Ends(first=first, end=end, first_ms=_at_ms(evidence, first), end_ms=_at_ms(evidence, end))


def changes(evidence: Evidence, ends: Ends) -> Iterator[Change]:
    """What changed between the two places, subject by subject in the order of SUBJECTS."""
    views = open_views(evidence.scratch / "views")
    try:
        _fold(views, evidence, ends.first)
        with views.begin() as then:
            accepted = _fold(views, evidence, ends.end)
            with views.begin() as now:
                before = _Side(views.view(then), At(size=ends.first, now_ms=ends.first_ms))
                after = _Side(views.view(now), At(size=ends.end, now_ms=ends.end_ms))
                subjects = (_facts, _conflicts, _quarantine, _gardens, _members, _tokens, _api_keys, _peers, _settings)
                for subject in subjects:
                    yield from subject(before, after, _Walk(views, then, now, accepted))
    finally:
        views.close()


class _Walk:
    """Two states of one table, side by side. `accepted` are foreign tokens taken up between: the views keep a hash of their ids."""

    def __init__(self, views: Views, then: lmdb.Transaction, now: lmdb.Transaction, accepted: list[str]) -> None:
        self._handles, self._then, self._now = views.handles, then, now
        self.accepted = accepted

    def differing(self, name: str) -> Iterator[tuple[bytes, object, object]]:
        """Keys whose rows differ, with both rows, None where there is none."""
        spec = next(spec for spec in table_specs() if spec.name == name)
        rows = self._handles.open(spec, self._then)
        with self._then.cursor(db=self._handles[name]) as old, self._now.cursor(db=self._handles[name]) as new:
            has_old, has_new = old.first(), new.first()
            while has_old or has_new:
                key = min(cursor.key() for cursor, has in ((old, has_old), (new, has_new)) if has)
                in_old, in_new = has_old and old.key() == key, has_new and new.key() == key
                if not (in_old and in_new and old.value() == new.value()):
                    was, became = _opened(rows, old, in_old), _opened(rows, new, in_new)
                    # In encrypted views a row that was written again is other bytes.
                    if was != became:
                        yield rows.shown_key(key), was, became
                has_old = old.next() if in_old else has_old
                has_new = new.next() if in_new else has_new


def _opened(rows: Table, cursor: lmdb.Cursor, is_there: bool) -> object:
    return rows.opened(cursor.key(), cursor.value()) if is_there else None


# Subjects


def _facts(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    """A fact went when it stood and no longer does: withdrawn, put aside, or rejected."""
    tables = ("facts/by_place", "facts/withdrawn", "conflicts/settled")
    keys = heapq.merge(*((key for key, _, _ in walk.differing(table)) for table in tables))
    for key, _ in groupby(keys):
        place = place_of(key)
        row, old = after.view.facts.at(place), _row_at(before.view, place)
        was, now = _fact_state(old, before.view), _fact_state(row, after.view)
        went = was is not None and was["status"] in _THERE and now["status"] not in _THERE
        became = _became(was, went=went)
        named = {"origin": row.fact.origin, "entity": row.fact.entity, "relation": row.fact.relation}
        named |= {"source": row.fact.source, "scope": row.fact.scope, "log_offset": place[0]}
        named |= {"value": msgspec.to_builtins(row.fact.value), "confidence": row.fact.confidence}
        yield from _change("facts", became, row.fact.id, named, was, now)


def _fact_state(row: FactRow | None, view: View) -> dict[str, object] | None:
    if row is None:
        return None
    withdrawal: Withdrawal | None = view.facts.withdrawal(row.place)
    if row.shown_from is None:
        status = "held" if row.quarantine_status == "pending" else "rejected"
    elif withdrawal is not None:
        status = withdrawal.kind
    else:
        status = "stands" if settled_from(row.place, view) is None else "put_aside"
    return {
        "status": status,
        "garden_id": row.garden_id,
        "is_sealed": row.fact.seal is not None,
    }


def _row_at(view: View, place: tuple[int, int]) -> FactRow | None:
    try:
        return view.facts.at(place)
    except KeyError:
        # It came in later.
        return None


def _conflicts(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    """A contradiction goes when it is settled, and also when a side no longer stands: its row need not differ for that."""
    for _, conflict in _rows(after.view.conflicts, "conflicts/records"):
        was = None if conflict.detected[0] >= before.at.size else _conflict_state(conflict, after.view, before.at)
        now = _conflict_state(conflict, after.view, after.at)
        sides = [after.view.facts.at(place).fact for place in conflict.facts]
        named = {"facts": [{"origin": fact.origin, "id": fact.id} for fact in sides]}
        went = was is not None and was["status"] == "unresolved" and now["status"] == "resolved"
        yield from _change("conflicts", _became(was, went=went), conflict.conflict_id, named, was, now)


def _conflict_state(conflict: Conflict, view: View, at: At) -> dict[str, object]:
    resolution = view.conflicts.resolution(conflict, at)
    return {
        "status": "unresolved" if view.conflicts.is_open(conflict, at) else "resolved",
        "resolved_by": None if resolution is None else resolution.fact.id,
    }


def _quarantine(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    """A fact goes from quarantine when somebody decides about it."""

    def state(held: Held) -> dict[str, object]:
        return {"status": held.status, "decided_by": held.decided_by, "reason": held.decision_reason}

    def named(held: Held) -> dict[str, object]:
        return {"origin": held.origin, "organisation": held.organisation, "garden_id": held.garden_id}

    return _rows_changed(
        "quarantine", walk.differing("gardens/held"), "fact_id", state, named, lambda held: held.status != "pending"
    )


def _gardens(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    def state(garden: Garden) -> dict[str, object]:
        return {"name": garden.name, "scope": garden.scope, "is_deleted": garden.deleted_from is not None}

    def named(garden: Garden) -> dict[str, object]:
        return {"slug": garden.slug, "is_quarantine": garden.is_quarantine, "created_by": garden.created_by}

    return _rows_changed(
        "gardens", walk.differing("gardens/by_id"), "id", state, named, lambda garden: garden.deleted_from is not None
    )


def _members(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    for _, old, new in walk.differing("members/of_garden"):
        member: Member = old if new is None else new
        was = None if old is None else {"role": old.role}
        now = {"role": None if new is None else new.role}
        named = {"garden_id": member.garden_id}
        yield from _change("members", _became(was, went=new is None), member.entity, named, was, now)


def _tokens(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    """Issued ones, then those of others under which this node countersigns."""
    for _, old, new in walk.differing("tokens/issued"):
        was, now = _token_state(old), _token_state(new)
        grant = new.grant
        named = {"subject": grant.subject, "verb": grant.verb, "object": grant.object, "expiry": grant.expiry}
        became = _became(was, went=was is not None and new.revoked_at is not None)
        yield from _change("tokens", became, grant.token_id, named | {"issued_by": new.issued_by}, was, now)
    for token_id in walk.accepted:
        if not before.view.tokens.is_accepted(token_id):
            yield from _change("tokens", "added", token_id, {}, None, {"is_countersigned": True})


def _token_state(token: IssuedToken | None) -> dict[str, object] | None:
    if token is None:
        return None
    return {"revoked_at": token.revoked_at, "revocation_reason": token.revocation_reason}


def _api_keys(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    """A key goes when it is revoked. Nothing that is made from the secret is shown."""
    for _, old, new in walk.differing("api_keys/made"):
        was, now = _key_state(old), _key_state(new)
        named = {"entity": new.grant.entity, "permissions": new.grant.permissions, "created_by": new.created_by}
        named |= {"allowed_scopes": new.grant.allowed_scopes, "allowed_sources": new.grant.allowed_sources}
        named |= {"expires_at": format_ms(new.grant.expires_ms), "description": new.description}
        became = _became(was, went=was is not None and new.revoked_from is not None)
        yield from _change("api_keys", became, new.grant.key_id, named, was, now)


def _key_state(key: ApiKey | None) -> dict[str, object] | None:
    if key is None:
        return None
    return {"revoked_at": None if key.revoked_ms is None else format_ms(key.revoked_ms)}


def _peers(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    def state(peer: Peer) -> dict[str, object]:
        members = {name: getattr(peer, name) for name in peer.__struct_fields__ if name not in ("peer_id", "node_id")}
        return {name: _shown(value) for name, value in members.items()}

    return _rows_changed(
        "peers",
        walk.differing("peers/by_node_id"),
        "node_id",
        state,
        lambda peer: {"peer_id": peer.peer_id},
        lambda peer: peer.status in ("revoked", "rejected"),
    )


def _settings(before: _Side, after: _Side, walk: _Walk) -> Iterator[Change]:
    for name in ("settings", "manifest"):
        for _, old, new in walk.differing(f"identity/{name}"):
            was, now = (
                None if row is None else {n: _shown(getattr(row, n)) for n in row.__struct_fields__}
                for row in (old, new)
            )
            yield from _change("settings", _became(was, went=False), name, {}, was, now)
    for _, old, _ in walk.differing("identity/admin_key"):
        # Its hash says nothing to a reader, and nothing that is made from a secret is shown.
        yield from _change("settings", "added" if old is None else "changed", "admin_key", {}, None, {"is_made": True})
    for _, old, new in walk.differing("identity/keys"):
        if old is not None:
            was, now = ({"key_id": key_id_of(row.keys[-1].public_key)} for row in (old, new))
            yield from _change("settings", "changed", "node_key", {}, was, now)


# What they share


def _rows_changed(
    subject: str,
    differing: Iterator[tuple[bytes, object, object]],
    id_member: str,
    state: Callable[[object], dict[str, object]],
    named: Callable[[object], dict[str, object]],
    is_gone: Callable[[object], bool],
) -> Iterator[Change]:
    for _, old, new in differing:
        was, now = (None if row is None else state(row) for row in (old, new))
        went = old is not None and is_gone(new) and not is_gone(old)
        yield from _change(subject, _became(was, went=went), getattr(new, id_member), named(new), was, now)


def _became(was: object, *, went: bool) -> Became:
    if was is None:
        return "added"
    return "went" if went else "changed"


def _change(
    subject: str,
    became: Became,
    thing_id: str,
    named: dict[str, object],
    was: dict[str, object] | None,
    now: dict[str, object],
) -> Iterator[Change]:
    """The change, if anything of what is told differs: a row may differ in what is not."""
    members = {name: (None if was is None else was[name], value) for name, value in now.items()}
    differing = {name: pair for name, pair in members.items() if was is None or pair[0] != pair[1]}
    if differing:
        yield Change(subject=subject, became=became, id=thing_id, named=named, members=differing)


def _shown(value: object) -> object:
    """A member as JSON has it; bytes, which are documents, by their hash."""
    if isinstance(value, bytes):
        return f"sha256:{sha256(value).hexdigest()}"
    return msgspec.to_builtins(value)


def _rows(projection: Projection, name: str) -> Iterator[tuple[bytes, object]]:
    table: Table = projection.table(next(spec for spec in projection.tables if spec.name == name))
    return table.scan()


def _fold(views: Views, evidence: Evidence, end: int) -> list[str]:
    """Fold on to `end`; the foreign tokens that were taken up on the way."""
    with closing(folded(views, evidence, end)) as steps:
        events = (entry.event for entry, _ in steps)
        return list(dict.fromkeys(event.token_id for event in events if isinstance(event, CapabilityAccepted)))


def _at_ms(evidence: Evidence, size: int) -> int:
    return evidence.log.read(size - 1, 1)[0].at_ms if size else 0
