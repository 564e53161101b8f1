"""New patches and slides under a finished run: probabilities, maps, how unlike the training data they are, slides summed up."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import torch
from PIL import Image, ImageOps
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

from her2lib import files, plots
from her2lib.data import layouts, patches, slides, splits, store
from her2lib.data.images import FORMATS, DataError, map_ahead, probe_files, read_pixels
from her2lib.maps import attribution
from her2lib.networks import checkpoint, models, recipes
from her2lib.scores import SCORES, score_name
from her2lib.stats.intervals import SumStatistic, bootstrap, mean
from her2lib.study import cohort, config, fingerprints

NEIGHBOURS, QUANTILE, FOLDS = 5, 0.99, 5
KNOWN = [
    "patch",
    "path",
    "slide",
    "patient",
    "x",
    "y",
    "mpp",
    "dab",
]  # of a patch before it is scored; NaN where it is not
# fields a side: what the bootstrap draws whole, because neighbours share tissue, stain and cut
BLOCK = 4
SHARE = 0.1
PART = (
    64  # patches decoded, scored and mapped at a time, so memory stays flat over a slide of 10,000
)
SHOWN_PX = 512  # of a patch under its map
RULE = (
    "A slide is summed up as the highest score that, with all higher ones, more than 10 % of its patches are given. The rule counts "
    "patches, not tumour cells, and no pathologist has looked: it is not an ASCO/CAP score."
)
RESEARCH = "Research use only: a patch-level surrogate is not an ASCO/CAP score."
given = SumStatistic(
    lambda hit: np.stack([hit, np.ones(len(hit))], 1),
    lambda sums: sums[..., 0] / sums[..., 1],
    kind="proportion",
)


@dataclass(frozen=True)
class TrainingReference:
    """What training looked like: embedding (N,D), the distance that 99 % of it keeps to other slides, a patch's side in um."""

    embedding: np.ndarray
    limit: float
    field_um: float  # NaN where mpp is unknown


def find_run(written):
    """Path of a finished run: its folder, or study/run, or a study of one run."""
    folder = Path(written)
    if not (folder / "run.json").is_file():
        study, _, run = str(written).strip("/").partition("/")
        runs = sorted(
            file.parent for file in (files.REPORTS / study / "runs").glob(f"{run or '*'}/run.json")
        )
        if len(runs) != 1:
            names = (
                ", ".join(f"{study}/{one.name}" for one in runs)
                or "none is finished: `her2 run` trains one"
            )
            raise DataError(
                f"{written} is not the folder of one finished run. Of study {study!r}: {names}."
            )
        folder = runs[0]
    return folder


def score_paths(paths, run, *, folder, maps=200, device=None, progress=True, **tiling):
    """(scores, slides, notes, problems): tables, sentences; written to folder with an overlay per patch and a heat map per slide."""
    net, info = checkpoint.load_run(run)
    folder, device = files.make_folder(folder), device or recipes.choose_device()
    familiar, notes = training_reference(net, info, run, device=device, progress=progress)
    rows, problems = gather_patches(paths, folder, progress=progress, **tiling)
    if not len(rows):
        raise DataError("There is nothing to score. " + " ".join(problems))
    if info["verdict"]:
        notes.insert(
            0,
            f"COLLAPSED: this run {info['verdict']}; its scores, maps and distances mean nothing.",
        )
    notes += _fields_differ(rows, familiar)
    table = _scored(net.to(device), rows, familiar, folder, maps, device, problems, progress)
    if maps < len(table):
        notes.append(
            f"Maps were drawn for {maps} of {len(table)} patches, evenly chosen; --maps N draws more."
        )
    summed = summarise_slides(table)
    for slide, part in table[table.x.notna()].groupby("slide"):
        _heat(slide, part, folder)
    notes += [RULE] * bool(len(summed)) + [RESEARCH]
    files.write_table(folder / "scores.csv", table)
    files.write_table(folder / "slides.csv", summed)
    files.write_text(folder / "notes.txt", "\n".join([*notes, *problems]) + "\n")
    return table, summed, notes, problems


def gather_patches(paths, folder, *, progress=True, **tiling):
    """(table: patch, path, slide, patient, x, y, mpp, dab; problems) of images, folders, manifests and slides, which are cut first."""
    tables, problems, cut = [], [], []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(
                f"There is nothing at {path}: name an image, a folder of them, a manifest.csv or a slide."
            )
        inside = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        if path.suffix.lower() == ".csv" or (path / "manifest.csv").is_file():
            tables.append(_listed(path, problems))
        elif whole := [
            p
            for p in inside
            if p.suffix.lower() in slides.SUFFIXES and openslide.OpenSlide.detect_format(p)
        ]:
            cut += whole
        else:
            tables.append(_loose(path, problems))
    if cut:
        manifest, more = slides.tile_slides(cut, folder / "tiles", progress=progress, **tiling)
        problems += more
        tables += [_listed(folder / "tiles", problems)] if len(manifest) else []
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["path"])
    return table.drop_duplicates("path", ignore_index=True), problems


def training_reference(net, info, run, *, device, progress=True):
    """(Familiar or None, sentences): from embedding.npz beside the model, or computed from the study's training patches and kept there."""
    file, stamp = (
        run / "embedding.npz",
        hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
    )
    held = dict(np.load(file, allow_pickle=False)) if file.is_file() else {}
    if str(held.get("stamp", "")) != stamp:
        known, why = training_cohort(run, info, progress=progress)
        if known is None:
            return None, [
                f"Whether a patch is unlike the training data is not known: {why} The columns distance and unlike stay empty."
            ]
        _, embedding = embed_patches(net, known.images, device=device)
        field_um = float(pd.Series(known.mpp, dtype=float).median()) * net.side_px
        held = dict(
            stamp=stamp,
            embedding=embedding,
            limit=held_out_limit(embedding, known.slide),
            field_um=field_um,
        )
        np.savez(buffer := io.BytesIO(), **held)
        files.write_bytes(file, buffer.getvalue())
    familiar = TrainingReference(held["embedding"], float(held["limit"]), float(held["field_um"]))
    return familiar, [
        f"Unlike the training data: the mean cosine distance in the network's embedding to the {NEIGHBOURS} nearest of "
        f"{len(familiar.embedding)} training patches exceeds {familiar.limit:.3g}, which {QUANTILE:.0%} of them keep to the "
        "training patches of other slides."
    ]


def training_cohort(run, info, *, progress=True):
    """(Patches a run was trained on, ""), or (None, a sentence why they are not at hand)."""
    receipt = files.read_json(run / "done.json")
    started_with = receipt.get("parameters", {})
    # receipts older than the parameter's name of today say "study"
    written = started_with.get("study_name") or started_with.get("study")
    written = written or run.resolve().parents[1].name
    try:
        study, axes = config.load_study(written), info["parameters"]
        if not study.cohort_path.exists():
            return None, f"the study's patches are no longer at {study.cohort_path}."
        if fingerprints.data_fingerprint(study) != info["fingerprints"].get("data"):
            return (
                None,
                f"the patches of study {study.name} have changed since this run was trained.",
            )
        data = cohort.prepare_cohort(
            study, side_px=axes["side_px"], split=axes["split"], progress=progress
        )
    except (config.StudyError, DataError, OSError) as error:
        return None, str(error)
    kept = splits.take_fraction(data.table, fraction=axes["n_train"], seed=axes["seed"])["name"]
    return data.patches.take(
        np.flatnonzero((data.table["set"] == "train") & data.table["name"].isin(kept))
    ), ""


@torch.inference_mode()
def embed_patches(net, images, *, device="cpu", batch=32):
    """((N,4) float32 probabilities, (N,D) float32 embedding) of uint8 images (N,3,H,W)."""
    net = net.to(device).eval()
    taps = [
        net.tap(models.normalise(images[i : i + batch], net)) for i in range(0, len(images), batch)
    ]
    return tuple(
        torch.cat(part).float().cpu().numpy()
        for part in ([t.logits.softmax(1) for t in taps], [t.embedding for t in taps])
    )


def neighbour_distance(embedding, known):
    """(N,) mean cosine distance of rows (N,D) to the NEIGHBOURS nearest rows of known (M,D)."""
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known)), metric="cosine").fit(known)
    return nearest.kneighbors(embedding)[0].mean(1)


def held_out_limit(embedding, slide):
    """float, the QUANTILE of each training patch's distance to those of other folds; a slide (unknown: a patch) lies in one fold."""
    groups = np.array([one or f"patch {row}" for row, one in enumerate(slide)])
    if len(set(groups)) < 2:
        groups = np.arange(len(groups)).astype(str)
    out = np.zeros(len(groups))
    for rest, held in GroupKFold(min(FOLDS, len(set(groups)))).split(embedding, groups=groups):
        out[held] = neighbour_distance(embedding[held], embedding[rest])
    return float(np.quantile(out, QUANTILE))


