"""Frozen features of any timm encoder, computed once, and the heads that learn on them."""

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms.v2 import functional as tv
from tqdm.auto import tqdm

from her2lib.files import did_you_mean, write_bytes
from her2lib.networks import weights as weights_
from her2lib.scores import SCORES


def frozen_features(
    name, images, *, folder, weights="imagenet", batch=32, seed=0, progress=True, **options
):
    """(N,D) float32 frozen features of any timm encoder under its own mean and deviation, computed once and kept in folder."""
    key = hashlib.sha256(
        f"{name}|{weights}|{seed}|{sorted(options.items())}|{tuple(images.shape)}".encode()
    )
    key.update(np.ascontiguousarray(images))
    path = Path(folder) / f"probe-{key.hexdigest()[:24]}.npy"
    if not path.exists():
        features = _encode(_encoder(name, weights, seed, options), images, batch, progress)
        np.save(buffer := io.BytesIO(), features)
        write_bytes(path, buffer.getvalue())
    return np.load(path)


def fit_head(features, score, *, head="logistic", C=0.1):
    """function of (M,D) features -> (M,4) probabilities: "logistic", or "ordinal", one per clinical cut (Frank & Hall 2001)."""
    if head not in ("logistic", "ordinal"):
        raise ValueError(
            f"{head!r} is not a head of the probe.{did_you_mean(head, ('logistic', 'ordinal'))}"
        )
    score, fit = np.asarray(score), partial(_logistic, features, C=C)
    if head == "logistic":
        return partial(_columns, fit(score))
    above = [fit(score > cut) for cut in range(len(SCORES) - 1)]
    return partial(_differences, above)


def _encoder(name, weights, seed, options):
    if weights not in ("imagenet", "none"):
        raise ValueError(
            f'weights={weights!r}: a probe takes its encoder\'s own weights ("imagenet") or "none".'
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = partial(
            timm.create_model, name, pretrained=weights == "imagenet", num_classes=0, **options
        )
        return (weights_.from_hub(build, name) if weights == "imagenet" else build()).eval()


@torch.inference_mode()
def _encode(encoder, images, batch, progress):
    settings = timm.data.resolve_model_data_config(encoder)
    side, (mean, std) = settings["input_size"][-1], (settings["mean"], settings["std"])
    rows = []
    for start in tqdm(range(0, len(images), batch), desc="encoding", disable=not progress):
        x = tv.resize(images[start : start + batch], [side, side], antialias=True)
        rows.append(
            encoder(tv.normalize(tv.to_dtype(x, torch.float32, scale=True), mean, std)).numpy()
        )
    return np.concatenate(rows)


def _logistic(features, score, *, C):
    more = len(set(score)) > 1
    answer = (
        LogisticRegression(C=C, max_iter=2000, class_weight="balanced")
        if more
        else DummyClassifier()
    )
    return make_pipeline(StandardScaler(), answer).fit(features, score)


def _columns(fitted, features):
    """(M,4) probabilities, 0 for a score that training never saw."""
    table = np.zeros((len(features), len(SCORES)), np.float32)
    table[:, fitted.classes_] = fitted.predict_proba(features)
    return table


def _differences(above, features):
    """(M,4) score probabilities from those of lying above each clinical cut, which may not rise from cut to cut."""
    steps = np.stack(
        [fitted.predict_proba(features) @ fitted.classes_ for fitted in above], 1
    )  # classes_ are False, True
    steps = np.minimum.accumulate(steps, axis=1)
    return -np.diff(np.pad(steps, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))).astype(
        np.float32
    )
