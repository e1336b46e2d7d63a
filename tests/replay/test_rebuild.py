"""`replay rebuild`: the views made anew from the log, by nobody but the one who holds the folder."""

import json
import shutil
import subprocess
import sys

import pytest

from node.events.log import Log
from node.folder_lock import FolderLock
from node.projections import PROJECTIONS
from node.projections.views import Views, open_live, read_current
from tests.replay.folders import REPOSITORY, edit, files_of, flip, fold, key, make_folder, replay
from tests.replay.sound import sound_events

SIZE = len(sound_events())


@pytest.fixture
def data_dir(tmp_path):
    make_folder(tmp_path / "data")
    return tmp_path / "data"


def _live(data_dir):
    return data_dir / "views" / str(read_current(data_dir / "views").folder)


def _live_digests(data_dir):
    views = Views(_live(data_dir), is_readonly=True)
    digests = views.digests()
    views.close()
    return digests


def test_rebuilt_views_are_those_of_the_live_node_in_a_new_folder(data_dir):
    before, old = _live_digests(data_dir), _live(data_dir)
    found = replay("rebuild", data_dir)
    assert found.code == 0
    assert _live_digests(data_dir) == before
    assert _live(data_dir) != old
    assert not old.exists()
    assert read_current(data_dir / "views").closed


def test_rebuild_prints_each_digest_and_the_head_that_verify_prints(data_dir):
    found = replay("rebuild", data_dir)
    digests = dict(line.split(" ") for line in found.stdout.splitlines())
    assert list(digests) == [projection.name for projection in PROJECTIONS] + ["head"]
    assert {name: digests[name] for name in digests if name != "head"} == _live_digests(data_dir)
    assert found.last_line == replay("verify", data_dir).last_line


def test_views_that_were_deleted_come_back(data_dir):
    before = _live_digests(data_dir)
    shutil.rmtree(data_dir / "views")
    assert replay("rebuild", data_dir).code == 0
    assert _live_digests(data_dir) == before


def test_the_log_is_not_written_to(data_dir):
    before = files_of(data_dir / "log")
    replay("rebuild", data_dir)
    after = files_of(data_dir / "log")
    assert after[data_dir / "log" / "data.mdb"] == before[data_dir / "log" / "data.mdb"]


