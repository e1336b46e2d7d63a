"""Documents of peers that hold a list of facts: one that is no strict JSON is refused alone, not those beside it (PROTOCOL §5.5).

Always: what is returned has passed `scan_json`, and but for such facts it says what was sent.

Does not judge what can be read (see `ingest.py`).
"""

import json
import math

from node.errors import MalformedJson
from node.projections.federation_page import MAX_PAGE_FACTS
from node.strict_json import MAX_INT_CHARS, MAX_LIST_VALUES, require_few_values, scan_json, without_depth


def with_readable_facts(raw: bytes) -> bytes:
    """The document, in which nothing but its id is left of each unreadable fact of `facts`. Raises MalformedJson."""
    require_few_values(raw, MAX_LIST_VALUES)
    try:
        scan_json(raw, max_values=MAX_LIST_VALUES)
    except MalformedJson as refusal:
        return _without_unreadable(raw, refusal)
    return raw


def _without_unreadable(raw: bytes, refusal: MalformedJson) -> bytes:
    """Raises the refusal where what is wrong does not lie in facts."""
    try:
        text = without_depth(raw.decode(errors="surrogateescape"))
        document = json.loads(text, object_pairs_hook=_marked, parse_int=_marked_integer)
        if not isinstance(document, dict) or not isinstance(document.get("facts"), list):
            raise refusal
        # Each unreadable fact costs more than a readable one: no more of them than any such document may hold.
        if len(document["facts"]) > MAX_PAGE_FACTS:
            raise refusal
        readable = json.dumps(document | {"facts": [_readable(fact) for fact in document["facts"]]}).encode()
    except ValueError as error:
        raise refusal from error
    scan_json(readable, max_values=MAX_LIST_VALUES)
    return readable


def _marked(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """What no scan passes is put where two keys are the same: the one that is left would look sound."""
    return dict(pairs) if len({key for key, _ in pairs}) == len(pairs) else dict(pairs) | {"": math.nan}


def _marked_integer(literal: str) -> int | float:
    return int(literal) if len(literal) <= MAX_INT_CHARS else math.nan


def _readable(fact: object) -> object:
    try:
        scan_json(json.dumps(fact, ensure_ascii=False).encode())
    except (MalformedJson, UnicodeEncodeError):
        fact_id = fact.get("id") if isinstance(fact, dict) else None
        return {"id": fact_id} if isinstance(fact_id, str) and fact_id.isascii() else {}
    return fact
