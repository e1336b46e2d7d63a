"""A fact's row and what follows from the fact in it: whose word it is, what it is about, whether it may travel.

Always: names are compared in normal form, and a source's identity is (origin, source) (PROTOCOL §1).
"""

from hashlib import sha256

import msgspec
from msgspec import Struct, structs

from node.events.facts import Fact, Value
from node.projections.base import Place
from node.uris import is_reserved_entity, is_reserved_relation, normal_relation, normal_uri, origin_of

DIGEST_BYTES = 16
# The identity of a source: (origin, source in normal form).
Speaker = tuple[str, str]


class FactRow(Struct, frozen=True, array_like=True, gc=False):
    """A fact and what became of it here. `shown_from` is None while it is in quarantine or rejected.

    `decided_from` is where it was promoted or rejected, `sealed_from` where a seal came that it had not been written with. While
    it is `hidden` by a tombstone nobody may read it, as of any time.
    """

    place: Place
    fact: Fact
    shown_from: Place | None
    garden_id: str | None
    quarantine_status: str | None
    quarantine_garden_id: str | None
    quarantine_reason: str | None
    decided_from: Place | None
    sealed_from: Place | None
    hidden: bool


def new_row(place: Place, fact: Fact, hold: tuple[str, str] | None) -> FactRow:
    """A fact's row when it comes in; `hold` is (quarantine garden, reason) where it is held back."""
    if hold is None:
        return FactRow(place, fact, place, fact.garden_id, None, None, None, None, None, False)
    return FactRow(place, fact, None, None, "pending", hold[0], hold[1], None, None, False)


def row_at(row: FactRow, size: int) -> FactRow | None:
    """The row as the first `size` entries of the log make it; None where they do not bring the fact."""
    if row.place[0] >= size:
        return None
    if row.decided_from is not None and row.decided_from[0] >= size:
        row = structs.replace(row, shown_from=None, garden_id=None, quarantine_status="pending", decided_from=None)
    if row.sealed_from is not None and row.sealed_from[0] >= size:
        row = structs.replace(row, fact=structs.replace(row.fact, seal=None), sealed_from=None)
    return row


def may_travel(row: FactRow) -> bool:
    """Whether peers may be given the fact once it is sealed, by its scope, place and name: outside gardens, above `local`.

    Whose word it is decides too: what others said here stays here, theirs travels on their own node's seal (PROTOCOL §5.5, §9).
    """
    fact = row.fact
    return (
        fact.scope != "local"
        and row.garden_id is None
        and not is_reserved_relation(fact.relation)
        and not is_reserved_entity(fact.entity)
    )


def may_be_relayed(row: FactRow) -> bool:
    """Whether a received fact that may travel goes on: a public one under its origin's seal (PROTOCOL §5.6)."""
    fact = row.fact
    return fact.received_from is not None and fact.scope == "public" and fact.seal is not None


def is_own_word(fact: Fact) -> bool:
    """Whether the fact was written here by a source of this node's own."""
    return fact.received_from is None and origin_of(normal_uri(fact.source), fact.origin) == fact.origin


def relation_of(fact: Fact) -> str:
    """The relation in normal form."""
    return normal_relation(fact.relation)


def speaker_of(fact: Fact) -> Speaker:
    """The identity of the fact's source."""
    source = normal_uri(fact.source)
    return origin_of(source, fact.origin), source


def speech_of(fact: Fact) -> tuple[str, ...]:
    """What a retraction reaches: entity, relation, scope and source identity (PROTOCOL §2.2)."""
    return (normal_uri(fact.entity), relation_of(fact), fact.scope, *speaker_of(fact))


def compared(value: Value) -> str | float | bool | None:
    """What of a value counts where two are compared: a zero has no sign, as in the fact bodies that are signed (PROTOCOL §2.4)."""
    return value.v + 0.0 if value.type == "number" else value.v


def digest_of(value: Value) -> bytes:
    """What a fact says, whatever the length of it: equal values, equal digests."""
    return sha256(msgspec.msgpack.encode((value.type, compared(value)))).digest()[:DIGEST_BYTES]
