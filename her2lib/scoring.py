"""New patches and slides under a finished run: probabilities, maps, distance, slides summed up.

The distance is that to the training data: it tells patches of a kind the network never saw.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

from her2lib import files, plots
from her2lib.data import new_patches, slides, splits, store
from her2lib.data.images import FORMATS, DataError, map_ahead, read_pixels
from her2lib.data.patches import Patches
from her2lib.maps import attribution
from her2lib.networks import checkpoint, models, recipes
from her2lib.scores import SCORES, score_name
from her2lib.stats.intervals import SumStatistic, bootstrap, mean
from her2lib.study import cohort, config, fingerprints

# Out of distribution: farther from the NEIGHBOURS nearest training patches than the QUANTILE of
# training patches is from those of other slides, in FOLDS folds.
NEIGHBOURS = 5
QUANTILE = 0.99
FOLDS = 5
# Fields a side that the bootstrap draws whole, because neighbours share tissue, stain and cut.
BLOCK = 4
# The fraction of patches that the RULE asks for.
LEAST_FRACTION = 0.1
# Patches decoded, scored and mapped at a time, so memory stays flat over a slide of 10,000.
CHUNK = 64
MAPS_AT_ONCE = 16
# Side in px of a patch under its map.
SHOWN_PX = 512
PROBABILITIES = [f"p{k}" for k in range(len(SCORES))]
SUMMARY = ["slide", "metric", "value", "low", "high", "n", "sample", "note"]
RULE = (
    "A slide is summed up as the highest score that, with all higher ones, more than 10 % of its "
    "patches are given. The rule counts patches, not tumour cells, and no pathologist has looked: "
    "it is not an ASCO/CAP score."
)
RESEARCH = "Research use only: a patch-level surrogate is not an ASCO/CAP score."


@dataclass(frozen=True)
class TrainingReference:
    """What training looked like to a network: the embedding of its patches and how far they lie.

    limit is the cosine distance that 99 % of them keep to training patches of other slides.
    """

    embedding: np.ndarray  # (N,D)
    limit: float
    field_um: float  # side of a training patch; NaN where mpp is unknown


# --- scoring --------------------------------------------------------------------------------------


def find_run(name: Path | str) -> Path:
    """Path of a finished run: its folder, study/run, or the name of a study of one run."""
    folder = Path(name)
    if (folder / "run.json").is_file():
        return folder
    study, _, run = str(name).strip("/").partition("/")
    records = (files.REPORTS / study / "runs").glob(f"{run or '*'}/run.json")
    runs = sorted(record.parent for record in records)
    if len(runs) != 1:
        names = ", ".join(f"{study}/{folder.name}" for folder in runs)
        names = names or "none is finished: `her2 run` trains one"
        raise DataError(
            f"{name} is not the folder of one finished run. Of study {study!r}: {names}."
        )
    return runs[0]


def score_paths(
    paths: Sequence[Path | str],
    run: Path,
    *,
    folder: Path | str,
    maps: int = 200,
    device: str | None = None,
    progress: bool = True,
    **tiling: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str], list[str]]:
    """(scores, slides, notes, problems) of new patches: two tables, and sentences about them.

    scores has a row per patch: score, confidence, p0..p3, expected, distance, unlike, map. slides
    has a row per slide and metric. In folder lie scores.csv, slides.csv, notes.txt, an overlay per
    mapped patch and, for a slide cut into fields, a picture of its scores.

    paths: images, folders of them, manifests, slides (new_patches.gather_patches).
    run: the folder of a finished run (find_run).  folder: where results go.
    maps: at most so many patches get a map, evenly chosen.  device: None for the best there is.
    progress: bars.  tiling: mpp, side_px, slide_mpp … of slides.tile_slides, for slides.

    Raises DataError where nothing can be scored.

    scores, slides, notes, problems = score_paths(["new/"], find_run("demo"), folder="scored/")
    """
    net, info = checkpoint.load_run(run)
    folder = files.make_folder(folder)
    device = device or recipes.choose_device()
    reference, notes = training_reference(net, info, run, device=device, progress=progress)
    rows, problems = new_patches.gather_patches(paths, folder, progress=progress, **tiling)
    if not len(rows):
        raise DataError("There is nothing to score. " + " ".join(problems))
    if info["verdict"]:
        verdict = f"COLLAPSED: this run {info['verdict']}; its scores, maps and distances mean"
        notes.insert(0, f"{verdict} nothing.")
    notes += _field_caution(rows, reference)
    net = net.to(device)
    table, more = _score_all(
        net, rows, reference, folder, maps=maps, device=device, progress=progress
    )
    problems += more
    if not len(table):
        raise DataError("No patch could be decoded. " + " ".join(problems[:3]))
    if maps < len(table):
        notes.append(
            f"Maps were drawn for {maps} of {len(table)} patches, evenly chosen; --maps N draws "
            "more."
        )
    summary = summarise_slides(table)
    for slide, part in table[table.x.notna()].groupby("slide"):
        _draw_slide(slide, part, folder)
    if len(summary):
        notes.append(RULE)
    notes.append(RESEARCH)
    files.write_table(folder / "scores.csv", table)
    files.write_table(folder / "slides.csv", summary)
    files.write_text(folder / "notes.txt", "\n".join([*notes, *problems]) + "\n")
    return table, summary, notes, problems


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


def summarise_slides(table: pd.DataFrame) -> pd.DataFrame:
    """DataFrame (slide, metric, value, low, high, n, sample, note) of a table of scores.

    Per slide: the fraction of patches of each score, the mean expected score, the RULE's score.
    """
    rows = []
    for slide, part in table[table.slide != ""].groupby("slide"):
        rows += [{"slide": slide, **row} for row in _slide_summary(part)]
    return pd.DataFrame(rows, columns=SUMMARY)


# --- distance to the training data ----------------------------------------------------------------


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


def _field_caution(rows, reference):
    """list of str, a caution where new patches show another length of tissue than training did."""
    if reference is None or np.isnan(reference.field_um) or not rows.mpp.notna().any():
        return []
    row = rows[rows.mpp.notna()].iloc[0]
    # the header alone: a patch that does not decode is named later
    with Image.open(row.path, formats=FORMATS) as image:
        field_um = row.mpp * min(image.size)
    if 0.8 < field_um / reference.field_um < 1.25:
        return []
    return [
        f"The first patch shows {field_um:.0f} micrometres a side, the training patches "
        f"{reference.field_um:.0f}: cells look {reference.field_um / field_um:.1f} times their "
        "size in training. Cut with another --mpp or --side."
    ]


# --- patch by patch -------------------------------------------------------------------------------


def _score_all(net, rows, reference, folder, *, maps, device, progress):
    """(DataFrame, a row per patch that could be decoded; sentences about the others)."""
    mapped = np.linspace(0, len(rows) - 1, min(maps, len(rows))).round().astype(int)
    names = _map_names(rows)
    map_files = {row: f"maps/{names[row]}.png" for row in mapped.tolist()}
    decode = partial(_decoded, side_px=net.side_px)
    tables = []
    problems = []
    bar = tqdm(total=len(rows), desc="scoring", unit="patch", disable=not progress)
    for start in range(0, len(rows), CHUNK):
        part = rows.iloc[start : start + CHUNK]
        decoded = list(map_ahead(decode, part.path))  # [(image or None, why not)]
        for path, (_, why) in zip(part.path, decoded, strict=True):
            if why:
                problems.append(f"{Path(path).name} is left out: {why}.")
        images = [image for image, _ in decoded if image is not None]
        if images:
            part = part[[image is not None for image, _ in decoded]]
            images = torch.from_numpy(np.stack(images))  # (B,3,H,W)
            table = _score_part(part, *embed_patches(net, images, device=device), reference)
            table["map"] = [map_files.get(row, "") for row in part.index]
            drawn = np.flatnonzero(table["map"] != "")
            _draw_maps(net, images[drawn], table.iloc[drawn], folder)
            tables.append(table)
        bar.update(len(decoded))
    if not tables:
        return pd.DataFrame(), problems
    return pd.concat(tables, ignore_index=True), problems


def _score_part(part, probabilities, embedding, reference):
    """DataFrame, rows of patches with their score, confidence, p0..p3, expected, distance, unlike.

    unlike tells whether a patch is out of distribution: yes, no, or "" where that is not known.
    """
    distance = np.full(len(part), np.nan)
    out_of_distribution = ""
    if reference:
        distance = neighbour_distance(embedding, reference.embedding)
        out_of_distribution = np.where(distance > reference.limit, "yes", "no")
    columns = {name: probabilities[:, k].round(5) for k, name in enumerate(PROBABILITIES)}
    return part.assign(
        score=[SCORES[k] for k in probabilities.argmax(1)],
        confidence=probabilities.max(1).round(4),
        **columns,
        expected=(probabilities @ np.arange(len(SCORES))).round(4),
        distance=distance.round(5),
        unlike=out_of_distribution,
    )


def _decoded(path, side_px):
    """((3,side_px,side_px) uint8, "") of an image file, or (None, why not)."""
    try:
        return store.decode_patch(path, side_px)[0], ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return None, f"it cannot be decoded ({str(error)[:80]})"


def _map_names(rows):
    """dict row -> name of its map's file, unlike any other."""
    names = rows.patch.map(slides.name_of)
    twice = names.duplicated(keep=False)
    for row in names.index[twice]:
        names[row] = f"{row:05d}_{names[row]}"
    return names.to_dict()


