"""deploy/stigmem.service held to what it promises, as far as that can be done without systemd as the first process.

What it confines is looked at from outside: a node runs under strace through its whole life, and whatever it asks of the kernel
has to be among what the unit allows. So the unit may be narrowed, and the node may not outgrow it unseen.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from node.cli import _parser
from node.config import SETTINGS
from tests.certificates import Authority
from tests.deploy.unit_file import ROOT, UNIT, settings_of
from tests.scenarios.nodes import STIGMEM, STOP_DEADLINE_S, RunningNode, eventually, run_stigmem

SERVICE = settings_of(UNIT)
CLAIMED_EXPOSURE = 1.2
NODE_ID = "stigmem://org-a.example"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
needs_strace = pytest.mark.skipif(
    not (shutil.which("strace") and shutil.which("setpriv")), reason="needs strace, setpriv"
)


def only(name: str) -> str:
    (value,) = SERVICE[name]
    return value


def systemd_analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def allowed_calls() -> set[str]:
    """The system calls that the unit's filters leave."""
    first, second = SERVICE["SystemCallFilter"]
    assert second.startswith("~")
    refused = set().union(*(group(name) for name in second.removeprefix("~").split()))
    return set().union(*(group(name) for name in first.split())) - refused


def group(name: str) -> set[str]:
    lines = [line.strip() for line in systemd_analyze("syscall-filter", name).splitlines()[1:]]
    words = [line for line in lines if line and not line.startswith("#")]
    return set().union(*(group(word) if word.startswith("@") else {word} for word in words))


@needs_systemd
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path):
    installed = tmp_path / UNIT.name
    installed.write_text(UNIT.read_text().replace("/opt/stigmem/bin/stigmem", str(STIGMEM)))

    assert systemd_analyze("verify", "--man=no", installed) == ""


@needs_systemd
def test_the_unit_is_as_little_exposed_as_its_page_says():
    said = systemd_analyze("security", "--offline=true", f"--threshold={CLAIMED_EXPOSURE * 10:.0f}", "--no-pager", UNIT)

    exposure = float(re.search(r"exposure level for stigmem\.service: ([0-9.]+)", said)[1])
    assert exposure <= CLAIMED_EXPOSURE
    assert f"exposure level of {CLAIMED_EXPOSURE}" in (ROOT / "docs" / "deployment.md").read_text()


@pytest.mark.parametrize("name", ["ExecStart", "ExecReload"])
def test_what_the_unit_runs_is_there(name):
    words = shlex.split(only(name))
    if name == "ExecReload":
        assert words == ["/bin/kill", "-HUP", "$MAINPID"]
        return
    assert Path(words[0]).name == "stigmem"
    assert _parser({}, words[1:]).parse_args(words[1:]).command == "serve"


def test_every_setting_that_the_unit_and_its_example_name_is_one():
    example = re.findall(r"^#?([A-Z_]+)=", (ROOT / "deploy" / "stigmem.env").read_text(), re.MULTILINE)
    named = {word.split("=")[0] for word in only("Environment").split()} | set(example)

    assert {name for name in named if name.startswith("STIGMEM_")} <= {setting.variable for setting in SETTINGS}
    assert "STIGMEM_DATA_DIR" in named


def test_the_data_folder_is_the_one_that_the_unit_may_write_to():
    assert f"STIGMEM_DATA_DIR=/var/lib/{only('StateDirectory')}" in only("Environment").split()
    assert (only("ProtectSystem"), only("StateDirectoryMode"), only("UMask")) == ("strict", "0700", "0077")
    assert "ReadWritePaths" not in SERVICE


def test_the_user_of_the_unit_is_the_one_that_is_made_for_it():
    made = [line.split()[1] for line in (ROOT / "deploy" / "sysusers.conf").read_text().splitlines() if line[:1] == "u"]

    assert made == [only("User")] == [only("Group")]


