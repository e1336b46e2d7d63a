"""Pulling from peers: one task per peer, with its cursor, its backoff, and its state for operators (PROTOCOL §5.1, §5.3).

Always: facts and the cursor behind them are stored by one event; what is held here in memory only saves reading again.
Always: a peer's trouble is its own: each is pulled, checked and waited for by itself, and the node serves on meanwhile.
"""

import asyncio
import re
from collections.abc import Awaitable, Coroutine
from typing import Annotated
from urllib.parse import quote

import msgspec
import structlog
from msgspec import Meta, Struct

from node.backoff import MAX_BACKOFF_S, backoff_s, jittered, longest_wait_s, wait_for_any
from node.clock import parse_hlc
from node.commands.decision import rules_in_force
from node.commands.exchange import IngestBatch, Ingested
from node.commands.fact_lists import with_readable_facts
from node.commands.ingest import Examined, examine
from node.commands.introductions import MAX_INTRODUCED, IntroduceManifest, may_introduce, needs_introduction
from node.commands.peer_tokens import mint_token
from node.commands.witness import Witnessed
from node.errors import (
    LogUnproven,
    MalformedJson,
    PeerAnswerInvalid,
    PeerBehind,
    PeerNotActive,
    PeerTlsRefused,
    PeerUnreachable,
    QuarantineGardenRequired,
    Refusal,
    SealInvalid,
    SourceNotOwned,
    UnknownOrInactivePeer,
)
from node.events.peers import BatchRefusal
from node.key_following import KeyFollower
from node.peer_checks import check_peer
from node.peer_client import PeerClient, PeerRefused
from node.peer_tombstones import take_tombstones
from node.peer_witness import send_cosignature, witness_log
from node.projections.federation_page import MAX_PAGE_FACTS
from node.projections.peers import Peer
from node.projections.view import View
from node.push import Pusher
from node.runtime import Node
from node.times import format_ms

PAGE_BYTES = 8 << 20
# No more often than this, or a pull interval, does a sign of life cut a backoff short.
SIGN_REST_S = 60.0
# How long a peer waits to be looked at again when this node itself could not write or read.
OWN_FAULT_REST_S = 2.0
MAX_CURSOR_CHARS = 1024
# Pages in a row with nothing for us: after so many the next ones can wait for the next cycle.
MAX_BARREN_PAGES = 20
# Of how many organisations a page may have us look again whether a relay knows a newer key.
MAX_MET_AGAIN = 16
# Half a million facts of a page each: whatever a peer makes up, an operator's pull and our next look at its manifest come to pass.
MAX_CYCLE_PAGES = 1000
# The first five minutes: 1, 2, 4, 8 s, then every 15 s; after that ever longer (PROTOCOL §5.1).
_EARLY_TRIES = 23
# What a reference node's cursor looks like: the HLC of the last fact it served.
_HLC_CURSOR = re.compile(r"([0-9]{1,13})\.[0-9]{1,9}")
_FEDERATION_TYPES = frozenset(
    {
        "peer.registered.1",
        "peer.verified.1",
        "peer.status_set.1",
        "peer.changed.1",
        "peer.pinned.1",
        "settings.changed.1",
    }
    | {
        "peer.key_forked.1",
        "peer.terms_proposed.1",
        "peer.terms_approved.1",
        "peer.log_forked.1",
        "peer.checkpoint_accepted.1",
    }
)

Outcomes = tuple[Examined | BatchRefusal, ...]

_log = structlog.get_logger("stigmem.sync")


class Page(Struct, frozen=True, kw_only=True):
    """A page as a peer answers it; each fact is judged by itself, so it stays as it came.

    `cursor` is None where a foreign node has served nothing yet: it echoes that it was asked for none.
    """

    facts: list[msgspec.Raw]
    cursor: Annotated[str, Meta(max_length=MAX_CURSOR_CHARS)] | None
    has_more: bool


class _Origin(Struct):
    """The one member of a fact that says whose record it is."""

    origin: str | None = None


class _Stamp(Struct):
    hlc: str


