"""`stigmem` commands that ask a running node, as its admin does at a terminal: how they are called, and how they ended."""

import subprocess

from tests.scenarios.nodes import ADMIN_KEY, RunningNode, run_stigmem


def ask(node: RunningNode, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`stigmem ARGUMENTS`, told where the node is and its admin's key unless `settings` say otherwise."""
    given = {"URL": node.url, "API_KEY": ADMIN_KEY} | settings
    return run_stigmem(*arguments, folder=node.folder, **given)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What it printed, once it has done what it was asked."""
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(done: subprocess.CompletedProcess[str], code: str) -> None:
    """It was not done, and one line says why."""
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("stigmem: ") and code in line
