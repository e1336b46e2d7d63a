"""Calls today's Python clients for a test, in an environment of their own (requirements.txt): one JSON line in, one out.

In: {"client", "options", "method", "arguments"}; a client is made once for its options and kept.
Out: {"result": ...}, or {"raised": {"kind", "status_code", "detail", "message"}} for what the client itself raises.
"""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterator

import httpx
import pydantic
import stigmem
from stigmem_openclaw import adapter as openclaw

CLIENTS = {
    "sync": stigmem.StigmemClient,
    "async": stigmem.AsyncStigmemClient,
    "openclaw": openclaw.OpenClawStigmemAdapter,
}
POLL_S = 0.05


class Enough:
    """A stop event that is set once so many batches came."""

    def __init__(self, batches: int) -> None:
        self.batches: list[list[stigmem.Fact]] = []
        self._wanted = batches

    def take(self, facts: list[stigmem.Fact]) -> None:
        self.batches.append(facts)

    def is_set(self) -> bool:
        return len(self.batches) >= self._wanted


class Driver:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients: dict[str, object] = {}

    def carry_out(self, request: dict) -> object:
        method, arguments = request["method"], dict(request["arguments"])
        if method == "verify_fact_cid":
            return stigmem.verify_fact_cid(stigmem.Fact.model_validate(arguments["fact"]))
        client = self._client(request["client"], request["options"])
        if method == "subscribe_scope":
            return self._subscribe(client, **arguments)
        for name in ("value", "new_value"):
            if arguments.get(name) is not None:
                arguments[name] = value_of(**arguments[name])
        result = getattr(client, method)(**arguments)
        return self._loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

    def _client(self, kind: str, options: dict) -> object:
        name = json.dumps([kind, options], sort_keys=True)
        if name not in self._clients:
            self._clients[name] = CLIENTS[kind](**options)
        return self._clients[name]

    def _subscribe(self, client: object, scope: str, batches: int) -> list[list[stigmem.Fact]]:
        enough = Enough(batches)
        running = client.subscribe_scope(scope, enough.take, interval_s=POLL_S, stop_event=enough)
        if running is not None:
            self._loop.run_until_complete(exhausted(running))
        return enough.batches


async def exhausted(batches) -> None:
    async for _ in batches:
        pass


def value_of(type: str, v: object = None) -> object:
    """A value by the client's own constructor."""
    make = getattr(stigmem, f"{type}_value")
    return make() if type == "null" else make(v)


def shown(result: object) -> object:
    """What a client answered, as JSON has it."""
    if isinstance(result, pydantic.BaseModel):
        return result.model_dump(mode="json")
    if isinstance(result, list | tuple):
        return [shown(one) for one in result]
    if dataclasses.is_dataclass(result):
        return {field.name: shown(getattr(result, field.name)) for field in dataclasses.fields(result)}
    return result


def answers(lines: Iterator[str]) -> Iterator[dict]:
    driver = Driver()
    for line in lines:
        try:
            yield {"result": shown(driver.carry_out(json.loads(line)))}
        except (stigmem.StigmemError, RuntimeError, ValueError, httpx.HTTPError) as error:
            status, detail = getattr(error, "status_code", None), getattr(error, "detail", None)
            yield {
                "raised": {
                    "kind": type(error).__name__,
                    "status_code": status,
                    "detail": detail,
                    "message": str(error),
                }
            }


if __name__ == "__main__":
    for answer in answers(sys.stdin):
        print(json.dumps(answer), flush=True)
