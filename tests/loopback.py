"""Tests speak to this machine alone: whichever looks a name up elsewhere, or connects elsewhere, fails.

Of the test process itself; the nodes that scenarios start are given loopback URLs.
"""

import ipaddress
import sys
from collections.abc import Iterator

import pytest

_reached: list[str] = []


def outside(event: str, arguments: tuple) -> str | None:
    """What an audit event reaches beyond this machine; None where it stays."""
    if event == "socket.connect":
        address = arguments[1]
        # A path is a socket of this machine.
        return None if isinstance(address, str | bytes) or _is_loopback(address[0]) else f"{event} {address}"
    if event == "socket.getaddrinfo":
        host = arguments[0]
        return None if host is None or _is_local_name(host) else f"{event} {host}"
    return None


def watch_network() -> None:
    """From here on, for as long as the process lives."""

    def watch(event: str, arguments: tuple) -> None:
        if event.startswith("socket."):
            reached = outside(event, arguments)
            if reached is not None:
                _reached.append(reached)

    sys.addaudithook(watch)


@pytest.fixture(autouse=True)
def stays_on_loopback() -> Iterator[None]:
    _reached.clear()
    yield
    assert not _reached, f"a test reached beyond this machine: {_reached}"


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _is_local_name(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    # An address is not looked up.
    return True
