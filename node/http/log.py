"""/v1/log: checkpoint and proofs, for anybody (PROTOCOL §10.2).

Always: nothing here runs past what the views have folded, and no item is ever served.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from node.errors import MissingField, ProofOutOfRange
from node.events.manifest_proof import checkpoint_at, consistency_proof, inclusion_proof
from node.http.body import decode_query, json_response
from node.http.keys import NODE

Number = Annotated[int, Meta(ge=0, le=2**53)]


class CheckpointQuery(Struct, frozen=True, kw_only=True):
    cosigned: bool = False


class InclusionQuery(Struct, frozen=True, kw_only=True):
    offset: Number | None = None
    size: Number | None = None


class ConsistencyQuery(Struct, frozen=True, kw_only=True, rename={"first": "from", "second": "to"}):
    first: Number | None = None
    second: Number | None = None


async def checkpoint(request: web.Request) -> web.Response:
    """The log as it stands. To be cosigned is an event too, so a cosigned checkpoint is never the last: it is asked for by name."""
    node, asked = request.app[NODE], decode_query(request, CheckpointQuery)
    with node.view() as view:
        size, lines = view.peers.cosigned() if asked.cosigned else (0, [])
    size = size or node.log.announced().size
    note = checkpoint_at(node.log, size, node.log_origin(size), node.signer)
    note += "".join(f"{line}\n" for line in lines)
    return web.Response(text=note, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})


async def inclusion(request: web.Request) -> web.Response:
    """`size` left out: the log as it stands."""
    node, asked = request.app[NODE], decode_query(request, InclusionQuery)
    if asked.offset is None:
        raise MissingField("offset")
    head = node.log.announced().size
    size = head if asked.size is None else asked.size
    if not asked.offset < size <= head:
        raise ProofOutOfRange(f"offset < size <= {head} is needed")
    return json_response(inclusion_proof(node.log, asked.offset, size, node.log_origin(size), node.signer))


async def consistency(request: web.Request) -> web.Response:
    """`to` left out: the log as it stands."""
    node, asked = request.app[NODE], decode_query(request, ConsistencyQuery)
    if asked.first is None:
        raise MissingField("from")
    head = node.log.announced().size
    second = head if asked.second is None else asked.second
    if not 0 < asked.first <= second <= head:
        raise ProofOutOfRange(f"0 < from <= to <= {head} is needed")
    return json_response(consistency_proof(node.log, asked.first, second, node.log_origin(second), node.signer))
