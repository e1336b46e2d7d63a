"""API keys for tests: made over HTTP, as an admin makes them."""

from typing import Any

from tests.served import NODE_ID, Served

KEYS = "/v1/auth/keys"
SCRIBE = f"{NODE_ID}/agent/scribe"


async def make_key(at: Served, *permissions: str, **fields: object) -> dict[str, Any]:
    """The whole answer to making a key, for the scribe where no other entity is named."""
    stated = {"entity_uri": SCRIBE, "permissions": permissions or ("read", "write")}
    return (await at.post(KEYS, stated | fields)).expect(201)


async def bearer_for(at: Served, *permissions: str, **fields: object) -> str:
    return (await make_key(at, *permissions, **fields))["raw_key"]
