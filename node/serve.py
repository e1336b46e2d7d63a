"""`stigmem serve`: one node as a process, from its key to its last fsync.

Always: parts open in order and close in reverse; SIGTERM stops accepting, finishes what is under way, and ends with exit code 0.
"""

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import structlog
from aiohttp import web

from node import VERSION
from node.at_rest import require_source
from node.clock import Clock
from node.config import Config, is_loopback_host
from node.durable import make_folder
from node.errors import Refusal
from node.events.log import PARTIAL_FOLDER
from node.http.app import make_app
from node.http.connections import GuardedRunner
from node.http.tls_door import BACKLOG, TlsSite
from node.key_files import KeyFile
from node.keys import Signer, create_key_file, load_signer
from node.peer_client import PeerClient
from node.private_files import Exposed, close_to_others, why_not_private
from node.runtime import Node, StartupError
from node.sync import Sync
from node.times import format_ms
from node.tls import Tls, TlsFileError

KEEP_UP_INTERVAL_S = 20.0
SWITCH_INTERVAL_S = 0.0005
OPEN_FILES = 1 << 16
STDIN = 0

_log = structlog.get_logger("stigmem.serve")


async def serve(config: Config) -> None:
    """Run a node until SIGTERM or SIGINT. Raises StartupError and its kin before anything is served."""
    stop = _stop_on_signals()
    require_source(config)
    _take_open_files()
    tls = Tls.opened(config)
    _make_data_folder(Path(config.data_dir))
    _require_no_half_restore(Path(config.data_dir))
    clock = Clock.system()
    key_file = key_file_of(config)
    signer = open_signer(config, clock)
    node = await Node.open(config=config, clock=clock, signer=signer, key_file=key_file)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(node.close)
        _show_made_key(node)
        client = _peer_client(node, tls)
        await client.start()
        stack.push_async_callback(client.close)
        sync = Sync(node, client)
        runner = GuardedRunner(make_app(node=node, client=client, sync=sync))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        _reload_on_hangup(tls, await _listen(runner, config, tls))
        if not node.has_begun and not await _has_begun(node, stop):
            return
        # A node whose log is damaged answers what it can, and does nothing of itself.
        if node.is_ready:
            await _set_to_work(node, sync, stack)
        rest_collector()
        _share_interpreter()
        _announce(node)
        _tell_of(tls, node)
        await stop.wait()
        _log.info("stopping")


async def _set_to_work(node: Node, sync: Sync, stack: contextlib.AsyncExitStack) -> None:
    node.watch_log()
    if node.config.federation_enabled:
        await sync.start()
        stack.push_async_callback(sync.close)
    stack.push_async_callback(_stop, asyncio.create_task(_keep_up(node), name="stigmem-upkeep"))


def key_file_of(config: Config) -> KeyFile:
    """The file that is configured, else DATA_DIR/node.key."""
    path = config.node_private_key_file or Path(config.data_dir) / "node.key"
    return KeyFile(path, config.node_private_key_passphrase)


def open_signer(config: Config, clock: Clock) -> Signer:
    """The node's key: the file that is configured, else DATA_DIR/node.key, made at the first start."""
    if config.node_private_key_file is not None:
        return _signer_of_operator(Path(config.node_private_key_file), config.node_private_key_passphrase)
    folder = Path(config.data_dir)
    path = folder / "node.key"
    if path.exists():
        if close_to_others(path):
            _log.warning("key_file_closed", path=str(path), reason="others than its owner could read it")
        return load_signer(path, config.node_private_key_passphrase)
    if (folder / "log").exists():
        # A new key could never open this log: say what is missing rather than what then does not fit.
        raise StartupError(
            f"{path} is missing, and the log beside it was signed with it: restore it or name the key file"
        )
    return create_key_file(path, clock.random_bytes(32))


def _signer_of_operator(path: Path, passphrase: str | None) -> Signer:
    signer = load_signer(path, passphrase)
    reason = why_not_private(path)
    if reason is not None:
        raise StartupError(f"STIGMEM_NODE_PRIVATE_KEY_FILE: {reason}")
    return signer


