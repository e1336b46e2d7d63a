"""A diff as it is written: for people, or as one JSON document (docs/audit.md)."""

from collections import Counter
from collections.abc import Iterator

from node.canonical import canonical_json
from node.times import format_ms
from replay.checked_log import Evidence
from replay.diff import SUBJECTS, Change, Ends
from replay.shown import Output, cut

_MARKS = {"added": "+", "changed": "~", "went": "-"}
_MOST_TEXT = 120


def write_text(found: Iterator[Change], ends: Ends, evidence: Evidence, output: Output) -> None:
    """One block per subject that changed, totals at the end."""
    for line in evidence.heading():
        output.line(line)
    output.line(f"from {_place_words(ends.first, ends.first_ms)}")
    output.line(f"to   {_place_words(ends.end, ends.end_ms)}")
    counts: Counter[tuple[str, str]] = Counter()
    subject = ""
    for change in found:
        if change.subject != subject:
            subject = change.subject
            output.line("")
            output.line(subject)
        counts[subject, change.became] += 1
        output.line(f"  {_MARKS[change.became]} {change.id}{_named_words(change)}")
        for words in _member_words(change):
            output.line(f"      {words}")
    output.line("")
    output.line(f"{'totals':<12} {'added':>9} {'changed':>9} {'went':>9}")
    for name in SUBJECTS:
        output.line(f"{name:<12} " + " ".join(f"{counts[name, became]:>9}" for became in _MARKS))


def write_json(found: Iterator[Change], ends: Ends, evidence: Evidence, output: Output) -> None:
    """One document, a change a line; its members come in order of their names."""
    counts = {subject: dict.fromkeys(_MARKS, 0) for subject in SUBJECTS}
    output.raw(b'{"changes":[')
    separator = b""
    for change in found:
        counts[change.subject][change.became] += 1
        output.raw(separator + canonical_json(_record(change)))
        separator = b","
    rest = {
        "from": _place_record(ends.first, ends.first_ms),
        "node_id": evidence.node_id,
        "to": _place_record(ends.end, ends.end_ms),
        "totals": counts,
    }
    output.raw(b"]," + canonical_json(rest)[1:])


def _record(change: Change) -> dict[str, object]:
    members = {name: {"before": was, "after": now} for name, (was, now) in change.members.items()}
    return {
        "subject": change.subject,
        "became": change.became,
        "id": change.id,
        "named": change.named,
        "members": members,
    }


def _place_record(size: int, at_ms: int) -> dict[str, object]:
    return {"offset": size, "at": format_ms(at_ms) if size else None}


def _place_words(size: int, at_ms: int) -> str:
    return f"offset {size}, after {format_ms(at_ms)}" if size else "offset 0, the beginning"


def _member_words(change: Change) -> Iterator[str]:
    """What differs; of what is new, what there is to say."""
    for name, (was, now) in sorted(change.members.items()):
        if change.became != "added":
            yield f"{name}: {_words(was)} -> {_words(now)}"
        elif now not in (None, False, "", []):
            yield f"{name}: {_words(now)}"


def _named_words(change: Change) -> str:
    return "".join(f"; {name} {_words(value)}" for name, value in change.named.items() if value is not None)


def _words(value: object) -> str:
    if isinstance(value, str):
        return cut(value, _MOST_TEXT) or '""'
    return cut(canonical_json(value).decode(), _MOST_TEXT)
