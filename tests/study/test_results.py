"""Finished runs as tables: who is compared with whom, on which patches, and how often looked at."""

import json
import multiprocessing

import numpy as np
import pandas as pd

from her2lib import files
from her2lib.study import config, results


def predictions(run="r", truth=(0, 1, 2, 2)):
    """DataFrame of four training patches of one run, predicted 0, 1+, 2+ and 3+ for certain."""
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
    return rows.assign(**dict(zip(results.PROBABILITIES, np.eye(4).T, strict=True)))


def finished_study(file, text, monkeypatch):
    """Study of this text in an empty project, every run of which says that it is complete."""
    monkeypatch.setattr(files, "REPORTS", file.parent)
    file.write_text(text)
    study = config.load_study(str(file))
    for run in study.runs():
        files.write_json(study.folder_of(run["run"]) / "run.json", {"complete": True})
    return study


def test_contestants_hold_the_two_nulls_and_share_names_over_seeds(tmp_path, monkeypatch):
    text = "[axes]\nseed = [0, 1]\n[[extra_axes]]\nlabel_shuffle = 'shuffled'\n"
    study = finished_study(tmp_path / "s.toml", text, monkeypatch)
    rows = pd.concat([predictions(run["run"]) for run in study.runs()])
    rule = pd.DataFrame({"name": [f"p{i}" for i in range(4)], "predicted": [3, 2, 1, 0]})
    everyone = results.predictions_with_baselines(study, rows, rule)
    assert list(dict.fromkeys(everyone["name"])) == [
        "ResNet18",
        "ResNet18, shuffled scores",
        *results.NULLS,
    ]
    by_name = {evaluation.name: evaluation for evaluation in results.evaluations(everyone)}
    assert len(by_name["ResNet18"].probabilities) == 2
    assert by_name["ResNet18"].subset == "train"
    assert by_name[results.NULLS[0]].probabilities[0].argmax(1).tolist() == [2, 2, 2, 2]
    assert by_name["DAB rule"].probabilities[0].argmax(1).tolist() == [3, 2, 1, 0]
    assert [results.is_null(name) for name in by_name] == [False, True, True, True]


def test_cases_are_the_surest_right_and_wrong_and_their_caption_says_all():
    rows = predictions()
    rows.loc[2, results.PROBABILITIES] = [0.1, 0.1, 0.7, 0.1]
    cases = results.surest_cases(rows, each=1)
    assert cases[["patch", "right"]].to_numpy().tolist() == [["p0", True], ["p3", False]]
    assert results.case_caption(cases.iloc[1]) == "p3\ntrue 2+, predicted 3+, 100 % sure"


def test_a_caption_shortens_a_long_name_and_does_not_invent_a_score():
    row = {**predictions().iloc[0], "patch": "a" * 20 + "b" * 20, "truth": -1}
    assert results.case_caption(row) == f"{'a' * 15}…{'b' * 18}\ntrue ?, predicted 0, 100 % sure"


