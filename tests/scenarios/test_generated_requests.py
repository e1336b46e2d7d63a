"""Requests that schemathesis makes up from `/openapi.json`, sent to a real node: nothing it answers is a 5xx or undeclared.

Always: what it finds is printed with the request that shows it again. The seed is fixed; `make test-long` takes others too, more
examples, and its walk along the bounds of each schema for every credential.
Most names in paths are of things that are there, so that requests get past the question whether they are.

Does not speak as a peer: a peer token is good for one request. Makes up no names with a slash in them (tests/http has those).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenarios.nodes import ADMIN_KEY, RunningNode

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)
DEADLINE_S = 110
PROJECT = "stigmem://org-a.example/project"


@pytest.fixture
def stocked(make_node) -> tuple[RunningNode, dict[str, list[str]], str]:
    """A node with something of every kind, the names that go into paths, and a token that reads."""
    node = make_node(ENTITY_URI="stigmem://org-a.example", FEDERATION_ENABLED="true", FEDERATION_PUSH_ENABLED="true")
    node.start()
    facts = [_fact(node, value) for value in ("green", "red", "blue")]
    conflict = node.get("/v1/conflicts").expect(200)["conflicts"][0]["conflict_id"]
    gardens = [
        node.post("/v1/gardens", {"slug": slug, "name": slug, "scope": "team", "quarantine": slug == "pen"}).expect(201)
        for slug in ("shelf", "pen")
    ]
    peer = node.post(
        "/v1/federation/peers", {"peer_url": "http://127.0.0.1:9", "peer_entity_uri": "stigmem://org-b.example"}
    )
    token = node.post(
        "/v1/federation/capability-tokens",
        {
            "issuer": "stigmem://org-a.example",
            "subject": "stigmem://org-a.example/agent/reader",
            "verb": "read",
            "object": "*",
            "ttl_seconds": 3600,
        },
    ).expect(201)
    names = {
        "fact_id": [*(fact["id"] for fact in facts), facts[0]["cid"]],
        "conflict_id": [conflict],
        "garden": [name for garden in gardens for name in (garden["id"], garden["slug"])],
        "peer_id": [peer.expect(201)["peer_id"]],
        "token_id": [token["token_id"]],
        "asset": ["start.js", "swagger-ui.css"],
    }
    return node, names, token["token_json"]


@pytest.mark.parametrize("who", ["admin", "reader", "nobody"])
def test_no_request_gets_a_5xx_or_an_answer_that_is_not_declared(stocked, tmp_path: Path, long_run: bool, who: str):
    node, names, token = stocked
    config = _config(names, {"admin": ADMIN_KEY, "reader": token, "nobody": None}[who])
    phases = "examples,coverage,fuzzing" if long_run or who == "admin" else "fuzzing"

    for seed in range(1, 4 if long_run else 2):
        run = _schemathesis(node, config, tmp_path, phases=phases, seed=seed, examples=100 if long_run else 5)
        assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]

    assert node.get("/readyz", bearer=None).status == 200, node.said()


def _schemathesis(
    node: RunningNode, config: str, folder: Path, *, phases: str, seed: int, examples: int
) -> subprocess.CompletedProcess[str]:
    file = folder / "schemathesis.toml"
    file.write_text(config)
    arguments = ["--config-file", str(file), "run", f"{node.url}/openapi.json", "--no-color", "--warnings", "off"]
    arguments += ["--phases", phases, "--seed", str(seed), "--max-examples", str(examples)]
    arguments += ["--generation-database", "none", "--output-sanitize", "false"]
    return subprocess.run(
        [SCHEMATHESIS, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * (1 + examples // 10),
        check=False,
    )


def _config(names: dict[str, list[str]], bearer: str | None) -> str:
    """JSON strings are TOML strings too. A batch takes any fact and refuses each by itself, so none of its bodies is refused."""
    lines = ["[checks]", "enabled = false", *(f"{check}.enabled = true" for check in CHECKS)]
    lines += [] if bearer is None else ["[headers]", f"Authorization = {json.dumps(f'Bearer {bearer}')}"]
    for name, values in names.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines += ["[parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in names]
    lines += ["[[operations]]", 'include-path = "/v1/facts/batch"', "checks.negative_data_rejection.enabled = false"]
    return "\n".join(lines) + "\n"


def _fact(node: RunningNode, value: str) -> dict[str, object]:
    stated = {"type": "string", "v": value}
    body = {"entity": f"{PROJECT}/apollo", "relation": "memory:status", "value": stated, "source": f"agent:{value}"}
    return node.post("/v1/facts", body).expect(201)