async def _has_begun(node: Node, stop: asyncio.Event) -> bool:
    """Wait until the views have been made anew; False where the node is told to stop before."""
    _log.info("making_views", log_size=node.log.head().size)
    begun, stopped = asyncio.ensure_future(node.begun()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({begun, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            return False
        await begun
    finally:
        begun.cancel()
        stopped.cancel()
    _show_made_key(node)
    return True


def _show_made_key(node: Node) -> None:
    # At once: the log holds its hash by now, so no later start would show it, whatever keeps this one from serving.
    if node.made_admin_key is not None:
        print(f"admin key, shown this once: {node.made_admin_key}", flush=True)


def _take_open_files() -> None:
    # Each connection is an open file, and the usual soft limit has no room for as many as may wait.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_data_folder(folder: Path) -> None:
    try:
        make_folder(folder)
        if close_to_others(folder):
            _log.warning("data_folder_closed", path=str(folder), reason="others than its owner could use it")
    except Exposed as error:
        raise StartupError(f"STIGMEM_DATA_DIR: {error}") from error
    except OSError as error:
        raise StartupError(f"STIGMEM_DATA_DIR: cannot make the folder {folder}: {error.strerror}") from error


def _require_no_half_restore(folder: Path) -> None:
    if (folder / PARTIAL_FOLDER).exists():
        # A new log beside it would be another node under the same name.
        raise StartupError(
            f"{folder}: a restore was interrupted: run it again, or delete {PARTIAL_FOLDER} to begin anew"
        )


def _peer_client(node: Node, tls: Tls) -> PeerClient:
    config = node.config
    from_loopback = is_loopback_host(_host_of(config.node_url))
    return PeerClient(
        allow_loopback=from_loopback,
        allow_private=config.federation_allow_private_peers,
        allow_insecure_http=config.federation_insecure,
        tls=tls,
        tell=node.record_tls_refusal,
    )


def _host_of(url: str) -> str:
    authority = url.partition("://")[2].partition("/")[0]
    return authority.partition("]")[0].removeprefix("[") if authority.startswith("[") else authority.partition(":")[0]


async def _listen(runner: GuardedRunner, config: Config, tls: Tls) -> TlsSite | web.TCPSite:
    secured = config.tls_cert_file is not None
    plain = web.TCPSite(runner, config.host, config.port, backlog=BACKLOG)
    site = TlsSite(runner, tls, config.host, config.port) if secured else plain
    try:
        await site.start()
    except OSError as error:
        raise StartupError(_why_not_listening(error, config)) from error
    return site


def _why_not_listening(error: OSError, config: Config) -> str:
    where = f"cannot listen on {config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return f"STIGMEM_PORT: {where}: it is in use by another process"
    # asyncio puts its own words around what the system said; a name that does not resolve has no number to look up.
    said = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return f"{'STIGMEM_PORT' if error.errno == errno.EACCES else 'STIGMEM_HOST'}: {where}: {said}"


def _announce(node: Node) -> None:
    _log.info(
        "serving",
        version=VERSION,
        node_id=node.node_id,
        key_id=node.signer.key_id,
        url=node.config.node_url,
        log_size=node.log.head().size,
        federation=node.config.federation_enabled,
        trust_mode=node.config.trust_mode,
    )
    if not node.is_ready:
        return
    with node.view() as view:
        restore = view.identity.last_restore()
    if restore is not None and not restore.is_confirmed:
        _log.warning("restore_unconfirmed", offset=restore.offset, confirm_with="stigmem restore confirm")


def _reload_on_hangup(tls: Tls, site: TlsSite | web.TCPSite) -> None:
    """On SIGHUP read certificates, key and CAs again. Without any such file the end of a terminal ends the node in it, as ever."""
    if tls.has_files or not os.isatty(STDIN):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, tls, site)


def _reload(tls: Tls, site: TlsSite | web.TCPSite) -> None:
    if not tls.has_files:
        _log.info("nothing_to_reload")
        return
    try:
        tls.load()
    except TlsFileError as error:
        _log.error("tls_not_reloaded", reason=str(error))
        return
    if isinstance(site, TlsSite):
        # Whoever is connected was let in by what was in force before.
        site.let_go()
    _log.info("tls_reloaded", **_own_certificate(tls))


def _tell_of(tls: Tls, node: Node) -> None:
    if not tls.has_files or tls.own is None:
        return
    _log.info("tls", **_own_certificate(tls))
    if not tls.own.is_valid_at(node.clock.now_ms()):
        _log.warning("tls_certificate_out_of_date", **_own_certificate(tls))
    if node.config.federation_enabled and node.node_id not in tls.own.uris:
        # No reason not to start: peers may have pinned it.
        _log.warning("tls_certificate_without_node_id", node_id=node.node_id, uris=tls.own.uris)


def _own_certificate(tls: Tls) -> dict[str, object]:
    if tls.own is None:
        return {}
    return {"fingerprint": tls.own.fingerprint, "expires": format_ms(tls.own.not_after_ms)}


def rest_collector() -> None:
    """Look for cycles seldom."""
    # By default it looks for cycles every 700 objects, which a handful of requests make, and walks all that start-up left:
    # a twentieth of a write at 64 connections. Requests leave few cycles, so looking seldom costs little memory.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _share_interpreter() -> None:
    # A page of facts is read in milliseconds on a worker thread, and a write wants the interpreter four times on its way.
    # By default it would wait up to 5 ms for it each time.
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def _keep_up(node: Node) -> None:
    while True:
        await asyncio.sleep(KEEP_UP_INTERVAL_S)
        try:
            await node.keep_up()
        except Refusal as refusal:
            _log.error("upkeep_failed", code=refusal.code, detail=refusal.detail)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _stop_on_signals() -> asyncio.Event:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
