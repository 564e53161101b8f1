"""The label review: what splits cut, which gaps are decided, who is heard, what is read again."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import CERTAIN, answers, finish, finished_study, patch_table, texts
from sklearn.metrics import cohen_kappa_score

from her2lib import plots
from her2lib.pages import label_review
from her2lib.readers import label_doubt, sheets
from her2lib.report.book import Book

THREE_SPLITS = """
[axes]
network = ["resnet18"]
split = ["official", "grouped", "random"]
[[extra_axes]]
network = ["vit_tiny"]
split = ["grouped"]
[[extra_axes]]
label_shuffle = "shuffled"
[maps]
resamples = 200
"""
OFFICIAL = "resnet18-as_presented-imagenet-224px-n100-s0"
GROUPED = f"{OFFICIAL}-grouped"
RANDOM = f"{OFFICIAL}-random"
# twelve patches, a patient each, so that an interval may decide
TRUTH = [0, 1, 2, 3] * 3


@pytest.fixture
def study(tmp_path, monkeypatch):
    return finished_study(tmp_path, monkeypatch, THREE_SPLITS)


@pytest.fixture
def book(study):
    return Book(study, "09_label_review")


def groups_table(**columns):
    table = pd.DataFrame(columns)
    return table.assign(name=[f"p{number}" for number in range(len(table))], score=0)


# --- patches of one slide on both sides ---------------------------------------------------------


def test_groups_are_recovered_only_where_neither_slide_nor_patient_is_known(study, monkeypatch):
    recovered = np.array(["r0", "r1", "r1"], object)
    monkeypatch.setattr(label_review, "recovered_groups", lambda study, table: recovered)
    table = groups_table(slide=["S1", "", ""], patient=["", "", ""], set="train")
    groups = label_review.patch_groups(study, table)
    assert list(groups) == ["name", "slide", "set", "score", "group", "recovered"]
    assert groups["group"].tolist() == ["S1", "r1", "r1"]
    assert groups["recovered"].tolist() == [False, True, True]


def test_nothing_is_recovered_where_every_slide_or_patient_is_known(study, monkeypatch):
    monkeypatch.delattr(label_review, "recovered_groups")
    table = groups_table(slide=["S1", "S1", ""], patient=["", "", "P"], set="train")
    groups = label_review.patch_groups(study, table)
    assert groups["group"].tolist() == ["S1", "S1", "P"]
    assert not groups["recovered"].any()


def test_leakage_counts_patches_and_groups_that_stand_in_another_set():
    subset = ["train", "train", "train", "test", "test", "external"]
    groups = groups_table(group=["a", "a", "b", "a", "c", "d"], set=subset, recovered=False)
    shown = texts(label_review.leakage_table(groups))
    columns = ["split", "set", "patches", "shared", "groups", "cut"]
    assert shown[:6] == columns
    # of train the two patches of group a, of test its one
    assert shown[6:18] == "official train 3 2 2 1 official test 2 1 2 1".split()
    assert shown[18::6][:2] == ["random", "random"]
    assert shown[-1].startswith(
        "3 groups of 5 patches, given as slide or patient, none recovered; shared:"
    )


def test_leakage_says_how_many_groups_were_recovered():
    groups = groups_table(group=["a", "b", "b"], set="train", recovered=[False, True, True])
    assert "2 groups of 3 patches, 1 of them recovered" in label_review.leakage_table(groups)


# --- the gap between splits ---------------------------------------------------------------------


def compared_tests(study, book, official, grouped, random):
    """SplitTests of one network under three splits, and the table of all its patches."""
    predictions = pd.concat(
        [
            answers(TRUTH, official, run=OFFICIAL),
            answers(TRUTH, grouped, run=GROUPED, first=12),
            answers(TRUTH, random, run=RANDOM, first=24),
        ],
        ignore_index=True,
    )
    table = predictions.rename(columns={"patch": "name", "truth": "score"})
    return label_review.split_tests(study, book, predictions), table


WRONG = [3, 2, 1, 0] * 3
HALF = [0, 1, 1, 0] * 3
MOST = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 1, 0]


def test_tests_of_three_splits_are_compared_two_by_two_the_easier_first(study, book):
    compared, _ = compared_tests(study, book, MOST, HALF, TRUTH)
    order = [compared.split_of(test) for test in compared.tests]
    assert order == ["random", "official", "grouped"]
    pairs = [(compared.split_of(a), compared.split_of(b)) for a, b in compared.pairs()]
    assert pairs == [("random", "official"), ("random", "grouped"), ("official", "grouped")]


def test_networks_that_differ_in_more_than_their_split_are_no_pair(study, book):
    vit = GROUPED.replace("resnet18", "vit_tiny")
    predictions = pd.concat(
        [answers(TRUTH, HALF, run=OFFICIAL), answers(TRUTH, HALF, run=vit, first=12)]
    )
    compared = label_review.split_tests(study, book, predictions)
    assert len(compared.tests) == 2
    assert compared.pairs() == []


def test_answers_of_test_patches_are_kept_and_shuffled_runs_left_out(study, book):
    shuffled = f"{OFFICIAL}-shuffled"
    predictions = pd.concat(
        [
            answers(TRUTH, HALF, run=OFFICIAL),
            answers(TRUTH, HALF, run=OFFICIAL, subset="val"),
            answers(TRUTH, HALF, run=shuffled),
        ]
    )
    label_review.split_tests(study, book, predictions)
    stored = pd.read_csv(book.file.parent / "by_split.csv")
    assert set(stored["run"]) == {OFFICIAL}
    assert set(stored["set"]) == {"own test"}
    assert len(stored) == len(TRUTH)


def test_each_network_stands_beside_the_commonest_score_of_its_own_test_set(study, book):
    predictions = answers([0, 0, 0, 1], [0, 0, 1, 1], run=OFFICIAL)
    finish(study, OFFICIAL, verdict="answers 0 only")
    compared = label_review.split_tests(study, book, predictions)
    shown = label_review.own_test_table(book, study, compared)
    name = compared.tests[0].name
    values = {row["metric"]: row["value"] for row in book.rows.values()}
    assert values["accuracy"] == values["majority rate"] == 3 / 4
    assert values["kappa quadratic"] == pytest.approx(
        cohen_kappa_score([0, 0, 0, 1], [0, 0, 1, 1], weights="quadratic")
    )
    assert texts(shown)[6:9] == [name, "official, COLLAPSED, rough", "4 of 4 patients"]
    assert "Only one split was run. For the gap, add to made.toml: [[extra_axes]]" in shown


def test_of_several_splits_no_more_are_asked_for(study, book):
    compared, _ = compared_tests(study, book, MOST, HALF, TRUTH)
    shown = label_review.own_test_table(book, study, compared)
    assert "Only one split" not in shown
    assert "rough" not in shown


def test_without_a_prediction_the_page_says_how_to_get_a_gap(study, book):
    compared = label_review.split_tests(study, book, pd.DataFrame())
    assert (compared.tests, compared.pairs()) == ([], [])
    shown = label_review.own_test_table(book, study, compared)
    assert shown.startswith("<p>Only one split was run.")
    assert label_review.split_gaps(book, study, pd.DataFrame(), compared) == ""
    assert len(pd.read_csv(book.file.parent / "by_split.csv")) == 0


def test_a_gap_is_the_difference_of_two_tests_each_on_its_own_patches(study, book):
    compared, table = compared_tests(study, book, MOST, HALF, TRUTH)
    shown = label_review.split_gaps(book, study, table, compared)
    gaps = {}
    for row in book.rows.values():
        gaps.setdefault(row["metric"], []).append(row["value"])
    # of twelve: random 12 right, official 10, grouped 6
    assert gaps["accuracy gap"] == pytest.approx([2 / 12, 6 / 12, 4 / 12])
    kappas = [cohen_kappa_score(TRUTH, one, weights="quadratic") for one in (TRUTH, MOST, HALF)]
    expected = [kappas[0] - kappas[1], kappas[0] - kappas[2], kappas[1] - kappas[2]]
    assert gaps["kappa quadratic gap"] == pytest.approx(expected)
    assert shown.count("<p>") == 3
    names = [compared.tests[split].name for split in (0, 2)]
    assert f"{names[0]} minus {names[1]}: accuracy" in shown
    assert "An interval leaves zero out." in shown


def test_a_gap_of_nothing_is_undecided(study, book):
    compared, table = compared_tests(study, book, MOST, MOST, MOST)
    shown = label_review.split_gaps(book, study, table, compared)
    assert shown.count("Undecided: both intervals hold zero.") == 3


def test_a_collapsed_run_decides_no_gap(study, book):
    finish(study, RANDOM, verdict="answers 0 only")
    compared, table = compared_tests(study, book, WRONG, TRUTH, HALF)
    shown = label_review.split_gaps(book, study, table, compared)
    assert shown.count("Undecided: a run collapsed.") == 2
    assert shown.count("An interval leaves zero out.") == 1


def test_few_slides_or_patients_decide_no_gap(study, book):
    predictions = pd.concat(
        [
            answers(TRUTH[:9], TRUTH[:9], run=OFFICIAL),
            answers(TRUTH[:9], WRONG[:9], run=GROUPED, first=12),
        ]
    )
    table = predictions.rename(columns={"patch": "name", "truth": "score"})
    compared = label_review.split_tests(study, book, predictions)
    shown = label_review.split_gaps(book, study, table, compared)
    assert "Undecided: fewer than 10 patients in a test set." in shown


def test_of_a_gap_both_sides_have_as_many_seeds(tmp_path, monkeypatch):
    text = "[axes]\nsplit = ['official', 'grouped']\n[[extra_axes]]\nseed = [1]\n"
    study = finished_study(tmp_path, monkeypatch, text + "[maps]\nresamples = 20\n")
    book = Book(study, "09_label_review")
    second = OFFICIAL.replace("-s0", "-s1")
    predictions = pd.concat(
        [
            answers(TRUTH, MOST, run=OFFICIAL),
            answers(TRUTH, WRONG, run=second),
            answers(TRUTH, HALF, run=GROUPED, first=12),
        ]
    )
    table = predictions.rename(columns={"patch": "name", "truth": "score"}).drop_duplicates("name")
    compared = label_review.split_tests(study, book, predictions)
    label_review.split_gaps(book, study, table, compared)
    gaps = {row["metric"]: row["value"] for row in book.rows.values()}
    assert gaps["accuracy gap"] == pytest.approx(10 / 12 - 6 / 12)


# --- which scores the evidence doubts -----------------------------------------------------------


@pytest.fixture
def patches(tmp_path):
    """Table of sixteen patches whose score shows in their stain, but for patch 4, a 3+ called 0."""
    table = patch_table(tmp_path / "images", [0, 1, 2, 3] * 4, subset="train")
    table.loc[4, "path"] = table["path"][3]
    return table


def slides_as_groups(table):
    return table[["name"]].assign(group=table["slide"])


def test_a_label_that_the_stain_denies_is_doubted_most(study, patches):
    doubts = label_review.rank_labels(study, patches, pd.DataFrame(), slides_as_groups(patches))
    first = doubts.iloc[0]
    assert first["patch"] == "train04"
    assert first["suggested"] > first["score"] == 0
    assert set(doubts["patch"]) == set(patches["name"])


def heard(study, table, predictions, monkeypatch, *, groups=None):
    """dict of what label_doubt.rank_doubts is asked with; its learner answers with its groups."""
    asked = {}

    def keep(score, **evidence):
        asked.update(evidence)

    n = len(table)
    monkeypatch.setattr(label_doubt, "rank_doubts", keep)
    monkeypatch.setattr(
        label_doubt, "out_of_fold_probabilities", lambda features, score, groups: groups
    )
    monkeypatch.setattr(
        label_review, "_stain_measures", lambda table: (np.zeros(n), np.zeros(n), np.zeros((n, 1)))
    )
    if groups is None:
        groups = slides_as_groups(table)
    label_review.rank_labels(study, table, predictions, groups)
    return asked


def test_a_network_is_heard_only_of_patches_that_it_has_not_learnt(study, patches, monkeypatch):
    table = patches[:4].assign(name=["train00", "test00", "val00", "train01"])
    predictions = pd.concat(
        [
            answers([0, 3], [0, 3], run=OFFICIAL, subset="train"),
            answers([1], [2], run=OFFICIAL, subset="test"),
            answers([2], [0], run=OFFICIAL, subset="val"),
        ]
    )
    (votes,) = heard(study, table, predictions, monkeypatch)["predictions"]
    assert np.isnan(votes[[0, 3]]).all()
    assert votes[1].tolist() == CERTAIN[2].tolist()
    assert votes[2].tolist() == CERTAIN[0].tolist()


def test_collapsed_and_shuffled_runs_are_not_heard(study, patches, monkeypatch):
    table = patches[:1].assign(name="test00")
    finish(study, GROUPED, verdict="answers 0 only")
    runs = [OFFICIAL, GROUPED, f"{OFFICIAL}-shuffled"]
    predictions = pd.concat([answers([0], [score], run=run) for score, run in enumerate(runs)])
    votes = heard(study, table, predictions, monkeypatch)["predictions"]
    assert [one.tolist() for one in votes] == [CERTAIN[:1].tolist()]


def test_without_networks_or_raters_the_rest_is_heard(study, patches, monkeypatch):
    asked = heard(study, patches, pd.DataFrame(), monkeypatch)
    assert asked["predictions"] == []
    assert asked["ratings"] is None
    with_people = patches.assign(rater_Ann=np.nan)
    asked = heard(study, with_people, pd.DataFrame(), monkeypatch)
    assert (asked["ratings"] == -1).all(axis=None)


def test_a_slide_is_never_its_own_witness_and_recovered_groups_stand_in(
    study, patches, monkeypatch
):
    table = patches[:3].assign(slide=["S0", "", ""])
    groups = table[["name"]].assign(group=["P0", "r1", "r1"])
    asked = heard(study, table, pd.DataFrame(), monkeypatch, groups=groups)
    assert asked["groups"].tolist() == ["S0", "r1", "r1"]
    # the learner is fitted without the same
    assert asked["learner"].tolist() == ["S0", "r1", "r1"]


def doubts_table(*rows):
    columns = ["patch", "score", "suggested", "doubt", "kind", "reasons"]
    return pd.DataFrame(rows, columns=columns)


DOUBTS = doubts_table(
    ("a", 0, 3, 0.987, "in doubt", "networks say 3+"),
    ("b", 1, 2, 0.8, "in doubt", "rule says 2+"),
    ("c", 3, 0, 0.4, "not visible here", "no stain"),
    ("d", 0, 0, 0.1, "", ""),
    ("e", 0, 0, 0.1, "", ""),
    ("f", 1, 1, 0.1, "", ""),
    ("g", 2, 2, 0.0, "", "no evidence of other slides"),
)


def test_the_most_doubtful_are_the_first_with_a_doubt():
    assert label_review.most_doubtful(DOUBTS, most=2)["patch"].tolist() == ["a", "b"]
    assert label_review.most_doubtful(DOUBTS, most=9)["patch"].tolist() == ["a", "b", "c"]


def test_the_table_of_doubts_writes_scores_and_counts_all():
    shown = label_review.doubt_table(DOUBTS, DOUBTS[:1])
    assert texts(shown)[6:12] == ["a", "0", "3+", "0.99", "in doubt", "networks say 3+"]
    assert "2 of 7 scores are doubted, 1 are not visible in their patch; of 1 nothing" in shown


def test_pictures_of_doubtful_patches_say_what_is_doubted(tmp_path, book, monkeypatch):
    titles = []
    gallery = plots.gallery

    def keep_titles(images, captions):
        titles.extend(captions)
        return gallery(images, captions)

    monkeypatch.setattr(plots, "gallery", keep_titles)
    table = patch_table(tmp_path / "images", [0, 1]).assign(name=["b", "a"])
    shown = label_review.doubt_figure(book, table, DOUBTS[:2])
    assert titles == [
        "a\ngiven 0, evidence 3+\nin doubt, doubt 0.99",
        "b\ngiven 1+, evidence 2+\nin doubt, doubt 0.80",
    ]
    assert "Research use only." in shown
    assert "<figure>" in label_review.doubt_figure(book, table, DOUBTS[:0])


# --- read again ---------------------------------------------------------------------------------


@pytest.fixture
def sheet_table(tmp_path):
    return patch_table(tmp_path / "images", DOUBTS["score"]).assign(name=DOUBTS["patch"])


def test_each_doubted_patch_goes_out_with_an_undoubted_one_of_its_score(study, sheet_table):
    folder = label_review.hand_out_sheets(study, sheet_table, DOUBTS, DOUBTS[:3])
    key = pd.read_csv(folder / "key.csv", keep_default_na=False)
    sizes = key.groupby("rater")["patch"].nunique()
    assert sizes.to_dict() == {"reader_1": 5, "reader_2": 5}
    went_out = set(key["patch"])
    # of a (0) and b (1+) one each; no undoubted patch is 3+, as c is
    assert went_out >= {"a", "b", "c", "f"}
    assert len(went_out & {"d", "e"}) == 1
    assert "g" not in went_out
    assert folder.parent == study.folder / "reading"


def test_sheets_are_written_once_and_what_readers_filled_in_stays(study, sheet_table):
    folder = label_review.hand_out_sheets(study, sheet_table, DOUBTS, DOUBTS[:3])
    file = folder / "reader_1" / "sheet.csv"
    sheet = pd.read_csv(file, dtype=str, keep_default_na=False)
    sheet["score"] = "2+"
    sheet.to_csv(file, index=False)
    key = (folder / "key.csv").read_bytes()
    assert label_review.hand_out_sheets(study, sheet_table, DOUBTS, DOUBTS[:3]) == folder
    assert set(pd.read_csv(file, dtype=str)["score"]) == {"2+"}
    assert (folder / "key.csv").read_bytes() == key
    ratings, problems = sheets.rounds(folder.parent)
    assert (len(ratings), problems) == (5, [])


def test_other_doubts_make_another_round_and_none_make_no_sheet(study, sheet_table):
    first = label_review.hand_out_sheets(study, sheet_table, DOUBTS, DOUBTS[:3])
    second = label_review.hand_out_sheets(study, sheet_table, DOUBTS, DOUBTS[:1])
    assert first != second
    assert (second / "key.csv").exists()
    nothing = label_review.hand_out_sheets(study, sheet_table, DOUBTS, DOUBTS[:0])
    assert not nothing.exists()


def test_settled_scores_are_written_only_when_they_change(study):
    settled = pd.DataFrame({"patch": ["a"], "score": [0], "reread": [3]})
    file = label_review.keep_settled_scores(study, settled)
    assert file.read_text(encoding="utf-8") == "patch,reread\na,3\n"
    before = file.stat().st_mtime_ns
    assert label_review.keep_settled_scores(study, settled).stat().st_mtime_ns == before
    label_review.keep_settled_scores(study, settled.assign(reread=2))
    assert pd.read_csv(file)["reread"].tolist() == [2]


def test_before_anything_is_read_the_page_says_where_the_sheets_lie(study):
    nobody = pd.DataFrame(columns=sheets.TIDY)
    folder = study.folder / "reading" / "12345678"
    settled = pd.DataFrame(columns=["patch", "score", "reread"])
    shown = label_review.reading_sentences(study, folder, nobody, settled, ["a sheet is missing"])
    assert "No sheet is filled in yet: made/reading/12345678 holds one for each" in shown
    assert "<p>a sheet is missing</p>" in shown


def test_afterwards_it_says_what_was_settled_and_how_to_train_with_it(study):
    ratings = pd.DataFrame({"patch": ["a", "a", "b", "b", "c"], "rater": "x"})
    settled = pd.DataFrame({"patch": ["a", "b"], "score": [0, 1], "reread": [3, 1]})
    shown = label_review.reading_sentences(study, study.folder, ratings, settled, [])
    assert "3 patches were read again: 2 are settled, 1 of them with another score; 1 not" in shown
    assert "reports/made/reading/reread.csv" in shown


def test_the_same_answers_are_measured_against_given_and_reread_scores(study, book):
    compared, table = compared_tests(study, book, MOST, HALF, TRUTH)
    # two of the official test patches read as the network answered, one of no test
    names = ["test10", "test11", "elsewhere"]
    settled = pd.DataFrame({"patch": names, "score": [2, 3, 0], "reread": [1, 0, 1]})
    before = cohen_kappa_score(TRUTH, MOST, weights="quadratic")
    shown = label_review.reread_table(book, study, table, compared, settled)
    name = compared.tests[1].name
    values = {row["metric"]: row["value"] for row in book.rows.values() if row["run"] == name}
    assert values["kappa quadratic before re-reading"] == pytest.approx(before)
    assert values["kappa quadratic after re-reading"] == 1
    assert [cell for cell in texts(shown) if " of 12" in cell] == ["0 of 12", "2 of 12", "0 of 12"]
    assert "nothing was trained anew" in shown


def test_with_nothing_settled_or_predicted_there_is_no_such_table(study, book):
    compared, table = compared_tests(study, book, MOST, HALF, TRUTH)
    nothing = pd.DataFrame(columns=["patch", "score", "reread"])
    assert label_review.reread_table(book, study, table, compared, nothing) == ""
    unpredicted = label_review.split_tests(study, book, pd.DataFrame())
    settled = pd.DataFrame({"patch": ["test10"], "score": [2], "reread": [1]})
    assert label_review.reread_table(book, study, table, unpredicted, settled) == ""