class Cycle(Struct, frozen=True, kw_only=True):
    """What one pull cycle brought, over all its pages."""

    ingested: int
    known: int
    refused: int
    cursor: str | None


class PeerState:
    """How the exchange with one peer goes in this run of the node."""

    def __init__(self) -> None:
        # Where reading has come to, and under which terms (`Peer.terms_from`) that counts.
        self.cursor: str | None = None
        self.terms_from = -1
        # Behind which of its tombstones it is asked for news; from the first on in each run, which records nothing twice.
        self.tombstones: str | None = None
        self.failures = 0
        self.last_contact_at: str | None = None
        self.last_error = ""
        self.reason = ""
        # When, by the loop's clock, a sign of life last cut a backoff short.
        self.heard_at = -SIGN_REST_S
        # Why its log is taken for unproven, though it is read.
        self.doubt = ""
        # When the next cycle or check is due; None while one runs, or where none is to come by itself.
        self.next_try_ms: int | None = None
        # What the last page said, and when one last said that it was all there is.
        self.has_more: bool | None = None
        # The wall clock (epoch ms) of the last fact before those that are known to be missing; None while none are.
        self.missing_from_ms: int | None = None
        self.caught_up_ms: int | None = None
        self.lock = asyncio.Lock()
        self.news = asyncio.Event()

    def note(self, error: Refusal | PeerRefused) -> None:
        """Why the last cycle failed."""
        self.last_error = _words_of(error)
        if isinstance(error, PeerTlsRefused):
            self.reason = "tls_refused"


