"""A node of the simulation: the real one on real LMDB, with a seeded clock, that can lose power at any append.

Always: what a crash leaves is what the kernel keeps of a killed process: what was committed, and nothing from memory.
Always: time and randomness come from the seed, so a schedule writes the same logs byte for byte whenever it is run.
"""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Literal

from msgspec import Struct

from node.clock import Clock
from node.commands.decision import Principal
from node.commands.gardens import CreateGarden
from node.commands.peers import RegisterPeer
from node.commands.settings import Changes, ChangeSettings
from node.events.entry import Entry
from node.events.log import Head
from node.keys import Signer
from node.projections.conflicts import At, Conflict
from node.projections.peers import Peer
from node.projections.views import Views
from node.runtime import Node
from node.sync import Sync
from node.writer import Outcome
from tests.organisations import Organisation
from tests.served import config_for
from tests.simulation.transport import LinkedClient, Transport, node_id_of

# Where an append is when the power goes: nothing written, or all of it while the views do not know yet.
Cut = Literal["before", "after"]


class PowerCut(BaseException):
    """Ends the writer as the end of its process would: nothing that catches errors is asked."""


class NodeCrashed(Exception):
    """The node went down while it carried out a command; whoever asked will not hear of it."""


class SimulatedNode:
    """One organisation's node in one schedule; `is_up` is False between a crash and the restart."""

    def __init__(
        self, name: str, folder: Path, *, seed: int, now_ms: Callable[[], int], transport: Transport, settings: dict
    ) -> None:
        self.name, self.node_id, self.url = name, node_id_of(name), f"https://org-{name}.example"
        self.is_up, self.cut = False, ""
        self.signer = Signer.from_seed(hashlib.sha256(f"{seed}/{name}".encode()).digest())
        self._randomness = Random(f"{seed}/{name}")
        self.skew_ms = self._randomness.randrange(-3000, 3000)
        # Pages that end early, so that a few facts are several of them.
        self.most_facts = self._randomness.randrange(1, 5)
        self._now_ms, self._transport = now_ms, transport
        self._config = config_for(folder, entity_uri=self.node_id, federation_push_enabled=True, **settings)
        self._folder = folder
        # The garden that holds others' facts back; empty where the node is not strict.
        self.quarantine = ""
        self.node: Node
        self.sync: Sync
        self.clock: Clock
        self.pulls: dict[str, asyncio.Task] = {}
        # Behind which place news is pushed to a peer: in memory, as the node keeps it.
        self.pushed: dict[str, tuple[int, int]] = {}
        # Whom it has pulled from since it started.
        self.pulled: set[str] = set()

    async def start(self) -> None:
        self.clock = Clock(lambda: self._now_ms() + self.skew_ms, self._randomness.randbytes)
        self.node = await Node.open(config=self._config, clock=self.clock, signer=self.signer)
        await self.node.begun()
        self.sync = Sync(self.node, LinkedClient(self.name, self._transport))
        self._writer_task.add_done_callback(lambda _: self._transport.moved.set())
        self.is_up, self.cut = True, ""

    async def stop(self) -> None:
        await self._end_pulls()
        await self.node.close()
        self.is_up = False

    async def crash(self, *, takes_views: bool) -> None:
        """Drop all that is in memory. Where the whole machine went down, the views are not trusted afterwards."""
        await self._end_pulls()
        # Past `Node.close`, which finishes what was taken on and marks the views as closed: a crash does neither.
        await self.node._storage_watch.close()
        self._writer_task.cancel()
        await asyncio.gather(self._writer_task, return_exceptions=True)
        self.node._writer._log_thread.shutdown()
        self.node._views.close()
        self.node.log.close()
        self.node._lock.release()
        if takes_views:
            (self._folder / "views" / "CURRENT").unlink()
        self.pushed.clear()
        self.pulled.clear()
        self.is_up, self.cut = False, ""

    def cut_power(self, cut: Cut) -> None:
        """Have the power fail at the next append."""
        append, self.cut = self.node.log.append, cut

        def interrupted(expected_offset: int, entries: list[Entry], *more: object) -> Head:
            if cut == "after":
                append(expected_offset, entries, *more)
            raise PowerCut

        self.node.log.append = interrupted

    @property
    def has_lost_power(self) -> bool:
        return self.is_up and not self.node.is_ready

    async def execute(self, command: Struct) -> Outcome:
        """Raises NodeCrashed, or the command's refusal."""
        answer = self.node.execute(command)
        await asyncio.wait({answer, self._writer_task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise NodeCrashed(self.name)
        return answer.result()

    async def join(self, at: "SimulatedNode", scopes: tuple[str, ...]) -> None:
        """Have another node take this one for its peer, to exchange these scopes."""
        await Organisation(self).join(at, scopes=scopes, node_url=self.url)

    async def name_peer(self, other: "SimulatedNode", scopes: tuple[str, ...]) -> None:
        """Register another node that is not reached yet: it waits to be verified, and is a stranger meanwhile."""
        command = RegisterPeer(
            principal=self.admin,
            node_id=other.node_id,
            node_url=other.url,
            allowed_scopes=scopes,
            declaration=None,
        )
        await self.execute(command)

    def peer(self, node_id: str) -> Peer:
        with self.node.view() as view:
            return view.peers.of_node(node_id)

    async def be_strict(self) -> None:
        """Have what others say wait for a moderator unless it is trusted."""
        garden = CreateGarden(
            principal=self.admin, slug="held", name="Held", scope="company", description="", is_quarantine=True
        )
        self.quarantine = (await self.execute(garden)).reply
        changes = Changes(quarantine_garden_id=self.quarantine, trust_mode="strict")
        await self.execute(ChangeSettings(principal=self.admin, changes=changes))

    def open_conflicts(self) -> list[Conflict]:
        now = At(size=self.size, now_ms=self.clock.now_ms())
        with self.node.view() as view:
            return [found for found in view.conflicts.newest_first() if view.conflicts.is_open(found, now)]

    @property
    def admin(self) -> Principal:
        return Principal(via="admin", entity=self.node_id)

    @property
    def size(self) -> int:
        return self.node.log.head().size

    def digests(self) -> dict[str, str]:
        with self.node.view() as view:
            return view.digests()

    def new_views(self, name: str) -> Views:
        """Empty views of their own beside the node's, to fold its log into."""
        return Views(self._folder / name)

    async def _end_pulls(self) -> None:
        for task in self.pulls.values():
            task.cancel()
        await asyncio.gather(*self.pulls.values(), return_exceptions=True)
        self.pulls.clear()

    @property
    def _writer_task(self) -> asyncio.Task:
        return self.node._writer._task
