"""Capability tokens this node issued, their revocations, and foreign tokens it agreed to countersign under (PROTOCOL §8, §9).

Always: a token counts only if its id was issued in this log; what it grants is what was logged, not what is presented.

Does not check signatures or expiry (see `node/commands/capabilities.py`).
"""

from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct, structs

from node.events.entry import Entry
from node.events.event import Event
from node.events.tokens import CapabilityAccepted, CapabilityIssued, CapabilityRevoked, Grant
from node.projections.base import Handles, Projection, TableSpec, text_key
from node.times import format_ms


class IssuedToken(Struct, frozen=True, array_like=True):
    """A token's grant and, once revoked, when (RFC 3339) and why. Issued at `offset`, revoked at `revoked_from`."""

    offset: int
    grant: Grant
    issued_by: str | None
    revoked_at: str | None
    revocation_reason: str | None
    revoked_from: int | None

    def at(self, size: int) -> "IssuedToken | None":
        """The token as the first `size` entries of the log make it; None where they do not issue it."""
        if self.offset >= size:
            return None
        if self.revoked_from is None or self.revoked_from < size:
            return self
        return structs.replace(self, revoked_at=None, revocation_reason=None, revoked_from=None)


_ISSUED = TableSpec("tokens/issued", IssuedToken, hashed=((0, 16),))
_BY_SUBJECT = TableSpec("tokens/by_subject", bytes, hashed=((0, 32),))
_ACCEPTED = TableSpec("tokens/accepted", str, hashed=((0, 16),))


class Tokens(Projection):
    name: ClassVar[str] = "tokens"
    version: ClassVar[int] = 2
    events: ClassVar[tuple[type[Event], ...]] = (CapabilityIssued, CapabilityRevoked, CapabilityAccepted)
    tables: ClassVar[tuple[TableSpec, ...]] = (_ISSUED, _BY_SUBJECT, _ACCEPTED)

    def __init__(self, txn: object, handles: Handles) -> None:
        super().__init__(txn, handles)
        # Every decision asks; one view looks once.
        self._is_any_issued: bool | None = None

    def is_any_issued(self) -> bool:
        if self._is_any_issued is None:
            self._is_any_issued = next(self.table(_BY_SUBJECT).scan(), None) is not None
        return self._is_any_issued

    def issued(self, token_id: str) -> IssuedToken | None:
        return self.table(_ISSUED).get(text_key(token_id))

    def all_issued(self) -> list[IssuedToken]:
        """Every token issued here, newest first."""
        return sorted((token for _, token in self.table(_ISSUED).scan()), key=lambda token: -token.offset)

    def of_subject(self, subject: str) -> Iterator[IssuedToken]:
        for _, token_id in self.table(_BY_SUBJECT).scan(text_key(subject)):
            token = self.issued(token_id.decode())
            if token is not None:
                yield token

    def is_accepted(self, token_id: str) -> bool:
        return self.table(_ACCEPTED).has(text_key(token_id))

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case CapabilityIssued(grant=grant):
                token = IssuedToken(entry.offset, grant, entry.actor.principal, None, None, None)
                self.table(_ISSUED).put(text_key(grant.token_id), token)
                key = text_key(grant.subject) + text_key(grant.token_id)
                self.table(_BY_SUBJECT).put(key, grant.token_id.encode())
                self._is_any_issued = True
            case CapabilityRevoked(revocation=revocation, reason=reason):
                token = self.issued(revocation.token_id)
                if token is not None:
                    revoked = structs.replace(
                        token, revoked_at=revocation.revoked_at, revocation_reason=reason, revoked_from=entry.offset
                    )
                    self.table(_ISSUED).put(text_key(revocation.token_id), revoked)
            case CapabilityAccepted(token_id=token_id):
                self.table(_ACCEPTED).put(text_key(token_id), format_ms(entry.at_ms))
            case _:
                pass  # no other event is about capability tokens
