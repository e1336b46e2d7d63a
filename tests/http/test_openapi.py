"""The API's document: whole, valid, the same for everybody, and made of what the handlers really use."""

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import jsonschema_rs
import msgspec
import pytest
from aiohttp import web
from msgspec import Struct
from openapi_spec_validator import validate

from node import errors
from node.http.app import ROUTES, own_document
from node.http.describe import describes, description_of
from node.http.openapi import document_of
from node.http.route_refusals import refusals_of
from tests.documented import check_answer
from tests.http.test_doors import PEERS_ALONE, PUBLIC, name_of
from tests.served import Served, fact

DOCUMENT = json.loads(own_document().body)
PAGE = Path(__file__).parents[2] / "docs" / "routes.md"
ASSETS = ("start.js", "swagger-ui-bundle.js", "swagger-ui.css")
STYLED = ("/docs/start.js", "/docs/swagger-ui.css")
# swagger-ui-dist 5.35.0, as it came from npm, whose integrity for it is
# sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ==
PUBLISHED = {
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
}


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
    """But for those that no route answers with: what befalls single facts of peers, and a method that no route takes."""
    declared = {refusal.code for route in ROUTES for refusal in refusals_of(route, description_of(route))}
    known = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Refusal)}

    assert known - declared == {
        "cid_mismatch",
        "id_collision",
        "invalid_fact",
        "manifest_conflict",
        "method_not_allowed",
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
        check_answer("GET", "/healthz", status, {"Content-Type": "application/json"}, msgspec.json.encode(body))


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/html"}, {"Content-Type": "application/json", "X-Total": "5"}],
    ids=["another type", "another header"],
)
def test_a_header_that_the_document_does_not_know_fails_a_test(headers: dict[str, str]):
    with pytest.raises(AssertionError, match="GET /healthz"):
        check_answer("GET", "/healthz", 200, headers, b'{"status":"ok"}')


async def test_whoever_asks_gets_it_and_whoever_has_it_gets_nothing(http: Served):
    answer = await http.send("GET", "/openapi.json", bearer=None)

    assert answer.expect(200) == DOCUMENT
    tag = answer.headers["Etag"]
    for held in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        again = await http.send("GET", "/openapi.json", bearer=None, headers={"If-None-Match": held})
        assert (again.status, again.body, again.headers["Etag"]) == (304, b"", tag)
    (await http.send("GET", "/openapi.json", headers={"If-None-Match": '"another"'})).expect(200)


# The forms of what is asked.

FORMS = [
    ("/v1/gardens", "GardenRequest", {"name": "Den", "scope": "team"}, "slug", ["den", "a-1", "x" * 64]),
    ("/v1/gardens", "GardenRequest", {"name": "Den", "scope": "team"}, "slug", ["", "-a", "a-", "A", "a_b", "x" * 65]),
    (
        "/v1/auth/keys",
        "CreateKeyRequest",
        {"permissions": ["read"], "entity_uri": "agent:x"},
        "raw_key",
        ["k" * 32, "~" * 512],
    ),
    (
        "/v1/auth/keys",
        "CreateKeyRequest",
        {"permissions": ["read"], "entity_uri": "agent:x"},
        "raw_key",
        ["k" * 31, "~" * 513, "{" * 40, " " * 40, "é" * 40],
    ),
    ("/v1/auth/keys", "CreateKeyRequest", {"entity_uri": "agent:x"}, "permissions", [["read"], []]),
    ("/v1/facts", "FactRequest", fact(), "idempotency_key", ["k 1~", "", "x" * 255, "x" * 256, "ключ", "a\tb"]),
]


@pytest.mark.parametrize(("path", "struct", "body", "member", "stated"), FORMS)
async def test_a_form_that_the_document_names_is_the_one_that_is_taken(
    http: Served, path: str, struct: str, body: dict[str, object], member: str, stated: list[object]
):
    document = {"components": DOCUMENT["components"], **DOCUMENT["components"]["schemas"][struct]}
    schema = jsonschema_rs.Draft202012Validator(document)

    for text in stated:
        asked = body | {member: text}
        answer = await http.post(path, asked)
        assert (answer.status == 201) == schema.is_valid(asked), (text, answer.json)


async def test_a_header_and_a_moment_of_another_form_are_refused_as_the_document_says(http: Served):
    facts = DOCUMENT["paths"]["/v1/facts"]
    forms = {
        one["name"]: jsonschema_rs.Draft202012Validator(one["schema"], validate_formats=True)
        for method in facts.values()
        for one in method["parameters"]
    }
    moments = [
        "offset:0",
        "2020-01-01T00:00:00+02:00",
        "offset:",
        "offset:-1",
        "offset:00",
        "offset:" + "9" * 19,
        "offset:1x",
        "yesterday",
        "1",
        "",
    ]

    for text in moments:
        assert ((await http.get("/v1/facts", as_of=text)).status == 200) == forms["as_of"].is_valid(text), text
    for text in ("k 1~", "x" * 255, "x" * 256):
        answer = await http.send("POST", "/v1/facts", fact(), headers={"Idempotency-Key": text})
        assert (answer.status == 201) == forms["Idempotency-Key"].is_valid(text), text


# The page.


async def test_the_page_takes_everything_from_here_and_runs_nothing_that_stands_in_it(http: Served):
    page = await http.send("GET", "/docs", bearer=None)
    text = page.body.decode()

    named = re.findall(r'(?:src|href)="([^"]*)"', text)

    assert page.status == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert {link for link in named if link.startswith("/docs/")} == {f"/docs/{name}" for name in ASSETS}
    assert set(named) - {f"/docs/{name}" for name in ASSETS} == {"data:,", "/openapi.json"}
    assert not re.search(r"<script(?! src=)|<style| on[a-z]+=| style=", text)
    policy = dict(rule.strip().split(" ", 1) for rule in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


async def test_the_page_is_as_wide_as_a_phone_and_as_dark_as_whoever_reads_it_wants(http: Served):
    page, start, style = [(await http.send("GET", path, bearer=None)).body.decode() for path in ("/docs", *STYLED)]

    [viewport] = re.findall(r'<meta name="viewport" content="([^"]*)">', page)
    assert viewport == "width=device-width, initial-scale=1"
    # The style sheet is dark under a class, which nobody but the page sets.
    assert "html.dark-mode{" in style
    assert 'matchMedia("(prefers-color-scheme: dark)")' in start and '"dark-mode"' in start


@pytest.mark.parametrize("name", ASSETS)
async def test_a_file_of_the_page_is_sent_as_what_it_is(http: Served, name: str):
    answer = await http.send("GET", f"/docs/{name}", bearer=None)

    assert answer.status == 200 and answer.body
    assert answer.headers["Content-Type"] == f"text/{'css' if name.endswith('.css') else 'javascript'}; charset=utf-8"
    answer.assert_well_formed()
    held = {"If-None-Match": answer.headers["Etag"]}
    again = await http.send("GET", f"/docs/{name}", bearer=None, headers=held)
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "name", ["page.html", "swagger-ui.LICENSE.txt", "%2e%2e%2fapp.py", "..%2Fapp.py", "start.js%00", "x"]
)
async def test_no_other_file_is_served(http: Served, name: str):
    (await http.send("GET", f"/docs/{name}", bearer=None)).refused(404, "not_found")


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_shipped_of_swagger_ui_is_what_its_makers_published(name: str):
    shipped = (files("node.http") / "assets" / name).read_bytes()

    assert hashlib.sha256(shipped).hexdigest() == PUBLISHED[name]
