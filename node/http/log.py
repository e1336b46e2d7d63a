"""/v1/log: checkpoint and proofs, for anybody (PROTOCOL §10.2).

Always: nothing here runs past what the views have folded, and no item is ever served.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from node.errors import MissingField, ProofOutOfRange
from node.events.manifest_proof import Proof, checkpoint_at, consistency_proof, inclusion_proof
from node.http.body import decode_query, json_response
from node.http.describe import PUBLIC, Content, describes
from node.http.keys import NODE

Number = Annotated[int, Meta(ge=0, le=2**53)]


class CheckpointQuery(Struct, frozen=True, kw_only=True):
    cosigned: bool = False


class InclusionQuery(Struct, frozen=True, kw_only=True):
    offset: Number
    size: Number | None = None


class ConsistencyQuery(Struct, frozen=True, kw_only=True, rename={"first": "from", "second": "to"}):
    first: Number
    second: Number | None = None


@describes(
    "the signed checkpoint, a C2SP note", who=PUBLIC, query=CheckpointQuery, answers={200: Content("text/plain")}
)
async def checkpoint(request: web.Request) -> web.Response:
    """The log as it stands. To be cosigned is an event too, so a cosigned checkpoint is never the last: it is asked for by name."""
    node, asked = request.app[NODE], decode_query(request, CheckpointQuery)
    with node.view() as view:
        size, lines = view.peers.cosigned() if asked.cosigned else (0, [])
    size = size or node.log.announced().size
    note = checkpoint_at(node.log, size, node.log_origin(size), node.signer)
    note += "".join(f"{line}\n" for line in lines)
    return web.Response(text=note, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})


@describes(
    "the proof that an entry is in the log",
    who=PUBLIC,
    query=InclusionQuery,
    answers={200: Proof},
    refuses=(MissingField, ProofOutOfRange),
)
async def inclusion(request: web.Request) -> web.Response:
    """`size` left out: the log as it stands."""
    node, asked = request.app[NODE], decode_query(request, InclusionQuery)
    head = node.log.announced().size
    size = head if asked.size is None else asked.size
    if not asked.offset < size <= head:
        raise ProofOutOfRange(f"offset < size <= {head} is needed")
    return json_response(inclusion_proof(node.log, asked.offset, size, node.log_origin(size), node.signer))


@describes(
    "the proof that the log goes on from a shorter one",
    who=PUBLIC,
    query=ConsistencyQuery,
    answers={200: Proof},
    refuses=(MissingField, ProofOutOfRange),
)
async def consistency(request: web.Request) -> web.Response:
    """`to` left out: the log as it stands."""
    node, asked = request.app[NODE], decode_query(request, ConsistencyQuery)
    head = node.log.announced().size
    second = head if asked.second is None else asked.second
    if not 0 < asked.first <= second <= head:
        raise ProofOutOfRange(f"0 < from <= to <= {head} is needed")
    return json_response(consistency_proof(node.log, asked.first, second, node.log_origin(second), node.signer))
