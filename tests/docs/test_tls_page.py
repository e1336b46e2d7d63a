"""docs/tls.md held to the code: its commands are run as they stand there, for two nodes, which then exchange a fact.

Always: a command is what follows `$` on the page; what differs are the values of the line that names the node, and its port.
"""

import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.scenarios.nodes import STIGMEM, RunningNode, environment, eventually, run_stigmem

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(r"^    \$ (.*)$", (ROOT / "docs" / "tls.md").read_text(), re.MULTILINE)
ADMIN = {"STIGMEM_API_KEY": "scenario-admin-key-of-the-one-who-runs-it"}


def run(command: str, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment({}) | {"PATH": f"{STIGMEM.parent}:/usr/bin:/bin"} | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def of(*words: str) -> list[str]:
    """The commands of the page that begin so, or have all these words."""
    return [command for command in COMMANDS if all(word in command for word in words)]


@pytest.fixture
def nodes(tmp_path: Path):
    """Two nodes with what the page's commands make for them."""
    run(*of("openssl req -x509"), tmp_path)
    assert len(of("NAME=org-a")) == 1
    (serve,) = of("stigmem serve")
    running = []
    for name in ("org-a", "org-b"):
        given = {"NAME": name, "HOST": "localhost", "NODE_ID": f"stigmem://{name}.example"}
        for command in (*of("openssl req -newkey"), *of("openssl x509 -req"), *of("openssl verify")):
            run(command, tmp_path, **given)
        said = [shlex.split(word)[0].partition("=") for word in serve.split()[:-2]]
        settings = {
            variable.removeprefix("STIGMEM_"): re.sub(r"\$(\w+)", lambda match, given=given: given[match[1]], value)
            for variable, _, value in said
        }
        assert settings.pop("HOST") == "0.0.0.0"
        settings |= {
            variable: str(tmp_path / path) for variable, path in settings.items() if variable.endswith("_FILE")
        }
        node = RunningNode(tmp_path / name, ca_file=tmp_path / "ca.pem", **settings)
        node.settings["NODE_URL"] = node.settings["NODE_URL"].replace("8765", str(node.port))
        node.launch()
        running.append(node)
    yield [node.wait_until_ready() for node in running]
    for node in running:
        node.kill()


def test_the_page_s_commands_make_two_nodes_that_federate_over_mutual_tls(nodes, tmp_path: Path):
    a, b = nodes
    (listing,) = of("stigmem peers list")
    ca = {"CA_FILE": str(tmp_path / "ca.pem"), "API_KEY": ADMIN["STIGMEM_API_KEY"]}
    there = {"peer_url": a.url, "peer_entity_uri": "stigmem://org-a.example"}
    assert b.post("/v1/federation/peers", there).expect(201)["status"] == "active"
    done = run_stigmem("peers", "add", b.url, "stigmem://org-b.example", folder=tmp_path, URL=a.url, **ca)
    assert (done.returncode, "active" in done.stdout) == (0, True), done.stdout + done.stderr
    listed = run(listing.replace("8765", str(a.port)), tmp_path, HOST="localhost", **ADMIN)
    assert "stigmem://org-b.example" in listed and "active" in listed

    fact = {"entity": "stigmem://org-b.example/project/x", "relation": "memory:status", "scope": "public"}
    fact |= {"value": {"type": "string", "v": "green"}, "source": "stigmem://org-b.example/agent/bot"}
    b.post("/v1/facts", fact).expect(201)
    pull = run_stigmem("peers", "pull", "stigmem://org-b.example", folder=tmp_path, URL=a.url, **ca)
    assert pull.stdout == "1 ingested, 0 known, 0 refused\n", pull.stderr

    # The page's fingerprint is what can be pinned.
    (printed,) = of("-fingerprint")
    pin = run(printed, tmp_path, NAME="org-b").strip().partition("=")[2]
    pinned = run_stigmem("peers", "pin", "stigmem://org-b.example", pin, folder=tmp_path, URL=a.url, **ca)
    assert pinned.stdout.strip() == pin.replace(":", "").lower(), pinned.stderr

    _renewed(a, tmp_path)
    for node in nodes:
        node.stop()
        assert "Traceback" not in node.said()
    a.verify_log()


def _renewed(node: RunningNode, folder: Path) -> None:
    """SIGHUP takes new files, and leaves what was read where they cannot be used."""
    key = folder / "org-a.key"
    good = key.read_bytes()
    key.write_text("no key")
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "tls_not_reloaded" in node.said(), within_s=10, what="it says that the key is none")
    node.get("/readyz", bearer=None).expect(200)
    key.write_bytes(good)
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "tls_reloaded" in node.said(), within_s=10, what="it has read the files again")
    node.get("/readyz", bearer=None).expect(200)


def test_a_command_that_does_not_know_the_ca_says_so_in_one_line(nodes, tmp_path: Path):
    a, _ = nodes
    for ca_file, words in ((None, "certificate verify failed"), ("nowhere.pem", "STIGMEM_CA_FILE: nowhere.pem cannot")):
        settings = {"CA_FILE": ca_file} if ca_file else {}
        done = run_stigmem("peers", "list", folder=tmp_path, URL=a.url, API_KEY=ADMIN["STIGMEM_API_KEY"], **settings)
        assert (done.returncode, done.stderr.count("\n"), words in done.stderr) == (1, 1, True), done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TLS_CERT_FILE": "a", "TLS_KEY_FILE": "b"}, "STIGMEM_TLS_KEY_FILE: b cannot be read (No such file"),
        ({"FEDERATION_TLS_CA_FILE": "a"}, "STIGMEM_FEDERATION_TLS_CA_FILE: a cannot be read (No such file"),
        (
            {"NODE_URL": "http://10.0.0.7:8765", "FEDERATION_ENABLED": "true"},
            "STIGMEM_NODE_URL: plain http off loopback",
        ),
    ],
)
def test_a_node_that_could_not_keep_its_promise_does_not_start_and_leaves_nothing(tmp_path: Path, settings, words):
    done = run_stigmem("serve", folder=tmp_path, **settings)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []
