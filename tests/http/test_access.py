"""One access rule below all reads (PROTOCOL §2.5): what a caller may not read shows nowhere, neither what it says, nor how much of
it there is, nor that it is there at all.

Two nodes live the same life but for what is hidden: one of them holds it, the other has as many other events in its place. Every
route is asked by every caller in every way that could lead to what is hidden, of both nodes, and the answers must be the same to
the byte. What a caller writes must not tell either: supersedes, parents, settling, moderating, members.

A new route fails here until it has its place: in `readings`, or in WRITES where it shows nothing that was stored.
"""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from node.http.app import ROUTES
from tests.api_keys import SCRIBE, bearer_for
from tests.clocks import fixed_clock
from tests.organisations import NODE_ID as ORG_B
from tests.organisations import Organisation, be_strict, issue
from tests.served import ADMIN_KEY, NODE_ID, Answer, Served, fact

ADMIN, PEER = "an admin's key without the scope", "a peer's token"
MARKER = "the-marker-that-nobody-may-see"
UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
# What every caller below has; the scope that they lack is `team`.
SCOPES = ["local", "company", "public"]
APOLLO = f"{NODE_ID}/project/apollo"


# The two nodes.


@dataclass(frozen=True)
class Twins:
    """A node with something to hide and its twin without it, the names of what is hidden, and the bearer of each caller."""

    nodes: tuple[Served, Served]
    hidden: dict[str, str]
    bearers: dict[str, str]
    org_b: Organisation

    def peer_token(self, at: Served) -> str:
        return self.org_b.token(at, nonce=self.org_b.nonce())


Hiding = Callable[[Served, Organisation, str], Awaitable[dict[str, str]]]


async def twins(serve, org_b: Organisation, *, scope: str = "company", hiding: Hiding | None = None) -> Twins:
    settings = {"federation_push_enabled": True, "federation_allow_team": True, "node_url": "http://localhost:4711"}
    hide_it = hiding or hide
    hiding, plain = [await serve(own_clock=fixed_clock(), **settings) for _ in range(2)]
    bearers = {}
    for at in (hiding, plain):
        bearers = await live_before(at, org_b)
    size = hiding.size
    assert plain.size == size
    hidden = await hide_it(hiding, org_b, scope)
    await fill(plain, hiding.size - size)
    for at in (hiding, plain):
        at.clock.advance(1000)
        at.clock.draw_from(100_000)
        await live_after(at)
    assert hiding.size == plain.size
    return Twins((hiding, plain), hidden, bearers, org_b)


async def live_before(at: Served, org_b: Organisation) -> dict[str, str]:
    await org_b.join(at, scopes=("public", "company", "team"))
    await be_strict(at)
    for slug in ("other", "pit"):
        garden = {"slug": slug, "name": slug, "scope": "company", "quarantine": slug == "pit"}
        (await at.post("/v1/gardens", garden)).expect(201)
    callers = {
        "a key without the scope or a garden": await key(at, "scribe"),
        "a key that writes alone": await key(at, "scribe", "write"),
        "a key that federates": await key(at, "scribe", "read", "federate"),
        "a reader of another garden": await member(at, "reader", "other"),
        "a moderator of another quarantine": await member(at, "quarantine:moderator", "pit"),
        "a member of a garden that is gone": await key(at, "gone"),
        "a member that was removed": await key(at, "former"),
        ADMIN: await key(at, "scribe", "read", "admin"),
        "a token that reads": await issue(at, SCRIBE, verb="read", object=f"{NODE_ID}/scope/shared"),
        "a token that reads of one entity": await issue(at, SCRIBE, verb="read", object=f"{NODE_ID}/project/gemini"),
        "a token that writes": await issue(at, SCRIBE, verb="write", object=f"{NODE_ID}/scope/shared"),
        "a token that says admin": await issue(at, SCRIBE, verb="admin"),
    }
    # A source's history is one for all callers (docs/gardens.md): here it has ten facts already, so that a few more change no term.
    old = [fact(entity=f"{NODE_ID}/project/old", relation=f"memory:n{n}", scope="company") for n in range(10)]
    (await at.post("/v1/facts/batch", {"facts": old})).expect(201)
    await at.write(scope="company", value={"type": "string", "v": "green"})
    await at.write(scope="company", entity=f"{NODE_ID}/project/gemini", garden_id="other")
    await at.write(scope="public", relation="memory:owner", source=f"{NODE_ID}/agent/two")
    return callers


