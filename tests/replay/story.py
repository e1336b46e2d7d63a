"""Two organisations' nodes that live through the tutorial and what comes after it; then their folders, at rest.

Always: real nodes, real HTTP between them and a counted clock, so that the folders come out the same byte for byte.
"""

import asyncio
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.keys import Signer
from replay.cli import main
from tests import organisations, served
from tests.clocks import fixed_clock
from tests.organisations import Organisation, be_strict, issue
from tests.replay.folders import REPOSITORY, Result
from tests.served import Served, config_for

ORG_A, ORG_B = served.NODE_ID, organisations.NODE_ID
BOT = f"{ORG_B}/agent/bot"
ATLAS = f"{ORG_A}/project/atlas"
BILLING = f"{ORG_A}/service/billing"
# What a terminal would act on, or not show.
ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31mred\u202e\r\nroot\\x1b"


@dataclass
class Story:
    """The folders of both nodes, and the names of what happened."""

    a: Path
    b: Path
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def id(self, name: str) -> str:
        return self.facts[name]["id"]


def live_through(folder: Path) -> Story:
    """Let it all happen, and stop the nodes."""
    return asyncio.run(_live(folder))


def told(data_dir: Path, command: str, *arguments: str) -> Result:
    """What a command of `replay` writes, run in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([command, "--data-dir", str(data_dir), *arguments])
        except SystemExit as stop:
            code = int(stop.code)
    out.flush()
    return Result(code, out.buffer.getvalue().decode(), err.getvalue())


def lines(data_dir: Path, *arguments: str) -> list[dict[str, Any]]:
    """What `replay audit --format ndjson` writes, line by line."""
    done = told(data_dir, "audit", "--format", "ndjson", *arguments)
    assert (done.code, done.stderr) == (0, ""), done
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def written(data_dir: Path, commands: list[str], **environment: str) -> bytes:
    """What these commands write of a log, run by a process of its own in this environment."""
    code = "import sys, replay.cli; sys.exit(sum(replay.cli.main(words.split(' ')) for words in sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *(f"{words} --data-dir {data_dir}" for words in commands)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout


async def _live(folder: Path) -> Story:
    clock = fixed_clock(step_ms=1)
    a = Served(folder / "a", clock, Signer.from_seed(served.SEED), config_for(folder / "a"))
    b = Served(
        folder / "b",
        clock,
        Signer.from_seed(organisations.SEED),
        config_for(folder / "b", entity_uri=ORG_B),
    )
    story = Story(folder / "a", folder / "b")
    await a.start()
    await b.start()
    try:
        org_a, org_b = Organisation(a), Organisation(b)
        await org_a.join(b, node_url=f"http://127.0.0.1:{a.port}")
        story.names["peer"] = await org_b.join(a, node_url=f"http://127.0.0.1:{b.port}")
        await _tutorial(story, a, b)
        await _contradiction(story, a)
        await _replication(story, a, b, org_a, org_b)
        await _clearing_up(story, a)
    finally:
        await b.stop()
        await a.stop()
    return story


async def _tutorial(story: Story, a: Served, b: Served) -> None:
    story.names["garden"] = await be_strict(a)
    token = await issue(a, BOT)
    story.names["token"] = json.loads(token)["token_id"]
    (await b.post(f"/v1/federation/capability-tokens/{story.names['token']}/accept", {})).expect(200)
    fact = served.fact(entity=ATLAS, value={"type": "string", "v": "active"}, source=BOT)
    story.offsets["held"] = a.size
    story.facts["held"] = (await a.post("/v1/facts", fact, bearer=token)).expect(202)
    rejected = fact | {"value": {"type": "string", "v": "bankrupt"}}
    story.facts["rejected"] = (await a.post("/v1/facts", rejected, bearer=token)).expect(202)
    garden = story.names["garden"]
    story.offsets["admitted"] = a.size
    admission = {"fact_id": story.id("held"), "target_garden_id": None, "reason": "known to us"}
    (await a.post(f"/v1/gardens/{garden}/promote", admission)).expect(200)
    rejection = {"fact_id": story.id("rejected"), "reason": "not so"}
    (await a.post(f"/v1/gardens/{garden}/reject", rejection)).expect(200)
    story.offsets["tutorial"] = a.size


async def _contradiction(story: Story, a: Served) -> None:
    claim = {"entity": BILLING, "relation": "memory:state", "scope": "public"}

    async def say(name: str, value: str, agent: str, **fields: object) -> None:
        source, said = f"{ORG_A}/agent/{agent}", {"type": "string", "v": value}
        story.facts[name] = await a.write(**claim, value=said, source=source, **fields)

    await say("up", "up", "crm")
    story.offsets["contradicted"] = a.size
    await say("down", "down", "ops")
    (conflict,) = (await a.get("/v1/conflicts")).expect(200)["conflicts"]
    story.names["conflict"] = conflict["conflict_id"]
    story.offsets["resolved"] = a.size
    choice = {"winning_fact_id": story.id("down"), "resolution_note": "ops knows"}
    done = (await a.post(f"/v1/conflicts/{conflict['conflict_id']}/resolve", choice)).expect(200)
    story.facts["resolution"] = {"id": done["resolution_fact_id"]}
    plain = {"entity": f"{ORG_A}/service/mail", "relation": "memory:state", "source": f"{ORG_A}/agent/crm"}
    story.facts["old"] = await a.write(**plain)
    story.facts["new"] = await a.write(**plain, value={"type": "string", "v": "red"}, supersedes=[story.id("old")])
    story.facts["child"] = await a.write(
        entity=f"{ORG_A}/service/web", source=f"{ORG_A}/agent/crm", derived_from=[story.id("old")]
    )
    story.facts["retraction"] = await a.write(**plain, value={"type": "null"}, confidence=0.0)


async def _replication(story: Story, a: Served, b: Served, org_a: Organisation, org_b: Organisation) -> None:
    async def page(**query: object) -> dict[str, Any]:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return (await a.send("GET", f"/v1/federation/facts?{asked}", bearer=org_b.token(a))).expect(200)

    story.offsets["first_page"] = a.size
    first = await page(limit=1)
    second = await page(limit=100, cursor=first["cursor"])
    story.offsets["last_page"] = a.size
    await page(limit=100, cursor=second["cursor"])
    await org_a.receive(b, *first["facts"], *second["facts"], cursor="c-1")

    taken = org_b.served_fact(number=1, value={"type": "text", "v": ESCAPES})
    # The same id as one of ours, under another origin.
    twin = org_b.served_fact(number=2, id=story.id("up"), entity=f"{ORG_B}/project/twin")
    foreign = org_b.served_fact(number=3, source=f"{ORG_A}/agent/crm")
    story.facts |= {"taken": taken, "refused": foreign}
    story.offsets["batch"] = a.size
    await org_b.receive(a, taken, twin, foreign, cursor="c-2")


async def _clearing_up(story: Story, a: Served) -> None:
    story.offsets["revoked"] = a.size
    revoke = f"/v1/federation/capability-tokens/{story.names['token']}/revoke"
    (await a.post(revoke, {"reason": "done"})).expect(200)
