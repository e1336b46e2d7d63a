"""Requests that a caller may send again without their being carried out again (PROTOCOL §2.7)."""

from node.events.event import Event


class IdempotencyKeyTaken(Event, tag="idempotency_key.taken.1"):
    """A request under the actor's idempotency key was carried out: the `entries` right before this one are what it did.

    `request_hash` is a keyed hash of what was asked, so that nobody can try guesses against it. `answer` is the JSON text of the
    answer where that does not follow from those entries; it holds no content of facts and no secret. A key is taken again, in the
    same request, where its answer came to be known later than its entries.
    """

    route: str
    request_hash: str
    entries: int
    answer: str | None
