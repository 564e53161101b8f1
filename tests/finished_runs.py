"""Studies whose runs say that they are finished, with answers made by hand, for page tests."""

import numpy as np
import pandas as pd
from PIL import Image

from her2lib import files
from her2lib.study import config, results

CERTAIN = np.eye(4)


def finished_study(folder, monkeypatch, text=""):
    """Study "made" of this TOML text below a folder; every run says that it is complete."""
    monkeypatch.setattr(files, "REPORTS", folder / "reports")
    file = folder / "made.toml"
    file.write_text(text, encoding="utf-8")
    study = config.load_study(str(file))
    for number, run in enumerate(study.runs()):
        finish(study, run["run"], fluctuation=number / 10)
    return study


def finish(study, run, *, verdict="", fluctuation=0.0, lr=1e-3):
    """None; the run.json of a finished run, collapsed where a verdict says why."""
    record = {
        "complete": True,
        "verdict": verdict,
        "fluctuation": fluctuation,
        "recipe": {"lr": lr},
        "fingerprints": {"data": "d", "code": "c"},
    }
    files.write_json(study.folder_of(run) / "run.json", record)


def answers(truth, predicted, *, run="r", subset="test", patients=None, first=0):
    """DataFrame of predictions.csv: a row for every patch, each of a patient of its own.

    predicted: scores, answered for certain, or (N,4) probabilities. patients: their ids, "" where
    unknown. Patches are called by their set and number, from first on.
    """
    predicted = np.asarray(predicted)
    if predicted.ndim == 1:
        predicted = CERTAIN[predicted]
    numbers = range(first, first + len(truth))
    if patients is None:
        patients = [f"{subset}_{number}" for number in numbers]
    table = pd.DataFrame(
        {
            "run": run,
            "set": subset,
            "patch": [f"{subset}{number:02d}" for number in numbers],
            "slide": "",
            "patient": patients,
            "truth": truth,
        }
    )
    return table.assign(**dict(zip(results.PROBABILITIES, predicted.T, strict=True)))


def patch_table(folder, score, *, subset="test", **columns):
    """DataFrame of a cohort's patches with image files, browner for higher scores; a slide each.

    Patches are called by their set and number.
    """
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(score):
        name = f"{subset}{number:02d}"
        path = folder / f"{name}.png"
        write_stripes(path, score=max(one, 0), seed=number)
        row = {"name": name, "path": str(path), "score": one, "set": subset}
        rows.append({**row, "slide": f"S{number}", "patient": "", "mpp": 1.0})
    return pd.DataFrame(rows).assign(**columns)


def write_stripes(path, *, score, seed, side_px=48):
    """None; a PNG of glass with thin stripes, the browner the higher the score."""
    pixels = np.random.default_rng(seed).integers(230, 240, (side_px, side_px, 3), dtype=np.uint8)
    brown = np.array([235, 235, 235]) - score * np.array([25, 45, 60])
    pixels[:, ::6] = brown
    Image.fromarray(pixels).save(path)


def texts(html):
    """list of str, what the cells and captions of a table say, without tags."""
    pieces = []
    for piece in str(html).replace(">", "<").split("<")[::2]:
        if piece.strip():
            pieces.append(piece.strip())
    return pieces