def summarise_slides(table):
    """DataFrame, rows of slide, metric, value, low, high, n, groups, note: shares of patches per score, mean score, the RULE's score."""
    rows = []
    for slide, part in table[table.slide != ""].groupby("slide"):
        groups, caution = _blocks(part)
        answer = part[[f"p{k}" for k in range(4)]].to_numpy().argmax(1)
        found = {
            f"share of {score_name(k)}": bootstrap(
                given, (answer == k).astype(float), groups=groups
            )
            for k in range(4)
        }
        found["mean expected score"] = bootstrap(mean, part.expected.to_numpy(), groups=groups)
        rows += [
            dict(
                slide=slide,
                metric=m,
                value=e.value,
                low=e.low,
                high=e.high,
                n=e.n,
                groups=e.groups,
                note="; ".join(filter(None, [e.note, caution])),
            )
            for m, e in found.items()
        ]
        highest = max(k for k in range(4) if k == 0 or (answer >= k).mean() > SHARE)
        rows.append(
            dict(
                slide=slide,
                metric="summary score",
                value=score_name(highest),
                n=len(part),
                groups="patches",
                note=RULE,
            )
        )
        if (part.unlike != "").any():
            rows.append(
                dict(
                    slide=slide,
                    metric="share unlike the training data",
                    value=(part.unlike == "yes").mean(),
                    n=len(part),
                    groups="patches",
                    note="not an estimate: a count of these patches",
                )
            )
    return pd.DataFrame(
        rows, columns=["slide", "metric", "value", "low", "high", "n", "sample", "note"]
    )


def _scored(net, rows, familiar, folder, maps, device, problems, progress):
    """DataFrame, a row per patch that could be decoded; the others go to problems."""
    mapped = set(np.linspace(0, len(rows) - 1, min(maps, len(rows))).round().astype(int))
    method = "relevance" if net.layers else "grad_cam"
    names = _file_names(rows)
    out, bar = [], tqdm(total=len(rows), desc="scoring", unit="patch", disable=not progress)
    for start in range(0, len(rows), PART):
        part = rows.iloc[start : start + PART]
        images = list(map_ahead(lambda path: _decoded(path, net.side_px), part.path))
        problems += [
            f"{Path(path).name} is left out: {why}."
            for path, (_, why) in zip(part.path, images, strict=True)
            if why
        ]
        good = [image is not None for image, _ in images]
        if any(good):
            part, batch = (
                part[good],
                torch.from_numpy(np.stack([image for image, _ in images if image is not None])),
            )
            out.append(_answers(part, *embed_patches(net, batch, device=device), familiar))
            drawn = [i for i, row in enumerate(part.index) if row in mapped]
            out[-1]["map"] = [
                f"maps/{names[row]}.png" if row in mapped else "" for row in part.index
            ]
            _overlays(net, batch[drawn], out[-1].iloc[drawn], method, folder)
        bar.update(len(good))
    if not out:
        raise DataError("No patch could be decoded. " + " ".join(problems[:3]))
    return pd.concat(out, ignore_index=True)


def _answers(part, probabilities, embedding, familiar):
    """DataFrame of one part: who, score, confidence, p0..p3, expected score, distance, unlike (yes, no, "" unknown)."""
    far = (
        neighbour_distance(embedding, familiar.embedding)
        if familiar
        else np.full(len(part), np.nan)
    )
    answer = probabilities.argmax(1)
    shares = {f"p{k}": probabilities[:, k].round(5) for k in range(4)}
    unlike = np.where(far > familiar.limit, "yes", "no") if familiar else ""
    return part.assign(
        score=[SCORES[k] for k in answer],
        confidence=probabilities.max(1).round(4),
        **shares,
        expected=(probabilities @ np.arange(4)).round(4),
        distance=far.round(5),
        unlike=unlike,
    )


def _overlays(net, images, rows, method, folder):
    """None; folder/maps/*.png: patch beside its map for the score that was given."""
    for i in range(0, len(rows), 16):
        x, part = models.normalise(images[i : i + 16], net), rows.iloc[i : i + 16]
        heats = (
            attribution.METHODS[method]
            .function(net, x, torch.tensor([SCORES.index(s) for s in part.score]))
            .cpu()
            .numpy()
        )
        caption = attribution.METHODS[method].caption
        for row, heat in zip(part.itertuples(), heats, strict=True):
            shown = ImageOps.fit(
                read_pixels(row.path), (SHOWN_PX, SHOWN_PX), Image.Resampling.BICUBIC
            )  # the middle square, as in store
            figure, (left, right) = plots.panels(1, 2, width=5.2, height=5.6)
            odd = row.unlike == "yes"
            plots.patch(
                np.asarray(shown),
                left,
                title=row.patch[-60:] + ("\nUNLIKE THE TRAINING DATA" if odd else ""),
                colour=plots.RED if odd else plots.INK,
            )
            plots.overlay(
                np.asarray(shown),
                heat,
                right,
                title=f"scored {row.score} ({row.confidence:.0%})\n{caption}",
            )
            right.set_xlabel(f"{plots.SCALING}\n{RESEARCH}", fontsize=6.5)
            files.write_bytes(folder / row.map, plots.image_bytes(figure))
            plots.close(figure)


def _heat(slide, part, folder):
    """None; folder/<slide>_heat.png: expected score of every field over the thumbnail, and plain DAB beside it as the null."""
    home = Path(part.path.iloc[0]).parent
    facts = (
        pd.read_csv(home.parent / "slides.csv", dtype={"slide": str}).set_index("slide").loc[slide]
    )
    thumbnail = np.asarray(read_pixels(home / "thumbnail.png"))
    boxes = part[["x", "y"]].assign(side=facts.step).to_numpy(float) / facts.down
    figure, (left, right) = plots.panels(1, 2, width=7.5, height=6.5)
    plots.fields(
        thumbnail,
        boxes,
        part.expected,
        left,
        high=3.0,
        title=f"{slide}: expected score of each patch (0 to 3)",
    )
    plots.fields(
        thumbnail,
        boxes,
        part.dab,
        right,
        high=None,
        title="Null: share of the patch with DAB over 0.15, no network",
    )
    left.set_xlabel(RESEARCH, fontsize=8)
    files.write_bytes(folder / f"{slide}_heat.png", plots.image_bytes(figure))
    plots.close(figure)


def _blocks(part):
    """(groups (N,) of a bootstrap, caution): squares of BLOCK x BLOCK fields; patches one by one where no place is known."""
    if part.x.isna().any():
        return pd.Series(
            part.patch.to_numpy(), name="patches"
        ), "patches of one slide are not independent, so this interval is too narrow"
    gaps = np.concatenate([np.diff(np.unique(part[axis])) for axis in ("x", "y")])
    side = BLOCK * gaps.min(initial=np.inf)
    return pd.Series(
        [f"{x // side:.0f} {y // side:.0f}" for x, y in zip(part.x, part.y, strict=True)],
        name="blocks",
    ), (
        f"blocks of {BLOCK} x {BLOCK} neighbouring fields are drawn whole; this one slide alone, nothing about other slides"
    )


def _listed(path, problems):
    """DataFrame of the patches of a manifest; faulty ones go to problems."""
    csv = path if path.suffix.lower() == ".csv" else path / "manifest.csv"
    table, found = patches.read_table(path)
    problems += [
        f"{row.file} is left out: {row.problem}; {row.remedy}."
        for row in found[found.severity == "error"].itertuples()
    ]
    table, more = table.rename(columns={"name": "patch"}), layouts.read_csv(csv)
    if {"path", "x", "y", "dab"} <= set(more):  # made by `her2 tile`
        more = more.drop_duplicates("path")
        more.index = [os.path.join(csv.parent, path) for path in more.path]
        places = more[["x", "y", "dab"]].apply(pd.to_numeric, errors="coerce")
        table[["x", "y", "dab"]] = places.reindex(table.path).to_numpy()
    return table.reindex(columns=KNOWN)


def _loose(path, problems):
    """DataFrame of one image, or of all under a folder, of which nothing else is known; faulty ones go to problems."""
    found = (
        [path]
        if path.is_file()
        else sorted(
            p for p in path.rglob("*") if p.suffix.lower() in layouts.SUFFIXES and p.is_file()
        )
    )
    facts = probe_files([str(p) for p in found]).assign(
        path=[str(p) for p in found], patch=[p.name for p in found]
    )
    for row in facts[facts.fault != ""].itertuples():
        _, wrong, remedy = patches.PROBLEMS[row.fault]
        problems.append(f"{row.patch} is left out: {wrong.format(row.detail)}; {remedy}.")
    return facts[facts.fault == ""].assign(slide="", patient="").reindex(columns=KNOWN)


def _decoded(path, side_px):
    """((3,side_px,side_px) uint8, "") of an image file, or (None, why not)."""
    try:
        return store.decode_patch(path, side_px)[0], ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return None, f"it cannot be decoded ({str(error)[:80]})"


def _file_names(rows):
    """dict row -> name of its map's file, unlike any other."""
    names = rows.patch.map(slides.name_of)
    twice = names.duplicated(keep=False)
    return {row: f"{row:05d}_{name}" if twice[row] else name for row, name in names.items()}


def _fields_differ(rows, familiar):
    """list of str, a caution when new patches show another length of tissue than the training patches did."""
    if familiar is None or np.isnan(familiar.field_um) or not rows.mpp.notna().any():
        return []
    row = rows[rows.mpp.notna()].iloc[0]
    with Image.open(
        row.path, formats=FORMATS
    ) as image:  # its header: a patch that does not decode is named later
        field = row.mpp * min(image.size)
    if 0.8 < field / familiar.field_um < 1.25:
        return []
    return [
        f"The first patch shows {field:.0f} micrometres a side, the training patches {familiar.field_um:.0f}: cells look "
        f"{familiar.field_um / field:.1f} times their size in training. Cut with another --mpp or --side."
    ]
