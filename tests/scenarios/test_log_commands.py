"""`stigmem log` at a real node: what it hands out still proves itself when the node and its folder are gone.

What is said of one folder or one file alone is in tests/replay/test_log_commands.py.
"""

import base64
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.replay.folders import REPOSITORY, Result
from tests.replay.log_command import run_log
from tests.scenarios.nodes import ADMIN_KEY, STIGMEM, eventually
from tests.scenarios.organisations import Organisation, await_first_pulls, federate, start_together


@pytest.fixture
def org(make_organisation) -> Organisation:
    organisation = make_organisation("org-a")
    organisation.node.start()
    organisation.publish()
    return organisation


def log(org: Organisation, *arguments: object, code: int = 0, bearer: str | None = None) -> Result:
    done = run_log(*arguments, url=org.node.url, bearer=bearer)
    assert done.code == code, done
    return done


def folder_of(org: Organisation) -> tuple[object, ...]:
    return ("--data-dir", org.node.data_dir, "--sign-with", org.key.private)


def key_of(org: Organisation) -> tuple[str, str]:
    return ("--public-key", org.key.raw_public.hex())


def fetch(org: Organisation, path: str, to: Path) -> bytes:
    to.write_bytes(org.node.get(path, bearer=None).body)
    return to.read_bytes()


def verify(*arguments: object, code: int = 0) -> str:
    done = run_log("verify", *arguments)
    assert done.code == code, done
    return done.stdout if code == 0 else done.stderr


def verify_in_nothing(folder: Path, *arguments: str) -> str:
    """`stigmem log verify` as its own process, in an empty environment and a folder that holds the file and nothing else."""
    command = [STIGMEM, "log", "verify", *arguments]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def verify_independently(file: Path, public_key: bytes) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.independent.bundles", str(file), public_key.hex()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_a_bundle_outlives_node_and_folder_and_needs_nothing_but_the_public_key(org, tmp_path):
    value = "bell \u0007 and \u202e turned"
    fact = org.assert_fact("project/atlas", value)
    for number in range(5):
        org.assert_fact(f"project/{number}", "more")
    alone, key = tmp_path / "alone", org.key.raw_public
    alone.mkdir()
    log(org, "proof", fact["id"], *folder_of(org), "--consistency-from", "2", "--out", alone / "fact")
    log(org, "proof", "0", "--consistency-from", "3", "--out", alone / "leaf")
    fetch(org, "/.well-known/stigmem-manifest-proof.json", alone / "log-entry")
    fetch(org, "/.well-known/stigmem-manifest.json", alone / "manifest")
    org.node.kill()
    shutil.rmtree(org.node.folder)

    said = verify_in_nothing(alone, "fact", "--public-key", key.hex())
    shown = json.loads(said.splitlines()[-1].removeprefix("fact: "))
    assert (shown["id"], shown["value"]["v"]) == (fact["id"], value)
    assert said.isascii() and "\u0007" not in said
    assert "checkpoint of org-a.example/stigmem-log" in said and "goes on from 2 entries" in said
    assert verify_independently(alone / "fact", key)["item"] == shown
    assert "its entry is not in the bundle" in verify(alone / "leaf", "--public-key", key.hex())
    assert '"entity_uri": "stigmem://org-a.example"' in verify(alone / "log-entry", "--manifest", alone / "manifest")


def test_the_head_that_the_node_shows_is_that_of_its_folder(org, tmp_path):
    online, offline = log(org, "head").stdout, log(org, "head", *folder_of(org)).stdout
    unsigned = log(org, "head", "--data-dir", org.node.data_dir).stdout
    note = fetch(org, "/v1/log/checkpoint", tmp_path / "note").decode()
    size, root, key = (line.split(" ")[1] for line in online.splitlines()[:3])

    assert online == offline == f"size {size}\nroot {root}\nkey {key}\n\n{note}"
    assert unsigned == f"size {size}\nroot {root}\nkey {key}\n"
    expected = f"holds: checkpoint of org-a.example/stigmem-log, {size} entries, root {root}\n"
    assert verify(tmp_path / "note", "--public-key", key) == expected


def test_a_checkpoint_that_the_node_gave_out_proves_a_fact_from_the_folder_without_the_key(org, tmp_path):
    fact = org.assert_fact("project/atlas", "here")
    note = fetch(org, "/v1/log/checkpoint", tmp_path / "note").decode()
    org.assert_fact("project/later", "here")
    folder = ("--data-dir", org.node.data_dir)

    bundle = json.loads(log(org, "proof", fact["id"], *folder, "--checkpoint", tmp_path / "note").stdout)

    assert bundle["checkpoint"] == note
    assert "a proof needs a signed checkpoint" in log(org, "proof", fact["id"], *folder, code=2).stderr
    assert "no items of its log" in log(org, "proof", fact["id"], code=2).stderr
    assert "proof_out_of_range" in log(org, "proof", "99999", code=2).stderr


