"""The bench runs on what the node is now; what it measures is never asserted."""

from pathlib import Path

from bench.pages import page_figures
from bench.replay import replay_figures
from bench.stages import stages_us


def test_the_stages_of_a_write_still_fit_together(tmp_path: Path):
    spent = stages_us(tmp_path, batches=1)

    assert {"stage: decide, seal included", "stage: fold", "stage: log: put and sync"} <= set(spent)
    assert all(us > 0 for us in spent.values())


def test_the_steps_of_a_page_still_fit_together(tmp_path: Path):
    figures = page_figures(tmp_path, pages=1)

    assert {"ingested", "verified", "page: read", "ingest: examine", "ingest: decide and store"} <= set(figures)
    assert all(figure > 0 for figure in figures.values())


def test_the_offline_commands_still_take_the_log_that_is_made_for_them(tmp_path: Path):
    figures = replay_figures(tmp_path, entries=50)

    assert {"Ed25519 CPU", "checked(1)", "checked(2)", "quick(2)", "verify(1)", "rebuilt", "start clean"} <= set(
        figures
    )
    assert all(figure > 0 for figure in figures.values())
