"""One fold: whatever path the tables were made by, the log up to an offset gives the same tables."""

from collections.abc import Awaitable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.events.log import Log
from node.projections.apply import apply_all
from node.projections.views import Views
from tests import organisations
from tests.clocks import fixed_clock
from tests.organisations import Organisation, be_strict, issue
from tests.served import Served, fact

History = list[tuple[int, dict[str, str]]]


async def live_through_everything(http: Served, org_b: Organisation) -> History:
    """One of nearly everything that can happen to a node; after each step, the log's size and the tables' digests."""
    history: History = []

    async def step(action: Awaitable[object]) -> object:
        result = await action
        history.append((http.size, await http.digests()))
        http.clock.advance(1700)
        return result

    old = await step(http.write(scope="public"))
    await step(http.write(value={"type": "number", "v": 2}, supersedes=True, scope="public"))
    await step(http.write(value={"type": "null"}, confidence=0, scope="public"))
    await step(http.post("/v1/facts", fact(relation="stigmem:x")))
    await step(http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "company"}))
    await step(http.write(garden_id="den", scope="company", derived_from=[old["id"]]))
    peer_id = await step(org_b.join(http))
    await step(org_b.receive(http, *(org_b.served_fact(number=n) for n in range(1, 5)), org_b.served_fact(cid="x")))
    await step(http.send("GET", "/v1/federation/facts", bearer=org_b.token(http)))
    await step(http.send("GET", "/v1/federation/facts?scope=team", bearer=org_b.token(http)))
    token = await step(issue(http, org_b.assistant))
    await step(http.post("/v1/facts", fact(source=org_b.assistant, scope="company"), bearer=token))
    garden = await step(be_strict(http))
    await step(org_b.receive(http, org_b.served_fact(number=7), org_b.served_fact(number=8, hlc="1777895940000.9")))
    held = [item["fact_id"] for item in (await http.get("/v1/quarantine")).json["items"]]
    await step(http.post(f"/v1/gardens/{garden}/promote", {"fact_id": held[0], "target_garden_id": "den"}))
    await step(http.post(f"/v1/gardens/{garden}/promote", {"fact_id": held[0]}))
    await step(http.post(f"/v1/gardens/{garden}/reject", {"fact_id": held[1]}))
    for path in ("/v1/gardens/den", f"/v1/federation/peers/{peer_id}"):
        await step(http.send("DELETE", path))
    http.clock.advance(3 * 86_400_000)
    await step(http.node.keep_up())
    await step(http.write())
    return history


def expect_prefixes(folder: Path, log: Log, history: History) -> None:
    views = Views(folder)
    for size, digests in history:
        views.fold_forward(log, size)
        assert views.digests() == digests, f"at {size}"
    views.close()


async def test_the_log_up_to_any_step_gives_the_tables_as_they_were_then(
    http: Served, org_b: Organisation, tmp_path: Path
):
    history = await live_through_everything(http, org_b)

    assert len({entry.type for entry in http.entries(0)}) >= 15
    expect_prefixes(tmp_path / "prefixes", http.node.log, history)


async def test_entries_folded_one_by_one_in_batches_or_all_at_once_give_the_same_tables(
    http: Served, org_b: Organisation, tmp_path: Path
):
    await live_through_everything(http, org_b)
    entries = http.entries(0)
    digests = []

    for batch in (1, 2, 7, len(entries)):
        views = Views(tmp_path / f"by-{batch}")
        for start in range(0, len(entries), batch):
            with views.begin(write=True) as txn:
                apply_all(txn, views.handles, entries[start : start + batch])
        digests.append(views.digests())
        views.close()

    assert digests == [await http.digests()] * 4


async def test_a_restart_anywhere_leaves_the_tables_as_they_were(http: Served, org_b: Organisation):
    await live_through_everything(http, org_b)
    before = await http.digests()

    await http.restart()
    assert await http.digests() == before
    await http.write()
    assert await http.digests() == http.folded_anew()


async def test_the_same_commands_under_the_same_clock_and_key_make_the_same_log_byte_for_byte(serve):
    logs = []
    for _ in range(2):
        clock, other_clock = fixed_clock(), fixed_clock()
        at = await serve(own_clock=clock)
        home = await serve(seed=organisations.SEED, entity_uri=organisations.NODE_ID, own_clock=other_clock)
        await live_through_everything(at, Organisation(home))
        logs.append((at.node.log.head(), [entry.stored for entry in at.entries(0)]))

    assert logs[0] == logs[1]


# Facts of few names, in any order: what withdraws what is where a fold could depend on its path.

WORDS = st.tuples(
    st.sampled_from(["own", "received", "held"]),
    st.sampled_from(["a", "b", None, "retracted"]),
    st.sampled_from([0.0, 0.9]),
    st.integers(0, 3),
    st.sampled_from(["agent:x", "agent:y"]),
    st.sets(st.integers(1, 6), max_size=2),
)


def as_value(v: str | None) -> dict[str, object]:
    return {"type": "null"} if v is None else {"type": "string", "v": v}


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(words=st.lists(WORDS, min_size=3, max_size=12))
async def test_any_order_of_statements_retractions_and_replacements_folds_to_the_same_tables(
    http: Served, org_b: Organisation, tmp_path: Path, words: list
):
    if org_b.peer_at(http) is None:
        await org_b.join(http)
        await be_strict(http, trust_mode="relaxed")
    run = http.size
    entity, history = f"user:{run}", []

    for number, (kind, v, confidence, counter, source, replaced) in enumerate(words, start=1):
        stated = {"entity": entity, "value": as_value(v), "source": source, "confidence": confidence, "scope": "public"}
        if kind == "own":
            await http.write(**stated, supersedes=bool(replaced))
        else:
            ids = [id_of(run, number) for number in sorted(replaced)]
            clock = {"hlc": f"1777895940000.{counter}", "supersedes": ids, "id": id_of(run, number)}
            if kind == "held":
                stated["value"] = {"type": "string", "v": "go", "interpret_as": "instruction"}
            await org_b.receive(http, org_b.served_fact(**stated | clock))
        history.append((http.size, await http.digests()))
    for item in (await http.get("/v1/quarantine", quarantine_status="pending")).json["items"]:
        (await http.post("/v1/gardens/quarantine/promote", {"fact_id": item["fact_id"]})).expect(200)
        history.append((http.size, await http.digests()))

    expect_prefixes(tmp_path / f"run-{run}", http.node.log, history)
    visible = (await http.get("/v1/facts", entity=entity)).json["facts"]
    assert all(record["confidence"] > 0 for record in visible)


def id_of(run: int, number: int) -> str:
    return f"01890000-0000-7000-8000-{run:06d}{number:06d}"
