"""train: recipes, the loop, resuming after kill -9, verdicts, and runs that come back from disk."""

import json
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from her2lib.data.patches import Patches
from her2lib.networks import augment, checkpoint, collapse, models, recipes, train

FAST = dict(progress=False, device="cpu")
SECONDS = ["seconds", "train_seconds"]


def toy(n=24, side_px=32, seed=0):
    """Patches whose score is how brown they are, under noise."""
    score = np.arange(n) % 4
    noise = torch.randint(
        -30, 30, (n, 3, side_px, side_px), generator=torch.Generator().manual_seed(seed)
    )
    brown = torch.tensor([[230, 200, 180], [210, 170, 130], [180, 130, 90], [120, 70, 40]])[
        torch.as_tensor(score)
    ]
    images = (brown[:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    name, slide = (
        np.array([f"{word}{i // size}" for i in range(n)], object)
        for word, size in (("patch", 1), ("slide", 4))
    )
    return Patches(
        images=images,
        score=score,
        slide=slide,
        patient=np.full(n, "", object),
        name=name,
        mpp=np.full(n, 0.5),
    )


THIN = dict(
    resnet18=dict(channels=(16, 24, 32, 48)), vit_tiny=dict(embed_dim=96, depth=4)
)  # a tenth of the work


def small(network="resnet18", seed=0, **options):
    return models.create(
        network, side_px=32, weights="none", seed=seed, **{**THIN.get(network, {}), **options}
    )


class TestRecipes:
    def test_as_presented_is_the_study_to_the_letter(self):
        for network in ("resnet18", "densenet201"):
            said = recipes.recipe("as_presented", network=network)
            assert [said[k] for k in ("optimizer", "lr", "batch", "loss", "epochs")] == [
                "adamw",
                1e-3,
                32,
                "cross_entropy",
                20,
            ]
            assert not any(
                said[k]
                for k in (
                    "flips",
                    "stain",
                    "mixup",
                    "ema",
                    "clip",
                    "smoothing",
                    "dropout",
                    "score_weights",
                )
            )
        said = recipes.recipe("as_presented", network="vit_b16")
        assert [said[k] for k in ("optimizer", "lr", "batch", "schedule")] == [
            "adam",
            1e-3,
            32,
            "cosine",
        ]

    @pytest.mark.parametrize("name", recipes.RECIPES)
    @pytest.mark.parametrize("network", models.BACKBONES)
    def test_every_recipe_fits_every_network(self, name, network):
        settings = recipes.recipe(name, network=network, epochs=3)
        assert settings.keys() == recipes.DEFAULTS.keys()
        assert settings["epochs"] == 3
        assert settings["drop_path"] == 0 or network != "densenet201"

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (lambda: recipes.recipe("tunned", network="resnet18"), "Did you mean 'tuned'"),
            (lambda: recipes.recipe("tuned", network="resnet81"), "Did you mean 'resnet18'"),
            (
                lambda: recipes.recipe("tuned", network="resnet18", epoch=3),
                "'epoch' is not a key.*Did you mean 'epochs'",
            ),
            (
                lambda: recipes.recipe("tuned", network="resnet18", optimizer="adamww"),
                "Did you mean 'adamw'",
            ),
            (
                lambda: train.fit(small(), toy(), seed=0, lrr=1, **FAST),
                "'lrr' is not a key of a recipe. Did you mean 'lr'",
            ),
            (
                lambda: train.fit(small("densenet201"), toy(), seed=0, drop_path=0.1, **FAST),
                "densenet201 has no drop path",
            ),
        ],
    )
    def test_a_misspelt_word_is_an_error(self, wrong, words):
        with pytest.raises(ValueError, match=words):
            wrong()

    def test_a_name_may_carry_remedies_and_a_rate_which_win_over_the_study(self):
        plain = recipes.recipe("as_presented", network="resnet18")
        found = recipes.recipe(
            "as_presented+dropout+schedule@1e-5", network="resnet18", lr=0.5, epochs=3
        )
        changed = {key: value for key, value in found.items() if value != plain[key]}
        assert changed == {
            "dropout": 0.2,
            "schedule": "cosine",
            "warmup": 0.1,
            "lr": 1e-5,
            "epochs": 3,
        }
        for wrong, words in {
            "as_presented+dropuot": "dropout",
            "as_presented@fast": "is a number",
            "tund@1e-3": "tuned",
        }.items():
            with pytest.raises(ValueError, match=words):
                recipes.recipe(wrong, network="resnet18")

    @pytest.mark.parametrize(
        "network", ["resnet18", "densenet201", "hybrid", "vit_tiny"]
    )  # vit_b16 has the depth of vit_tiny
    def test_tuned_leaves_no_layer_without_a_rate(self, network):
        settings = recipes.recipe("tuned", network=network)
        optimizer, _ = recipes.optimizer(
            models.create(network, side_px=32, weights="none"), settings, 5
        )
        scales = [group["lr_scale"] for group in optimizer.param_groups]
        assert 0.005 < min(scales) < max(scales) == 1.0

    def test_layers_learn_slower_the_deeper_they_lie_and_the_rate_warms_up_and_falls(self):
        settings = recipes.complete_recipe(
            dict(lr=1.0, layer_decay=0.5, schedule="cosine", warmup=0.5, epochs=2)
        )
        optimizer, schedule = recipes.optimizer(small("vit_tiny"), settings, 5)
        assert {g["lr_scale"] for g in optimizer.param_groups} == {
            0.5**k for k in range(6)
        }  # 4 blocks, stem and head
        rates = []
        for update in range(1, 11):
            schedule.step_update(update)
            rates.append(max(group["lr"] for group in optimizer.param_groups))
        assert rates[:6] == pytest.approx(
            [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, (1 + np.cos(np.pi * 6 / 11)) / 2]
        )
        assert rates[-1] == pytest.approx((1 + np.cos(np.pi * 10 / 11)) / 2)


