"""The committed log stays readable, byte for byte, and folds to the committed digests.

When a projection's version changes: `python -m tests.events.golden` (see there for what never changes).
"""

import json

from node.events import EVENT_TYPES
from tests.events.golden import DIGESTS, ENTRIES, HEAD, committed_entries, digests_of, golden_entries, line_of


def test_the_golden_log_is_made_again_byte_for_byte():
    made = "".join(line_of(entry) + "\n" for entry in golden_entries())
    assert made.encode() == ENTRIES.read_bytes()


def test_the_golden_log_holds_every_event_type():
    assert {entry.type for entry in committed_entries()} == EVENT_TYPES.keys()


def test_the_committed_bytes_open_to_the_events_they_were_made_of():
    assert [entry.event for entry in committed_entries()] == [entry.event for entry in golden_entries()]


def test_the_committed_log_has_the_committed_head_and_digests(tmp_path):
    head, digests = digests_of(tmp_path, committed_entries())
    assert {"size": head.size, "root": head.root.hex()} == json.loads(HEAD.read_text())
    assert digests == json.loads(DIGESTS.read_text())
