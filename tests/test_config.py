"""What the settings may say, which source of a setting wins, and what stops a start."""

import math

import pytest

from node.config import SETTINGS, Config, ConfigError, from_environ, is_loopback_host

TLS = {"TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k"}


def config_of(**environ: str) -> Config:
    return from_environ({f"STIGMEM_{name}": value for name, value in environ.items()}, None, {})[0]


def test_an_empty_environment_gives_the_defaults_and_no_warning():
    assert from_environ({}, None, {}) == (Config(), [])


def test_every_field_of_the_config_is_a_setting_and_every_setting_a_field():
    # The passphrase is what the variable holds that a setting names.
    fields = tuple(name for name in Config.__struct_fields__ if name != "at_rest_passphrase")

    assert tuple(setting.name for setting in SETTINGS) == fields


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default():
    environ = {"STIGMEM_PORT": "2", "STIGMEM_HOST": "::1"}
    toml = {"port": 3, "host": "127.0.0.2", "trust_mode": "strict"}

    config, _ = from_environ(environ, toml, {"port": "1"})

    assert (config.port, config.host, config.trust_mode, config.log_level) == (1, "::1", "strict", "info")


def test_the_file_and_the_flags_may_spell_a_setting_in_any_of_its_forms():
    config, warnings = from_environ({}, {"data-dir": "/a", "STIGMEM_LOG_LEVEL": "debug"}, {"--trust-mode": "off"})

    assert (config.data_dir, config.log_level, config.trust_mode, warnings) == ("/a", "debug", "off", [])


def test_typed_values_of_the_file_are_taken_as_they_are():
    config, _ = from_environ({}, {"federation_enabled": True, "quarantine_trust_threshold": 0.5}, {})

    assert config.federation_enabled is True
    assert config.quarantine_trust_threshold == 0.5


def test_the_node_url_follows_the_port():
    assert config_of(PORT="8100").node_url == "http://localhost:8100"


def test_the_node_url_follows_whether_the_node_speaks_tls():
    assert config_of(PORT="8100", **TLS).node_url == "https://localhost:8100"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TLS_CERT_FILE": "c"}, "STIGMEM_TLS_CERT_FILE"),
        ({"TLS_KEY_FILE": "k"}, "STIGMEM_TLS_CERT_FILE"),
        ({"TLS_CLIENT_CA_FILE": "ca"}, "STIGMEM_TLS_CLIENT_CA_FILE"),
        (TLS | {"NODE_URL": "http://node.example"}, "STIGMEM_NODE_URL"),
        ({"FEDERATION_ENABLED": "true", "NODE_URL": "http://node.example"}, "STIGMEM_NODE_URL"),
        ({"FEDERATION_ENABLED": "true", "NODE_URL": "http://10.0.0.7:8765"}, "STIGMEM_NODE_URL"),
    ],
)
def test_tls_that_is_half_set_up_or_a_bearer_in_clear_stops_the_start(environ, named):
    with pytest.raises(ConfigError, match=f"^{named}"):
        config_of(**environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"FEDERATION_ENABLED": "true", "NODE_URL": "http://[::1]:8765"},
        {"FEDERATION_ENABLED": "true", "NODE_URL": "https://node.example"},
        {"FEDERATION_ENABLED": "true", "NODE_URL": "http://node.example", "FEDERATION_INSECURE": "true"},
        {"NODE_URL": "http://node.example"},
        TLS | {"NODE_URL": "https://node.example", "TLS_CLIENT_CA_FILE": "ca"},
    ],
)
def test_plain_http_is_left_to_loopback_proxies_and_who_said_so(environ):
    assert config_of(**environ).node_url == environ["NODE_URL"]


def test_a_trailing_slash_of_the_node_url_is_dropped():
    assert config_of(NODE_URL="https://node.example/").node_url == "https://node.example"


@pytest.mark.parametrize(
    ("node_url", "policy"),
    [("http://localhost:1", "peers"), ("http://[::1]:1", "peers"), ("https://node.example", "accepted")],
)
def test_the_attestation_policy_follows_whether_the_node_url_is_loopback(node_url, policy):
    assert config_of(NODE_URL=node_url).attestation_policy == policy


def test_a_stated_attestation_policy_stands():
    assert config_of(NODE_URL="https://node.example", ATTESTATION_POLICY="peers").attestation_policy == "peers"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("true", True), ("1", True), ("On", True), ("yes", True), ("false", False), ("0", False), ("OFF", False)],
)
def test_booleans_have_eight_spellings(text, meaning):
    assert config_of(FEDERATION_ENABLED=text).federation_enabled is meaning