class Sync:
    """Keeps every peer checked and pulled, and pushed to where pushes are on."""

    def __init__(self, node: Node, client: PeerClient) -> None:
        self._node, self._client = node, client
        self._pusher = Pusher(node, client)
        self._follower = KeyFollower(node, client)
        self._states: dict[str, PeerState] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._supervisor = _started(self._supervise(), "stigmem-sync")

    async def close(self) -> None:
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        tasks += [self._supervisor] if self._supervisor is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def state_of(self, node_id: str) -> PeerState:
        return self._states.setdefault(node_id, PeerState())

    def push_url_of(self, node_id: str) -> str | None:
        return self._pusher.url_of(node_id)

    def lags_ms(self) -> dict[str, int]:
        """How old the oldest fact is that is known to be missing of each peer that has more for us (PROTOCOL §5.6).

        Of one that is read no more, that grants nothing, or that is read under other terms, it is not known what is missing: its
        facts would be held back for ever.
        """
        now_ms = self._node.clock.now_ms()
        missing = {
            node_id: (state.missing_from_ms, state.terms_from)
            for node_id, state in self._states.items()
            if state.missing_from_ms is not None
        }
        if not missing:
            return {}
        with self._node.view() as view:
            terms = {peer.node_id: peer.terms_from for peer in view.peers.all() if peer.status == "active"}
        return {
            node_id: max(0, now_ms - from_ms)
            for node_id, (from_ms, terms_from) in missing.items()
            if terms.get(node_id) == terms_from
        }

    async def pull_now(self, node_id: str, *, from_start: bool) -> Cycle:
        """Run a cycle for an operator. Raises PeerNotActive, QuarantineGardenRequired, PeerUnreachable, PeerAnswerInvalid."""
        state = self.state_of(node_id)
        try:
            return await self._cycle(node_id, from_start=from_start)
        except PeerRefused as refusal:
            state.last_error = _words_of(refusal)
            raise PeerAnswerInvalid(_words_of(refusal)) from refusal
        except UnknownOrInactivePeer as refusal:
            # It was removed while it was read. That word is for a peer's own token; who asks here is an operator.
            state.last_error = _words_of(refusal)
            raise PeerNotActive("the peer was removed or changed its key while it was read") from refusal
        except Refusal as refusal:
            state.note(refusal)
            raise

    async def _supervise(self) -> None:
        """Give each peer its task, and wake it when the log says that something about it has changed."""
        while True:
            try:
                start = self._node.log.announced().size
                self._wake_all()
                async for _ in self._node.log.follow(start, types=_FEDERATION_TYPES):
                    self._wake_all()
            except Refusal as refusal:
                # Its own disk gives no answer just now; what was missed meanwhile is in the views.
                _log.warning("peers_not_followed", code=refusal.code, detail=refusal.detail)
                await asyncio.sleep(OWN_FAULT_REST_S)

    def _wake_all(self) -> None:
        with self._node.view() as view:
            peers = view.peers.all()
        for peer in peers:
            self.state_of(peer.node_id).news.set()
            self._pusher.wake(peer.node_id)
            if peer.node_id not in self._tasks:
                self._tasks[peer.node_id] = self._start_tasks(peer)

    def _start_tasks(self, peer: Peer) -> list[asyncio.Task[None]]:
        tasks = [_started(self._tend(peer.node_id), f"pull-{peer.peer_id}")]
        if self._node.config.federation_push_enabled:
            tasks.append(_started(self._pusher.tend(peer.node_id), f"push-{peer.peer_id}"))
        return tasks

    async def _tend(self, node_id: str) -> None:
        state = self.state_of(node_id)
        while True:
            state.news.clear()
            try:
                await self._attend(node_id, state)
            except Refusal as refusal:
                # Not the peer's doing: this node's own disk takes nothing, and does again when it can.
                state.note(refusal)
                _log.warning("peer_not_attended", peer=node_id, reason=state.last_error)
                await self._rest(state, OWN_FAULT_REST_S)

    async def _attend(self, node_id: str, state: PeerState) -> None:
        with self._node.view() as view:
            peer = view.peers.of_node(node_id)
        if peer.status in ("revoked", "rejected") or peer.reason == "awaiting_approval":
            # Nothing more is to come of it: what it brought waits for nothing.
            state.missing_from_ms = None
            await state.news.wait()
        elif peer.status == "pending_verification":
            await self._check(peer, state)
        else:
            await self._pull(peer, state)

    async def _check(self, peer: Peer, state: PeerState) -> None:
        await check_peer(self._node, self._client, peer)
        with self._node.view() as view:
            now = view.peers.of_node(peer.node_id)
        if now.status == "active":
            state.failures = 0
            return
        state.failures += 1
        state.last_error = now.detail
        # The check's own news woke nobody but this task: wait in any case.
        state.news.clear()
        await self._wait(peer, state, _check_delay_s(state.failures))

    async def _pull(self, peer: Peer, state: PeerState) -> None:
        try:
            if self._is_manifest_due(peer):
                await check_peer(self._node, self._client, peer)
            await self._cycle(peer.node_id, from_start=False)
        except QuarantineGardenRequired:
            await state.news.wait()
        except (Refusal, PeerRefused) as error:
            state.failures += 1
            state.note(error)
            _log.warning("pull_failed", peer=peer.node_id, reason=state.last_error, failures=state.failures)
            await self._wait(peer, state, self._pull_delay_s(state.failures, error))
        else:
            state.failures = 0
            await self._rest(state, self._node.config.federation_pull_interval_s)

    async def _rest(self, state: PeerState, delay_s: float) -> None:
        """Wait for the next cycle, unless there is news."""
        state.next_try_ms = self._node.clock.now_ms() + int(1000 * delay_s)
        await wait_for_any(state.news, timeout_s=delay_s)
        state.next_try_ms = None

    async def _wait(self, peer: Peer, state: PeerState, delay_s: float) -> None:
        """Wait out a backoff, unless there is news, or the peer itself gives a sign of life.

        Signs count once in a while only: our request is one to the peer, so two nodes that refuse each other would wake
        each other for ever.
        """
        loop, sign = asyncio.get_running_loop(), self._node.sign_of_life(peer.node_id)
        sign.clear()
        state.next_try_ms = self._node.clock.now_ms() + int(1000 * delay_s)
        rest_s = min(SIGN_REST_S, self._node.config.federation_pull_interval_s)
        deaf_s = min(delay_s, max(0.0, state.heard_at + rest_s - loop.time()))
        await wait_for_any(state.news, timeout_s=deaf_s)
        if not state.news.is_set():
            await wait_for_any(sign, state.news, timeout_s=delay_s - deaf_s)
        if sign.is_set():
            state.heard_at = loop.time()
        state.next_try_ms = None

    async def _cycle(self, node_id: str, *, from_start: bool) -> Cycle:
        state = self.state_of(node_id)
        async with state.lock:
            peer = self._require_ready(node_id, state)
            peer, witnessed = await self._witness(peer, state)
            held = state.cursor if state.terms_from == peer.terms_from else None
            cursor = None if from_start else _to_resume_from(held or peer.cursor)
            total, barren = Cycle(ingested=0, known=0, refused=0, cursor=cursor), 0
            for _ in range(MAX_CYCLE_PAGES):
                page = await self._fetch(peer, state, total.cursor)
                reached = total.cursor if page.cursor is None else page.cursor
                await self._meet(peer, page)
                peer, outcomes = await self._examine(peer, page)
                done = await self._ingest(peer, outcomes, reached, witnessed)
                state.cursor, state.terms_from, state.has_more = reached, peer.terms_from, page.has_more
                state.missing_from_ms = _clock_of(page) if page.has_more else None
                if not page.has_more:
                    state.caught_up_ms = self._node.clock.now_ms()
                # A peer that says there is more at the place where we stand would keep us here for ever.
                is_stuck = reached == total.cursor
                total = Cycle(
                    ingested=total.ingested + done.ingested,
                    known=total.known + done.known,
                    refused=total.refused + done.refused,
                    cursor=reached,
                )
                barren = 0 if done.ingested or done.known else barren + 1
                if not page.has_more or is_stuck or barren == MAX_BARREN_PAGES:
                    break
            state.last_error = state.doubt
            await self._cosign(peer, witnessed)
            state.tombstones = await take_tombstones(self._node, self._client, peer, state.tombstones)
            return total

    async def _cosign(self, peer: Peer, witnessed: Witnessed | None) -> None:
        """What is stored may be vouched for: a checkpoint that we could forget is no promise to keep (PROTOCOL §10.3)."""
        with self._node.view() as view:
            now = view.peers.of_node(peer.node_id)
        if witnessed is not None and now.status == "active" and now.seen_checkpoint == witnessed.note:
            await send_cosignature(self._node, self._client, peer, witnessed.note)

    async def _witness(self, peer: Peer, state: PeerState) -> tuple[Peer, Witnessed | None]:
        """Measure the peer's log before anything is read of it (PROTOCOL §10.3): our own asking would make a copy of it go on."""
        state.doubt = ""
        try:
            return await self._witness_followed(peer)
        except PeerBehind:
            state.reason = "behind"
            raise
        except LogUnproven as refusal:
            state.reason = "unproven"
            with self._node.view() as view:
                if rules_in_force(view, self._node.config).mode == "strict":
                    raise
            state.doubt = refusal.detail
            _log.info("log_unproven", peer=peer.node_id, reason=state.doubt)
            return peer, None

    async def _witness_followed(self, peer: Peer) -> tuple[Peer, Witnessed | None]:
        try:
            return peer, await witness_log(self._node, self._client, peer)
        except LogUnproven:
            # PROTOCOL §11: it may be signed by the key that the peer's was rotated to.
            now = await self._follower.follow(peer.node_id, peer.public_key)
            if now is None:
                raise
            return now, await witness_log(self._node, self._client, now)

    def _require_ready(self, node_id: str, state: PeerState) -> Peer:
        with self._node.view() as view:
            peer = view.peers.of_node(node_id)
            is_paused = self._is_paused(view)
        state.reason = "quarantine_garden_required" if is_paused else ""
        if peer is None or peer.status != "active":
            raise PeerNotActive("nothing is exchanged with a peer that is not active")
        if is_paused:
            raise QuarantineGardenRequired("strict mode pulls nothing while no quarantine garden is designated")
        return peer

    def _is_paused(self, view: View) -> bool:
        rules = rules_in_force(view, self._node.config)
        garden_id = rules.quarantine_garden_id
        return rules.mode == "strict" and (garden_id is None or view.gardens.by_id(garden_id) is None)

    async def _fetch(self, peer: Peer, state: PeerState, cursor: str | None) -> Page:
        node = self._node
        token = mint_token(
            node.signer, node.clock, issuer=node.node_id, audience=peer.node_id, scopes=peer.allowed_scopes
        )
        params = {"limit": str(MAX_PAGE_FACTS)} | ({"cursor": cursor} if cursor else {})
        try:
            raw = await self._client.get_json(
                f"{peer.node_url}/v1/federation/facts", peer=peer, token=token, params=params, max_bytes=PAGE_BYTES
            )
        except PeerRefused as refusal:
            if refusal.code in ("cursor_foreign", "invalid_cursor") and cursor is not None:
                # Its log is not the one the cursor was for: start over, what we have already is a no-op.
                return await self._fetch(peer, state, None)
            if _is_no_grant(refusal):
                # What it does not give us is not missing: what it gave us before would be held back for ever.
                state.missing_from_ms = state.has_more = None
            raise
        state.last_contact_at = format_ms(node.clock.now_ms())
        return await asyncio.to_thread(read_page, raw)

    async def _meet(self, peer: Peer, page: Page) -> None:
        """Ask the peer for the manifests of strangers whose facts it relays; what it has none of is then refused, fact by fact."""
        origins = {origin for raw in page.facts if (origin := _origin_of(raw)) is not None}
        # As many as one relay may introduce: what a page holds of any more is refused, and not read again.
        for origin in sorted(origins)[:MAX_INTRODUCED]:
            with self._node.view() as view:
                if not needs_introduction(origin, peer.node_id, view, self._node.context()):
                    continue
            await self._introduce(peer, origin)

    async def _meet_again(self, peer: Peer, origins: set[str]) -> bool:
        """Ask for the manifests of organisations that have one here and whose seals do not hold under it; whether that is news."""
        with self._node.view() as view:
            context = self._node.context()
            named = {origin: view.introductions.by(origin, peer.node_id) for origin in sorted(origins)}
            known = [origin for origin in named if named[origin] is not None and may_introduce(origin, view, context)]
            before = {origin: named[origin] for origin in known[:MAX_MET_AGAIN]}
        for origin in before:
            await self._introduce(peer, origin)
        with self._node.view() as view:
            return any(view.introductions.by(origin, peer.node_id) != held for origin, held in before.items())

    async def _introduce(self, peer: Peer, origin: str) -> None:
        try:
            url = f"{peer.node_url}/v1/federation/manifest/{quote(origin, safe='')}"
            document = await self._client.get_json(url, peer=peer)
            await self._node.execute(IntroduceManifest(introducer=peer.node_id, entity_uri=origin, document=document))
        except PeerUnreachable:
            # Its facts would be refused for want of a manifest: better to read the page again.
            raise
        except (PeerRefused, Refusal) as error:
            _log.info("not_introduced", peer=peer.node_id, organisation=origin, reason=_words_of(error))

    async def _examine(self, peer: Peer, page: Page) -> tuple[Peer, Outcomes]:
        """What the page's facts are, each by itself, under the keys that its signers have now."""
        outcomes = await self._examined(peer, page)
        if any(isinstance(outcome, BatchRefusal) and outcome.reason == SealInvalid.code for outcome in outcomes):
            now = await self._follower.settle(peer.node_id, peer.public_key)
            if now is not None:
                peer, outcomes = now, await self._examined(now, page)
        if await self._meet_again(peer, _unsealed_origins(page, outcomes)):
            outcomes = await self._examined(peer, page)
        return peer, outcomes

    def _examined(self, peer: Peer, page: Page) -> Awaitable[Outcomes]:
        context = self._node.context()
        return self._node.read(lambda view: tuple(examine(bytes(raw), peer, view, context) for raw in page.facts))

    async def _ingest(
        self, peer: Peer, outcomes: Outcomes, cursor: str | None, witnessed: Witnessed | None
    ) -> Ingested:
        command = IngestBatch(
            node_id=peer.node_id,
            public_key=peer.public_key,
            terms_from=peer.terms_from,
            outcomes=outcomes,
            cursor=cursor or "",
            witnessed=witnessed,
        )
        return (await self._node.execute(command)).reply

    def _is_manifest_due(self, peer: Peer) -> bool:
        # A peer renews its manifest when a third of a year is left; thirty days before the end is late enough to find it new.
        is_ending = peer.manifest_expires_ms - self._node.clock.now_ms() < 30 * 86_400_000
        return peer.manifest is not None and is_ending

    def _pull_delay_s(self, failures: int, error: Refusal | PeerRefused) -> float:
        interval_s = self._node.config.federation_pull_interval_s
        asked_s = error.data.get("retry_after_s", 0) if isinstance(error, Refusal) else 0
        # A busy peer may ask for more time than that, up to the longest there is.
        return max(backoff_s(failures, interval_s), min(longest_wait_s(interval_s), asked_s))