def _float_array(parts):
    """float32 array of a list of tensors, one behind the other."""
    return torch.cat(parts).float().cpu().numpy()


# --- slide by slide -------------------------------------------------------------------------------


def _count_hits(hit):
    """(N,2) of hit (N,): the hit and one, whose sums make a fraction."""
    return np.stack([hit, np.ones(len(hit))], 1)


def _hit_fraction(sums):
    """(…) fraction of (…,2) sums of _count_hits."""
    return sums[..., 0] / sums[..., 1]


score_fraction = SumStatistic(_count_hits, _hit_fraction, kind="proportion")


def _slide_summary(part):
    """list of dict, the rows of summarise_slides of one slide's patches."""
    groups, caution = _blocks(part)
    predicted = part[PROBABILITIES].to_numpy().argmax(1)
    estimates = {}
    for k in range(len(SCORES)):
        hit = (predicted == k).astype(float)
        estimates[f"share of {score_name(k)}"] = bootstrap(score_fraction, hit, groups=groups)
    estimates["mean expected score"] = bootstrap(mean, part.expected.to_numpy(), groups=groups)
    rows = []
    for metric, estimate in estimates.items():
        notes = [note for note in (estimate.note, caution) if note]
        rows.append(
            {
                "metric": metric,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "sample": estimate.sample,
                "note": "; ".join(notes),
            }
        )
    count = {"n": len(part), "sample": "patches"}
    score = score_name(_rule_of_slide(predicted))
    rows.append({"metric": "summary score", "value": score, **count, "note": RULE})
    if (part.unlike != "").any():
        note = "not an estimate: a count of these patches"
        fraction = (part.unlike == "yes").mean()
        rows.append(
            {"metric": "share unlike the training data", "value": fraction, **count, "note": note}
        )
    return rows


