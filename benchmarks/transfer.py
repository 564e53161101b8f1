"""Which property of the phantoms carries over to real patches: one factor changed at a time, the same network and recipe each time.
    python benchmarks/transfer.py [--real FOLDER] [--patches 600] [--seeds 2]     (about 40 minutes on 2 quiet cores)
FOLDER holds real patches and a manifest.csv (path, score, slide). Every line is one more look at it: no setting may be chosen by it.
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

MISLEADERS = dict.fromkeys(slide.MISLEADERS, False)
FACTORS = {  # what is changed in the phantoms, and in the recipe
    "as in studies/transfer.toml": ({}, {}),
    "no blush": ({"blush": False, "stromal_blush": False}, {}),
    "no misleaders at all": (MISLEADERS, {}),
    "one laboratory": ({"laboratories": 1}, {}),
    "shares of scores as in BCI": ({"balanced": False}, {}),
    "no stain jitter": ({}, {"stain": 0.0}),
    "no flips": ({}, {"flips": False}),
}
SIDE_PX, EPOCHS = 128, 12


def cohort(folder, scratch):
    """(table, Patches) of a folder, divided by slide."""
    table, _ = patches.read_table(folder)
    table, _ = splits.split_table(table, seed=0)
    return table, store.open_store(table, side_px=SIDE_PX, folder=scratch, progress=False)


def scored(net, part):
    """(quadratic-weighted kappa, Spearman) of one network on one cohort."""
    probabilities = train.predict(net, part.images)
    kappa = cohen_kappa_score(
        part.score, probabilities.argmax(1), weights="quadratic", labels=range(4)
    )
    return kappa, agreement.spearman(probabilities @ np.arange(4), np.asarray(part.score))


def measure(name, real, options, scratch):
    """Prints one line: kappa and Spearman on phantoms of unseen slides and on the real patches, each seed apart."""
    switches, changes = FACTORS[name]
    settings = dict(
        patches=options.patches,
        slides=options.patches // 5,
        side_px=512,
        mpp=0.94,
        seed=22,
        balanced=True,
        laboratories=8,
    )
    folder = dataset.write_phantoms(
        scratch / fingerprint(switches), **settings | switches, progress=False
    )
    table, images = cohort(folder, scratch / "stores")
    part = {
        name_: images.take(np.flatnonzero(table["set"] == name_))
        for name_ in ("train", "val", "test")
    }
    recipe = recipes.recipe(
        "tuned", network="resnet18", epochs=EPOCHS, lr=1e-3, layer_decay=1.0, **changes
    )
    seen = []
    for seed in range(options.seeds):
        net = models.create("resnet18", side_px=SIDE_PX, weights="none", seed=seed)
        fit = train.fit(net, part["train"], part["val"], seed=seed, progress=False, **recipe)
        seen.append([*scored(fit.net, part["test"]), *scored(fit.net, real)])
    words = ("phantom kappa", "phantom Spearman", "real kappa", "real Spearman")
    print(
        f"{name:28}",
        "; ".join(
            f"{word} {' '.join(f'{row[i]:.2f}' for row in seen)}" for i, word in enumerate(words)
        ),
        flush=True,
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--real", type=Path, default=files.ROOT.parent / "shared" / "real")
    options.add_argument("--patches", type=int, default=600)
    options.add_argument("--seeds", type=int, default=2)
    options = options.parse_args()
    if not options.real.is_dir():
        raise SystemExit(f"There are no real patches at {options.real}: give --real FOLDER.")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        table, images = cohort(options.real, scratch / "stores")
        print(
            f"{len(table)} real patches of {table['slide'].nunique()} slides; {options.patches} phantoms; {SIDE_PX} px; {EPOCHS} epochs"
        )
        for name in FACTORS:
            measure(name, images, options, scratch)