async def member(at: Served, role: str, garden: str) -> str:
    agent = role.replace(":", "-")
    stated = {"entity_uri": f"{NODE_ID}/agent/{agent}", "role": role}
    (await at.post(f"/v1/gardens/{garden}/members", stated)).expect(201)
    return await key(at, agent)


async def key(at: Served, agent: str, *permissions: str) -> str:
    """An agent's key, the same on every node: one that reads and writes, unless told otherwise."""
    raw_key = f"a-key-of-the-tests-{agent}-{'-'.join(permissions)}".ljust(40, ".")
    stated = {"entity_uri": f"{NODE_ID}/agent/{agent}", "raw_key": raw_key, "allowed_scopes": SCOPES}
    return await bearer_for(at, *permissions, **stated)


async def hide(at: Served, org_b: Organisation, scope: str) -> dict[str, str]:
    """All that the callers may not know of: in a garden, in one that is gone and in quarantine, of that scope, and in `team`."""
    names = {"slug": "secret", "entity": f"{NODE_ID}/project/hush"}
    visible = (await at.get("/v1/facts", entity=APOLLO)).expect(200)["facts"]
    names |= {f"{number} visible id": one["id"] for number, one in enumerate(visible)}
    for slug, entity in (("secret", "former"), ("gone", "gone")):
        garden = (await at.post("/v1/gardens", {"slug": slug, "name": MARKER, "scope": scope})).expect(201)
        names[f"{slug} garden"], names[f"{slug} uri"] = garden["id"], garden["garden_id"]
        stated = {"entity_uri": f"{NODE_ID}/agent/{entity}", "role": "admin"}
        (await at.post(f"/v1/gardens/{slug}/members", stated)).expect(201)
    (await at.send("DELETE", f"/v1/gardens/secret/members/{quote(f'{NODE_ID}/agent/former', safe='')}")).expect(204)
    for place, fields in (
        ("secret", {"garden_id": "secret", "scope": scope}),
        ("gone", {"garden_id": "gone", "scope": scope}),
        ("team", {"scope": "team"}),
    ):
        # Of the entity that the callers read, and by a source that is theirs: two that contradict each other, and a third pair
        # of which one is withdrawn.
        sides = [await at.write(value={"type": "string", "v": f"{MARKER} {n}"}, **fields) for n in (1, 2)]
        owner = {"entity": names["entity"], "relation": "memory:owner", "derived_from": [visible[0]["id"]], **fields}
        replaced = await at.write(**owner)
        await at.write(supersedes=[replaced["id"]], **owner)
        names |= {f"{place} id": sides[0]["id"], f"{place} cid": sides[0]["cid"], f"{place} replaced": replaced["id"]}
        names[f"{place} offset"] = str(sides[0]["log_offset"])
    (await at.send("DELETE", "/v1/gardens/gone")).expect(204)
    await hide_conflicts(at, names)
    await hide_in_quarantine(at, org_b, scope, names)
    return names


async def hide_conflicts(at: Served, names: dict[str, str]) -> None:
    found = (await at.get("/v1/conflicts")).expect(200)["conflicts"]
    assert len(found) == 3
    places = {names["secret garden"]: "secret", names["gone garden"]: "gone", None: "team"}
    for conflict in found:
        place = places[conflict["fact_a"]["garden_id"]]
        names[f"{place} conflict"] = conflict["conflict_id"]
        told = (await at.get("/v1/facts", entity=conflict["conflict_id"])).expect(200)["facts"]
        names |= {f"{place} told {number}": one["id"] for number, one in enumerate(told)}
    settled = {"new_value": {"type": "string", "v": MARKER}}
    resolved = (await at.post(f"/v1/conflicts/{quote(names['team conflict'])}/resolve", settled)).expect(200)
    names["resolution"] = resolved["resolution_fact_id"]


