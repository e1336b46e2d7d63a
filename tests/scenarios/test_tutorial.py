"""The tutorial, run by the script of `make demo`; what each step promises is read from the answers that it kept."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.nodes import environment, eventually, free_port, run_stigmem
from tests.scenarios.organisations import AUTO_QUARANTINE, KeyPair, from_base64url

TUTORIAL = Path(__file__).parents[2] / "demo" / "tutorial.sh"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TUTORIAL_DEADLINE_S = 90


def run_tutorial(work: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    ports = {"PORT_A": str(free_port()), "PORT_B": str(free_port())}
    surroundings = {"WORK": str(work), "VENV": str(Path(sys.executable).parents[1])}
    return subprocess.run(
        ["bash", TUTORIAL, *arguments],
        env=environment({}) | surroundings | ports | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TUTORIAL_DEADLINE_S,
        check=False,
    )


class Walk:
    """One finished run of the tutorial: what it printed and the answer to each command."""

    def __init__(self, work: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.work, self.done = work, done

    def text(self, name: str) -> str:
        return (self.work / "answers" / name).read_text()

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))

    @property
    def garden_id(self) -> str:
        return self.text("04-garden.txt").strip().removeprefix("QUARANTINE_ID=")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    work = tmp_path_factory.mktemp("tutorial") / "run"
    done = run_tutorial(work)
    assert done.returncode == 0, f"the tutorial failed:\n{done.stdout[-3000:]}\n{done.stderr}"
    return Walk(work, done)


def test_the_version_is_printed_as_the_tutorial_prints_it(walk):
    assert walk.text("00-version.txt") == "stigmem-node 1.1.0\n"


def test_every_step_of_the_tutorial_is_shown(walk):
    assert re.findall(r"^== Step (\d)", walk.done.stdout, re.MULTILINE) == list("123456789")


@pytest.mark.parametrize("org", ["a", "b"])
def test_discovery_names_the_node_by_its_entity_and_key(walk, org):
    discovery = walk.json(f"02-discovery-{org}.json")

    key = KeyPair(walk.work / f"stigmem-org-{org}" / "signing.key", walk.work / f"stigmem-org-{org}" / "signing.pub")
    assert discovery["node_id"] == f"stigmem://org-{org}.example"
    assert from_base64url(discovery["federation_pubkey"]) == key.raw_public
    assert discovery["federation"] == "enabled"


@pytest.mark.parametrize("org", ["a", "b"])
def test_the_data_folder_appears_in_the_current_one_and_its_log_proves_itself(walk, org):
    folder = walk.work / f"stigmem-org-{org}"

    done = run_stigmem("replay", "verify", "--data-dir", "stigmem-data", folder=folder)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"head [1-9]\d*:[0-9a-f]{64}", done.stdout.splitlines()[-1])


@pytest.mark.parametrize("org", ["a", "b"])
def test_the_six_settings_of_the_tutorial_are_all_known(walk, org):
    assert "STIGMEM_" not in (walk.work / f"org-{org}.log").read_text()


@pytest.mark.parametrize("org", ["a", "b"])
def test_publishing_a_manifest_answers_with_seven_members_and_the_proof_last(walk, org):
    answer = walk.json(f"03-manifest-{org}.json")

    assert list(answer) == [
        "manifest_id",
        "entity_uri",
        "key_id",
        "issued_at",
        "expires_at",
        "log_entry_url",
        "log_entry",
    ]
    assert answer["entity_uri"] == f"stigmem://org-{org}.example"


@pytest.mark.parametrize(("org", "other"), [("a", "b"), ("b", "a")])
def test_both_nodes_end_up_as_active_peers_of_each_other(walk, org, other):
    registered, peers = walk.json(f"03-register-{other}.json"), walk.json(f"03-peers-{org}.json")["peers"]

    assert list(registered)[:6] == ["peer_id", "node_id", "node_url", "status", "allowed_scopes", "verified_at"]
    assert registered["status"] in {"active", "pending_verification"}
    assert registered["allowed_scopes"] == ["public"]
    assert [(peer["node_id"], peer["status"]) for peer in peers] == [(f"stigmem://org-{other}.example", "active")]


def test_the_quarantine_garden_is_designated_by_its_id(walk):
    assert UUID.fullmatch(walk.garden_id)
    assert walk.json("04-config.json")["quarantine_garden_id"] == walk.garden_id


def test_the_token_comes_with_all_its_fields_and_as_one_line_of_text(walk):
    token = walk.json("05-token.json")

    assert isinstance(token["token_json"], str)
    assert "\n" not in token["token_json"]
    assert json.loads(token["token_json"]) == {name: token[name] for name in json.loads(token["token_json"])}
    assert token["issuer"] == "stigmem://org-a.example"
    assert token["subject"] == "stigmem://org-b.example/agent/bot"
    assert re.fullmatch(r"[0-9a-f]{64}", token["nonce"])


def test_a_token_that_holds_verifies_as_valid_and_nothing_else(walk):
    assert walk.json("05-verify.json") == {"valid": True}


def test_the_answer_to_a_held_write_begins_with_the_four_members_of_the_tutorial(walk):
    answer = walk.json("06-write.json")

    assert list(answer)[:4] == ["fact_id", "quarantine_status", "quarantine_garden_id", "quarantine_reason"]
    assert UUID.fullmatch(answer["fact_id"])
    assert answer["quarantine_status"] == "pending"
    assert answer["quarantine_garden_id"] == walk.garden_id
    assert answer["quarantine_reason"] == AUTO_QUARANTINE
    assert answer["id"] == answer["fact_id"]


def test_a_held_fact_is_in_no_ordinary_listing_but_in_the_list_of_pending_ones(walk):
    fact_id = walk.json("06-write.json")["fact_id"]

    assert walk.json("06-listing.json")["facts"] == []
    assert walk.json("06-listing.json")["total"] == 0
    assert [item["fact_id"] for item in walk.json("06-pending.json")["items"]] == [fact_id]


def test_promoting_answers_who_admitted_the_fact_and_when(walk):
    answer = walk.json("07-promote.json")

    assert list(answer) == ["fact_id", "promoted_at", "promoted_by", "target_garden_id"]
    assert answer["promoted_by"] == "stigmem://org-a.example"
    assert answer["target_garden_id"] is None


def test_an_admitted_fact_is_in_the_ordinary_listing(walk):
    fact_id = walk.json("06-write.json")["fact_id"]

    assert [fact["id"] for fact in walk.json("07-listing.json")["facts"]] == [fact_id]


def test_the_provenance_of_the_admitted_fact_has_the_nine_members_of_the_tutorial(walk):
    provenance = walk.json("08-provenance.json")

    assert provenance == {
        "fact_id": walk.json("06-write.json")["fact_id"],
        "entity": "stigmem://org-a.example/project/atlas",
        "relation": "memory:status",
        "value": {"type": "string", "v": "active"},
        "source": "stigmem://org-b.example/agent/bot",
        "source_trust": 0.15,
        "derived_from": [],
        "attestation_chain": provenance["attestation_chain"],
        "quarantine_status": "promoted",
    }
    assert len(provenance["attestation_chain"]) == 1


def test_the_attestation_is_a_signature_of_org_b_and_of_nobody_else_over_the_fact_body(walk, tmp_path):
    signature = from_base64url(walk.json("08-provenance.json")["attestation_chain"][0])
    body = (walk.work / "answers" / "08-body.json").read_bytes()
    org_a, org_b = (walk.work / f"stigmem-org-{org}" for org in "ab")

    assert KeyPair(org_b / "signing.key", org_b / "signing.pub").verifies(body, signature)
    assert not KeyPair(org_b / "signing.key", org_b / "signing.pub").verifies(body + b" ", signature)
    assert not KeyPair(org_a / "signing.key", org_a / "signing.pub").verifies(body, signature)


def test_the_fact_body_is_canonical_json_of_exactly_seven_members(walk):
    body = walk.text("08-body.json")
    written = walk.json("06-write.json")

    assert list(json.loads(body)) == ["confidence", "entity", "relation", "scope", "source", "ts", "value"]
    assert json.dumps(json.loads(body), separators=(",", ":"), sort_keys=True) == body
    assert json.loads(body)["ts"] == written["timestamp"]


def test_a_revoked_token_verifies_as_revoked_and_writes_nothing(walk):
    assert list(walk.json("09-revoke.json")) == ["token_id", "revoked_at", "status"]
    assert walk.json("09-verify.json") == {"valid": False, "reason": "revoked"}
    assert (walk.json("09-write.json")["http_status"], walk.json("09-write.json")["error"]) == (403, "token_revoked")
    assert [fact["id"] for fact in walk.json("09-listing.json")["facts"]] == [walk.json("06-write.json")["fact_id"]]


@pytest.fixture
def kept(tmp_path) -> Iterator[tuple[Path, subprocess.CompletedProcess[str], list[int]]]:
    ports = [free_port(), free_port()]
    work = tmp_path / "kept"
    done = run_tutorial(work, "--keep", PORT_A=str(ports[0]), PORT_B=str(ports[1]))
    yield work, done, ports
    for pid_file in work.glob("*.pid"):
        if answers(ports[0]) or answers(ports[1]):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_with_keep_both_nodes_stay_up_until_they_are_stopped_as_the_script_says(kept):
    work, done, ports = kept
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr

    told = re.search(r"^    kill (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert [answers(port) for port in ports] == [True, True]
    assert [int((work / f"org-{org}.pid").read_text()) for org in "ab"] == [int(told[1]), int(told[2])]
    for pid in told.groups():
        os.kill(int(pid), signal.SIGTERM)
    eventually(lambda: not any(answers(port) for port in ports), within_s=10, what="both nodes are stopped")


def test_a_busy_port_is_said_plainly_before_anything_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run_tutorial(tmp_path / "run", PORT_A=str(port))

    assert done.returncode == 1
    assert f"port {port} is busy" in done.stderr
    assert not (tmp_path / "run").exists()
