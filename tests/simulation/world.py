"""The world of one schedule: its nodes, the network between them, and what must hold of them all the time and at the end.

Always: one thing runs at a time: a step ends when every pull waits for the network, has ended, or is of a node that is down.

Does not choose what happens (see `schedule.py`).
"""

import asyncio
from itertools import combinations
from pathlib import Path
from random import Random

import msgspec

from node.commands.peer_tokens import parse_peer_token
from node.commands.served_facts import served_fact
from node.errors import PeerUnreachable, Refusal
from node.events.facts import Fact
from node.uris import lies_under
from tests.clocks import START_MS
from tests.simulation import disputes, doors
from tests.simulation.disputes import identity_of
from tests.simulation.ledger import Identity, Ledger
from tests.simulation.nodes import NodeCrashed, SimulatedNode
from tests.simulation.transport import PULL, PUSH, Answer, Request, Transport, node_id_of

# What a pull may come to while the network is as it is: no answer, a refusal that its copy or its age earned it, or terms
# that changed while it was on its way.
EXPECTED = {"peer_unreachable", "peer_answer_invalid", "terms_changed"}
GRANTS = (
    ("public",),
    ("public",),
    ("public", "company"),
    ("public", "company"),
    ("public", "company", "team"),
    ("company",),
)
# Who knows whom from the start; a tree has further links as it happens.
SHAPES = ("chain", "ring", "star", "mesh", "tree", "tree")


