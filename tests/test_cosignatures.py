"""What a witness says of a log: cosignatures as C2SP has them, brought by peers, checked, kept and shown (PROTOCOL §10.3).

Always: cosignatures are made and read here from the specification with the cryptography package, not with the node's own code.
"""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.keys import Signer
from tests.clocks import START_MS
from tests.independent.notes import parse_checkpoint
from tests.organisations import Organisation
from tests.served import NODE_ID, Answer, Served

COSIGNATURES = "/v1/log/cosignatures"
ORIGIN = "org-a.example/stigmem-log"
WITNESS = "org-b.example"
NOW_S = START_MS // 1000


def key_hash(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n\x04" + public_key).digest()[:4]


def line_for(note: str, signer: Signer, *, name: str = WITNESS, time_s: int = NOW_S) -> str:
    text = note.partition("\n\n")[0] + "\n"
    signature = signer.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    blob = key_hash(name, signer.public_key) + time_s.to_bytes(8, "big") + signature
    return f"\u2014 {name} {base64.b64encode(blob).decode()}"


def assert_cosigned(note: str, name: str, public_key: bytes, time_s: int) -> None:
    text, _, lines = note.partition("\n\n")
    [line] = [line for line in lines.splitlines() if line.startswith(f"\u2014 {name} ")]
    blob = base64.b64decode(line.rpartition(" ")[2], validate=True)
    assert (blob[:4], int.from_bytes(blob[4:12], "big"), len(blob)) == (key_hash(name, public_key), time_s, 76)
    message = f"cosignature/v1\ntime {time_s}\n{text}\n".encode()
    Ed25519PublicKey.from_public_bytes(public_key).verify(blob[12:], message)


async def shown(at: Served, query: str = "") -> str:
    return (await at.send("GET", f"/v1/log/checkpoint{query}", bearer=None)).body.decode()


async def bring(at: Served, org: Organisation, note: str, line: str) -> Answer:
    return await at.post(COSIGNATURES, {"checkpoint": note, "cosignature": line}, bearer=org.token(at))


async def test_a_pull_cosigns_the_log_that_it_read_and_the_log_shows_it(http: Served, org_b: Organisation):
    """Org B's node pulls from `http`."""
    home = org_b.home
    await org_b.join(http)
    peer_id = await Organisation(http).join(home, node_url=f"http://127.0.0.1:{http.port}")
    await http.write(scope="public")
    assert await shown(http, "?cosigned=true") == await shown(http)

    (await home.post(f"/v1/federation/peers/{peer_id}/pull", {})).expect(200)

    [peer] = (await home.get("/v1/federation/peers")).json["peers"]
    cosigned = await shown(http, "?cosigned=true")
    assert cosigned.startswith(peer["checkpoint"]) and cosigned.endswith("\n")
    size, _ = parse_checkpoint(cosigned, ORIGIN, http.signer.public_key)
    assert_cosigned(cosigned, WITNESS, org_b.signer.public_key, NOW_S)
    [witness] = (await http.get("/v1/federation/peers")).json["peers"]
    assert witness["cosigned"] == {"size": size, "at": "2026-05-04T12:00:00.000Z"}
    assert "org-b" not in await shown(http)


async def test_of_several_cosigned_checkpoints_the_newest_is_shown(http: Served, org_b: Organisation):
    await org_b.join(http)
    older, _ = await shown(http), await http.write()
    newer = await shown(http)

    (await bring(http, org_b, newer, line_for(newer, org_b.signer))).expect(201)
    (await bring(http, org_b, older, line_for(older, org_b.signer))).refused(422, "cosignature_invalid")

    assert (await shown(http, "?cosigned=true")).startswith(newer)


async def test_the_cosignature_of_a_peer_that_is_no_more_is_not_shown(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    note = await shown(http)
    (await bring(http, org_b, note, line_for(note, org_b.signer))).expect(201)

    (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).expect(204)

    assert WITNESS not in await shown(http, "?cosigned=true")


def note_of(size: int, root: bytes, signer: Signer) -> str:
    return sign_checkpoint(Checkpoint(origin=origin_of(NODE_ID), size=size, root=root), signer)


# From a good note and org B's key, a line that is none for that note.
BAD_LINES = {
    "another key": lambda note, key: line_for(note, Signer.from_seed(bytes(32))),
    "another text": lambda note, key: line_for(note.replace("\n", "\n1", 1), key),
    "another name": lambda note, key: line_for(note, key, name="org-c.example"),
    "an old date": lambda note, key: line_for(note, key, time_s=NOW_S - 301),
    "a date to come": lambda note, key: line_for(note, key, time_s=NOW_S + 301),
    "a date beyond all time": lambda note, key: line_for(note, key, time_s=2**64 - 1),
    "a plain signature": lambda note, key: note.rstrip("\n").rpartition("\n")[2],
    "cut short": lambda note, key: line_for(note, key)[:-8],
    "no base64": lambda note, key: line_for(note, key)[:-8] + "!!!!!!!!",
    "two lines": lambda note, key: "\n".join([line_for(note, key)] * 2),
}
# From the log, a note that is none of it as it stands.
BAD_NOTES = {
    "a log that went another way": lambda at: note_of(at.size, bytes(32), at.signer),
    "a log that is longer": lambda at: note_of(at.size + 9, bytes(32), at.signer),
    "an empty log": lambda at: note_of(0, hashlib.sha256(b"").digest(), at.signer),
    "a log of another key": lambda at: note_of(at.size, bytes(32), Signer.from_seed(bytes(32))),
    "no note": lambda at: "no note",
}


@pytest.mark.parametrize("fault", [*BAD_LINES, *BAD_NOTES, "others' lines beside it"])
async def test_a_cosignature_that_does_not_hold_is_refused_and_only_that_is_recorded(
    http: Served, org_b: Organisation, fault: str
):
    await org_b.join(http)
    good, size = await shown(http), http.size
    note = BAD_NOTES[fault](http) if fault in BAD_NOTES else good
    line = BAD_LINES[fault](note, org_b.signer) if fault in BAD_LINES else line_for(note, org_b.signer)
    if fault == "others' lines beside it":
        note += f"{line}\n"

    (await bring(http, org_b, note, line)).refused(422, "cosignature_invalid")

    assert [entry.type for entry in http.entries(size)] == ["exchange.refused.1"]
    assert await shown(http, "?cosigned=true") == await shown(http)


async def test_a_token_brings_one_cosignature(http: Served, org_b: Organisation):
    await org_b.join(http)
    note, token = await shown(http), org_b.token(http)
    body = {"checkpoint": note, "cosignature": line_for(note, org_b.signer)}

    (await http.post(COSIGNATURES, body, bearer=token)).expect(201)

    (await http.post(COSIGNATURES, body, bearer=token)).refused(401, "nonce_already_seen")


async def test_a_stranger_s_cosignature_leaves_no_trace(http: Served, org_b: Organisation):
    note, size = await shown(http), http.size

    (await bring(http, org_b, note, line_for(note, org_b.signer))).refused(401, "unknown_or_inactive_peer")

    assert http.size == size
