# shellcheck shell=bash
# Shows commands as two people would type them, runs them, checks their answers, and looks after the two nodes they start.
#
# Sourced by demo/tutorial.sh, which sets WORK, ANSWERS, PORT_A and PORT_B before it calls anything here.
#
# Always: a command is shown exactly as it is run; each answer is a file in $ANSWERS; nodes are stopped by their pids.

START_DEADLINE_S=30
TERMINAL=A
PIDS=()

die() {
    printf '\nFAILED: %s\n' "$1" >&2
    exit 1
}

# ---- showing, running, checking ---------------------------------------------------------------------------------------

title() {
    if [ -t 1 ]; then printf '\n\033[1m== %s\033[0m\n' "$1"; else printf '\n== %s\n' "$1"; fi
}

# In two steps, so that PORT_A=8200 does not turn into PORT_B.
with_our_ports() {
    sed -E "s/(localhost:|PORT=)8100/\1@A@/g; s/(localhost:|PORT=)8200/\1@B@/g; s/@A@/$PORT_A/g; s/@B@/$PORT_B/g"
}

as_org_b() { sed 's/org-a/org-b/g; s/ORG_A/ORG_B/g; s/admin-a/admin-b/g; s/8100/8200/g'; }

terminal() {
    TERMINAL=$1
    local folder=$HOME/stigmem-org-${TERMINAL,,}
    [ ! -d "$folder" ] || cd "$folder" || die "no way into $folder"
}

show() { printf '\n%s\n' "$1" | sed "2s/^/$TERMINAL\$ /; 3,\$s/^./   &/"; }

# run ANSWER: shows the commands on stdin, runs them in this shell (their variables stay), keeps and shows what they print.
run() {
    local answer=$ANSWERS/$1 commands
    commands=$(with_our_ports)
    show "$commands"
    eval "$commands" >"$answer" </dev/null || die "terminal $TERMINAL: this command failed (what it printed: $answer)"
    cat "$answer"
}

# The variables that a command has set, shown where the command itself prints nothing.
note() {
    local name
    for name in "$@"; do
        case "${!name}" in '' | null) die "$name is empty" ;; esac
        printf '   %s=%s\n' "$name" "${!name}"
    done
}

# check CLAIM FILTER ANSWER [jq arguments]
check() {
    local claim=$1 filter=$2 answer=$ANSWERS/$3
    shift 3
    jq -e "$@" "$filter" "$answer" >/dev/null 2>&1 || die "not so: $claim (the answer: $answer)"
    printf '   [ok] %s\n' "$claim"
}

# await SECONDS WHAT COMMAND...
await() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || die "$what: not within $1 s"
        sleep 0.1
    done
}

# ---- the two nodes ----------------------------------------------------------------------------------------------------

# start: shows the command on stdin and runs it; the node's own output goes to a file, its pid into another.
start() {
    local org=org-${TERMINAL,,} port=$1 commands
    commands=$(with_our_ports)
    show "$commands"
    eval "$commands" >"$WORK/$org.log" 2>&1 </dev/null
    PIDS+=("$!")
    echo "$!" >"$WORK/$org.pid"
    await $START_DEADLINE_S "the node of $org answers on port $port" is_up "$!" "$port" "$WORK/$org.log"
}

is_up() {
    kill -0 "$1" 2>/dev/null || die "the node stopped at once; it said: $(cat "$3")"
    curl -sf -o /dev/null "http://localhost:$2/readyz"
}

both_are_active() {
    status_is_active "$PORT_A" secret-admin-a stigmem://org-b.example && status_is_active "$PORT_B" secret-admin-b stigmem://org-a.example
}

status_is_active() {
    curl -s "http://localhost:$1/v1/federation/peers" -H "Authorization: Bearer $2" |
        jq -e --arg node_id "$3" '.peers[] | select(.node_id == $node_id) | .status == "active"' >/dev/null 2>&1
}

stop_nodes() {
    local pid
    for pid in "${PIDS[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${PIDS[@]}"; do
        local deadline=$((SECONDS + 12))
        while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    PIDS=()
}
