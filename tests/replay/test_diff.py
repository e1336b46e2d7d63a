"""`replay diff`: what was added, changed and went between two places, held against what two nodes lived through."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from node.events.api_keys import ApiKeyCreated
from node.events.facts import FactAsserted, Value
from node.events.identity import AdminKeyCreated
from node.events.tokens import CapabilityIssued
from replay.diff import SUBJECTS
from tests.events.logs import write_log
from tests.events.samples import samples
from tests.replay.folders import edit, files_of, flip, key, make_folder
from tests.replay.sound import sound_fact
from tests.replay.story import ESCAPES, ORG_A, ORG_B, Story, lines, live_through, told, written


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return live_through(tmp_path_factory.mktemp("story"))


def diff(data_dir: Path, first: object, end: object) -> dict[str, Any]:
    done = told(data_dir, "diff", "--from", str(first), "--to", str(end), "--json")
    assert (done.code, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def became(document: dict[str, Any], subject: str) -> dict[str, str]:
    return {change["id"]: change["became"] for change in document["changes"] if change["subject"] == subject}


def members(document: dict[str, Any], subject: str, thing_id: str) -> dict[str, Any]:
    (change,) = (c for c in document["changes"] if (c["subject"], c["id"]) == (subject, thing_id))
    return change["members"]


def test_an_admission_changes_the_fact_and_takes_it_from_quarantine(story: Story):
    found, held = diff(story.a, story.offsets["admitted"], story.offsets["admitted"] + 1), story.id("held")

    assert became(found, "facts") == {held: "changed"}
    assert members(found, "facts", held)["status"] == {"before": "held", "after": "stands"}
    assert became(found, "quarantine") == {held: "went"}
    assert members(found, "quarantine", held)["decided_by"]["after"] == ORG_A
    assert found["totals"]["facts"] == {"added": 0, "changed": 1, "went": 0}


def test_a_rejected_fact_went(story: Story):
    found = diff(story.a, story.offsets["admitted"] + 1, story.offsets["tutorial"])

    assert became(found, "facts") == {story.id("rejected"): "went"}
    assert members(found, "facts", story.id("rejected"))["status"]["after"] == "rejected"


def test_a_resolution_adds_a_fact_and_what_it_puts_aside_went_with_the_conflict(story: Story):
    found = diff(story.a, story.offsets["resolved"], story.offsets["resolved"] + 1)

    assert became(found, "facts") == {story.id("up"): "went", story.id("down"): "went", story.id("resolution"): "added"}
    assert became(found, "conflicts") == {story.names["conflict"]: "went"}
    assert members(found, "conflicts", story.names["conflict"]) == {
        "resolved_by": {"before": None, "after": story.id("resolution")},
        "status": {"before": "unresolved", "after": "resolved"},
    }


def test_a_conflict_goes_when_a_side_no_longer_stands_though_nobody_settled_it(tmp_path: Path):
    claim = {"entity": f"{ORG_A}/service/billing", "relation": "memory:state", "scope": "public"}
    up, down = (
        sound_fact(n, **claim, value=Value(type="string", v=v, interpret_as="content")) for n, v in ((1, "a"), (2, "b"))
    )
    end = sound_fact(3, **claim, value=down.value, confidence=0.0)
    write_log(tmp_path, [samples()[0], *(FactAsserted(judgement=None, fact=said) for said in (up, down, end))])

    (opened,) = became(diff(tmp_path, 0, 3), "conflicts")
    found = diff(tmp_path, 3, 4)

    assert became(found, "conflicts") == {opened: "went"}
    assert members(found, "conflicts", opened) == {"status": {"before": "unresolved", "after": "resolved"}}


def test_supersession_and_retraction_are_told_by_the_facts_that_went(story: Story):
    new, retraction = story.facts["new"]["log_offset"], story.facts["retraction"]["log_offset"]

    superseded, retracted = diff(story.a, new, new + 1), diff(story.a, retraction, retraction + 1)

    assert became(superseded, "facts") == {story.id("old"): "went", story.id("new"): "added"}
    assert members(superseded, "facts", story.id("old")) == {"status": {"before": "stands", "after": "superseded"}}
    assert became(retracted, "facts") == {story.id("new"): "went", story.id("retraction"): "added"}


def test_what_came_and_went_in_between_is_added_with_how_it_ended(story: Story):
    found = diff(story.a, story.facts["old"]["log_offset"], story.facts["new"]["log_offset"] + 1)

    assert became(found, "facts") == {story.id("old"): "added", story.id("new"): "added"}
    assert members(found, "facts", story.id("old"))["status"] == {"before": None, "after": "superseded"}


def test_from_the_beginning_everything_is_added(story: Story):
    found = diff(story.a, 0, 23)

    assert {change["became"] for change in found["changes"]} == {"added"}
    assert found["from"] == {"offset": 0, "at": None} and found["to"]["offset"] == 23
    assert set(became(found, "peers")) == {ORG_B} and set(became(found, "tokens")) == {story.names["token"]}
    assert set(became(found, "gardens")) == {story.names["garden"]}
    assert set(became(found, "settings")) == {"settings", "manifest"}


def test_of_a_token_and_a_peer_what_differs_is_named(story: Story):
    found = diff(story.a, story.offsets["batch"], 23)

    assert became(found, "tokens") == {story.names["token"]: "went"}
    assert members(found, "tokens", story.names["token"])["revocation_reason"] == {"before": None, "after": "done"}
    assert became(found, "peers") == {ORG_B: "changed"}
    assert members(found, "peers", ORG_B)["held"] == {"before": 0, "after": 2}


def test_a_foreign_token_is_named_by_its_id_once_it_is_taken_up(story: Story):
    found = diff(story.b, 3, 8)

    assert became(found, "tokens") == {story.names["token"]: "added"}
    assert became(diff(story.b, 5, 8), "tokens") == {}


def test_nothing_differs_between_a_place_and_itself(story: Story):
    found = diff(story.a, 12, 12)

    assert found["changes"] == []
    assert {count for counts in found["totals"].values() for count in counts.values()} == {0}


def test_what_two_halves_tell_is_what_the_whole_tells_of_facts_that_were_there_before(story: Story):
    first, middle, end = story.offsets["tutorial"], story.offsets["resolved"], 23
    whole = became(diff(story.a, first, end), "facts")
    halves = became(diff(story.a, first, middle), "facts") | became(diff(story.a, middle, end), "facts")

    assert set(whole) == set(halves)


def test_a_time_stands_for_the_first_entry_at_or_after_it(story: Story):
    found = lines(story.a)
    by_time = diff(story.a, found[9]["at"], found[11]["at"])

    assert by_time == diff(story.a, 9, 11)


def test_the_report_marks_what_became_of_each_thing_and_ends_with_totals(story: Story):
    report = told(story.a, "diff", "--from", "8", "--to", "23").stdout

    assert f"\n  + {story.id('up')}; origin {ORG_A}; entity " in report
    assert f"\n  - {story.names['token']}; subject " in report
    assert f"\n  ~ {story.id('held')}; " in report and "\n      status: held -> stands\n" in report
    assert report.splitlines()[-1 - len(SUBJECTS)].split() == ["totals", "added", "changed", "went"]
    assert report.splitlines()[-1].split() == ["settings", "0", "0", "0"]
    assert [character for character in ESCAPES if character in report and character in "\x1b\x07\x9b\u202e\r"] == []


def test_no_secret_is_told(tmp_path: Path):
    (issued,) = (event for event in samples() if isinstance(event, CapabilityIssued))
    hidden = structs.replace(issued.grant, nonce="a-nonce-to-hide")
    (key, *_) = (event for event in samples() if isinstance(event, ApiKeyCreated))
    secret = [AdminKeyCreated(key_hash="5e" * 32), structs.replace(key, key_hash="5e" * 32)]
    write_log(tmp_path, [samples()[0], *secret, CapabilityIssued(grant=hidden)])

    for form in ([], ["--json"]):
        done = told(tmp_path, "diff", "--from", "0", "--to", "4", *form)
        assert done.code == 0 and "admin_key" in done.stdout and key.grant.key_id in done.stdout
        assert "5e5e" not in done.stdout and "a-nonce-to-hide" not in done.stdout


def test_any_two_places_of_a_log_with_one_of_each_event_can_be_compared(tmp_path: Path):
    entries = make_folder(tmp_path / "data")

    for first in range(0, len(entries), 7):
        found = diff(tmp_path / "data", first, len(entries))
        assert found["to"]["offset"] == len(entries)


@pytest.mark.parametrize(("first", "end"), [("5", "4"), ("0", "24"), ("0", "9" * 19)])
def test_a_place_that_is_not_there_is_one_line_and_exit_code_1(story: Story, first: str, end: str):
    done = told(story.a, "diff", "--from", first, "--to", end)

    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


@pytest.mark.parametrize("arguments", [["--from", "soon", "--to", "5"], ["--from", "1"], ["--from", "-1", "--to", "5"]])
def test_what_cannot_be_asked_is_said_in_words(story: Story, arguments: list[str]):
    done = told(story.a, "diff", *arguments)

    assert (done.code, done.stdout) == (2, "") and done.stderr


def test_of_a_damaged_log_nothing_is_told_but_the_offset(story: Story, tmp_path: Path):
    data_dir = Path(shutil.copytree(story.a, tmp_path / "data"))
    edit(data_dir / "log", "headers", flip(key(12), 40))

    text, document = (told(data_dir, "diff", "--from", "0", "--to", "5", *form) for form in ([], ["--json"]))

    assert (text.code, document.code, document.stdout) == (6, 6, "")
    assert text.stdout == f"damaged at {text.stderr}" and text.stderr.startswith("offset 12: ")


def test_comparing_writes_nothing_into_the_folder_and_gives_the_same_bytes_anywhere(story: Story, tmp_path: Path):
    copy = Path(shutil.copytree(story.a, tmp_path / "elsewhere"))
    before, commands = files_of(story.a), ["diff --from 3 --to 23", "diff --from 3 --to 23 --json"]

    here = written(story.a, commands, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="1", PYTHONUTF8="0")
    there = written(copy, commands, TZ="America/Lima", LC_ALL="C.UTF-8", PYTHONHASHSEED="2")

    assert here == there and files_of(story.a) == before
