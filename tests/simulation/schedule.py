"""One schedule: a few nodes and some twenty steps that a seed chooses; what must hold is checked after each and at the end.

Always: everything follows from the seed, so the same seed goes the same way to the last byte.
After each step: chains intact, views equal the fold, no fact outside its scope, no nonce and no fact twice.
At the end, with the network whole again: everyone has everything they may have, once, as its origin wrote it.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from node.commands.conflicts import ResolveConflict
from node.commands.drafts import StatedValue
from node.commands.exchange import exchanged_scopes
from node.commands.facts import AssertFact
from node.commands.gardens import PromoteFact
from node.commands.peer_tokens import mint_token
from node.commands.peers import ChangePeer
from node.commands.served_facts import served_fact
from node.projections.fact_rows import is_own_word
from node.projections.federation_page import behind_all, news_for
from node.writer import Outcome
from tests.simulation.nodes import NodeCrashed, SimulatedNode
from tests.simulation.transport import PUSH, Request, node_id_of
from tests.simulation.world import World

# Memory where there is some: an fsync costs nothing there, and no schedule cuts the power of a disk.
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
SCOPES = ("public", "public", "public", "company", "company", "team", "local")
# One of an organisation's own, whose resolutions count everywhere, and one that is nobody's.
ENTITIES = (f"{node_id_of('a')}/project/apollo", f"{node_id_of('a')}/project/apollo", "project:zeus")
TRACE = 25


class Lived(Struct, frozen=True):
    """A schedule that held to its end: the roots of all logs, and what happened."""

    roots: dict[str, bytes]
    trace: tuple[str, ...]


class ScheduleFailed(AssertionError):
    """Something did not hold; the message says what, after which steps, and how to run that schedule alone."""

    def __init__(self, seed: int, cause: Exception, trace: list[str]) -> None:
        said = str(cause) if isinstance(cause, AssertionError) else repr(cause)
        steps = "\n".join(f"  {step}" for step in trace[-TRACE:])
        super().__init__(
            f"seed {seed}: {said}\nthe last of {len(trace)} steps:\n{steps}\n"
            f"this one alone: .venv/bin/python -m tests.simulation {seed}"
        )
        self.cause = said


async def run_schedule(seed: int) -> Lived:
    """Live through the schedule of a seed. Raises ScheduleFailed."""
    folder = Path(tempfile.mkdtemp(prefix="stigmem-simulation-", dir=FOLDER))
    rng = Random(seed)
    world = World(rng, seed, folder)
    try:
        await Schedule(world, rng).run()
        return Lived(world.roots(), tuple(world.trace))
    # Whatever goes wrong under a seed is a finding, and worth nothing without the seed.
    except Exception as error:
        raise ScheduleFailed(seed, error, world.trace) from error
    finally:
        await world.close()
        shutil.rmtree(folder)


class Schedule:
    """What may happen in a step, and how often."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world, self._rng = world, rng

    async def run(self) -> None:
        world = self._world
        await world.begin()
        for _ in range(self._rng.randrange(14, 28)):
            world.now_ms += self._rng.choice((0, 1, 40, 900, 5_000))
            acts = self._acts()
            await self._rng.choices(list(acts), list(acts.values()))[0]()
            await world.bury()
            world.check()
        await world.heal()
        world.check_end()

    def _acts(self) -> dict[Callable, int]:
        acts = {self._write: 7, self._pull: 6, self._push: 4, self._resolve: 4}
        acts |= {self._change_terms: 1, self._let_time_pass: 1}
        acts |= {self._crash: 1, self._cut_power: 2}
        # What relays pass on takes many messages to get there.
        has_relays = len(self._world.nodes) > 2
        if has_relays:
            acts[self._pull_all] = 4
        if self._world.transport.in_flight:
            acts |= {
                self._deliver: 16,
                self._deliver_many: 12 if has_relays else 1,
                self._lose: 1,
                self._lose_patience: 1,
                self._repeat: 2,
            }
        if self._may_meet():
            acts[self._meet] = 1
        if self._world.waiting():
            acts[self._promote] = 3
        if not all(node.is_up for node in self._world.nodes.values()):
            acts[self._restart] = 6
        return acts

    async def _write(self) -> None:
        node = self._any_node()
        if node.is_up:
            self._acknowledge(node, await self._execute(node, self._assertion(node), "writes a fact"))

    async def _resolve(self) -> None:
        disputed = [
            (node, found) for node in self._world.nodes.values() if node.is_up for found in node.open_conflicts()
        ]
        if not disputed:
            return
        node, conflict = self._rng.choice(disputed)
        with node.node.view() as view:
            winner = view.facts.at(self._rng.choice(conflict.facts)).fact
        is_new = self._rng.random() < 0.4
        command = ResolveConflict(
            principal=node.admin,
            conflict_id=conflict.conflict_id,
            winning_fact_id=None if is_new else winner.id,
            new_value=StatedValue(type="string", v=self._rng.choice("xyz")) if is_new else None,
            note="",
        )
        self._acknowledge(node, await self._execute(node, command, "settles a conflict"))

    async def _promote(self) -> None:
        node, (_, fact_id) = self._rng.choice(self._world.waiting())
        command = PromoteFact(
            principal=node.admin, garden=node.quarantine, fact_id=fact_id, target=None, reason="known"
        )
        await self._execute(node, command, "promotes a fact")

    def _acknowledge(self, node: SimulatedNode, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._world.acknowledged |= {(node.node_id, entry.event.fact.id) for entry in outcome.entries}

    def _assertion(self, node: SimulatedNode) -> AssertFact:
        is_retraction = self._rng.random() < 0.15
        value = StatedValue(type="string", v=self._rng.choice("xyz"))
        if is_retraction and self._rng.random() < 0.6:
            value = StatedValue(type="null")
        return AssertFact(
            principal=node.admin,
            entity=self._rng.choice(ENTITIES),
            relation="memory:status",
            value=value,
            source=self._rng.choice((f"{node.node_id}/agent/scribe", "agent:scribe", node.node_id)),
            confidence=0.0 if is_retraction else 0.9,
            scope=self._rng.choice(SCOPES),
            valid_until=None,
            garden=None,
            supersedes=self._rng.random() < 0.2,
            derived_from=(),
            timestamp=None,
            accepted_ms=node.clock.now_ms(),
            attestation_chain=(),
            attestation_chain_issuers=(),
        )

    async def _change_terms(self) -> None:
        by, of = self._rng.choice(self._world.links)
        node = self._world.nodes[by]
        if node.is_up:
            command = ChangePeer(
                principal=node.admin,
                peer_id=node.peer(node_id_of(of)).peer_id,
                allowed_scopes=self._world.some_scopes(),
                delegated_sources=None,
            )
            await self._execute(node, command, f"changes what it exchanges with {of}")

    def _may_meet(self) -> list[tuple[SimulatedNode, SimulatedNode]]:
        """Both there, and neither about to go down over it."""
        return [pair for pair in self._world.unacquainted() if all(node.is_up and not node.cut for node in pair)]

    async def _meet(self) -> None:
        await self._world.acquaint(*self._rng.choice(self._may_meet()))

    async def _execute(self, node: SimulatedNode, command: Struct, words: str) -> Outcome | None:
        """None where the node went down over it."""
        self._world.note(f"{node.name} {words}")
        try:
            return await node.execute(command)
        except NodeCrashed:
            return None

    async def _pull(self) -> None:
        await self._pull_along(*self._rng.choice(self._world.links))

    async def _pull_all(self) -> None:
        for by, of in self._world.links:
            await self._pull_along(by, of)

    async def _pull_along(self, by: str, of: str) -> None:
        node = self._world.nodes[by]
        if not node.is_up or of in node.pulls:
            return
        from_start = self._rng.random() < 0.08
        self._world.note(f"{by} pulls from {of}" + (", from the start" if from_start else ""))
        self._world.start_pull(node, of, from_start=from_start)
        await self._world.settle()

    async def _push(self) -> None:
        by, of = self._rng.choice(self._world.links)
        node, peer_id = self._world.nodes[by], node_id_of(of)
        if not node.is_up:
            return
        # A node pushes what is new since it started; all of it from time to time, so that pushes and pulls meet.
        place = node.pushed.get(of) or self._rng.choice((behind_all(node.size), (0, 0)))
        with node.node.view() as view:
            peer = view.peers.of_node(peer_id)
            scopes = exchanged_scopes(peer, node.node.config)
            news = news_for(view, peer_node_id=peer_id, scopes=scopes, after=place, limit=node.most_facts)
        node.pushed[of] = news.place
        facts = [fact for fact in news.facts if is_own_word(fact)]
        if not facts:
            return
        self._world.note(f"{by} pushes {len(facts)} to {of}")
        token = mint_token(node.signer, node.clock, issuer=node.node_id, audience=peer_id, scopes=peer.allowed_scopes)
        body = {"facts": [served_fact(fact) for fact in facts], "sender_hlc": facts[-1].hlc}
        self._world.transport.send(Request(by, of, PUSH, token, {}, msgspec.json.encode(body)))

    async def _let_time_pass(self) -> None:
        # At times past the end of every token that is in flight.
        self._world.now_ms += self._rng.choice((20_000, 60_000, 400_000))
        self._world.note("time passes")

    async def _crash(self) -> None:
        node, takes_views = self._any_node(), self._rng.random() < 0.3
        if not node.is_up:
            return
        self._world.note(f"{node.name} is killed" + (", its views lost" if takes_views else ""))
        await self._world.take_down(node, takes_views=takes_views)

    async def _cut_power(self) -> None:
        node, cut = self._any_node(), self._rng.choice(("before", "after"))
        if not node.is_up or node.cut:
            return
        self._world.note(f"{node.name} will go down {cut} its next append")
        node.cut_power(cut)

    async def _restart(self) -> None:
        node = self._rng.choice([node for node in self._world.nodes.values() if not node.is_up])
        await self._world.bring_up(node)

    async def _deliver(self) -> None:
        message = self._world.transport.in_flight.pop(self._rng.randrange(len(self._world.transport.in_flight)))
        self._world.note(f"delivers {message}")
        await self._world.arrive(message)

    async def _deliver_many(self) -> None:
        """A calm, or nearly one."""
        for _ in range(24):
            if self._world.transport.in_flight:
                await self._rng.choices((self._deliver, self._repeat, self._lose), (60, 3, 1))[0]()
                await self._world.bury()

    async def _lose(self) -> None:
        message = self._world.transport.in_flight.pop(self._rng.randrange(len(self._world.transport.in_flight)))
        self._world.note(f"loses {message}")
        self._world.transport.give_up(message if isinstance(message, Request) else message.request)
        await self._world.settle()

    async def _lose_patience(self) -> None:
        message = self._rng.choice(self._world.transport.in_flight)
        request = message if isinstance(message, Request) else message.request
        self._world.note(f"{request.sender} gives up on {message}")
        self._world.transport.give_up(request)
        await self._world.settle()

    async def _repeat(self) -> None:
        requests = [message for message in self._world.transport.in_flight if isinstance(message, Request)]
        if not requests:
            return
        one = self._rng.choice(requests)
        self._world.note(f"repeats {one}")
        copy = Request(one.sender, one.receiver, one.path, one.token, one.params, one.body)
        self._world.transport.in_flight.append(copy)

    def _any_node(self) -> SimulatedNode:
        return self._rng.choice(list(self._world.nodes.values()))
