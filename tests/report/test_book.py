"""What notebooks hand to the report: numbers keep their ids, text is text, nulls stand beside networks."""

import numpy as np
import pandas as pd
import pytest

from her2lib import files
from her2lib.report import book
from her2lib.stats.intervals import Estimate
from her2lib.study import config, results

NASTY = "<img src=x onerror=alert(1)>_3+.png"
HALF = Estimate(0.5, 0.4, 0.6, 20, "patches of 4 slides", as_percent=True)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    return config.load_study("smoke")


def predictions(run="r", truth=(0, 1, 2, 2)):
    rows = pd.DataFrame(
        {
            "run": run,
            "set": "train",
            "patch": [f"p{i}" for i in range(4)],
            "slide": "s",
            "patient": "",
            "truth": truth,
        }
    )
    return rows.assign(**dict(zip(results.PROBABILITIES, np.eye(4)[[0, 1, 2, 3]].T, strict=True)))


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


def test_contestants_hold_the_two_nulls_and_share_names_over_seeds(tmp_path, monkeypatch):
    file = tmp_path / "s.toml"
    file.write_text("[axes]\nseed = [0, 1]\n[[also]]\ntwin = 'shuffled'\n")
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    loaded = config.load_study(file)
    runs = [run["run"] for run in loaded.runs()]
    for run in runs:
        files.write_json(loaded.folder_of(run) / "run.json", {"complete": True})
    rows = pd.concat([predictions(run) for run in runs])
    rule = pd.DataFrame({"name": [f"p{i}" for i in range(4)], "predicted": [3, 2, 1, 0]})
    everyone = results.predictions_with_baselines(loaded, rows, rule)
    assert list(dict.fromkeys(everyone["name"])) == [
        "ResNet18",
        "ResNet18, shuffled scores",
        *results.NULLS,
    ]
    found = {side.name: side for side in results.evaluations(everyone)}
    assert len(found["ResNet18"].given) == 2
    assert found[results.NULLS[0]].given[0].argmax(1).tolist() == [2, 2, 2, 2]
    assert found["DAB rule"].given[0].argmax(1).tolist() == [3, 2, 1, 0]
    assert [results.is_null(name) for name in found] == [False, True, True, True]


def test_cases_are_the_surest_right_and_wrong_and_their_caption_says_all():
    rows = predictions()
    rows.loc[2, results.PROBABILITIES] = [0.1, 0.1, 0.7, 0.1]
    found = results.surest_cases(rows, each=1)
    assert found[["patch", "right"]].to_numpy().tolist() == [["p0", True], ["p3", False]]
    assert results.case_caption(found.iloc[1]) == "p3\ntrue 2+, predicted 3+, 100 % sure"


def test_only_patches_that_no_network_has_seen_are_compared_with_raters(small):
    table = pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "set": ["train", "test", "external"],
            "score": [1, 2, 3],
            "slide": ["s", "t", "u"],
            "patient": "",
            "rater_x": [1, 2, -1],
            "rater_y": [1, -1, -1],
        }
    )
    found = results.rated_patches(small, table, pd.DataFrame({"run": [], "patch": []}))
    assert found.patch.tolist() == ["b"]
    assert found.names == ["consensus", "x", "y"]
    assert found.ratings.tolist() == [[2, 2, -1]]
    assert found.tidy()["rater"].tolist() == ["consensus", "x"]
    nobody = results.rated_patches(
        small, table.drop(columns=["rater_x", "rater_y"]), pd.DataFrame({"run": [], "patch": []})
    )
    assert nobody.people == []
    assert len(nobody.patch) == 0


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


def test_of_a_sweep_the_first_run_of_each_network_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    file = tmp_path / "many.toml"
    rates = [f"as_presented@1e-{k}" for k in range(1, 8)]
    for recipes, shown in ((rates[:6], 12), (rates, 2)):
        file.write_text(
            f"[axes]\nnetwork = ['resnet18', 'hybrid']\nrecipe = {recipes}\n[[also]]\ntwin = 'shuffled'\n"
        )
        loaded = config.load_study(str(file))
        for run in loaded.runs():
            files.write_json(loaded.folder_of(run["run"]) / "run.json", {"complete": True})
        found = results.shown_runs(loaded)
        assert len(found) == shown
        assert not any("shuffled" in run for run in found.values())
    assert [config.load_study(str(file)).run(run)["recipe"] for run in found.values()] == [
        rates[0]
    ] * 2


def test_runs_of_one_split_are_shown_together_and_the_official_one_first(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    file = tmp_path / "three.toml"
    file.write_text("[axes]\nnetwork = ['resnet18']\nsplit = ['random', 'grouped', 'official']\n")
    loaded, rows = config.load_study(str(file)), []
    assert results.shown_split(loaded) == ""
    for run, split in ((run["run"], run["split"]) for run in loaded.runs()):
        files.write_json(loaded.folder_of(run) / "run.json", {"complete": True})
        assert (
            results.shown_split(loaded)
            == {"random": "random", "grouped": "grouped", "official": "official"}[split]
        )
        rows += [
            {
                "run": run,
                "set": set_,
                "patch": set_,
                "truth": 0,
                **dict.fromkeys(results.PROBABILITIES, 0.25),
            }
            for set_ in ("train", "test")
        ]
    assert [loaded.run(run)["split"] for run in results.shown_runs(loaded).values()] == ["official"]
    rule = pd.DataFrame({"name": ["train", "test"], "predicted": [0, 1]})
    found = results.predictions_with_baselines(loaded, pd.DataFrame(rows), rule)
    assert sorted(found["name"].unique()) == sorted(["ResNet18, official split", *results.NULLS])
