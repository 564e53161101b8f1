"""Finished runs on disk: written whole, run.json last; read back as a network and its record."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from her2lib.files import (
    make_folder,
    read_json,
    write_bytes,
    write_json,
    write_table,
)
from her2lib.networks import collapse, models

CHECKPOINT, PROGRESS, MODEL = "checkpoint.pt", "progress.json", "model.safetensors"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


def save_run(folder, *, net, fit, predictions, parameters, fingerprints=None, **more):
    """Path of a finished run: history.csv, predictions.csv, model.safetensors and, last, run.json with "complete": true."""
    folder = make_folder(folder)
    (folder / "run.json").unlink(missing_ok=True)  # while files change the run is not complete
    by_set = {
        name: collapse.evaluate_predictions(rows)
        for name, rows in predictions.groupby("set", sort=False)
    }
    bad = [
        f"{found['verdict']} ({name})"
        for name, found in by_set.items()
        if found["verdict"] and name != "external"
    ]
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    info = {
        name: value for name, value in vars(fit).items() if name not in ("net", "history")
    } | dict(
        parameters=parameters,
        fingerprints=fingerprints or {},
        network=net.config,
        versions=versions,
        sets=by_set,
        verdict=collapse.loss_problem(fit.history) or "; ".join(bad),
        fluctuation=collapse.fluctuation(fit.history),
        **more,
        complete=True,
    )
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    write_table(folder / "history.csv", fit.history)
    write_table(folder / "predictions.csv", predictions)
    trained = dict(
        stamp=fit.stamp,
        rows=json.dumps(fit.history.to_dict("records")),
        kept_epoch=str(fit.kept_epoch),
    )
    write_bytes(folder / MODEL, to_bytes(state, trained))
    write_json(
        folder / "run.json",
        json.loads(pd.Series(info).to_json(double_precision=15, default_handler=str)),
    )  # nan becomes null
    for name in (CHECKPOINT, PROGRESS):
        (folder / name).unlink(missing_ok=True)
    return folder


def load_run(folder):
    """(Net, info) of a finished run."""
    path = Path(folder) / "run.json"
    info = read_json(path)
    if not info.get("complete"):
        raise ValueError(
            f"{folder} holds no finished run: run.json is written last; start the same run again and it goes on."
        )
    net = models.create(**{**info["network"], "weights": "none"})
    net.load_state_dict(load_file(path.with_name(MODEL)))
    net.config["weights"] = info["network"]["weights"]
    return net, info