class World:
    """`links` are the pairs (who registered, whom). What one grants the other is read from its ledger."""

    def __init__(self, rng: Random, seed: int, folder: Path) -> None:
        self.rng, self.now_ms = rng, START_MS
        self.trace: list[str] = []
        self.transport = Transport(self._look_up, self._check_sent)
        allows_team = rng.random() < 0.3
        self.exchangeable = {"public", "company"} | ({"team"} if allows_team else set())
        count = rng.choices((2, 3, 4, 5), (40, 40, 14, 6))[0]
        self.nodes = {
            name: SimulatedNode(
                name,
                folder / name,
                seed=seed,
                now_ms=lambda: self.now_ms,
                transport=self.transport,
                settings={"federation_allow_team": allows_team},
            )
            for name in "abcde"[:count]
        }
        self.links: list[tuple[str, str]] = []
        self.acknowledged: set[Identity] = set()
        self._ledgers: dict[str, Ledger] = {}
        # Who is about to ask whom for the first time since it started.
        self._resuming: tuple[str, str] | None = None

    async def begin(self) -> None:
        nodes = list(self.nodes.values())
        for node in nodes:
            await node.start()
            self._ledgers[node.name] = Ledger(node)
            if self.rng.random() < 0.15:
                self.note(f"{node.name} is strict")
                await node.be_strict()
        shape = self.rng.choice(SHAPES)
        self.note(f"{len(nodes)} nodes: {shape}")
        for index, node in enumerate(nodes[1:], 1):
            for at in self._known_at_first(shape, index):
                await self._link(node, nodes[at])
        for one, other in self.unacquainted():
            for by, of in ((one, other), (other, one)):
                if self.rng.random() < 0.3:
                    self.note(f"{of.name} waits to be verified by {by.name}")
                    await by.name_peer(of, self.some_scopes())
        self.check()

    def _known_at_first(self, shape: str, index: int) -> list[int]:
        """Which of the nodes before it a node knows from the start: one at least, so that nobody is alone."""
        match shape:
            case "chain":
                return [index - 1]
            case "ring":
                is_last = index == len(self.nodes) - 1
                return sorted({0, index - 1}) if is_last else [index - 1]
            case "star":
                return [0]
            case "mesh":
                return list(range(index))
        must = self.rng.randrange(index)
        return [at for at in range(index) if at == must or self.rng.random() < 0.35]

    async def close(self) -> None:
        for node in self.nodes.values():
            if node.has_lost_power:
                await node.crash(takes_views=False)
            if node.is_up:
                await node.stop()
        for ledger in self._ledgers.values():
            ledger.close()

    def roots(self) -> dict[str, bytes]:
        return {name: node.node.log.head().root for name, node in self.nodes.items()}

    def note(self, words: str) -> None:
        self.trace.append(words)

    def some_scopes(self) -> tuple[str, ...]:
        return tuple(scope for scope in self.rng.choice(GRANTS) if scope in self.exchangeable)

    def granted(self, by: str, to: str) -> set[str]:
        """What one node gives another at all."""
        return set(self._ledgers[by].allowed.get(node_id_of(to), ())) & self.exchangeable

    def waiting(self) -> list[tuple[SimulatedNode, Identity]]:
        """What a moderator might promote, of all nodes that are up."""
        return [
            (node, identity)
            for name, node in self.nodes.items()
            if node.is_up
            for identity in sorted(self._ledgers[name].held)
        ]

    def unacquainted(self) -> list[tuple[SimulatedNode, SimulatedNode]]:
        """The pairs of nodes that exchange nothing yet."""
        pairs = combinations(self.nodes, 2)
        return [(self.nodes[one], self.nodes[other]) for one, other in pairs if (one, other) not in self.links]

    # Moving on

    async def acquaint(self, one: SimulatedNode, other: SimulatedNode) -> None:
        """Have two nodes verify each other, which either may have waited for."""
        self.note(f"{one.name} and {other.name} meet")
        await self._link(one, other)

    def start_pull(self, node: SimulatedNode, of: str, *, from_start: bool) -> None:
        is_first = of not in node.pulled and not from_start
        self._resuming = (node.name, of) if is_first else None
        node.pulled.add(of)
        pull = node.sync.pull_now(node_id_of(of), from_start=from_start)
        task = asyncio.create_task(pull, name=f"{node.name} pulls from {of}")
        task.add_done_callback(lambda _: self.transport.moved.set())
        node.pulls[of] = task

    async def settle(self) -> None:
        """Until every pull waits for the network, has ended, or its node is down: then nothing moves by itself."""
        moved = self.transport.moved
        while any(self._is_moving(node, task) for node in self.nodes.values() for task in node.pulls.values()):
            moved.clear()
            await asyncio.wait_for(moved.wait(), timeout=30)
        for node in self.nodes.values():
            for of in [of for of, task in node.pulls.items() if task.done()]:
                self._check_ended(node.pulls.pop(of))

    def _is_moving(self, node: SimulatedNode, task: asyncio.Task) -> bool:
        return not (task.done() or self.transport.is_parked(task) or node.has_lost_power)

    def _check_ended(self, task: asyncio.Task) -> None:
        try:
            task.result()
        except Refusal as refusal:
            assert refusal.code in EXPECTED, f"{task.get_name()}: {refusal.code}: {refusal.detail}"
            self.note(f"{task.get_name()}: {refusal.detail}")

    async def arrive(self, message: Request | Answer) -> None:
        if isinstance(message, Answer):
            self.transport.answer(message.request, message.content)
            await self.settle()
            return
        at = self.nodes[message.receiver]
        if not at.is_up:
            self.transport.answer(message, PeerUnreachable("connection refused"))
            await self.settle()
            return
        try:
            content = await doors.answer(at, message)
        except NodeCrashed:
            content = PeerUnreachable("connection lost")
        self._check_served(message, content)
        self.transport.in_flight.append(Answer(message, content))

    async def bury(self) -> None:
        """Take down whatever lost its power in this step."""
        for node in self.nodes.values():
            if node.has_lost_power:
                self.note(f"{node.name} went down {node.cut} its append")
                await self.take_down(node, takes_views=False)

    async def take_down(self, node: SimulatedNode, *, takes_views: bool) -> None:
        await node.crash(takes_views=takes_views)
        if self.rng.random() < 0.7:
            await self.bring_up(node)

    async def bring_up(self, node: SimulatedNode) -> None:
        self.note(f"{node.name} starts")
        await node.start()
        self._ledgers[node.name].check_growth()
        self._ledgers[node.name].check_stored()

    async def heal(self) -> None:
        """The network delivers again: first all that is late, in any order; then everyone pulls until there is no news."""
        self.note("the network heals")
        for node in self.nodes.values():
            if node.cut:
                await node.crash(takes_views=False)
            if not node.is_up:
                await self.bring_up(node)
        self.rng.shuffle(self.transport.in_flight)
        await self._drain()
        for _ in range(3 * len(self.nodes)):
            if not any([await self._pull_whole(by, of) for by, of in self.links]):
                return
        raise AssertionError("end: the nodes never come to rest")

    async def _drain(self) -> None:
        while self.transport.in_flight:
            await self.arrive(self.transport.in_flight.pop(0))
        self.check()

    async def _pull_whole(self, by: str, of: str) -> bool:
        """One undisturbed pull; whether it brought anything, or was put off."""
        if not self._exchanged(of, by):
            return False
        node = self.nodes[by]
        self.start_pull(node, of, from_start=False)
        task = node.pulls[of]
        await self.settle()
        await self._drain()
        assert task.done(), "end: a pull did not end"
        return task.exception() is not None or task.result().ingested > 0

    async def _link(self, one: SimulatedNode, other: SimulatedNode) -> None:
        for by, of in ((one, other), (other, one)):
            await of.join(by, self.some_scopes())
            self.links.append((by.name, of.name))

    def _look_up(self, name: str, path: str, params: dict[str, str]) -> bytes:
        if not self.nodes[name].is_up:
            raise PeerUnreachable("connection refused")
        return doors.look_up(self.nodes[name].node, path, params)

    # What must hold

    def check(self) -> None:
        """After each step: whatever the logs have gained, and that nothing acknowledged is missing from them."""
        for name, node in self.nodes.items():
            if node.is_up and node.size > self._ledgers[name].size:
                self._ledgers[name].check_growth()
        stored = {identity for ledger in self._ledgers.values() for identity in ledger.own}
        down = {node.node_id for node in self.nodes.values() if not node.is_up}
        lost = {identity for identity in self.acknowledged - stored if identity[0] not in down}
        assert not lost, f"fact: {sorted(lost)} was acknowledged and is not in the log"

    def check_end(self) -> None:
        for name, ledger in self._ledgers.items():
            ledger.check_stored()
            ledger.check_fold()
            disputes.check_disputes(self.nodes[name], ledger.shown())
            missing = self._owed(name) - ledger.received.keys()
            assert not missing, f"end: {name} lacks {sorted(missing)}"
            for identity, fact in ledger.received.items():
                assert self._may_hold(name, fact), f"scope: {name} holds a {fact.scope} fact of {fact.origin}"
                assert served_fact(fact) == served_fact(self._written(identity)), f"end: {identity} is not as written"

    def _owed(self, name: str) -> set[Identity]:
        """What a node must have in the end: whatever each of its peers shows that may go to it.

        A relay owes the public facts that it shows like its own: so what one node writes reaches all that a path leads to.
        """
        return {
            identity_of(fact)
            for by, to in self.links
            if to == name
            for fact in self._ledgers[by].shown()
            if fact.scope in self._exchanged(by, to) and self._may_pass(fact, by, to)
        }

    def _may_pass(self, fact: Fact, by: str, to: str) -> bool:
        """Whether one node may give another a fact at all: its own, or a public one that is not the other's word."""
        own = node_id_of(to)
        if fact.origin == node_id_of(by):
            return True
        return fact.scope == "public" and fact.origin != own and not lies_under(fact.source, own)

    def _may_hold(self, name: str, fact: Fact) -> bool:
        """What a node may have: a public fact by whatever way, any other from its origin's hands alone."""
        origin = next(of for of, node in self.nodes.items() if node.node_id == fact.origin)
        given = self._ledgers[origin].ever_allowed.get(node_id_of(name), set()) & self.exchangeable
        return fact.scope == "public" or fact.scope in given

    def _written(self, identity: Identity) -> Fact:
        return next(ledger.own[identity] for ledger in self._ledgers.values() if identity in ledger.own)

    def _exchanged(self, by: str, to: str) -> set[str]:
        """The scopes that one node gives another: what it grants, of what the other takes."""
        return self.granted(by, to) & self.granted(to, by)

    def _check_sent(self, request: Request) -> None:
        """A push holds what its sender grants; the first pull after a start goes on from the stored cursor."""
        if request.path == PUSH:
            granted = self.granted(request.sender, request.receiver)
            _check_given(request.body, granted, request, by=request.sender, to=request.receiver)
        if request.path == PULL and self._resuming == (request.sender, request.receiver):
            self._resuming = None
            stored = self._ledgers[request.sender].cursors.get(node_id_of(request.receiver))
            assert request.params.get("cursor") == stored, "cursor: a pull did not go on from the one stored"

    def _check_served(self, request: Request, content: bytes | Exception) -> None:
        """A page holds what is granted to whoever asked, of what the token asked for."""
        if request.path == PULL and isinstance(content, bytes):
            asked = set(parse_peer_token(request.token).claims.scopes)
            granted = self.granted(request.receiver, request.sender) & asked
            _check_given(content, granted, request, by=request.receiver, to=request.sender)


def _check_given(content: bytes, granted: set[str], request: Request, *, by: str, to: str) -> None:
    """Facts that one node gives another: of the scopes granted, one hop unless public, and never back to their origin."""
    facts = msgspec.json.decode(content)["facts"]
    for fact in facts:
        assert fact["scope"] in granted, f"scope: a {fact['scope']} fact left with {request}"
        is_own = fact["origin"] == node_id_of(by)
        assert is_own or fact["scope"] == "public", f"scope: a {fact['scope']} fact was passed on with {request}"
        assert fact["origin"] != node_id_of(to), f"relay: a fact went back to its origin with {request}"
    assert len({(fact["origin"], fact["id"]) for fact in facts}) == len(facts), (
        f"relay: a fact went twice with {request}"
    )