class TestLoss:
    logits = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, 0.0, 0.0, 0.0], [3.0, -2.0, 0.0, 1.0]])
    score = torch.tensor([1, 3, 0])

    def loss(self, **settings):
        counts = torch.tensor([0, 0, 0, 1, 1, 3])  # training: half, a third, none, a sixth
        criterion = recipes.criterion(recipes.complete_recipe(settings), counts, 4, "cpu")
        return criterion(self.logits, F.one_hot(self.score, 4).float())

    def test_plain_is_torchs_cross_entropy(self):
        assert torch.allclose(self.loss(), F.cross_entropy(self.logits, self.score))
        assert torch.allclose(
            self.loss(smoothing=0.1), F.cross_entropy(self.logits, self.score, label_smoothing=0.1)
        )

    def test_score_weights_are_the_inverse_share(self):
        one = F.cross_entropy(self.logits, self.score, reduction="none")
        assert torch.allclose(
            self.loss(score_weights=True),
            (one * torch.tensor([6 / 2 / 3, 6 / 1 / 3, 6 / 3 / 3])).mean(),
        )

    def test_prior_adds_the_log_share(self):
        shifted = self.logits + torch.tensor([3.0, 2.0, 1.0, 1.0]).log()  # constants do not matter
        assert torch.allclose(self.loss(prior=True), F.cross_entropy(shifted, self.score))

    def test_ordinal_is_binary_cross_entropy_at_each_clinical_cut(self):
        shares = self.logits.softmax(1)
        above = torch.stack([shares[:, cut:].sum(1) for cut in (1, 2, 3)], 1)
        wanted = F.binary_cross_entropy(
            above, (self.score[:, None] >= torch.tensor([1, 2, 3])).float(), reduction="none"
        )
        assert torch.allclose(self.loss(loss="ordinal"), wanted.sum(1).mean(), atol=1e-6)


