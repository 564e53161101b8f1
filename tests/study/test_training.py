"""One run of a study: the patches it learns from, training, what it leaves in its folder."""

import numpy as np
import pandas as pd
import pytest
from examples import picture

from her2lib import files
from her2lib.networks import checkpoint
from her2lib.study import config, results
from her2lib.study.training import open_run

SHUFFLED = "resnet18-as_presented-none-32px-n50-s0-shuffled"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Study of 40 patches on 10 slides: resnet18 on all of them, and on half with other scores."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    rows = ["path,score,slide,set"]
    for i in range(40):
        picture(tmp_path / f"p{i}.png", i)
        subset = "train"
        if i >= 32:
            subset = "test"
        rows.append(f"p{i}.png,{i % 4},slide{i // 4},{subset}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    tables = {
        "data": {"source": str(tmp_path / "manifest.csv")},
        "axes": {"weights": "none", "side_px": 32},
        "extra_axes": [{"n_train": 0.5, "label_shuffle": "shuffled"}],
        "train": {"epochs": 1},
    }
    return config.check_study(tables, tmp_path / "mine.toml")


def test_a_run_is_opened_by_name_or_as_the_first_of_its_network(study):
    first = open_run(study, networks=["densenet201", "resnet18"])
    assert first.name == study.run()["run"]
    assert first.folder == study.folder_of(first.name)
    assert open_run(study, SHUFFLED, networks=["resnet18"]).axes["label_shuffle"] == "shuffled"
    with pytest.raises(config.StudyError, match="no run of hybrid"):
        open_run(study, networks=["hybrid"])


def test_only_the_training_patches_are_fewer_and_shuffled(study):
    whole = open_run(study, networks=["resnet18"]).data()
    half = open_run(study, SHUFFLED, networks=["resnet18"]).data()
    assert len(half.train) < len(whole.train)
    assert len(whole.train) + len(whole.val) == 32
    assert set(half.train.name) <= set(whole.train.name)
    truth = whole.cohort.table.set_index("name")["score"]
    assert not np.array_equal(half.train.score, truth[half.train.name])
    assert sorted(half.train.score) == sorted(truth[half.train.name])
    for subset in ("val", "test", "external"):
        assert list(whole.subsets[subset].name) == list(half.subsets[subset].name)
    summary = whole.summary()
    assert summary.loc["test"].tolist() == [8, 0.25]
    assert summary.loc["external"].tolist() == [0, 0]


def test_training_scores_every_set_once_and_leaves_a_finished_run(study):
    run = open_run(study, networks=["resnet18"])
    data = run.data()
    assert run.shape_table(data)["shape"].to_dict() == {
        "patch": "3 x 32 x 32",
        "features": "512 x 1 x 1",
        "embedding": "512",
        "scores": "4",
        "parameters": "11.2 million",
    }
    finished = run.train(data)
    assert finished.before.shape == (8, 4)
    assert results.is_finished(study, run.name)
    assert finished.record == results.run_record(study, run.name)
    assert set(finished.record["fingerprints"]) == {"data", "code"}
    assert list(finished.predictions["set"].unique()) == ["val", "test", "train"]
    assert len(finished.predictions) == 40
    saved = pd.read_csv(run.folder / "predictions.csv", keep_default_na=False)
    columns = results.PROBABILITIES
    np.testing.assert_allclose(saved[columns], finished.predictions[columns], rtol=1e-6)


def test_what_the_notebook_shows_of_a_finished_run(study):
    run = open_run(study, networks=["resnet18"])
    data = run.data()
    finished = run.train(data)
    accuracy = finished.accuracy_table()
    untrained_hits = finished.before.argmax(1) == data.test.score
    assert accuracy.loc["test", "before training"] == untrained_hits.mean()
    assert accuracy["before training"].isna().tolist() == [True, False, True, True]
    assert accuracy.loc["test", "after training"] == finished.record["sets"]["test"]["accuracy"]
    assert finished.recipe_table().loc["epochs", "recipe"] == 1

    cases = finished.cases()
    assert set(cases["patch"]) <= set(data.test.name)
    for path, name in zip(cases["path"], cases["patch"], strict=True):
        assert path.endswith(name)
    assert cases["caption"].str.contains("% sure").all()
    assert results.runs_of_network(study, "resnet18")["run"].tolist() == [run.name]


def test_a_second_training_of_the_same_run_takes_the_network_that_is_there(study):
    first = open_run(study, networks=["resnet18"])
    before = first.train(first.data())
    again = open_run(study, networks=["resnet18"])
    after = again.train(again.data())
    assert any("not trained again" in note for note in after.fit.notes)
    assert after.predictions.equals(before.predictions)
    net, _ = checkpoint.load_run(again.folder)
    assert net.network == "resnet18"


def test_a_run_of_a_study_of_three_scores_answers_these_alone(study, monkeypatch):
    monkeypatch.setitem(study.data, "scores", ["1+", "2+", "3+"])
    run = open_run(study, networks=["resnet18"])
    data = run.data()
    assert run.shape_table(data).loc["scores", "shape"] == (
        "4, of which this study asks for 1+, 2+, 3+"
    )
    finished = run.train(data)
    assert finished.record["scores"] == ["1+", "2+", "3+"]
    for probabilities in (finished.before, finished.predictions[results.PROBABILITIES].to_numpy()):
        assert (probabilities[:, 0] == 0).all()
        assert probabilities.sum(1) == pytest.approx(1, abs=1e-6)
    # what an older run wrote of all four is read as shares of these
    file = run.folder / "predictions.csv"
    table = pd.read_csv(file, keep_default_na=False)
    table[results.PROBABILITIES] = [0.5, 0.1, 0.3, 0.1]
    table.to_csv(file, index=False)
    read = results.run_tables(study, "predictions")
    assert read[results.PROBABILITIES].iloc[0].tolist() == pytest.approx([0, 0.2, 0.6, 0.2])
