"""train: the loop, resuming after kill -9, and predictions that refuse what is no patch."""

import multiprocessing
import os
import random
import signal
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from examples_networks import FAST, SECONDS, small, toy

from her2lib.data.patches import Patches
from her2lib.networks import checkpoint, collapse, models, recipes, train


class TestFit:
    def test_the_same_seed_repeats_and_another_differs(self):
        torch_state = torch.random.get_rng_state()
        numpy_state = np.random.get_state()[1].copy()
        net = small()
        patches = toy()
        weights = {name: value.clone() for name, value in net.state_dict().items()}
        settings = recipes.recipe("tuned", network="resnet18", epochs=2, batch=8)
        first, again, other = (
            train.fit(net, patches, toy(8, seed=1), seed=seed, **settings, **FAST)
            for seed in (1, 1, 2)
        )
        probabilities = [train.predict(fit.net, patches.images) for fit in (first, again, other)]
        assert np.array_equal(probabilities[0], probabilities[1])
        assert not np.array_equal(probabilities[0], probabilities[2])
        pd.testing.assert_frame_equal(
            first.history.drop(columns=SECONDS), again.history.drop(columns=SECONDS)
        )
        # The net that was given is left alone.
        after = net.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in after.items())
        assert torch.equal(torch.random.get_rng_state(), torch_state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)

    def test_history_begins_before_training_and_agrees_with_predict(self):
        net = small()
        val = toy(8, seed=1)
        fit = train.fit(net, toy(), val, seed=0, epochs=2, batch=8, **FAST)
        assert list(fit.history["epoch"]) == [0, 1, 2]
        for row, trained in ((0, net), (2, fit.net)):
            probabilities = train.predict(trained, val.images)
            accuracy = np.mean(probabilities.argmax(1) == val.score)
            loss = -np.log(probabilities[np.arange(8), val.score]).mean()
            assert fit.history["val_accuracy"][row] == accuracy
            assert fit.history["val_loss"][row] == pytest.approx(loss, rel=1e-4)
        assert fit.history["verdict"][0] == ""
        assert fit.history["loss_finite"].dtype == bool
        assert fit.history["loss_finite"].all()
        assert fit.kept_epoch == 2

    def test_of_fewer_scores_only_these_are_answers_and_the_weights_are_the_same(self):
        val = toy(8, seed=1)
        options = {"seed": 0, "epochs": 1, "batch": 8, **FAST}
        net = small()
        plain = train.fit(net, toy(), val, **options)
        fit = train.fit(net, toy(), val, scores=(1, 2, 3), **options)
        for row, trained in ((0, net), (1, fit.net)):
            predicted = 1 + train.predict(trained, val.images)[:, 1:].argmax(1)
            assert fit.history["val_accuracy"][row] == np.mean(predicted == val.score)
        assert fit.history["val_loss"].tolist() == plain.history["val_loss"].tolist()
        weights = zip(fit.net.parameters(), plain.net.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights)

    def test_best_keeps_the_epoch_with_the_best_kappa_and_patience_stops(self):
        val = toy(8, seed=1)
        settings = {"epochs": 30, "batch": 8, "keep": "best", "patience": 2}
        fit = train.fit(small(), toy(), val, seed=0, **settings, **FAST)
        kappas = fit.history["val_kappa"][1:]
        assert fit.kept_epoch == kappas.idxmax()
        assert len(kappas) == fit.kept_epoch + 2
        predicted = train.predict(fit.net, val.images).argmax(1)
        assert fit.history["val_accuracy"][fit.kept_epoch] == np.mean(predicted == val.score)

    def test_without_validation_the_empty_columns_are_explained(self):
        fit = train.fit(small(), toy(8), seed=0, epochs=1, batch=8, **FAST)
        assert fit.history["val_loss"].isna().all()
        assert any("no validation" in note for note in fit.notes)

    def test_tensorboard_gets_every_number(self, tmp_path):
        train.fit(small(), toy(8), toy(8), seed=0, epochs=1, batch=8, tensorboard=tmp_path, **FAST)
        assert next(tmp_path.iterdir()).stat().st_size > 200

    @pytest.mark.parametrize(
        ("network", "lr"),
        [
            ("vit_tiny", 3e-4),
            pytest.param("resnet18", 3e-4, marks=pytest.mark.slow),
            pytest.param("densenet201", 3e-4, marks=pytest.mark.slow),
            pytest.param("hybrid", 3e-4, marks=pytest.mark.slow),
            pytest.param("vit_b16", 1e-4, marks=pytest.mark.slow),
        ],
    )
    def test_every_network_learns_eight_patches_by_heart(self, network, lr, monkeypatch):
        # The whole networks; running batch-norm means need 30 steps to follow.
        monkeypatch.setattr("examples_networks.THIN", {})
        patches = toy(8)
        # Nothing to understand, only to remember.
        score = np.random.default_rng(0).permutation(patches.score)
        patches = Patches(**{**vars(patches), "score": score})
        settings = {"epochs": 45, "batch": 8, "lr": lr, "keep": "best"}
        fit = train.fit(small(network), patches, patches, seed=0, **settings, **FAST)
        assert np.array_equal(train.predict(fit.net, patches.images).argmax(1), patches.score)

    @pytest.mark.parametrize("network", ["resnet18", "vit_tiny"])
    def test_a_rate_of_one_is_collapsed_and_not_a_crash(self, network):
        val = toy(8, seed=1)
        fit = train.fit(small(network), toy(), val, seed=0, epochs=3, batch=8, lr=1.0, **FAST)
        probabilities = train.predict(fit.net, val.images)
        assert fit.history["verdict"].iloc[-1]
        assert np.isfinite(probabilities).all()

    def test_a_loss_that_breaks_ends_the_run_with_the_last_sound_weights(self, monkeypatch):
        broken = lambda *args: lambda logits, soft_labels: logits.sum() * float("nan")  # noqa: E731
        monkeypatch.setattr(recipes, "criterion", broken)
        net = small()
        val = toy(8, seed=1)
        fit = train.fit(net, toy(), val, seed=0, epochs=3, batch=8, **FAST)
        assert list(fit.history["verdict"]) == ["", "loss not finite"]
        assert list(fit.history["loss_finite"]) == [True, False]
        assert collapse.loss_problem(fit.history) == "loss not finite in epoch 1"
        assert np.array_equal(train.predict(fit.net, val.images), train.predict(net, val.images))


