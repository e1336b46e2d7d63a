"""`replay rebuild`: the views made anew from the log, by nobody but the one who holds the folder."""

import shutil

import pytest

from node.folder_lock import FolderLock
from node.projections import PROJECTIONS
from node.projections.views import Views, read_current
from tests.replay.folders import edit, files_of, flip, key, make_folder, replay


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
