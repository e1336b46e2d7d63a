"""A node whose log is that of another one up to some entry: nothing but a replay has written it, and nothing else ever does.

Always: log and views are real, the entries are the other's bytes, and the clock stands where the test sets it.
"""

from pathlib import Path

from msgspec import structs

from node.commands.decision import Principal
from node.errors import Refusal
from node.events.entry import Entry
from node.events.log import Log
from node.projections.views import Views
from node.runtime import Node
from tests.clocks import fixed_clock
from tests.served import Served


class _Unwritten(Node):
    """A node with nobody to write for it."""

    async def record_refusal(self, principal: Principal, refusal: Refusal, subject: str) -> None:
        """A refusal stays an answer: as an event it would be an entry that the other log does not have."""


class CutOff(Served):
    """Grows entry by entry (`take`); answers reads over HTTP as the other node did when its log was that long."""

    def __init__(self, folder: Path, of: Served) -> None:
        config = structs.replace(of.config, data_dir=str(folder))
        super().__init__(folder, fixed_clock(), of.signer, config)
        self._of = of

    async def opened(self, *, waits_for_views: bool) -> Node:
        """A node without a writer: `Node.open` would add its own entries to a log that lacks some."""
        node = _Unwritten(config=self.config, clock=self.clock, signer=self.signer, node_id=self._of.node.node_id)
        node.log = Log(self.folder / "log")
        node._views = Views(self.folder / "views")
        node._admin_hash = self._of.node._admin_hash
        return node

    def take(self, entry: Entry) -> None:
        """Append the next entry, fold it, and let the clock stand at its date."""
        head = self.node.log.append(entry.offset, [entry])
        self.node._views.fold_forward(self.node.log, head.size)
        self.node.log.announce(head)
        self.clock.set(entry.at_ms)

    async def stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()
        await self._client.close()
        self.node._views.close()
        self.node.log.close()
