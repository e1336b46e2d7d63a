"""Every setting of the node: its name, default and reason, and how it is read.

Always: a Config is frozen, complete and checked; a value that cannot be used stops the start, with one line naming it.
A setting that this version cannot carry out, and that somebody relies on for safety, stops the start too: a node that
quietly serves in clear is worse than one that does not serve.
No secret shows in the repr of a Config, so none gets into a log line or a traceback by way of one.

Does not read: os.environ, sys.argv or any file (see node/cli.py). Does not check that files named here exist.
"""

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

PREFIX = "STIGMEM_"
DEFAULT_PORT = 8765
SECRETS = frozenset({"admin_key", "node_private_key_passphrase", "at_rest_passphrase"})


class ConfigError(Exception):
    """A setting that keeps the node from starting: one line, for the terminal."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    # Loopback and plain http until somebody decides otherwise: a node that was only tried out is not on the network.
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    data_dir: str = "./stigmem-data"
    node_url: str = f"http://localhost:{DEFAULT_PORT}"
    entity_uri: str | None = None
    node_private_key_file: str | None = None
    node_private_key_passphrase: str | None = None
    from_snapshot: str | None = None
    # Off: whoever loses the key loses the memory, so that is for the operator to take up.
    at_rest_encryption: bool = False
    at_rest_key_file: str | None = None
    at_rest_key_passphrase_env: str | None = None
    # What stands in the variable of that name.
    at_rest_passphrase: str | None = None
    admin_key: str | None = None
    auth_required: bool = True
    # A key that is forgotten somewhere stops working by itself.
    api_key_max_age_days: int = 90
    trust_mode: Literal["strict", "relaxed", "off"] = "relaxed"
    quarantine_trust_threshold: float = 0.2
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_client_ca_file: str | None = None
    # Off: exchange with strangers is a decision, and what was served cannot be called back.
    federation_enabled: bool = False
    federation_tls_ca_file: str | None = None
    federation_insecure: bool = False
    federation_allow_private_peers: bool = False
    federation_allow_team: bool = False
    # Five minutes covers clocks without NTP; more would let a peer's facts win by their dates (PROTOCOL §1).
    federation_hlc_max_future_skew_s: int = 300
    # None: remembered until the token has expired, the only window that leaves no replay (PROTOCOL §5.2).
    federation_nonce_window_s: int | None = None
    federation_pull_interval_s: int = 30
    # Off: whoever may push chooses when this node works; a pull is taken when the node itself has the time.
    federation_push_enabled: bool = False
    attestation_policy: Literal["accepted", "peers", "off"] = "peers"
    # Far above what an agent asks for, and below what a node can do: one that runs wild leaves room for the others.
    quota_reads_per_minute: int = 300_000
    quota_writes_per_minute: int = 60_000
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    # Tracebacks drawn by rich, structlog's choice on a terminal, ask this one and not `__repr__`.
    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            yield name, "***" if name in SECRETS and value is not None else value


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table behind the flags, the variables and the documentation."""

    name: str
    parse: Callable[[object], object]
    help: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def from_environ(
    environ: Mapping[str, str], toml: Mapping[str, object] | None, flags: Mapping[str, str]
) -> tuple[Config, list[str]]:
    """The Config and the warnings that go with it. Flag before variable before stigmem.toml before default."""
    in_file = {_variable_of(key): value for key, value in (toml or {}).items()}
    in_environ = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    on_command_line = {_variable_of(key): value for key, value in flags.items()}
    given = {**in_file, **in_environ, **on_command_line}
    _refuse_unsupported(given)
    warnings = [_unknown(name) for name in given if name not in _KNOWN and name not in _UNSUPPORTED]
    values = {s.name: _parse(s, given[s.variable]) for s in SETTINGS if s.variable in given}
    if "at_rest_key_passphrase_env" in values:
        values["at_rest_passphrase"] = _passphrase_in(environ, str(values["at_rest_key_passphrase_env"]))
    return _complete(values), warnings


def _passphrase_in(environ: Mapping[str, str], name: str) -> str:
    # The name alone is in the settings: a passphrase in stigmem.toml or among the flags would be read by others.
    passphrase = environ.get(name)
    if not passphrase:
        raise ConfigError(f"STIGMEM_AT_REST_KEY_PASSPHRASE_ENV: the variable {name} is not set, or empty")
    return passphrase


