"""Random steps in the life of a node, each of which may change what is answered to somebody."""

import random
from collections.abc import Awaitable, Callable
from itertools import count

from msgspec import structs

from tests.api_keys import KEYS, SCRIBE, make_key
from tests.organisations import Organisation, issue
from tests.served import ADMIN_KEY, NODE_ID, Served

RELATIONS = ["memory:state", "memory:owner"]
SOURCES = [SCRIBE, f"{NODE_ID}/agent/other"]
_RETRACTED = {"type": "string", "v": "retracted"}


class Life:
    """`readers` are the credentials that may be asked with, by what they are called; a name may get another credential."""

    def __init__(self, http: Served, org_b: Organisation, rng: random.Random) -> None:
        self._http, self._org_b, self._rng = http, org_b, rng
        self.ids: list[str] = []
        self.readers: dict[str, str] = {}
        self.gardens: list[str] = []
        self._scribe_key_id: str
        self._tombstones: list[str] = []
        self._about = f"{NODE_ID}/thing"
        self._numbers = count(1)

    async def begin(self) -> "Life":
        bounded = await make_key(self._http, "read", allowed_scopes=["company", "public"])
        objects = ("*", f"{NODE_ID}/scope/public")
        tokens = {about: await issue(self._http, SCRIBE, verb="read", object=about) for about in objects}
        self.readers = {"admin": ADMIN_KEY, "bounded": bounded["raw_key"], **tokens}
        await self._make_key()
        await self._found_garden()
        return self

    async def step(self, about: str) -> str:
        """One step: about that entity, where it is about one."""
        self._about = about
        steps: list[Callable[[], Awaitable[None]]] = [
            *[self._assert] * 6,
            *[self._wait] * 3,
            self._assert_many,
            *[self._receive] * 2,
            self._settle,
            self._found_garden,
            *[self._change_members] * 3,
            self._delete_garden,
            *[self._decide] * 3,
            self._bury,
            self._lift_hold,
            *[self._revoke] * 2,
            self._distrust,
            self._change_key,
            self._rotate,
        ]
        taken = self._restart if self._rng.random() < 0.03 else self._rng.choice(steps)
        await taken()
        return taken.__name__

    def _some_fact(self) -> dict[str, object]:
        choose = self._rng.choice
        garden = choose([None, *self.gardens[-1:]])
        return {
            "entity": self._about,
            "relation": choose(RELATIONS),
            "value": choose([*[{"type": "string", "v": word} for word in ("red", "green") * 2], _RETRACTED]),
            "source": choose(SOURCES),
            "confidence": choose([1.0, 1.0, 0.7, 0.0]),
            "scope": "company" if garden else choose(["team", "company", "public"]),
            "valid_until": choose([None, None, None, self._soon()]),
            "garden_id": garden,
            "supersedes": choose([False, False, True, self.ids[-1:]]),
        }

    def _soon(self) -> str:
        second = (self._http.clock.now_ms() // 1000 + self._rng.randrange(2, 9)) % 86_400
        day = "2026-05-04" if second >= 43_200 else "2026-05-05"
        return f"{day}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"

    async def _assert(self) -> None:
        answer = await self._http.post("/v1/facts", self._some_fact())
        if answer.status == 201:
            self.ids.append(answer.json["id"])

    async def _assert_many(self) -> None:
        facts = [self._some_fact() for _ in range(self._rng.randrange(1, 5))]
        await self._http.post("/v1/facts/batch", {"facts": facts, "atomic": self._rng.random() < 0.5})

    async def _wait(self) -> None:
        self._http.clock.advance(self._rng.randrange(500, 4000))

    async def _receive(self) -> None:
        choose, number = self._rng.choice, next(self._numbers)
        # Two origins may use one id.
        named = choose([{}, {"id": choose(self.ids)}]) if self.ids else {}
        told = self._org_b.served_fact(
            number=number,
            entity=self._about,
            relation=choose(RELATIONS),
            value={"type": "string", "v": choose(["red", "blue"])},
            confidence=choose([0.9, 0.9, 0.0]),
            valid_until=choose([None, self._soon()]),
            **named,
        )
        await self._org_b.receive(self._http, told)

    async def _settle(self) -> None:
        found = (await self._http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"]
        for conflict in found[:1]:
            winner = self._rng.choice([conflict["fact_a"]["id"], conflict["fact_b"]["id"]])
            # One in a garden that was deleted, or of what is buried, cannot be.
            await self._http.post(f"/v1/conflicts/{conflict['conflict_id']}/resolve", {"winning_fact_id": winner})

    async def _found_garden(self) -> None:
        slug = f"bed-{next(self._numbers)}"
        made = await self._http.post("/v1/gardens", {"slug": slug, "name": slug, "scope": "company"})
        self.gardens.append(made.expect(201)["id"])

    async def _change_members(self) -> None:
        for garden in self.gardens[-1:]:
            if self._rng.random() < 0.6:
                await self._http.post(f"/v1/gardens/{garden}/members", {"entity_uri": SCRIBE, "role": "reader"})
            else:
                await self._http.send("DELETE", f"/v1/gardens/{garden}/members/{SCRIBE}")

    async def _delete_garden(self) -> None:
        if self.gardens and self._rng.random() < 0.5:
            (await self._http.send("DELETE", f"/v1/gardens/{self.gardens.pop()}")).expect(204)

    async def _decide(self) -> None:
        pending = (await self._http.get("/v1/quarantine", quarantine_status="pending")).expect(200)["items"]
        for waiting in sorted(pending, key=lambda one: one["entity"] != self._about)[:1]:
            decision = self._rng.choice(["promote", "promote", "reject"])
            path = f"/v1/gardens/{waiting['quarantine_garden_id']}/{decision}"
            named = {"fact_id": waiting["fact_id"], "origin": waiting["origin"]}
            (await self._http.post(path, named)).expect(200)

    async def _bury(self) -> None:
        if self._rng.random() < 0.5:
            scope, is_held = self._rng.choice([("team", False), ("company", False), ("*", True), ("*", False)])
            body = {"entity_uri": self._about, "scope": scope, "legal_hold": is_held}
            made = (await self._http.post("/v1/tombstones", body | {"reason": "not here"})).json
            self._tombstones += [made["id"]] if "id" in made else []

    async def _lift_hold(self) -> None:
        if self._tombstones:
            await self._http.post(f"/v1/tombstones/{self._tombstones[-1]}/lift-hold", {"reason": "over"})

    async def _revoke(self) -> None:
        if self._tombstones:
            path = f"/v1/tombstones/{self._tombstones.pop()}/revoke"
            (await self._http.post(path, {"reason": "by mistake"})).expect(200)

    async def _distrust(self) -> None:
        mode = self._rng.choice(["off", "relaxed", "strict"])
        (await self._http.send("PATCH", "/v1/admin/config", {"trust_mode": mode})).expect(200)

    async def _make_key(self) -> None:
        scopes = self._rng.choice([["local", "team", "company", "public"], ["company"]])
        made = await make_key(self._http, description="the scribe's", allowed_scopes=scopes)
        self.readers["scribe"], self._scribe_key_id = made["raw_key"], made["key_id"]

    async def _change_key(self) -> None:
        """The old one is still asked with: as a reader of its own."""
        (await self._http.send("DELETE", f"{KEYS}/{self._scribe_key_id}")).expect(204)
        self.readers["revoked"] = self.readers["scribe"]
        await self._make_key()

    async def _rotate(self) -> None:
        (await self._http.post("/v1/admin/keys/rotate", {})).expect(200)

    async def _restart(self) -> None:
        """With federation off, or on again: then what was written without a seal gets one."""
        is_on = self._http.config.federation_enabled
        self._http.config = structs.replace(self._http.config, federation_enabled=not is_on)
        await self._http.restart()