async def hide_in_quarantine(at: Served, org_b: Organisation, scope: str, names: dict[str, str]) -> None:
    await org_b.receive(
        at, *(org_b.served_fact(number=n, scope=scope, value={"type": "string", "v": MARKER}) for n in range(1, 5))
    )
    waiting = (await at.get("/v1/quarantine")).expect(200)["items"]
    ids = [one["id"] for one in sorted(waiting, key=lambda one: one["id"])]
    names |= dict(zip(("pending", "rejected", "promoted", "pending too"), ids, strict=True))
    names["pending cid"] = waiting[0]["cid"]
    moderate = f"/v1/gardens/{waiting[0]['quarantine_garden_id']}"
    (await at.post(f"{moderate}/reject", {"fact_id": ids[1], "reason": MARKER})).expect(200)
    promoted = {"fact_id": ids[2], "target_garden_id": "secret", "reason": MARKER}
    (await at.post(f"{moderate}/promote", promoted)).expect(200)
    told = (await at.get("/v1/facts", entity=ids[2], relation="stigmem:received_from")).expect(200)["facts"]
    names["received"] = told[0]["id"]


READERS_OF_THE_BURIED = ("a key without the scope or a garden", "a token that reads")


async def bury(at: Served, org_b: Organisation, scope: str, *, legal_hold: bool) -> dict[str, str]:
    """All about one entity, readable by every caller until it is buried: sides of a conflict, one of them settled, what replaced
    another, what visible facts rest on, what a peer brought, and what waits in quarantine.
    """
    buried = f"{NODE_ID}/project/buried"
    names = defaultdict(lambda: UNKNOWN_ID, {"slug": "other", "entity": buried, "secret offset": "1"})
    visible = (await at.get("/v1/facts", entity=APOLLO)).expect(200)["facts"]
    names |= {f"{number} visible id": one["id"] for number, one in enumerate(visible)}
    for place, relation in (("secret", "memory:status"), ("team", "memory:owner"), ("gone", "memory:phase")):
        fields = {"entity": buried, "relation": relation, "scope": scope}
        sides = [await at.write(value={"type": "string", "v": f"{MARKER} {n}"}, **fields) for n in (1, 2)]
        owner = {**fields, "relation": f"{relation}-kept", "derived_from": [visible[0]["id"]]}
        replaced = await at.write(**owner)
        await at.write(supersedes=[replaced["id"]], **owner)
        names |= {f"{place} id": sides[0]["id"], f"{place} cid": sides[0]["cid"], f"{place} replaced": replaced["id"]}
        names[f"{place} offset"] = str(sides[0]["log_offset"])
        found = (await at.get("/v1/conflicts")).expect(200)["conflicts"]
        names[f"{place} conflict"] = next(one["conflict_id"] for one in found if one["fact_a"]["relation"] == relation)
        told = (await at.get("/v1/facts", entity=names[f"{place} conflict"])).expect(200)["facts"]
        names |= {f"{place} told {number}": one["id"] for number, one in enumerate(told)}
    settled = {"new_value": {"type": "string", "v": MARKER}}
    path = f"/v1/conflicts/{quote(names['team conflict'])}/resolve"
    names["resolution"] = (await at.post(path, settled)).expect(200)["resolution_fact_id"]
    served = [
        org_b.served_fact(number=n, entity=buried, scope=scope, value={"type": "string", "v": MARKER})
        for n in range(1, 5)
    ]
    await org_b.receive(at, *served)
    waiting = (await at.get("/v1/quarantine")).expect(200)["items"]
    ids = [one["id"] for one in sorted(waiting, key=lambda one: one["id"])]
    names |= dict(zip(("pending", "rejected", "promoted", "pending too"), ids, strict=True))
    moderate = f"/v1/gardens/{waiting[0]['quarantine_garden_id']}"
    (await at.post(f"{moderate}/reject", {"fact_id": ids[1], "reason": MARKER})).expect(200)
    (await at.post(f"{moderate}/promote", {"fact_id": ids[2], "reason": MARKER})).expect(200)
    told = (await at.get("/v1/facts", entity=ids[2], relation="stigmem:received_from")).expect(200)["facts"]
    names["received"] = told[0]["id"]
    stated = {"entity_uri": buried, "reason": "asked for", "legal_hold": legal_hold}
    (await at.post("/v1/tombstones", stated)).expect(201)
    return names


async def fill(at: Served, events: int) -> None:
    """As many events, which leave everything as it was."""
    for number in range(events):
        filler = [f"stigmem://filler-{number}"] if number < events - 1 else []
        (await at.send("PATCH", "/v1/admin/config", {"blocked_sources": filler})).expect(200)


async def live_after(at: Served) -> None:
    await at.write(scope="company", value={"type": "string", "v": "red"})
    await at.write(scope="company", relation="memory:phase", value={"type": "number", "v": 2})


