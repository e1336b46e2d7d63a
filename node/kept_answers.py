"""Answers that are given again while what they tell of stands: the log says when that changes.

Always: what is kept follows from this node's own facts about one entity, from who may read what, and from no clock: so the events
that bring facts end what is kept about the entities of these, and any other event ends it all, but for those named here.
Always: it belongs to the loop's thread, and hears of a commit before whoever waited for that is answered.

Does not say who may ask, or which answers are such (see node/http/lasting.py), nor look into the log (see node/runtime.py).
"""

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import Struct

from node.events import gardens, idempotency, identity, peers, tokens, tombstones
from node.events.entry import Entry
from node.events.event import Event
from node.events.facts import FactAsserted
from node.events.subjects import entities_of

ROOM_BYTES = 64 << 20
# Larger ones take longer to make anew than to look for, but a few of them would fill the room.
MAX_ANSWER_BYTES = 1 << 14
# So many questions are remembered, to know one that comes again: to keep what nobody asks for twice costs more than to make it.
MAX_ASKED = 1 << 15
# So many entities are remembered for what has come about them; then all answers go.
MAX_CHANGED = 1 << 15
# What keeping one takes besides the answer itself.
_BESIDE_BYTES = 800

# What was asked for, and by whom.
Question = tuple[str, str]

_BRINGING: frozenset[type[Event]] = frozenset(
    {FactAsserted, gardens.FactQuarantined, peers.BatchReceived, peers.PushReceived}
)
# Of what others asked, and of what they are: nobody's right to read hangs on it, nor any fact of ours.
_APART: frozenset[type[Event]] = frozenset(
    {
        identity.ManifestPublished,
        identity.RefusalsCounted,
        identity.RequestRefused,
        idempotency.IdempotencyKeyTaken,
        peers.CheckpointCosigned,
        peers.ExchangeRefused,
        peers.PageServed,
        peers.PeerCheckpointSeen,
        peers.PeerTlsFailed,
        tokens.CapabilityAccepted,
        tokens.CapabilityIssued,
        tombstones.TombstonesServed,
    }
)


class Kept(Struct, frozen=True, gc=False):
    """An answer, the entity that it is about, in normal form, and the places in the log of the facts it tells."""

    answer: bytes
    entity: str
    places: tuple[tuple[int, int], ...]

    @property
    def size_bytes(self) -> int:
        return len(self.answer) + _BESIDE_BYTES


class KeptAnswers:
    """By question; where there is no room for one more, the oldest are let go."""

    def __init__(self, room_bytes: int = ROOM_BYTES, max_changed: int = MAX_CHANGED) -> None:
        self._room_bytes = self._left_bytes = room_bytes
        self._max_changed = max_changed
        # With the number of facts that had come by then.
        self._answers: OrderedDict[Question, tuple[Kept, int]] = OrderedDict()
        # By entity, in normal form: the number of the last fact about it that came since `clear`.
        self._changed: dict[str, int] = {}
        self._facts = 0
        # Hashes of questions. One that is taken for another is kept a turn early.
        self._asked: set[int] = set()

    def find(self, question: Question) -> Kept | None:
        found = self._answers.get(question)
        if found is None:
            return None
        kept, facts = found
        return kept if self._changed.get(kept.entity, 0) <= facts else None

    def comes_again(self, question: Question) -> bool:
        """Whether it was asked before, lately; it is from now on."""
        asked = hash(question)
        if asked in self._asked:
            return True
        if len(self._asked) >= MAX_ASKED:
            self._asked.clear()
        self._asked.add(asked)
        return False

    def keep(self, question: Question, kept: Kept) -> None:
        """Keep what was just answered, from a view of all that was committed."""
        if len(kept.answer) > MAX_ANSWER_BYTES:
            return
        before = self._answers.pop(question, None)
        self._left_bytes += (0 if before is None else before[0].size_bytes) - kept.size_bytes
        while self._left_bytes < 0:
            _, (oldest, _) = self._answers.popitem(last=False)
            self._left_bytes += oldest.size_bytes
        self._answers[question] = kept, self._facts

    def note(self, entries: Iterable[Entry]) -> None:
        """Give nothing again that these entries, which were just committed, may have changed."""
        if not self._answers:
            return
        for entry in entries:
            kind = type(entry.event)
            if kind in _BRINGING:
                self._facts += 1
                self._changed |= dict.fromkeys(filter(None, entities_of(entry.event)), self._facts)
            elif kind not in _APART:
                self.clear()
        if len(self._changed) > self._max_changed:
            self.clear()

    def clear(self) -> None:
        self._answers.clear()
        self._changed.clear()
        self._left_bytes = self._room_bytes
