"""TLS between nodes, on real sockets: who is believed to be a peer, in both directions, and what is recorded of who is not.

Certificates are dated by the machine's clock, as OpenSSL goes by it; the nodes' own clock is the tests'.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector, web

from node.http.app import ROUTES
from node.http.describe import description_of
from tests import organisations
from tests.certificates import Authority, CertificateFiles
from tests.conftest import Serve
from tests.organisations import Organisation
from tests.served import NODE_ID, Served, fact

ORG_B = organisations.NODE_ID
PEERS = "/v1/federation/peers"
Issue = Callable[[Authority, Authority], CertificateFiles]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "strangers", "stranger")


def tls_of(files: CertificateFiles, authority: Authority, **others: str) -> dict[str, str]:
    return {
        "tls_cert_file": str(files.certificate),
        "tls_key_file": str(files.key),
        "tls_client_ca_file": str(authority.certificate),
        "federation_tls_ca_file": str(authority.certificate),
    } | others


@pytest.fixture
async def at(serve: Serve, authority: Authority) -> Served:
    """Org A's node, which speaks mutual TLS."""
    return await speaking(serve, authority, NODE_ID, **tls_of(authority.issue("org-a", NODE_ID), authority))


async def speaking(serve: Serve, authority: Authority, node_id: str, **settings: Any) -> Served:
    started = await serve(entity_uri=node_id, **settings)
    # Its agents know the CA and show nothing.
    await trusting(started, authority)
    return started


async def trusting(node: Served, authority: Authority, shown: CertificateFiles | None = None) -> None:
    """Have the node's `send` show this certificate, or none."""
    node.trust = ssl.create_default_context(cafile=authority.certificate)
    if shown is not None:
        node.trust.load_cert_chain(shown.certificate, shown.key)
    await node._session.close()
    node._session = ClientSession(connector=TCPConnector(ssl=node.trust))


async def audit(at: Served, event_type: str) -> list[dict[str, Any]]:
    return (await at.get("/v1/federation/audit", event_type=event_type)).expect(200)["events"]


async def peer_at(at: Served) -> dict[str, Any]:
    return (await at.get(PEERS)).expect(200)["peers"][0]


