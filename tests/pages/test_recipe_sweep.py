"""Recipes: one row for every finished run, and figures in which one axis alone changes."""

import pandas as pd
import pytest
from finished_runs import answers, finish, finished_study, texts
from sklearn.metrics import cohen_kappa_score

from her2lib import plots
from her2lib.pages import recipe_sweep
from her2lib.report.book import Book

TRUTH = [0, 1, 2, 3, 0, 1, 2, 3]
HALF = [0, 1, 1, 0, 0, 1, 1, 0]
MOST = [0, 1, 2, 3, 0, 1, 2, 2]
SWEEP = """
[axes]
recipe = ["as_presented", "as_presented@1e-4", "as_presented+flips@1e-2"]
[[extra_axes]]
network = "vit_tiny"
[[extra_axes]]
label_shuffle = "shuffled"
[maps]
resamples = 20
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    return finished_study(tmp_path, monkeypatch, SWEEP)


@pytest.fixture
def book(study):
    return Book(study, "92_recipes")


def usual_run(**changes):
    """dict, one row of a grid: the presented recipe of ResNet18 with nothing changed."""
    row = {
        "run": "r",
        "network": "resnet18",
        "shown": "ResNet18",
        "recipe": "as_presented",
        "base": "as_presented",
        "swept": False,
        "lr": 1e-3,
        "n_train": 1.0,
        "side_px": 224,
        "weights": "imagenet",
        "split": "official",
        "seed": 0,
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 8,
        "resampled": "patients",
        "id": "",
        "collapsed": False,
        "verdict": "",
        "fluctuation": 0.25,
    }
    return {**row, **changes}


def grid_of(*changes):
    return pd.DataFrame([usual_run(**one) for one in changes])


def swept(rate, value, **changes):
    """dict of changes: the presented recipe at another rate."""
    recipe = f"as_presented@{rate:g}"
    return {"recipe": recipe, "lr": rate, "swept": True, "value": value, **changes}


def drawn_by(monkeypatch, name):
    """list that receives (table, options) of every call of a drawing function of plots."""
    calls = []
    monkeypatch.setattr(plots, name, lambda table, ax, **options: calls.append((table, options)))
    return calls


# --- the grid -----------------------------------------------------------------------------------


def test_a_row_for_every_finished_run_has_its_validation_kappa(study, book):
    runs = [run["run"] for run in study.runs()]
    predictions = [answers(TRUTH, MOST, run=run, subset="val") for run in runs]
    predictions[1] = answers([*TRUTH, -1], [*HALF, 3], run=runs[1], subset="val")
    predictions.append(answers(TRUTH, HALF, run=runs[0], subset="test"))
    finish(study, runs[1], verdict="answers 0 only", fluctuation=0.75, lr=1e-4)
    grid = recipe_sweep.run_grid(book, study, pd.concat(predictions)).set_index("run")
    kappas = [cohen_kappa_score(TRUTH, one, weights="quadratic") for one in (MOST, HALF)]
    assert grid.loc[runs[:2], "value"].tolist() == pytest.approx(kappas)
    assert grid.loc[runs[1], "n"] == 8  # one has no score
    assert grid.loc[runs[1], ["lr", "fluctuation", "verdict"]].tolist() == [
        1e-4,
        0.75,
        "answers 0 only",
    ]
    assert grid["collapsed"].tolist() == [False, True, False, False]
    assert grid["base"].tolist() == [*["as_presented"] * 2, "as_presented+flips", "as_presented"]
    assert grid["swept"].tolist() == [False, True, True, False]
    assert grid["shown"].tolist() == ["ResNet18", "ResNet18", "ResNet18", "ViT-Tiny"]
    assert set(grid["resampled"]) == {"patients"}
    for run, id_ in grid["id"].items():
        assert book.rows[id_]["run"] == run
        assert book.rows[id_]["source"] == f"runs/{run}/predictions.csv"


def test_unfinished_and_shuffled_runs_have_no_row(study, book):
    runs = [run["run"] for run in study.runs()]
    (study.folder_of(runs[2]) / "run.json").unlink()
    predictions = pd.concat([answers(TRUTH, MOST, run=run, subset="val") for run in runs])
    grid = recipe_sweep.run_grid(book, study, predictions)
    assert runs[2] not in set(grid["run"])
    assert not grid["run"].str.contains("shuffled").any()
    assert len(grid) == 3


def test_without_a_finished_run_the_grid_is_empty(study, book):
    for run in study.runs():
        (study.folder_of(run["run"]) / "run.json").unlink()
    assert recipe_sweep.run_grid(book, study, pd.DataFrame()).empty


# --- what is held, what changes -----------------------------------------------------------------


def test_axes_are_held_at_their_commonest_value_but_the_free_ones():
    grid = grid_of(
        {"run": "usual"},
        {"run": "again"},
        {"run": "few", "n_train": 0.25},
        {"run": "small", "side_px": 96},
        {"run": "few and small", "n_train": 0.25, "side_px": 96},
        {"run": "none", "weights": "none"},
        {"run": "cut", "split": "random"},
    )
    held = recipe_sweep.holding_usual(grid)
    assert held["run"].tolist() == ["usual", "again"]
    held = recipe_sweep.holding_usual(grid, "n_train")
    assert held["run"].tolist() == ["usual", "again", "few"]
    held = recipe_sweep.holding_usual(grid, "n_train", "side_px", "weights", "split")
    assert len(held) == len(grid)


def test_the_figure_of_rates_marks_the_presented_one_and_leaves_remedies_out(book, monkeypatch):
    drawn = drawn_by(monkeypatch, "sweep")
    grid = grid_of(
        {},
        swept(1e-4, 0.7),
        {"recipe": "as_presented+flips", "base": "as_presented+flips"},
        swept(1e-2, 0.1, n_train=0.25),
    )
    shown = recipe_sweep.rate_figure(book, grid)
    recipe_sweep.rate_figure(book, grid_of(swept(1e-4, 0.7)))
    (table, options), (_, without) = drawn
    assert table["lr"].tolist() == [1e-3, 1e-4]
    assert (options["x"], options["log"], options["mark"]) == ("lr", True, 1e-3)
    assert without["mark"] is None
    assert "n = 8 validation patches, patients resampled for the 95 % intervals." in shown
    assert (book.study.figures / "92_lr.png").is_file()


def kept_grid(book, *changes):
    """Grid whose numbers stand in the book, each under its run."""
    grid = grid_of(*changes).assign(metric="kappa quadratic", sample="patches", set="val")
    for row in grid.to_dict("records"):
        ids = book.add(pd.DataFrame([row]))
        grid.loc[grid["run"] == row["run"], "id"] = ids["kappa quadratic"]
    return grid


def test_the_best_rate_of_each_network_stands_beside_the_presented_one(book):
    vit = {"network": "vit_tiny", "shown": "ViT-Tiny"}
    grid = kept_grid(
        book,
        {"run": "a", "value": 0.11, "verdict": "answers 0 only"},
        {"run": "b", **swept(1e-4, 0.77)},
        {"run": "c", **swept(1e-5, 0.44)},
        {"run": "d", "value": 0.66, **vit},
        {"run": "e", **swept(1e-4, 0.33, **vit)},
        {"run": "f", **swept(1e-4, 0.9, network="hybrid", shown="Hybrid ViT")},
    )
    shown = texts(recipe_sweep.rate_table(book, grid))
    assert shown[:5] == ["network", "as presented", "collapsed?", "best rate", "kappa there"]
    assert [cell.split(" (")[0] for cell in shown[5:15]] == [
        "ResNet18",
        "0.11",
        "answers 0 only",
        "0.0001",
        "0.77",
        "ViT-Tiny",
        "0.66",
        "no",
        "0.001",
        "0.66",
    ]
    # a network without its presented rate has nothing to be compared with
    assert "Hybrid ViT" not in shown


@pytest.mark.parametrize(
    ("axis", "values", "label", "by"),
    [
        ("n_train", (1.0, 0.25, 0.5), "share of the training patches", "share of the training"),
        ("side_px", (224, 96, 160), "side length in px", "side length under tuned"),
    ],
)
def test_an_axis_is_drawn_under_the_recipe_that_was_run_at_most_of_its_values(
    book, monkeypatch, axis, values, label, by
):
    drawn = drawn_by(monkeypatch, "sweep")
    tuned = {"recipe": "tuned", "base": "tuned"}
    rows = [{}, {}, {axis: values[1]}]
    rows += [{**tuned, axis: value, "value": 0.1 * k} for k, value in enumerate(values)]
    rows.append({**tuned, axis: values[1], "weights": "none"})
    shown = recipe_sweep.axis_figure(book, grid_of(*rows), axis, name="one", label=label)
    (table, options) = drawn[0]
    assert set(table["recipe"]) == {"tuned"}
    assert table[axis].tolist() == list(values)
    assert (options["x"], options["xlabel"]) == (axis, label)
    assert f"Validation kappa (quadratic) by {by}" in shown


def test_each_remedy_stands_alone_on_top_of_the_presented_recipe():
    grid = grid_of(
        {},
        {"recipe": "as_presented+label_smoothing", "base": "as_presented+label_smoothing"},
        {"recipe": "as_presented+flips", "base": "as_presented+flips", "collapsed": True},
        {"recipe": "tuned", "base": "tuned"},
        swept(1e-4, 0.7),
        {"n_train": 0.25},
    )
    rows = recipe_sweep.remedies(grid)
    assert rows["name"].tolist() == ["as presented", "label smoothing", "flips"]
    assert rows["null"].tolist() == [False, False, True]


def test_starting_weights_are_compared_under_the_presented_and_the_tuned_recipe():
    tuned = {"recipe": "tuned", "base": "tuned"}
    grid = grid_of(
        {**tuned, "weights": "none"},
        tuned,
        {"weights": "none", "collapsed": True},
        {},
        {},
        {"recipe": "as_presented+flips", "base": "as_presented+flips"},
        {"weights": "none", "side_px": 96},
    )
    rows = recipe_sweep.starting_weights(grid)
    assert rows["name"].tolist() == [
        "as presented, none",
        "as presented, imagenet",
        "as presented, imagenet",
        "tuned, none",
        "tuned, imagenet",
    ]
    assert rows["null"].tolist() == [True, False, False, False, False]


def test_a_panel_for_each_network_of_several_rows_with_a_line_at_its_first(book, monkeypatch):
    drawn = drawn_by(monkeypatch, "forest")
    vit = {"network": "vit_tiny", "shown": "ViT-Tiny"}
    hybrid = {"network": "hybrid", "shown": "Hybrid ViT"}
    grid = grid_of({"value": 0.3}, {"value": 0.5}, {"value": 0.1, **vit}, vit, hybrid)
    rows = grid.assign(name=list("abcde"), null=False)
    shown = recipe_sweep.forest_by_network(book, rows, name="remedies", title="Each alone")
    assert [table["shown"].iloc[0] for table, _ in drawn] == ["ResNet18", "ViT-Tiny"]
    assert [options["null"] for _, options in drawn] == [0.3, 0.1]
    assert "Each alone; grey: COLLAPSED; n = 8 validation patches" in shown


def test_one_row_of_each_network_makes_one_panel_of_all(book, monkeypatch):
    drawn = drawn_by(monkeypatch, "forest")
    grid = grid_of({"value": 0.3}, {"value": 0.1, "network": "vit_tiny", "shown": "ViT-Tiny"})
    rows = grid.assign(name=list("ab"), null=False)
    recipe_sweep.forest_by_network(book, rows, name="weights", title="Weights")
    assert len(drawn) == 1
    assert len(drawn[0][0]) == 2


def test_the_table_of_runs_says_kappa_swing_and_verdict():
    shown = texts(recipe_sweep.run_table(grid_of({"verdict": "answers 0 only"})))
    assert shown[:10] == [
        "network",
        "recipe",
        "lr",
        "n_train",
        "side_px",
        "weights",
        "seed",
        "kappa",
        "swing",
        "COLLAPSED",
    ]
    assert shown[10:20] == [
        "ResNet18",
        "as_presented",
        "0.001",
        "1",
        "224",
        "imagenet",
        "0",
        "0.5",
        "0.25",
        "answers 0 only",
    ]
