"""Do three networks find wrong scores better than one? Out-of-fold votes on phantoms with 5 % wrong scores, ranked by review.doubt.
    python benchmarks/labels.py [--draws 3] [--first 400]     (about 3 minutes of processor time a draw, one thread)
Every network is trained with the wrong scores in its training patches; folds are whole slides, and no patch of a fold chooses anything.
A draw is another set of phantoms, other wrong scores, other starting weights.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score, cohen_kappa_score
from sklearn.model_selection import GroupKFold

from her2lib import stain
from her2lib.data import patches, store
from her2lib.networks import models, recipes, train
from her2lib.phantoms import dataset
from her2lib.readers import label_doubt

SIDE_PX, MPP, WRONG, NETWORKS, FOLDS = 64, 1.0, 0.05, 3, 3
# of the first draw; 2, 5, 21 to 23, 51, 120 to 122, 310 to 314, 400, 402, 500 to 511 were looked at
# while the ranking was made
FIRST = 403


def cohort(seed, options, scratch):
    """(Patches at SIDE_PX, the same at full size (N,3,H,W), slides (N,)) of phantoms of 96 px."""
    folder = dataset.write_phantoms(
        scratch / f"draw{seed}",
        patches=options.patches,
        slides=options.patches // 8,
        side_px=96,
        mpp=MPP,
        seed=seed,
        balanced=True,
        progress=False,
    )
    table, _ = patches.read_table(folder)
    table = table[table["score"] >= 0].reset_index(drop=True)
    small, full = (
        store.open_store(table, side_px=side, folder=scratch / "stores", progress=False)
        for side in (SIDE_PX, 96)
    )
    return small, full.images, np.asarray(small.slide)


def corrupted(truth, seed):
    """(N,) scores of which WRONG are another score, drawn at random."""
    rng, given = np.random.default_rng(seed), truth.copy()
    for row in rng.choice(len(truth), round(WRONG * len(truth)), replace=False):
        given[row] = rng.choice([score for score in range(4) if score != truth[row]])
    return given


def votes(part, given, slide, *, seed, epochs):
    """(N,4) out-of-fold probabilities of one network: FOLDS trainings, none of which saw a slide that it votes on."""
    found = np.full((len(given), 4), np.nan, np.float32)
    recipe = recipes.recipe(
        "as_presented", network="resnet18", epochs=epochs, schedule="cosine", warmup=0.1, flips=True
    )
    for fit, held in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(given, groups=slide):
        own = part.take(fit)
        own = type(own)(**{**vars(own), "score": given[fit]})
        net = models.create("resnet18", side_px=SIDE_PX, weights="none", seed=seed)
        found[held] = train.predict(
            train.fit(net, own, seed=seed, progress=False, **recipe).net, part.images[held]
        )
    return found


def draw(seed, options, scratch):
    """dict contestant -> average precision of its ranking of one draw; prints how good each network is."""
    part, full, slide = cohort(seed, options, scratch)
    truth = np.array(part.score)
    given = corrupted(truth, seed)
    networks = [
        votes(part, given, slide, seed=10 * seed + k, epochs=options.epochs)
        for k in range(NETWORKS)
    ]
    kappas = [
        cohen_kappa_score(truth, one.argmax(1), weights="quadratic", labels=range(4))
        for one in networks
    ]
    rule = stain.rule_value(full, mpp=MPP).numpy()
    measured = label_doubt.learner_features(full, mpp=MPP)
    cheap = {
        "learner": label_doubt.out_of_fold_probabilities(measured, given, groups=slide),
        "rule": rule,
        "features": measured,
    }
    contestants = (
        {"rule alone": {"rule": rule}, "no network": cheap}
        | {f"network {k + 1} alone": {"predictions": [one]} for k, one in enumerate(networks)}
        | {
            "three networks": {"predictions": networks},
            "network 1 and all else": cheap | {"predictions": networks[:1]},
            "three networks and all else": cheap | {"predictions": networks},
        }
    )
    wrong, found = given != truth, {}
    for name, voices in contestants.items():
        ranked = (
            label_doubt.rank_doubts(given, patch=range(len(given)), groups=slide, **voices)
            .set_index("patch")["doubt"]
            .sort_index()
        )
        found[name] = average_precision_score(wrong, ranked)
    print(
        f"draw {seed}: {len(truth)} patches of {len(set(slide))} slides, {wrong.sum()} wrong; out-of-fold kappa with the truth "
        + ", ".join(f"{kappa:.2f}" for kappa in kappas),
        flush=True,
    )
    return {
        "random": wrong.mean(),
        **found,
        "mean of one network": np.mean([found[f"network {k + 1} alone"] for k in range(NETWORKS)]),
    }


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--draws", type=int, default=1)
    options.add_argument("--first", type=int, default=FIRST)
    options.add_argument("--patches", type=int, default=320)
    options.add_argument("--epochs", type=int, default=10)
    options = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        began = time.process_time()
        rows = pd.DataFrame(
            [draw(options.first + k, options, Path(place)) for k in range(options.draws)]
        )
        for name in rows:
            print(
                f"average precision, {name:28} mean {rows[name].mean():.3f}  ({', '.join(f'{value:.3f}' for value in rows[name])})"
            )
        gap = rows["three networks"] - rows["mean of one network"]
        print(
            f"three networks less one: mean {gap.mean():+.3f}, at least 0 in {(gap >= 0).sum()} of {len(gap)} draws; wanted: no worse"
        )
        print(f"{options.draws} draws, {time.process_time() - began:.0f} s of processor time")