def _started(coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_report_end)
    return task


def _report_end(task: asyncio.Task[None]) -> None:
    # These tasks end by being cancelled; one that ends otherwise is a bug that nobody would see.
    if not task.cancelled() and task.exception() is not None:
        _log.error("sync_task_failed", task=task.get_name(), exc_info=task.exception())


def _check_delay_s(failures: int) -> float:
    if failures <= _EARLY_TRIES:
        return min(15.0, 2.0 ** (failures - 1))
    return jittered(min(MAX_BACKOFF_S, 15.0 * 2.0 ** min(failures - _EARLY_TRIES, 10)))


def _origin_of(raw: msgspec.Raw) -> str | None:
    """Which organisation a fact of a page says it comes from; None where it says nothing that could be one."""
    try:
        return msgspec.json.decode(raw, type=_Origin).origin
    except msgspec.MsgspecError:
        return None


def _unsealed_origins(page: Page, outcomes: Outcomes) -> set[str]:
    """Whose relayed records were refused, for want of a seal of theirs or for another reason."""
    refused = (
        _origin_of(raw)
        for raw, outcome in zip(page.facts, outcomes, strict=True)
        if isinstance(outcome, BatchRefusal) and outcome.reason == SourceNotOwned.code
    )
    return {origin for origin in refused if origin is not None}