# What is asked.


def readings(hidden: dict[str, str]) -> dict[str, list[str]]:
    """Every way to ask each route that reads for what is hidden, and for what it stands among."""
    facts = [name for key, name in hidden.items() if key.split()[-1] in ("id", "cid", "replaced", "0", "1", "2")]
    facts += [hidden[key] for key in ("resolution", "pending", "pending too", "rejected", "promoted", "received")]
    gardens = [hidden[key] for key in ("slug", "secret garden", "secret uri", "gone garden", "gone uri")] + ["gone"]
    gardens = [quote(name, safe="") for name in gardens]
    # The team's facts come last, and what is settled and decided is so later.
    past = ["", f"?as_of=offset:{int(hidden['team offset']) + 3}"]
    return {
        "GET /.well-known/stigmem": [""],
        "GET /.well-known/stigmem-manifest.json": [""],
        "GET /.well-known/stigmem-manifest-proof.json": [""],
        "GET /healthz": [""],
        "GET /openapi.json": [""],
        "GET /docs": [""],
        "GET /docs/{asset}": ["/none"],
        "GET /readyz": [""],
        "GET /v1/me": [""],
        "GET /v1/auth/keys": [""],
        "GET /v1/auth/keys/{key_id}": [f"/{UNKNOWN_ID}"],
        "GET /v1/admin/config": [""],
        "GET /v1/admin/audit-log": [""],
        "GET /v1/facts": [*listings(hidden, gardens), *past[1:]],
        "GET /v1/facts/{fact_id}": [f"/{quote(name)}{then}" for name in facts for then in past],
        "GET /v1/facts/{fact_id}/body": [f"/{quote(name)}/body{then}" for name in facts for then in past],
        "POST /v1/facts/{fact_id}/verify-cid": [f"/{quote(name)}/verify-cid{then}" for name in facts for then in past],
        "GET /v1/facts/{fact_id}/provenance": [f"/{quote(name)}/provenance{then}" for name in facts for then in past],
        "GET /v1/entities/{entity_uri:.+}/history": [
            f"/{quote(entity, safe='')}/history{query}"
            for entity in (
                APOLLO,
                hidden["entity"],
                f"{ORG_B}/project/zeus",
                hidden["secret conflict"],
                hidden["promoted"],
            )
            for query in (*past, "?limit=1&order=desc", "?scope=team")
        ],
        "GET /v1/conflicts": [f"?{asked}" for asked in ("", "limit=1", "status=unresolved", "status=resolved")]
        + past[1:],
        "GET /v1/gardens": ["", "?limit=1", *past],
        "GET /v1/gardens/{garden}": [f"/{garden}{then}" for garden in gardens for then in past],
        "GET /v1/gardens/{garden}/members": [f"/{garden}/members" for garden in gardens],
        "GET /v1/quarantine": [
            *(f"?quarantine_status={status}" for status in ("pending", "promoted", "rejected")),
            *(f"?garden_id={garden}" for garden in [*gardens, "quarantine"]),
            *past,
        ],
        "GET /v1/trust": [f"?source={quote(source, safe='')}" for source in (SCRIBE, ORG_B)],
        "GET /v1/federation/manifest/{entity_uri:.+}": [f"/{quote(name, safe='')}" for name in (NODE_ID, ORG_B)],
        "GET /v1/federation/peers": past,
        "GET /v1/federation/peers/{peer_id}/capabilities": [f"/{UNKNOWN_ID}/capabilities"],
        "GET /v1/federation/audit": [""],
        "GET /v1/federation/tombstones": [""],
        "GET /v1/federation/facts": ["", *(f"?scope={scope}" for scope in ("public", "company")), "?limit=1"],
        "GET /v1/tombstones": ["", "?of=peers"],
        "GET /v1/tombstones/{tombstone_id}": [f"/tomb_{UNKNOWN_ID}"],
        "GET /v1/federation/capability-tokens": [""],
        "GET /v1/federation/capability-tokens/{token_id}": [f"/{UNKNOWN_ID}"],
        "GET /v1/log/checkpoint": [""],
        "GET /v1/log/proof/inclusion": [f"?offset={hidden['secret offset']}"],
        "GET /v1/log/proof/consistency": [f"?from={hidden['secret offset']}"],
    }


