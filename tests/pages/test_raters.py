"""People and networks as raters: nobody is compared with himself, and nobody at all is no error."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import answers, finished_study, patch_table, texts
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from her2lib import plots
from her2lib.pages import raters
from her2lib.report import recount
from her2lib.report.book import Book
from her2lib.study import results

# six patches: consensus, three people, one network; Cora did not read the last two
RATINGS = np.array(
    [
        [0, 0, 0, 0, 0],
        [1, 1, 1, 2, 1],
        [2, 2, 2, 2, 1],
        [3, 3, 2, 3, 3],
        [1, 1, 1, -1, 2],
        [2, 2, 3, -1, 3],
    ]
)
NAMES = ["consensus", "Ann", "Ben", "Cora", "ResNet18"]
EXTERNAL = """
[axes]
network = ["resnet18"]
[[extra_axes]]
label_shuffle = "shuffled"
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    return finished_study(tmp_path, monkeypatch, EXTERNAL)


@pytest.fixture
def book(study):
    return Book(study, "07_agreement")


def rated(ratings=RATINGS, names=NAMES, people=("Ann", "Ben", "Cora"), networks=("ResNet18",)):
    ratings = np.asarray(ratings)
    return results.RatedPatches(
        ratings=ratings,
        names=list(names),
        people=list(people),
        networks=list(networks),
        patch=np.array([f"p{number}" for number in range(len(ratings))], object),
        groups=pd.Series([f"P{number}" for number in range(len(ratings))], name="patients"),
        sample="patients",
        warning="",
    )


def rated_by_nobody():
    return rated(np.zeros((0, 2), int), ["consensus", "ResNet18"], people=())


def value(book, run, metric):
    return book.rows[f"07/rated/{run}/{metric}"]["value"]


# --- who read what ------------------------------------------------------------------------------


def test_ratings_are_kept_with_who_is_a_person_and_unread_patches_have_no_row(book):
    described = raters.keep_ratings(book, rated())
    stored = pd.read_csv(book.file.parent / "ratings.csv")
    assert list(stored) == ["patch", "rater", "reading", "score", "person"]
    assert len(stored) == (RATINGS >= 0).sum() == 28
    by_rater = stored.groupby("rater")["person"].agg(["size", "all"])
    assert by_rater["all"].to_dict() == {
        "Ann": True,
        "Ben": True,
        "Cora": True,
        "ResNet18": False,
        "consensus": False,
    }
    assert by_rater.loc["Cora", "size"] == described.loc["Cora", "count"] == 4
    assert described.loc["Cora", "mean"] == pytest.approx(7 / 4)


def test_the_page_says_who_read_and_what_is_resampled(book):
    shown = raters.who_read(book, rated())
    assert "6 patches were read by 3 raters (Ann, Ben, Cora)." in shown
    assert "Intervals resample patients." in shown
    nobody = raters.who_read(book, rated_by_nobody())
    assert "0 patches were read by 0 raters (no rater columns in the data)." in nobody


# --- agreement ----------------------------------------------------------------------------------


def test_the_kappa_of_every_two_raters_is_kept(book, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "matrix", lambda values, ax, **options: drawn.append(values))
    raters.kappa_figure(book, rated(), resamples=20)
    assert len(book.rows) == 5 * 4 / 2
    for a, b in (("Ann", "Ben"), ("Ann", "Cora"), ("Ben", "ResNet18")):
        both = RATINGS[:, [NAMES.index(a), NAMES.index(b)]]
        read = both[(both >= 0).all(1)]
        expected = cohen_kappa_score(*read.T, weights="quadratic")
        row = book.rows[f"07/rated/{a} ~ {b}/kappa quadratic"]
        assert row["value"] == pytest.approx(expected)
        assert row["n"] == len(read)
        assert drawn[0][NAMES.index(a), NAMES.index(b)] == pytest.approx(expected)


