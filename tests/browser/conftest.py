"""A browser, and a study small enough to be trained on the spot: three networks, twelve patches, one of them with a hostile name."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from her2lib import files
from her2lib.study import config

PLACES = files.REPORTS, files.CACHE  # of the user, before any test points them elsewhere
EVIL = "<img src=x onerror=alert(1)>_3+.png"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--js-flags=--expose-gc",
    "--enable-precise-memory-info",
]
NETWORKS = ("resnet18", "vit_tiny")
STUDY = """question = "What does a browser show?"
rooms = ["90_explorer"]
[data]
source = {source!r}
[axes]
network = {networks}
weights = ["none"]
side_px = [64]
[train]
epochs = 1
[maps]
patches = {patches}
"""


@pytest.fixture(scope="session")
def browser():
    """Chromium without a head; CHROMIUM names another one than that on the path."""
    place = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not place:
        pytest.skip(
            "there is no Chromium: install it, or name one in the environment variable CHROMIUM"
        )
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=place, args=FLAGS)
        yield chromium
        chromium.close()


def patches(folder, many, *, side_px=96):
    """Path of a manifest of images whose tissue is drawn by chance: brown where the score is high."""
    rng, rows = np.random.default_rng(5), []
    for k in range(many):
        score = (3, 1, 2, 0)[k % 4]
        name = EVIL if k == 0 else f"{k:05}_{score}+.png"
        coarse = Image.fromarray((255 * rng.random((8, 8))).astype(np.uint8)).resize(
            (side_px, side_px), Image.Resampling.BICUBIC
        )
        brown = np.asarray(coarse)[..., None] / 255 > 1 - (score + 1) / 6
        image = np.where(brown, (150, 100, 60), (225, 222, 232)) + rng.integers(
            -20, 20, (side_px, side_px, 3)
        )
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / name)
        he = f"he/{k:05}.png" if k != 1 else ""
        if he:
            (folder / "he").mkdir(exist_ok=True)
            Image.fromarray((255 - image // 2).clip(0, 255).astype(np.uint8)).save(folder / he)
        rows.append(
            {
                "path": name,
                "score": f"{score}+" if score else "0",
                "slide": f"s{k}",
                "patient": f"p{k}",
                "mpp": 0.5,
                "he": he,
                "set": "test" if k < many // 2 else "val" if k < many // 2 + 2 else "train",
                "rater_a": score,
                "rater_b": score if k % 3 else 0,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(study, data, folder, reports): the study with its trained networks; HER2_REPORTS and HER2_CACHE lie in that folder."""
    import torch

    from her2lib import files
    from her2lib.networks import checkpoint, models, recipes, train
    from her2lib.study import cohort, config

    folder = tmp_path_factory.mktemp("browser")
    (folder / "data").mkdir()
    manifest = patches(folder / "data", 12)
    file = folder / "strangers.toml"
    file.write_text(
        STUDY.format(source=str(manifest), networks=list(NETWORKS), patches=12), encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder / "reports")
        patch.setattr(files, "CACHE", folder / "cache")
        own = config.load_study(str(file))
        data = cohort.prepare_cohort(own, side_px=64, progress=False)
        part = {
            name: data.patches.take(np.flatnonzero(data.table["set"] == name))
            for name in ("train", "val", "test")
        }
        torch.set_num_threads(2)
        for axes in own.runs():
            net = models.create(axes["network"], side_px=64, weights="none", seed=0)
            recipe = recipes.recipe(axes["recipe"], network=axes["network"], **own.train)
            fit = train.fit(net, part["train"], part["val"], seed=0, progress=False, **recipe)
            rows = [
                train.prediction_table(
                    train.predict(fit.net, p.images), p, run=axes["run"], subset=name
                )
                for name, p in part.items()
            ]
            checkpoint.save_run(
                own.folder_of(axes["run"]),
                net=fit.net,
                fit=fit,
                predictions=pd.concat(rows),
                parameters=axes,
            )
        yield own, data, file, folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """(study, data, folder) of the finished demo study; folder holds its runs by links, so that notes and pages of a test lie elsewhere."""
    from her2lib.study import cohort, results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", PLACES[0])
        patch.setattr(files, "CACHE", PLACES[1])
        own = config.load_study("demo")
        left = [run["run"] for run in own.runs() if not results.is_finished(own, run["run"])]
        if left:
            pytest.skip(
                f"the demo study is not complete, {len(left)} of its runs are missing: make demo"
            )
        folder = tmp_path_factory.mktemp("demo")
        (folder / "demo").mkdir()
        for name in {path.name for path in own.folder.iterdir()} - {
            "notes",
            "explorer.html",
            "explorer_files",
        }:
            (folder / "demo" / name).symlink_to(own.folder.resolve() / name)
        return own, cohort.prepare_cohort(own, side_px=own.run()["side_px"], progress=False), folder


@pytest.fixture(scope="session")
def demo_page(demo):
    """Path of explorer.html of the demo study, 48 patches, written afresh."""
    from her2lib.explorer import widget

    own, data, folder = demo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder)
        return Path(widget.write_page(own, data, doubt=widget.read_doubts(own), progress=False))


@pytest.fixture(scope="session")
def page_file(made):
    """Path of that study's explorer.html, with label doubt for three patches."""
    from her2lib.explorer import widget

    study, data, *_ = made
    doubt = pd.DataFrame(
        {
            "patch": data.table["name"],
            "doubt": np.where(data.table.index < 3, 0.9 - 0.1 * data.table.index, 0.01),
        }
    )
    return Path(widget.write_page(study, data, patches=12, doubt=doubt, progress=False))
