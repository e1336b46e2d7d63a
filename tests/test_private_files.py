"""What only the node's own user may read: closed whatever the umask and whatever was there before."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from node.at_rest import read_key_file
from node.config import Config
from node.durable import make_folder
from node.keys import create_key_file
from node.private_files import close_to_others, is_open_to_others, why_not_private
from node.serve import open_signer
from node.tls import Tls
from tests.certificates import Authority
from tests.clocks import fixed_clock
from tests.served import NODE_ID


@pytest.fixture(params=[0o000, 0o022, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_and_a_key_are_their_owner_s_alone_whatever_the_umask(tmp_path: Path, umask: int):
    folder = tmp_path / "data"

    make_folder(folder)
    assert close_to_others(folder) is False
    create_key_file(folder / "node.key", bytes(32))

    assert (mode_of(folder), mode_of(folder / "node.key")) == (0o700, 0o600)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777, 0o2750])
def test_a_folder_that_was_there_is_closed_and_its_owner_s_rights_stay(tmp_path: Path, mode: int):
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)

    assert close_to_others(folder) is True
    assert mode_of(folder) == mode & 0o7700
    assert close_to_others(folder) is False


def test_a_file_is_closed_and_keeps_what_its_owner_may_do(tmp_path: Path):
    key = tmp_path / "node.key"
    key.touch()
    key.chmod(0o444)

    assert is_open_to_others(key)
    assert close_to_others(key) is True
    assert mode_of(key) == 0o400 and not is_open_to_others(key)


def test_what_cannot_be_closed_is_told_in_one_line_that_says_what_to_do():
    said = as_nobody(lambda: close_to_others(Path("/")))

    assert re.fullmatch(r"Exposed: /: others may use it \(mode [0-7]{4}\), .*: the node makes it", said)


def as_nobody(act: Callable[[], object]) -> str:
    """What an act of somebody without rights raises: in a process of its own, because there is no way back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534 if os.getuid() == 0 else os.getuid())
            act()
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        said = told.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize(("mode", "is_private"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False)])
def test_an_operator_s_secret_file_is_its_owner_s_alone_or_told_of(tmp_path: Path, mode: int, is_private: bool):
    key = tmp_path / "signing.key"
    key.touch()
    key.chmod(mode)

    reason = why_not_private(key)

    assert (reason is None) is is_private
    assert is_private or reason == f"{key} is open to others than its owner (mode {mode:04o}): chmod 600"
    assert mode_of(key) == mode


@pytest.fixture
def secrets_of_root() -> Iterator[Path]:
    """A folder that everybody may pass through, with secrets in it that are root's."""
    if os.geteuid() != 0:
        pytest.skip("only root can hand over secrets")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        files = Authority(folder).issue("tls", NODE_ID)
        files.certificate.chmod(0o644)
        create_key_file(folder / "node.key", bytes(32))
        (folder / "at-rest.key").write_text("5e" * 32)
        yield folder


READERS = {
    "node.key": lambda path: open_signer(Config(node_private_key_file=str(path)), fixed_clock()),
    "tls.key": lambda path: Tls.opened(
        Config(tls_key_file=str(path), tls_cert_file=str(path.with_suffix(".crt")), federation_enabled=False)
    ),
    "at-rest.key": read_key_file,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("mode", "is_taken"), [(0o440, True), (0o640, True), (0o444, False), (0o460, False), (0o450, False)]
)
def test_a_secret_that_root_hands_over_may_be_read_by_the_group_and_by_nobody_else(
    secrets_of_root: Path, name: str, mode: int, is_taken: bool
):
    path = secrets_of_root / name
    path.chmod(mode)

    said = as_nobody(lambda: READERS[name](path))

    assert said == "" if is_taken else f"{path} is open to others than its owner (mode {mode:04o})" in said


@pytest.mark.parametrize("name", READERS)
def test_a_secret_of_one_s_own_is_for_nobody_else_to_read(secrets_of_root: Path, name: str):
    path = secrets_of_root / name
    path.chmod(0o440)
    os.chown(path, 65534, 0)

    assert f"{path} is open to others than its owner (mode 0440)" in as_nobody(lambda: READERS[name](path))
