"""What a caller may read: decided once from its credential, applied below every read (PROTOCOL §2.5)."""

from msgspec import Struct

from node.events.facts import Scope
from node.uris import lies_under

ALL_SCOPES: tuple[Scope, ...] = ("local", "team", "company", "public")


class Access(Struct, frozen=True, kw_only=True):
    """The facts a caller may read: those in `scopes`, under `entity_prefix` if there is one; facts in gardens and in
    quarantine only with `sees_gardens`.
    """

    scopes: tuple[Scope, ...]
    sees_gardens: bool
    entity_prefix: str | None

    def covers(self, *, scope: Scope, entity: str) -> bool:
        """Whether a fact outside all gardens, of this scope about this entity (normal form), may be read."""
        return scope in self.scopes and (self.entity_prefix is None or lies_under(entity, self.entity_prefix))


EVERYTHING = Access(scopes=ALL_SCOPES, sees_gardens=True, entity_prefix=None)
