"""`Idempotency-Key`: a request sent again is answered as it was, and not carried out again (PROTOCOL §2.7, docs/idempotency.md).

Always: an answer told again is made from the entries that the request made, by the function that made it the first time, so nothing
is kept of it besides; where it does not follow from them, it stands in the log.
Always: of the requests under one key the later ones wait for the first.

Does not decide whether a key is taken (see `node/commands/idempotency.py`).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec import Struct, structs

from node.canonical import b64url_encode
from node.commands.decision import Outcome, Principal
from node.commands.idempotency import Claim, Once, require_still_known, told_before
from node.errors import EntityIsTombstoned, InvalidField
from node.events.entry import Entry
from node.events.event import ERASED
from node.http.body import encoded_response
from node.http.describe import Header
from node.http.forms import IDEMPOTENCY_KEY
from node.http.keys import NODE, PRINCIPAL
from node.kept_secrets import KeptSecrets
from node.keys import keyed_hash
from node.projections.idempotency import Taken
from node.projections.view import View
from node.strict_json import scan_json
from node.uris import normal_uri

HEADER = "Idempotency-Key"
_SAID = "1 to 255 printable ASCII characters: the request is carried out once, however often it is sent"
TAKES_KEY = {HEADER: Header(what=_SAID, pattern=IDEMPOTENCY_KEY)}
_KEY = re.compile(IDEMPOTENCY_KEY)

# Makes the answer of the entries that a request made: the same whenever it is asked, whatever the view has learnt since.
Answer = Callable[[Sequence[Entry], View], web.Response]


class _Turn(Struct):
    lock: asyncio.Lock
    users: int = 0


class Turns:
    """The turns of requests under one key, and what follows from the node's own: hashes of what was asked, secrets told again."""

    def __init__(self, secrets: Callable[[], KeptSecrets]) -> None:
        # Asked for each time: a rotation of the node's key brings others.
        self._secrets = secrets
        self._turns: dict[bytes, _Turn] = {}

    def request_hash(self, path: str, content: object) -> str:
        """Of what is asked, not of how it is spelled: the order of members and the space between them do not count."""
        asked = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return keyed_hash(self._secrets().idempotency, f"{path}\n{asked}")

    def secret_of(self, name: str) -> str:
        """32 bytes, base64url, that follow from a name and the node's own key: told again whenever asked, and kept nowhere."""
        return self.secrets_of(name)[0]

    def secrets_of(self, name: str) -> list[str]:
        """The same, and what it was under the node's keys before, newest first."""
        return [b64url_encode(bytes.fromhex(keyed_hash(told, name))) for told in self._secrets().told]

    @asynccontextmanager
    async def of(self, claim: Claim) -> AsyncIterator[None]:
        turn = self._turns.setdefault(claim.name, _Turn(asyncio.Lock()))
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[claim.name]


TURNS: web.AppKey[Turns] = web.AppKey("turns", Turns)


def claim_of(request: web.Request, body: bytes, *, named: str | None = None) -> Claim | None:
    """What the request claims its key for, None where it has none; `named` is the body's `idempotency_key`.

    `body` has passed `scan_json`. Raises InvalidField for a key of another form, or two that differ.
    """
    if named is None and HEADER not in request.headers:
        return None
    return claim_for(request, scan_json(body), named=named)


def claim_for(request: web.Request, content: object, *, named: str | None) -> Claim | None:
    """The same of a body that has been scanned already."""
    if named is None and HEADER not in request.headers:
        return None
    key = _key_of(request, named)
    if isinstance(content, dict):
        content = {name: member for name, member in content.items() if name != "idempotency_key"}
    return Claim(
        principal=structs.replace(request[PRINCIPAL], idempotency_key=key),
        route=f"{request.method} {request.match_info.route.resource.canonical}",
        request_hash=request.app[TURNS].request_hash(request.path, content),
    )


@asynccontextmanager
async def turn_of(request: web.Request, claim: Claim) -> AsyncIterator[Taken | None]:
    """The turn of a request under its key, with what was done under the key before. Raises IdempotencyKeyReused."""
    node = request.app[NODE]
    async with request.app[TURNS].of(claim):
        with node.view() as view:
            taken = told_before(claim, view, node.clock.at_ms())
        yield taken


async def carry_out(
    request: web.Request, body: bytes, command_of: Callable[[Principal], Struct], answer: Answer
) -> web.Response:
    """Carry out the request's command, once where it has a key, and answer with what its entries say."""
    claim = claim_of(request, body)
    if claim is None:
        command = command_of(request[PRINCIPAL])
        return await request.app[NODE].execute(command, lambda outcome, view: answer(outcome.entries, view))

    async def made() -> Struct:
        return command_of(claim.principal)

    return await carry_out_once(request, claim, made, answer)


async def carry_out_once(
    request: web.Request, claim: Claim, command_of: Callable[[], Awaitable[Struct]], answer: Answer
) -> web.Response:
    """The same under a key; `command_of` is asked only where nothing was done under it before."""
    node = request.app[NODE]

    def prepare(outcome: Outcome, view: View) -> web.Response | Taken:
        # Another's entries may still be on their way to disk.
        return outcome.reply if isinstance(outcome.reply, Taken) else answer(outcome.entries[:-1], view)

    async with turn_of(request, claim) as taken:
        done = taken or await node.execute(Once(claim=claim, command=await command_of()), prepare)
        return _told_again(done, answer, request) if isinstance(done, Taken) else done


def recorded_answer(taken: Taken) -> web.Response:
    """The answer of a request whose answer stands in the log: all of those are 201."""
    return encoded_response(taken.answer.encode(), 201)


def _told_again(taken: Taken, answer: Answer, request: web.Request) -> web.Response:
    node = request.app[NODE]
    entries = node.vouched_entries(taken.first, taken.end)
    with node.view() as view:
        for entry in entries:
            _require_not_buried(entry, view)
            require_still_known(entry.event, request[PRINCIPAL], view)
        return answer(entries, view)


def _require_not_buried(entry: Entry, view: View) -> None:
    """Raises EntityIsTombstoned for an entry whose facts were erased or are hidden: nothing is told of them, to nobody."""
    fact = getattr(entry.event, "fact", None)
    if entry.event is ERASED or (fact is not None and view.facts.is_tombstoned(normal_uri(fact.entity), fact.scope)):
        raise EntityIsTombstoned("what this request wrote is about an entity that is tombstoned")


def _key_of(request: web.Request, named: str | None) -> str:
    given = [*request.headers.getall(HEADER, ()), *(() if named is None else (named,))]
    if len(set(given)) > 1:
        raise InvalidField(f"{HEADER}: given more than once, and not alike")
    if not _KEY.fullmatch(given[0]):
        field = HEADER if HEADER in request.headers else "idempotency_key"
        raise InvalidField(f"{field}: 1 to 255 printable ASCII characters")
    return given[0]
