"""Every refusal of the node: its kind, its stable code, and the words that go with it.

Always: a code is part of the API (PROTOCOL §1); `tests/test_error_codes.py` holds the golden list.
Codes of the wire live here and nowhere else; a kind's HTTP status lives in `node/http/errors.py`.

Does not hold: start-up failures of the command line (see `node/cli.py`), which never reach the wire.
"""


class Refusal(Exception):
    """A request, fact or peer refused for a named cause.

    `code` is stable; `detail` is text for a person and falls back to the code; `data` joins the answer's JSON body.
    """

    code = "internal"

    def __init__(self, detail: str = "", **data: object) -> None:
        self.detail = detail or self.code
        self.data = data
        super().__init__(f"{self.code}: {self.detail}")


# Kinds. Each maps to one status.
class Malformed(Refusal):
    """The request cannot be understood at all."""


class Unauthenticated(Refusal):
    """The caller did not prove who it is."""


class Forbidden(Refusal):
    """The caller is known and may not do this."""


class NotFound(Refusal):
    """There is no such thing, or the caller may not know that there is."""


class MethodRefused(Refusal):
    """The route exists, this method on it does not."""


class TimedOut(Refusal):
    """The caller was too slow."""


class Conflict(Refusal):
    """The thing is in a state that rules this out."""


class TooLarge(Refusal):
    """More bytes or items than allowed."""


class Unsupported(Refusal):
    """A body of another type or encoding than JSON in UTF-8."""


class Misdirected(Refusal):
    """The request was meant for another host."""


class Invalid(Refusal):
    """Understood, well-formed JSON, and against a rule."""


class TooMany(Refusal):
    """A limit on how much is used up for now."""


class Unavailable(Refusal):
    """The node or a peer cannot do it now; the same request may pass later."""


# The door (PROTOCOL §1, §16).
class MalformedJson(Malformed):
    code = "malformed_json"


class InvalidCursor(Malformed):
    code = "invalid_cursor"


class CursorForeign(Malformed):
    """The cursor names a place in a log that is not this node's (PROTOCOL §5.3)."""

    code = "cursor_foreign"


class UnsupportedMediaType(Unsupported):
    code = "unsupported_media_type"


class UnsupportedEncoding(Unsupported):
    code = "unsupported_encoding"


class BodyTooLarge(TooLarge):
    code = "body_too_large"


class RequestTimeout(TimedOut):
    code = "request_timeout"


class WrongHost(Misdirected):
    code = "wrong_host"


class RouteNotFound(NotFound):
    code = "not_found"


class MethodNotAllowed(MethodRefused):
    code = "method_not_allowed"


class MissingField(Invalid):
    code = "missing_field"


class UnknownField(Invalid):
    code = "unknown_field"


class InvalidField(Invalid):
    code = "invalid_field"


class InvalidParameter(Invalid):
    code = "invalid_parameter"


class BatchRefused(Invalid):
    """One fact of an atomic batch was refused, so none is stored; `results` says which (PROTOCOL §2.7)."""

    code = "batch_refused"

    def __init__(self, detail: str = "", *, causes: tuple[Refusal, ...] = (), **data: object) -> None:
        super().__init__(detail, **data)
        self.causes = causes


class UnsupportedParameter(Invalid):
    """A query parameter of the protocol that this version does not carry out, refused rather than ignored."""

    code = "unsupported_parameter"


class InvalidUri(Invalid):
    code = "invalid_uri"


class InvalidValue(Invalid):
    code = "invalid_value"


class FieldTooLong(Invalid):
    code = "field_too_long"


class TextTooLarge(TooLarge):
    code = "text_too_large"


# Who is asking (PROTOCOL §3).
class AuthenticationRequired(Unauthenticated):
    code = "authentication_required"


class InvalidCredentials(Unauthenticated):
    code = "invalid_credentials"


class InsufficientPermission(Forbidden):
    code = "insufficient_permission"


# API keys (PROTOCOL §3). One that no longer holds proves nothing, as one that nobody knows: 401. One that sleeps would: 403.
class ApiKeyExpired(Unauthenticated):
    code = "api_key_expired"


class ApiKeyRevoked(Unauthenticated):
    code = "api_key_revoked"


class ApiKeyAsleep(Forbidden):
    """Made before this node was restored from a snapshot, and no admin has confirmed the restore."""

    code = "api_key_asleep"


