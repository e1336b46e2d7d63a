"""One process per data folder."""

import subprocess
import sys

import pytest

from node.folder_lock import FolderInUse, FolderLock


def test_a_lock_held_is_refused_to_another_and_names_the_process(tmp_path):
    script = "import sys; from pathlib import Path; from node.folder_lock import FolderLock\n"
    script += "FolderLock(Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUse, match=f"in use by process {holder.pid}"):
        FolderLock(tmp_path / "lock").acquire()
    holder.kill()
    holder.communicate()
    # The lock went with its process, however it ended.
    with FolderLock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()


def test_a_lock_let_go_is_free_again(tmp_path):
    first, second = FolderLock(tmp_path / "lock"), FolderLock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(FolderInUse):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    with pytest.raises(FolderInUse):
        first.acquire()
    second.release()
