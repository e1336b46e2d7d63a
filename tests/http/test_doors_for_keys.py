"""Every door against API keys, by what docs/routes.md says of it: none opens to a key that the page does not let in."""

import re
from pathlib import Path

import pytest

from tests.api_keys import bearer_for
from tests.http.test_doors import BODIES, NAMES, send
from tests.served import Answer, Served

PAGE = Path(__file__).parents[2] / "docs" / "routes.md"
ROWS = re.findall(r"^\| `([A-Z]+ \S+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
WHO = {name: [who.strip() for who in column.split(",")] for name, column in ROWS}
ALL_BUT_ADMIN = ("read", "write", "federate", "instruction:write")


def who_of(name: str) -> list[str]:
    return WHO[re.sub(r":[^}]*", "", name)]


def is_let_in(answer: Answer) -> bool:
    """Whatever becomes of the request, it is not for want of a permission."""
    return answer.status != 401 and not (answer.status == 403 and answer.json["error"] == "insufficient_permission")


async def knock(http: Served, name: str, bearer: str) -> Answer:
    return await send(http, name, BODIES.get(name, (None,))[0], bearer=bearer)


@pytest.fixture
async def http(serve) -> Served:
    return await serve(federation_push_enabled=True)


async def test_what_is_for_admins_takes_the_permission_admin_and_no_other(http: Served):
    bearer, admin = await bearer_for(http, *ALL_BUT_ADMIN), await bearer_for(http, "admin")

    for name in (name for name in NAMES if who_of(name) == ["admin"]):
        (await knock(http, name, bearer)).refused(403, "insufficient_permission")
        assert is_let_in(await knock(http, name, admin)), name


async def test_what_is_for_keys_opens_to_one_that_may_all_but_administer(http: Served):
    bearer = await bearer_for(http, *ALL_BUT_ADMIN)

    for name in (name for name in NAMES if "key" in who_of(name)):
        assert is_let_in(await knock(http, name, bearer)), name


async def test_a_key_that_may_nothing_here_learns_no_more_than_who_it_is(http: Served):
    await http.write()
    bearer = await bearer_for(http, "instruction:write")

    for name in (name for name in NAMES if {"key", "token"} <= set(who_of(name)) and name != "GET /v1/me"):
        answer = await knock(http, name, bearer)
        if name == "POST /v1/facts/batch":
            codes = {result.get("error") for result in answer.json["results"]}
            assert codes == {"insufficient_permission"}, answer
        else:
            answer.refused(403, "insufficient_permission")


async def test_no_key_is_a_peer_token(http: Served):
    bearer = await bearer_for(http, *ALL_BUT_ADMIN, "admin")

    for name in (name for name in NAMES if who_of(name) == ["peer"]):
        (await knock(http, name, bearer)).refused(401, "malformed_token")