def _clock_of(page: Page) -> int | None:
    """The HLC's wall part of a page's last fact; None where it has none."""
    try:
        return parse_hlc(msgspec.json.decode(page.facts[-1], type=_Stamp).hlc)[0]
    except (IndexError, ValueError):  # MsgspecError is one
        return None


def read_page(raw: bytes) -> Page:
    """A page as a peer answered it. Raises PeerAnswerInvalid."""
    try:
        page = msgspec.json.decode(with_readable_facts(raw), type=Page)
    except (MalformedJson, msgspec.MsgspecError) as error:
        words = error.detail if isinstance(error, MalformedJson) else str(error)
        raise PeerAnswerInvalid(f"its page cannot be read: {words}") from error
    if len(page.facts) > MAX_PAGE_FACTS:
        raise PeerAnswerInvalid(f"its page holds {len(page.facts)} facts")
    return page


def _to_resume_from(cursor: str | None) -> str | None:
    """The cursor to begin a cycle with. A reference node compares its own as text, where `W.10` sorts before `W.9`.

    So its last millisecond is asked for again: known facts are no-ops (INTEROP §8).
    """
    match = _HLC_CURSOR.fullmatch(cursor or "")
    return f"{match[1]}." if match else cursor


def _is_no_grant(refusal: PeerRefused) -> bool:
    """Whether a peer says that nothing of what it has is for us, unlike one that is busy or finds fault with a token."""
    return refusal.status == 403 or refusal.code == UnknownOrInactivePeer.code


def _words_of(error: Refusal | PeerRefused) -> str:
    if isinstance(error, PeerRefused):
        return f"it answered {error.status} {error.code}"
    return error.detail
