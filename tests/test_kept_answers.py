"""What is kept of answers, and for how long: within its room, the newest, and none that an event may have changed."""

import tracemalloc

import pytest
from msgspec import structs

from node.events.entry import Entry
from node.events.facts import FactAsserted
from node.events.peers import BatchReceived, PushReceived
from node.events.subjects import entities_of
from node.kept_answers import MAX_ANSWER_BYTES, MAX_ASKED, Kept, KeptAnswers, Question, mark_of, size_of
from node.projections.api_keys import ApiKeys
from node.projections.conflicts import Conflicts
from node.projections.facts import Facts
from node.projections.gardens import Gardens
from node.projections.members import Members
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import samples

ENTITY, OTHER = "stigmem://org-a.example/thing/a", "stigmem://org-a.example/thing/b"
# What an answer is made of: whatever changes one of these may change it.
MADE_OF = (Facts, Conflicts, Gardens, Members, ApiKeys)


def kept(entity: str = ENTITY, size: int = 100) -> Kept:
    return Kept(b"x" * size, mark_of(entity), ((1, 0),))


def entries() -> list[Entry]:
    return signed(samples(), clock=fixed_clock())


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: type(entry.event).__name__)
def test_an_event_that_may_change_an_answer_ends_it(entry: Entry):
    named = {name for name in entities_of(entry.event) if name is not None}
    about = named or {ENTITY}
    answers = KeptAnswers()
    for entity in about:
        answers.keep((f"/{entity}", "admin"), kept(entity))
    answers.note([entry])
    is_untouched = all(answers.find((f"/{entity}", "admin")) is not None for entity in about)
    # A page of which no fact was taken, or all were erased, brings nothing.
    is_empty = isinstance(entry.event, BatchReceived | PushReceived) and not named
    may_change = not is_empty and any(type(entry.event) in projection.events for projection in MADE_OF)
    assert not (is_untouched and may_change)


def test_a_fact_ends_what_is_kept_of_its_entity_alone():
    fact = next(entry for entry in entries() if isinstance(entry.event, FactAsserted))
    (entity,) = {name for name in entities_of(fact.event) if name is not None}
    answers = KeptAnswers()
    for number in range(3):
        answers.keep((f"/{number}", "admin"), kept(entity))
    answers.keep(("/other", "admin"), kept(OTHER))
    answers.note([fact])
    assert [answers.find((f"/{number}", "admin")) for number in range(3)] == [None] * 3
    assert answers.find(("/other", "admin")) == kept(OTHER)


def test_the_oldest_go_where_there_is_no_room_for_one_more_and_what_goes_leaves_its_room():
    answers = KeptAnswers(room_bytes=3 * size_of(("/100", "admin"), kept()))
    for turn in range(3):
        for number in range(100, 200):
            answers.keep((f"/{number}", "admin"), kept(f"{ENTITY}/{number % 7}"))
        stays = [number for number in range(100, 200) if answers.find((f"/{number}", "admin")) is not None]
        assert stays == [197, 198, 199], turn


def test_an_answer_that_is_kept_twice_takes_its_room_once():
    answers = KeptAnswers(room_bytes=2 * size_of(("/a", "admin"), kept()))
    answers.keep(("/a", "admin"), kept())
    for _ in range(5):
        answers.keep(("/b", "admin"), kept(OTHER))
    assert answers.find(("/a", "admin")) is not None and answers.find(("/b", "admin")) is not None


@pytest.mark.parametrize(("path_chars", "answer_bytes", "places"), [(60, 600, 1), (8000, 600, 1), (60, 9600, 16)])
def test_the_room_holds_what_is_kept_whatever_is_asked(path_chars: int, answer_bytes: int, places: int):
    def asked(number: int) -> tuple[Question, Kept]:
        # Each with objects of its own, as requests and views bring them.
        question = (f"/{number}/".ljust(path_chars, "x"), f"key-{number:032}")
        found = tuple([(1_000_000 + 20 * number + index, 1_000 + index) for index in range(places)])
        return question, Kept(b"x" * answer_bytes, mark_of(f"{ENTITY}/{number}"), found)

    room_bytes = 2 << 20
    answers = KeptAnswers(room_bytes)
    tracemalloc.start()
    try:
        for number in range(3000):
            answers.keep(*asked(number))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert room_bytes / 2 < held_bytes < room_bytes * 1.1


def test_what_has_come_about_many_entities_ends_all():
    (fact,) = [entry for entry in entries() if isinstance(entry.event, FactAsserted)][:1]
    answers = KeptAnswers(max_changed=3)
    answers.keep(("/a", "admin"), kept(OTHER))
    about = [structs.replace(fact.event.fact, entity=f"{ENTITY}/{number}") for number in range(4)]
    changes = [structs.replace(fact, event=structs.replace(fact.event, fact=one)) for one in about]
    answers.note(changes[:3])
    assert answers.find(("/a", "admin")) is not None
    answers.note(changes[3:])
    assert answers.find(("/a", "admin")) is None


def test_a_large_answer_is_not_kept():
    answers = KeptAnswers()
    answers.keep(("/a", "admin"), kept(size=MAX_ANSWER_BYTES + 1))
    assert answers.find(("/a", "admin")) is None


def test_where_the_room_is_full_a_question_has_to_come_again_and_is_forgotten_among_many():
    answers = KeptAnswers(room_bytes=1)
    assert KeptAnswers().is_worth_keeping(("/a", "admin"))
    assert not answers.is_worth_keeping(("/a", "admin"))
    assert answers.is_worth_keeping(("/a", "admin"))
    assert not answers.is_worth_keeping(("/a", "a-key"))
    for number in range(MAX_ASKED):
        answers.is_worth_keeping((f"/{number}", "admin"))
    assert not answers.is_worth_keeping(("/a", "admin"))
