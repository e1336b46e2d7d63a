"""What the command line asks of a running node: signed facts, accepted tokens, and how tables look.

Always: a signature is made here, over the body built from validated fields (PROTOCOL §2.4); the key never travels.
"""

import asyncio
import ssl
import time
from contextvars import ContextVar

import aiohttp
import msgspec
from msgspec import Struct

from node.canonical import b64url_encode
from node.commands.drafts import StatedValue, draft_of
from node.errors import MalformedJson
from node.events.facts import ValueType, body_of
from node.keys import load_signer
from node.strict_json import MAX_LIST_VALUES, scan_json
from node.times import format_ms
from node.uris import authority_of, normal_uri

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 1 << 26
# A CA that a command trusts beside the system's: of the command as a whole, whatever it asks and of whom.
CA_FILE: ContextVar[str | None] = ContextVar("CA_FILE", default=None)
_TYPED = {"number": int | float, "boolean": bool}


class NodeRefused(Exception):
    """The node's answer was not a success; the message is one line for the terminal, `answer` the JSON it said, where it did."""

    def __init__(self, words: str, *, answer: bytes | None = None) -> None:
        super().__init__(words)
        self.answer = answer


class _Told(Struct):
    """How a node of our kind says no; a reference node says `detail` alone (INTEROP §9)."""

    error: str = ""
    detail: str = ""


class _Counted(Struct):
    rejected: int


class Statement(Struct, frozen=True, kw_only=True):
    """A fact to assert from the command line."""

    entity: str
    relation: str
    value: StatedValue
    source: str
    confidence: float
    scope: str


def value_of(value_type: ValueType, text: str) -> StatedValue:
    """The value that was typed; numbers and booleans as JSON writes them. Raises ValueError for what is none."""
    # Not float(): it rounds an integer that a double cannot hold, which the node refuses.
    form = _TYPED.get(value_type)
    if form is None:
        return StatedValue(type=value_type, v=text)
    try:
        return StatedValue(type=value_type, v=msgspec.json.decode(text, type=form))
    except msgspec.MsgspecError as error:
        raise ValueError(f"--value: no {value_type} as JSON writes one") from error


def assert_fact(url: str, bearer: str, statement: Statement, *, key_file: str | None, passphrase: str | None) -> bytes:
    """Assert a fact, attested with a key where one is given. Returns the node's answer."""
    body = msgspec.to_builtins(statement)
    if key_file is not None:
        body |= _attestation(statement, key_file, passphrase)
    return ask(url, bearer, "POST", "/v1/facts", msgspec.json.encode(body))


def assert_batch(url: str, bearer: str, facts: bytes, *, is_atomic: bool, idempotency_key: str | None) -> bytes:
    """Assert facts in one batch. Returns the node's answer.

    They are a JSON array, or one object a line. Raises MalformedJson, which names the line, for what is neither.
    """
    body = {"facts": _listed(facts), "atomic": is_atomic}
    if idempotency_key is not None:
        body["idempotency_key"] = idempotency_key
    return ask(url, bearer, "POST", "/v1/facts/batch", msgspec.json.encode(body))


def refused_of(answer: bytes) -> int:
    """How many facts of a batch the node refused."""
    return msgspec.json.decode(answer, type=_Counted).rejected


def _listed(facts: bytes) -> list[msgspec.Raw]:
    if facts.lstrip().startswith(b"["):
        scan_json(facts, max_values=MAX_LIST_VALUES)
        return msgspec.json.decode(facts, type=list[msgspec.Raw])
    lines = []
    # Not splitlines: a text may hold what Unicode counts as the end of a line.
    for number, line in enumerate(facts.split(b"\n"), start=1):
        if line.strip():
            try:
                scan_json(line)
            except MalformedJson as error:
                raise MalformedJson(f"line {number}: {error.detail}") from error
            lines.append(msgspec.Raw(line))
    return lines


def accept_token(url: str, bearer: str, token_id: str) -> bytes:
    return ask(url, bearer, "POST", f"/v1/federation/capability-tokens/{token_id}/accept", b"{}")


def confirm_restore(url: str, bearer: str) -> bytes:
    return ask(url, bearer, "POST", "/v1/admin/restore/confirm", b"{}")


def _attestation(statement: Statement, key_file: str, passphrase: str | None) -> dict[str, object]:
    signer = load_signer(key_file, passphrase)
    source = normal_uri(statement.source)
    now_ms = time.time_ns() // 1_000_000
    draft = draft_of(
        entity=normal_uri(statement.entity),
        relation=statement.relation,
        value=statement.value,
        source=source,
        confidence=statement.confidence,
        scope=statement.scope,
        valid_until=None,
        timestamp=format_ms(now_ms),
        now_ms=now_ms,
        is_signed=True,
    )
    return {
        "entity": draft.entity,
        "source": draft.source,
        "timestamp": draft.timestamp,
        "attestation_chain": [b64url_encode(signer.sign(body_of(draft)))],
        "attestation_chain_issuers": [authority_of(source) or source],
    }


def ask(
    url: str,
    bearer: str | None,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> bytes:
    """The body of the node's answer; without a bearer it is asked as by anybody.

    Raises NodeRefused where that is no success, is too long, or does not come.
    """
    return asyncio.run(_send(url.rstrip("/") + path, bearer, method, body, timeout_s, max_bytes))


async def _send(
    url: str, bearer: str | None, method: str, body: bytes | None, timeout_s: float, max_bytes: int
) -> bytes:
    context = _context(url)
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    headers |= {} if body is None else {"Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # A key goes where its owner sent it: what answers with another address is no success.
            session.request(method, url, data=body, headers=headers, allow_redirects=False, ssl=context) as answer,
        ):
            said = await _read(answer, max_bytes)
            if answer.status >= 300:
                raise _refused(answer.status, said)
            return said
    except TimeoutError as error:
        raise NodeRefused(f"{url}: no answer within {timeout_s:g} s") from error
    except aiohttp.ClientError as error:
        raise NodeRefused(f"{url}: {error}") from error


def _context(url: str) -> ssl.SSLContext | bool:
    """Raises NodeRefused where the CA file cannot be used."""
    path = CA_FILE.get()
    if path is None or not url.startswith("https:"):
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        words = (
            "holds no certificate in PEM" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        )
        raise NodeRefused(f"STIGMEM_CA_FILE: {path} {words}") from error
    return context


def _refused(status: int, said: bytes) -> NodeRefused:
    """What the node said no with: its code and words, its words alone, or whatever it sent."""
    try:
        told = msgspec.json.decode(said, type=_Told)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return NodeRefused(plain(f"{status}: {said.decode(errors='replace')}"))
    words = [words for words in (told.error or str(status), told.detail) if words]
    return NodeRefused(plain(": ".join(dict.fromkeys(words))), answer=said)


def plain(text: str) -> str:
    """Printable characters alone: a terminal obeys what it is sent, and a peer's words may not move its cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def columns(rows: list[tuple[str, ...]]) -> str:
    """Rows of text, the heading first, as a table for a terminal."""
    shown = [tuple(map(plain, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in shown
    )


async def _read(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    said = bytearray()
    async for chunk in answer.content.iter_any():
        said += chunk
        if len(said) > max_bytes:
            raise NodeRefused(f"{answer.url}: an answer of more than {max_bytes} bytes")
    return bytes(said)
