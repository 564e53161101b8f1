"""What notebooks hand to the report: numbers keep their ids, text is text."""

import numpy as np
import pandas as pd
import pytest

from her2lib import files
from her2lib.report import book
from her2lib.stats.intervals import Estimate
from her2lib.study import config

NASTY = "<img src=x onerror=alert(1)>_3+.png"
HALF = Estimate(0.5, 0.4, 0.6, 20, "patches of 4 slides", as_percent=True)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    return config.load_study("smoke")


def test_numbers_carry_their_ids_and_are_kept_in_a_table(small):
    page = book.Book(small, "06_compare_models")
    ids = page.add({"accuracy": HALF}, subset="test", run="net", source="predictions.csv")
    assert ids == {"accuracy": "06/test/net/accuracy"}
    said = page.say("Right in {a} of {what}.", a=ids["accuracy"], what=NASTY)
    assert 'data-number="06/test/net/accuracy"' in said
    assert "50.0 % (40.0 to 60.0; n = 20 patches of 4 slides)" in said
    assert "<img" not in said
    kept = pd.read_csv(page.file)
    assert kept.loc[0, ["value", "low", "high", "n"]].tolist() == [0.5, 0.4, 0.6, 20]
    assert "n = 20" not in book.number(page.rows[ids["accuracy"]], short=True)
    assert "40.0 to 60.0)" in book.number(page.rows[ids["accuracy"]], short=True)


def test_what_cannot_be_estimated_says_why(small):
    page = book.Book(small, "06_compare_models")
    ids = page.add(
        {"kappa": Estimate(np.nan, np.nan, np.nan, 3, "patches", "all raters gave one score")}
    )
    assert "not estimable: all raters gave one score" in book.number(page.rows[ids["kappa"]])
    assert "not estimable" in book.number(page.rows[ids["kappa"]], short=True)


def test_a_figure_is_embedded_and_written(small):
    page = book.Book(small, "06_compare_models")
    figure, _ = book.plots.panels()
    shown = page.figure(figure, "a b/../c", "Caption of " + "{x}", x=NASTY)
    assert shown.startswith('<figure><img alt="Caption of "')
    assert "&lt;img" in shown
    assert sorted(file.name for file in small.figures.iterdir()) == [
        "06_a_b_.._c.png",
        "06_a_b_.._c.svg",
    ]


def test_tables_escape_what_they_show(small):
    page = book.Book(small, "06_compare_models")
    ids = page.add({"accuracy": HALF})
    shown = page.table(
        ["accuracy"], rows={NASTY: [ids["accuracy"]]}, caption=NASTY
    ) + book.html_table(pd.DataFrame({"file": [NASTY]}))
    assert "<img" not in shown
    assert shown.count("&lt;img") == 3


def test_the_mean_leaves_out_what_is_not_finite():
    from her2lib.stats.intervals import bootstrap, mean

    found = bootstrap(
        mean,
        np.array([1.0, np.nan, 3.0, np.inf]),
        groups=np.array(["a", "b", "c", "d"]),
        resamples=50,
    )
    assert found.value == 2
    assert found.n == 2
