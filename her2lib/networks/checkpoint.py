"""A training on disk: its checkpoint while it runs, and the finished run, written whole."""

import json
import math
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from her2lib.files import make_folder, read_json, write_bytes, write_json, write_table
from her2lib.networks import collapse, models

CHECKPOINT = "checkpoint.pt"
PROGRESS = "progress.json"
MODEL = "model.safetensors"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")
# A checkpoint of a tuned ViT-B/16 is 1.7 GB, so there is none after every short epoch.
EVERY_SECONDS = 30


# --- while it trains ---------------------------------------------------------------------------


@dataclass
class TrainingState:
    """What a resumed training takes up again, besides the states of network and optimizer.

    rows: history, one dict an epoch. weights: those to hand back, of kept_epoch.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, torch.Tensor] | None = None
    kept_epoch: int = 0


class Keeper:
    """The files of a training under way; without a folder it neither reads nor writes."""

    def __init__(self, folder: str | Path | None, stamp: str) -> None:
        self.folder = None
        if folder:
            self.folder = Path(folder)
        self.stamp = stamp
        self.saved_at = time.perf_counter()

    def restore(self, state: TrainingState, parts: dict[str, Any], device: torch.device) -> str:
        """str, a note on what was taken up again, "" when nothing was; state and parts are filled.

        parts: name -> what has a state_dict. ValueError for a checkpoint of another training.
        """
        if self.folder is None:
            return ""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return self._restore_finished(state)
        content = torch.load(path, map_location=device, weights_only=True)
        if content["stamp"] != self.stamp:
            raise ValueError(
                f"{path} belongs to another training (other patches, recipe, seed, code or "
                "starting weights): delete it (her2 run --force does) or give another folder."
            )
        state.rows = content["rows"]
        state.weights = content["kept"]
        state.kept_epoch = content["kept_epoch"]
        for name, part in parts.items():
            part.load_state_dict(content[name])
        return f"taken up again after epoch {len(state.rows) - 1}"

    def save(self, state: TrainingState, parts: dict[str, Any], *, finished: bool) -> None:
        """None; now and then, and at the end, a checkpoint: a kill costs what came after it."""
        if self.folder is None:
            return
        if not finished and time.perf_counter() - self.saved_at <= EVERY_SECONDS:
            return
        self.saved_at = time.perf_counter()
        content = {
            "stamp": self.stamp,
            "rows": state.rows,
            "kept": state.weights,
            "kept_epoch": state.kept_epoch,
        }
        for name, part in parts.items():
            content[name] = part.state_dict()
        # One temporary name, so that kills leave no heap.
        partial = make_folder(self.folder) / (CHECKPOINT + ".part")
        torch.save(content, partial)
        os.replace(partial, self.folder / CHECKPOINT)

    def write_progress(self, rows: list[dict[str, Any]], epochs: int) -> None:
        """None; progress.json for whoever watches from outside: epoch, kappa, seconds left."""
        if self.folder is None:
            return
        done = len(rows) - 1
        kappa = rows[-1]["val_kappa"]
        record = {"epoch": done, "epochs": epochs, "kappa": None, "seconds_left": None}
        if not math.isnan(kappa):
            record["kappa"] = round(kappa, 4)
        if done:
            seconds_per_epoch = sum(row["seconds"] for row in rows[1:]) / done
            record["seconds_left"] = round((epochs - done) * seconds_per_epoch, 1)
        write_json(self.folder / PROGRESS, record)

    def _restore_finished(self, state):
        """str, a note; a notebook that runs again after its training takes what was kept then."""
        path = self.folder / MODEL
        if not path.is_file():
            return ""
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Otherwise the study asks for another training: this one is overwritten.
            if metadata.get("stamp") != self.stamp:
                return ""
            state.rows = json.loads(metadata["rows"])
            state.kept_epoch = int(metadata["kept_epoch"])
            names = file.keys()  # safe_open is no dictionary
            state.weights = {name: file.get_tensor(name) for name in names}
        return "not trained again: this very training was finished before"


# --- finished runs -----------------------------------------------------------------------------


def save_run(
    folder: str | Path,
    *,
    net: models.Net,
    fit: Any,
    predictions: pd.DataFrame,
    parameters: dict[str, Any],
    fingerprints: dict[str, str] | None = None,
    **more: Any,
) -> Path:
    """Path of a finished run: history.csv, predictions.csv, model.safetensors, run.json the last.

    fit: the Fit of networks.train. predictions: one row a patch and set (train.prediction_table).
    parameters: value of each axis of the study. more: further keys of run.json. A folder is a
    finished run when run.json says "complete": true.
    Example: save_run("runs/a", net=fit.net, fit=fit, predictions=table, parameters={"seed": 0}).
    """
    folder = make_folder(folder)
    # While files change the run is not complete.
    (folder / "run.json").unlink(missing_ok=True)
    record = _record_of_fit(fit)
    record |= {
        "parameters": parameters,
        "fingerprints": fingerprints or {},
        "network": net.config,
        "versions": _versions(),
    }
    record |= _findings(fit.history, predictions)
    record |= {**more, "complete": True}
    write_table(folder / "history.csv", fit.history)
    write_table(folder / "predictions.csv", predictions)
    write_bytes(folder / MODEL, _model_bytes(net, fit))
    write_json(folder / "run.json", _without_nan(record))
    for name in (CHECKPOINT, PROGRESS):
        (folder / name).unlink(missing_ok=True)
    return folder


def load_run(folder: str | Path) -> tuple[models.Net, dict[str, Any]]:
    """(Net, what run.json says) of a finished run.

    ValueError for a folder without one. Example: net, record = load_run("runs/a").
    """
    path = Path(folder) / "run.json"
    record = read_json(path)
    if not record.get("complete"):
        raise ValueError(
            f"{folder} holds no finished run: run.json is written last; "
            "start the same run again and it goes on."
        )
    net = models.create(**{**record["network"], "weights": "none"})
    net.load_state_dict(load_file(path.with_name(MODEL)))
    net.config["weights"] = record["network"]["weights"]
    return net, record


def _record_of_fit(fit):
    """dict of all that a Fit says about its training, besides the network and the history."""
    return {name: value for name, value in vars(fit).items() if name not in ("net", "history")}


def _versions():
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _findings(history, predictions):
    """dict sets, verdict, fluctuation of run.json; external patches are judged apart."""
    by_set = predictions.groupby("set", sort=False)
    sets = {name: collapse.evaluate_predictions(rows) for name, rows in by_set}
    collapsed = [
        f"{evaluation['verdict']} ({name})"
        for name, evaluation in sets.items()
        if evaluation["verdict"] and name != "external"
    ]
    return {
        "sets": sets,
        "verdict": collapse.loss_problem(history) or "; ".join(collapsed),
        "fluctuation": collapse.fluctuation(history),
    }


def _model_bytes(net, fit):
    """bytes of model.safetensors, with what tells the same training when it is asked for again."""
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    metadata = {
        "stamp": fit.stamp,
        "rows": json.dumps(fit.history.to_dict("records")),
        "kept_epoch": str(fit.kept_epoch),
    }
    return to_bytes(state, metadata)


def _without_nan(record):
    """The same as plain JSON values: nan becomes null, NumPy numbers become numbers."""
    return json.loads(pd.Series(record).to_json(double_precision=15, default_handler=str))
