"""`stigmem tombstones` against a real node, and what is left of its log for whoever checks it."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.scenarios.asked import ask, said
from tests.scenarios.nodes import RunningNode, run_stigmem

NODE_ID = "stigmem://org-a.example"
ALICE = f"{NODE_ID}/user/alice"
WORDS = "planted words of a numbat"


def tombstones(node: RunningNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask(node, "tombstones", *arguments)


def write(node: RunningNode, entity: str) -> None:
    fact = {
        "entity": entity,
        "relation": "memory:note",
        "value": {"type": "text", "v": WORDS},
        "source": f"{NODE_ID}/a",
    }
    node.post("/v1/facts", fact).expect(201)


def snapshot(node: RunningNode, number: int, *since: Path) -> Path:
    path = node.folder / f"{number}.snapshot"
    told = ["--since", *map(str, since)] if since else []
    said(
        run_stigmem(
            "snapshot", "create", "--data-dir", str(node.data_dir), "--out", str(path), *told, folder=node.folder
        )
    )
    return path


def files_with_words(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and WORDS.encode() in path.read_bytes()]


def test_an_entity_is_removed_from_the_command_line_and_the_log_still_verifies(node: RunningNode):
    write(node, ALICE)
    held = json.loads(said(tombstones(node, "add", ALICE, "--legal-hold", "--reason", "a case", "--json")))
    assert (held["status"], held["held"]) == ("hidden", True) and files_with_words(node.folder)
    heading, listed = said(tombstones(node, "list")).splitlines()
    assert heading.split() == ["ENTITY", "SCOPE", "STATUS", "SINCE", "ID"]
    assert listed.split()[:3] == [ALICE, "*", "hidden"]

    lifted = said(tombstones(node, "lift-hold", held["id"], "--reason", "the case is closed"))

    assert lifted == f"{ALICE} in scope *: erased, 1 items erased ({held['id']})\n"
    assert files_with_words(node.folder) == []
    again = tombstones(node, "add", ALICE)
    assert again.returncode == 1 and "entity_tombstoned" in again.stderr
    assert said(tombstones(node, "revoke", held["id"])).startswith(f"{ALICE} in scope *: revoked")
    assert said(tombstones(node, "list", "--peers")).split() == ["ENTITY", "SCOPE", "PEER", "HIDDEN", "LEFT", "REVOKED"]
    bob = {
        "entity": f"{NODE_ID}/user/bob",
        "relation": "memory:note",
        "value": {"type": "null"},
        "source": f"{NODE_ID}/a",
    }
    node.post("/v1/facts", bob).expect(201)
    node.stop()
    folder, snapshot = str(node.data_dir), str(node.folder / "one.snapshot")
    for command in (
        ["snapshot", "create", "--out", snapshot],
        ["replay", "verify"],
        ["replay", "rebuild"],
        ["replay", "audit"],
    ):
        done = run_stigmem(*command, "--data-dir", folder, folder=node.folder, timeout_s=60)
        assert done.returncode == 0, done
    assert run_stigmem("snapshot", "verify", snapshot, folder=node.folder, timeout_s=60).returncode == 0
    assert files_with_words(node.folder) == []
    node.start()
    assert [fact["entity"] for fact in node.facts()] == [f"{NODE_ID}/user/bob"]


def test_what_was_erased_between_two_snapshots_is_in_no_file_once_both_are_restored_and_the_node_has_started(
    node: RunningNode, tmp_path: Path
):
    write(node, ALICE)
    full = snapshot(node, 1)
    said(tombstones(node, "add", ALICE))
    later = snapshot(node, 2, full)
    other = RunningNode(tmp_path / "other", ENTITY_URI=NODE_ID)
    done = run_stigmem(
        "snapshot", "restore", str(full), str(later), "--data-dir", str(other.data_dir), folder=other.folder
    )
    assert done.returncode == 0 and files_with_words(other.data_dir), done
    shutil.copy(node.data_dir / "node.key", other.data_dir)

    other.start().stop()

    assert files_with_words(other.data_dir) == []
