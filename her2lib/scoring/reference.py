"""The patches a run was trained on, and how far new ones lie from them.

The distance tells patches of a kind that the network never saw.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors

from her2lib import files
from her2lib.data import splits
from her2lib.data.patches import Patches
from her2lib.files import DataError
from her2lib.networks import models
from her2lib.study import cohort, config, fingerprints

# Out of distribution: farther from the NEIGHBOURS nearest training patches than the QUANTILE of
# training patches is from those of other slides, in FOLDS folds.
NEIGHBOURS = 5
QUANTILE = 0.99
FOLDS = 5


@dataclass(frozen=True)
class TrainingReference:
    """What training looked like to a network: the embedding of its patches and how far they lie.

    limit is the cosine distance that 99 % of them keep to training patches of other slides.
    """

    embedding: np.ndarray  # (N,D)
    limit: float
    field_um: float  # side of a training patch; NaN where mpp is unknown


@torch.inference_mode()
def embed_patches(
    net: models.Net, images: torch.Tensor, *, device: str = "cpu", batch: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """((N,4) float32 probabilities, (N,D) float32 embedding) of uint8 images (N,3,H,W)."""
    net = net.to(device).eval()
    probabilities = []
    embedding = []
    for start in range(0, len(images), batch):
        tap = net.tap(models.normalise(images[start : start + batch], net))
        probabilities.append(tap.logits.softmax(1))
        embedding.append(tap.embedding)
    return _float_array(probabilities), _float_array(embedding)


def training_reference(
    net: models.Net, info: dict, run: Path, *, device: str, progress: bool = True
) -> tuple[TrainingReference | None, list[str]]:
    """(TrainingReference, or None where it cannot be had; sentences about it).

    From embedding.npz beside the model, or computed from the study's training patches and written
    there.
    """
    file = run / "embedding.npz"
    stamp = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    arrays = {}
    if file.is_file():
        arrays = dict(np.load(file, allow_pickle=False))
    if str(arrays.get("stamp", "")) != stamp:
        training, why = training_cohort(run, info, progress=progress)
        if training is None:
            return None, [
                f"Whether a patch is unlike the training data is not known: {why} The columns "
                "distance and unlike stay empty."
            ]
        _, embedding = embed_patches(net, training.images, device=device)
        arrays = {
            "stamp": stamp,
            "embedding": embedding,
            "limit": held_out_limit(embedding, training.slide),
            "field_um": float(pd.Series(training.mpp, dtype=float).median()) * net.side_px,
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        files.write_bytes(file, buffer.getvalue())
    reference = TrainingReference(
        arrays["embedding"], float(arrays["limit"]), float(arrays["field_um"])
    )
    return reference, [
        "Unlike the training data: the mean cosine distance in the network's embedding to the "
        f"{NEIGHBOURS} nearest of {len(reference.embedding)} training patches exceeds "
        f"{reference.limit:.3g}, which {QUANTILE:.0%} of them keep to the training patches of "
        "other slides."
    ]


def training_cohort(run: Path, info: dict, *, progress: bool = True) -> tuple[Patches | None, str]:
    """(Patches a run was trained on, ""), or (None, a sentence why they are not at hand)."""
    started_with = files.read_json(run / "done.json").get("parameters", {})
    # receipts older than the parameter's name of today say "study"
    name = started_with.get("study_name") or started_with.get("study")
    name = name or run.resolve().parents[1].name
    axes = info["parameters"]
    try:
        study = config.load_study(name)
        if not study.cohort_path.exists():
            return None, f"the study's patches are no longer at {study.cohort_path}."
        if fingerprints.data_fingerprint(study) != info["fingerprints"].get("data"):
            changed = f"the patches of study {study.name} have changed since this run was trained."
            return None, changed
        data = cohort.prepare_cohort(
            study, side_px=axes["side_px"], split=axes["split"], progress=progress
        )
    except (config.StudyError, DataError, OSError) as error:
        return None, str(error)
    subset = splits.take_fraction(data.table, fraction=axes["n_train"], seed=axes["seed"])
    is_trained = (data.table["set"] == "train") & data.table["name"].isin(subset["name"])
    return data.patches.take(np.flatnonzero(is_trained)), ""


def neighbour_distance(embedding: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N,) mean cosine distance of rows (N,D) to the NEIGHBOURS nearest rows of known (M,D)."""
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known)), metric="cosine").fit(known)
    return nearest.kneighbors(embedding)[0].mean(1)


def held_out_limit(embedding: np.ndarray, slide: Sequence[str] | np.ndarray) -> float:
    """float, the QUANTILE of each training patch's distance to those of other folds.

    A slide lies in one fold; a patch whose slide is unknown counts as a slide.
    """
    groups = np.array([name or f"patch {row}" for row, name in enumerate(slide)])
    if len(set(groups)) < 2:
        groups = np.arange(len(groups)).astype(str)
    distance = np.zeros(len(groups))
    folds = GroupKFold(min(FOLDS, len(set(groups))))
    for rest, held_out in folds.split(embedding, groups=groups):
        distance[held_out] = neighbour_distance(embedding[held_out], embedding[rest])
    return float(np.quantile(distance, QUANTILE))


# --- helpers --------------------------------------------------------------------------------------


def _float_array(parts):
    """float32 array of a list of tensors, one behind the other."""
    return torch.cat(parts).float().cpu().numpy()