class TestDoor:
    def test_a_recipe_may_be_named_and_the_seed_is_0(self, tmp_path):
        changes = {"epochs": 1, "batch": 8}
        named = train.fit(
            small(), toy(8), recipe="tuned+dropout@1e-4", folder=tmp_path, **changes, **FAST
        )
        settings = recipes.recipe("tuned+dropout@1e-4", network="resnet18", **changes)
        assert named.recipe == settings
        assert named.seed == 0
        spelt_out = train.fit(small(), toy(8), seed=0, folder=tmp_path, **settings, **FAST)
        assert "epoch 1" in spelt_out.notes[-1], "the same training, so nothing is left to do"

    def test_without_a_name_the_settings_are_the_defaults_and_what_is_said(self):
        fit = train.fit(small(), toy(8), epochs=1, **FAST)
        assert fit.recipe == recipes.DEFAULTS | {"epochs": 1}

    @pytest.mark.parametrize(
        ("network", "changes", "sentence"),
        [
            ("resnet18", {"lrr": 1}, "'lrr' is not a key of a recipe. Did you mean 'lr'"),
            ("densenet201", {"drop_path": 0.1}, "densenet201 has no drop path"),
            ("resnet18", {"recipe": "tunned"}, "Did you mean 'tuned'"),
            ("resnet18", {"recipe": {"lr": 1e-3}}, "recipe= takes a name"),
        ],
    )
    def test_a_misspelt_word_is_an_error(self, network, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            train.fit(small(network), toy(), seed=0, **changes, **FAST)

    def test_a_patch_without_a_score_is_refused(self):
        patches = toy(8)
        patches.score[3] = -1
        with pytest.raises(ValueError, match="1 of 8 patches have no score"):
            train.fit(small(), patches, seed=0, **FAST)

    @pytest.mark.parametrize("subset", ["train", "val"])
    def test_patches_of_another_side_are_not_trained_on(self, subset):
        patches = {"train": toy(8), "val": toy(8)} | {subset: toy(8, side_px=64)}
        with pytest.raises(ValueError, match="side_px=32 and these images are 64 x 64 px"):
            train.fit(small(), patches["train"], patches["val"], **FAST)

    def test_the_door_of_the_house_calls_it_train(self):
        assert train.train is train.fit


class TestPredict:
    def test_patches_tensors_and_arrays_are_answered_alike(self):
        net = small()
        patches = toy(8)
        probabilities = train.predict(net, patches.images)
        assert probabilities.shape == (8, 4)
        assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
        for images in (
            patches,
            patches.images.numpy(),
            SimpleNamespace(images=patches.images),
            SimpleNamespace(images=patches.images.numpy()),
        ):
            assert np.array_equal(train.predict(net, images), probabilities)

    def test_a_network_in_training_goes_back_to_it(self):
        net = small().train()
        train.predict(net, toy(4))
        assert net.training

    def test_no_patches_give_no_probabilities(self):
        assert train.predict(small(), toy().images[:0]).shape == (0, 4)

    def test_what_is_normalised_already_is_refused(self):
        net = small()
        images = toy(4).images
        for wrong in (models.normalise(images, net), images.float().numpy(), list(images)):
            with pytest.raises(ValueError, match="predict normalises them itself") as caught:
                train.predict(net, wrong)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("network", ["resnet18", "vit_tiny"])
    def test_patches_of_another_side_are_refused_with_both_sides(self, network):
        net = small(network)
        with pytest.raises(ValueError, match="side_px=32 and these images are 64 x 64 px"):
            train.predict(net, toy(4, side_px=64))
        with pytest.raises(ValueError, match="32 x 16 px"):
            train.predict(net, toy(4).images[..., :16])


def _train_in(folder, file):
    """What the process that is killed does: the same call every time."""
    torch.set_num_threads(1)
    checkpoint.EVERY_SECONDS = 0
    settings = recipes.recipe("tuned", network="resnet18", epochs=8, batch=4)
    fit = train.fit(small(), toy(), toy(8, seed=1), seed=3, folder=folder, **settings, **FAST)
    fit.history.to_pickle(folder / "history.pkl")
    np.save(file, train.predict(fit.net, toy().images))


def _start_training(folder):
    """A process that trains in folder, and that can be killed without harm to this one."""
    # With a forkserver torch is imported once, and each process is a real one to kill.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["her2lib.networks.train"])
    folder.mkdir(exist_ok=True)
    process = context.Process(target=_train_in, args=(folder, folder.with_suffix(".npy")))
    process.start()
    return process


def _modified(file):
    return file.stat().st_mtime_ns if file.exists() else None


class TestResume:
    def test_three_kills_change_nothing(self, tmp_path):
        whole = tmp_path / "whole"
        killed = tmp_path / "killed"
        _start_training(whole).join()
        history = pd.read_pickle(whole / "history.pkl")
        kills = 0
        for _ in range(3):
            process = _start_training(killed)
            file = killed / checkpoint.CHECKPOINT
            before = _modified(file)
            # Until one more epoch is written,
            while process.is_alive() and _modified(file) in (None, before):
                time.sleep(0.005)
            # then at any moment of the two that follow.
            time.sleep(random.uniform(0, 2) * history["seconds"][1:].mean())
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        assert kills == 3
        assert not (tmp_path / "killed.npy").exists()
        _start_training(killed).join()
        resumed = pd.read_pickle(killed / "history.pkl")
        pd.testing.assert_frame_equal(
            resumed.drop(columns=SECONDS), history.drop(columns=SECONDS), check_exact=True
        )
        assert np.array_equal(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "whole.npy"))

    def test_a_finished_training_is_not_trained_again(self, tmp_path, monkeypatch):
        first = train.fit(small(), toy(8), toy(8), seed=0, epochs=1, folder=tmp_path, **FAST)
        monkeypatch.setattr(train._Training, "run_epoch", None)
        again = train.fit(small(), toy(8), toy(8), seed=0, epochs=1, folder=tmp_path, **FAST)
        images = toy(8).images
        assert np.array_equal(train.predict(first.net, images), train.predict(again.net, images))

    @pytest.mark.parametrize(
        "change",
        [{"seed": 1}, {"lr": 0.5}, {"train_patches": toy(8, seed=5)}, {"net": small(seed=1)}],
    )
    def test_a_checkpoint_of_another_training_is_refused(self, tmp_path, change):
        call = {"net": small(), "train_patches": toy(8), "seed": 0, "lr": 1e-3}
        call |= {"epochs": 1, "folder": tmp_path, **FAST}
        train.fit(**call)
        with pytest.raises(ValueError, match="belongs to another training"):
            train.fit(**{**call, **change})

    def test_a_saved_training_is_taken_as_it_is_and_another_is_trained(self, tmp_path, monkeypatch):
        def trained(seed=0):
            call = {"seed": seed, "epochs": 1, "folder": tmp_path, **FAST}
            return train.fit(small(), toy(8), toy(8), **call)

        first = trained()
        probabilities = train.predict(first.net, toy(8).images)
        rows = train.prediction_table(probabilities, toy(8), run="a", subset="val")
        checkpoint.save_run(tmp_path, net=first.net, fit=first, predictions=rows, parameters={})
        assert not (tmp_path / checkpoint.CHECKPOINT).exists()
        other = trained(seed=1)
        assert "not trained again" not in " ".join(other.notes)
        (tmp_path / checkpoint.CHECKPOINT).unlink()
        monkeypatch.setattr(train._Training, "run_epoch", None)
        again = trained()
        pd.testing.assert_frame_equal(again.history, first.history, check_exact=True)
        assert np.array_equal(train.predict(again.net, toy(8).images), probabilities)
        assert again.kept_epoch == first.kept_epoch
        assert "not trained again" in " ".join(again.notes)


def test_shuffled_labels_are_the_same_scores_in_another_order():
    patches = toy(24)
    shuffled = train.shuffle_labels(patches, seed=0)
    assert sorted(shuffled.score) == sorted(patches.score)
    assert not np.array_equal(shuffled.score, patches.score)
    assert shuffled.images is patches.images
    assert np.array_equal(shuffled.score, train.shuffle_labels(patches, seed=0).score)
