"""Forms of text and numbers on the wire, as the API's document shows them.

They describe and check nothing: what holds of a request is checked in `node/commands`.
"""

from typing import Annotated

from msgspec import Meta

_NOT_EMPTY = {"minLength": 1}

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Hlc = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9]{1,16}\.[0-9]{1,6}$"})]
Cid = Annotated[str, Meta(extra_json_schema={"pattern": "^sha256:[0-9a-f]{64}$"})]
Sha256 = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{64}$"})]
Base64Url = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_-]+={0,2}$"})]
ConflictId = Annotated[str, Meta(extra_json_schema={"pattern": "^stigmem:conflict:[0-9a-f-]{36}$"})]
Share = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
Count = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
Entity = Annotated[str, Meta(examples=["stigmem://org-a.example/project/apollo"], extra_json_schema=_NOT_EMPTY)]
Relation = Annotated[str, Meta(examples=["memory:status"], extra_json_schema=_NOT_EMPTY)]
Source = Annotated[str, Meta(examples=["stigmem://org-a.example/agent/scribe"], extra_json_schema=_NOT_EMPTY)]
Name = Annotated[str, Meta(extra_json_schema=_NOT_EMPTY)]
Slug = Annotated[str, Meta(extra_json_schema={"pattern": "^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"})]
RawKey = Annotated[str, Meta(extra_json_schema={"pattern": "^[!-z|}~][!-~]{31,511}$"})]
IDEMPOTENCY_KEY = "^[ -~]{1,255}$"
IdempotencyKey = Annotated[str, Meta(extra_json_schema={"pattern": IDEMPOTENCY_KEY})]
# What decode_query reads: those that a caller states are bounded by what the handler makes of them.
AsOf = Annotated[
    str,
    Meta(
        examples=["2026-05-04T12:00:00Z", "offset:1"],
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"pattern": "^offset:(0|[1-9][0-9]{0,17})$"}]},
    ),
]
EventType = Annotated[
    str, Meta(examples=["fact.asserted"], extra_json_schema={"pattern": r"^[a-z_]+\.[a-z_]+(\.[0-9]+)?$"})
]
