"""Tombstones over HTTP: gone from every read, refused to every writer, erased from every file (docs/tombstones.md)."""

from pathlib import Path

from tests.served import Served, fact

ALICE = "stigmem://org-a.example/user/alice"
WORDS = "rumpelstiltskin"


def said(**changed: object) -> dict[str, object]:
    return fact(entity=ALICE, value={"type": "string", "v": WORDS}, **changed)


async def bury(http: Served, **changed: object) -> dict:
    body = {"entity_uri": ALICE, "scope": "*", "reason": "asked to be forgotten", **changed}
    answer = await http.post("/v1/tombstones", body)
    assert answer.status == 201, answer.json
    return answer.json


def files_with(folder: Path, words: str) -> list[str]:
    """The files below a folder that hold these words."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if words.encode() in path.read_bytes()]


async def test_after_a_tombstone_the_words_are_in_no_file_and_the_tables_are_those_of_the_log(http: Served):
    await http.write(entity="stigmem://org-a.example/user/bob", value={"type": "string", "v": "stays"})
    for number in range(3):
        await http.post("/v1/facts", said(source=f"agent:{WORDS}-{number}", relation=f"memory:{WORDS}"))
    assert files_with(http.folder, WORDS)

    made = await bury(http)

    assert files_with(http.folder, WORDS) == []
    assert files_with(http.folder, "stays")
    shown = (await http.get(f"/v1/tombstones/{made['id']}")).json
    assert (made["status"], shown["status"], shown["erased_items"]) == ("erasing", "erased", 3)
    assert await http.digests() == http.folded_anew()
