"""Slides summed up: the rule and the fractions by hand."""

import numpy as np
import pandas as pd
import pytest

from her2lib.scoring import slide_summary


def summary_of(scores):
    """DataFrame by metric of a slide whose patches have these scores, nowhere in particular."""
    table = pd.DataFrame(np.eye(4)[scores], columns=["p0", "p1", "p2", "p3"])
    table = table.assign(slide="A", x=np.nan, y=np.nan, expected=scores, unlike="")
    table["patch"] = [str(row) for row in range(len(scores))]
    return slide_summary.summarise_slides(table).set_index("metric")


def test_the_rule_of_a_slide_by_hand():
    # 10 % is not more than 10 %
    assert summary_of([0] * 9 + [3]).value["summary score"] == "0"
    summary = summary_of([0] * 8 + [2, 3])
    assert summary.value["summary score"] == "2+"
    assert summary.value["share of 0"] == pytest.approx(0.8)
    assert "too narrow" in summary.note["share of 0"]


def test_patches_of_no_slide_are_in_no_summary():
    table = pd.DataFrame(np.eye(4), columns=["p0", "p1", "p2", "p3"]).assign(slide="")
    assert slide_summary.summarise_slides(table).empty
