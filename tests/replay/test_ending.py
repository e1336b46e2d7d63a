"""How commands end whose output goes nowhere, or that are told to end: with an exit code, and never a traceback."""

import fcntl
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys

import pytest

from tests.replay.folders import REPOSITORY, edit, flip, make_folder

COMMAND = [sys.executable, "-c", "import sys, node.cli; sys.exit(node.cli.main())"]
# Output is buffered, as at an operator's shell.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
TOLD = {
    "verify": ["replay", "verify"],
    "verify --json": ["replay", "verify", "--json"],
    "rebuild": ["replay", "rebuild", "--dry-run"],
    "audit": ["replay", "audit"],
    "head": ["log", "head"],
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ending") / "data"
    make_folder(folder)
    return folder


def run(command, data_dir, **options):
    """The command's exit code and what it says on stderr."""
    done = subprocess.run(
        [*COMMAND, *command, "--data-dir", str(data_dir)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def gone_reader():
    """The writing end of a pipe that nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


@pytest.mark.parametrize("command", TOLD.values(), ids=TOLD)
def test_a_reader_that_has_gone_hears_no_more_and_is_told_nothing(command, data_dir):
    stdout = gone_reader()
    try:
        assert run(command, data_dir, stdout=stdout) == (0, "")
    finally:
        os.close(stdout)


@pytest.mark.parametrize("command", [TOLD["verify --json"], TOLD["audit"]], ids=lambda words: words[1])
def test_output_that_finds_no_room_is_one_line(command, data_dir):
    with open("/dev/full", "w") as full:
        code, said = run(command, data_dir, stdout=full)
    assert (code, said.count("\n")) == (2, 1)
    assert "No space left" in said


@pytest.mark.parametrize("command", [TOLD["audit"], TOLD["head"]], ids=lambda words: words[1])
def test_a_closed_stdout_takes_what_is_said(command, data_dir):
    assert run(command, data_dir, preexec_fn=lambda: os.close(1)) == (0, "")


def test_a_verdict_stands_though_nobody_reads_it(tmp_path):
    make_folder(tmp_path)
    edit(tmp_path / "log", "headers", flip((7).to_bytes(8), -1))
    stdout = gone_reader()
    code, said = run(TOLD["verify"], tmp_path, stdout=stdout)
    os.close(stdout)
    assert (code, said) == (6, "offset 7: the signature does not verify\n")


@pytest.fixture
def children_hear_interrupts():
    """A shell that runs the tests in the background has them, and what they start, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("children_hear_interrupts")
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_told_to_end_leaves_no_copy_of_the_log(told, data_dir, tmp_path):
    reads, writes = os.pipe()
    # So small a pipe fills up while the command still writes, and there it waits for a reader.
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    begun = subprocess.Popen(
        [*COMMAND, "replay", "audit", "--format", "prov", "--data-dir", str(data_dir)],
        cwd=REPOSITORY,
        env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(writes)
    assert select.select([reads], [], [], 60)[0]
    assert list(tmp_path.iterdir()) != []
    os.killpg(begun.pid, told)
    os.close(reads)
    _, said = begun.communicate(timeout=60)
    assert (begun.returncode, said) == (2, "stigmem: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_fold_that_finds_no_room_is_one_line(data_dir, tmp_path):
    room = (data_dir / "log" / "data.mdb").stat().st_size

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    for command in (TOLD["verify"], TOLD["audit"]):
        code, said = run(command, data_dir, stdout=subprocess.DEVNULL, preexec_fn=little_room)
        assert (code, said.count("\n")) == (2, 1), said


def test_a_folder_whose_name_is_no_text_is_read_and_named(data_dir, tmp_path):
    odd = tmp_path / os.fsdecode(b"d\xff\x1b[31m")
    shutil.copytree(data_dir, odd)
    done = subprocess.run(
        [*COMMAND, "replay", "verify", "--json", "--data-dir", str(odd)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr, answer["result"]) == (0, b"", "sound")
    assert answer["data_dir"] == f"{tmp_path}/d\\xff\x1b[31m"
    code, said = run(TOLD["head"], odd / "none", stdout=subprocess.DEVNULL)
    assert (code, said) == (2, f"stigmem: {tmp_path}/d\\udcff\\x1b[31m/none is not there, or is not a folder\n")
