"""`stigmem facts batch` against a real node: what it takes, what it prints, how it ends."""

import json
from pathlib import Path

from tests.scenarios.nodes import ADMIN_KEY, RunningNode, run_stigmem


def stated(number: int, **fields: object) -> dict[str, object]:
    plain = {"entity": f"user:{number}", "relation": "memory:status", "source": "agent:x"}
    return plain | {"value": {"type": "string", "v": "green\u2028line"}} | fields


def batch(node: RunningNode, folder: Path, content: bytes, *arguments: str):
    file = folder / "facts"
    file.write_bytes(content)
    url = f"http://127.0.0.1:{node.port}"
    return run_stigmem("facts", "batch", str(file), *arguments, folder=folder, URL=url, API_KEY=ADMIN_KEY)


def test_the_facts_of_a_file_are_asserted_at_once(make_node, tmp_path: Path):
    node = make_node()
    node.start()
    lines = b"\n".join(json.dumps(stated(number), ensure_ascii=False).encode() for number in range(3)) + b"\n\n"

    first, again = [batch(node, tmp_path, lines, "--key", "import-1") for _ in range(2)]
    array = batch(node, tmp_path, json.dumps([stated(3), {}]).encode())
    atomic = batch(node, tmp_path, json.dumps([stated(4), {}]).encode(), "--atomic")
    odd = batch(node, tmp_path, lines + b"{not JSON}")
    missing = run_stigmem("facts", "batch", "nowhere", folder=tmp_path, API_KEY=ADMIN_KEY)

    assert (first.returncode, json.loads(first.stdout)["accepted"], again.stdout) == (0, 3, first.stdout)
    assert (array.returncode, json.loads(array.stdout)["rejected"]) == (1, 1)
    assert (atomic.returncode, atomic.stdout, json.loads(atomic.stderr)["error"]) == (1, "", "batch_refused")
    assert (odd.returncode, odd.stderr.count("\n"), "line 5" in odd.stderr) == (1, 1, True)
    assert (missing.returncode, missing.stderr) == (1, "stigmem: nowhere: cannot be read (No such file or directory)\n")
    assert len(node.facts()) == 4
    node.stop()