def test_each_person_is_compared_with_the_others_alone(book):
    shown = raters.against_the_others(book, rated(), resamples=20)
    # Ann against Ben and Cora: settled are patches 0, 2, 4 and 5, of which she shares 0, 2 and 4
    assert value(book, "Ann against the other raters", "accuracy") == 3 / 4
    # Ben against Ann and Cora: settled are all but patch 1, and he differs in 3 and 5
    assert value(book, "Ben against the other raters", "accuracy") == 3 / 5
    # Cora against Ann and Ben, of what she read: settled are 0, 1 and 2, and she differs in 1
    assert value(book, "Cora against the other raters", "accuracy") == 2 / 3
    # the network against the majority of all: settled are all but patch 5; it differs in 2 and 4
    network = "ResNet18 against the other raters"
    assert value(book, network, "accuracy") == 3 / 5
    assert value(book, network, "kappa quadratic") == pytest.approx(
        cohen_kappa_score([0, 1, 2, 3, 1], [0, 1, 1, 3, 2], weights="quadratic")
    )
    assert value(book, network, "kappa unweighted") == pytest.approx(
        cohen_kappa_score([0, 1, 2, 3, 1], [0, 1, 1, 3, 2])
    )
    assert texts(shown)[:4] == [
        "against the others",
        "same score",
        "kappa unweighted",
        "kappa quadratic",
    ]
    assert not any("consensus" in run for run in book.rows)


def test_one_rater_alone_has_no_others_but_networks_have_him(book):
    alone = rated(RATINGS[:, [0, 1, 4]], ["consensus", "Ann", "ResNet18"], people=("Ann",))
    raters.against_the_others(book, alone, resamples=20)
    row = book.rows["07/rated/Ann against the other raters/accuracy"]
    assert np.isnan(row["value"])
    assert row["n"] == 0
    # he gave 0 1 2 3 1 2, it answered 0 1 1 3 2 3
    assert value(book, "ResNet18 against the other raters", "accuracy") == 3 / 6
    together = raters.all_raters_together(book, alone, resamples=20)
    assert "not estimable" in together
    shown = raters.human_range_sentences(alone, resamples=20)
    assert shown.count("<p>") == 1


def test_all_people_together_are_measured_without_the_networks(book):
    three = rated(RATINGS[:4])
    raters.all_raters_together(book, three, resamples=20)
    votes = RATINGS[:4, 1:4]
    counts = np.stack([(votes == score).sum(1) for score in range(4)], axis=1)
    assert value(book, "all raters", "Fleiss kappa") == pytest.approx(fleiss_kappa(counts))
    # Gwet 2008: of 12 pairs of readings 8 agree, by chance (sum of p(1 - p)) / 3 do
    fractions = counts.mean(0) / 3
    chance = (fractions * (1 - fractions)).sum() / 3
    expected = (8 / 12 - chance) / (1 - chance)
    assert value(book, "all raters", "Gwet AC1") == pytest.approx(expected)
    assert len(book.rows) == 4


def test_a_sentence_for_each_network_says_whether_it_is_within_the_human_range():
    networks = ("ResNet18", "ViT")
    both = np.column_stack([RATINGS, 3 - RATINGS[:, 0]])
    shown = raters.human_range_sentences(
        rated(both, [*NAMES, "ViT"], networks=networks), resamples=50
    )
    assert shown.count("<p>") == 2
    assert shown.index("ResNet18") < shown.index("ViT")


def test_patches_on_which_people_split_are_shown_widest_first(tmp_path, book, monkeypatch):
    titles = []
    gallery = plots.gallery

    def keep_titles(images, captions):
        titles.extend(captions)
        return gallery(images, captions)

    monkeypatch.setattr(plots, "gallery", keep_titles)
    ratings = RATINGS.copy()
    ratings[4, 1] = 3  # Ann 3+, Ben 1+
    table = patch_table(tmp_path / "images", ratings[:, 0])
    table["name"] = [f"p{number}" for number in range(6)]
    shown = raters.split_votes_figure(book, rated(ratings), table, most=3)
    assert titles == ["p4\n3+ 1+ ?", "p1\n1+ 1+ 2+", "p3\n3+ 2+ 3+"]
    assert "Widest disagreements first" in shown


