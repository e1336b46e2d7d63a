"""Snapshots of real nodes: made under load, restored elsewhere, and what the restored node is to its peers and callers."""

import json
import shutil
from pathlib import Path

import pytest

from tests.independent.verifier import read_log
from tests.scenarios.nodes import ADMIN_KEY, RunningNode, free_port, run_stigmem
from tests.scenarios.organisations import Organisation, federate, start_together
from tests.scenarios.test_kill import Writer, independently_verified


def create(node: RunningNode, *more: str) -> Path:
    command = ("snapshot", "create", "--data-dir", str(node.data_dir), "--dir", ".", *more)
    done = run_stigmem(*command, folder=node.folder, **node.settings)
    assert (done.returncode, done.stderr) == (0, ""), done
    return node.folder / done.stdout.splitlines()[0]


def restore(node: RunningNode, *files: Path) -> None:
    """Restore into the node's folder, which keeps the key, where one lies there, and nothing else."""
    for path in node.data_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    command = ("snapshot", "restore", "--data-dir", str(node.data_dir), *map(str, files))
    done = run_stigmem(*command, folder=node.folder)
    assert (done.returncode, done.stderr) == (0, ""), done


def types_in(data_dir: Path) -> list[str]:
    return [entry.header["type"] for entry in read_log(data_dir)]


def refused(folder: Path, **settings: str) -> str:
    """`stigmem serve` that does not start; the line that says why."""
    done = run_stigmem("serve", folder=folder, timeout_s=30, **settings)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr.splitlines()[-1]


class Writing:
    """Four callers that write until they are told to stop."""

    def __init__(self, node: RunningNode) -> None:
        self._writers = [Writer(node, f"under-load-{number}") for number in range(4)]

    def __enter__(self) -> "Writing":
        for writer in self._writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.stop.set()
        for writer in self._writers:
            writer.join(timeout=20)
        assert [writer.failure for writer in self._writers] == [None] * 4

    def answered(self) -> set[str]:
        return {fact_id for writer in self._writers for fact_id in list(writer.answered.values())}


def test_a_snapshot_made_under_load_holds_what_was_answered_before_it_and_starts_elsewhere(make_node):
    node = make_node("one", ENTITY_URI="stigmem://org-a.example").start()
    with Writing(node) as writing:
        full = create(node)
        before = writing.answered()
        tail = create(node, "--since", str(full))
        facts = writing.answered()
    node.stop()
    assert before < facts, "nothing was written between the two"
    other = make_node("other", ENTITY_URI="stigmem://org-a.example")
    other.data_dir.mkdir()
    shutil.copy(node.data_dir / "node.key", other.data_dir)

    restore(other, full, tail)
    other.start()

    held, log = {fact["id"] for fact in other.facts()}, types_in(other.data_dir)
    other.stop()
    assert before <= held
    restored_at = log.index("node.restored.1")
    assert types_in(node.data_dir)[:restored_at] == log[:restored_at]
    assert other.verify_log().startswith("head ")
    independently_verified(other.data_dir)


def test_a_restored_node_killed_before_it_served_says_once_that_it_was_restored(make_node):
    node = make_node().start()
    node.stop()
    restore(node, create(node))

    for _ in range(3):
        node.launch()
        node.kill()
    node.start()
    node.restart()

    assert types_in(node.data_dir).count("node.restored.1") == 1


