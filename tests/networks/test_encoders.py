"""encoders: features are the encoder's own and computed once; heads that learn on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from examples_networks import random_images
from PIL import Image

from her2lib.networks import encoders
from her2lib.scores import parse_score

REAL = Path(__file__).parents[3] / "shared" / "real"
VIT = "vit_tiny_patch16_224"


def features_of(images, folder, name=VIT):
    return encoders.frozen_features(name, images, folder=folder, weights="none", progress=False)


def test_features_are_the_encoders_own_and_computed_once(tmp_path, monkeypatch):
    images = random_images(3, 48)
    first = features_of(images, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = timm.create_model(VIT, num_classes=0).eval()
    larger = torch.nn.functional.interpolate(
        images.float() / 255, (224, 224), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        wanted = encoder(larger * 2 - 1).numpy()
    # The library resizes as uint8, so within a grey level.
    assert np.allclose(first, wanted, atol=0.05)
    monkeypatch.setattr(encoders.timm, "create_model", None)
    assert np.array_equal(first, features_of(images, tmp_path))
    # Other patches, so the encoder is needed again.
    with pytest.raises(TypeError):
        features_of(random_images(3, 48, seed=1), tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_other_weights_than_the_encoders_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match="its encoder's own weights"):
        encoders.frozen_features(VIT, random_images(1, 48), folder=tmp_path, weights="my.pth")


@pytest.mark.parametrize("head", encoders.HEADS)
def test_heads_find_scores_that_lie_in_order(head):
    score = np.repeat([0, 1, 2, 3], 20)
    features = score[:, None] + 0.1 * np.random.default_rng(0).standard_normal((80, 3))
    probabilities = encoders.fit_head(features, score, head=head, C=10.0)(features)
    assert probabilities.shape == (80, 4)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (probabilities >= 0).all()
    assert (probabilities.argmax(1) == score).mean() > 0.95


@pytest.mark.parametrize("head", encoders.HEADS)
def test_a_score_never_seen_gets_nothing(head):
    score = np.repeat([0, 1, 2], 10)
    fitted = encoders.fit_head(score[:, None] + 0.0, score, head=head)
    probabilities = fitted(np.arange(4.0)[:, None])
    assert np.allclose(probabilities[:, 3], 0)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)


def test_on_real_patches_each_core_is_scored_by_a_head_that_never_saw_it(tmp_path, capsys):
    if not (REAL / "manifest.csv").is_file():
        pytest.skip("the real patches are not here")
    rows = pd.read_csv(REAL / "manifest.csv")
    pictures = []
    for path in rows.path:
        picture = Image.open(REAL / path).convert("RGB").resize((96, 96))
        pictures.append(np.asarray(picture))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    score = np.array([parse_score(text) for text in rows.score])
    features = features_of(images, tmp_path, "resnet18")
    probabilities = np.full((len(rows), 4), np.nan)
    for core in rows.slide.unique():
        out = (rows.slide == core).to_numpy()
        head = encoders.fit_head(features[~out], score[~out])
        probabilities[out] = head(features[out])
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    right = (probabilities.argmax(1) == score).mean()
    commonest = np.bincount(score).max() / len(score)
    # What it honestly gets from random weights, and no bar: eight cores decide nothing.
    with capsys.disabled():
        print(
            f"\nreal patches, leave one core out, frozen random ResNet18: {right:.0%} of "
            f"{len(rows)} right, always the commonest score {commonest:.0%}"
        )


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'ordinal'"):
        encoders.fit_head(np.zeros((4, 1)), np.arange(4), head="ordnal")
