"""The writer when its storage fails it: nothing half done, nothing forgotten, and an answer to everybody."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from node.commands.decision import Principal
from node.commands.drafts import StatedValue
from node.commands.facts import AssertFact
from node.commands.identity import FoundNode
from node.commands.rotations import RotateKey
from node.config import Config
from node.errors import StorageFailed, StorageFull
from node.events.entry import Entry
from node.events.log import Head, Log
from node.events.own_keys import own_keys_of
from node.events.tree import EMPTY_ROOT
from node.kept_answers import KeptAnswers
from node.keys import KeyInUse, Signer
from node.projections.view import View
from node.projections.views import Views, rebuild
from node.refusals import MinuteShare, RefusalLimiter
from node.writer import Outcome, Writer
from tests.clocks import fixed_clock

NODE_ID = "stigmem://org-a.example"


OLD, NEW = Signer.from_seed(bytes(32)), Signer.from_seed(bytes([1]) * 32)


class Doubtful(Log):
    """A log whose disk says that an append failed, once, when `fails` is set: with it on disk (True) or not (False)."""

    fails: bool | None = None

    def append(self, expected_offset: int, entries: Sequence[Entry], *more: object) -> Head:
        if self.fails is None:
            return super().append(expected_offset, entries, *more)
        is_written, self.fails = self.fails, None
        if is_written:
            super().append(expected_offset, entries, *more)
        raise StorageFailed("the disk")


def writer_over(log: Log, views: Views, key: KeyInUse | None = None) -> Writer:
    return Writer(
        log=log,
        views=views,
        clock=fixed_clock(step_ms=1),
        key=key or KeyInUse(OLD),
        config=Config(),
        node_id=NODE_ID,
        refusals=RefusalLimiter(),
        attestations=MinuteShare(60),
        kept=KeptAnswers(),
    )


def fact_of(number: int) -> AssertFact:
    return AssertFact(
        principal=Principal(via="admin", entity=NODE_ID),
        entity=f"{NODE_ID}/thing/{number}",
        relation="memory:text",
        value=StatedValue(type="text", v="x" * 20_000),
        source="agent:x",
        confidence=1.0,
        scope="local",
        valid_until=None,
        garden=None,
        supersedes=False,
        derived_from=(),
        timestamp=None,
        accepted_ms=1_777_896_000_000,
        attestation_chain=(),
        attestation_chain_issuers=(),
    )


async def test_full_views_refuse_writes_and_hold_all_that_was_acknowledged(tmp_path: Path):
    log, views = Log(tmp_path / "log"), Views(tmp_path / "views", map_bytes=2 << 20)
    writer = writer_over(log, views)
    await writer.execute(FoundNode())
    acknowledged = []

    with pytest.raises(StorageFull):
        for number in range(1000):
            acknowledged.append((await writer.execute(fact_of(number))).reply.id)
    head = log.head()
    with pytest.raises(StorageFull):
        await writer.execute(fact_of(1001))

    # The views can be full when the log has taken the write: it is there then, once, and was acknowledged to nobody.
    assert log.head() == head and head.size in (1 + len(acknowledged), 2 + len(acknowledged))
    assert views.checkpoint().size == 1 + len(acknowledged)
    await writer.close()
    views.close()
    folded = rebuild(tmp_path / "fresh", log)
    with folded.begin() as txn:
        assert all(folded.view(txn).facts.by_id(fact_id) for fact_id in acknowledged)
    folded.close()
    log.close()


async def test_a_caller_that_cannot_make_its_answer_fails_alone_and_what_it_wrote_stands_once(tmp_path: Path):
    log, views = Log(tmp_path / "log"), Views(tmp_path / "views")
    writer = writer_over(log, views)
    await writer.execute(FoundNode())

    def refuse_to_answer(outcome: Outcome, view: View) -> object:
        raise ArithmeticError(f"after {len(outcome.entries)} entries")

    answers = await asyncio.gather(
        writer.execute(fact_of(1), lambda outcome, view: outcome.reply.entity),
        writer.execute(fact_of(2), refuse_to_answer),
        writer.execute(fact_of(3)),
        return_exceptions=True,
    )

    assert answers[0] == f"{NODE_ID}/thing/1" and answers[2].reply.entity == f"{NODE_ID}/thing/3"
    assert isinstance(answers[1], ArithmeticError)
    assert [entry.event.fact.entity for entry in log.read(1, 10)] == [
        f"{NODE_ID}/thing/{number}" for number in (1, 2, 3)
    ]
    await writer.close()
    views.close()
    log.close()


async def test_views_that_fell_behind_the_log_are_folded_before_anything_is_decided(tmp_path: Path):
    log, views = Log(tmp_path / "log"), Views(tmp_path / "views")
    ahead = writer_over(log, Views(tmp_path / "others"))
    await ahead.execute(FoundNode())
    await ahead.close()
    log.announce(Head(size=0, root=EMPTY_ROOT, leaf=bytes(32)))
    writer = writer_over(log, views)

    await writer.execute(fact_of(1))

    assert views.checkpoint().size == log.head().size == 2
    with views.begin() as txn:
        assert views.view(txn).identity.birth().node_id == NODE_ID
    await writer.close()
    views.close()
    log.close()


@pytest.mark.parametrize("is_written", [True, False])
async def test_whether_a_key_was_rotated_is_what_the_log_says_and_not_what_the_disk_said(
    tmp_path: Path, is_written: bool
):
    log, views, key = Doubtful(tmp_path / "log"), Views(tmp_path / "views"), KeyInUse(OLD)
    writer = writer_over(log, views, key)
    await writer.execute(FoundNode())
    rotation = RotateKey(
        principal=Principal(via="admin", entity=NODE_ID), successor=NEW, kept="", is_compromised=False, since_ms=None
    )
    log.fails = is_written

    with pytest.raises(StorageFailed):
        await writer.execute(rotation)
    await writer.execute(fact_of(1))

    current = NEW if is_written else OLD
    assert key.signer is current
    assert [entry.type for entry in log.read(0, 9)] == [
        "node.created.1",
        *(["key.rotated.1", "manifest.published.1"] if is_written else []),
        "fact.asserted.1",
    ]
    assert log.read(log.head().size - 1, 1)[0].public_key == own_keys_of(log).current == current.public_key
    await writer.close()
    views.close()
    log.close()