@pytest.mark.parametrize(
    "nobody", [rated_by_nobody(), rated(RATINGS[:0])], ids=["no raters", "nothing read"]
)
def test_where_nobody_read_anything_every_page_still_stands(tmp_path, book, nobody):
    table = patch_table(tmp_path / "images", [0])
    assert set(raters.keep_ratings(book, nobody)["count"]) == {0}
    assert "n = 0 patches" in raters.kappa_figure(book, nobody, resamples=20)
    for page in (raters.against_the_others, raters.all_raters_together):
        shown = page(book, nobody, resamples=20)
        assert shown.count("<td>") == shown.count("not estimable: there are no patches")
    assert "<figure>" in raters.split_votes_figure(book, nobody, table, most=3)
    assert raters.human_range_sentences(nobody, resamples=20).count("<p>") <= 1


# --- patches from elsewhere ---------------------------------------------------------------------


def predictions_of(study, *, external=True):
    """DataFrame of the true and the shuffled run on patches of every set, a patient each."""
    parts = []
    for run in study.runs():
        parts.append(answers([0, 0, 0, 1], [0, 0, 0, 1], run=run["run"], subset="train"))
        parts.append(answers([0, 0, 1, 1], [0, 0, 1, 0], run=run["run"], subset="val"))
        parts.append(answers([0, 0, 1, 1], [0, 1, 0, 0], run=run["run"], subset="test"))
        if external:
            table = answers(TRUE_OUTSIDE, OUTSIDE, run=run["run"], subset="external")
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


# a network that learnt three 0 to one 1+, of patches that are mostly 1+
TRUE_OUTSIDE = [0, 1, 1, 1]
OUTSIDE = np.array([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.55, 0.45, 0, 0], [0.2, 0.8, 0, 0]])


def test_looks_at_the_external_set_are_counted_once_for_each_finished_run(study):
    predictions = predictions_of(study)
    shown = raters.looks_at_external_set(study, predictions)
    assert shown.count(": first look at the external set.") == 2
    assert raters.looks_at_external_set(study, predictions) == shown
    assert len(pd.read_csv(study.folder / "ledger.csv")) == 2


def test_without_an_external_set_or_any_prediction_nothing_is_noted(study):
    sentence = "<p>There is no external set in this study.</p>"
    inside = predictions_of(study, external=False)
    assert raters.looks_at_external_set(study, inside) == sentence
    assert raters.looks_at_external_set(study, pd.DataFrame()) == sentence
    assert not (study.folder / "ledger.csv").exists()


def test_recall_is_followed_from_validation_to_test_and_elsewhere(study, book):
    raters.shift_table(book, study, predictions_of(study), resamples=20)
    values = {}
    for row in book.rows.values():
        if row["metric"] in ("recall 0", "recall 1+"):
            values[row["set"], row["run"], row["metric"]] = row["value"]
    assert values == {
        ("val", "ResNet18", "recall 0"): 1,
        ("val", "ResNet18", "recall 1+"): 1 / 2,
        ("test", "ResNet18", "recall 0"): 1 / 2,
        ("test", "ResNet18", "recall 1+"): 0,
        ("external", "ResNet18", "recall 0"): 1,
        ("external", "ResNet18", "recall 1+"): 1 / 3,
    }


def test_corrected_answers_are_kept_with_their_set_and_lie_nearer_to_the_outside(study, book):
    shown = raters.corrected_table(book, study, predictions_of(study), resamples=20)
    run = study.run()["run"]
    stored = pd.read_csv(book.file.parent / "corrected.csv")
    assert list(stored) == [
        *results.PROBABILITIES,
        "metric",
        "name",
        "run",
        "set",
        "patch",
        "truth",
    ]
    assert set(stored["set"]) == {"external"}
    assert set(stored["run"]) == {run}
    assert stored["patch"].tolist() == 2 * [f"external0{number}" for number in range(4)]

    # Saerens 2002, as it stands in the paper: expectation, then the new fractions
    trained = np.array([3 / 4, 1 / 4])
    fractions = trained
    for _ in range(500):
        corrected = OUTSIDE[:, :2] * fractions / trained
        corrected /= corrected.sum(1, keepdims=True)
        fractions = corrected.mean(0)
    rows = stored[stored["metric"] == "accuracy corrected"]
    assert rows[["p0", "p1"]].to_numpy() == pytest.approx(corrected, abs=1e-6)
    accuracies = {row["metric"]: row["value"] for row in book.rows.values()}
    assert accuracies == {
        "accuracy as answered": 2 / 4,
        "accuracy corrected": (corrected.argmax(1) == TRUE_OUTSIDE).mean(),
    }
    assert accuracies["accuracy corrected"] > 2 / 4
    assert "ResNet18, shuffled scores" not in shown