class TestAugment:
    def test_an_epoch_shows_every_patch_once_in_an_order_of_its_own(self):
        score = np.arange(20) % 4
        first, again, second = (
            augment.epoch_order(score, seed=1, epoch=epoch) for epoch in (1, 1, 2)
        )
        assert sorted(first.tolist()) == list(range(20))
        assert torch.equal(first, again)
        assert not torch.equal(first, second)

    def test_a_balanced_epoch_shows_every_score_equally_often(self):
        score = np.repeat([0, 1, 3], [900, 90, 10])
        drawn = np.bincount(
            score[augment.epoch_order(score, seed=0, epoch=1, balanced=True)], minlength=4
        )
        assert drawn[2] == 0
        assert all(abs(drawn[k] - 333) < 60 for k in (0, 1, 3))

    def test_batches_drop_a_single_leftover_and_are_even_for_mixup(self):
        assert [len(part) for part in augment.cut_batches(torch.arange(9), 4)] == [4, 4]
        assert [len(part) for part in augment.cut_batches(torch.arange(11), 4, even=True)] == [
            4,
            4,
            2,
        ]
        assert [len(part) for part in augment.cut_batches(torch.arange(1), 4)] == [1]

    def test_flips_reach_the_eight_and_only_the_eight(self):
        image = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3)
        wanted = {
            tuple(torch.rot90(flip, k, (2, 3)).flatten().tolist())
            for flip in (image, image.flip(3))
            for k in range(4)
        }
        made = augment.augment(image.repeat(200, 1, 1, 1), seed=0, epoch=1, step=0, flips=True)
        assert {tuple(row.flatten().tolist()) for row in made} == wanted
        assert len(wanted) == 8

    def test_stain_jitter_repeats_by_step_and_differs_between_steps(self):
        images = toy().images
        first, again, other = (
            augment.augment(images, seed=0, epoch=1, step=step, stain=0.2) for step in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, images)

    def test_mixup_mixes_shares_as_it_mixes_patches(self):
        augment.seed_global_rngs(0, 1)
        x = torch.eye(4)[:, :, None, None].repeat(1, 1, 2, 2)  # patch k is 1 in channel k
        mixed, shares = augment.mixer(1.0, 4)(x.clone(), torch.arange(4))
        assert torch.allclose(mixed[:, :, 0, 0], shares)
        assert 0 < shares.max() < 1

    def test_streamed_chunks_come_apart_into_the_same_batches(self, monkeypatch):
        monkeypatch.setattr(augment, "CHUNK_BYTES", 6)  # two batches of three patches of one byte
        images, seen = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), []
        gather = augment._gather
        monkeypatch.setattr(
            augment, "_gather", lambda *a: seen.append(gather(*a).flatten().tolist()) or gather(*a)
        )
        sizes = [len(batch) for batch in augment.batches(images, torch.arange(10).split(3), "meta")]
        assert sizes == [3, 3, 3, 1]
        assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]

    def test_a_cpu_reads_where_the_patches_are(self):
        images = toy().images
        held, sentence = augment.to_device(images, "cpu")
        assert held is images
        assert "memory map" in sentence


