"""The OpenAPI 3.1 document of the routes, made from what their handlers declare and the structs they use (PROTOCOL §13).

Always: an answer's schema names every member: one that is missing, or one more, does not validate. What a request may hold is what
its struct takes; unknown members are refused, unknown query parameters are ignored (PROTOCOL §1).
Always: it depends on the code alone, not on a node's settings, so it is made once per process.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from node import VERSION
from node.commands.drafts import StatedValue
from node.commands.served_facts import ShownValue
from node.http.describe import Answer, Content, Description, Who, description_of
from node.http.errors import status_of_kind
from node.http.parameters import ASKED, PLACES
from node.http.route_refusals import refusals_of

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PLACE = re.compile(r"{([a-z_]+)(?::[^}]*)?}")
_ABOUT = """A federated, signed, append-only memory: facts that agents assert, with who said them, shared between organisations.

Every answer that is no success has the body `{"error": code, "detail": text}`; codes are stable, `detail` is for people. Members
that a route does not know are refused in bodies and ignored among query parameters. Every answer has the header
`X-Content-Type-Options: nosniff`; others that say something stand beside the answer. On a node without authentication
(loopback only) no credential is asked for where the admin key is named here."""

_SCHEMES: dict[Who, tuple[str, Json]] = {
    "admin": (
        "adminKey",
        {"type": "http", "scheme": "bearer", "description": "The admin key (`STIGMEM_ADMIN_KEY`)."},
    ),
    "key": (
        "apiKey",
        {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`POST /v1/auth/keys`). Its permissions, scopes and sources say what it may do.",
        },
    ),
    "token": (
        "capabilityToken",
        {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JSON",
            "description": "A capability token: its JSON text as it was issued. Its grant says what it may do.",
        },
    ),
    "peer": (
        "peerToken",
        {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A peer's token, signed with its node key for one request.",
        },
    ),
}

# Places of which something is known beside what they mean.
_FORMS: dict[str, Json] = {"token_id": {"type": "string", "format": "uuid"}}

# What a refusal of a status says in its header.
_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "`Bearer`."},
    405: {"Allow": "The methods that the route takes."},
    429: {"Retry-After": "In how many seconds it may be tried again, where that is known."},
    503: {"Retry-After": "In how many seconds it may be tried again, where that is known."},
}


def document_of(routes: Iterable[web.RouteDef]) -> bytes:
    """The document as JSON. LookupError where a route declares nothing, ValueError where two structs cannot share a document."""
    described = [(route, description_of(route)) for route in routes]
    paths: dict[str, Json] = defaultdict(dict)
    for route, said in described:
        paths[_PLACE.sub(r"{\1}", route.path)][route.method.lower()] = _operation(route, said)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Stigmem node", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": _components([said for _, said in described]),
            "securitySchemes": dict(_SCHEMES.values()),
        },
    }
    return msgspec.json.encode(document)


def _operation(route: web.RouteDef, said: Description) -> Json:
    operation: Json = {
        "operationId": route.handler.__name__,
        "tags": [route.handler.__module__.rpartition(".")[2]],
        "summary": said.what,
        **({"description": inspect.getdoc(route.handler)} if route.handler.__doc__ else {}),
        "security": [] if "public" in said.who else [{_SCHEMES[who][0]: []} for who in _credentials(said)],
        "parameters": [*_places(route.path), *_parameters(said.query), *_headers(said)],
        "responses": {str(status): answer for status, answer in sorted(_responses(route, said))},
    }
    if said.body is not None:
        operation["requestBody"] = {"required": not said.is_body_optional, "content": _json(_schema(said.body))}
    return operation


def _credentials(said: Description) -> Iterable[Who]:
    """Whose credentials are taken: an API key may have the permission `admin`, or be in the name of a garden's member."""
    if "admin" not in said.who:
        return said.who
    return ("admin", "key", *(["token"] if "token" in said.who else []))


def _places(path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PLACES[name],
            "schema": _FORMS.get(name, {"type": "string"}),
        }
        for name in _PLACE.findall(path)
    ]


def _parameters(query: type | None) -> list[Json]:
    if query is None:
        return []
    schema = msgspec.json.schema_components([query], ref_template=_REF)[1][query.__name__]
    required = schema.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": ASKED[name],
            "schema": _not_null(member),
        }
        for name, member in schema["properties"].items()
    ]