def is_loopback_host(host: str) -> bool:
    """`localhost`, any name under it, or a loopback address. Another name is not resolved: an answer can change."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _complete(values: dict[str, object]) -> Config:
    """Fill in the defaults that follow from other settings, and check what only shows between two of them."""
    scheme = "http" if values.get("tls_cert_file") is None else "https"
    values.setdefault("node_url", f"{scheme}://localhost:{values.get('port', DEFAULT_PORT)}")
    on_loopback = is_loopback_host(urlsplit(str(values["node_url"])).hostname or "")
    # A node that peers beyond this machine can reach signs for nobody unless its operator took that up (PROTOCOL §9).
    values.setdefault("attestation_policy", "peers" if on_loopback else "accepted")
    if "at_rest_key_file" in values and "at_rest_passphrase" in values:
        raise ConfigError(
            "STIGMEM_AT_REST_KEY_FILE, STIGMEM_AT_REST_KEY_PASSPHRASE_ENV: both are set; the key can come from one"
        )
    config = Config(**values)
    _check_transport(config, on_loopback=on_loopback)
    if not config.at_rest_encryption:
        _refuse_keys_without_encryption(values)
    if not config.auth_required and not (on_loopback and is_loopback_host(config.host)):
        raise ConfigError("STIGMEM_AUTH_REQUIRED: false only where STIGMEM_HOST and STIGMEM_NODE_URL are loopback")
    return config


def _check_transport(config: Config, *, on_loopback: bool) -> None:
    if (config.tls_cert_file is None) != (config.tls_key_file is None):
        raise ConfigError("STIGMEM_TLS_CERT_FILE, STIGMEM_TLS_KEY_FILE: one is of no use without the other")
    is_plain = urlsplit(config.node_url).scheme == "http"
    if config.tls_cert_file is not None and is_plain:
        raise ConfigError("STIGMEM_NODE_URL: http, where STIGMEM_TLS_CERT_FILE has the node speak TLS: https")
    if config.tls_client_ca_file is not None and config.tls_cert_file is None:
        raise ConfigError(
            "STIGMEM_TLS_CLIENT_CA_FILE: clients show certificates to a node with STIGMEM_TLS_CERT_FILE alone"
        )
    if config.federation_enabled and is_plain and not on_loopback and not config.federation_insecure:
        # A bearer in clear is a password in clear (PROTOCOL §5.1): theirs on the way to us is no less so than ours to them.
        raise ConfigError(
            "STIGMEM_NODE_URL: plain http off loopback, where peers would send bearers in clear: set "
            "STIGMEM_TLS_CERT_FILE, or https for a proxy that ends TLS, or STIGMEM_FEDERATION_INSECURE=true"
        )


def _refuse_keys_without_encryption(values: Mapping[str, object]) -> None:
    for name in ("at_rest_key_file", "at_rest_key_passphrase_env"):
        if name in values:
            raise ConfigError(f"{PREFIX}{name.upper()}: it is set, and STIGMEM_AT_REST_ENCRYPTION is not on")


def _variable_of(key: str) -> str:
    name = key.removeprefix("--").replace("-", "_").upper()
    return name if name.startswith(PREFIX) else PREFIX + name


def _refuse_unsupported(given: Mapping[str, object]) -> None:
    for variable, value in given.items():
        is_unsupported = variable in _UNSUPPORTED or (
            variable.startswith("STIGMEM_AT_REST_") and variable not in _KNOWN
        )
        if is_unsupported and str(value).strip().lower() not in _UNSUPPORTED.get(variable, ("",)):
            raise ConfigError(f"{variable}: this version does not support it and refuses to start")


def _unknown(variable: str) -> str:
    near = difflib.get_close_matches(variable, sorted(_KNOWN), n=1, cutoff=0.8)
    return f"{variable} is no setting of this version" + (f"; did you mean {near[0]}?" if near else "")


def _parse(setting: Setting, value: object) -> object:
    try:
        return setting.parse(value)
    except ValueError as error:
        raise ConfigError(f"{setting.variable}: {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    # A NUL ends a file name early, and a line break in a secret is nearly always a slip of copying.
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("must not contain control characters")
    return value


def _boolean(value: object) -> bool:
    known = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    try:
        return known[str(value).strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _switch(value: object) -> bool:
    """A boolean of which a variable that is set to nothing asks for nothing."""
    return value != "" and _boolean(value)


def _whole(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def _fraction(value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    # Written so that NaN, which compares false with everything, is refused.
    if not 0.0 <= number <= 1.0:
        raise ValueError("must be a number from 0 to 1")
    return number


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return word

    return parse


def _url(value: object) -> str:
    text = _text(value).strip()
    try:
        parts = urlsplit(text)
        is_complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError("must be an http or https URL")
    if parts.username is not None or parts.query or parts.fragment or any(char.isspace() for char in text):
        raise ValueError("must be a URL without credentials, query or fragment")
    return text.rstrip("/")


def _authority(value: object) -> str:
    text = _text(value).strip()
    if not _BARE_AUTHORITY.fullmatch(text):
        raise ValueError("must be stigmem:// and an authority of a-z, 0-9, '-' and '.', nothing behind it but a port")
    return text


_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_BARE_AUTHORITY = re.compile(rf"stigmem://{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?")
_DAY_S = 86_400

SETTINGS: tuple[Setting, ...] = (
    Setting(name="host", parse=_text, help="address to listen on"),
    Setting(name="port", parse=_whole(1, 65_535), help="port to listen on"),
    Setting(name="data_dir", parse=_text, help="folder of the log, the views and the key"),
    Setting(name="node_url", parse=_url, help="base URL under which peers reach us; default http://localhost:PORT"),
    Setting(name="entity_uri", parse=_authority, help="the organisation, stigmem://authority; fixed in event 0"),
    Setting(name="node_private_key_file", parse=_text, help="Ed25519 key in PEM; default: made in the data folder"),
    Setting(name="node_private_key_passphrase", parse=_text, help="passphrase of an encrypted key file"),
    Setting(name="from_snapshot", parse=_text, help="a snapshot to begin from, where the data folder is empty"),
    Setting(name="at_rest_encryption", parse=_switch, help="encrypt what is stored: log items, views, keys"),
    Setting(
        name="at_rest_key_file",
        parse=_text,
        help="64 hex digits, mode 0600, outside the data folder; default: derived from the node key",
    ),
    Setting(name="at_rest_key_passphrase_env", parse=_text, help="or the name of the variable that holds a passphrase"),
    Setting(name="admin_key", parse=_text, help="bearer of the operator; default: made and shown once at first start"),
    Setting(name="auth_required", parse=_boolean, help="false only where host and node_url are loopback"),
    Setting(
        name="api_key_max_age_days", parse=_whole(1, 3650), help="days after which an API key expires at the latest"
    ),
    Setting(name="trust_mode", parse=_one_of("strict", "relaxed", "off"), help="what unverified facts and peers meet"),
    Setting(name="quarantine_trust_threshold", parse=_fraction, help="facts of sources trusted less are held, 0 to 1"),
    Setting(
        name="tls_cert_file",
        parse=_text,
        help="certificate chain in PEM: the node speaks TLS 1.3, and shows it to peers",
    ),
    Setting(name="tls_key_file", parse=_text, help="its private key in PEM, for its owner alone (0600)"),
    Setting(
        name="tls_client_ca_file", parse=_text, help="CAs in PEM; peers have to show a certificate for their node_id"
    ),
    Setting(name="federation_enabled", parse=_boolean, help="exchange facts with peers"),
    Setting(
        name="federation_tls_ca_file", parse=_text, help="CAs in PEM for peers' certificates; default: the system's"
    ),
    Setting(
        name="federation_insecure", parse=_boolean, help="allow plain http beyond loopback, to peers and from them"
    ),
    Setting(name="federation_allow_private_peers", parse=_boolean, help="allow peers at private addresses"),
    Setting(name="federation_allow_team", parse=_boolean, help="allow a grant to name the scope team"),
    Setting(
        name="federation_hlc_max_future_skew_s",
        parse=_whole(0, _DAY_S),
        help="how far ahead of now a peer's HLC may lie, in seconds",
    ),
    Setting(
        name="federation_nonce_window_s",
        parse=_whole(1, 365 * _DAY_S),
        help="seconds to remember a nonce from its use; default: until its token expires",
    ),
    Setting(name="federation_pull_interval_s", parse=_whole(1, _DAY_S), help="seconds between pulls from a peer"),
    Setting(name="federation_push_enabled", parse=_boolean, help="take facts that peers push, and push ours to them"),
    Setting(
        name="attestation_policy",
        parse=_one_of("accepted", "peers", "off"),
        help="for whom this node countersigns; default peers where node_url is loopback, else accepted",
    ),
    Setting(name="quota_reads_per_minute", parse=_whole(0, 10**9), help="reads of one principal a minute; 0: no limit"),
    Setting(
        name="quota_writes_per_minute", parse=_whole(0, 10**9), help="writes of one principal a minute; 0: no limit"
    ),
    Setting(name="log_level", parse=_one_of("debug", "info", "warning", "error"), help="least level that is logged"),
)

# Read by the commands that talk to a running node, and ignored by serving.
_OF_COMMANDS = {"STIGMEM_URL", "STIGMEM_API_KEY", "STIGMEM_PEER_API_KEY", "STIGMEM_CA_FILE"}
_KNOWN = frozenset({setting.variable for setting in SETTINGS} | _OF_COMMANDS)

# Each with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[str, ...]] = {
    "STIGMEM_SANITIZER_MODE": ("",),
}
