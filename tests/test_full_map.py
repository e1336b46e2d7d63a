"""A log at the end of its map: writes are refused, what was acknowledged is read, and a larger map takes writes again."""

from pathlib import Path

from node.keys import Signer
from node.runtime import Node
from tests.clocks import fixed_clock
from tests.served import SEED, Answer, Served, config_for, fact


class Mapped(Served):
    """A node that is told how large its log may become."""

    map_bytes: int

    async def opened(self, *, waits_for_views: bool) -> Node:
        return await Node.open(config=self.config, clock=self.clock, signer=self.signer, log_map_bytes=self.map_bytes)

    async def write_large(self, number: int) -> Answer:
        entity = f"{self.node.node_id}/item/{number}"
        return await self.post("/v1/facts", fact(entity=entity, value={"type": "text", "v": "x" * 60_000}))


async def test_a_log_at_the_end_of_its_map_refuses_writes_serves_reads_and_goes_on_in_a_larger_map(tmp_path: Path):
    served = Mapped(tmp_path, fixed_clock(), Signer.from_seed(SEED), config_for(tmp_path))
    served.map_bytes = 3 << 20
    await served.start()
    acknowledged = []
    while (answer := await served.write_large(len(acknowledged))).status == 201:
        acknowledged.append(answer.json["id"])
    answer.refused(503, "storage_full")
    assert acknowledged

    (await served.get("/readyz")).refused(503, "storage_full")
    (await served.write_large(0)).refused(503, "storage_full")
    assert [(await served.get(f"/v1/facts/{fact_id}")).status for fact_id in acknowledged] == [200] * len(acknowledged)

    await served.stop()
    served.map_bytes = 64 << 20
    await served.start()
    acknowledged.append((await served.write_large(len(acknowledged))).expect(201)["id"])
    listed = (await served.get("/v1/facts", limit=1000)).expect(200)["facts"]
    assert [found["id"] for found in listed] == acknowledged[::-1]
    await served.closed()