def listings(hidden: dict[str, str], gardens: list[str]) -> Iterator[str]:
    told = [name for key, name in hidden.items() if "conflict" in key] + [hidden["promoted"], hidden["resolution"]]
    for entity in (APOLLO, hidden["entity"], f"{ORG_B}/project/zeus", *told):
        yield f"?entity={quote(entity, safe='')}"
    for relation in (
        "memory:status",
        "memory:owner",
        "stigmem:received_from",
        "stigmem:conflict:between",
        "stigmem:resolves",
    ):
        yield f"?relation={relation}"
    for source in (f"{NODE_ID}/agent/scribe", NODE_ID, f"{ORG_B}/agent/assistant", "system:stigmem"):
        yield f"?source={quote(source, safe='')}"
    yield from (f"?garden_id={garden}" for garden in gardens)
    everything = "include_contradicted=true&include_expired=true&include_retracted=true"
    for asked in ("", "scope=team", "scope=company", "order=asc", "min_confidence=0.5", "after=2026-05-01T00:00:00Z"):
        yield f"?{asked}"
        yield f"?{asked}&{everything}&limit=1"


# Routes that change something and tell no more than what became of it; those that could tell more are tried below.
WRITES = {
    "POST /v1/auth/keys",
    "DELETE /v1/auth/keys/{key_id}",
    "PATCH /v1/admin/config",
    "POST /v1/admin/restore/confirm",
    "POST /v1/admin/keys/rotate",
    "POST /v1/facts",
    "POST /v1/facts/batch",
    "POST /v1/conflicts/{conflict_id}/resolve",
    "POST /v1/gardens",
    "DELETE /v1/gardens/{garden}",
    "POST /v1/gardens/{garden}/members",
    "PATCH /v1/gardens/{garden}/members/{entity_uri:.+}",
    "DELETE /v1/gardens/{garden}/members/{entity_uri:.+}",
    "POST /v1/gardens/{garden}/promote",
    "POST /v1/gardens/{garden}/reject",
    "PUT /v1/federation/manifest",
    "POST /v1/federation/declaration",
    "POST /v1/federation/peers",
    "PATCH /v1/federation/peers/{peer_id}",
    "DELETE /v1/federation/peers/{peer_id}",
    "POST /v1/federation/peers/{peer_id}/check",
    "POST /v1/federation/peers/{peer_id}/approve",
    "POST /v1/federation/peers/{peer_id}/pull",
    "POST /v1/federation/facts/push",
    "POST /v1/federation/attest",
    "POST /v1/federation/capability-tokens",
    "POST /v1/federation/capability-tokens/verify",
    "POST /v1/federation/capability-tokens/{token_id}/revoke",
    "POST /v1/federation/capability-tokens/{token_id}/accept",
    "POST /v1/log/cosignatures",
    "POST /v1/tombstones",
    "POST /v1/tombstones/{tombstone_id}/lift-hold",
    "POST /v1/tombstones/{tombstone_id}/revoke",
}


CALLERS_THAT_WRITE = (
    "a key without the scope or a garden",
    "a key that writes alone",
    "a reader of another garden",
    "a moderator of another quarantine",
    "a member that was removed",
    "a token that writes",
)