def test_only_patches_that_no_network_has_seen_are_compared_with_raters(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    study = config.load_study("smoke")
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
    no_predictions = pd.DataFrame({"run": [], "patch": []})
    rated = results.rated_patches(study, table, no_predictions)
    assert rated.patch.tolist() == ["b"]
    assert rated.names == ["consensus", "x", "y"]
    assert rated.ratings.tolist() == [[2, 2, -1]]
    assert rated.of(["x"]).tolist() == [[2]]
    assert rated.tidy()["rater"].tolist() == ["consensus", "x"]
    nobody = results.rated_patches(
        study, table.drop(columns=["rater_x", "rater_y"]), no_predictions
    )
    assert nobody.people == []
    assert len(nobody.patch) == 0


def test_of_a_sweep_the_first_run_of_each_network_is_shown(tmp_path, monkeypatch):
    rates = [f"as_presented@1e-{k}" for k in range(1, 8)]
    for recipes, n_shown in ((rates[:6], 12), (rates, 2)):
        text = (
            f"[axes]\nnetwork = ['resnet18', 'hybrid']\nrecipe = {recipes}\n"
            "[[extra_axes]]\nlabel_shuffle = 'shuffled'\n"
        )
        study = finished_study(tmp_path / "many.toml", text, monkeypatch)
        shown = results.shown_runs(study)
        assert len(shown) == n_shown
        assert not any("shuffled" in run for run in shown.values())
    assert [study.run(run)["recipe"] for run in shown.values()] == [rates[0]] * 2


def test_runs_of_one_split_are_shown_together_and_the_official_one_first(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    file = tmp_path / "three.toml"
    file.write_text("[axes]\nnetwork = ['resnet18']\nsplit = ['random', 'grouped', 'official']\n")
    study = config.load_study(str(file))
    rows = []
    assert results.shown_split(study) == ""
    for row in study.runs():
        files.write_json(study.folder_of(row["run"]) / "run.json", {"complete": True})
        assert results.shown_split(study) == row["split"]
        for subset in ("train", "test"):
            probabilities = dict.fromkeys(results.PROBABILITIES, 0.25)
            prediction = {"run": row["run"], "set": subset, "patch": subset, "truth": 0}
            rows.append({**prediction, **probabilities})
    shown = results.shown_runs(study)
    assert [study.run(run)["split"] for run in shown.values()] == ["official"]
    rule = pd.DataFrame({"name": ["train", "test"], "predicted": [0, 1]})
    everyone = results.predictions_with_baselines(study, pd.DataFrame(rows), rule)
    assert sorted(everyone["name"].unique()) == sorted(["ResNet18, official split", *results.NULLS])


def test_only_finished_runs_have_records_and_tables(tmp_path, monkeypatch):
    text = "[axes]\nseed = [0, 1]\n"
    study = finished_study(tmp_path / "s.toml", text, monkeypatch)
    first, second = (run["run"] for run in study.runs())
    for run in (first, second):
        files.write_table(study.folder_of(run) / "history.csv", pd.DataFrame({"epoch": [0]}))
    files.write_json(study.folder_of(second) / "run.json", {"complete": False})
    assert list(results.run_records(study)) == [first]
    assert results.run_tables(study, "history").to_dict("records") == [{"epoch": 0, "run": first}]
    assert results.run_tables(study, "predictions").empty


def test_a_run_in_a_row_says_that_it_collapsed(tmp_path, monkeypatch):
    study = finished_study(tmp_path / "s.toml", "", monkeypatch)
    run = study.run()["run"]
    record = {"sets": {"test": {"accuracy": 0.25}}, "fluctuation": 0.5, "verdict": "one score"}
    files.write_json(study.folder_of(run) / "run.json", record)
    row = {"run": run, "test accuracy": 0.25, "fluctuation": 0.5, "verdict": "COLLAPSED: one score"}
    assert results.run_row(study, run) == row
    files.write_json(study.folder_of(run) / "run.json", {**record, "verdict": ""})
    assert results.run_row(study, run)["verdict"] == ""


def test_a_second_look_at_the_external_set_is_called_one(tmp_path):
    ledger = tmp_path / "deep" / "ledger.csv"
    assert results.log_look(ledger, run="net", fingerprint="f1", settings={"b": 1, "a": 2})[0] == 1
    # the same look again
    assert results.log_look(ledger, run="net", fingerprint="f1", settings={"a": 2, "b": 1})[0] == 1
    number, sentence = results.log_look(ledger, run="net", fingerprint="f1", settings={"a": 3})
    assert number == 2
    assert sentence.startswith("net: look 2 at the external set (the first on 20")
    assert results.log_look(ledger, run="net", fingerprint="f2", settings={"a": 3})[0] == 3
    assert results.log_look(ledger, run="other", fingerprint="f1") == (
        1,
        "other: first look at the external set.",
    )
    looks = pd.read_csv(ledger)
    assert looks.look.tolist() == [1, 2, 3, 1]
    assert json.loads(looks.settings[0]) == {"a": 2, "b": 1}
    # the lock is held by nobody
    files_beside = sorted(file.name for file in ledger.parent.iterdir())
    assert files_beside == [".ledger.csv.lock", "ledger.csv"]


def _look(ledger, fingerprint):
    results.log_look(ledger, run="net", fingerprint=fingerprint)


def test_looks_from_several_processes_are_all_kept(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_look, [(tmp_path / "ledger.csv", str(i)) for i in range(24)])
    assert sorted(pd.read_csv(tmp_path / "ledger.csv").look) == list(range(1, 25))