class ApiKeyNotFound(NotFound):
    code = "api_key_not_found"


class ApiKeyExists(Conflict):
    """The given key is one already, or was."""

    code = "api_key_exists"


class ApiKeyNotTold(Conflict):
    """A key that was made under an idempotency key, and that nothing here can make again."""

    code = "api_key_not_told"


class ApiKeyAlreadyRevoked(Conflict):
    code = "api_key_already_revoked"


# Facts (PROTOCOL §2).
class ReservedNamespace(Forbidden):
    code = "reserved_namespace"


class SourceNotOwned(Forbidden):
    code = "source_not_owned"


class FactNotFound(NotFound):
    code = "fact_not_found"


class AttestationChainMismatch(Invalid):
    code = "attestation_chain_mismatch"


class AttestationChainTooLong(Malformed):
    code = "attestation_chain_too_long"


class ProvenanceInvalid(Malformed):
    code = "provenance_invalid"


class ProvenanceHashInvalid(Malformed):
    code = "provenance_hash_invalid"


class ProvenanceUnknownParent(Malformed):
    code = "provenance_unknown_parent"


class TimestampOutOfWindow(Invalid):
    """A signing client's timestamp lies more than five minutes from now (PROTOCOL §2.4)."""

    code = "timestamp_out_of_window"


class SupersededNotOwned(Forbidden):
    """`supersedes` names a fact of another source identity, or none at all (PROTOCOL §2.1)."""

    code = "superseded_not_owned"


# Gardens and quarantine (PROTOCOL §6).
class ConflictNotFound(NotFound):
    code = "conflict_not_found"


class ConflictAlreadyResolved(Conflict):
    code = "conflict_already_resolved"


class WinnerNotInConflict(Invalid):
    code = "winner_not_in_conflict"


class GardenNotFound(NotFound):
    code = "garden_not_found"


class GardenExists(Conflict):
    code = "garden_exists"


class GardenForbidden(Forbidden):
    """Not there or not the caller's: alike, so that a filter tells nothing (PROTOCOL §6.1)."""

    code = "garden_forbidden"


class MemberNotFound(NotFound):
    code = "member_not_found"


class MemberExists(Conflict):
    code = "member_exists"


class LastAdmin(Conflict):
    """A garden would be left without an admin (PROTOCOL §6.1)."""

    code = "last_admin"


class GardenScopeMismatch(Invalid):
    code = "garden_scope_mismatch"


class GardenNotQuarantine(Invalid):
    """The garden named as the quarantine sink is an ordinary one."""

    code = "garden_not_quarantine"


class QuarantineWriteForbidden(Forbidden):
    """Nothing is asserted into a quarantine garden directly (PROTOCOL §6.1)."""

    code = "quarantine_write_forbidden"


class IdempotencyKeyReused(Conflict):
    """The key was used for another request (PROTOCOL §2.7)."""

    code = "idempotency_key_reused"


class QuarantineHasPendingFacts(Conflict):
    code = "quarantine_has_pending_facts"


class GardenInUse(Conflict):
    """It is the designated quarantine garden: facts could arrive there at any moment."""

    code = "garden_in_use"


class FactAmbiguous(Conflict):
    code = "fact_ambiguous"


class FactNotQuarantinePending(Conflict):
    code = "fact_not_quarantine_pending"


class TrustBelowThreshold(Forbidden):
    code = "trust_below_threshold"


class QuarantineFull(TooMany):
    code = "quarantine_full"


# Capability tokens (PROTOCOL §8).
class TokenNotFound(NotFound):
    code = "token_not_found"


class TokenMalformed(Unauthenticated):
    code = "token_malformed"


class UnknownIssuer(Unauthenticated):
    code = "unknown_issuer"


class TokenSignatureInvalid(Unauthenticated):
    code = "token_signature_invalid"


class TimestampFutureDated(Unauthenticated):
    code = "timestamp_future_dated"


class CapabilityExpired(Forbidden):
    """A capability token past its expiry; a peer token's expiry is `PeerTokenExpired`."""

    code = "token_expired"


class CapabilityLifetimeExceeded(Unauthenticated):
    code = "token_lifetime_exceeded"


class SubjectNotDelegated(Forbidden):
    code = "subject_not_delegated"


class TokenRevoked(Forbidden):
    code = "token_revoked"