BAD = {
    "PORT": ["abc", "0", "65536", "-1", "1.0", "", "\u0661"],
    "HOST": ["", " "],
    "DATA_DIR": ["", "a\0b"],
    "NODE_URL": [
        "",
        "localhost",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://u:p@a",
        "http://a?x",
        "http://a#x",
        "http://[",
    ],
    "ENTITY_URI": [
        "org",
        "stigmem://",
        "stigmem://Org",
        "stigmem://a/b",
        "stigmem://a/",
        "stigmem://a..b",
        "stigmem://ä",
    ],
    "ADMIN_KEY": ["", "  ", "a\nb"],
    "AUTH_REQUIRED": ["", "maybe", "2"],
    "TRUST_MODE": ["", "paranoid"],
    "QUARANTINE_TRUST_THRESHOLD": ["2", "-0.1", "nan", "inf", "", "x"],
    "FEDERATION_HLC_MAX_FUTURE_SKEW_S": ["-1", "x"],
    "FEDERATION_NONCE_WINDOW_S": ["0", "-5", "none"],
    "FEDERATION_PULL_INTERVAL_S": ["-1", "0", "1.5"],
    "ATTESTATION_POLICY": ["all"],
    "LOG_LEVEL": ["loud"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_value_that_cannot_be_used_stops_the_start_with_one_line_naming_the_variable(name, text):
    with pytest.raises(ConfigError) as refused:
        config_of(**{name: text})

    assert str(refused.value).startswith(f"STIGMEM_{name}: ")
    assert "\n" not in str(refused.value)


def test_nan_from_the_file_is_no_threshold():
    with pytest.raises(ConfigError):
        from_environ({}, {"quarantine_trust_threshold": math.nan}, {})


def test_a_bad_secret_is_not_quoted_in_the_refusal():
    with pytest.raises(ConfigError) as refused:
        config_of(ADMIN_KEY="hunter2\n")

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"NODE_URL": "https://node.example"},
        {"HOST": "0.0.0.0"},
        {"HOST": "10.0.0.1", "NODE_URL": "https://node.example"},
    ],
    ids=["node_url_is_public", "host_is_any", "both"],
)
def test_no_authentication_off_loopback_is_refused(environ):
    with pytest.raises(ConfigError, match="STIGMEM_AUTH_REQUIRED"):
        config_of(AUTH_REQUIRED="false", **environ)


def test_no_authentication_is_allowed_where_host_and_node_url_are_loopback():
    assert config_of(AUTH_REQUIRED="false", HOST="::1", NODE_URL="http://127.0.0.1:9").auth_required is False


@pytest.mark.parametrize(
    "variable",
    [
        "STIGMEM_AT_REST_CIPHER",
        "STIGMEM_SANITIZER_MODE",
    ],
)
def test_a_protection_this_version_does_not_have_stops_the_start(variable):
    with pytest.raises(ConfigError, match=f"^{variable}: this version does not support it"):
        from_environ({variable: "on"}, None, {})


@pytest.mark.parametrize("text", ["off", "OFF", "false", ""])
def test_encryption_at_rest_that_is_stated_to_be_off_is_no_obstacle(text):
    assert from_environ({"STIGMEM_AT_REST_ENCRYPTION": text}, None, {}) == (Config(), [])


def test_the_passphrase_is_what_the_named_variable_holds():
    environ = {"STIGMEM_AT_REST_ENCRYPTION": "on", "STIGMEM_AT_REST_KEY_PASSPHRASE_ENV": "OURS", "OURS": "open sesame"}

    config, _ = from_environ(environ, None, {})

    assert config.at_rest_passphrase == "open sesame"
    assert "sesame" not in repr(config)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"STIGMEM_AT_REST_KEY_FILE": "/k", "STIGMEM_AT_REST_KEY_PASSPHRASE_ENV": "OURS", "OURS": "x"}, "both are set"),
        ({"STIGMEM_AT_REST_KEY_PASSPHRASE_ENV": "OURS"}, "OURS is not set"),
        (
            {"STIGMEM_AT_REST_KEY_FILE": "/k", "STIGMEM_AT_REST_ENCRYPTION": "off"},
            "STIGMEM_AT_REST_KEY_FILE: it is set",
        ),
        ({"STIGMEM_AT_REST_KEY_FILE": " "}, "must be a text that is not empty"),
    ],
)
def test_a_source_of_the_key_that_cannot_be_meant_stops_the_start(environ, named):
    with pytest.raises(ConfigError, match=named):
        from_environ({"STIGMEM_AT_REST_ENCRYPTION": "on"} | environ, None, {})


def test_a_misspelt_name_is_warned_of_with_the_nearest_known_one():
    _, warnings = from_environ({"STIGMEM_ADMINKEY": "x"}, None, {})

    assert warnings == ["STIGMEM_ADMINKEY is no setting of this version; did you mean STIGMEM_ADMIN_KEY?"]


def test_a_name_near_to_none_is_warned_of_without_a_guess():
    _, warnings = from_environ({"STIGMEM_ZZZZZZ": "x"}, None, {})

    assert warnings == ["STIGMEM_ZZZZZZ is no setting of this version"]


def test_the_names_of_the_client_commands_and_of_other_programs_are_not_warned_of():
    environ = {"STIGMEM_URL": "http://a", "STIGMEM_API_KEY": "sk_x", "PATH": "/bin"}

    assert from_environ(environ, None, {}) == (Config(), [])


def test_no_secret_shows_in_any_printed_form_of_a_config():
    config = config_of(ADMIN_KEY="hunter2", NODE_PRIVATE_KEY_PASSPHRASE="swordfish")

    shown = f"{config} {config!r} {list(config.__rich_repr__())}"

    assert "hunter2" not in shown
    assert "swordfish" not in shown
    assert "admin_key='***'" in shown


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"]
)
def test_loopback_hosts_are_known(host):
    assert is_loopback_host(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example", "127.1"])
def test_other_hosts_are_not_loopback(host):
    assert not is_loopback_host(host)
