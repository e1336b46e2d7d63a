"""Reading a systemd unit as far as the tests need it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "stigmem.service"
CONTAINERFILE = ROOT / "deploy" / "Containerfile"


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Every setting of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def assignments(text: str) -> dict[str, str]:
    """`A=1 B=2` as systemd and container files write it, without quotes."""
    return dict(word.split("=", 1) for word in text.replace("\\\n", " ").split())