def test_precision_is_chosen_with_its_reason(monkeypatch):
    for amx, dtype, word in ((False, torch.float32, "no bfloat16"), (True, torch.bfloat16, "AMX")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        found, reason = recipes.choose_precision("cpu")
        assert found == dtype
        assert word in reason
    assert recipes.choose_precision("cpu", "float32")[0] == torch.float32


class TestFit:
    def test_the_same_seed_repeats_and_another_differs(self):
        state, mixed = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        net, patches = small(), toy()
        weights = {name: value.clone() for name, value in net.state_dict().items()}
        settings = recipes.recipe("tuned", network="resnet18", epochs=2, batch=8)
        first, again, other = (
            train.fit(net, patches, toy(8, seed=1), seed=seed, **settings, **FAST)
            for seed in (1, 1, 2)
        )
        answers = [train.predict(fit.net, patches.images) for fit in (first, again, other)]
        assert np.array_equal(answers[0], answers[1])
        assert not np.array_equal(answers[0], answers[2])
        pd.testing.assert_frame_equal(
            first.history.drop(columns=SECONDS), again.history.drop(columns=SECONDS)
        )
        assert all(
            torch.equal(weights[name], value) for name, value in net.state_dict().items()
        )  # the net given is left alone
        assert torch.equal(torch.random.get_rng_state(), state)
        assert np.array_equal(np.random.get_state()[1], mixed)

    def test_history_begins_before_training_and_agrees_with_predict(self):
        net, patches, val = small(), toy(), toy(8, seed=1)
        fit = train.fit(net, patches, val, seed=0, epochs=2, batch=8, **FAST)
        assert list(fit.history["epoch"]) == [0, 1, 2]
        before, after = (train.predict(n, val.images) for n in (net, fit.net))
        for row, answer in ((0, before), (2, after)):
            assert fit.history["val_accuracy"][row] == np.mean(answer.argmax(1) == val.score)
            assert fit.history["val_loss"][row] == pytest.approx(
                -np.log(answer[np.arange(8), val.score]).mean(), rel=1e-4
            )
        assert fit.history["verdict"][0] == ""
        assert fit.kept_epoch == 2

    def test_best_keeps_the_epoch_with_the_best_kappa_and_patience_stops(self):
        fit = train.fit(
            small(),
            toy(),
            toy(8, seed=1),
            seed=0,
            epochs=30,
            batch=8,
            keep="best",
            patience=2,
            **FAST,
        )
        kappas = fit.history["val_kappa"][1:]
        assert fit.kept_epoch == kappas.idxmax()
        assert len(kappas) == fit.kept_epoch + 2
        kept = train.predict(fit.net, toy(8, seed=1).images).argmax(1)
        assert fit.history["val_accuracy"][fit.kept_epoch] == np.mean(kept == toy(8).score)

    def test_without_validation_the_empty_columns_are_explained(self):
        fit = train.fit(small(), toy(8), seed=0, epochs=1, batch=8, **FAST)
        assert fit.history["val_loss"].isna().all()
        assert any("no validation" in note for note in fit.notes)

    def test_a_patch_without_a_score_is_refused(self):
        patches = toy(8)
        patches.score[3] = -1
        with pytest.raises(ValueError, match="1 of 8 patches have no score"):
            train.fit(small(), patches, seed=0, **FAST)

    def test_no_patches_give_no_probabilities(self):
        assert train.predict(small(), toy().images[:0]).shape == (0, 4)

    def test_tensorboard_gets_every_number(self, tmp_path):
        train.fit(small(), toy(8), toy(8), seed=0, epochs=1, batch=8, tensorboard=tmp_path, **FAST)
        assert next(tmp_path.iterdir()).stat().st_size > 200

    @pytest.mark.parametrize(
        ("network", "lr"),
        [("vit_tiny", 3e-4)]
        + [
            pytest.param(name, 3e-4, marks=pytest.mark.slow)
            for name in ("resnet18", "densenet201", "hybrid")
        ]
        + [pytest.param("vit_b16", 1e-4, marks=pytest.mark.slow)],
    )
    def test_every_network_learns_eight_patches_by_heart(self, network, lr, monkeypatch):
        monkeypatch.setattr(
            "test_train.THIN", {}
        )  # the whole networks; running batch-norm means need 30 steps to follow
        patches, rng = toy(8), np.random.default_rng(0)
        patches = Patches(
            **{**vars(patches), "score": rng.permutation(patches.score)}
        )  # nothing to understand, only to remember
        fit = train.fit(
            small(network), patches, patches, seed=0, epochs=45, batch=8, lr=lr, keep="best", **FAST
        )
        assert np.array_equal(train.predict(fit.net, patches.images).argmax(1), patches.score)

    @pytest.mark.parametrize("network", ["resnet18", "vit_tiny"])
    def test_a_rate_of_one_is_collapsed_and_not_a_crash(self, network):
        val = toy(8, seed=1)
        fit = train.fit(small(network), toy(), val, seed=0, epochs=3, batch=8, lr=1.0, **FAST)
        answer = train.predict(fit.net, val.images)
        assert fit.history["verdict"].iloc[-1]
        assert np.isfinite(answer).all()

    def test_a_loss_that_breaks_ends_the_run_with_the_last_sound_weights(self, monkeypatch):
        broken = lambda *args: lambda logits, shares: logits.sum() * float("nan")  # noqa: E731
        monkeypatch.setattr(recipes, "criterion", broken)
        net, val = small(), toy(8, seed=1)
        fit = train.fit(net, toy(), val, seed=0, epochs=3, batch=8, **FAST)
        assert list(fit.history["verdict"]) == ["", "loss not finite"]
        assert collapse.loss_problem(fit.history) == "loss not finite in epoch 1"
        assert np.array_equal(train.predict(fit.net, val.images), train.predict(net, val.images))


def _train_in(folder, answer):
    """What the process that is killed does: the same call every time."""
    torch.set_num_threads(1)
    train.EVERY_SECONDS = 0
    settings = recipes.recipe("tuned", network="resnet18", epochs=8, batch=4)
    fit = train.fit(small(), toy(), toy(8, seed=1), seed=3, folder=folder, **settings, **FAST)
    fit.history.to_pickle(folder / "history.pkl")
    np.save(answer, train.predict(fit.net, toy().images))


class TestResume:
    def test_three_kills_change_nothing(self, tmp_path):
        context = multiprocessing.get_context(
            "forkserver"
        )  # torch is imported once, and each process is a real one to kill
        context.set_forkserver_preload(["her2lib.networks.train"])

        def started(name):
            (tmp_path / name).mkdir(exist_ok=True)
            process = context.Process(
                target=_train_in, args=(tmp_path / name, tmp_path / f"{name}.npy")
            )
            process.start()
            return process

        started("whole").join()
        history = pd.read_pickle(tmp_path / "whole" / "history.pkl")
        kills = 0
        for _ in range(3):
            process, rows = started("killed"), tmp_path / "killed" / checkpoint.CHECKPOINT
            before = rows.stat().st_mtime_ns if rows.exists() else None
            while process.is_alive() and (not rows.exists() or rows.stat().st_mtime_ns == before):
                time.sleep(0.005)  # until one more epoch is written,
            time.sleep(
                random.uniform(0, 2) * history["seconds"][1:].mean()
            )  # then at any moment of the two that follow
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        assert kills == 3
        assert not (tmp_path / "killed.npy").exists()
        started("killed").join()
        resumed = pd.read_pickle(tmp_path / "killed" / "history.pkl")
        pd.testing.assert_frame_equal(
            resumed.drop(columns=SECONDS), history.drop(columns=SECONDS), check_exact=True
        )
        assert np.array_equal(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "whole.npy"))

    def test_a_finished_training_is_not_trained_again(self, tmp_path, monkeypatch):
        first = train.fit(small(), toy(8), toy(8), seed=0, epochs=1, folder=tmp_path, **FAST)
        monkeypatch.setattr(train._Loop, "epoch", None)
        again = train.fit(small(), toy(8), toy(8), seed=0, epochs=1, folder=tmp_path, **FAST)
        assert np.array_equal(
            train.predict(first.net, toy(8).images), train.predict(again.net, toy(8).images)
        )

    @pytest.mark.parametrize(
        "change", [dict(seed=1), dict(lr=0.5), dict(train=toy(8, seed=5)), dict(net=small(seed=1))]
    )
    def test_a_checkpoint_of_another_training_is_refused(self, tmp_path, change):
        call = dict(net=small(), train=toy(8), seed=0, lr=1e-3)
        for given in (call, call | change):
            net, patches, rest = given["net"], given["train"], {k: given[k] for k in ("seed", "lr")}
            if given is call:
                train.fit(net, patches, epochs=1, folder=tmp_path, **rest, **FAST)
            else:
                with pytest.raises(ValueError, match="belongs to another training"):
                    train.fit(net, patches, epochs=1, folder=tmp_path, **rest, **FAST)

    def test_a_saved_training_is_taken_as_it_is_and_another_is_trained(self, tmp_path, monkeypatch):
        def trained(**more):
            return train.fit(
                small(),
                toy(8),
                toy(8),
                folder=tmp_path,
                **{**dict(seed=0, epochs=1), **more},
                **FAST,
            )

        first = trained()
        rows = train.prediction_table(
            train.predict(first.net, toy(8).images), toy(8), run="a", subset="val"
        )
        checkpoint.save_run(tmp_path, net=first.net, fit=first, predictions=rows, parameters={})
        assert not (tmp_path / checkpoint.CHECKPOINT).exists()
        other = trained(seed=1)
        assert "not trained again" not in " ".join(other.notes)
        (tmp_path / checkpoint.CHECKPOINT).unlink()
        monkeypatch.setattr(train._Loop, "epoch", None)
        again = trained()
        pd.testing.assert_frame_equal(again.history, first.history, check_exact=True)
        assert np.array_equal(
            train.predict(first.net, toy(8).images), train.predict(again.net, toy(8).images)
        )
        assert again.kept_epoch == first.kept_epoch
        assert "not trained again" in " ".join(again.notes)

    def test_whoever_watches_is_told_epoch_kappa_and_time_left(self, tmp_path):
        fit = train.fit(small(), toy(8), toy(8), seed=0, epochs=2, folder=tmp_path, **FAST)
        told = json.loads((tmp_path / checkpoint.PROGRESS).read_text())
        kappa = fit.history["val_kappa"].iloc[-1]
        assert told == {
            "epoch": 2,
            "epochs": 2,
            "kappa": None if np.isnan(kappa) else round(kappa, 4),
            "seconds_left": 0.0,
        }