@needs_strace
@needs_systemd
def test_a_node_asks_nothing_of_the_kernel_that_the_unit_does_not_let_it(tmp_path: Path):
    """From its start over writes, reads, a peer that is not there and new certificates to its end, with no capability."""
    authority, trace = Authority(tmp_path), tmp_path / "trace"
    own = authority.issue("node", NODE_ID)
    launcher = ["strace", "-D", "-f", "-qq", "-s", "0", "-o", str(trace)]
    # Answered as the filter would.
    launcher += ["-e", "trace=all", "-e", "inject=io_uring_setup:error=EPERM"]
    launcher = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *launcher]
    node = RunningNode(
        tmp_path / "node",
        launcher=launcher,
        ca_file=authority.certificate,
        ENTITY_URI=NODE_ID,
        TLS_CERT_FILE=str(own.certificate),
        TLS_KEY_FILE=str(own.key),
        TLS_CLIENT_CA_FILE=str(authority.certificate),
        FEDERATION_ENABLED="true",
        AT_REST_ENCRYPTION="on",
        AT_REST_KEY_FILE=str(tmp_path / "at-rest.key"),
    )
    (tmp_path / "at-rest.key").write_text("ab" * 32)
    (tmp_path / "at-rest.key").chmod(0o600)
    try:
        node.start()
        written = {"entity": f"{NODE_ID}/project/x", "relation": "memory:status", "source": f"{NODE_ID}/agent/bot"}
        node.post("/v1/facts", written | {"value": {"type": "string", "v": "green"}}).expect(201)
        assert len(node.facts()) == 1
        peer = {"peer_url": "https://localhost:1", "peer_entity_uri": "stigmem://org-b.example"}
        assert node.post("/v1/federation/peers", peer).expect(201)["status"] == "pending_verification"
        node.process.send_signal(signal.SIGHUP)
        eventually(lambda: "tls_reloaded" in node.said(), within_s=10, what="it has read the files again")
        node.stop()
    finally:
        node.kill()

    asked = trace.read_text()
    calls = set(re.findall(r"^[0-9]+ +([a-z0-9_]+)\(", asked, re.MULTILINE))
    assert {"fdatasync", "sendto", "execve"} & calls and "openat" in calls
    assert calls - allowed_calls() == {"io_uring_setup"}
    families = set(re.findall(r"\bsocket(?:pair)?\((AF_[A-Z0-9]+)", asked))
    # Asked for by the C library, which does without.
    assert families - {"AF_NETLINK"} <= set(only("RestrictAddressFamilies").split())
    assert only("MemoryDenyWriteExecute") == "yes"
    assert [line for line in asked.splitlines() if "PROT_WRITE" in line and "PROT_EXEC" in line] == []


READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$DATA" "$DATA"
findmnt -rno TARGET | while read -r place; do
    case "$place" in "$DATA"*|/proc*|/sys*|/dev*) ;; *) mount -o remount,ro,bind "$place" ;; esac
done
for place in / /tmp /var/lib "$PWD"; do
    if touch "$place/probe" 2>/dev/null; then echo "$place can be written to" >&2; exit 9; fi
done
exec "$@"
"""


def may_make_a_file_system_read_only() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10, check=False).returncode == 0


@pytest.mark.skipif(not may_make_a_file_system_read_only(), reason="needs a mount namespace of its own")
def test_a_node_writes_nowhere_but_to_its_data_folder_and_ends_in_time(tmp_path: Path):
    folder = tmp_path / "node"
    data = folder / "stigmem-data"
    data.mkdir(parents=True, mode=0o700)
    launcher = ["env", f"DATA={data}", "unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    node = RunningNode(folder, launcher=launcher, ENTITY_URI=NODE_ID, DATA_DIR=str(data))
    try:
        node.start()
        written = {"entity": f"{NODE_ID}/project/x", "relation": "memory:status", "source": f"{NODE_ID}/agent/bot"}
        node.post("/v1/facts", written | {"value": {"type": "string", "v": "green"}}).expect(201)
        healthy = run_stigmem("ready", folder=tmp_path, URL=node.url)
        node.process.send_signal(signal.SIGHUP)
        eventually(lambda: "nothing_to_reload" in node.said(), within_s=10, what="it has no certificates to read again")
        node.restart()
        assert len(node.facts()) == 1
        node.stop()
    finally:
        node.kill()

    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert float(only("TimeoutStopSec")) > STOP_DEADLINE_S
    gone = run_stigmem("ready", folder=tmp_path, URL=node.url)
    assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (1, "", 1)
