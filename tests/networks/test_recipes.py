"""recipes: the study to the letter, names with remedies, the loss, the rates of the layers."""

import numpy as np
import pytest
import torch
from examples_networks import small
from torch.nn import functional as F

from her2lib.networks import models, recipes


class TestRecipes:
    def test_as_presented_is_the_study_to_the_letter(self):
        presented = {
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch": 32,
            "loss": "cross_entropy",
            "epochs": 20,
        }
        extras = ("flips", "stain", "mixup", "ema", "clip", "smoothing", "dropout", "score_weights")
        for network in ("resnet18", "densenet201"):
            settings = recipes.recipe("as_presented", network=network)
            assert {key: settings[key] for key in presented} == presented
            assert not any(settings[key] for key in extras)
        presented = {"optimizer": "adam", "lr": 1e-3, "batch": 32, "schedule": "cosine"}
        settings = recipes.recipe("as_presented", network="vit_b16")
        assert {key: settings[key] for key in presented} == presented

    @pytest.mark.parametrize("name", recipes.RECIPES)
    @pytest.mark.parametrize("network", models.BACKBONES)
    def test_every_recipe_fits_every_network(self, name, network):
        settings = recipes.recipe(name, network=network, epochs=3)
        assert settings.keys() == recipes.DEFAULTS.keys()
        assert settings["epochs"] == 3
        assert settings["drop_path"] == 0 or network != "densenet201"

    @pytest.mark.parametrize(
        ("name", "changes", "sentence"),
        [
            ("tunned", {}, "Did you mean 'tuned'"),
            ("tuned", {"network": "resnet81"}, "Did you mean 'resnet18'"),
            ("tuned", {"epoch": 3}, "'epoch' is not a key.*Did you mean 'epochs'"),
            ("tuned", {"optimizer": "adamww"}, "Did you mean 'adamw'"),
        ],
    )
    def test_a_misspelt_word_is_an_error(self, name, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            recipes.recipe(name, **{"network": "resnet18", **changes})

    def test_a_name_may_carry_remedies_and_a_rate_which_win_over_the_study(self):
        plain = recipes.recipe("as_presented", network="resnet18")
        settings = recipes.recipe(
            "as_presented+dropout+schedule@1e-5", network="resnet18", lr=0.5, epochs=3
        )
        changed = {key: value for key, value in settings.items() if value != plain[key]}
        assert changed == {
            "dropout": 0.2,
            "schedule": "cosine",
            "warmup": 0.1,
            "lr": 1e-5,
            "epochs": 3,
        }
        misspelt = {
            "as_presented+dropuot": "dropout",
            "as_presented@fast": "is a number",
            "tund@1e-3": "tuned",
        }
        for name, sentence in misspelt.items():
            with pytest.raises(ValueError, match=sentence):
                recipes.recipe(name, network="resnet18")

    # vit_b16 has the depth of vit_tiny.
    @pytest.mark.parametrize("network", ["resnet18", "densenet201", "hybrid", "vit_tiny"])
    def test_tuned_leaves_no_layer_without_a_rate(self, network):
        settings = recipes.recipe("tuned", network=network)
        net = models.create(network, side_px=32, weights="none")
        optimizer, _ = recipes.optimizer(net, settings, 5)
        scales = [group["lr_scale"] for group in optimizer.param_groups]
        assert 0.005 < min(scales) < max(scales) == 1.0

    def test_layers_learn_slower_the_deeper_they_lie_and_the_rate_warms_up_and_falls(self):
        settings = recipes.complete_recipe(
            {"lr": 1.0, "layer_decay": 0.5, "schedule": "cosine", "warmup": 0.5, "epochs": 2}
        )
        optimizer, schedule = recipes.optimizer(small("vit_tiny"), settings, 5)
        # 4 blocks, stem and head.
        assert {g["lr_scale"] for g in optimizer.param_groups} == {0.5**k for k in range(6)}
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
        # Training: half, a third, none, a sixth.
        counts = torch.tensor([0, 0, 0, 1, 1, 3])
        criterion = recipes.criterion(recipes.complete_recipe(settings), counts, 4, "cpu")
        return criterion(self.logits, F.one_hot(self.score, 4).float())

    def test_plain_is_torchs_cross_entropy(self):
        assert torch.allclose(self.loss(), F.cross_entropy(self.logits, self.score))
        smooth = F.cross_entropy(self.logits, self.score, label_smoothing=0.1)
        assert torch.allclose(self.loss(smoothing=0.1), smooth)

    def test_score_weights_are_the_inverse_share(self):
        each = F.cross_entropy(self.logits, self.score, reduction="none")
        weight = torch.tensor([6 / 2 / 3, 6 / 1 / 3, 6 / 3 / 3])
        assert torch.allclose(self.loss(score_weights=True), (each * weight).mean())

    def test_prior_adds_the_log_share(self):
        # Constants do not matter.
        shifted = self.logits + torch.tensor([3.0, 2.0, 1.0, 1.0]).log()
        assert torch.allclose(self.loss(prior=True), F.cross_entropy(shifted, self.score))

    def test_ordinal_is_binary_cross_entropy_at_each_clinical_cut(self):
        probabilities = self.logits.softmax(1)
        above = torch.stack([probabilities[:, cut:].sum(1) for cut in (1, 2, 3)], 1)
        truth = (self.score[:, None] >= torch.tensor([1, 2, 3])).float()
        wanted = F.binary_cross_entropy(above, truth, reduction="none")
        assert torch.allclose(self.loss(loss="ordinal"), wanted.sum(1).mean(), atol=1e-6)


def test_precision_is_chosen_with_its_reason(monkeypatch):
    cases = ((False, torch.float32, "no bfloat16"), (True, torch.bfloat16, "AMX"))
    for amx, wanted, text in cases:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        dtype, reason = recipes.choose_precision("cpu")
        assert dtype == wanted
        assert text in reason
    assert recipes.choose_precision("cpu", "float32")[0] == torch.float32
