"""Commands, the tables from command to the function that decides it, at once or in steps, and the one way to decide one."""

from msgspec import Struct

from node.commands import (
    api_keys,
    approvals,
    batches,
    conflicts,
    exchange,
    facts,
    gardens,
    idempotency,
    identity,
    introductions,
    members,
    peers,
    pushes,
    restores,
    rotations,
    seals,
    settings,
    tokens,
    tombstones,
    witness,
)
from node.commands.decision import Context, Decide, DecideInSteps, Decision
from node.projections.view import View


def _decide_once(command: idempotency.Once, view: View, context: Context) -> Decision:
    return idempotency.decide_once(command, DECIDE[type(command.command)], view, context)


DECIDE: dict[type[Struct], Decide] = {
    facts.AssertFact: facts.decide_assert_fact,
    conflicts.ResolveConflict: conflicts.decide_resolve_conflict,
    seals.SealFacts: seals.decide_seal_facts,
    gardens.CreateGarden: gardens.decide_create_garden,
    gardens.DeleteGarden: gardens.decide_delete_garden,
    members.AddMember: members.decide_add_member,
    members.ChangeMember: members.decide_change_member,
    members.RemoveMember: members.decide_remove_member,
    gardens.PromoteFact: gardens.decide_promote_fact,
    gardens.RejectFact: gardens.decide_reject_fact,
    tokens.IssueCapability: tokens.decide_issue_capability,
    tokens.RevokeCapability: tokens.decide_revoke_capability,
    tokens.AcceptCapability: tokens.decide_accept_capability,
    api_keys.CreateApiKey: api_keys.decide_create_api_key,
    api_keys.RevokeApiKey: api_keys.decide_revoke_api_key,
    peers.RegisterPeer: peers.decide_register_peer,
    peers.RecordPeerCheck: peers.decide_record_peer_check,
    peers.ChangePeer: peers.decide_change_peer,
    peers.RecordTlsRefusal: peers.decide_record_tls_refusal,
    peers.RemovePeer: peers.decide_remove_peer,
    approvals.ApprovePeer: approvals.decide_approve_peer,
    witness.RecordFork: witness.decide_record_fork,
    exchange.ServePage: exchange.decide_serve_page,
    introductions.IntroduceManifest: introductions.decide_introduce_manifest,
    exchange.IngestBatch: exchange.decide_ingest_batch,
    pushes.TakePush: pushes.decide_take_push,
    exchange.SignAttestation: exchange.decide_sign_attestation,
    exchange.TakeCosignature: exchange.decide_take_cosignature,
    exchange.RefuseExchange: exchange.decide_refuse_exchange,
    tombstones.TombstoneEntity: tombstones.decide_tombstone_entity,
    tombstones.LiftHold: tombstones.decide_lift_hold,
    tombstones.RevokeTombstone: tombstones.decide_revoke_tombstone,
    tombstones.EraseEntity: tombstones.decide_erase_entity,
    tombstones.ServeTombstones: tombstones.decide_serve_tombstones,
    tombstones.TakePeersTombstones: tombstones.decide_take_peers_tombstones,
    identity.FoundNode: identity.decide_found_node,
    identity.CreateAdminKey: identity.decide_create_admin_key,
    identity.PublishManifest: identity.decide_publish_manifest,
    rotations.RotateKey: rotations.decide_rotate_key,
    identity.RenewManifest: identity.decide_renew_manifest,
    settings.ChangeSettings: settings.decide_change_settings,
    restores.RecordRestore: restores.decide_record_restore,
    restores.ConfirmRestore: restores.decide_confirm_restore,
    identity.RecordRefusal: identity.decide_record_refusal,
    identity.RecordRefusalCount: identity.decide_record_refusal_count,
    idempotency.Once: _decide_once,
    idempotency.RecordAnswer: idempotency.decide_record_answer,
}

DECIDE_IN_STEPS: dict[type[Struct], DecideInSteps] = {
    batches.AssertFacts: batches.assert_facts_in_steps,
}


def decide(command: Struct, view: View, context: Context) -> Decision:
    """Have a command decided. Raises its refusal."""
    key = getattr(getattr(command, "principal", None), "key", None)
    if key is not None:
        # Since the request came in, the key may have been revoked; what is decided from then on is not done under it.
        api_keys.check_key(api_keys.find_api_key(key.key_id, view), view, context.at_ms)
    return DECIDE[type(command)](command, view, context)