def test_a_folder_that_a_node_has_open_is_refused_and_left_alone(data_dir):
    with FolderLock(data_dir / "lock"):
        before = files_of(data_dir / "views")
        found = replay("rebuild", data_dir)
        assert (found.code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
        assert "in use by process" in found.stderr
        assert files_of(data_dir / "views") == before


def test_a_damaged_log_is_named_and_the_old_views_stay(data_dir):
    before, old = _live_digests(data_dir), _live(data_dir)
    edit(data_dir / "log", "items", flip(key(7, 1), 20))
    found = replay("rebuild", data_dir)
    assert found.code == 6
    assert found.last_line == "damaged at offset 7: item 1 does not match its commitment"
    assert (_live(data_dir), _live_digests(data_dir)) == (old, before)
    replay("rebuild", data_dir)
    assert len([path for path in (data_dir / "views").iterdir() if path.is_dir()]) == 2


def test_a_torn_log_file_is_damage_and_no_crash(data_dir):
    file = data_dir / "log" / "data.mdb"
    file.write_bytes(file.read_bytes()[:12288])
    found = replay("rebuild", data_dir)
    assert found.code == 6
    assert "the file is damaged" in found.last_line


def test_a_dry_run_says_what_would_change_and_touches_nothing(data_dir):
    edit(_live(data_dir), "gardens/held", _delete_first)
    before = files_of(data_dir)
    with FolderLock(data_dir / "lock"):
        found = replay("rebuild", data_dir, "--dry-run")
    assert (found.code, found.stderr) == (0, "")
    said = {line.split(" ")[0]: line.split(" ", 2)[2] for line in found.stdout.splitlines()[:-1]}
    assert [name for name, words in said.items() if words == "would change"] == ["gardens"]
    assert said.keys() == {projection.name for projection in PROJECTIONS}
    assert {path: files_of(data_dir)[path] for path in before} == before


def test_a_dry_run_without_live_views_says_that_they_would_be_made(data_dir):
    shutil.rmtree(data_dir / "views")
    found = replay("rebuild", data_dir, "--dry-run")
    assert all(line.endswith("would be made anew") for line in found.stdout.splitlines()[:-1])
    assert not (data_dir / "views").exists()


def test_with_json_there_is_one_document_that_says_what_the_lines_say(data_dir):
    edit(_live(data_dir), "gardens/held", _delete_first)
    tried = json.loads(replay("rebuild", data_dir, "--dry-run", "--json").stdout)
    assert (tried["result"], [name for name, differs in tried["changes"].items() if differs]) == (
        "would_rebuild",
        ["gardens"],
    )
    done = json.loads(replay("rebuild", data_dir, "--json").stdout)
    assert (done["result"], done["digests"], done["changes"]) == ("rebuilt", _live_digests(data_dir), None)
    assert f"head {done['size']}:{done['root']}" == replay("verify", data_dir).last_line
    edit(data_dir / "log", "items", flip(key(7, 1), 20))
    damaged = replay("rebuild", data_dir, "--json")
    document = json.loads(damaged.stdout)
    assert (damaged.code, document["result"], document["offset"], document["digests"]) == (6, "damaged", 7, None)
    assert document["problem"] == "item 1 does not match its commitment"


@pytest.mark.parametrize("name", [projection.name for projection in PROJECTIONS])
def test_one_projection_is_made_anew_and_the_others_are_carried_over(data_dir, name):
    sound, old = _live_digests(data_dir), _live(data_dir)
    other = "tokens" if name != "tokens" else "peers"
    for projection in PROJECTIONS:
        if projection.name in (name, other):
            for spec in projection.tables:
                edit(old, spec.name, _delete_first)
    spoilt = _live_digests(data_dir)
    found = replay("rebuild", data_dir, "--only", name)
    assert found.code == 0, found
    after = _live_digests(data_dir)
    assert after[name] == sound[name]
    assert after[other] == spoilt[other] != sound[other]
    assert _live(data_dir) != old


def test_only_goes_on_to_the_head_with_all_projections(data_dir):
    sound = _live_digests(data_dir)
    fold(data_dir, SIZE - 5)
    assert replay("rebuild", data_dir, "--only", "peers").code == 0
    assert _live_digests(data_dir) == sound


def test_only_is_refused_where_there_is_nothing_to_carry_over_from(data_dir):
    shutil.rmtree(data_dir / "views")
    found = replay("rebuild", data_dir, "--only", "peers")
    assert (found.code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert "without --only" in found.stderr
    assert replay("rebuild", data_dir, "--only", "nobody").code == 2


def test_only_takes_in_a_projection_of_another_version_and_no_other(data_dir):
    current = data_dir / "views" / "CURRENT"
    text = current.read_text()
    current.write_text(text.replace('"peers":', '"peers":9'))
    assert replay("rebuild", data_dir, "--only", "facts").code == 2
    assert replay("rebuild", data_dir, "--only", "peers").code == 0
    assert '"peers":9' not in current.read_text()


def test_a_header_forged_without_the_key_is_not_folded(data_dir):
    old = _live(data_dir)
    edit(data_dir / "log", "headers", flip(key(7), -1))
    found = replay("rebuild", data_dir)
    assert (found.code, found.last_line.startswith("damaged at offset 7: ")) == (6, True)
    assert _live(data_dir) == old


def test_a_rebuild_killed_at_any_moment_leaves_views_that_a_node_can_use(data_dir):
    sound = _live_digests(data_dir)
    command = [sys.executable, "-m", "replay", "rebuild", "--data-dir", str(data_dir)]
    for number in range(6):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPOSITORY) as process:
            try:
                process.wait(timeout=0.15 + 0.07 * number)
            except subprocess.TimeoutExpired:
                process.kill()
        assert _live_digests(data_dir) == sound
        log = Log(data_dir / "log", is_readonly=True)
        open_live(data_dir / "views", log, 1000).close()
        log.close()
    assert replay("rebuild", data_dir).code == 0
    assert len([path for path in (data_dir / "views").iterdir() if path.is_dir()]) == 1


def _delete_first(txn):
    with txn.cursor() as cursor:
        if cursor.first():
            cursor.delete()
