"""Frozen features of any timm encoder, computed once, and the heads that learn on them."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms.v2 import functional as tv
from tqdm.auto import tqdm

from her2lib.files import did_you_mean, write_bytes
from her2lib.networks.weights import from_hub
from her2lib.scores import CUTS, SCORES

HEADS = ("logistic", "ordinal")

# --- features ----------------------------------------------------------------------------------


def frozen_features(
    name: str,
    images: torch.Tensor,
    *,
    folder: str | Path,
    weights: str = "imagenet",
    batch: int = 32,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> np.ndarray:
    """(N,D) float32 features of uint8 images (N,3,H,W), computed once and kept in folder.

    name: any encoder of timm, which sees the images at its own side, mean and deviation.
    """
    digest = hashlib.sha256(
        f"{name}|{weights}|{seed}|{sorted(options.items())}|{tuple(images.shape)}".encode()
    )
    digest.update(np.ascontiguousarray(images).data)
    path = Path(folder) / f"probe-{digest.hexdigest()[:24]}.npy"
    if not path.exists():
        encoder = _create_encoder(name, weights, seed, options)
        content = io.BytesIO()
        np.save(content, _encode(encoder, images, batch, progress))
        write_bytes(path, content.getvalue())
    return np.load(path)


def _create_encoder(name, weights, seed, options):
    """The encoder without its head, in evaluation mode; random weights are those of the seed."""
    if weights not in ("imagenet", "none"):
        raise ValueError(
            f'weights={weights!r}: a probe takes its encoder\'s own weights ("imagenet") or "none".'
        )
    pretrained = weights == "imagenet"
    build = partial(timm.create_model, name, pretrained=pretrained, num_classes=0, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if pretrained:
            return from_hub(build, name).eval()
        return build().eval()


@torch.inference_mode()
def _encode(encoder, images, batch, progress):
    """(N,D) float32 features of images resized and normalised as the encoder was trained."""
    settings = timm.data.resolve_model_data_config(encoder)
    side_px = settings["input_size"][-1]
    rows = []
    for start in tqdm(range(0, len(images), batch), desc="encoding", disable=not progress):
        x = tv.resize(images[start : start + batch], [side_px, side_px], antialias=True)
        x = tv.to_dtype(x, torch.float32, scale=True)
        x = tv.normalize(x, settings["mean"], settings["std"])
        rows.append(encoder(x).numpy())
    return np.concatenate(rows)


# --- heads -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogisticHead:
    """One logistic regression over the scores."""

    classifier: Pipeline

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(M,4) probabilities of (M,D) features, 0 for a score that training never saw."""
        probabilities = np.zeros((len(features), len(SCORES)), np.float32)
        probabilities[:, self.classifier.classes_] = self.classifier.predict_proba(features)
        return probabilities


@dataclass(frozen=True)
class OrdinalHead:
    """A logistic regression for each clinical cut: does a patch lie above (Frank & Hall 2001)."""

    classifiers: list[Pipeline]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(M,4) probabilities of (M,D) features: differences of those of lying above each cut."""
        # classes_ are False and True, or one of them: the product is the column of True.
        above = [fitted.predict_proba(features) @ fitted.classes_ for fitted in self.classifiers]
        # What lies above a cut also lies above the one before.
        steps = np.minimum.accumulate(np.stack(above, 1), axis=1)
        steps = np.pad(steps, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        return -np.diff(steps).astype(np.float32)


def fit_head(
    features: np.ndarray, score, *, head: str = "logistic", C: float = 0.1
) -> Callable[[np.ndarray], np.ndarray]:
    """Head learnt on (N,D) features and (N,) scores: a function of (M,D) -> (M,4) probabilities."""
    if head not in HEADS:
        raise ValueError(f"{head!r} is not a head of the probe.{did_you_mean(head, HEADS)}")
    score = np.asarray(score)
    if head == "logistic":
        return LogisticHead(_fit_logistic(features, score, C=C))
    return OrdinalHead([_fit_logistic(features, score > cut, C=C) for cut in range(len(CUTS))])


def _fit_logistic(features, score, *, C):
    """Pipeline of standardised features; with one score alone it always answers that one."""
    if len(set(score)) > 1:
        model = LogisticRegression(C=C, max_iter=2000, class_weight="balanced")
    else:
        model = DummyClassifier()
    return make_pipeline(StandardScaler(), model).fit(features, score)
