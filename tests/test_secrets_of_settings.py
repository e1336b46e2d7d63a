"""Where a setting that is a secret may come from: a variable or a file of the operator's own, never a command line."""

from pathlib import Path

import pytest

from node.cli import _config, _parser
from node.config import SECRETS, SETTINGS

GIVEN = "a-secret-that-somebody-typed-0123456789"


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.name in SECRETS], ids=lambda s: s.name)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(setting, capsys: pytest.CaptureFixture[str]):
    for spelled in ([setting.flag, GIVEN], [f"{setting.flag}={GIVEN}"]):
        with pytest.raises(SystemExit) as ended:
            _parser({}, ["serve"]).parse_args(["serve", *spelled])

        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert setting.variable in said and GIVEN not in said


def test_no_other_command_has_a_flag_that_is_named_like_a_secret():
    flags = {flag for parser in _parsers(_parser({})) for action in parser._actions for flag in action.option_strings}

    named = {flag for flag in flags if any(word in flag for word in ("key", "secret", "pass", "token", "bearer"))}
    # Idempotency keys, public keys and names of files.
    public = {"--key", "--trust-key", "--public-key", "--sign-with", "--api-key-max-age-days"}
    # Names of files and of variables, and a choice between keys.
    public |= {"--new-node-key"} | {flag for flag in flags if flag.endswith(("-file", "-env"))}
    assert named - public <= {setting.flag for setting in SETTINGS if setting.name in SECRETS}


def _parsers(parser):
    yield parser
    for action in parser._actions:
        for below in getattr(action, "choices", None) or ():
            if hasattr(action, "_name_parser_map"):
                yield from _parsers(action.choices[below])


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_settings_file_with_a_secret_that_anybody_may_read_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, warned: bool
):
    monkeypatch.chdir(tmp_path)
    file = Path("stigmem.toml")
    file.write_text(f'admin-key = "{GIVEN}"\n')
    file.chmod(mode)

    config, warnings = _config({})

    assert config.admin_key == GIVEN
    assert [("chmod 600" in warning, GIVEN in warning) for warning in warnings] == [(True, False)] * warned
