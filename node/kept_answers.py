"""Answers that are given again while what they tell of stands: the log says when that changes.

Always: what is kept follows from this node's own facts about one entity, from who may read what, and from no clock: so the events
that bring facts end what is kept about the entities of these, and any other event ends it all, but for those named here.
Always: it belongs to the loop's thread, and hears of a commit before whoever waited for that is answered.

Does not say who may ask, or which answers are such (see node/http/lasting.py), nor look into the log (see node/runtime.py).
"""

import sys
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
# So many questions are remembered once the room is full, to know one that comes again: what is asked once is to displace nothing.
MAX_ASKED = 1 << 15
# So many entities are remembered for what has come about them; then all answers go.
MAX_CHANGED = 1 << 15
# What keeping one takes besides the answer itself, the path that was asked for, and the places.
_BESIDE_BYTES = 800
_PLACE_BYTES = 140
_ROOM_FOR_ONE_BYTES = 1 << 15

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
    """An answer, the `mark_of` the entity that it is about, and the places in the log of the facts it tells."""

    answer: bytes
    about: int
    places: tuple[tuple[int, int], ...]


def mark_of(entity: str) -> int:
    """What stands for an entity, by its name in normal form, which may be long. One taken for another ends answers early."""
    return hash(entity)


def size_of(question: Question, kept: Kept) -> int:
    """How many bytes it takes to keep an answer. The path is among them: it may be of 8 KiB."""
    return len(kept.answer) + sys.getsizeof(question[0]) + len(kept.places) * _PLACE_BYTES + _BESIDE_BYTES


class KeptAnswers:
    """By question; where there is no room for one more, the oldest are let go."""

    def __init__(self, room_bytes: int = ROOM_BYTES, max_changed: int = MAX_CHANGED) -> None:
        self._room_bytes = self._left_bytes = room_bytes
        self._max_changed = max_changed
        # With the number of facts that had come by then, and the bytes that it takes.
        self._answers: OrderedDict[Question, tuple[Kept, int, int]] = OrderedDict()
        # By the mark of an entity: the number of the last fact about it that came since `clear`.
        self._changed: dict[int, int] = {}
        self._facts = 0
        # Hashes of questions. One that is taken for another is kept a turn early.
        self._asked: set[int] = set()

    def find(self, question: Question) -> Kept | None:
        found = self._answers.get(question)
        if found is None:
            return None
        kept, facts, _ = found
        return kept if self._changed.get(kept.about, 0) <= facts else None

    def is_worth_keeping(self, question: Question) -> bool:
        """Whether there is room left for what is answered to it, or it was asked before, lately; it is from now on."""
        if self._left_bytes > _ROOM_FOR_ONE_BYTES:
            return True
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
        size_bytes = size_of(question, kept)
        _, _, before_bytes = self._answers.pop(question, (None, 0, 0))
        self._left_bytes += before_bytes - size_bytes
        while self._left_bytes < 0:
            _, (_, _, oldest_bytes) = self._answers.popitem(last=False)
            self._left_bytes += oldest_bytes
        self._answers[question] = kept, self._facts, size_bytes

    def note(self, entries: Iterable[Entry]) -> None:
        """Give nothing again that these entries, which were just committed, may have changed."""
        if not self._answers:
            return
        for entry in entries:
            kind = type(entry.event)
            if kind in _BRINGING:
                self._facts += 1
                about = map(mark_of, filter(None, entities_of(entry.event)))
                self._changed |= dict.fromkeys(about, self._facts)
            elif kind not in _APART:
                self.clear()
        if len(self._changed) > self._max_changed:
            self.clear()

    def clear(self) -> None:
        self._answers.clear()
        self._changed.clear()
        self._left_bytes = self._room_bytes