def _rule_of_slide(predicted):
    """int, the RULE's score of a slide whose patches are predicted (N,)."""
    highest = 0
    for k in range(1, len(SCORES)):
        if (predicted >= k).mean() > LEAST_FRACTION:
            highest = k
    return highest


def _blocks(part):
    """(groups (N,) of a bootstrap, caution): squares of BLOCK x BLOCK neighbouring fields.

    Patches one by one where it is not known where they lie.
    """
    if part.x.isna().any():
        caution = "patches of one slide are not independent, so this interval is too narrow"
        return pd.Series(part.patch.to_numpy(), name="patches"), caution
    gaps = np.concatenate([np.diff(np.unique(part[axis])) for axis in ("x", "y")])
    side = BLOCK * gaps.min(initial=np.inf)
    blocks = [f"{x // side:.0f} {y // side:.0f}" for x, y in zip(part.x, part.y, strict=True)]
    caution = (
        f"blocks of {BLOCK} x {BLOCK} neighbouring fields are drawn whole; this one slide alone, "
        "nothing about other slides"
    )
    return pd.Series(blocks, name="blocks"), caution


# --- pictures -------------------------------------------------------------------------------------


def _draw_maps(net, images, rows, folder):
    """Writes folder/maps/*.png: each patch beside its map for the score that was predicted."""
    method = attribution.METHODS["relevance" if net.layers else "grad_cam"]
    for start in range(0, len(rows), MAPS_AT_ONCE):
        part = rows.iloc[start : start + MAPS_AT_ONCE]
        x = models.normalise(images[start : start + MAPS_AT_ONCE], net)
        predicted = torch.tensor([SCORES.index(score) for score in part.score])
        maps = method.function(net, x, predicted).cpu().numpy()
        for row, one_map in zip(part.itertuples(), maps, strict=True):
            _draw_map(row, one_map, method.caption, folder)


def _draw_map(row, one_map, caption, folder):
    """Writes the figure of one patch beside its map (h,w)."""
    # the middle square, as in the store
    middle = ImageOps.fit(read_pixels(row.path), (SHOWN_PX, SHOWN_PX), Image.Resampling.BICUBIC)
    pixels = np.asarray(middle)
    title = row.patch[-60:]
    colour = plots.INK
    if row.unlike == "yes":
        title += "\nUNLIKE THE TRAINING DATA"
        colour = plots.RED
    figure, (left, right) = plots.panels(1, 2, width=5.2, height=5.6)
    plots.patch(pixels, left, title=title, colour=colour)
    scored = f"scored {row.score} ({row.confidence:.0%})"
    plots.overlay(pixels, one_map, right, title=f"{scored}\n{caption}")
    right.set_xlabel(f"{plots.SCALING}\n{RESEARCH}", fontsize=6.5)
    files.write_bytes(folder / row.map, plots.image_bytes(figure))
    plots.close(figure)


def _draw_slide(slide, part, folder):
    """Writes folder/<slide>_heat.png: the expected score of every field over the thumbnail.

    Plain DAB stands beside it as the null.
    """
    home = Path(part.path.iloc[0]).parent
    facts = pd.read_csv(home.parent / "slides.csv", dtype={"slide": str}).set_index("slide")
    facts = facts.loc[slide]
    thumbnail = np.asarray(read_pixels(home / "thumbnail.png"))
    boxes = part[["x", "y"]].assign(side=facts.step).to_numpy(float) / facts.down
    figure, (left, right) = plots.panels(1, 2, width=7.5, height=6.5)
    title = f"{slide}: expected score of each patch (0 to 3)"
    plots.fields(thumbnail, boxes, part.expected, left, high=3.0, title=title)
    title = "Null: share of the patch with DAB over 0.15, no network"
    plots.fields(thumbnail, boxes, part.dab, right, high=None, title=title)
    left.set_xlabel(RESEARCH, fontsize=8)
    files.write_bytes(folder / f"{slide}_heat.png", plots.image_bytes(figure))
    plots.close(figure)
