#!/usr/bin/env bash
# Two organisations on this machine, from keys to an admitted, attested fact and a revoked token.
#
# Shows each command as a person would type it, then its answer. A claim that does not hold ends the run with exit code 1.
# `make demo` and tests/scenarios/test_tutorial.py both run this script; there is no second way.
#
#   demo/tutorial.sh           stops both nodes at the end
#   demo/tutorial.sh --keep    leaves them running and says how to stop them
#
# PORT_A, PORT_B   ports of the two nodes (8100, 8200)
# WORK             an empty folder for everything the run leaves (default: a new one under demo-run/)
# VENV             the virtual environment with `stigmem` in it (default: .venv)
#
# Always: the caller's home folder and STIGMEM_* settings are not touched; the nodes are stopped by their pids.
# shellcheck disable=SC2016 # variables in single quotes are those of jq
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PORT_A=${PORT_A:-8100}
PORT_B=${PORT_B:-8200}
PEERS_DEADLINE_S=10

# shellcheck source=demo/walk.sh
source "$REPO/demo/walk.sh"
trap stop_nodes EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

KEEP=
case "${1:-}" in
    --keep) KEEP=yes ;;
    '') ;;
    *) die "unknown argument $1; the only one is --keep" ;;
esac

# ---- what it needs ----------------------------------------------------------------------------------------------------

VENV=${VENV:-$REPO/.venv}
[ ! -d "$VENV" ] || VENV=$(cd "$VENV" && pwd)
PATH=$VENV/bin:$PATH
for needed in stigmem curl jq openssl sha256sum base64; do
    command -v $needed >/dev/null || die "$needed is not installed; \`make demo\` sets up what this needs"
done
for port in "$PORT_A" "$PORT_B"; do
    # Connecting is the test: whoever holds the port would otherwise answer in our node's place.
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        die "port $port is busy: stop what listens there, or choose others: make demo PORT_A=18100 PORT_B=18200"
    fi
done

if [ -z "${WORK:-}" ]; then
    mkdir -p "$REPO/demo-run"
    WORK=$(mktemp -d "$REPO/demo-run/XXXXXX")
fi
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)
[ -z "$(ls -A "$WORK")" ] || die "$WORK is not empty"
ANSWERS=$WORK/answers
mkdir "$ANSWERS"

# The tutorial's `~` is this run's own folder; neither settings nor proxies of the caller reach the commands.
export HOME=$WORK no_proxy=localhost,127.0.0.1 NO_PROXY=localhost,127.0.0.1
for name in "${!STIGMEM_@}"; do unset "$name"; done

printf 'Org A on http://localhost:%s, org B on http://localhost:%s, everything in %s\n' "$PORT_A" "$PORT_B" "$WORK"

# ---- the tutorial -----------------------------------------------------------------------------------------------------

title 'Step 1: each organisation makes its key'
terminal A
run 00-version.txt <<'COMMANDS'
stigmem --version
COMMANDS
STEP_1=$(cat <<'COMMANDS'
mkdir -p ~/stigmem-org-a && cd ~/stigmem-org-a

openssl genpkey -algorithm Ed25519 -out signing.key
openssl pkey -in signing.key -pubout -out signing.pub

export ORG_A_PUB=$(openssl pkey -in signing.key -pubout -outform DER \
| tail -c 32 | base64 | tr '+/' '-_' | tr -d '=')
export ORG_A_KEY_ID=$(openssl pkey -in signing.key -pubout -outform DER \
| tail -c 32 | sha256sum | awk '{print $1}')
COMMANDS
)
run 01-key-a.txt <<<"$STEP_1"
note ORG_A_PUB ORG_A_KEY_ID
terminal B
run 01-key-b.txt <<<"$(as_org_b <<<"$STEP_1")"
note ORG_B_PUB ORG_B_KEY_ID

title 'Step 2: both nodes start'
STEP_2=$(cat <<'COMMANDS'
cd ~/stigmem-org-a
STIGMEM_NODE_PRIVATE_KEY_FILE=signing.key \
STIGMEM_ENTITY_URI=stigmem://org-a.example \
STIGMEM_PORT=8100 \
STIGMEM_FEDERATION_ENABLED=true \
STIGMEM_TRUST_MODE=strict \
STIGMEM_ADMIN_KEY=secret-admin-a \
stigmem serve &
COMMANDS
)
terminal A
start "$PORT_A" <<<"$STEP_2"
run 02-discovery-a.json <<<'curl -s http://localhost:8100/.well-known/stigmem | jq .'
check 'the node speaks for org A, with the key of step 1' '.node_id == "stigmem://org-a.example" and .federation_pubkey == $key' \
    02-discovery-a.json --arg key "$ORG_A_PUB"
