"""What each item of an event is about: the entity that a fact or a fact body in it names.

Always: one name per item of the event's entry, in order of index, the actor's included; None for an item that is about no entity.

Does not say what an item holds besides (see `event.py`).
"""

import msgspec
from msgspec import Struct

from node.errors import Refusal
from node.events.conflicts import ConflictResolved
from node.events.event import ERASED, Event, items_of
from node.events.facts import Fact, FactAsserted
from node.events.gardens import FactQuarantined
from node.events.peers import AttestationSigned, BatchReceived, PushReceived
from node.uris import normal_uri


class _Body(Struct, frozen=True):
    """What is looked at of a fact body."""

    entity: str


_body_decoder = msgspec.json.Decoder(_Body)


def entities_of(event: Event) -> tuple[str | None, ...]:
    """The entity, in normal form, that each item of the event's entry is about.

    A settled conflict is about its fact's entity whole: the note says why. What was erased is about no entity any more.
    """
    match event:
        case FactAsserted(fact=fact):
            return None, _entity_of(fact)
        case ConflictResolved(fact=fact):
            return None, _entity_of(fact), _entity_of(fact)
        case FactQuarantined(fact=fact):
            return None, _entity_of(fact), _entity_of(fact)
        case BatchReceived(receipts=receipts) | PushReceived(receipts=receipts):
            return None, None, None, *(None if one is ERASED else _entity_of(one.fact) for one in receipts)
        case AttestationSigned(fact_body=fact_body) if fact_body is not ERASED:
            return None, None, _named_in(fact_body)
        case _:
            return (None,) * (1 + _count(event))


def _named_in(fact_body: bytes) -> str | None:
    try:
        return _normal(_body_decoder.decode(fact_body).entity)
    except msgspec.MsgspecError:  # no node signs such a body: whoever tells the entry says what is wrong with it
        return None


def _count(event: Event) -> int:
    return 0 if event is ERASED else len(items_of(event))


def _entity_of(fact: Fact) -> str:
    return _normal(fact.entity)


def _normal(entity: str) -> str:
    try:
        return normal_uri(entity)
    except Refusal:  # a name that no node would have written is only ever its own
        return entity
