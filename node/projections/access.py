"""What a caller may read, and the one rule that says whether a fact is among it (PROTOCOL §2.5).

Always: whatever shows or counts facts asks `is_readable` or `may_read` first: tombstone, scope, then garden, then quarantine.
Always: a fact whose garden was deleted is left to node admins, who are the only ones without a list of gardens.

Does not say who has which access (see `node/commands/reading.py`).
"""

from msgspec import Struct

from node.events.facts import Scope
from node.projections import told_facts
from node.projections.fact_rows import FactRow, row_at
from node.projections.view import View
from node.uris import lies_under, normal_uri

ALL_SCOPES: tuple[Scope, ...] = ("local", "team", "company", "public")


class Access(Struct, frozen=True, kw_only=True):
    """The facts a caller may read: those in `scopes`, under `entity_prefix` if there is one, and of those in gardens the ones in
    `gardens`. What waits in quarantine, or was rejected there, is known to those who moderate its garden alone.

    `gardens` and `moderates` are ids of gardens that stand; None is a node admin's, who sees all.
    """

    scopes: tuple[Scope, ...]
    entity_prefix: str | None
    gardens: frozenset[str] | None
    moderates: frozenset[str] | None

    def is_member(self, garden_id: str) -> bool:
        """Whether the facts in that garden may be read."""
        return self.gardens is None or garden_id in self.gardens

    def is_moderator(self, garden_id: str | None) -> bool:
        """Whether what that garden holds in quarantine may be known of."""
        return self.moderates is None or garden_id in self.moderates


EVERYTHING = Access(scopes=ALL_SCOPES, entity_prefix=None, gardens=None, moderates=None)
NOTHING = Access(scopes=(), entity_prefix=None, gardens=frozenset(), moderates=frozenset())


def is_readable(row: FactRow, access: Access) -> bool:
    """Whether the caller may read a fact that is shown, or, in quarantine, know of it at all."""
    fact = row.fact
    if row.hidden or fact.scope not in access.scopes:
        return False
    if access.entity_prefix is not None and not lies_under(normal_uri(fact.entity), access.entity_prefix):
        return False
    if row.garden_id is not None and not access.is_member(row.garden_id):
        return False
    return row.shown_from is not None or access.is_moderator(row.quarantine_garden_id)


def readable_at(row: FactRow, access: Access, size: int) -> FactRow | None:
    """The row as the first `size` entries of the log make it; None where they do not bring it or the caller may not read it.

    Rights are those of now: what may not be read as it is now may not be read as it was.
    """
    then = row_at(row, size)
    return (
        then if then is not None and is_readable(row, access) and (then is row or is_readable(then, access)) else None
    )


def may_read(row: FactRow, view: View, access: Access) -> bool:
    """The same, of what the node itself says too: who may not read what that is about may not know of it either."""
    subject = told_facts.subject_of(row, view)
    return is_readable(row, access) and (subject is None or is_readable(subject, access))
