"""The golden log in tests/vectors/golden-log/: a whole log committed byte for byte, with its head and its digests.

`python -m tests.events.golden` writes `digests.json` anew: do so when a projection's version changed. What stands in
`entries.jsonl` and `head.json` is what nodes have on disk, and never changes: `--log` rewrites it, as long as no log of
this format has left our hands, or where a new event type adds entries.

`entries.jsonl` has one line per entry: `stored` (hex), and `items`, each [salt in hex, content as text].
"""

import json
import sys
import tempfile
from pathlib import Path

from node.events.entry import Entry, Item, open_entry, open_header
from node.events.log import Head, Log
from node.projections.views import Views
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import SIGNER, SUCCESSOR, samples

FOLDER = Path(__file__).parents[1] / "vectors" / "golden-log"
ENTRIES, HEAD, DIGESTS = FOLDER / "entries.jsonl", FOLDER / "head.json", FOLDER / "digests.json"


def golden_entries() -> list[Entry]:
    """The golden log, made anew from samples, clock and key."""
    return signed(samples(), clock=fixed_clock(step_ms=7))


def line_of(entry: Entry) -> str:
    items = [[item.salt.hex(), item.content.decode()] for item in entry.items]
    return json.dumps({"stored": entry.stored.hex(), "items": items}, ensure_ascii=False, separators=(",", ":"))


def committed_entries() -> list[Entry]:
    """The golden log as it was committed, opened by the node's own code."""
    # Not splitlines: the text of an item may hold what Unicode counts as the end of a line.
    return [_entry_of(line) for line in ENTRIES.read_text(encoding="utf-8").split("\n") if line]


def digests_of(data_dir: Path, entries: list[Entry]) -> tuple[Head, dict[str, str]]:
    """Write the entries as a log, fold it, and return its head and each projection's digest."""
    log, views = Log(data_dir / "log"), Views(data_dir / "views")
    try:
        head = log.append(0, entries)
        views.fold_forward(log, head.size)
        return head, views.digests()
    finally:
        views.close()
        log.close()


def write(*, is_log_too: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        entries = golden_entries() if is_log_too else committed_entries()
        head, digests = digests_of(Path(scratch), entries)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if is_log_too:
        ENTRIES.write_text("".join(line_of(entry) + "\n" for entry in entries), encoding="utf-8")
        _write_json(HEAD, {"size": head.size, "root": head.root.hex()})
    _write_json(DIGESTS, digests)


def _entry_of(line: str) -> Entry:
    row = json.loads(line)
    items = tuple(Item(bytes.fromhex(salt), content.encode()) for salt, content in row["items"])
    stored = bytes.fromhex(row["stored"])
    named = open_header(stored).key_id
    return open_entry(stored, items, next(s.public_key for s in (SIGNER, SUCCESSOR) if s.key_id == named))


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(is_log_too="--log" in sys.argv[1:])
