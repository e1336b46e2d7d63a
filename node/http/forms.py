"""Forms of text and numbers on the wire, as the API's document shows them.

They describe and check nothing: what holds of a request is checked in `node/commands`.
"""

from typing import Annotated

from msgspec import Meta

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Hlc = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9]{1,16}\.[0-9]{1,6}$"})]
Cid = Annotated[str, Meta(extra_json_schema={"pattern": "^sha256:[0-9a-f]{64}$"})]
Sha256 = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{64}$"})]
Base64Url = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_-]+={0,2}$"})]
ConflictId = Annotated[str, Meta(extra_json_schema={"pattern": "^stigmem:conflict:[0-9a-f-]{36}$"})]
Share = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
Count = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
Entity = Annotated[str, Meta(examples=["stigmem://org-a.example/project/apollo"])]
Relation = Annotated[str, Meta(examples=["memory:status"])]
Source = Annotated[str, Meta(examples=["stigmem://org-a.example/agent/scribe"])]
# What decode_query reads: those that a caller states are bounded by what the handler makes of them.
AsOf = Annotated[str, Meta(examples=["2026-05-04T12:00:00Z", "offset:12"])]