terminal B
start "$PORT_B" <<<"$(as_org_b <<<"$STEP_2")"
run 02-discovery-b.json <<<'curl -s http://localhost:8200/.well-known/stigmem | jq .'
check 'the node speaks for org B, with the key of step 1' '.node_id == "stigmem://org-b.example" and .federation_pubkey == $key' \
    02-discovery-b.json --arg key "$ORG_B_PUB"

title 'Step 3: both publish who they are, and register each other'
STEP_3=$(cat <<'COMMANDS'
NOW=$(date -u +%Y-%m-%dT%H:%M:%SZ)
EXPIRES=$(date -u -d '+1 year' +%Y-%m-%dT%H:%M:%SZ 2>/dev/null \
|| date -u -v+1y +%Y-%m-%dT%H:%M:%SZ)

curl -s -X PUT http://localhost:8100/v1/federation/manifest \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d "{
\"manifest_version\": 1,
\"entity_uri\": \"stigmem://org-a.example\",
\"public_key\": \"$ORG_A_PUB\",
\"key_id\": \"$ORG_A_KEY_ID\",
\"entities\": [\"stigmem://org-a.example\", \"stigmem://org-a.example/agent/assistant\"],
\"rotation_events\": [],
\"issued_at\": \"$NOW\",
\"expires_at\": \"$EXPIRES\",
\"signature\": \"__self_sign__\"
}" | jq .
COMMANDS
)

PUBLISHED='.key_id == $key and .log_entry.log_id == $key and (.log_entry | has("root_hash") and has("hashes") and has("checkpoint"))'
terminal A
run 03-manifest-a.json <<<"$STEP_3"
check "org A's manifest is in org A's log, with a proof" "$PUBLISHED" 03-manifest-a.json --arg key "$ORG_A_KEY_ID"
terminal B
run 03-manifest-b.json <<<"$(as_org_b <<<"$STEP_3")"
check "org B's manifest is in org B's log, with a proof" "$PUBLISHED" 03-manifest-b.json --arg key "$ORG_B_KEY_ID"
terminal A
run 03-register-b.json <<'COMMANDS'
curl -s -X POST http://localhost:8100/v1/federation/peers \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d '{
"peer_url": "http://localhost:8200",
"peer_entity_uri": "stigmem://org-b.example"
}' | jq .
COMMANDS
check 'org A knows the node of org B' '.node_id == "stigmem://org-b.example"' 03-register-b.json
terminal B
run 03-register-a.json <<'COMMANDS'
curl -s -X POST http://localhost:8200/v1/federation/peers \
-H "Authorization: Bearer secret-admin-b" \
-H "Content-Type: application/json" \
-d '{
"peer_url": "http://localhost:8100",
"peer_entity_uri": "stigmem://org-a.example"
}' | jq .
COMMANDS
check 'org B knows the node of org A' '.node_id == "stigmem://org-a.example"' 03-register-a.json
await $PEERS_DEADLINE_S 'both peers are active' both_are_active
terminal A
run 03-peers-a.json <<<'curl -s http://localhost:8100/v1/federation/peers -H "Authorization: Bearer secret-admin-a" | jq .'
check 'org A has verified org B' '[.peers[].status] == ["active"]' 03-peers-a.json
terminal B
run 03-peers-b.json <<<'curl -s http://localhost:8200/v1/federation/peers -H "Authorization: Bearer secret-admin-b" | jq .'
check 'org B has verified org A' '[.peers[].status] == ["active"]' 03-peers-b.json

title 'Step 4: org A makes a place for what it does not trust yet'
terminal A
run 04-garden.txt <<'COMMANDS'
QUARANTINE_ID=$(curl -s -X POST http://localhost:8100/v1/gardens \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d '{
"slug": "inbound-quarantine",
"name": "Inbound quarantine",
"scope": "company",
"quarantine": true
}' | jq -r '.id')
COMMANDS
note QUARANTINE_ID | tee "$ANSWERS/04-garden.txt"
run 04-config.json <<'COMMANDS'
curl -s -X PATCH http://localhost:8100/v1/admin/config \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d "{\"quarantine_garden_id\": \"$QUARANTINE_ID\"}" | jq .
COMMANDS
check 'the garden is where org A holds facts' '.quarantine_garden_id == $garden' 04-config.json --arg garden "$QUARANTINE_ID"

