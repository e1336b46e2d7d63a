"""Requests that schemathesis makes up from `/openapi.json`, sent to a real node: nothing it answers is a 5xx or undeclared.

Always: what it finds is printed with the request that shows it again. The seed is fixed; `make test-long` takes others too, more
examples, an API key and a capability token, and its walk along the bounds of each schema for all of them.
Most names in paths are of things that are there, so that requests get past the question whether they are.

Makes up no names with a slash in them (tests/http has those).
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from node.http.app import ROUTES
from node.http.describe import PEER, description_of
from tests.scenarios.nodes import ADMIN_KEY, RunningNode
from tests.scenarios.organisations import federate, start_together

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
)
ROOT = Path(__file__).parents[2]
OF_PEERS = [route.path for route in ROUTES if description_of(route).who == PEER]
DEADLINE_S = 110
LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
ORG = "stigmem://org-a.example"


@pytest.fixture
def stocked(make_node) -> tuple[RunningNode, dict[str, list[str]], dict[str, str | None]]:
    """A node with something of every kind, the names that go into paths, and who asks with which bearer."""
    node = make_node(ENTITY_URI=ORG, FEDERATION_ENABLED="true", FEDERATION_PUSH_ENABLED="true")
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
            "issuer": ORG,
            "subject": f"{ORG}/agent/reader",
            "verb": "read",
            "object": "*",
            "ttl_seconds": 3600,
        },
    ).expect(201)
    key = node.post("/v1/auth/keys", {"entity_uri": f"{ORG}/agent/scribe", "permissions": ["read", "write"]}).expect(
        201
    )
    for garden in gardens:
        member = {"entity_uri": f"{ORG}/agent/scribe", "role": "admin"}
        node.post(f"/v1/gardens/{garden['id']}/members", member).expect(201)
    names = {
        "fact_id": [*(fact["id"] for fact in facts), facts[0]["cid"]],
        "conflict_id": [conflict],
        "garden": [name for garden in gardens for name in (garden["id"], garden["slug"])],
        "peer_id": [peer.expect(201)["peer_id"]],
        "token_id": [token["token_id"]],
        "key_id": [key["key_id"]],
        "asset": ["start.js", "swagger-ui.css"],
    }
    bearers = {"admin": ADMIN_KEY, "key": key["raw_key"], "token": token["token_json"], "nobody": None}
    return node, names, bearers


@pytest.mark.parametrize("who", ["admin", "nobody", *(["key", "token"] if LONG else [])])
def test_no_request_gets_a_5xx_or_an_answer_that_is_not_declared(stocked, tmp_path: Path, who: str):
    node, names, bearers = stocked
    config = _config(names, bearers[who])
    phases = "examples,coverage,fuzzing" if LONG or who == "admin" else "fuzzing"

    for seed in range(1, 4 if LONG else 2):
        run = _schemathesis(node, config, tmp_path, phases=phases, seed=seed, examples=100 if LONG else 3)
        assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]

    assert node.get("/readyz", bearer=None).status == 200, node.said()


def test_no_request_of_a_peer_gets_a_5xx_or_an_answer_that_is_not_declared(make_organisation, tmp_path: Path):
    """What comes from other organisations, each request under a token that holds."""
    org_a, org_b = make_organisation("org-a", FEDERATION_PUSH_ENABLED="true"), make_organisation("org-b")
    start_together(org_a, org_b)
    federate(org_a, org_b)
    org_a.assert_fact("project/apollo", "green")
    peer = {"PEER_KEY_FILE": str(org_b.key.private), "PEER_ISSUER": org_b.entity_uri, "PEER_AUDIENCE": org_a.entity_uri}

    # The hook gives every request a token, those too that are to have none.
    checks = [check for check in CHECKS if check != "missing_required_header"]
    config = 'hooks = "tests.scenarios.as_a_peer"\n' + _config({}, None, checks)
    selected = f"^({'|'.join(OF_PEERS)})$"
    run = _schemathesis(
        org_a.node,
        config,
        tmp_path,
        *("--include-path-regex", selected),
        phases="coverage,fuzzing",
        seed=1,
        examples=300 if LONG else 10,
        **peer,
    )

    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    audit = org_a.node.get("/v1/federation/audit?limit=500").expect(200)
    assert not [line for line in audit["events"] if line["event_type"] == "replay_attempt"]
    assert org_a.node.get("/readyz", bearer=None).status == 200, org_a.node.said()


def _schemathesis(
    node: RunningNode, config: str, folder: Path, *more: str, phases: str, seed: int, examples: int, **environ: str
) -> subprocess.CompletedProcess[str]:
    file = folder / "schemathesis.toml"
    file.write_text(config)
    arguments = ["--config-file", str(file), "run", f"{node.url}/openapi.json", "--no-color", "--warnings", "off"]
    arguments += ["--phases", phases, "--seed", str(seed), "--max-examples", str(examples)]
    arguments += ["--generation-database", "none", "--output-sanitize", "false", *more]
    return subprocess.run(
        [SCHEMATHESIS, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * (1 + examples // 10),
        check=False,
    )


def _config(names: dict[str, list[str]], bearer: str | None, checks: Sequence[str] = CHECKS) -> str:
    """JSON strings are TOML strings too. A batch takes any fact and refuses each by itself, so none of its bodies is refused."""
    lines = ["[checks]", "enabled = false", *(f"{check}.enabled = true" for check in checks)]
    # Methods that a route does not take are tried at every route in tests/http.
    lines += ["[phases.coverage]", "unexpected-methods = []"]
    lines += [] if bearer is None else ["[headers]", f"Authorization = {json.dumps(f'Bearer {bearer}')}"]
    for name, values in names.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines += ["[parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in names]
    lines += ["[[operations]]", 'include-path = "/v1/facts/batch"', "checks.negative_data_rejection.enabled = false"]
    return "\n".join(lines) + "\n"


def _fact(node: RunningNode, value: str) -> dict[str, object]:
    stated = {"type": "string", "v": value}
    body = {"entity": f"{ORG}/project/apollo", "relation": "memory:status", "value": stated, "source": f"agent:{value}"}
    return node.post("/v1/facts", body).expect(201)