def _not_null(schema: Json) -> Json:
    """A parameter is there or it is not: no text of a query is null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return schema
    kept = {name: value for name, value in schema.items() if name != "anyOf" and value is not None}
    return kept | (options[0] if len(options) == 1 else {"anyOf": options})


def _headers(said: Description) -> list[Json]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": header.what,
            "schema": {"type": "string"} | ({"pattern": header.pattern} if header.pattern else {}),
        }
        for name, header in said.headers.items()
    ]


def _responses(route: web.RouteDef, said: Description) -> Iterator[tuple[int, Json]]:
    for status, answer in said.answers.items():
        yield status, _answered(answer, said) | _sent(said.sends.get(status, {}))
    by_status: dict[int, set[str]] = defaultdict(set)
    for refusal in refusals_of(route, said):
        by_status[status_of_kind(refusal)].add(refusal.code)
    for status, codes in by_status.items():
        yield status, _refused(status, sorted(codes), said)


def _answered(answer: Answer, said: Description) -> Json:
    parts = answer if isinstance(answer, tuple) else (answer,)
    documented = [one.__doc__ for one in _types(answer) if one.__doc__]
    response: Json = {"description": documented[0].partition("\n\n")[0] if documented else said.what}
    texts = {one.content_type: {"schema": {"type": one.json_type}} for one in parts if isinstance(one, Content)}
    if texts or answer is not None:
        response["content"] = texts or _json(_schema(answer))
    return response


def _refused(status: int, codes: list[str], said: Description) -> Json:
    schema = {"allOf": [_schema(said.refusal), {"properties": {"error": {"enum": codes}}}]}
    return {"description": ", ".join(codes), "content": _json(schema)} | _sent(_HEADERS.get(status, {}))


def _sent(headers: Mapping[str, str]) -> Json:
    shown = {name: {"description": what, "schema": {"type": "string"}} for name, what in headers.items()}
    return {"headers": shown} if shown else {}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _schema(struct: type | tuple[type, ...]) -> Json:
    structs = struct if isinstance(struct, tuple) else (struct,)
    named = [{"$ref": _REF.format(name=one.__name__)} for one in structs]
    return named[0] if len(named) == 1 else {"anyOf": named}


def _components(described: list[Description]) -> dict[str, Json]:
    asked = _reachable(one for said in described for one in _types(said.body))
    answered = _reachable(
        [one for said in described for answer in (said.refusal, *said.answers.values()) for one in _types(answer)]
    )
    structs = asked | answered
    _, components = msgspec.json.schema_components(sorted(structs, key=lambda one: one.__name__), ref_template=_REF)
    if set(components) != {one.__name__ for one in structs}:
        raise ValueError("two structs of one name, or a struct that is no JSON object, in requests and answers")
    for struct in answered:
        if struct in asked and not _is_alike(struct):
            raise ValueError(
                f"{struct.__name__}: asked for and answered with, where a default may be left out of the one only"
            )
        components[struct.__name__] |= _exact(struct)
    components |= {
        ShownValue.__name__: _value("A typed value.", ["instruction"]),
        StatedValue.__name__: _value("A value as it is stated.", ["content", "instruction"]),
    }
    return components


def _types(answer: object) -> tuple[type, ...]:
    return tuple(one for one in (answer if isinstance(answer, tuple) else (answer,)) if isinstance(one, type))


def _reachable(structs: Iterable[type]) -> set[type]:
    found: set[type] = set()
    left = [msgspec.inspect.type_info(one) for one in structs]
    while left:
        info = left.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                continue
            found.add(info.cls)
            left += [field.type for field in info.fields]
        else:
            left += [getattr(info, name) for name in ("type", "item_type", "value_type") if hasattr(info, name)]
            left += [part for name in ("types", "item_types") for part in getattr(info, name, ())]
    return found


def _exact(struct: type) -> Json:
    """What is answered is answered whole, but for members that may be left out."""
    fields = msgspec.structs.fields(struct)
    required = [field.encode_name for field in fields if field.default is not UNSET]
    return {"required": required, "additionalProperties": getattr(struct, "is_open", False)}


def _is_alike(struct: type) -> bool:
    required = all(field.required or field.default is UNSET for field in msgspec.structs.fields(struct))
    return required and struct.__struct_config__.forbid_unknown_fields


def _value(description: str, interpretations: list[str]) -> Json:
    """A value is one of these, by its `type`: msgspec has no struct whose one member decides what another holds."""
    kinds: list[tuple[list[str], Json]] = [
        (["string", "text", "datetime"], {"type": "string"}),
        (["ref"], {"type": "string", "minLength": 1}),
        (["number"], {"type": "number"}),
        (["boolean"], {"type": "boolean"}),
        (["null"], {"type": "null"}),
    ]
    interpretation = {"enum": interpretations, "description": "`content` where it is left out."}
    return {
        "description": description,
        "examples": [{"type": "string", "v": "green"}],
        "oneOf": [_valued(types, v, interpretation) for types, v in kinds],
    }


def _valued(types: list[str], v: Json, interpretation: Json) -> Json:
    return {
        "type": "object",
        "properties": {"type": {"enum": types}, "v": v, "interpret_as": interpretation},
        "required": ["type"] if types == ["null"] else ["type", "v"],
        "additionalProperties": False,
    }
