"""The progress board: words, and plain lines where there is no terminal."""

import json
from types import SimpleNamespace

import pytest

from her2lib.runner import progress


def test_durations_and_sentences():
    assert [progress.duration(seconds) for seconds in (None, 12.3, 150, 7200)] == [
        "unknown",
        "12 s",
        "2 min",
        "2.0 h",
    ]
    row = {"task": "a", "state": "failed", "seconds": 3, "tries": 3, "cell": 7, "error": "one\ntwo"}
    assert progress.sentence(row) == "a: failed in 3 s (cell 7 of failed.ipynb): two"


@pytest.mark.parametrize(
    ("training", "shown"),
    [
        (
            {"epoch": 3, "epochs": 10, "kappa": 0.4123, "seconds_left": 12.4},
            "starting, epoch 3/10, kappa 0.41, 12 s left",
        ),
        ({"epoch": 0, "epochs": 10, "kappa": None, "seconds_left": None}, "starting, epoch 0/10"),
        (
            {"epoch": 10, "epochs": 10, "kappa": 0.4123, "seconds_left": 0.0},
            "starting",
        ),  # trained: the line goes
        (None, "starting"),
    ],
)
def test_a_training_says_its_epoch_kappa_and_time_left(training, shown, tmp_path):
    if training:
        (tmp_path / "progress.json").write_text(json.dumps(training))
    assert progress.doing(tmp_path) == shown


def test_a_log_file_gets_plain_lines_and_nothing_about_what_was_skipped(capsys, tmp_path):
    shown = progress.Board(3, True)
    row = {"task": "a", "state": "skipped", "seconds": 9, "tries": 0, "cell": None, "error": ""}
    shown.settle(row)
    shown.settle({**row, "state": "failed", "error": "why", "again": True})
    shown.show([SimpleNamespace(name="b", folder=tmp_path)])
    shown.show([SimpleNamespace(name="b", folder=tmp_path)])  # too soon to say it again
    shown.settle({**row, "state": "done"})
    shown.close()
    printed = capsys.readouterr()
    tried, running, done = printed.out.splitlines()
    assert tried == "[  1/3] a: failed in 9 s, is tried again: why"
    assert running.strip() == "b: starting"
    assert done == "[  2/3] a: done in 9 s"
    assert printed.err == ""


def test_a_terminal_gets_a_bar_and_a_line_per_notebook(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown = progress.Board(2, True)
    shown.show(
        [
            SimpleNamespace(name="first", folder=tmp_path),
            SimpleNamespace(name="second", folder=tmp_path),
        ]
    )
    shown.settle(
        {"task": "a", "state": "done", "seconds": 9, "tries": 0, "cell": None, "error": ""}
    )
    shown.close()
    printed = capsys.readouterr().err
    assert "0/2" in printed
    assert "1/2" in printed
    assert "first: starting" in printed
    assert "second: starting" in printed
