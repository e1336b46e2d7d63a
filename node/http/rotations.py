"""POST /v1/admin/keys/rotate: the node goes on under a new key (PROTOCOL §11)."""

from aiohttp import web
from msgspec import Struct

from node.errors import InvalidField, KeyFileUnwritable, ManifestRotationChainInvalid
from node.events.rotations import RotationEvent
from node.http.auth import operator_of
from node.http.body import json_response, read_json
from node.http.describe import ADMIN, describes
from node.http.forms import Time
from node.http.keys import NODE
from node.strict_json import decode
from node.times import parse_rfc3339

MAX_BYTES = 1 << 16


class RotateRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`since` (RFC 3339) is from when the old key was in other hands; without it, from now on."""

    compromised: bool = False
    since: Time | None = None


@describes(
    "go on under a new key; the old one names it",
    who=ADMIN,
    body=RotateRequest,
    answers={200: RotationEvent},
    refuses=(KeyFileUnwritable, ManifestRotationChainInvalid),
)
async def rotate_key(request: web.Request) -> web.Response:
    """The rotation as manifests carry it from now on."""
    node, principal = request.app[NODE], operator_of(request)
    asked = decode(await read_json(request, max_bytes=MAX_BYTES), RotateRequest)
    since_ms = None if asked.since is None else _epoch_ms(asked.since)
    rotation = await node.rotate_key(principal, is_compromised=asked.compromised, since_ms=since_ms)
    return json_response(rotation)


def _epoch_ms(since: str) -> int:
    try:
        return parse_rfc3339(since)
    except ValueError as error:
        raise InvalidField("since: not an RFC 3339 time") from error