class TokenAsleep(Forbidden):
    """Issued before this node was restored from a snapshot, and no admin has confirmed the restore."""

    code = "token_asleep"


class InsufficientCapability(Forbidden):
    code = "insufficient_capability"


class NothingToConfirm(Conflict):
    """No restore waits to be confirmed."""

    code = "nothing_to_confirm"


class EntityIsTombstoned(Conflict):
    """The entity is gone: nothing is written about it, and nothing taken in (PROTOCOL §15)."""

    code = "entity_tombstoned"


class TombstoneNotFound(NotFound):
    code = "tombstone_not_found"


class TombstoneAlreadyRevoked(Conflict):
    code = "tombstone_already_revoked"


class TombstoneNotHeld(Conflict):
    code = "tombstone_not_held"


class TokenAlreadyRevoked(Conflict):
    code = "token_already_revoked"


class InvalidObject(Invalid):
    """The token's object or issuer lies outside this node's authority (PROTOCOL §8.1)."""

    code = "invalid_object"


class InvalidExpiry(Invalid):
    """A lifetime that is not positive, or longer than 90 days."""

    code = "invalid_expiry"


# Manifests (PROTOCOL §4.2).
class ManifestNotFound(NotFound):
    code = "manifest_not_found"


class ManifestConflict(Forbidden):
    """What relays say of an organisation does not agree, or is more than a relay may say (PROTOCOL §5.5)."""

    code = "manifest_conflict"


class EntityNotOwned(Forbidden):
    code = "entity_not_owned"


class KeyMismatch(Invalid):
    code = "key_mismatch"


class KeyForked(Conflict):
    """One key named two successors (PROTOCOL §11); `rotation` is the document of the second."""

    code = "key_forked"

    def __init__(self, detail: str = "", *, rotation: bytes = b"") -> None:
        super().__init__(detail)
        self.rotation = rotation


class KeyFileUnwritable(Unavailable):
    """The node's key file cannot be replaced, so its key cannot be rotated (PROTOCOL §11)."""

    code = "key_file_unwritable"


class KeyIdMismatch(Invalid):
    code = "key_id_mismatch"


class WeakKey(Invalid):
    code = "weak_key"


class SelfSignForeignKey(Invalid):
    code = "self_sign_foreign_key"


class ManifestEntityForeign(Invalid):
    code = "manifest_entity_foreign"


class ManifestValidity(Invalid):
    code = "manifest_validity"


class ManifestSignatureInvalid(Malformed):
    code = "manifest_signature_invalid"


class ManifestRotationChainInvalid(Malformed):
    code = "manifest_rotation_chain_invalid"


class ManifestRolledBack(Malformed):
    """Issued before the one that stands, or with fewer rotation events (PROTOCOL §4.2)."""

    code = "manifest_rolled_back"


# Peers (PROTOCOL §5.1).
class FederationDisabled(Forbidden):
    code = "federation_disabled"


class PeerNotFound(NotFound):
    code = "peer_not_found"


class PeerIdTaken(Invalid):
    code = "peer_id_taken"


class PeerUrlForbidden(Invalid):
    code = "peer_url_forbidden"


class DeclarationInvalid(Invalid):
    """A peer declaration whose signature does not hold, or whose `signed_at` is off (PROTOCOL §5.1)."""

    code = "declaration_invalid"


class PeerNotActive(Conflict):
    """Nothing is exchanged with a peer that is not active."""

    code = "peer_not_active"


class NotAwaitingApproval(Conflict):
    """There is nothing about this peer for an admin to approve."""

    code = "not_awaiting_approval"


class LogForked(Conflict):
    """A peer signed two logs; only an admin may take its new line (PROTOCOL §10.3)."""

    code = "log_forked"


class PeerBehind(Unavailable):
    """A peer's log is shorter than it was: a restored copy, which nothing is asked of until it has caught up (PROTOCOL §10.3)."""

    code = "peer_behind"


class LogUnproven(Unavailable):
    """A peer does not prove that its log goes on from the one it showed before (PROTOCOL §10.3)."""

    code = "log_unproven"


class TermsChanged(Conflict):
    """A page was examined under terms that no longer stand: it is to be read again."""

    code = "terms_changed"


class QuarantineGardenRequired(Conflict):
    """Strict mode pulls nothing while there is no garden for what it would hold back (PROTOCOL §5.3)."""

    code = "quarantine_garden_required"


