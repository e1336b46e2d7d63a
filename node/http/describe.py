"""What a route says of itself: `@describes` on its handler, from which `/openapi.json` is made (see `openapi.py`).

Always: it names the structs that the handler decodes and answers with, and the tests hold every answer against it.

What every route of a kind can be refused with (no credential, no JSON, a full disk) is not repeated at each (`route_refusals.py`).
Does nothing when a request comes in.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import UNSET, Struct, UnsetType

from node import errors
from node.errors import Refusal
from node.http.forms import Count

H = TypeVar("H", bound=Handler)

# public: no credential; admin: the admin key, or an API key with the permission `admin`; key: an API key;
# member, its admin, its moderator: an API key in the name of somebody with that role in the garden; token: a capability token;
# peer: a peer token.
Who = Literal["public", "admin", "key", "member", "its admin", "its moderator", "token", "peer"]

PUBLIC: tuple[Who, ...] = ("public",)
ADMIN: tuple[Who, ...] = ("admin",)
KEYS: tuple[Who, ...] = ("admin", "key")
MEMBERS: tuple[Who, ...] = ("admin", "member")
GARDEN_ADMINS: tuple[Who, ...] = ("admin", "its admin")
MODERATORS: tuple[Who, ...] = ("admin", "its moderator")
READERS: tuple[Who, ...] = ("admin", "key", "token")
PEER: tuple[Who, ...] = ("peer",)

# What any write can be refused with. Routes that are no GET need not name them.
WRITES: tuple[type[Refusal], ...] = (errors.StorageFull, errors.StorageFailed, errors.Overloaded)

# What an API key can be refused with, whatever it is shown for.
KEY: tuple[type[Refusal], ...] = (errors.ApiKeyExpired, errors.ApiKeyRevoked, errors.ApiKeyAsleep)
# What a capability token can be refused with, whatever it is shown for.
CAPABILITY: tuple[type[Refusal], ...] = (
    errors.TokenMalformed,
    errors.UnknownIssuer,
    errors.TokenSignatureInvalid,
    errors.TimestampFutureDated,
    errors.CapabilityExpired,
    errors.CapabilityLifetimeExceeded,
    errors.SubjectNotDelegated,
    errors.TokenRevoked,
    errors.TokenAsleep,
)
# What is wrong with a fact as such, whoever states it.
FACT: tuple[type[Refusal], ...] = (
    errors.FieldTooLong,
    errors.InvalidUri,
    errors.InvalidValue,
    errors.ReservedNamespace,
    errors.TextTooLarge,
    errors.TimestampOutOfWindow,
    errors.EntityIsTombstoned,
)


class RefusalBody(Struct, frozen=True, kw_only=True):
    """What was wrong: `error` is a stable code, `detail` is for people. `retry_after` and `retry_after_s` are seconds, `offset` is
    that of a log entry that does not hold."""

    error: str
    detail: str
    retry_after: Count | UnsetType = UNSET
    retry_after_s: Count | UnsetType = UNSET
    offset: Count | UnsetType = UNSET


class Content(Struct, frozen=True):
    """An answer that is no struct: text, unless `json_type` says otherwise."""

    content_type: str
    json_type: str = "string"


class Header(Struct, frozen=True, kw_only=True):
    """A header of requests: what it says, and the form of it where it has one."""

    what: str
    pattern: str | None = None


# A struct or a text, several of which one is answered, or None for an answer without a body.
Answer = type | Content | tuple[type | Content, ...] | None


class Description(Struct, frozen=True, kw_only=True):
    """One route. `body` is None where none is read; `refuses` are the refusals of its own, `refusal` what
    is answered then."""

    what: str
    who: tuple[Who, ...]
    answers: Mapping[int, Answer]
    query: type | None
    body: type | tuple[type, ...] | None
    is_body_optional: bool
    headers: Mapping[str, Header]
    sends: Mapping[int, Mapping[str, str]]
    refuses: tuple[type[Refusal], ...]
    refusal: type[RefusalBody]
    reads_node: bool


_DESCRIPTIONS: dict[Handler, Description] = {}


def describes(
    what: str,
    *,
    who: tuple[Who, ...],
    answers: Mapping[int, Answer],
    query: type | None = None,
    body: type | tuple[type, ...] | None = None,
    is_body_optional: bool = False,
    headers: Mapping[str, Header] | None = None,
    sends: Mapping[int, Mapping[str, str]] | None = None,
    refuses: tuple[type[Refusal], ...] = (),
    refusal: type[RefusalBody] = RefusalBody,
    reads_node: bool = True,
) -> Callable[[H], H]:
    """Declare a handler's route: in words, who may call it, and what comes of it, by status.

    `headers` are request headers with a meaning here, `sends`, in words, those of the answer, by status; `reads_node` is False
    where an answer needs neither log nor views.
    """

    def declared(handler: H) -> H:
        _DESCRIPTIONS[handler] = Description(
            what=what,
            who=who,
            answers=answers,
            query=query,
            body=body,
            is_body_optional=is_body_optional,
            headers=headers or {},
            sends=sends or {},
            refuses=refuses,
            refusal=refusal,
            reads_node=reads_node,
        )
        return handler

    return declared


def description_of(route: web.RouteDef) -> Description:
    """Raises LookupError for a route whose handler declares nothing."""
    try:
        return _DESCRIPTIONS[route.handler]
    except KeyError as error:
        raise LookupError(f"{route.method} {route.path}: its handler has no @describes") from error