def test_without_an_external_set_nothing_is_corrected(study, book):
    inside = predictions_of(study, external=False)
    shown = raters.corrected_table(book, study, inside, resamples=20)
    assert "<td>" not in shown
    assert (book.file.parent / "corrected.csv").read_text().strip() == ""
    assert not book.rows


# --- a study of three scores --------------------------------------------------------------------

# nine patches, scores 1+ to 3+, one reading missing; irrCAC 0.4.4 over [1, 2, 3]: AC1, AC2, Fleiss
THREE_SCORES = [
    (1, 1, 1),
    (1, 1, 2),
    (1, 1, 1),
    (2, 2, 2),
    (2, 3, 2),
    (2, 2, -1),
    (3, 3, 3),
    (3, 2, 3),
    (3, 3, 3),
]


def rated_by_three(study, readings):
    table = pd.DataFrame(readings, columns=["rater_Ann", "rater_Ben", "rater_Cora"])
    table["name"] = [f"p{number}" for number in range(len(table))]
    table["patient"] = table["name"]
    table = table.assign(slide="", set="test", score=table["rater_Ann"].clip(1))
    return results.rated_patches(study, table, pd.DataFrame(columns=["run"]))


@pytest.fixture
def three(tmp_path, monkeypatch):
    scores = '[data]\nscores = ["3+", "1+", "2+"]\n'
    study = finished_study(tmp_path, monkeypatch, scores + EXTERNAL)
    monkeypatch.setattr(results, "shown_runs", lambda study: {})
    return study


def test_case_42_the_coefficients_of_a_study_of_three_scores_are_over_three(three):
    book = Book(three, "07_agreement")
    rated = rated_by_three(three, THREE_SCORES)
    assert rated.scores == three.declared_scores == (1, 2, 3)
    shown = raters.all_raters_together(book, rated, resamples=20)
    assert "here 3 (1+, 2+, 3+)" in shown
    assert value(book, "all raters", "Gwet AC1") == pytest.approx(0.66735, abs=1e-5)
    assert value(book, "all raters", "Gwet AC2 (quadratic)") == pytest.approx(0.83469, abs=1e-5)
    assert value(book, "all raters", "Fleiss kappa") == pytest.approx(0.66529, abs=1e-5)
    raters.keep_ratings(book, rated)
    numbers = pd.DataFrame(book.rows.values())
    again = recount.recount(numbers, three.folder, scores=three.declared_scores)
    assert again["verdict"].tolist() == ["consistent"] * 4
    # over four, as it once was, the audit contradicts Gwet's two
    again = recount.recount(numbers, three.folder).set_index("id")["verdict"]
    assert again.loc[again == "contradiction"].index.tolist() == [
        "07/rated/all raters/Gwet AC1",
        "07/rated/all raters/Gwet AC2 (quadratic)",
    ]


def test_a_reading_of_a_score_that_the_study_does_not_declare_stays_and_is_told(three):
    book = Book(three, "07_agreement")
    assert "does not declare" not in raters.who_read(book, rated_by_three(three, THREE_SCORES))
    rated = rated_by_three(three, [*THREE_SCORES, (1, 0, 0), (1, 1, 0)])
    assert rated.scores == (0, 1, 2, 3)
    shown = raters.who_read(book, rated)
    assert (
        "Readings of 0, which this study does not declare, stay as they are (1 of Ben, 2 of Cora): "
        "the raters&#x27; coefficients are over 0, 1+, 2+, 3+."
    ) in shown
    shown = raters.all_raters_together(book, rated, resamples=20)
    assert "here 4 (0, 1+, 2+, 3+)" in shown
    raters.keep_ratings(book, rated)
    numbers = pd.DataFrame(book.rows.values())
    again = recount.recount(numbers, three.folder, scores=three.declared_scores)
    assert set(again["verdict"]) == {"consistent"}
