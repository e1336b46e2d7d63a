"""An answered write is on the disk: seen in the system calls of a serving node, not in what the node says of itself."""

import re
from pathlib import Path

import pytest

from tests.scenarios.nodes import NodeFailed, RunningNode, eventually

CALLS = "openat,read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,fdatasync,fsync,msync"
# pid, name of the call, and the rest of the line; a call that another thread interrupted stands in two lines.
CALL = re.compile(r"^(?P<pid>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?: resumed>|\()(?P<rest>.*)$")


@pytest.fixture
def traced_node(tmp_path):
    trace = tmp_path / "trace.txt"
    # -D keeps the node our own child, so that it is stopped like any other; -y writes the file behind each descriptor.
    launcher = ["strace", "-D", "-f", "-y", "-s", "64", "-o", str(trace), "-e", f"trace={CALLS}"]
    node = RunningNode(tmp_path / "node", launcher=launcher, ENTITY_URI="stigmem://org-a.example")
    try:
        node.start()
    except FileNotFoundError:
        pytest.fail("strace is not installed; `make test` installs it")
    except NodeFailed as failure:
        pytest.fail(
            f"strace cannot trace here (ptrace must be permitted, in a container: --cap-add=SYS_PTRACE): {failure}"
        )
    yield node, trace
    node.kill()


class Trace:
    """The finished system calls of a node, in the order in which they returned."""

    def __init__(self, path: Path) -> None:
        self.calls: list[tuple[str, str]] = []
        begun: dict[str, str] = {}
        for line in path.read_text(errors="replace").splitlines():
            if (call := CALL.match(line)) is None:
                continue
            pid, name, rest = call["pid"], call["name"], call["rest"]
            if rest.endswith("<unfinished ...>"):
                begun[pid] = rest.removesuffix("<unfinished ...>")
            else:
                self.calls.append((name, begun.pop(pid, "") + rest))

    def first(self, start: int, names: set[str], *parts: str) -> int:
        """Place of the first call from `start` on that has one of these names and all these parts."""
        for place, (name, rest) in enumerate(self.calls[start:], start):
            if name in names and all(part in rest for part in parts):
                return place
        raise AssertionError(f"no {' or '.join(sorted(names))} with {parts} from place {start} on")

    def descriptor_that_waits_for_the_disk(self, file: str) -> str:
        """LMDB writes the page that makes a commit valid through a descriptor opened with O_DSYNC."""
        opened = self.calls[self.first(0, {"openat"}, file, "O_DSYNC")][1]
        return re.search(r"= (\d+)<", opened)[1]


def test_a_write_is_synced_to_the_log_before_it_is_answered(traced_node):
    node, path = traced_node
    node.post("/v1/facts", public_fact()).expect(201)
    trace = eventually(lambda: answered_trace(path), within_s=10, what="strace has written down the answer")
    log_file = str(node.data_dir / "log" / "data.mdb")

    asked = trace.first(0, {"read", "recvfrom", "recvmsg"}, "POST /v1/facts")
    answered = trace.first(asked, {"write", "writev", "sendto", "sendmsg"}, "HTTP/1.1 201")
    synced = trace.first(asked, {"fdatasync", "fsync"}, log_file, "= 0")
    descriptor = trace.descriptor_that_waits_for_the_disk(log_file)
    committed = trace.first(synced, {"pwrite64"}, f"{descriptor}<{log_file}>")

    assert asked < synced < committed < answered


def answered_trace(path: Path) -> Trace | None:
    return Trace(path) if "HTTP/1.1 201" in path.read_text(errors="replace") else None


def public_fact():
    return {
        "entity": "stigmem://org-a.example/project/atlas",
        "relation": "memory:status",
        "value": {"type": "string", "v": "active"},
        "source": "stigmem://org-a.example/agent/assistant",
        "scope": "public",
    }