@asynccontextmanager
async def server(files: CertificateFiles | None, *, version: str = "TLSv1_3") -> AsyncIterator[str]:
    """Something that stands where the peer should, and must never be asked anything; its URL."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    asked: list[str] = []
    context = None
    if files is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        context.maximum_version = ssl.TLSVersion[version]
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
    assert asked == []


async def test_two_nodes_that_show_each_other_certificates_federate(serve: Serve, at: Served, authority: Authority):
    own = tls_of(authority.issue("org-b", ORG_B), authority)
    b = await speaking(serve, authority, ORG_B, seed=organisations.SEED, **own)
    for node, other in ((at, b), (b, at)):
        form = {"peer_url": f"https://localhost:{other.port}", "peer_entity_uri": other.node.node_id}
        shown = (await node.post(PEERS, form)).expect(201)
        assert (shown["status"], shown["reason"]) == ("active", None)
    written = await b.write(entity=f"{ORG_B}/project/zeus", source=f"{ORG_B}/agent/bot", scope="public")

    pulled = (await at.post(f"{PEERS}/{(await peer_at(at))['peer_id']}/pull", {})).expect(200)

    assert pulled["ingested"] == 1
    assert (await at.get(f"/v1/facts/{written['id']}")).expect(200)["source"] == f"{ORG_B}/agent/bot"
    # The witness's word went the other way, over a connection that showed our certificate.
    assert [peer["cosigned"] is not None for peer in (await b.get(PEERS)).expect(200)["peers"]] == [True]


BAD: dict[str, tuple[Issue, str]] = {
    "expired": (lambda ca, _: ca.issue("b", ORG_B, days=-1), "certificate has expired"),
    "another's": (lambda ca, _: ca.issue("b", "stigmem://org-c.example"), f"not for {ORG_B}"),
    "one whose name it only begins": (lambda ca, _: ca.issue("b", f"{ORG_B}.evil", ORG_B[:-1]), f"not for {ORG_B}"),
    "without a name": (lambda ca, _: ca.issue("b"), f"not for {ORG_B}"),
    "for another host": (lambda ca, _: ca.issue("b", ORG_B, hosts=("org-b.example",)), "Hostname mismatch"),
    "of an unknown CA": (lambda _, other: other.issue("b", ORG_B), "unable to get local issuer"),
    "signed by itself": (lambda ca, _: ca.issue("b", ORG_B, is_self_signed=True), "self-signed certificate"),
}


@pytest.mark.parametrize("case", [*BAD, "TLS 1.2", "no TLS"])
async def test_a_peer_that_is_not_shown_to_be_itself_is_asked_nothing_and_that_is_on_record(
    at: Served, org_b: Organisation, authority: Authority, stranger: Authority, case: str
):
    issue, words = BAD.get(case, (lambda ca, _: ca.issue("b", ORG_B), "does not speak TLS"))
    files = None if case == "no TLS" else issue(authority, stranger)
    async with server(files, version="TLSv1_2" if case == "TLS 1.2" else "TLSv1_3") as url:
        peer_id = await org_b.join(at, node_url=url)
        size = at.size
        for _ in range(3):
            refused = (await at.post(f"{PEERS}/{peer_id}/pull", {})).refused(503, "peer_tls_refused")

    assert words in refused["detail"]
    assert [(e["peer_id"], e["reason"], e["detail"]) for e in await audit(at, "tls_refused")] == [
        (peer_id, "peer_tls_refused", refused["detail"])
    ]
    assert at.size == size + 1
    peer = await peer_at(at)
    assert (peer["status"], peer["reason"], peer["last_error"]) == ("active", "tls_refused", refused["detail"])


async def test_a_new_peer_with_a_bad_certificate_waits_and_says_why(at: Served, authority: Authority):
    async with server(authority.issue("b", "stigmem://org-c.example")) as url:
        shown = (await at.post(PEERS, {"peer_url": url, "peer_entity_uri": ORG_B})).expect(201)

    assert (shown["status"], shown["reason"]) == ("pending_verification", "tls_refused")
    assert f"not for {ORG_B}" in shown["detail"]
    assert [event["reason"] for event in await audit(at, "peer_pending_verification")] == ["tls_refused"]
    assert await audit(at, "tls_refused") == []


async def test_after_a_repair_the_next_refusal_is_news_again(serve: Serve, at: Served, authority: Authority):
    own = tls_of(authority.issue("org-b", ORG_B), authority)
    b = await speaking(serve, authority, ORG_B, seed=organisations.SEED, **own)
    peer_id = await Organisation(b).join(at, node_url=f"https://localhost:{b.port}")
    await Organisation(at).join(b, node_url=f"https://localhost:{at.port}")

    for days, status in ((10, 200), (-1, 503), (-1, 503), (10, 200), (-1, 503)):
        authority.issue("org-b", ORG_B, days=days)
        b.tls.load()
        b.site.let_go()
        (await at.post(f"{PEERS}/{peer_id}/pull", {})).expect(status)

    assert len(await audit(at, "tls_refused")) == 2


async def test_a_peer_that_refuses_our_certificate_is_on_record_too(serve: Serve, at: Served, authority: Authority):
    own = tls_of(authority.issue("org-b", ORG_B), authority)
    b = await speaking(serve, authority, ORG_B, seed=organisations.SEED, **own)
    peer_id = await Organisation(b).join(at, node_url=f"https://localhost:{b.port}")
    authority.issue("org-a", NODE_ID, days=-1)
    at.tls.load()
    # Its own agents would not believe it either.
    at.trust.check_hostname, at.trust.verify_mode = False, ssl.CERT_NONE

    refused = (await at.post(f"{PEERS}/{peer_id}/pull", {})).refused(503, "peer_tls_refused")

    assert "refuses this node's certificate (certificate_expired)" in refused["detail"]
    assert len(await audit(at, "tls_refused")) == 1
    assert b.site.refused >= 1


PEER_ROUTES = [(route.method, route.path) for route in ROUTES if "peer" in description_of(route).who]


@pytest.mark.parametrize(("method", "path"), PEER_ROUTES, ids=[path for _, path in PEER_ROUTES])
async def test_a_stolen_token_is_of_no_use_without_the_certificate_of_its_issuer(
    serve: Serve, authority: Authority, org_b: Organisation, method, path
):
    own = tls_of(authority.issue("org-a", NODE_ID), authority)
    at = await speaking(serve, authority, NODE_ID, federation_push_enabled=True, **own)
    await org_b.join(at)
    token, body = org_b.token(at), None if method == "GET" else {"facts": []}

    answers = []
    for shown in (None, authority.issue("org-c", "stigmem://org-c.example")):
        await trusting(at, authority, shown)
        answers.append(await at.send(method, path, body, bearer=token))
    await trusting(at, authority, authority.issue("org-b", ORG_B))
    let_in = await at.send(method, path, body, bearer=token)
    again = await at.send(method, path, body, bearer=token)

    answers[0].refused(401, "client_certificate_required")
    answers[1].refused(401, "client_certificate_refused")
    # Its owner's request is not spent by what a thief tried.
    assert let_in.status != 401
    again.refused(401, "nonce_already_seen")
    await trusting(at, authority)
    assert [event["reason"] for event in await audit(at, "rejected_token")] == [
        "client_certificate_refused",
        "client_certificate_required",
    ]


async def test_what_a_thief_tries_fills_no_log(at: Served, authority: Authority, org_b: Organisation):
    await org_b.join(at)
    token, size = org_b.token(at), at.size
    for _ in range(25):
        (await at.send("GET", "/v1/federation/facts", bearer=token)).refused(401, "client_certificate_required")

    assert at.size == size + 10


async def test_agents_need_no_certificate_and_may_show_one(at: Served, authority: Authority):
    (await at.post("/v1/facts", fact())).expect(201)
    await trusting(at, authority, authority.issue("agent"))
    (await at.get("/v1/facts")).expect(200)


async def test_without_a_client_ca_a_token_alone_counts(serve: Serve, authority: Authority, org_b: Organisation):
    own = authority.issue("org-a", NODE_ID)
    at = await speaking(serve, authority, NODE_ID, tls_cert_file=str(own.certificate), tls_key_file=str(own.key))
    await org_b.join(at)

    (await at.send("GET", "/v1/federation/facts", bearer=org_b.token(at))).expect(200)


async def test_a_pinned_certificate_needs_no_ca_no_name_and_no_host(
    serve: Serve, at: Served, authority: Authority, stranger: Authority
):
    files = stranger.issue("org-b", hosts=(), is_self_signed=True)
    both = stranger.certificate.with_name("both.pem")
    both.write_bytes(authority.certificate.read_bytes() + files.certificate.read_bytes())
    own = tls_of(files, authority)
    b = await speaking(serve, authority, ORG_B, seed=organisations.SEED, **own)
    await Organisation(at).join(b, node_url=f"https://localhost:{at.port}")
    url = f"https://localhost:{b.port}"
    form = {"peer_url": url, "peer_entity_uri": ORG_B, "tls_pins": [f"sha256:{files.fingerprint.upper()}"]}

    shown = (await at.post(PEERS, form)).expect(201)

    assert shown["status"] == "active"
    (await at.post(f"{PEERS}/{shown['peer_id']}/pull", {})).expect(200)
    assert (await peer_at(at))["tls_pins"] == [files.fingerprint]
    # No other certificate will do, though its CA and its name would.
    authority.issue("other", ORG_B)
    files.certificate.write_bytes((authority.certificate.parent / "other.crt").read_bytes())
    files.key.write_bytes((authority.certificate.parent / "other.key").read_bytes())
    b.tls.load()
    b.site.let_go()
    refused = (await at.post(f"{PEERS}/{shown['peer_id']}/pull", {})).refused(503, "peer_tls_refused")
    assert "none of those that were pinned" in refused["detail"]


async def test_a_pinned_certificate_that_ran_out_is_refused(at: Served, authority: Authority, org_b: Organisation):
    files = authority.issue("b", ORG_B, days=-1)
    async with server(files) as url:
        peer_id = await org_b.join(at, node_url=url)
        (await at.send("PATCH", f"{PEERS}/{peer_id}", {"tls_pins": [files.fingerprint]})).expect(200)
        refused = (await at.post(f"{PEERS}/{peer_id}/pull", {})).refused(503, "peer_tls_refused")

    assert "expired" in refused["detail"]


async def test_who_is_pinned_is_let_in_by_that_certificate_alone(at: Served, authority: Authority, org_b: Organisation):
    peer_id = await org_b.join(at)
    pinned, named = authority.issue("pinned"), authority.issue("named", ORG_B)
    (await at.send("PATCH", f"{PEERS}/{peer_id}", {"tls_pins": ["ab" * 32, pinned.fingerprint]})).expect(200)

    for shown, status in ((pinned, 200), (named, 401)):
        await trusting(at, authority, shown)
        (await at.send("GET", "/v1/federation/facts", bearer=org_b.token(at))).expect(status)


async def test_pins_are_set_and_taken_away_as_events_and_read_in_the_past(at: Served, org_b: Organisation):
    peer_id = await org_b.join(at)
    pins, size = ["ab" * 32, "cd" * 32], at.size
    path = f"{PEERS}/{peer_id}"

    assert (await at.send("PATCH", path, {"tls_pins": pins})).expect(200)["tls_pins"] == pins
    (await at.send("PATCH", path, {"tls_pins": pins})).expect(200)
    assert at.size == size + 1
    assert (await at.send("PATCH", path, {"allowed_scopes": ["public"]})).expect(200)["tls_pins"] == pins
    assert (await at.send("PATCH", path, {"tls_pins": []})).expect(200)["tls_pins"] == []

    past = (await at.get(PEERS, as_of=f"offset:{size}")).expect(200)["peers"][0]
    assert past["tls_pins"] == pins
    assert [event["detail"] for event in await audit(at, "peer_pinned")] == [
        "no certificate is pinned any more",
        ", ".join(pins),
    ]


@pytest.mark.parametrize("pins", [["ab"], ["zz" * 32], [""], [f"{n:02x}" * 32 for n in range(5)], ["ab" * 32, 1]])
async def test_a_pin_that_is_no_fingerprint_is_refused(at: Served, org_b: Organisation, pins):
    peer_id = await org_b.join(at)
    size = at.size

    (await at.send("PATCH", f"{PEERS}/{peer_id}", {"tls_pins": pins})).refused(422, "invalid_field")

    assert at.size == size
