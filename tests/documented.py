"""Every answer that a test gets, held against the API's own document: its status, its headers, and its body member by member.

Always: validators are made once per process and answer; what is checked is what `/openapi.json` serves.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from node.http.app import own_document

_URN = "urn:stigmem:openapi"
# What every answer has, and what belongs to the connection.
_EVERYWHERE = {"content-type", "content-length", "date", "server", "x-content-type-options", "connection"}
_EVERYWHERE |= {"transfer-encoding", "keep-alive"}


def check_answer(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raises AssertionError where the document does not let this route answer so. `path` as it stood in the request."""
    route = _route_of(path.partition("?")[0])
    operation = (
        None if route is None else _document()["paths"][route].get("get" if method == "HEAD" else method.lower())
    )
    what = f"{method} {route or path} {status}"
    if operation is None:
        assert status in ((404,) if route is None else (405,)), (
            f"{what}: there is no such route, or not with this method"
        )
        return _check(what, body, _validator_of_refusals()) if method != "HEAD" else None
    response = operation["responses"].get(str(status))
    assert response is not None, f"{what}: the document knows no such status; answered {body[:500]!r}"
    undeclared = (
        {name.lower() for name in headers} - _EVERYWHERE - {name.lower() for name in response.get("headers", ())}
    )
    assert not undeclared, f"{what}: the document knows no such headers: {sorted(undeclared)}"
    if method == "HEAD":
        return None
    if "content" not in response:
        assert not body, f"{what}: the document knows no body"
        return None
    media = headers.get("Content-Type", "").partition(";")[0]
    assert media in response["content"], f"{what}: {media!r} is not among {sorted(response['content'])}"
    if media == "application/json":
        _check(what, body, _validator(route, "get" if method == "HEAD" else method.lower(), status))
    return None


def _check(what: str, body: bytes, validator: Any) -> None:
    found = next(iter(validator.iter_errors(json.loads(body))), None)
    if found is not None:
        place = "/".join(str(step) for step in found.instance_path)
        raise AssertionError(f"{what}: the document has another body at {place!r}: {found.message[:1000]}")


@cache
def _document() -> dict[str, Any]:
    return json.loads(own_document().body)


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Paths without places first: `/verify` is no token's id."""
    paths = sorted(_document()["paths"], key=lambda path: path.count("{"))
    return [
        (
            re.compile(re.sub(r"\\{entity_uri\\}", ".+", re.sub(r"\\{(?!entity_uri)\w+\\}", "[^/]+", re.escape(path)))),
            path,
        )
        for path in paths
    ]


def _route_of(path: str) -> str | None:
    return next((route for pattern, route in _patterns() if pattern.fullmatch(path)), None)


@cache
def _registry() -> Any:
    return jsonschema_rs.Registry([(_URN, {"$id": _URN, **_document()})])


@cache
def _validator(route: str, method: str, status: int) -> Any:
    place = route.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
    return _made(f"#/paths/{place}/{method}/responses/{status}/content/application~1json/schema")


@cache
def _validator_of_refusals() -> Any:
    return _made("#/components/schemas/RefusalBody")


def _made(pointer: str) -> Any:
    return jsonschema_rs.Draft202012Validator({"$ref": _URN + pointer}, registry=_registry(), validate_formats=True)