class TestVerdicts:
    truth = np.array([2, 2, 2, 1, 0])

    def probabilities(self, *answers):
        return np.eye(4)[list(answers)]

    def test_one_answer_the_majority_rate_and_sound_work(self):
        assert (
            collapse.collapse_reason(self.probabilities(2, 2, 2, 2, 2), self.truth)
            == "answers 2+ only"
        )
        assert (
            collapse.collapse_reason(self.probabilities(2, 2, 1, 1, 3), self.truth)
            == "at or below the majority rate 60.0 %"
        )
        assert collapse.collapse_reason(self.probabilities(2, 2, 2, 1, 3), self.truth) == ""
        assert collapse.collapse_reason(self.probabilities(2, 2, 2), np.array([2, 2, 2])) == "", (
            "one score alone cannot be judged"
        )
        assert (
            collapse.collapse_reason(self.probabilities(2, 2, 1, 0), np.array([2, 2, 1, -1])) == ""
        ), "unknown scores are left out"

    def test_nan_is_never_silent(self):
        assert (
            collapse.collapse_reason(np.full((5, 4), np.nan), self.truth)
            == "probabilities not finite"
        )

    def test_fluctuation_worked_out_by_hand(self):
        curve = lambda *values: pd.DataFrame({"epoch": range(len(values)), "val_accuracy": values})  # noqa: E731
        assert collapse.fluctuation(curve(0.9, 0.1, 0.2, 0.3, 0.4)) == pytest.approx(
            1 / 3
        )  # epoch 0 does not count
        assert collapse.fluctuation(curve(0.0, 0.1, 0.5, 0.1, 0.5)) == pytest.approx(1.0)
        assert collapse.fluctuation(curve(0.3, 0.5, 0.5)) == 0.0

    def test_the_twin_has_the_same_scores_in_another_order(self):
        patches = toy(24)
        twin = train.shuffle_labels(patches, seed=0)
        assert sorted(twin.score) == sorted(patches.score)
        assert not np.array_equal(twin.score, patches.score)
        assert twin.images is patches.images
        assert np.array_equal(twin.score, train.shuffle_labels(patches, seed=0).score)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, val = tmp_path_factory.mktemp("run") / "a", toy(8, seed=1)
    fit = train.fit(small(), toy(8), val, seed=0, epochs=1, folder=folder, dropout=0.1, **FAST)
    rows = train.prediction_table(train.predict(fit.net, val.images), val, run="a", subset="val")
    axes = {"seed": np.int64(0), "label_shuffle": "none"}
    checkpoint.save_run(
        folder, net=fit.net, fit=fit, predictions=rows, parameters=axes, fingerprints={"data": "x"}
    )
    return folder, fit, val


