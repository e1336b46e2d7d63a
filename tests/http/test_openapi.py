"""The API's document: whole, valid, the same for everybody, and made of what the handlers really use."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from msgspec import Struct
from openapi_spec_validator import validate

from node import errors
from node.http.app import ROUTES, own_document
from node.http.describe import describes, description_of
from node.http.openapi import document_of, refusals_of
from tests.documented import check_answer
from tests.http.test_doors import PEERS_ALONE, PUBLIC, name_of
from tests.served import Served

DOCUMENT = json.loads(own_document().body)
PAGE = Path(__file__).parents[2] / "docs" / "routes.md"


def test_it_is_a_valid_document_of_bounded_size():
    validate(DOCUMENT)

    assert len(own_document().body) < 1 << 19


def test_it_has_every_route_and_no_other():
    shown = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert shown == {(route.method, re.sub(r":[^}]*", "", route.path)) for route in ROUTES}


def test_a_route_that_declares_nothing_is_no_part_of_an_application():
    async def silent(request: web.Request) -> web.Response:
        return web.Response()

    with pytest.raises(LookupError, match="GET /silent"):
        document_of([*ROUTES, web.get("/silent", silent)])


def test_two_structs_of_one_name_cannot_share_it():
    class Record(Struct):
        """Not the record of a fact."""

    @describes("another record", who=("public",), answers={200: Record})
    async def other(request: web.Request) -> web.Response:
        return web.Response()

    with pytest.raises(ValueError, match="two structs of one name"):
        document_of([*ROUTES, web.get("/other", other)])


def test_an_operation_has_a_name_of_its_own():
    names = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]

    assert len(set(names)) == len(names) == len(ROUTES)


def test_who_may_call_a_route_is_told_alike_here_in_the_doors_and_on_the_routes_page():
    on_page = dict(re.findall(r"^\| `([A-Z]+ \S+)` \| ([a-z, ]+?) \|", PAGE.read_text(), re.MULTILINE))
    declared = {name_of(route): description_of(route).who for route in ROUTES}

    assert {name for name, who in declared.items() if who == ("public",)} == PUBLIC
    assert {name for name, who in declared.items() if who == ("peer",)} == PEERS_ALONE
    assert {re.sub(r":[^}]*", "", name): ", ".join(who) for name, who in declared.items()} == on_page


def test_every_code_that_is_answered_is_declared_somewhere():
    """But for those that no route of this node answers with: what befalls single facts of peers, and unknown routes."""
    declared = {refusal.code for route in ROUTES for refusal in refusals_of(route, description_of(route))}
    known = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Refusal)}

    assert known - declared == {
        "cid_mismatch",
        "id_collision",
        "invalid_fact",
        "manifest_conflict",
        "method_not_allowed",
        "not_found",
        "seal_invalid",
    }


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"status": "ok", "more": 1}),
        (200, {}),
        (200, {"status": "well"}),
        (200, {"error": "internal", "detail": "internal"}),
        (404, {"error": "fact_not_found", "detail": "fact_not_found"}),
        (500, {"error": "overloaded", "detail": "overloaded"}),
        (500, {"error": "internal"}),
        (418, {"error": "internal", "detail": "internal"}),
    ],
    ids=["more", "less", "another word", "a refusal", "another status", "another code", "no words", "no such status"],
)
def test_an_answer_that_the_document_does_not_know_fails_a_test(status: int, body: dict[str, object]):
    with pytest.raises(AssertionError, match="GET /healthz"):
        check_answer("GET", "/healthz", status, "application/json", msgspec.json.encode(body))


async def test_whoever_asks_gets_it_and_whoever_has_it_gets_nothing(http: Served):
    answer = await http.send("GET", "/openapi.json", bearer=None)

    assert answer.expect(200) == DOCUMENT
    tag = answer.headers["Etag"]
    for held in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        again = await http.send("GET", "/openapi.json", bearer=None, headers={"If-None-Match": held})
        assert (again.status, again.body, again.headers["Etag"]) == (304, b"", tag)
    (await http.send("GET", "/openapi.json", headers={"If-None-Match": '"another"'})).expect(200)
