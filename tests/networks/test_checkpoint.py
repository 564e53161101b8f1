"""checkpoint: what is on disk while a training runs and once it is finished, what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from examples_networks import FAST, small, toy

from her2lib.networks import checkpoint, train

CPU = torch.device("cpu")


def row(epoch, **changes):
    return {"epoch": epoch, "val_kappa": 0.5, "seconds": 2.0, "loss_finite": True, **changes}


class TestKeeper:
    def test_what_was_saved_comes_back(self, tmp_path):
        keeper = checkpoint.Keeper(tmp_path, "this training")
        weights = small(seed=1).state_dict()
        state = checkpoint.TrainingState([row(0), row(1)], weights, 1)
        keeper.save(state, {"net": small(seed=2)}, finished=True)
        again = checkpoint.TrainingState()
        net = small(seed=3)
        note = keeper.restore(again, {"net": net}, CPU)
        assert note == "taken up again after epoch 1"
        assert (again.rows, again.kept_epoch) == (state.rows, 1)
        assert all(torch.equal(again.weights[name], value) for name, value in weights.items())
        saved = small(seed=2).state_dict()
        assert all(torch.equal(saved[name], value) for name, value in net.state_dict().items())
        assert [path.name for path in tmp_path.iterdir()] == [checkpoint.CHECKPOINT]

    def test_a_checkpoint_of_another_training_is_refused_in_a_sentence(self, tmp_path):
        state = checkpoint.TrainingState([row(0)], {}, 0)
        checkpoint.Keeper(tmp_path, "one").save(state, {}, finished=True)
        with pytest.raises(ValueError, match=r"belongs to another training .*delete it"):
            checkpoint.Keeper(tmp_path, "another").restore(checkpoint.TrainingState(), {}, CPU)

    def test_only_a_finished_training_is_saved_before_the_time(self, tmp_path):
        keeper = checkpoint.Keeper(tmp_path, "")
        keeper.save(checkpoint.TrainingState(), {}, finished=False)
        assert not list(tmp_path.iterdir())
        keeper.saved_at -= checkpoint.EVERY_SECONDS + 1
        keeper.save(checkpoint.TrainingState(), {}, finished=False)
        assert [path.name for path in tmp_path.iterdir()] == [checkpoint.CHECKPOINT]

    def test_without_a_folder_nothing_is_written_and_nothing_read(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        keeper = checkpoint.Keeper(None, "")
        state = checkpoint.TrainingState([row(0)], {}, 0)
        keeper.save(state, {}, finished=True)
        keeper.write_progress(state.rows, 3)
        assert keeper.restore(checkpoint.TrainingState(), {}, CPU) == ""
        assert not list(tmp_path.iterdir())

    def test_whoever_watches_is_told_epoch_kappa_and_time_left(self, tmp_path):
        fit = train.fit(small(), toy(8), toy(8), seed=0, epochs=2, folder=tmp_path, **FAST)
        progress = json.loads((tmp_path / checkpoint.PROGRESS).read_text())
        kappa = fit.history["val_kappa"].iloc[-1]
        assert progress == {
            "epoch": 2,
            "epochs": 2,
            "kappa": None if np.isnan(kappa) else round(kappa, 4),
            "seconds_left": 0.0,
        }

    def test_the_time_left_is_that_of_the_epochs_so_far(self, tmp_path):
        keeper = checkpoint.Keeper(tmp_path, "")
        rows = [row(0, seconds=100.0, val_kappa=float("nan"))]
        keeper.write_progress(rows, 5)
        progress = json.loads((tmp_path / checkpoint.PROGRESS).read_text())
        assert progress == {"epoch": 0, "epochs": 5, "kappa": None, "seconds_left": None}
        keeper.write_progress([*rows, row(1), row(2, seconds=4.0)], 5)
        progress = json.loads((tmp_path / checkpoint.PROGRESS).read_text())
        assert progress == {"epoch": 2, "epochs": 5, "kappa": 0.5, "seconds_left": 9.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    val = toy(8, seed=1)
    fit = train.fit(small(), toy(8), val, seed=0, epochs=1, folder=folder, dropout=0.1, **FAST)
    rows = train.prediction_table(train.predict(fit.net, val.images), val, run="a", subset="val")
    checkpoint.save_run(
        folder,
        net=fit.net,
        fit=fit,
        predictions=rows,
        parameters={"seed": np.int64(0), "label_shuffle": "none"},
        fingerprints={"data": "x"},
    )
    return folder, fit, val


def says_always_2(val):
    """Predictions of a network that answers 2+ whatever it sees."""
    probabilities = np.tile([0, 0, 1, 0], (len(val.score), 1)).astype(np.float32)
    return train.prediction_table(probabilities, val, run="a", subset="val")


class TestRuns:
    def test_a_run_comes_back_and_predicts_the_same(self, run):
        folder, fit, val = run
        net, record = checkpoint.load_run(folder)
        assert np.array_equal(train.predict(net, val.images), train.predict(fit.net, val.images))
        assert record["complete"] is True
        assert record["parameters"] == {"seed": 0, "label_shuffle": "none"}
        assert record["recipe"] == fit.recipe
        assert record["sets"]["val"]["accuracy"] == fit.history["val_accuracy"].iloc[-1]
        wanted = {
            "versions",
            "device",
            "precision",
            "seconds",
            "verdict",
            "fingerprints",
            "kept_epoch",
        }
        assert wanted <= record.keys()

    def test_the_folder_holds_what_the_house_says_and_no_more(self, run):
        folder, fit, _ = run
        names = {path.name for path in folder.iterdir()}
        assert names == {"history.csv", "model.safetensors", "predictions.csv", "run.json"}
        rows = pd.read_csv(folder / "predictions.csv", keep_default_na=False)
        columns = "run,set,patch,slide,patient,truth,p0,p1,p2,p3"
        assert list(rows.columns) == columns.split(",")
        assert np.allclose(rows.filter(regex="^p[0-3]$").sum(axis=1), 1, atol=1e-5)
        history = pd.read_csv(folder / "history.csv", keep_default_na=False)
        pd.testing.assert_frame_equal(history, fit.history)

    def test_an_unfinished_folder_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="holds no finished run"):
            checkpoint.load_run(tmp_path)

    def test_run_json_has_no_nan_and_a_collapse_is_said(self, run, tmp_path):
        _, fit, val = run
        checkpoint.save_run(
            tmp_path,
            net=fit.net,
            fit=fit,
            predictions=says_always_2(val),
            parameters={"x": float("nan")},
        )
        text = (tmp_path / "run.json").read_text()
        record = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
        assert record["verdict"] == "answers 2+ only (val)"
        assert record["parameters"] == {"x": None}

    def test_a_broken_loss_is_the_verdict_before_any_other(self, run):
        _, fit, val = run
        history = fit.history.assign(loss_finite=[True, False])
        findings = checkpoint._findings(history, says_always_2(val))
        assert findings["verdict"] == "loss not finite in epoch 1"
        external = says_always_2(val).assign(set="external")
        assert checkpoint._findings(fit.history, external)["verdict"] == ""