class TestSave:
    def test_a_run_comes_back_and_predicts_the_same(self, run):
        folder, fit, val = run
        net, info = checkpoint.load_run(folder)
        assert np.array_equal(train.predict(net, val.images), train.predict(fit.net, val.images))
        assert info["complete"] is True
        assert info["parameters"] == {"seed": 0, "label_shuffle": "none"}
        assert info["recipe"] == fit.recipe
        assert info["sets"]["val"]["accuracy"] == fit.history["val_accuracy"].iloc[-1]
        assert {
            "versions",
            "device",
            "precision",
            "seconds",
            "verdict",
            "fingerprints",
            "kept_epoch",
        } <= info.keys()

    def test_the_folder_holds_what_the_house_says_and_no_more(self, run):
        folder, fit, _ = run
        assert {path.name for path in folder.iterdir()} == {
            "history.csv",
            "model.safetensors",
            "predictions.csv",
            "run.json",
        }
        rows = pd.read_csv(folder / "predictions.csv", keep_default_na=False)
        assert list(rows.columns) == [
            "run",
            "set",
            "patch",
            "slide",
            "patient",
            "truth",
            "p0",
            "p1",
            "p2",
            "p3",
        ]
        assert np.allclose(rows.filter(regex="^p[0-3]$").sum(axis=1), 1, atol=1e-5)
        pd.testing.assert_frame_equal(
            pd.read_csv(folder / "history.csv", keep_default_na=False), fit.history
        )

    def test_an_unfinished_folder_is_refused(self, run, tmp_path):
        with pytest.raises(ValueError, match="holds no finished run"):
            checkpoint.load_run(tmp_path)

    def test_run_json_has_no_nan_and_a_collapse_is_said(self, run, tmp_path):
        _, fit, val = run
        rows = train.prediction_table(
            np.tile([0, 0, 1, 0], (8, 1)).astype(np.float32), val, run="a", subset="val"
        )
        checkpoint.save_run(
            tmp_path, net=fit.net, fit=fit, predictions=rows, parameters={"x": float("nan")}
        )
        info = json.loads(
            (tmp_path / "run.json").read_text(), parse_constant=lambda word: pytest.fail(word)
        )
        assert info["verdict"] == "answers 2+ only (val)"
        assert info["parameters"] == {"x": None}