def test_a_checkpoint_that_somebody_kept_is_compared_with_a_later_one(org, tmp_path):
    first, later, proof = (tmp_path / name for name in ("first", "later", "proof"))
    size = int(fetch(org, "/v1/log/checkpoint", first).split(b"\n")[1])
    for number in range(3):
        org.assert_fact(f"project/{number}", "here")
    grown = int(fetch(org, "/v1/log/checkpoint", later).split(b"\n")[1])
    fetch(org, f"/v1/log/proof/consistency?from={size}&to={grown}", proof)
    log(org, "proof", "0", "--size", grown, "--consistency-from", size, "--out", tmp_path / "bundle")

    expected = f"holds: the log of {grown} entries goes on from that of {size}"
    for newer, older in ((later, first), (first, later)):
        assert expected in verify(newer, "--checkpoint", older, "--consistency", proof, *key_of(org))
    assert expected in verify(tmp_path / "bundle", "--checkpoint", first, *key_of(org))
    assert "is at hand" in verify(later, "--checkpoint", first, *key_of(org), code=6)
    spoilt = json.loads(proof.read_bytes())
    spoilt["hashes"][0] = "00" * 32
    proof.write_text(json.dumps(spoilt))
    refused = verify(later, "--checkpoint", first, "--consistency", proof, *key_of(org), code=6)
    assert "nothing proves that" in refused


def test_a_cosigned_checkpoint_is_preferred_and_its_witness_can_be_asked_for(make_organisation, tmp_path):
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    federate(org_a, org_b)
    await_first_pulls(org_a, org_b)
    fact = org_a.assert_fact("project/atlas", "here")
    org_b.pull(org_a)

    def lines_of_note() -> list[str]:
        log(org_a, "proof", fact["id"], *folder_of(org_a), "--out", tmp_path / "offline")
        return json.loads((tmp_path / "offline").read_bytes())["checkpoint"].splitlines()

    eventually(lines_of_note, lambda lines: len(lines) == 6, within_s=10, what="a checkpoint over the fact is cosigned")
    offset = json.loads((tmp_path / "offline").read_bytes())["log_index"]
    log(org_a, "proof", offset, "--out", tmp_path / "online")

    witness, stranger = (witness_key("org-b.example", org.key.raw_public) for org in (org_b, org_a))
    for file in ("offline", "online"):
        said = verify(tmp_path / file, *key_of(org_a), "--witness", witness)
        assert "holds: cosigned by org-b.example at 20" in said
        refused = verify(tmp_path / file, *key_of(org_a), "--witness", stranger, code=6)
        assert refused == "stigmem: witness org-b.example: the note carries no valid signature by that key\n"
    for source in ((), ("--data-dir", org_a.node.data_dir)):
        assert "\u2014 org-b.example " in log(org_a, "head", *source).stdout


def test_tail_shows_what_happens_and_follows_what_happens_next(org):
    fact = org.assert_fact("project/atlas", "here")
    offline = log(org, "tail", "-n", "2", "--data-dir", org.node.data_dir).stdout.splitlines()
    online = log(org, "tail", "-n", "2", bearer=ADMIN_KEY).stdout.splitlines()
    assert [line.split("  ")[:5] for line in offline] == [line.split("  ")[:5] for line in online]
    assert all(fact["id"] in lines[-1] and "fact.asserted.1" in lines[-1] for lines in (offline, online))
    assert "STIGMEM_API_KEY" in log(org, "tail", code=2).stderr
    assert "invalid_credentials: " in log(org, "tail", code=2, bearer="another-key").stderr

    shown = org.node.folder / "followed"
    environment = {"STIGMEM_URL": org.node.url, "STIGMEM_API_KEY": ADMIN_KEY}
    with shown.open("wb") as output:
        following = subprocess.Popen([STIGMEM, "log", "tail", "-n", "1", "-f"], env=environment, stdout=output)
    try:
        eventually(lambda: fact["id"] in shown.read_text(), within_s=20, what="the newest entry is shown")
        later = org.assert_fact("project/later", "here")
        eventually(lambda: later["id"] in shown.read_text(), within_s=20, what="the next entry is shown")
    finally:
        following.kill()
        following.wait(10)
    assert len(shown.read_text().splitlines()) == 2


def witness_key(name: str, public_key: bytes) -> str:
    raw = b"\x04" + public_key
    key_hash = sha256(f"{name}\n".encode() + raw).digest()[:4]
    return f"{name}+{key_hash.hex()}+{base64.b64encode(raw).decode()}"
