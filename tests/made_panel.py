"""A panel of six synthetic patches under two untrained networks, for tests of maps in a report."""

import numpy as np
import pandas as pd
import torch
from finished_runs import answers, finish, finished_study
from PIL import Image

from her2lib import files
from her2lib.data.patches import Patches
from her2lib.data.reading import Cohort
from her2lib.networks import checkpoint, models, train
from her2lib.pages import map_panel as panels
from her2lib.phantoms import dataset

SIDE_PX = 64
MPP = 1.5
STUDY = """
[phantom]
truth = true

[axes]
network = ["resnet18", "vit_tiny"]
weights = ["none"]
side_px = [64]

[maps]
patches = 4
gallery = 4
resamples = 100
"""


def made_panel(folder, monkeypatch, *, collapsed=""):
    """MapPanel of a study whose two runs say that they are finished; one network may collapse.

    Four of its six patches are drawn; every two come from one patient.
    """
    monkeypatch.setattr(files, "CACHE", folder / "cache")
    study = finished_study(folder, monkeypatch, STUDY)
    drawn = [dataset.make_patch(i, side_px=SIDE_PX, mpp=MPP, score=i % 4) for i in range(6)]
    cohort = made_cohort(study, drawn)
    nets = {}
    for run in study.runs():
        net = models.create(run["network"], side_px=SIDE_PX, weights="none", seed=2)
        rows = answers(cohort.patches.score, train.predict(net, cohort.patches), run=run["run"])
        rows = rows.assign(patch=cohort.table["name"])
        rows.to_csv(study.folder_of(run["run"]) / "predictions.csv", index=False)
        nets[study.folder_of(run["run"])] = net
        if run["network"] == collapsed:
            finish(study, run["run"], verdict="one score")

    def load_run(folder):
        return nets[folder], {}

    def prepare_cohort(study, *, side_px):
        return cohort

    monkeypatch.setattr(checkpoint, "load_run", load_run)
    monkeypatch.setattr(panels, "prepare_cohort", prepare_cohort)
    return panels.map_panel(study)


def made_cohort(study, drawn):
    """Cohort of phantoms, all of them in the test set, with their images and truth in files."""
    folder = files.make_folder(study.cohort_path / "truth").parent
    rows = []
    for i, patch in enumerate(drawn):
        path = folder / f"patch{i}.png"
        Image.fromarray(patch.image).save(path)
        np.savez(folder / "truth" / f"patch{i}.npz", **patch.masks)
        row = {"name": path.name, "path": str(path), "score": i % 4, "set": "test", "mpp": MPP}
        rows.append({**row, "slide": f"S{i // 2}", "patient": f"P{i // 2}"})
    table = pd.DataFrame(rows)
    images = torch.from_numpy(np.stack([patch.image for patch in drawn]))
    patches = Patches(
        images=images.permute(0, 3, 1, 2).contiguous(),  # (6,3,64,64)
        score=table["score"].to_numpy(),
        slide=table["slide"].to_numpy(object),
        patient=table["patient"].to_numpy(object),
        name=table["name"].to_numpy(object),
        mpp=table["mpp"].to_numpy(),
    )
    return Cohort(table, patches, [], pd.DataFrame())