def writings(hidden: dict[str, str], source: str) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Every write that could tell whether something hidden is there, and some that could be moved by it."""
    named = [name for key, name in hidden.items() if key.split()[-1] in ("id", "replaced", "0")]
    named += [*(hidden[key] for key in ("pending", "rejected", "promoted", "resolution", "received")), UNKNOWN_ID]
    stated = fact(source=source, scope="company")
    yield "POST", "/v1/facts", stated | {"supersedes": True, "value": {"type": "string", "v": "blue"}}
    for name in named:
        yield "POST", "/v1/facts", stated | {"supersedes": [name]}
    yield "POST", "/v1/facts", stated | {"derived_from": named, "relation": "memory:note"}
    for key in ("secret cid", "team cid", "gone cid", "pending cid"):
        yield "POST", "/v1/facts", stated | {"derived_from": [hidden[key]]}
    batch = [stated | {"supersedes": [hidden["secret id"]]}, stated | {"derived_from": [hidden["team id"]]}]
    yield "POST", "/v1/facts/batch", {"facts": batch}
    for garden in (hidden["slug"], hidden["secret garden"], hidden["gone garden"], "gone", "quarantine"):
        yield "POST", "/v1/facts", stated | {"garden_id": garden}
        yield "POST", "/v1/facts", stated | {"garden_id": garden, "scope": "team"}
        at = f"/v1/gardens/{garden}"
        for name in (hidden["pending"], hidden["secret id"]):
            yield "POST", f"{at}/promote", {"fact_id": name}
        yield "POST", f"{at}/reject", {"fact_id": hidden["pending"]}
        yield "POST", "/v1/gardens/pit/promote", {"fact_id": hidden["pending"], "target_garden_id": garden}
        yield "POST", f"{at}/members", {"entity_uri": "user:alice", "role": "reader"}
        yield "PATCH", f"{at}/members/{quote(f'{NODE_ID}/agent/gone', safe='')}", {"role": "reader"}
        yield "DELETE", f"{at}/members/{quote(f'{NODE_ID}/agent/gone', safe='')}", None
        yield "DELETE", at, None
    for key in ("secret conflict", "team conflict", "gone conflict"):
        settled = {"winning_fact_id": hidden["secret id"], "new_value": {"type": "null"}}
        yield "POST", f"/v1/conflicts/{quote(hidden[key])}/resolve", settled


Compared = tuple[int, bytes, list[tuple[str, str]]]


def comparable(route: str, answer: Answer) -> Compared:
    """What of an answer may not differ, headers included.

    Roots, hashes and signatures are over the whole log, whatever is in it.
    """
    body = answer.body
    if any(word in route for word in ("log", "manifest", "provenance", "/.well-known/stigmem")):
        body = re.sub(rb"[0-9a-f]{64}|[A-Za-z0-9+/]{43,}=*|[A-Za-z0-9_-]{43,}", b"#", body)
    if route == "GET /v1/federation/facts":
        # A cursor holds a part of a leaf's hash.
        body = re.sub(rb'"cursor":"[^"]*"', b"#", body)
    return (
        answer.status,
        body,
        sorted(item for item in answer.headers.items() if item[0] not in ("Date", "Content-Length")),
    )


def difference(first: list[Compared], second: list[Compared]) -> tuple[str, str]:
    """The answers from a little before where they part."""
    texts = str(first), str(second)
    start = next((index for index, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    return tuple(text[max(0, start - 80) : start + 80] for text in texts)


# The walk.


async def pages(at: Served, method: str, path: str, bearer: str | None) -> list[Answer]:
    """The answer, and where it has a cursor those of the pages behind it."""
    answers = [await at.send(method, path, bearer=bearer)]
    while len(answers) < 20 and answers[-1].status == 200 and answers[-1].body.startswith(b"{"):
        cursor = answers[-1].json.get("cursor")
        if cursor is None or "/federation/" in path:
            break
        answers.append(await at.send(method, f"{path}{'&' if '?' in path else '?'}cursor={cursor}", bearer=bearer))
    return answers


async def leaks_to(callers: dict[str, str | None], ways: dict[str, list[str]], twin: Twins) -> list[tuple[str, ...]]:
    """What a caller is answered otherwise where something is hidden, by caller, method and path."""
    leaks = []
    for route, paths in ways.items():
        method, _, place = route.partition(" ")
        for caller, bearer in callers.items():
            for number, way in enumerate(paths):
                path = place.partition("/{")[0] + way
                asked = [(at, twin.peer_token(at) if bearer == PEER else bearer) for at in twin.nodes]
                answers = [await pages(at, method, path, shown) for at, shown in asked]
                assert not any(answer.status >= 500 for answer in answers[0]), path
                first, second = ([comparable(route, answer) for answer in found] for found in answers)
                if first != second or any(MARKER in str(body) for _, body, _ in first):
                    leaks.append((caller, method, path, *difference(first, second)))
                if number == 0 and answers[0][0].status in (401, 403):
                    break  # the door is closed to this caller
    return leaks


async def test_every_read_answers_as_if_what_is_hidden_were_not_there(serve, org_b: Organisation):
    twin = await twins(serve, org_b)
    callers = {name: bearer for name, bearer in twin.bearers.items() if name != ADMIN}

    assert await leaks_to(callers | {"a peer": PEER, "nobody": None}, readings(twin.hidden), twin) == []


async def test_an_admin_s_key_is_told_nothing_of_a_scope_that_it_lacks(serve, org_b: Organisation):
    twin = await twins(serve, org_b, scope="team")
    ways = readings(twin.hidden)
    # What moderators decide moves a source's score, which is one for all callers (docs/gardens.md).
    del ways["GET /v1/trust"]

    assert await leaks_to({ADMIN: twin.bearers[ADMIN]}, ways, twin) == []


async def test_no_write_tells_what_is_hidden(serve, org_b: Organisation):
    twin = await twins(serve, org_b)
    hiding, plain = twin.nodes
    leaks = []

    for caller in CALLERS_THAT_WRITE:
        bearer = twin.bearers[caller]
        source = (await hiding.send("GET", "/v1/me", bearer=bearer)).expect(200)["entity_uri"]
        for method, path, body in writings(twin.hidden, source):
            answers = []
            for at in (hiding, plain):
                at.clock.advance(1000)
                at.clock.draw_from(200_000 + 1000 * hiding.clock.now_ms())
                answers.append(await at.send(method, path, body, bearer=bearer))
            assert answers[0].status < 500, answers[0]
            first, second = (comparable(path, answer) for answer in answers)
            if first != second or hiding.size != plain.size or MARKER in str(first):
                leaks.append((caller, method, path, body, *difference([first], [second])))

    assert leaks == []


@pytest.mark.parametrize("legal_hold", [False, True], ids=["erased", "held"])
async def test_every_read_answers_as_if_what_a_tombstone_reaches_were_not_there(
    serve, org_b: Organisation, legal_hold: bool
):
    twin = await twins(serve, org_b, hiding=partial(bury, legal_hold=legal_hold))
    # All of them may read what was buried, until it was: a few stand for all.
    callers = {name: bearer for name, bearer in twin.bearers.items() if name in READERS_OF_THE_BURIED}
    ways = readings(twin.hidden)
    # Peers are to be told.
    del ways["GET /v1/federation/tombstones"]
    if legal_hold:
        # What a hold keeps has still counted for its sources (docs/tombstones.md).
        ways["GET /v1/trust"] = []

    assert await leaks_to(callers | {"a peer": PEER, "nobody": None}, ways, twin) == []
    # An admin of everything knows that there is a tombstone, and reads no more than the others.
    # That moderators admitted an organisation outlives the fact that they admitted.
    for way in (
        "audit-log",
        "federation/audit",
        "v1/tombstones",
        "peers",
        "admin/config",
        "capability-tokens",
        "trust",
    ):
        ways = {route: paths for route, paths in ways.items() if not route.endswith(way)}
    assert await leaks_to({"an admin": ADMIN_KEY}, ways, twin) == []


async def test_whoever_may_read_it_finds_all_of_it(serve, org_b: Organisation):
    """The other half: what was hidden above is there, and the same questions lead to it."""
    twin = await twins(serve, org_b)
    (hiding, _), hidden = twin.nodes, twin.hidden
    places = {
        "secret": await member(hiding, "writer", "secret"),
        "team": await bearer_for(hiding, entity_uri=f"{NODE_ID}/agent/team"),
    }

    for place, bearer in places.items():
        for key in ("id", "cid", "replaced", "told 0", "told 1"):
            found = await hiding.send("GET", f"/v1/facts/{quote(hidden[f'{place} {key}'])}", bearer=bearer)
            found.expect(200)
        listed = (await hiding.send("GET", "/v1/facts?include_contradicted=true", bearer=bearer)).expect(200)
        assert MARKER in str(listed) and listed["total"] == len(listed["facts"])
        conflicts = (await hiding.send("GET", "/v1/conflicts", bearer=bearer)).expect(200)["conflicts"]
        assert hidden[f"{place} conflict"] in {one["conflict_id"] for one in conflicts}
    found = await hiding.send("GET", f"/v1/facts/{hidden['promoted']}", bearer=places["secret"])
    assert found.expect(200)["quarantine_status"] == "promoted"
    for key in ("pending", "rejected", "gone id", "resolution", "received"):
        (await hiding.get(f"/v1/facts/{hidden[key]}")).expect(200)


def test_every_route_is_walked_or_known_to_show_nothing_that_was_stored():
    routes = {f"{route.method} {route.path}" for route in ROUTES}

    walked = set(readings(defaultdict(lambda: "0")))

    assert walked | WRITES == routes and not walked & WRITES
    assert {name for name in WRITES if name.startswith("GET")} == set()
