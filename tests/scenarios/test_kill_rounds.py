"""kill -9 at any moment of a mixed load, round after round: what was acknowledged stands once, and what was used up stays so."""

import http.client
import random
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from node.keys import load_signer
from tests.independent.verifier import check_log
from tests.organisations import jwt
from tests.scenarios.nodes import Answer, Client
from tests.scenarios.organisations import Organisation, federate, start_together

ROUNDS, LONG_ROUNDS = 10, 100
# The load of a round goes on for so long before the kill: some dozens of writes.
SHORTEST_S, LONGEST_S = 0.02, 0.3


class Load(threading.Thread):
    """Does one thing to a node again and again, until the node is gone under it."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self._step = step

    def run(self) -> None:
        try:
            while True:
                self._step()
        except (OSError, http.client.HTTPException):
            return
        except Exception as failure:
            self.failure = failure


class History:
    """What org A acknowledged in all rounds. One thread each calls the methods that write."""

    def __init__(self, org_a: Organisation, org_b: Organisation, bot_token: str) -> None:
        self.org, self._peer, self._bot_token = org_a, org_b, bot_token
        self._signer = load_signer(org_b.key.private, None)
        self._numbers = iter(range(10**9))
        # By entity: the body that was sent, and what was answered; None for what was under way.
        self.sent: dict[str, tuple[dict[str, Any], bytes | None]] = {}
        self.revoked: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.decided: dict[str, str] = {}
        self.pulled: list[str] = []
        # A pull that was sent and not answered: its nonce may be used up.
        self.pulling: str | None = None

    def assert_fact(self, client: Client) -> None:
        entity = f"{self.org.entity_uri}/item/{next(self._numbers)}"
        body = self.org.fact("x", "written", scope="company") | {"entity": entity, "idempotency_key": entity}
        self.sent[entity] = (body, None)
        answer = client.send("POST", "/v1/facts", body)
        answer.expect(201)
        self.sent[entity] = (body, answer.body)

    def issue_and_revoke(self, client: Client) -> None:
        path = "/v1/federation/capability-tokens"
        request = {"issuer": self.org.entity_uri, "subject": self.org.assistant, "verb": "read", "ttl_seconds": 3600}
        issued = client.send("POST", path, request | {"object": f"{self.org.entity_uri}/scope/company"}).expect(201)
        token_id, text = issued["token_id"], issued["token_json"]
        if len(self.kept) <= len(self.revoked):
            self.kept[token_id] = text
            return
        client.send("POST", f"{path}/{token_id}/revoke", {}).expect(200)
        self.revoked[token_id] = text

    def hold_and_decide(self, client: Client, writing: Client) -> None:
        fact = self.org.fact(f"held/{next(self._numbers)}", "x", scope="company") | {"source": self._peer.bot}
        held = writing.send("POST", "/v1/facts", fact)
        if held.status == 201:
            # Its organisation has been admitted once; a rejection has the next one held again.
            return
        fact_id, garden_id = held.expect(202)["fact_id"], held.json["quarantine_garden_id"]
        verb = "promote" if len(self.decided) % 3 == 0 else "reject"
        order = {"fact_id": fact_id, "reason": "It was looked at."}
        order |= {"target_garden_id": None} if verb == "promote" else {}
        client.send("POST", f"/v1/gardens/{garden_id}/{verb}", order).expect(200)
        self.decided[fact_id] = {"promote": "promoted", "reject": "rejected"}[verb]

    def pull(self, client: Client) -> None:
        self.pulling = self.pull_token()
        client.bearer = self.pulling
        client.send("GET", "/v1/federation/facts?scope=public&limit=1").expect(200)
        self.pulled.append(self.pulling)
        self.pulling = None

    def pull_token(self) -> str:
        now_ms = time.time_ns() // 1_000_000
        claims = {"iss": self._peer.entity_uri, "sub": self.org.entity_uri, "iat": now_ms, "exp": now_ms + 3_000_000}
        return jwt(self._signer, claims | {"nonce": str(uuid.uuid4()), "scopes": ["public"]})

    def read(self, client: Client) -> None:
        """Whatever was acknowledged is read at once, also while others write."""
        answers = [answer for _, answer in list(self.sent.values())[-50:] if answer is not None]
        for answer in answers[-1:]:
            fact = Answer(201, answer).json
            assert client.send("GET", f"/v1/facts/{fact['id']}").expect(200)["entity"] == fact["entity"]
        client.send("GET", "/v1/facts?limit=20").expect(200)

    def run_until_killed(self, after_s: float) -> None:
        node = self.org.node
        bot = node.client(self._bot_token)
        steps = [
            partial(step, node.client()) for step in (self.assert_fact, self.issue_and_revoke, self.pull, self.read)
        ]
        steps += [partial(self.hold_and_decide, node.client(), bot), partial(self.read, node.client())]
        loads = [Load(step) for step in steps]
        killing = threading.Timer(after_s, node.kill)
        for started in (*loads, killing):
            started.start()
        killing.join(timeout=20)
        for load in loads:
            load.join(timeout=20)
            assert not load.is_alive(), "something still waits for an answer of a node that is gone"
        assert [load.failure for load in loads if load.failure] == []

    def assert_last_stand(self) -> None:
        """What came just before the kill, or was under way then, after the next start."""
        node = self.org.node
        for entity, (body, answer) in list(self.sent.items())[-5:]:
            again = node.post("/v1/facts", body)
            again.expect(201)
            assert answer in (None, again.body)
            self.sent[entity] = (body, again.body)
        if self.pulling is not None:
            # Its nonce was taken with the page, or neither.
            assert self._pull_again(self.pulling).status in (200, 401)
            self.pulled.append(self.pulling)
            self.pulling = None
        for token in self.pulled[-3:]:
            self._pull_again(token).refused(401, "nonce_already_seen")
        for token in list(self.revoked.values())[-3:]:
            node.get("/v1/facts?limit=1", token).refused(403, "token_revoked")
        for token in list(self.kept.values())[-3:]:
            node.get("/v1/facts?limit=1", token).expect(200)

    def assert_all_stands(self) -> None:
        """Everything of every round, each once."""
        node = self.org.node
        assert all((self.sent, self.revoked, self.kept, self.decided, self.pulled)), "some load came to nothing"
        listed = [(fact["entity"], fact["id"]) for fact in node.facts()]
        assert len(listed) == len(dict(listed))
        answered = {entity: Answer(201, answer).json["id"] for entity, (_, answer) in self.sent.items()}
        assert answered.items() <= dict(listed).items()
        assert {entity for entity, _ in listed if "/item/" in entity} == answered.keys()
        for status in ("promoted", "rejected"):
            standing = self._with_status(status)
            assert {fact_id for fact_id, decided in self.decided.items() if decided == status} <= standing
        tokens = node.get("/v1/federation/capability-tokens").expect(200)["tokens"]
        revoked = {token["token_id"] for token in tokens if token["status"] == "revoked"}
        assert self.revoked.keys() <= revoked and not self.kept.keys() & revoked
        for token in self.pulled:
            self._pull_again(token).refused(401, "nonce_already_seen")

    def _with_status(self, status: str) -> set[str]:
        found, cursor = set(), ""
        while cursor is not None:
            path = f"/v1/quarantine?quarantine_status={status}&limit=1000" + (f"&cursor={cursor}" if cursor else "")
            page = self.org.node.get(path).expect(200)
            found, cursor = found | {item["fact_id"] for item in page["items"]}, page["cursor"]
        return found

    def _pull_again(self, token: str) -> Answer:
        return self.org.node.get("/v1/federation/facts?scope=public&limit=1", token)


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_or_done_twice_by_kill_9_at_any_moment(make_organisation, long_run):
    settings = {"FEDERATION_PULL_INTERVAL_S": "3600"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    org_a.hold_inbound_facts()
    org_b.node.stop()
    history = History(org_a, org_b, org_a.issue_token(org_b.bot)["token_json"])
    moments = random.Random(20261122)
    for _ in range(LONG_ROUNDS if long_run else ROUNDS):
        history.run_until_killed(moments.uniform(SHORTEST_S, LONGEST_S))
        org_a.node.start()
        history.assert_last_stand()

    history.assert_all_stands()
    org_a.node.stop()
    assert check_log(org_a.node.data_dir) == []
    org_a.node.verify_log()