def test_tokens_of_a_restored_node_sleep_until_its_admin_confirms(make_organisation):
    org_a, org_b = (make_organisation(name, TRUST_MODE="relaxed") for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    token = org_a.issue_token(org_b.bot)
    fact = org_a.fact("project/atlas", "active", scope="company") | {"source": org_b.bot}
    org_a.node.stop()
    restore(org_a.node, create(org_a.node))
    org_a.node.start()
    asked = {"URL": org_a.node.url, "API_KEY": ADMIN_KEY, "folder": org_a.node.folder}

    org_a.node.post("/v1/facts", fact, token["token_json"]).refused(403, "token_asleep")
    confirmed = run_stigmem("restore", "confirm", **asked)
    again = run_stigmem("restore", "confirm", **asked)

    assert (confirmed.returncode, json.loads(confirmed.stdout)["status"]) == (0, "confirmed")
    assert (again.returncode, "nothing_to_confirm" in again.stderr) == (1, True)
    assert org_a.node.post("/v1/facts", fact, token["token_json"]).status == 201


@pytest.fixture
def lost_tail(make_organisation) -> tuple[Organisation, Organisation]:
    """Org B has read all of org A, which then was restored from a snapshot of before its last five facts."""
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    org_a.assert_fact("item/kept", "here")
    org_b.pull(org_a)
    snapshot = create(org_a.node)
    for number in range(5):
        org_a.assert_fact(f"item/lost-{number}", "here")
    assert org_b.pull(org_a)["ingested"] == 5
    org_a.node.stop()
    restore(org_a.node, snapshot)
    org_a.node.start()
    return org_a, org_b


def test_a_peer_takes_a_restored_log_for_no_fork_and_its_facts_for_news(lost_tail):
    org_a, org_b = lost_tail
    others = [org_a.assert_fact(f"item/other-{number}", "there") for number in range(12)]

    org_b.pull(org_a)

    peer = org_b.peer(org_a)
    assert (peer["status"], peer["reason"], peer["fork"]) == ("active", "unproven", None)
    assert {fact["id"] for fact in org_b.node.facts()} >= {fact["id"] for fact in others}
    asked = {"URL": org_b.node.url, "API_KEY": ADMIN_KEY, "folder": org_b.node.folder}
    assert run_stigmem("peers", "approve", org_a.entity_uri, "--accept-checkpoint", **asked).returncode == 0
    org_b.pull(org_a)
    assert (org_b.peer(org_a)["status"], org_b.peer(org_a)["reason"]) == ("active", None)


def test_a_node_with_an_empty_folder_begins_from_a_snapshot_and_later_leaves_it_unread(make_node):
    first = make_node("first").start()
    first.post(
        "/v1/facts", {"entity": "a:b", "relation": "memory:x", "value": {"type": "null"}, "source": "agent:a"}
    ).expect(201)
    snapshot, key = create(first), first.data_dir / "node.key"
    second = make_node("second", FROM_SNAPSHOT=str(snapshot), NODE_PRIVATE_KEY_FILE=str(key)).start()
    assert [fact["entity"] for fact in second.facts()] == ["a:b"]
    second.post(
        "/v1/facts", {"entity": "a:c", "relation": "memory:x", "value": {"type": "null"}, "source": "agent:a"}
    ).expect(201)
    second.kill()
    snapshot.unlink()

    second.start()

    assert sorted(fact["entity"] for fact in second.facts()) == ["a:b", "a:c"]
    assert types_in(second.data_dir).count("node.restored.1") == 1


def test_a_node_that_cannot_begin_from_its_snapshot_does_not_begin_at_all(make_node, tmp_path: Path):
    first, stranger = make_node("first").start(), make_node("stranger").start()
    snapshot, folder = create(first), tmp_path / "new"
    folder.mkdir()
    start = {"PORT": str(free_port()), "ADMIN_KEY": ADMIN_KEY, "FROM_SNAPSHOT": str(snapshot)}
    own, foreign = (str(node.data_dir / "node.key") for node in (first, stranger))

    assert "key is not in a snapshot" in refused(folder, **start)
    assert "no key that was named" in refused(folder, **start, NODE_PRIVATE_KEY_FILE=foreign)
    gone = start | {"FROM_SNAPSHOT": str(tmp_path / "gone")}
    assert "gone" in refused(folder, **gone, NODE_PRIVATE_KEY_FILE=own)
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(snapshot.read_bytes()[:-1])
    damaged = start | {"FROM_SNAPSHOT": str(spoilt)}
    assert "STIGMEM_FROM_SNAPSHOT" in refused(folder, **damaged, NODE_PRIVATE_KEY_FILE=own)
    assert list(folder.iterdir()) == []


def test_a_node_does_not_start_beside_an_interrupted_restore(make_node):
    node = make_node()
    (node.data_dir / "log.partial").mkdir(parents=True)

    said = refused(node.folder, PORT=str(node.port), ADMIN_KEY=ADMIN_KEY)

    assert "log.partial" in said
    assert [path.name for path in node.data_dir.iterdir()] == ["log.partial"]