title 'Step 5: org A lets an agent of org B write'
run 05-issue.txt <<'COMMANDS'
TOKEN_RESPONSE=$(curl -s -X POST http://localhost:8100/v1/federation/capability-tokens \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d '{
"issuer": "stigmem://org-a.example",
"subject": "stigmem://org-b.example/agent/bot",
"verb": "write",
"object": "stigmem://org-a.example/scope/shared",
"ttl_seconds": 86400
}')

TOKEN_ID=$(echo "$TOKEN_RESPONSE" | jq -r '.token_id')
TOKEN_JSON=$(echo "$TOKEN_RESPONSE" | jq -r '.token_json')
COMMANDS
note TOKEN_ID TOKEN_JSON
printf '%s' "$TOKEN_RESPONSE" >"$ANSWERS/05-token.json"
terminal B
run 05-verify.json <<'COMMANDS'
curl -s -X POST http://localhost:8100/v1/federation/capability-tokens/verify \
-H "Content-Type: application/json" \
-d "{\"token_json\": $TOKEN_JSON}" | jq .
COMMANDS
check 'the token holds' '. == {"valid": true}' 05-verify.json

title 'Step 6: the agent writes, and the fact is held'
run 06-write.json <<'COMMANDS'
curl -s -X POST http://localhost:8100/v1/facts \
-H "Authorization: Bearer $TOKEN_JSON" \
-H "Content-Type: application/json" \
-d '{
"entity": "stigmem://org-a.example/project/atlas",
"relation": "memory:status",
"value": { "type": "string", "v": "active" },
"source": "stigmem://org-b.example/agent/bot",
"confidence": 0.85,
"scope": "company"
}' | jq .
COMMANDS
check 'the fact waits in the garden of step 4' '.quarantine_status == "pending" and .quarantine_garden_id == $garden' \
    06-write.json --arg garden "$QUARANTINE_ID"
check 'because its source is new here' '.quarantine_reason == "auto-quarantine: source_trust below threshold (t=0.15)"' 06-write.json
terminal A
run 06-listing.json <<'COMMANDS'
curl -s "http://localhost:8100/v1/facts?entity=stigmem://org-a.example/project/atlas" \
-H "Authorization: Bearer secret-admin-a" | jq .
COMMANDS
check 'no ordinary read shows it' '.facts == [] and .total == 0' 06-listing.json
run 06-pending.json <<'COMMANDS'
curl -s "http://localhost:8100/v1/quarantine?quarantine_status=pending" \
-H "Authorization: Bearer secret-admin-a" | jq .
COMMANDS
FACT_ID=$(jq -r '.fact_id' "$ANSWERS/06-write.json")
check 'the list of held facts does' '[.items[].fact_id] == [$fact]' 06-pending.json --arg fact "$FACT_ID"

title 'Step 7: a moderator of org A admits it'
run 07-fact-id.txt <<<"FACT_ID=\"$FACT_ID\""
run 07-promote.json <<'COMMANDS'
curl -s -X POST "http://localhost:8100/v1/gardens/$QUARANTINE_ID/promote" \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d "{
\"fact_id\": \"$FACT_ID\",
\"target_garden_id\": null,
\"reason\": \"Org B status update verified; source has valid capability token.\"
}" | jq .
COMMANDS
check 'the fact left quarantine' '.fact_id == $fact and .target_garden_id == null and .promoted_at != null' \
    07-promote.json --arg fact "$FACT_ID"
run 07-listing.json <<'COMMANDS'
curl -s "http://localhost:8100/v1/facts?entity=stigmem://org-a.example/project/atlas" \
-H "Authorization: Bearer secret-admin-a" | jq .
COMMANDS
check 'now an ordinary read shows it' '[.facts[].id] == [$fact]' 07-listing.json --arg fact "$FACT_ID"

