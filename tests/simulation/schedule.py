"""One schedule: a few nodes, some thirty steps that a seed chooses, and what must hold after each and at the end.

Always: everything follows from the seed; one thing runs at a time, so the same seed goes the same way to the last byte.
After each step: chains intact, views equal the fold, no fact outside its scope, no nonce and no fact twice.
At the end, with the network whole again: everyone has everything they may have, once, as its origin wrote it.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from node.commands.drafts import StatedValue
from node.commands.exchange import exchanged_scopes
from node.commands.facts import AssertFact
from node.commands.peer_tokens import mint_token
from node.commands.served_facts import ServedFact, served_fact
from node.errors import PeerUnreachable, Refusal
from node.events.facts import Fact
from node.projections.access import EVERYTHING
from node.projections.federation_page import behind_all, news_for
from tests.clocks import START_MS
from tests.simulation import doors
from tests.simulation.ledger import Identity, Ledger
from tests.simulation.nodes import NodeCrashed, SimulatedNode
from tests.simulation.transport import PULL, PUSH, Answer, Request, Transport

# Memory where there is some: an fsync costs nothing there, and no schedule cuts the power of a disk.
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
# What a pull may come to while the network is as it is: no answer, or a refusal that its copy or its age earned it.
EXPECTED = {"peer_unreachable", "peer_answer_invalid"}
GRANTS = (("public",), ("public", "company"), ("public", "company"), ("company",), ("public", "company", "team"))
SCOPES = ("public", "public", "company", "team", "local")
TRACE = 25


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


async def run_schedule(seed: int) -> dict[str, bytes]:
    """Live through the schedule of a seed; the roots of all logs at its end. Raises ScheduleFailed."""
    folder = Path(tempfile.mkdtemp(prefix="stigmem-simulation-", dir=FOLDER))
    schedule = Schedule(seed, folder)
    try:
        return await schedule.run()
    # Whatever goes wrong under a seed is a finding, and worth nothing without the seed.
    except Exception as error:
        raise ScheduleFailed(seed, error, schedule.trace) from error
    finally:
        await schedule.close()
        shutil.rmtree(folder)


class Schedule:
    def __init__(self, seed: int, folder: Path) -> None:
        self._rng, self._now_ms = Random(seed), START_MS
        self.trace: list[str] = []
        self._transport = Transport(self._look_up, self._check_sent)
        allows_team = self._rng.random() < 0.3
        count = self._rng.choices((2, 3, 4, 5), (58, 28, 9, 5))[0]
        self._nodes = {
            name: SimulatedNode(
                name,
                folder / name,
                seed=seed,
                now_ms=lambda: self._now_ms,
                transport=self._transport,
                settings={"federation_allow_team": allows_team},
            )
            for name in "abcde"[:count]
        }
        # The scopes that the first grants the second, both ways for every link.
        self._granted: dict[tuple[str, str], tuple[str, ...]] = {}
        self._exchangeable = {"public", "company"} | ({"team"} if allows_team else set())
        self._ledgers: dict[str, Ledger] = {}
        self._most_facts = self._rng.randrange(1, 5)
        self._acknowledged: set[Identity] = set()
        # Who is about to ask whom for the first time since it started.
        self._resuming: tuple[str, str] | None = None

    async def run(self) -> dict[str, bytes]:
        await self._begin()
        for _ in range(self._rng.randrange(14, 28)):
            await self._step()
        await self._heal()
        self._check_end()
        return {name: node.node.log.head().root for name, node in self._nodes.items()}

    async def close(self) -> None:
        for name, node in self._nodes.items():
            if node.has_lost_power:
                await node.crash(takes_views=False)
            if node.is_up:
                await node.stop()
            if name in self._ledgers:
                self._ledgers[name].close()

    # Beginning

    async def _begin(self) -> None:
        nodes = list(self._nodes.values())
        for node in nodes:
            await node.start()
        for index, node in enumerate(nodes[1:], 1):
            # A tree at least, so that nobody is alone; beyond it as it happens.
            must = self._rng.randrange(index)
            for at, other in enumerate(nodes[:index]):
                if at == must or self._rng.random() < 0.35:
                    await self._link(node, other)
        for name, node in self._nodes.items():
            allowed = {
                f"stigmem://org-{of}.example": granted for (by, of), granted in self._granted.items() if by == name
            }
            self._ledgers[name] = Ledger(node, allowed)
            self._ledgers[name].check_growth()

    async def _link(self, one: SimulatedNode, other: SimulatedNode) -> None:
        for by, of in ((one, other), (other, one)):
            granted = self._rng.choice(GRANTS)
            self._granted[by.name, of.name] = tuple(scope for scope in granted if scope in self._exchangeable)
            await of.join(by, self._granted[by.name, of.name])

    # Steps

    async def _step(self) -> None:
        self._now_ms += self._rng.choice((0, 1, 40, 900, 5_000))
        acts: list[tuple[Callable, int]] = [
            (self._write, 6),
            (self._pull, 6),
            (self._push, 2),
            (self._let_time_pass, 1),
        ]
        acts += [(self._crash, 1), (self._cut_power, 2)]
        if self._transport.in_flight:
            acts += [(self._deliver, 14), (self._lose, 1), (self._lose_patience, 1), (self._repeat, 2)]
        if any(not node.is_up for node in self._nodes.values()):
            acts.append((self._restart, 6))
        act = self._rng.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
        await act()
        await self._bury()
        self._check_step()

    async def _write(self) -> None:
        node = self._any_node()
        if not node.is_up:
            return
        await self._assert(node, self._rng.choice(SCOPES))

    async def _assert(self, node: SimulatedNode, scope: str) -> None:
        is_retraction = self._rng.random() < 0.1
        value = StatedValue(type="null") if is_retraction else StatedValue(type="string", v=self._rng.choice("xyz"))
        command = AssertFact(
            principal=node.admin,
            access=EVERYTHING,
            entity=f"project:{self._rng.choice(('apollo', 'zeus'))}",
            relation="memory:status",
            value=value,
            source=self._rng.choice((f"{node.node_id}/agent/scribe", "agent:scribe")),
            confidence=0.0 if is_retraction else 0.9,
            scope=scope,
            valid_until=None,
            garden=None,
            supersedes=self._rng.random() < 0.2,
            derived_from=(),
            timestamp=None,
            accepted_ms=node.clock.now_ms(),
            attestation_chain=(),
            attestation_chain_issuers=(),
        )
        self._note(f"{node.name} writes a {scope} fact")
        try:
            outcome = await node.execute(command)
        except NodeCrashed:
            return
        self._acknowledged |= {(node.node_id, entry.event.fact.id) for entry in outcome.entries}

    async def _pull(self) -> None:
        by, of = self._rng.choice(list(self._granted))
        node = self._nodes[by]
        if not node.is_up or of in node.pulls:
            return
        from_start = self._rng.random() < 0.08
        self._note(f"{by} pulls from {of}" + (", from the start" if from_start else ""))
        self._start_pull(node, of, from_start=from_start)
        await self._settle()

    async def _push(self) -> None:
        by, of = self._rng.choice(list(self._granted))
        node, peer_id = self._nodes[by], f"stigmem://org-{of}.example"
        if not node.is_up:
            return
        # A node pushes what is new since it started; all of it from time to time, so that pushes and pulls meet.
        place = node.pushed.get(of) or self._rng.choice((behind_all(node.size), (0, 0)))
        with node.node.view() as view:
            peer = view.peers.of_node(peer_id)
            scopes = exchanged_scopes(peer, node.node.config)
            news = news_for(view, peer_node_id=peer_id, scopes=scopes, after=place, limit=self._most_facts)
        node.pushed[of] = news.place
        if not news.facts:
            return
        self._note(f"{by} pushes {len(news.facts)} to {of}")
        token = mint_token(node.signer, node.clock, issuer=node.node_id, audience=peer_id, scopes=peer.allowed_scopes)
        body = {"facts": [served_fact(fact) for fact in news.facts], "sender_hlc": news.facts[-1].hlc}
        self._transport.send(Request(by, of, PUSH, token, {}, msgspec.json.encode(body)))

    async def _let_time_pass(self) -> None:
        # At times past the end of every token that is in flight.
        self._now_ms += self._rng.choice((20_000, 60_000, 400_000))
        self._note("time passes")

    async def _crash(self) -> None:
        node, takes_views = self._any_node(), self._rng.random() < 0.3
        if not node.is_up:
            return
        self._note(f"{node.name} is killed" + (", its views lost" if takes_views else ""))
        await self._take_down(node, takes_views=takes_views)

    async def _cut_power(self) -> None:
        node, cut = self._any_node(), self._rng.choice(("before", "after"))
        if not node.is_up or node.cut:
            return
        self._note(f"{node.name} will go down {cut} its next append")
        node.cut_power(cut)

    async def _restart(self) -> None:
        node = self._rng.choice([node for node in self._nodes.values() if not node.is_up])
        await self._bring_up(node)

    async def _deliver(self) -> None:
        message = self._transport.in_flight.pop(self._rng.randrange(len(self._transport.in_flight)))
        self._note(f"delivers {message}")
        await self._arrive(message)

    async def _lose(self) -> None:
        message = self._transport.in_flight.pop(self._rng.randrange(len(self._transport.in_flight)))
        self._note(f"loses {message}")
        self._transport.give_up(message if isinstance(message, Request) else message.request)
        await self._settle()

    async def _lose_patience(self) -> None:
        message = self._rng.choice(self._transport.in_flight)
        request = message if isinstance(message, Request) else message.request
        self._note(f"{request.sender} gives up on {message}")
        self._transport.give_up(request)
        await self._settle()

    async def _repeat(self) -> None:
        requests = [message for message in self._transport.in_flight if isinstance(message, Request)]
        if not requests:
            return
        one = self._rng.choice(requests)
        self._note(f"repeats {one}")
        copy = Request(one.sender, one.receiver, one.path, one.token, one.params, one.body)
        self._transport.in_flight.append(copy)

    # What steps are made of

    def _any_node(self) -> SimulatedNode:
        return self._rng.choice(list(self._nodes.values()))

    def _note(self, words: str) -> None:
        self.trace.append(words)

    def _start_pull(self, node: SimulatedNode, of: str, *, from_start: bool) -> None:
        is_first = of not in node.pulled and not from_start
        self._resuming = (node.name, of) if is_first else None
        node.pulled.add(of)
        pull = node.sync.pull_now(f"stigmem://org-{of}.example", from_start=from_start)
        task = asyncio.create_task(pull, name=f"{node.name} pulls from {of}")
        task.add_done_callback(lambda _: self._transport.moved.set())
        node.pulls[of] = task

    async def _settle(self) -> None:
        """Until every pull waits for the network, has ended, or its node is down: then nothing moves by itself."""
        moved = self._transport.moved
        while any(self._is_moving(node, task) for node in self._nodes.values() for task in node.pulls.values()):
            moved.clear()
            await asyncio.wait_for(moved.wait(), timeout=30)
        for node in self._nodes.values():
            for of in [of for of, task in node.pulls.items() if task.done()]:
                self._check_ended(node.pulls.pop(of))

    def _is_moving(self, node: SimulatedNode, task: asyncio.Task) -> bool:
        return not (task.done() or self._transport.is_parked(task) or node.has_lost_power)

    def _check_ended(self, task: asyncio.Task) -> None:
        try:
            task.result()
        except Refusal as refusal:
            assert refusal.code in EXPECTED, f"{task.get_name()}: {refusal.code}: {refusal.detail}"
            self._note(f"{task.get_name()}: {refusal.detail}")

    async def _arrive(self, message: Request | Answer) -> None:
        if isinstance(message, Answer):
            self._transport.answer(message.request, message.content)
            await self._settle()
            return
        at = self._nodes[message.receiver]
        if not at.is_up:
            self._transport.answer(message, PeerUnreachable("connection refused"))
            await self._settle()
            return
        try:
            content = await doors.answer(at, message, most_facts=self._most_facts)
        except NodeCrashed:
            content = PeerUnreachable("connection lost")
        self._check_served(message, content)
        self._transport.in_flight.append(Answer(message, content))

    async def _bury(self) -> None:
        """Take down whatever lost its power in this step."""
        for node in self._nodes.values():
            if node.has_lost_power:
                self._note(f"{node.name} went down {node.cut} its append")
                await self._take_down(node, takes_views=False)

    async def _take_down(self, node: SimulatedNode, *, takes_views: bool) -> None:
        await node.crash(takes_views=takes_views)
        if self._rng.random() < 0.7:
            await self._bring_up(node)

    async def _bring_up(self, node: SimulatedNode) -> None:
        self._note(f"{node.name} starts")
        await node.start()
        self._ledgers[node.name].check_growth()
        self._ledgers[node.name].check_stored()

    def _look_up(self, name: str, path: str, params: dict[str, str]) -> bytes:
        if not self._nodes[name].is_up:
            raise PeerUnreachable("connection refused")
        return doors.look_up(self._nodes[name].node, path, params)

    # What must hold

    def _check_step(self) -> None:
        for name, node in self._nodes.items():
            if node.is_up and node.size > self._ledgers[name].size:
                self._ledgers[name].check_growth()
        stored = {identity for ledger in self._ledgers.values() for identity in ledger.own}
        down = {node.node_id for node in self._nodes.values() if not node.is_up}
        lost = {identity for identity in self._acknowledged - stored if identity[0] not in down}
        assert not lost, f"fact: {lost} was acknowledged and is not in the log"

    def _check_sent(self, request: Request) -> None:
        """A push holds what its sender grants; a pull after a start goes on from the stored cursor."""
        if request.path == PUSH:
            self._check_scopes(request.body, set(self._granted[request.sender, request.receiver]), request)
        if request.path == PULL and self._resuming == (request.sender, request.receiver):
            self._resuming = None
            stored = self._ledgers[request.sender].cursors.get(self._nodes[request.receiver].node_id)
            assert request.params.get("cursor") == stored, "cursor: a pull did not go on from the one stored"

    def _check_served(self, request: Request, content: bytes | Exception) -> None:
        if request.path == PULL and isinstance(content, bytes):
            self._check_scopes(content, self._exchanged(request.receiver, request.sender), request)

    def _check_scopes(self, content: bytes, granted: set[str], request: Request) -> None:
        for fact in msgspec.json.decode(content)["facts"]:
            assert fact["scope"] in granted & self._exchangeable, f"scope: a {fact['scope']} fact left with {request}"

    def _exchanged(self, by: str, to: str) -> set[str]:
        """The scopes that one node gives another: what it grants, of what the other asks for."""
        return set(self._granted[by, to]) & set(self._granted[to, by]) & self._exchangeable

    async def _heal(self) -> None:
        """The network delivers again: first all that is late, in any order; then everyone pulls until there is no news."""
        self._note("the network heals")
        for node in self._nodes.values():
            if not node.is_up:
                await self._bring_up(node)
            elif node.cut:
                await self._take_down_and_up(node)
        self._rng.shuffle(self._transport.in_flight)
        await self._drain()
        for _ in range(2 * len(self._nodes)):
            if not sum([await self._pull_whole(by, of) for by, of in self._granted]):
                return
        raise AssertionError("end: the nodes never come to rest")

    async def _take_down_and_up(self, node: SimulatedNode) -> None:
        await node.crash(takes_views=False)
        await self._bring_up(node)

    async def _drain(self) -> None:
        while self._transport.in_flight:
            await self._arrive(self._transport.in_flight.pop(0))
        self._check_step()

    async def _pull_whole(self, by: str, of: str) -> int:
        """One undisturbed pull; how many facts it brought."""
        if not self._exchanged(of, by):
            return 0
        self._start_pull(self._nodes[by], of, from_start=False)
        task = self._nodes[by].pulls[of]
        await self._settle()
        await self._drain()
        assert task.done(), "end: a pull did not end"
        return task.result().ingested

    def _check_end(self) -> None:
        for name, ledger in self._ledgers.items():
            ledger.check_growth()
            ledger.check_stored()
            ledger.check_fold()
            owed, held = self._owed(name), ledger.received
            missing = owed.keys() - held.keys()
            assert not missing, f"end: {name} lacks {sorted(missing)}"
            for identity, fact in held.items():
                assert self._may_hold(name, fact), f"scope: {name} holds a {fact.scope} fact of {fact.origin}"
                assert _told(fact) == _told(self._written(identity)), f"end: {identity} is not what its origin wrote"

    def _owed(self, name: str) -> dict[Identity, Fact]:
        """What a node must have in the end: what each of its peers has of its own that may go to it."""
        return {
            identity: fact
            for by, to in self._granted
            if to == name
            for identity, fact in self._ledgers[by].own.items()
            if fact.scope in self._exchanged(by, to)
        }

    def _may_hold(self, name: str, fact: Fact) -> bool:
        """What a node may have: a public fact by whatever way, any other from its origin's hands alone."""
        origin = fact.origin.removeprefix("stigmem://org-").removesuffix(".example")
        given = self._granted.get((origin, name), ())
        return fact.scope == "public" or (fact.scope in given and fact.scope in self._exchangeable)

    def _written(self, identity: Identity) -> Fact:
        return next(ledger.own[identity] for ledger in self._ledgers.values() if identity in ledger.own)


def _told(fact: Fact) -> ServedFact:
    """What a fact says wherever it is: all but what each node thinks of it."""
    return served_fact(fact)
