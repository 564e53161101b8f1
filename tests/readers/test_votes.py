"""Consensus, leave-one-out and disagreements, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from her2lib.readers import votes
from her2lib.stats.agreement import kappa


def test_majority_and_median_by_hand():
    ratings = np.array(
        [[1, 1, 2], [0, 1, 3], [3, 3, -1], [1, 2, -1], [-1, -1, -1], [2, -1, -1], [0, 3, 3]]
    )
    settled, notes = votes.consensus(ratings)
    assert settled.tolist() == [1, -1, 3, -1, -1, 2, 3]
    assert notes == [
        "1 of 7 patches were read by nobody: they have no consensus.",
        "2 of 7 patches are tied by majority: a joint reading can settle them.",
    ]
    settled, notes = votes.consensus(ratings, how="median")
    assert settled.tolist() == [1, 1, 3, -1, -1, 2, 3]
    assert "1 of 7 patches are tied by median" in notes[1]
    assert votes.consensus(ratings[[0, 5]])[1] == []
    with pytest.raises(ValueError, match="majority or median, not 'mean'"):
        votes.consensus(ratings, how="mean")


def test_leaving_a_rater_out_takes_away_what_was_built_in():
    random = np.random.default_rng(0)
    ratings = random.integers(0, 4, (2000, 3))  # raters who only guess
    with_himself = votes.consensus(ratings, how="median")[0]
    without = votes.leave_one_out(ratings, how="median")
    assert without.shape == (2000, 3)
    assert kappa(ratings[:, 0], with_himself, weights="quadratic") > 0.3
    assert abs(kappa(ratings[:, 0], without[:, 0], weights="quadratic")) < 0.1
    with pytest.raises(ValueError, match="needs two raters"):
        votes.leave_one_out(ratings[:, :1])


def test_disagreements_for_the_gallery():
    table = votes.disagreements(
        np.array([[1, 1, 1], [0, 3, -1], [1, 2, 2], [-1, -1, -1], [2, -1, -1]]), list("abcde")
    )
    assert table.patch.tolist() == ["b", "c"]
    assert table.spread.tolist() == [3, 1]
    assert table.scores.tolist() == ["0 3+ ?", "1+ 2+ 2+"]


def test_readings_stand_in_the_order_of_patches_and_none_is_invented():
    rows = [("a", "P1", 1, 1), ("b", "P1", 1, 0), ("a", "P2", 1, 2), ("a", "P2", 2, 3)]
    ratings = pd.DataFrame(rows, columns=["patch", "rater", "reading", "score"])
    matrix, raters, patches = votes.wide_ratings(ratings, patches=["c", "b", "a"])
    assert matrix.tolist() == [[-1, -1], [0, -1], [1, 2]]
    assert (raters, patches) == (["P1", "P2"], ["c", "b", "a"])
    assert votes.wide_ratings(ratings, reading=2)[0].tolist() == [[3]]


def test_a_consensus_made_elsewhere_is_merged_as_it_is():
    table = pd.DataFrame({"name": ["a", "b"]})
    ratings = pd.DataFrame([("a", "P1", 1, 1)], columns=["patch", "rater", "reading", "score"])
    merged, _ = votes.merge_readings(table, ratings)
    assert merged[["rater_P1", "consensus"]].to_numpy().tolist() == [[1, 1], [-1, -1]]
    merged, notes = votes.merge_readings(table, ratings, settled={"b": 3})
    assert merged.consensus.tolist() == [-1, 3]
    assert notes == ["The consensus is as given; it lacks 1 of 2 patches."]
