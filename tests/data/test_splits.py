"""Splits that never cut a patient or slide, keep every score where that can be, and say in words what is left open."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest

from her2lib.data.images import DataError
from her2lib.data.splits import split_groups, split_table, take_fraction


def table(scores, *, slide="", patient="", given=""):
    n = len(scores)
    columns = {"slide": slide, "patient": patient, "set": given}
    frame = pd.DataFrame(
        {
            "name": [f"p{i}" for i in range(n)],
            "score": np.array(scores, int),
            "mpp": np.nan,
            "he": "",
            **{
                key: [value] * n if isinstance(value, str) else list(value)
                for key, value in columns.items()
            },
        }
    )
    return frame.astype({"slide": object, "patient": object, "set": object})


def slides(per_score, patches=4):
    """A table of per_score[s] slides of each score s, each with this many patches."""
    scores = [s for s, n in enumerate(per_score) for _ in range(n * patches)]
    return table(scores, slide=[f"s{i // patches}" for i in range(len(scores))])


def sets(frame, unit="slide"):
    return frame.groupby(unit).set.nunique().max()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", ["slide", "patient"])
def test_no_slide_or_patient_is_ever_cut(seed, unit):
    rng = np.random.default_rng(seed)
    word = [f"u{k}" for k in rng.integers(0, 25, 300)]
    done, _ = split_table(table(rng.integers(0, 4, 300), **{unit: word}), seed=seed)
    assert sets(done, unit) == 1
    assert set(done.set) == {"train", "val", "test"}


def test_patients_win_over_slides_and_a_shared_slide_joins_its_patients():
    frame = table(
        [0] * 6, slide=["a", "b", "c", "d", "d", ""], patient=["p", "p", "q", "q", "r", ""]
    )
    words = split_groups(frame)
    assert words[0] == words[1] == "p"
    assert words[2] == words[3] == words[4] == "q"
    assert words[5] == "p5"
    assert len(set(words)) == 3


def test_a_slide_and_a_patient_of_the_same_name_are_not_the_same():
    assert len(set(split_groups(table([0, 0], slide=["x", "y"], patient=["1", "x"])))) == 2


def test_shares_are_as_asked_and_balanced_by_score():
    done, notes = split_table(slides([20, 40, 60, 30]), seed=0)
    counts = pd.crosstab(done.score, done.set, normalize="index")
    assert abs(counts["test"] - 0.2).max() < 0.03
    assert abs(counts["val"] - 0.16).max() < 0.03  # 80/20 of what the test leaves
    assert notes == [
        "The validation and test sets were drawn by whole slides, balanced by score as far as that allows."
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
    assert sets(done) == 1
    assert (pd.crosstab(done.set, done.score) > 0).all(axis=None)


def test_the_official_test_stays_and_the_rest_is_divided_80_to_20():
    given = ["test"] * 40 + ["train"] * 200
    frame = table([i % 4 for i in range(240)], given=given)
    done, notes = split_table(frame, seed=0)
    assert list(done.index[done.set == "test"]) == list(range(40))
    assert (done.set == "val").sum() == 40
    assert "test set is the one given" in notes[1]


def test_a_given_validation_set_stays_too():
    frame = table([0, 1, 2, 3] * 9, given=["train"] * 20 + ["val"] * 8 + ["test"] * 8)
    done, notes = split_table(frame, seed=0)
    assert list(done.set) == list(frame.set)
    assert len(notes) == 1  # only that no slide is known


def test_external_patches_are_left_alone():
    frame = table([0, 1, 2, 3] * 10, given=[""] * 36 + ["external"] * 4)
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
        [0, 1, 2, 3] * 4, slide=["a", "b", "c", "d"] * 4, given=["train"] * 12 + ["test"] * 4
    )
    assert any(
        "cut through 4 patients or slides (a, b, c …)" in note
        for note in split_table(frame, seed=0)[1]
    )


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
    train, kept = set(frame.index[frame.set == "train"]), []
    for fraction in (0.01, 0.1, 0.25, 0.5, 1.0):
        part = take_fraction(frame, fraction=fraction, seed=seed)
        rows = part[part.set == "train"]
        assert (part.set != "train").sum() == (frame.set != "train").sum()
        assert set(rows.score) == {0, 1, 2, 3}
        assert rows.groupby("slide").size().eq(4).all()
        assert (
            abs(len(rows) - max(fraction * len(train), 16)) <= 8
        )  # within half a slide for each score
        kept.append(set(rows.index))
    assert all(small <= large for small, large in itertools.pairwise(kept))
    assert kept[-1] == train


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
        given=["train"] * 20,
    )
    assert set(take_fraction(frame, fraction=0.01, seed=0).score) == {0, 1, 2}
