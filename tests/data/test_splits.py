"""Splits never cut a patient or slide, keep every score where they can, say what is left open."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest

from her2lib.data.splits import (
    dependence_notes,
    split_by_recovered_groups,
    split_groups,
    split_table,
    take_fraction,
)
from her2lib.files import DataError


def table(scores, *, slide="", patient="", sets=""):
    """A table as read_table returns it; each column one text, or one text a row."""
    n = len(scores)
    frame = pd.DataFrame(
        {
            "name": [f"p{i}" for i in range(n)],
            "score": np.array(scores, int),
            "mpp": np.nan,
            "he": "",
        }
    )
    for column, texts in (("slide", slide), ("patient", patient), ("set", sets)):
        if isinstance(texts, str):
            texts = [texts] * n
        frame[column] = pd.Series(list(texts), dtype=object)
    return frame


def slides(per_score, patches=4):
    """A table of per_score[s] slides of each score s, each with this many patches."""
    scores = np.repeat(range(4), np.array(per_score) * patches)
    return table(scores, slide=[f"s{i // patches}" for i in range(len(scores))])


def sets_of_one(frame, unit="slide"):
    """int, the most sets that one slide or patient stands in."""
    return frame.groupby(unit).set.nunique().max()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", ["slide", "patient"])
def test_no_slide_or_patient_is_ever_cut(seed, unit):
    rng = np.random.default_rng(seed)
    identifiers = [f"u{k}" for k in rng.integers(0, 25, 300)]
    done, _ = split_table(table(rng.integers(0, 4, 300), **{unit: identifiers}), seed=seed)
    assert sets_of_one(done, unit) == 1
    assert set(done.set) == {"train", "val", "test"}


def test_patients_win_over_slides_and_a_shared_slide_joins_its_patients():
    frame = table(
        [0] * 6, slide=["a", "b", "c", "d", "d", ""], patient=["p", "p", "q", "q", "r", ""]
    )
    groups = split_groups(frame)
    assert groups[0] == groups[1] == "p"
    assert groups[2] == groups[3] == groups[4] == "q"
    assert groups[5] == "p5"
    assert len(set(groups)) == 3


def test_a_slide_and_a_patient_of_the_same_name_are_not_the_same():
    assert len(set(split_groups(table([0, 0], slide=["x", "y"], patient=["1", "x"])))) == 2


def test_shares_are_as_asked_and_balanced_by_score():
    done, notes = split_table(slides([20, 40, 60, 30]), seed=0)
    counts = pd.crosstab(done.score, done.set, normalize="index")
    assert abs(counts["test"] - 0.2).max() < 0.03
    assert abs(counts["val"] - 0.16).max() < 0.03  # 80/20 of what the test leaves
    assert notes == [
        "The validation and test sets were drawn by whole slides, "
        "balanced by score as far as that allows."
    ]


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [3, 5, 9, 3], [4, 3, 30, 3]])
def test_three_slides_of_each_score_reach_every_set(sizes):
    for seed in range(5):
        done, _ = split_table(slides(sizes), seed=seed)
        assert (pd.crosstab(done.set, done.score) > 0).all(axis=None)


def test_two_slides_go_to_training_and_validation_one_to_training():
    done, notes = split_table(slides([5, 5, 2, 1]), seed=3)
    assert set(done.set[done.score == 2]) == {"train", "val"}
    assert set(done.set[done.score == 3]) == {"train"}
    assert any(
        "Score 2+ is missing from the test set (its patches come from 2 slides)" in note
        for note in notes
    )
    assert any(
        "Score 3+ is missing from the validation and test set (its patches come from 1 slide)"
        in note
        for note in notes
    )
    assert all("not estimable" in note for note in notes[1:])


def test_slides_of_several_scores_are_kept_whole_and_every_score_is_reached():
    rng = np.random.default_rng(1)
    frame = table(rng.integers(0, 4, 120), slide=[f"s{i % 9}" for i in range(120)])
    done, _ = split_table(frame, seed=0)
    assert sets_of_one(done) == 1
    assert (pd.crosstab(done.set, done.score) > 0).all(axis=None)


def test_the_official_test_stays_and_the_rest_is_divided_80_to_20():
    sets = ["test"] * 40 + ["train"] * 200
    frame = table([i % 4 for i in range(240)], sets=sets)
    done, notes = split_table(frame, seed=0)
    assert list(done.index[done.set == "test"]) == list(range(40))
    assert (done.set == "val").sum() == 40
    assert "test set is the one given" in notes[1]


def test_a_given_validation_set_stays_too():
    frame = table([0, 1, 2, 3] * 9, sets=["train"] * 20 + ["val"] * 8 + ["test"] * 8)
    done, notes = split_table(frame, seed=0)
    assert list(done.set) == list(frame.set)
    assert len(notes) == 1  # only that no slide is known


def test_external_patches_are_left_alone():
    frame = table([0, 1, 2, 3] * 10, sets=[""] * 36 + ["external"] * 4)
    assert list(split_table(frame, seed=0)[0].set[-4:]) == ["external"] * 4


def test_where_no_slide_is_known_the_first_page_says_so():
    _, notes = split_table(table([0, 1, 2, 3] * 10), seed=0)
    assert notes[0].startswith(
        "No slide is known for these patches: patches of one slide may stand on both sides"
    )
    _, notes = split_table(
        table([0, 1, 2, 3] * 10, slide=["a", "b", "c", "d"] * 9 + [""] * 4), seed=0
    )
    assert notes[0].startswith("No slide is known for 4 of the 40 patches")


def test_given_sets_that_cut_slides_are_told():
    frame = table(
        [0, 1, 2, 3] * 4, slide=["a", "b", "c", "d"] * 4, sets=["train"] * 12 + ["test"] * 4
    )
    assert any(
        "cut through 4 patients or slides (a, b, c …)" in note
        for note in split_table(frame, seed=0)[1]
    )


def test_sets_of_whole_known_slides_depend_on_nothing():
    done, notes = split_table(slides([5, 5, 5, 5]), seed=0)
    assert notes
    assert dependence_notes(done) == []


def test_what_makes_sets_depend_is_told_apart_from_how_they_were_drawn():
    frame = table([0, 1] * 8, slide=["a", ""] * 8, sets=["train"] * 12 + ["test"] * 4)
    done, notes = split_table(frame, seed=0)
    cautions = dependence_notes(done)
    assert len(cautions) == 2
    assert cautions[0].startswith("No slide is known for 8 of the 16 patches")
    assert cautions[1].startswith("The sets as given cut through 1 patients or slides (a)")
    assert set(cautions) < set(notes)


def test_recovered_groups_stand_in_for_unknown_slides_only():
    frame = table([0, 1, 2, 3] * 10, slide=["a", "b", "c", "d"] * 5 + [""] * 20)
    recovered = np.array([f"group {i // 4}" for i in range(40)], object)
    done, notes = split_by_recovered_groups(frame, recovered, seed=0)
    assert done[20:].groupby(recovered[20:]).set.nunique().max() == 1
    assert sets_of_one(done[:20]) == 1
    assert list(done.slide) == list(frame.slide)
    assert notes[0].startswith("No slide is known for 20 patches: they were divided by 5 groups")


def test_patches_without_a_score_join_no_set():
    done, notes = split_table(table([0, 1, 2, 3] * 5 + [-1, -1]), seed=0)
    assert list(done.set[-2:]) == ["", ""]
    assert "2 patches have no score: they are neither trained nor tested on." in notes


def test_nothing_to_split_is_one_sentence():
    for frame in (table([]), table([-1, -1])):
        with pytest.raises(DataError, match="No usable patch has a score"):
            split_table(frame, seed=0)


def test_a_seed_is_a_split():
    frame = slides([10, 10, 10, 10])
    first = split_table(frame, seed=1)[0].set
    assert (split_table(frame, seed=1)[0].set == first).all()
    assert any((split_table(frame, seed=seed)[0].set != first).any() for seed in (2, 3))
    assert (frame.set == "").all()  # the given table is not touched


@pytest.mark.parametrize("slide", ["", [f"s{i // 20}" for i in range(100_000)]])
def test_a_hundred_thousand_patches(slide):
    began = time.process_time()
    done, _ = split_table(table(np.arange(100_000) // 20 % 4, slide=slide), seed=0)
    assert time.process_time() - began < 10
    assert abs(done.set.value_counts(normalize=True)["test"] - 0.2) < 0.002


@pytest.mark.parametrize("seed", range(3))
def test_subsets_keep_whole_slides_every_score_and_nest(seed):
    frame = split_table(slides([10, 20, 30, 15]), seed=seed)[0]
    train = set(frame.index[frame.set == "train"])
    subsets = []
    for fraction in (0.01, 0.1, 0.25, 0.5, 1.0):
        part = take_fraction(frame, fraction=fraction, seed=seed)
        rows = part[part.set == "train"]
        assert (part.set != "train").sum() == (frame.set != "train").sum()
        assert set(rows.score) == {0, 1, 2, 3}
        assert rows.groupby("slide").size().eq(4).all()
        # Within half a slide for each score.
        assert abs(len(rows) - max(fraction * len(train), 16)) <= 8
        subsets.append(set(rows.index))
    assert all(small <= large for small, large in itertools.pairwise(subsets))
    assert subsets[-1] == train


def test_a_subset_of_patches_without_slides_is_near_the_fraction():
    frame = split_table(table([0, 1, 2, 2, 2, 3] * 200), seed=0)[0]
    train = (frame.set == "train").sum()
    part = take_fraction(frame, fraction=0.3, seed=0)
    assert abs((part.set == "train").sum() - 0.3 * train) <= 4
    before, after = (
        f[f.set == "train"].score.value_counts(normalize=True).sort_index() for f in (frame, part)
    )
    assert np.allclose(before, after, atol=0.01)


def test_a_subset_keeps_a_score_that_is_never_the_commonest_of_its_slide():
    frame = table(
        [0] * 8 + [1] + [0] * 8 + [2] * 3,
        slide=["a"] * 9 + ["b"] * 8 + ["c"] * 3,
        sets=["train"] * 20,
    )
    assert set(take_fraction(frame, fraction=0.01, seed=0).score) == {0, 1, 2}