class RelayLagExceeded(Unavailable):
    """All that there is to serve comes from upstreams that are too far behind (PROTOCOL §5.6)."""

    code = "relay_lag_exceeded"


class PeerUnreachable(Unavailable):
    code = "peer_unreachable"


class PeerTlsRefused(PeerUnreachable):
    """No TLS came about between this node and a peer: one refused the other's certificate or version, and nothing was asked."""

    code = "peer_tls_refused"


class PeerFailed(PeerUnreachable):
    """The peer answered that it cannot answer, for now: it is there, and for most purposes as if it were not."""


class PeerAnswerInvalid(Unavailable):
    """The peer answered, and what it said cannot be taken."""

    code = "peer_answer_invalid"


# Peer tokens (PROTOCOL §5.2), in the order in which they are checked.
class MalformedToken(Unauthenticated):
    code = "malformed_token"


class PeerTokenExpired(Unauthenticated):
    code = "token_expired"


class UnknownOrInactivePeer(Unauthenticated):
    code = "unknown_or_inactive_peer"


class InvalidSignature(Unauthenticated):
    code = "invalid_signature"


class InvalidSub(Unauthenticated):
    code = "invalid_sub"


class IatInFuture(Unauthenticated):
    code = "iat_in_future"


class PeerTokenLifetimeExceeded(Unauthenticated):
    code = "token_lifetime_exceeded"


class TokenBeforeRestore(Unauthenticated):
    """A peer token issued before this node was restored: whether its nonce was taken is not known any more."""

    code = "token_before_restore"


class MissingNonce(Unauthenticated):
    code = "missing_nonce"


class NonceAlreadySeen(Unauthenticated):
    code = "nonce_already_seen"


class ClientCertificateRequired(Unauthenticated):
    """A peer token came over a connection on which no certificate was shown, where peers have to (PROTOCOL §13)."""

    code = "client_certificate_required"


class ClientCertificateRefused(Unauthenticated):
    """A peer token came over a connection whose certificate is not its issuer's."""

    code = "client_certificate_refused"


# Exchange (PROTOCOL §5.3-§5.5, §9).
class PushDisabled(MethodRefused):
    """Facts are not taken by push here: peers wait for the next pull (PROTOCOL §5.4)."""

    code = "push_disabled"


class ScopeNotPermitted(Forbidden):
    code = "scope_not_permitted"


class ScopeViolation(Forbidden):
    code = "scope_violation"


class IdCollision(Conflict):
    code = "id_collision"


class InvalidHlc(Invalid):
    code = "invalid_hlc"


class HlcSkew(Invalid):
    code = "hlc_skew"


class CidMismatch(Invalid):
    code = "cid_mismatch"


class InvalidFact(Invalid):
    """A fact from a peer that has not the form of a fact."""

    code = "invalid_fact"


class SealInvalid(Invalid):
    """The origin's seal on a record does not verify (PROTOCOL §2.4)."""

    code = "seal_invalid"


class CosignatureInvalid(Invalid):
    """It is not a peer's cosignature over a checkpoint of this log (PROTOCOL §10.3)."""

    code = "cosignature_invalid"


class AttestationRefused(Forbidden):
    """This node does not countersign that fact body (PROTOCOL §9)."""

    code = "attestation_refused"


class QuotaExceeded(TooMany):
    """The principal has had its share of requests of this minute (PROTOCOL §13)."""

    code = "quota_exceeded"


class AttestationQuotaExceeded(TooMany):
    code = "quota_exceeded"


# The log and the node itself (PROTOCOL §1, §10).
class ProofOutOfRange(Invalid):
    """No such offset or size in what the views have folded."""

    code = "proof_out_of_range"


class StorageFull(Unavailable):
    code = "storage_full"


class StorageFailed(Unavailable):
    """The disk failed in a way that is neither lack of room nor damage; nothing was acknowledged."""

    code = "storage_failed"


class LogDamaged(Unavailable):
    code = "log_damaged"


class Overloaded(Unavailable):
    code = "overloaded"


class NotReady(Unavailable):
    """The node lives and takes no writes (`/readyz`)."""

    code = "not_ready"


class Internal(Refusal):
    """A bug: logged with its traceback, told to nobody."""

    code = "internal"
