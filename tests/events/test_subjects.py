"""What each item of an event is about (node/events/subjects.py)."""

import pytest
from msgspec import structs

from node.events.conflicts import ConflictResolved
from node.events.event import Event, items_of, type_of
from node.events.facts import FactAsserted
from node.events.gardens import FactQuarantined
from node.events.peers import AttestationSigned, BatchReceived, PushReceived
from node.events.subjects import entities_of
from tests.events.samples import samples

_ABOUT_FACTS = (FactAsserted, ConflictResolved, FactQuarantined, BatchReceived, PushReceived, AttestationSigned)


@pytest.mark.parametrize("event", samples(), ids=type_of)
def test_there_is_one_name_for_each_item_of_the_entry(event: Event):
    assert len(entities_of(event)) == 1 + len(items_of(event))


@pytest.mark.parametrize("event", samples(), ids=type_of)
def test_the_items_that_hold_a_fact_are_about_its_entity_and_no_others_are(event: Event):
    holds_fact = [b'"entity":"' in item for item in items_of(event)]
    if not isinstance(event, _ABOUT_FACTS):
        assert set(entities_of(event)) == {None}
        return
    named = [entity is not None for entity in entities_of(event)[1:]]
    assert all(name for name, holds in zip(named, holds_fact, strict=True) if holds)


def test_the_entity_is_named_in_normal_form():
    asserted = next(event for event in samples() if isinstance(event, FactAsserted))
    shouted = structs.replace(
        asserted, fact=structs.replace(asserted.fact, entity="STIGMEM://ORG-A.example/User/Alice")
    )

    assert entities_of(shouted) == (None, "stigmem://org-a.example/user/alice")
