"""Which property of the phantoms carries over to real patches?

One factor is changed at a time, the same network and recipe each time.

    python benchmarks/transfer.py [--real FOLDER] [--patches 600] [--seeds 2]

About 40 minutes on 2 quiet cores. FOLDER holds real patches and a manifest.csv (path, score,
slide). Every line is one more look at it: no setting may be chosen by it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import cohen_kappa_score

from her2lib import files
from her2lib.data import patches, splits, store
from her2lib.files import fingerprint
from her2lib.networks import models, recipes, train
from her2lib.phantoms import dataset, slide
from her2lib.stats import agreement

# What is changed in the phantoms, and in the recipe.
FACTORS = {
    "as in studies/transfer.toml": ({}, {}),
    "no blush": ({"blush": False, "stromal_blush": False}, {}),
    "no artefacts at all": (dict.fromkeys(slide.ARTEFACTS, False), {}),
    "one laboratory": ({"laboratories": 1}, {}),
    "shares of scores as in BCI": ({"balanced": False}, {}),
    "no stain jitter": ({}, {"stain": 0.0}),
    "no flips": ({}, {"flips": False}),
}
COLUMNS = ("phantom kappa", "phantom Spearman", "real kappa", "real Spearman")
SIDE_PX = 128
EPOCHS = 12


def main():
    """Prints one line per factor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, default=files.ROOT.parent / "shared" / "real")
    parser.add_argument("--patches", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if not options.real.is_dir():
        raise SystemExit(f"There are no real patches at {options.real}: give --real FOLDER.")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        table, real = read_cohort(options.real, scratch / "stores")
        print(
            f"{len(table)} real patches of {table['slide'].nunique()} slides; "
            f"{options.patches} phantoms; {SIDE_PX} px; {EPOCHS} epochs"
        )
        for name in FACTORS:
            measure(name, real, options, scratch)


def measure(name, real, options, scratch):
    """Prints kappa and Spearman on phantoms of unseen slides and on real patches, by seed."""
    switches, changes = FACTORS[name]
    subsets = phantom_subsets(switches, options, scratch)
    recipe = recipes.recipe(
        "tuned", network="resnet18", epochs=EPOCHS, lr=1e-3, layer_decay=1.0, **changes
    )
    rows = []
    for seed in range(options.seeds):
        net = models.create("resnet18", side_px=SIDE_PX, weights="none", seed=seed)
        fit = train.fit(net, subsets["train"], subsets["val"], seed=seed, progress=False, **recipe)
        rows.append([*evaluate(fit.net, subsets["test"]), *evaluate(fit.net, real)])
    parts = []
    for column, title in enumerate(COLUMNS):
        values = " ".join(f"{row[column]:.2f}" for row in rows)
        parts.append(f"{title} {values}")
    print(f"{name:28}", "; ".join(parts), flush=True)


def phantom_subsets(switches, options, scratch):
    """{train, val, test: Patches} of phantoms, one factor changed."""
    settings = {
        "patches": options.patches,
        "slides": options.patches // 5,
        "side_px": 512,
        "mpp": 0.94,
        "seed": 22,
        "balanced": True,
        "laboratories": 8,
    }
    folder = dataset.write_phantoms(
        scratch / fingerprint(switches), **settings | switches, progress=False
    )
    table, images = read_cohort(folder, scratch / "stores")
    subsets = {}
    for subset in ("train", "val", "test"):
        subsets[subset] = images.take(np.flatnonzero(table["set"] == subset))
    return subsets


def read_cohort(folder, scratch):
    """(table, Patches) of a folder, divided by slide."""
    table, _ = patches.read_table(folder)
    table, _ = splits.split_table(table, seed=0)
    return table, store.open_store(table, side_px=SIDE_PX, folder=scratch, progress=False)


def evaluate(net, subset):
    """(quadratic-weighted kappa, Spearman) of one network on one cohort."""
    probabilities = train.predict(net, subset.images)
    predicted = probabilities.argmax(1)
    kappa = cohen_kappa_score(subset.score, predicted, weights="quadratic", labels=range(4))
    return kappa, agreement.spearman(probabilities @ np.arange(4), np.asarray(subset.score))


if __name__ == "__main__":
    main()
