"""kill -9 under load and between steps: what was answered is there afterwards, once, and the log still proves itself."""

import http.client
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from tests.scenarios.nodes import RunningNode, eventually
from tests.scenarios.organisations import AUTO_QUARANTINE, Organisation, await_active

REPO = Path(__file__).parents[2]
WRITERS = 4
ANSWERED_BEFORE_THE_KILL = 60
BATCH_FACTS = 50


class Writer(threading.Thread):
    """Asserts facts about entities that nobody else uses until it is stopped or its node gone; keeps what was answered 201."""

    def __init__(self, node: RunningNode, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.answered: dict[str, str] = {}
        self.failure: AssertionError | None = None
        self.stop = threading.Event()
        self._client = node.client()

    def run(self) -> None:
        number = 0
        # The node dies under this connection: no more answers, and none that came half counts.
        try:
            while not self.stop.is_set():
                entity = f"stigmem://org-a.example/{self.name}/{number}"
                answer = self._client.send("POST", "/v1/facts", fact_about(entity))
                self.answered[entity] = answer.expect(201)["id"]
                number += 1
        except (OSError, http.client.HTTPException):
            return
        except AssertionError as failure:
            self.failure = failure


def fact_about(entity: str):
    return {
        "entity": entity,
        "relation": "memory:status",
        "value": {"type": "string", "v": "written"},
        "source": "stigmem://org-a.example/agent/assistant",
        "scope": "company",
    }


def write_until_killed(node: RunningNode, name: str) -> dict[str, str]:
    """Id by entity of every fact that was answered before the kill."""
    writers = [Writer(node, f"{name}-{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    eventually(
        lambda: sum(len(writer.answered) for writer in writers),
        lambda answered: answered >= ANSWERED_BEFORE_THE_KILL or any(writer.failure for writer in writers),
        within_s=30,
        what="enough facts were answered",
    )
    node.kill()
    for writer in writers:
        writer.join(timeout=20)
        assert not writer.is_alive(), "a writer still waits for an answer of a node that is gone"
    assert [writer.failure for writer in writers if writer.failure] == []
    return {entity: fact_id for writer in writers for entity, fact_id in writer.answered.items()}


def independently_verified(data_dir: Path) -> None:
    """Reads the log with a second reader, which shares no code with the node."""
    command = [sys.executable, "-m", "tests.independent.verifier", str(data_dir)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_answered_write_is_there_once_after_kill_9(make_node, long_run):
    node = make_node(ENTITY_URI="stigmem://org-a.example")
    answered: dict[str, str] = {}
    for round_number in range(20 if long_run else 3):
        node.start()
        answered |= write_until_killed(node, f"round-{round_number}")
        head = node.verify_log()
        assert re.fullmatch(r"head \d+:\S+", head), head

    independently_verified(node.data_dir)
    node.start()
    client = node.client()
    read = {entity: client.send("GET", f"/v1/facts/{fact_id}").expect(200) for entity, fact_id in answered.items()}
    assert {entity: fact["id"] for entity, fact in read.items()} == answered
    assert {fact["entity"] for fact in read.values()} == answered.keys()
    listed = [fact["entity"] for fact in node.facts()]
    assert len(listed) == len(set(listed))
    assert answered.keys() <= set(listed)
    total = client.send("GET", "/v1/facts?limit=1").expect(200)["total"]
    assert total == min(len(listed), 10_000)
    node.stop()


def test_sigterm_under_load_ends_in_time_with_every_answered_write_in_the_log(make_node):
    node = make_node(ENTITY_URI="stigmem://org-a.example").start()
    writers = [Writer(node, f"writer-{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    eventually(
        lambda: sum(len(writer.answered) for writer in writers),
        lambda answered: answered >= ANSWERED_BEFORE_THE_KILL,
        within_s=30,
        what="enough facts were answered",
    )
    node.stop()
    for writer in writers:
        writer.join(timeout=20)
    assert [writer.failure for writer in writers if writer.failure] == []
    answered = {fact_id for writer in writers for fact_id in writer.answered.values()}

    node.start()
    listed = [fact["id"] for fact in node.facts()]
    assert len(listed) == len(set(listed))
    assert answered <= set(listed)
    node.stop()
    node.verify_log()


class BatchWriter(threading.Thread):
    """Sends atomic batches, each under a key of its own, until its node is gone; keeps those sent and what was answered."""

    def __init__(self, node: RunningNode, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.sent: list[dict[str, Any]] = []
        self.answered: dict[str, bytes] = {}
        self._client = node.client()

    def run(self) -> None:
        try:
            while True:
                key = f"{self.name}-{len(self.sent)}"
                facts = [fact_about(f"stigmem://org-a.example/{key}/{index}") for index in range(BATCH_FACTS)]
                self.sent.append({"facts": facts, "atomic": True, "idempotency_key": key})
                answer = self._client.send("POST", "/v1/facts/batch", self.sent[-1])
                answer.expect(201)
                self.answered[key] = answer.body
        except (OSError, http.client.HTTPException):
            return


def test_a_batch_is_there_whole_or_not_at_all_after_kill_9_and_once_when_it_is_sent_again(make_node):
    node = make_node(ENTITY_URI="stigmem://org-a.example")
    node.start()
    writers = [BatchWriter(node, f"writer-{number}") for number in range(3)]
    for writer in writers:
        writer.start()
    eventually(
        lambda: sum(len(writer.answered) for writer in writers),
        lambda answered: answered >= 12,
        within_s=30,
        what="enough batches were answered",
    )
    node.kill()
    for writer in writers:
        writer.join(timeout=20)
    sent = [batch for writer in writers for batch in writer.sent]
    answered = {key: body for writer in writers for key, body in writer.answered.items()}

    node.start()
    kept = Counter(fact["entity"].split("/")[3] for fact in node.facts())
    assert set(kept.values()) == {BATCH_FACTS}
    assert answered.keys() <= kept.keys() <= {batch["idempotency_key"] for batch in sent}
    for batch in sent:
        again = node.post("/v1/facts/batch", batch)
        assert again.expect(201)["accepted"] == BATCH_FACTS
        assert answered.get(batch["idempotency_key"], again.body) == again.body
    assert len(node.facts()) == len(sent) * BATCH_FACTS
    node.stop()
    node.verify_log()


def kill_and_start(*organisations: Organisation) -> None:
    for organisation in organisations:
        organisation.node.kill()
    for organisation in organisations:
        organisation.node.launch()
    for organisation in organisations:
        organisation.node.wait_until_ready()


def test_the_tutorial_comes_out_the_same_with_kill_9_between_any_two_of_its_steps(make_organisation):
    org_a, org_b = orgs = (make_organisation("org-a"), make_organisation("org-b"))
    kill_and_start(*orgs)
    for org in orgs:
        org.publish()
    kill_and_start(*orgs)
    org_a.register(org_b)
    kill_and_start(*orgs)
    org_b.register(org_a)
    kill_and_start(*orgs)
    await_active((org_a, org_b), (org_b, org_a))
    garden_id = org_a.create_garden("inbound-quarantine", quarantine=True)
    kill_and_start(*orgs)
    org_a.node.send("PATCH", "/v1/admin/config", {"quarantine_garden_id": garden_id}).expect(200)
    kill_and_start(*orgs)
    token = org_a.issue_token(org_b.bot)
    kill_and_start(*orgs)
    fact = org_a.fact("project/atlas", "active", scope="company") | {"source": org_b.bot}
    held = org_a.node.post("/v1/facts", fact, token["token_json"]).expect(202)
    assert (held["quarantine_garden_id"], held["quarantine_reason"]) == (garden_id, AUTO_QUARANTINE)
    kill_and_start(*orgs)
    admission = {"fact_id": held["fact_id"], "target_garden_id": None, "reason": "It was checked."}
    org_a.node.post(f"/v1/gardens/{garden_id}/promote", admission).expect(200)
    kill_and_start(*orgs)
    org_a.node.post(f"/v1/federation/capability-tokens/{token['token_id']}/revoke", {}).expect(200)
    kill_and_start(*orgs)

    record = org_a.node.get(f"/v1/facts/{held['fact_id']}").expect(200)
    assert (record["quarantine_status"], record["source_trust"]) == ("promoted", 0.15)
    assert record["attestation_chain_issuers"] == [org_b.entity_uri]
    assert [found["id"] for found in org_a.node.facts()] == [held["fact_id"]]
    org_a.node.post("/v1/facts", fact, token["token_json"]).refused(403, "token_revoked")
    for org in orgs:
        org.node.stop()
        org.node.verify_log()
        independently_verified(org.node.data_dir)
