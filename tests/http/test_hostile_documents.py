"""Documents that are nearly sound, at the doors that take them: tokens, manifests, declarations, pushed facts, signed notes.

Always: one place of each is anything else, and where its own signer could have written that, it is signed anew, so that no
signature gives it away. Nothing gets a 5xx, and no changed token opens a door.
"""

import copy
import json
import os
import random
from collections.abc import Iterator

import pytest
import rfc8785

from tests.conftest import Serve
from tests.interop_peer import ReferencePeer
from tests.organisations import Organisation, b64url, issue, jwt
from tests.served import NODE_ID, Answer, Served
from tests.spoilt import spoil_a_place

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
ROUNDS = 2000 if LONG else 80
AGENT = f"{NODE_ID}/agent/reader"
PUSH = "/v1/federation/facts/push"


def changed(sound: dict[str, object], rounds: int = ROUNDS) -> Iterator[dict[str, object]]:
    """The document, each time spoilt at one place."""
    for seed in range(rounds):
        chance, document = random.Random(seed), copy.deepcopy(sound)
        spoil_a_place(document, chance)
        if document != sound:
            yield document


def no_bug(answer: Answer, document: object) -> Answer:
    assert answer.status < 500 or answer.json["error"] == "peer_unreachable", (answer, document)
    answer.assert_well_formed()
    return answer


@pytest.fixture
async def http(serve: Serve, org_b: Organisation) -> Served:
    http: Served = await serve(federation_push_enabled=True, trust_mode="relaxed")
    await org_b.join(http)
    return http


async def test_no_changed_capability_token_opens_a_door(http: Served):
    token = json.loads(await issue(http, AGENT, verb="read"))
    (await http.send("GET", "/v1/facts", bearer=json.dumps(token))).expect(200)
    size = http.size

    for document in changed(token):
        text = json.dumps(document)
        if len(text) < 8000:
            assert no_bug(await http.send("GET", "/v1/facts", bearer=text), document).status in (401, 403), document
        verdict = await http.send("POST", "/v1/federation/capability-tokens/verify", {"token_json": text}, bearer=None)
        assert verdict.status >= 400 or verdict.json["valid"] is False, document

    assert http.size == size


async def test_no_changed_claims_are_a_peer_token_but_of_what_the_peer_may_say(http: Served, org_b: Organisation):
    for document in changed(org_b.claims(http)):
        document.setdefault("nonce", org_b.nonce())
        try:
            bearer = jwt(org_b.signer, document)
        except UnicodeEncodeError:
            continue
        if len(bearer) < 8000:
            answer = no_bug(await http.send("GET", "/v1/federation/facts", bearer=bearer), document)
            assert answer.status in (200, 401, 403), (answer, document)


async def test_a_peer_s_facts_may_say_anything_under_a_sound_seal(http: Served, org_b: Organisation):
    for number, document in enumerate(changed(org_b.served_fact())):
        try:
            sealed = org_b.served_fact(number=number + 1, **{name: document[name] for name in document if name != "id"})
        except (ValueError, TypeError, KeyError, AttributeError):
            # What cannot be sealed is brought as it is.
            sealed = document
        body = json.dumps({"facts": [sealed], "sender_hlc": "1777896000000.000"}).encode()
        no_bug(await http.send("POST", PUSH, body, bearer=org_b.token(http)), document)

    assert (await http.get("/v1/facts", limit=1000)).status == 200


async def test_a_manifest_may_say_anything_under_its_own_signature(http: Served, org_b: Organisation):
    own = {name: value for name, value in json.loads(org_b.documents().manifest).items() if name != "signature"}
    is_own = {"entity_uri": NODE_ID, "entities": [NODE_ID]}
    own |= is_own | {"public_key": http.signer.public_key_b64, "key_id": http.signer.key_id}
    own.pop("log_entry", None)

    for document in changed(own):
        try:
            signature = b64url(http.signer.sign(rfc8785.dumps(document)))
        except (rfc8785.CanonicalizationError, UnicodeEncodeError):
            continue
        no_bug(await http.send("PUT", "/v1/federation/manifest", document | {"signature": signature}), document)

    (await http.get("/.well-known/stigmem-manifest.json")).expect(200)


async def test_a_declaration_may_say_anything_under_its_own_signature(http: Served, reference: ReferencePeer):
    sound = reference.declaration("public", signed_at="2026-05-04T12:00:00Z")
    sound.pop("declaration_sig")
    for document in changed(sound):
        try:
            signature = b64url(reference.key.sign(rfc8785.dumps(document)).signature)
        except (rfc8785.CanonicalizationError, UnicodeEncodeError):
            continue
        document |= {"declaration_sig": signature}
        no_bug(await http.send("POST", "/v1/federation/peers", document), document)


async def test_no_changed_note_is_a_checkpoint_to_cosign(http: Served, org_b: Organisation):
    note = (await http.get("/v1/log/checkpoint")).body.decode()
    for seed in range(ROUNDS // 4):
        chance, spoilt = random.Random(seed), list(note)
        at = chance.randrange(len(spoilt))
        spoilt[at : at + chance.choice((0, 1, 20))] = chance.choice(
            ("\n", "", "\u2014", "9" * 30, "\x00", "\n\n", "A" * 9000)
        )
        if "".join(spoilt) == note:
            continue
        body = {
            "checkpoint": "".join(spoilt),
            "cosignature": chance.choice(("", "\u2014 a b", "\u2014 org-b AAAA", "x" * 900)),
        }
        answer = await http.send("POST", "/v1/log/cosignatures", body, bearer=org_b.token(http))
        assert 400 <= no_bug(answer, body).status < 500
