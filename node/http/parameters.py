"""What the parameters of paths and queries mean, as the API's document says it: a name means the same on every route.

It describes and checks nothing: what a parameter must be is said by the struct that a query is decoded into.
"""

PLACES = {
    "fact_id": "A fact's id, or where a fact is read its CID.",
    "garden": "A garden's id or slug, or its URI, percent-encoded.",
    "conflict_id": "A contradiction's `conflict_id`.",
    "peer_id": "A peer's `peer_id`.",
    "key_id": "An API key's `key_id`.",
    "token_id": "A capability token's `token_id`.",
    "tombstone_id": "A tombstone's `id`.",
    "entity_uri": "An entity URI, percent-encoded.",
    "asset": "A file that the page names.",
}
ASKED = {
    "after": "An RFC 3339 time: only what is dated later, that instant itself excluded.",
    "as_of": "An RFC 3339 time, or `offset:N`: the content as the log up to there makes it.",
    "attested": "Whether an attestation of its own organisation was verified.",
    "before": "An RFC 3339 time: only what is dated earlier, that instant itself excluded.",
    "cosigned": "The newest checkpoint that a peer has cosigned, with its cosignatures.",
    "cursor": "The `cursor` of the page before; left out or empty: the first page.",
    "depth": "How many generations of parents.",
    "entity": "An entity, in any spelling of its URI.",
    "event_type": "An event type.",
    "from": "The size of the shorter log.",
    "garden_id": "A garden's id, slug or URI: only what is in it.",
    "include_contradicted": "Also what a stronger fact contradicts.",
    "include_expired": "Also what is not valid any more.",
    "include_retracted": "Also what was withdrawn, and the retractions.",
    "limit": "How many at most.",
    "min_confidence": "Only what has at least this confidence.",
    "offset": "The offset of the entry.",
    "order": "By the order in which the log has it.",
    "origin": "The organisation that says it: its URI, or a peer's node_id.",
    "peer_id": "A peer's `peer_id` or node_id.",
    "quarantine_status": "Only what has this status.",
    "relation": "A relation, such as `memory:status`.",
    "of": "Whose tombstones: this node's own, or those that peers showed.",
    "scope": "The scope that is asked about.",
    "since": "An RFC 3339 time, or a `cursor`: only what changed since.",
    "size": "The size of the log that the proof is about; left out: the log as it stands.",
    "source": "A source, in any spelling of its name: who said it.",
    "status": "Only what has this status.",
    "to": "The size of the longer log; left out: the log as it stands.",
}
