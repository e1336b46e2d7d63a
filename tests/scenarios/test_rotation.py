"""Keys rotated under traffic: nothing fails, nothing is lost, nobody registers again. Rotations killed at each step (§11)."""

import http.client
import json
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from node.keys import load_signer
from tests.scenarios import dies_at
from tests.scenarios.nodes import ADMIN_KEY, RunningNode, eventually, run_stigmem
from tests.scenarios.organisations import Organisation, federate, start_together

STEPS = ("written", "appended", "kept", "replaced")


class Traffic(threading.Thread):
    """Writes one fact after the other at a node, with some credential; keeps their ids and the first answer that was no 201."""

    def __init__(self, node: RunningNode, bearer: str, draft: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.written: list[str] = []
        self.failure: AssertionError | None = None
        self.stop = threading.Event()
        self._client, self._draft = node.client(bearer), draft

    def run(self) -> None:
        try:
            while not self.stop.wait(0.03):
                draft = self._draft | {"entity": f"{self._draft['entity']}/{len(self.written)}"}
                self.written.append(self._client.send("POST", "/v1/facts", draft).expect(201)["id"])
        except AssertionError as failure:
            self.failure = failure
        except (OSError, http.client.HTTPException):
            # Its node was killed, or the writing itself says which facts are missing.
            return


class Rotating(threading.Thread):
    """Rotates a node's key for as long as it answers; `made` are the key ids, and any answer but 200 is a failure."""

    def __init__(self, node: RunningNode) -> None:
        super().__init__(daemon=True)
        self.made: list[str] = []
        self.failure: AssertionError | None = None
        self._client = node.client()

    def run(self) -> None:
        try:
            while True:
                self.made.append(self._client.send("POST", "/v1/admin/keys/rotate", {}).expect(200)["new_key_id"])
        except AssertionError as failure:
            self.failure = failure
        except (OSError, http.client.HTTPException):
            return


def rotate(organisation: Organisation, *flags: str) -> dict[str, Any]:
    node = organisation.node
    settings = {"URL": node.url, "API_KEY": ADMIN_KEY}
    done = run_stigmem("keys", "rotate", "--json", *flags, folder=node.folder, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def verified(organisation: Organisation) -> None:
    done = run_stigmem("replay", "verify", "--data-dir", "stigmem-data", folder=organisation.node.folder)
    assert done.returncode == 0, done.stdout + done.stderr


def ids_of(organisation: Organisation, source: str) -> set[str]:
    found, cursor = set(), ""
    while cursor is not None:
        page = organisation.node.get(f"/v1/facts?source={source}&limit=1000&cursor={cursor}").expect(200)
        found |= {fact["id"] for fact in page["facts"]}
        cursor = page["cursor"]
    return found


def own_fact(organisation: Organisation, source: str, scope: str) -> dict[str, Any]:
    return {
        "entity": f"{organisation.entity_uri}/item",
        "relation": "memory:status",
        "value": {"type": "string", "v": "written"},
        "source": source,
        "scope": scope,
    }


def test_under_traffic_no_write_fails_no_fact_is_lost_and_nobody_registers_again(make_organisation, long_run):
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "1", "FEDERATION_PUSH_ENABLED": "false"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    before = {org.name: org.peer(other) for org, other in ((org_a, org_b), (org_b, org_a))}
    sizes = {org.name: org.node.log_size() for org in (org_a, org_b)}
    token = org_a.issue_token(org_b.bot)["token_json"]
    traffic = [
        Traffic(org_a.node, ADMIN_KEY, own_fact(org_a, org_a.assistant, "public")),
        Traffic(org_b.node, ADMIN_KEY, own_fact(org_b, org_b.assistant, "public")),
        # B's bot writes at A under a token of the key that A rotates away.
        Traffic(org_a.node, token, own_fact(org_a, org_b.bot, "company") | {"entity": f"{org_a.entity_uri}/by-b"}),
    ]
    for one in traffic:
        one.start()

    rotations = [rotate(org_a)]
    for org in (org_b, org_a) * (4 if long_run else 1):
        rotations.append(org.node.post("/v1/admin/keys/rotate", {}).expect(200))
    counts = [len(one.written) for one in traffic]
    eventually(
        lambda: [len(one.written) for one in traffic],
        lambda now: (
            all(count > then + 10 for count, then in zip(now, counts, strict=True))
            or any(one.failure for one in traffic)
        ),
        within_s=20,
        what="writes go on behind the rotations",
    )
    for one in traffic:
        one.stop.set()
        one.join(timeout=20)

    assert [one.failure for one in traffic if one.failure] == []
    for (org, other), there in zip(((org_b, org_a), (org_a, org_b)), traffic, strict=False):
        eventually(
            lambda org=org, other=other: ids_of(org, other.assistant),
            lambda found, there=there: found == set(there.written),
            within_s=20,
            what=f"{org.name} has all that {other.name} wrote",
        )
    for org, other in ((org_a, org_b), (org_b, org_a)):
        peer, then = org.peer(other), before[org.name]
        assert (peer["status"], peer["peer_id"]) == ("active", then["peer_id"])
        events = org.node.get("/v1/admin/audit-log?limit=1000&event_type=peer.registered.1").expect(200)["events"]
        assert [event["seq"] for event in events if event["seq"] >= sizes[org.name]] == []
        audited = org.node.get("/v1/federation/audit?limit=500").expect(200)["events"]
        assert [event for event in audited if event["event_type"] == "rejected_fact"] == []
    verified(org_a)
    manifest = org_a.node.get("/.well-known/stigmem-manifest.json", bearer=None).expect(200)
    assert manifest["rotation_events"] == [one for one in rotations if one["entity_uri"] == org_a.entity_uri]


def test_a_rotation_killed_at_any_step_is_finished_at_the_next_start_or_was_not_begun(make_organisation):
    org = make_organisation("org-a", TRUST_MODE="relaxed")
    node, key_file = org.node, org.key.private
    first = load_signer(key_file, None).key_id
    key_ids = [first]
    made, armed = None, node.folder / "armed"
    for step in (*STEPS, "never"):
        node.launcher = [sys.executable, str(Path(dies_at.__file__)), step]
        armed.unlink(missing_ok=True)
        node.start()
        held = load_signer(key_file, None).key_id
        # Of the step before: whatever it was killed at, file, log and manifest agree.
        assert node.get("/.well-known/stigmem-manifest.json", bearer=None).expect(200)["key_id"] == held
        assert not key_file.with_name(f"{key_file.name}.next").exists()
        if held != key_ids[-1]:
            key_ids.append(held)
        if made is None:
            request = {"entity_uri": "agent:x", "permissions": ["read", "write"], "allowed_sources": ["agent:"]}
            made = node.post("/v1/auth/keys", request).expect(201)["raw_key"]
        fact = own_fact(org, "agent:x", "company") | {"entity": f"{org.entity_uri}/{step}"}
        node.post("/v1/facts", fact, bearer=made).expect(201)
        if step == "never":
            break
        armed.touch()
        with pytest.raises((OSError, http.client.HTTPException)):
            node.post("/v1/admin/keys/rotate", {})
        assert node.process.wait(10) == -9
    assert len(key_ids) == 1 + len(STEPS) - 1
    kept = {path.name for path in key_file.parent.glob(f"{key_file.name}.*") if len(path.suffix) == 13}
    assert kept == {f"{key_file.name}.{key_id[:12]}" for key_id in key_ids[:-1]}
    node.stop()
    verified(org)


def test_nodes_killed_at_random_among_rotations_lose_neither_a_key_nor_a_fact(make_organisation, long_run):
    org = make_organisation("org-a", TRUST_MODE="relaxed")
    node, key_file, chance = org.node, org.key.private, random.Random(20)
    node.start()
    first = load_signer(key_file, None).key_id
    request = {"entity_uri": "agent:x", "permissions": ["read", "write"], "allowed_sources": ["agent:"]}
    made = node.post("/v1/auth/keys", request).expect(201)["raw_key"]
    written: list[str] = []
    for number in range(20 if long_run else 4):
        draft = own_fact(org, "agent:x", "company") | {"entity": f"{org.entity_uri}/{number}"}
        writing, rotating = Traffic(node, made, draft), [Rotating(node), Rotating(node)]
        for one in (writing, *rotating):
            one.start()
        writing.join(timeout=chance.uniform(0.05, 0.3))
        node.kill()
        for one in (writing, *rotating):
            one.join(timeout=20)
        assert [one.failure for one in (writing, *rotating) if one.failure] == []
        written += writing.written

        node.start()
        manifest = node.get("/.well-known/stigmem-manifest.json", bearer=None).expect(200)
        key_ids = [first, *(one["new_key_id"] for one in manifest["rotation_events"])]
        assert {key_id for one in rotating for key_id in one.made} <= set(key_ids)
        assert load_signer(key_file, None).key_id == manifest["key_id"] == key_ids[-1]
        beside = {path.name for path in key_file.parent.iterdir() if key_file.name in path.name}
        assert beside == {key_file.name, *(f"{key_file.name}.{key_id[:12]}" for key_id in key_ids[:-1])}
    assert set(written) <= ids_of(org, "agent:x")
    node.stop()
    verified(org)