title 'Step 8: where the fact came from, checked with openssl alone'
run 08-provenance.json <<'COMMANDS'
curl -s "http://localhost:8100/v1/facts/$FACT_ID" \
-H "Authorization: Bearer secret-admin-a" | jq '{
fact_id: .id,
entity: .entity,
relation: .relation,
value: .value,
source: .source,
source_trust: .source_trust,
derived_from: .derived_from,
attestation_chain: .attestation_chain,
quarantine_status: .quarantine_status
}'
COMMANDS
check 'nine members, promoted, with the trust of the time of writing' \
    'length == 9 and .fact_id == $fact and .quarantine_status == "promoted" and .source_trust == 0.15 and .derived_from == []' \
    08-provenance.json --arg fact "$FACT_ID"
check 'one organisation has put its name to it' '.attestation_chain | length == 1' 08-provenance.json
run 08-openssl.txt <<'COMMANDS'
curl -s "http://localhost:8100/v1/facts/$FACT_ID/body" \
-H "Authorization: Bearer secret-admin-a" -o ~/answers/08-body.json
echo "$(jq -r '.attestation_chain[0]' ~/answers/08-provenance.json | tr '_-' '/+')==" | base64 -d > ~/answers/08-attestation.sig
openssl pkeyutl -verify -pubin -inkey ~/stigmem-org-b/signing.pub -rawin \
-in ~/answers/08-body.json -sigfile ~/answers/08-attestation.sig
COMMANDS
check 'the signature over the fact body is by the key of org B' 'test("Verified Successfully")' 08-openssl.txt -Rs

title 'Step 9: the token is withdrawn'
run 09-revoke.json <<'COMMANDS'
curl -s -X POST "http://localhost:8100/v1/federation/capability-tokens/$TOKEN_ID/revoke" \
-H "Authorization: Bearer secret-admin-a" \
-H "Content-Type: application/json" \
-d '{"reason": "Tutorial complete; token no longer needed."}' | jq .
COMMANDS
check 'the token is revoked' '.token_id == $token and .status == "revoked"' 09-revoke.json --arg token "$TOKEN_ID"
terminal B
run 09-verify.json <<'COMMANDS'
curl -s -X POST http://localhost:8100/v1/federation/capability-tokens/verify \
-H "Content-Type: application/json" \
-d "{\"token_json\": $TOKEN_JSON}" | jq .
COMMANDS
check 'and verifies no more' '. == {"valid": false, "reason": "revoked"}' 09-verify.json
run 09-write.json <<'COMMANDS'
curl -s -w '{"http_status": %{http_code}}' -X POST http://localhost:8100/v1/facts \
-H "Authorization: Bearer $TOKEN_JSON" \
-H "Content-Type: application/json" \
-d '{
"entity": "stigmem://org-a.example/project/atlas",
"relation": "memory:status",
"value": { "type": "string", "v": "taken over" },
"source": "stigmem://org-b.example/agent/bot",
"scope": "company"
}' | jq -s add
COMMANDS
check 'nothing is written with it' '.http_status == 403 and .error == "token_revoked"' 09-write.json
terminal A
run 09-listing.json <<'COMMANDS'
curl -s "http://localhost:8100/v1/facts?entity=stigmem://org-a.example/project/atlas" \
-H "Authorization: Bearer secret-admin-a" | jq .
COMMANDS
check 'the admitted fact stands, alone' '[.facts[].id] == [$fact]' 09-listing.json --arg fact "$FACT_ID"

# ---- the end ----------------------------------------------------------------------------------------------------------

title 'Done: all nine steps came out as they should'
if [ -n "$KEEP" ]; then
    cat <<TEXT
Both nodes are still running. To stop them:
    kill ${PIDS[*]}

What to try next:
    curl -s "http://localhost:$PORT_A/v1/facts" -H "Authorization: Bearer secret-admin-a" | jq .
    curl -s "http://localhost:$PORT_A/v1/log/checkpoint"
    tail -f $WORK/org-a.log
TEXT
    PIDS=()
else
    stop_nodes
    cat <<TEXT
Both nodes are stopped; their folders and every answer shown above are in $WORK

What to try next:
    make demo KEEP=1                                       the same, and both nodes stay up for your own requests
    ${VENV}/bin/stigmem replay verify --data-dir $WORK/stigmem-org-a/stigmem-data
                                                           proves from org A's log alone all that you have just seen
    make serve                                             a node of your own
TEXT
fi
