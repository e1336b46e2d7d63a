"""A publisher whose data folder is put back to an older copy: its peer waits, and once it goes another way has proof of it."""

import json
import shutil

import pytest

from tests.independent.verifier import read_log
from tests.scenarios.nodes import ADMIN_KEY, run_stigmem
from tests.scenarios.organisations import Organisation, federate, start_together


@pytest.fixture
def restored(make_organisation) -> tuple[Organisation, Organisation]:
    """Org B has read all of org A, which then went back to a copy from before its last five facts."""
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    org_a.assert_fact("item/kept", "here")
    org_b.pull(org_a)
    org_a.node.stop()
    copy = org_a.node.folder / "copy"
    shutil.copytree(org_a.node.data_dir, copy)
    org_a.node.start()
    for number in range(5):
        org_a.assert_fact(f"item/lost-{number}", "here")
    assert org_b.pull(org_a)["ingested"] == 5
    org_a.node.stop()
    shutil.rmtree(org_a.node.data_dir)
    copy.rename(org_a.node.data_dir)
    org_a.node.start()
    return org_a, org_b


def pull_path(org: Organisation, other: Organisation) -> str:
    return f"/v1/federation/peers/{org.peer(other)['peer_id']}/pull"


def test_an_older_copy_without_new_writes_is_behind_and_nothing_is_asked_of_it(restored):
    org_a, org_b = restored
    size = org_a.node.log_size()

    for _ in range(2):
        org_b.node.post(pull_path(org_b, org_a), {}).refused(503, "peer_behind")

    peer = org_b.peer(org_a)
    assert (peer["status"], peer["reason"], peer["fork"]) == ("active", "behind", None)
    assert "an older copy" in peer["last_error"]
    assert org_a.node.log_size() == size


def test_an_older_copy_that_goes_another_way_is_stopped_with_proof_until_an_admin_takes_its_line(restored):
    org_a, org_b = restored
    others = [org_a.assert_fact(f"item/other-{number}", "there") for number in range(12)]

    org_b.node.post(pull_path(org_b, org_a), {}).refused(409, "log_forked")

    peer = org_b.peer(org_a)
    assert (peer["status"], peer["reason"]) == ("revoked", "log_forked")
    org_a.node.post(pull_path(org_a, org_b), {}).refused(503, "peer_answer_invalid")
    org_b.node.restart()
    assert org_b.peer(org_a)["fork"] == peer["fork"]

    approve = f"/v1/federation/peers/{peer['peer_id']}/approve"
    org_b.node.post(approve, {}).refused(409, "log_forked")
    asked = {"URL": org_b.node.url, "API_KEY": ADMIN_KEY, "folder": org_b.node.folder}
    assert "revoked (log_forked)" in run_stigmem("peers", "list", **asked).stdout
    assert run_stigmem("peers", "approve", org_a.entity_uri, "--accept-checkpoint", **asked).returncode == 0
    approved = org_b.peer(org_a)
    assert (approved["status"], approved["reason"]) == ("active", None)
    org_b.pull(org_a)

    there = {fact["id"] for fact in org_b.node.facts() if "/item/" in fact["entity"]}
    assert there >= {fact["id"] for fact in others}
    org_b.node.stop()
    [fork] = [entry for entry in read_log(org_b.node.data_dir) if entry.header["type"] == "peer.log_forked.1"]
    kept = [json.loads(item.data) for item in fork.items.values()]
    assert peer["fork"] in [{"held": item.get("held"), "shown": item.get("shown")} for item in kept]
    org_b.node.verify_log()
