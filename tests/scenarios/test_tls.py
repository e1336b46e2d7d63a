"""A process that speaks TLS, where file descriptors run out: nobody is let in for a while, and nothing else goes wrong."""

import socket
from pathlib import Path

from tests.certificates import Authority
from tests.scenarios.nodes import RunningNode, eventually

FEW = 60


def test_a_door_without_file_descriptors_opens_again_when_there_are_some(tmp_path: Path):
    authority = Authority(tmp_path)
    own = authority.issue("node", "stigmem://org-a.example")
    node = RunningNode(
        tmp_path / "node",
        launcher=["sh", "-c", f'ulimit -n {FEW} && exec "$@"', "sh"],
        ca_file=authority.certificate,
        TLS_CERT_FILE=str(own.certificate),
        TLS_KEY_FILE=str(own.key),
    )
    held: list[socket.socket] = []
    try:
        node.start()
        held += [socket.create_connection(("127.0.0.1", node.port)) for _ in range(FEW)]
        eventually(lambda: "accept_failed" in node.said(), within_s=10, what="it has no file descriptor left")
        for connection in held:
            connection.close()
        eventually(node._is_ready, within_s=10, what="it answers again")
        node.stop()
    finally:
        node.kill()

    assert "Traceback" not in node.said()
