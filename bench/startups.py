"""How long a node takes from its start to its first 200 at /readyz, over a log that is there: closed cleanly before, or killed.

Always: a real `stigmem serve`, several starts of each kind by turns. What the operating system has read before stays in its cache.
"""

import os
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

from bench import load
from bench.served import ROOT, SERVE, START_S, STOP_S, ServerFailed, settings_of
from node.keys import create_key_file

_STARTS = 3


def startup_figures(folder: Path, node_id: str, seed: bytes) -> dict[str, float]:
    """Milliseconds, over the log and views in `folder`, which a node with the key of `seed` wrote."""
    create_key_file(folder / "node.key", seed)
    settings = settings_of(folder, port=load.free_port(), bearer=secrets.token_urlsafe(32), entity_uri=node_id)
    settings["STIGMEM_DATA_DIR"] = str(folder)
    # The first start writes the node's manifest.
    _start(settings, signal.SIGTERM)
    clean, killed = [], []
    for _ in range(_STARTS):
        clean.append(_start(settings, signal.SIGKILL))
        killed.append(_start(settings, signal.SIGTERM))
    return {"start clean": median(clean), "start killed": median(killed)}


def _start(settings: dict[str, str], end: signal.Signals) -> float:
    """Start a node, end it by that signal, and say how many milliseconds the start took."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STIGMEM_")}
    began = time.monotonic()
    process = subprocess.Popen(SERVE, cwd=ROOT, env=inherited | settings, stderr=subprocess.DEVNULL)
    try:
        while not _is_ready(f"http://127.0.0.1:{settings['STIGMEM_PORT']}/readyz"):
            if process.poll() is not None or time.monotonic() - began > START_S:
                raise ServerFailed(f"no 200 from /readyz within {START_S} s")
            time.sleep(0.005)
        return (time.monotonic() - began) * 1000
    finally:
        process.send_signal(end)
        process.wait(STOP_S)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
