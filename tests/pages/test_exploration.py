"""The data page: problems with their remedy, counts by set and score, what brown alone knows."""

import json

import numpy as np
import pandas as pd
import pytest
from finished_runs import finished_study, patch_table, texts
from PIL import Image
from scipy.stats import spearmanr

from her2lib import plots, stain
from her2lib.data.reading import Cohort
from her2lib.pages import exploration
from her2lib.report.book import Book

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def book(tmp_path, monkeypatch):
    return Book(finished_study(tmp_path, monkeypatch), "01_data_exploration")


def cohort_of(table, *, notes=(), problems=()):
    columns = ["severity", "file", "problem", "remedy", "kind"]
    return Cohort(table, None, list(notes), pd.DataFrame(problems, columns=columns))


# --- files and sets -----------------------------------------------------------------------------


def test_problems_stand_with_their_remedy_and_none_is_said_to_be_none(book):
    table = pd.DataFrame()
    assert exploration.problem_table(book, cohort_of(table)) == "<p>No file has a problem.</p>"
    problem = ("error", f"{NASTY}.png", "it has 0 bytes", "copy it again", "empty")
    shown = exploration.problem_table(book, cohort_of(table, problems=[problem]))
    assert "0 bytes" in shown
    assert "copy it again" in shown
    assert "<script>" not in shown


def test_many_problems_are_shown_by_kind_and_each_is_kept_in_a_table(book):
    row = ("warning", "a.png", "its name says test", "rename it", "set name")
    problems = [row] * 500 + [("error", "b.png", "0 bytes", "copy it", "empty")]
    shown = exploration.problem_table(book, cohort_of(pd.DataFrame(), problems=problems))
    assert shown.count("its name says test") == 1
    assert "500" in shown
    assert "b.png" in shown
    assert len(pd.read_csv(book.file.parent / "problems.csv")) == 501


def test_notes_are_shown_and_written_with_the_number_of_slides_and_patients(book):
    table = pd.DataFrame({"slide": ["S1", "S1", "S2", ""], "patient": ["P", "P", "", ""]})
    shown = exploration.division_notes(book, cohort_of(table, notes=["One note.", NASTY]))
    assert "<li>One note.</li>" in shown
    assert "<script>" not in shown
    folder = book.file.parent
    counts = json.loads((folder / "count.json").read_text())
    assert counts == {"patches": 4, "slides": 2, "patients": 1}
    assert json.loads((folder / "notes.json").read_text()) == ["One note.", NASTY]


def test_patches_are_counted_by_set_in_reading_order_and_by_score(book, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "counts", lambda counts, ax, scores: drawn.append(counts))
    sets = ["test", "train", "train", "external", "train"]
    table = pd.DataFrame({"set": sets, "score": [3, 0, 0, 1, -1]})
    exploration.count_figure(book, table)
    assert drawn[0].index.tolist() == ["train", "test", "external"]
    assert drawn[0].to_dict("index") == {
        "train": {"0": 2, "1+": 0, "3+": 0, "?": 1},
        "test": {"0": 0, "1+": 0, "3+": 1, "?": 0},
        "external": {"0": 0, "1+": 1, "3+": 0, "?": 0},
    }


def test_examples_are_training_patches_at_most_four_of_a_score_and_none_twice(
    tmp_path, book, monkeypatch
):
    titles = []
    gallery = plots.gallery

    def keep(images, captions):
        titles.append(captions)
        return gallery(images, captions)

    monkeypatch.setattr(plots, "gallery", keep)
    train = patch_table(tmp_path / "train", [0] * 9 + [3], subset="train")
    test = patch_table(tmp_path / "test", [1], subset="test")
    for _ in range(2):
        exploration.example_figure(book, pd.concat([train, test], ignore_index=True))
    first, second = titles
    assert first == second
    assert len(set(first)) == len(first)
    assert [title.split("score ")[1] for title in first][-1:] == ["3+"]
    assert 1 <= sum(title.endswith("score 0") for title in first) <= 4
    assert all(title.startswith("train") for title in first)


def test_a_slide_in_two_sets_is_counted_and_unknown_slides_are_not():
    table = pd.DataFrame({"slide": ["a", "a", "b", "", ""], "set": ["train", "test"] * 2 + ["val"]})
    assert exploration.sets_per_slide(table).to_dict() == {"a": 2, "b": 1}


# --- what brown alone already knows -------------------------------------------------------------


def test_images_come_whole_in_the_order_of_their_paths(tmp_path):
    paths = []
    for number, (height, width) in enumerate([(40, 50), (60, 33), (32, 32)]):
        pixels = np.full((height, width, 3), number, np.uint8)
        pixels[0, 1] = (1, 2, 3)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    images = list(exploration.whole_images(paths))
    assert [tuple(image.shape) for image in images] == [
        (1, 3, 40, 50),
        (1, 3, 60, 33),
        (1, 3, 32, 32),
    ]
    assert [int(image[0, 0, -1, -1]) for image in images] == [0, 1, 2]
    assert images[0][0, :, 0, 1].tolist() == [1, 2, 3]


def test_the_rule_is_measured_on_every_patch_and_kept(tmp_path, book):
    table = patch_table(tmp_path / "images", [2, 0, 3, 1])
    rule = exploration.rule_table(book, table)
    assert list(rule) == ["name", "set", "score", "value", "predicted"]
    # the browner the stripes, the higher
    assert np.argsort(rule["value"]).tolist() == [1, 3, 0, 2]
    by_hand = [sum(value >= cut for cut in stain.CUTS) for value in rule["value"]]
    assert rule["predicted"].tolist() == by_hand
    stored = pd.read_csv(book.file.parent / "rule.csv")
    assert stored["value"].to_numpy() == pytest.approx(rule["value"].to_numpy())


def test_a_patch_is_measured_at_its_own_resolution(tmp_path, book):
    table = patch_table(tmp_path / "images", [3, 3])
    table["path"] = table["path"][0]
    table["mpp"] = [1.0, 0.25]
    first, second = exploration.rule_table(book, table)["value"]
    assert first != second


@pytest.mark.parametrize("known", [True, False])
def test_the_rule_is_ranked_against_the_score_with_its_interval(book, known):
    values = np.array([0.1, 0.02, 0.3, 0.2, 0.05, 0.9])
    score = np.array([1, 0, 2, 2, 1, 3])
    table = pd.DataFrame({"patient": "", "slide": "", "name": list("abcdef")})
    if known:
        table["patient"] = list("PPQQRR")
    rule = pd.DataFrame({"value": values, "score": score})
    shown = exploration.rule_figure(book, table, rule, resamples=50)
    row = book.rows["01/all/DAB rule/spearman"]
    assert row["value"] == pytest.approx(spearmanr(values, score).statistic)
    assert row["n"] == 6
    assert row["source"] == "runs/01_data_exploration/rule.csv"
    assert 'data-number="01/all/DAB rule/spearman"' in shown
    assert ("as if they were independent" in texts(shown)[-1]) is not known
