"""Patches and slides at some paths, scored by a finished run: tables, pictures, sentences."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from her2lib import files
from her2lib.data import store
from her2lib.data.common_field import with_common_field
from her2lib.data.images import map_ahead
from her2lib.files import DataError
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.layout_sentences import count_text
from her2lib.networks import checkpoint, recipes
from her2lib.scores import SCORES, score_name
from her2lib.scoring import new_patches, pictures, reference, slide_summary
from her2lib.scoring.reference import TrainingReference
from her2lib.scoring.slide_summary import PROBABILITIES
from her2lib.stats.calibration import among_scores
from her2lib.stats.one_kappa import quadratic_kappa

# Patches decoded, scored and mapped at a time, so memory stays flat over a slide of 10,000.
CHUNK = 64
# What reading and drawing need to know, and no table.
INTERNAL = ["side_px", "field_px"]


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
    choices: Choices = FIND_OUT,
    device: str | None = None,
    progress: bool = True,
    **cutting: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str], list[str]]:
    """(scores, slides, notes, problems) of new patches: two tables, and sentences about them.

    scores has a row per patch: score, confidence, p0..p3, expected, distance, unlike, map, and
    score_given where the data hold one. slides has a row per slide and metric. In folder lie
    scores.csv, slides.csv, left_out.csv, notes.txt, an overlay per mapped patch and, for a slide
    cut into fields, a picture of its scores and a GeoJSON for QuPath.

    paths: images, folders of them, manifests, slides (new_patches.gather_patches).
    run: the folder of a finished run (find_run).  folder: where results go.
    maps: at most so many patches get a map, evenly chosen.  choices: how the paths are read.
    device: None for the best there is.  progress: bars.
    cutting: mpp, side_px, slide_mpp … of tiling.tile_slides, for slides.

    Raises DataError where nothing can be scored.

    scores, slides, notes, problems = score_paths(["new/"], find_run("demo"), folder="scored/")
    """
    net, info = checkpoint.load_run(run)
    # runs older than this key asked for all four
    declared = tuple(SCORES.index(name) for name in info.get("scores", SCORES))
    folder = files.make_folder(folder)
    device = device or recipes.choose_device()
    training, training_notes = reference.training_reference(
        net, info, run, device=device, progress=progress
    )
    new = new_patches.gather_patches(
        paths,
        folder,
        choices=choices,
        cache=files.CACHE / "stores",
        progress=progress,
        **cutting,
    )
    if not len(new.table):
        raise DataError(" ".join(["There is nothing to score.", *new.problems, *new.notes]))
    rows, field_notes = _with_training_field(new.table, training, net.side_px)
    net = net.to(device)
    table, undecodable = _score_all(
        net, rows, training, folder, scores=declared, maps=maps, device=device, progress=progress
    )
    problems = [*new.problems, *undecodable]
    if not len(table):
        raise DataError("No patch could be decoded. " + " ".join(problems[:3]))
    summary = slide_summary.summarise_slides(table, scores=declared)
    notes = [
        *_collapse_notes(info),
        *_declared_notes(declared),
        *new.notes,
        *field_notes,
        *training_notes,
        *agreement_notes(table),
        *_map_notes(maps, len(table)),
    ]
    for slide, part in table[table.x.notna()].groupby("slide"):
        notes += pictures.draw_slide(slide, part, folder)
    if len(summary):
        notes.append(slide_summary.RULE)
    notes += [*_write_scores(folder / "scores.csv", table), pictures.RESEARCH]
    files.write_table(folder / "slides.csv", summary)
    files.write_table(folder / "left_out.csv", new.left_out)
    files.write_text(folder / "notes.txt", "\n".join([*notes, *problems]) + "\n")
    return table, summary, notes, problems


def agreement_notes(table: pd.DataFrame) -> list[str]:
    """list of str, how well the scores of a table agree with those that the data hold; [] if none.

    table: score, and score_given 0 to 3 or -1, with slide and patient.

    Example: print(*agreement_notes(table), sep="\\n")
    """
    known = table[table["score_given"] >= 0]
    if not len(known):
        return []
    predicted = known["score"].map(SCORES.index).to_numpy()
    groups = None
    for kind in ("slide", "patient"):
        if (known[kind].fillna("") != "").all():
            groups = known[kind].reset_index(drop=True)
    kappa = quadratic_kappa(known["score_given"].to_numpy(), predicted, groups=groups)
    figure = "; ".join(filter(None, [str(kappa), kappa.note]))
    return [
        f"Agreement with the {count_text(len(known), 'score')} that the data hold: "
        f"quadratic-weighted kappa {figure}. This is not a validation: whether the network "
        "was trained on these patches or patients, and who scored them how, is not known here."
    ]


# --- the scale ------------------------------------------------------------------------------------


def _with_training_field(rows, training, side_px):
    """(rows with field_px, sentences): fields as long as those seen in training.

    A network sees no scale: it would take the cells of a longer field for smaller cells.
    side_px: of the squares that it sees.
    """
    notes = []
    sides_px = np.array([min(size) for size in rows["side_px"]], float)
    untold = rows["mpp"].isna()
    if untold.any():
        notes.append(
            f"Of unknown scale and taken whole: {count_text(int(untold.sum()), 'patch', 'patches')}"
            f" (first: {rows['patch'][untold].iloc[0]}). Whether cells look as large there as in "
            "training is not known."
        )
    if training is None or np.isnan(training.field_um):
        notes.append(
            "The length of tissue that training patches showed is not known: every patch is taken "
            "whole."
        )
        return rows.assign(field_px=0), [*notes, *_enlarged_notes(sides_px, side_px)]
    rows, more = with_common_field(rows, sides_px, field_um=training.field_um)
    if more:
        more.append("That is the length which the training patches of this network show.")
        of_slides = rows[rows["x"].notna() & (rows["field_px"] > 0)]
        if len(of_slides):
            wanted_px = int(of_slides["field_px"].median())
            mpp = of_slides["mpp"].median()
            more[-1] += f" `her2 tile` cuts slides to it with --side {wanted_px} --mpp {mpp:.3g}."
    read_px = np.where(rows["field_px"] > 0, rows["field_px"], sides_px)
    return rows, [*notes, *more, *_enlarged_notes(read_px, side_px)]


def _enlarged_notes(read_px, side_px):
    """list of str, how many squares of read_px (N,) a network of side_px sees enlarged."""
    enlarged = read_px < side_px
    if not enlarged.any():
        return []
    factor = side_px / read_px[enlarged].min()
    return [
        f"Enlarged to the {side_px} px that the network sees, up to {factor:.2g} times and without "
        f"finer detail: {count_text(int(enlarged.sum()), 'patch', 'patches')} of "
        f"{len(read_px):,}."
    ]


# --- patch by patch -------------------------------------------------------------------------------


def _score_all(net, rows, training, folder, *, scores, maps, device, progress):
    """(DataFrame, a row per patch that could be decoded; sentences about the others).

    scores are those that the run's study declares, as positions in SCORES.
    """
    mapped = np.linspace(0, len(rows) - 1, min(maps, len(rows))).round().astype(int)
    names = pictures.map_names(rows)
    map_files = {row: f"maps/{names[row]}.png" for row in mapped.tolist()}
    decode = partial(_decoded, side_px=net.side_px)
    tables = []
    problems = []
    bar = tqdm(total=len(rows), desc="scoring", unit="patch", disable=not progress)
    for start in range(0, len(rows), CHUNK):
        part = rows.iloc[start : start + CHUNK]
        jobs = list(zip(part.path, part.field_px, strict=True))
        decoded = list(map_ahead(decode, jobs))  # [(image or None, why not)]
        for path, (_, why) in zip(part.path, decoded, strict=True):
            if why:
                problems.append(f"{Path(path).name} is left out: {why}.")
        images = [image for image, _ in decoded if image is not None]
        if images:
            part = part[[image is not None for image, _ in decoded]]
            images = torch.from_numpy(np.stack(images))  # (B,3,H,W)
            probabilities, embedding = reference.embed_patches(net, images, device=device)
            probabilities = among_scores(probabilities, scores)
            table = _score_part(part, probabilities, embedding, training)
            table["map"] = [map_files.get(row, "") for row in part.index]
            drawn = np.flatnonzero(table["map"] != "")
            pictures.draw_maps(net, images[drawn], table.iloc[drawn], folder)
            tables.append(table)
        bar.update(len(decoded))
    if not tables:
        return pd.DataFrame(), problems
    return pd.concat(tables, ignore_index=True), problems


def _score_part(part, probabilities, embedding, training: TrainingReference | None):
    """DataFrame, rows of patches with their score, confidence, p0..p3, expected, distance, unlike.

    unlike tells whether a patch is out of distribution: yes, no, or "" where that is not known.
    """
    distance = np.full(len(part), np.nan)
    out_of_distribution = np.full(len(part), "")
    if training:
        distance = reference.neighbour_distance(embedding, training.embedding)
        out_of_distribution = np.where(distance > training.limit, "yes", "no")
    columns = {name: probabilities[:, k].round(5) for k, name in enumerate(PROBABILITIES)}
    return part.assign(
        score=[SCORES[k] for k in probabilities.argmax(1)],
        confidence=probabilities.max(1).round(4),
        **columns,
        expected=(probabilities @ np.arange(len(SCORES))).round(4),
        distance=distance.round(5),
        unlike=out_of_distribution,
    )


def _decoded(job, side_px):
    """((3,side_px,side_px) uint8, "") of an image file, or (None, why not)."""
    path, field_px = job
    try:
        return store.decode_patch(path, side_px, field_px=field_px)[0], ""
    except DataError as error:
        return None, str(error)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, "it cannot be decoded, so copy it again from its source"


# --- what is said and written ---------------------------------------------------------------------


def _collapse_notes(info):
    """list of str, what is to be believed of a network that collapsed; [] for a sound one."""
    if not info["verdict"]:
        return []
    return [f"COLLAPSED ({info['verdict']}): scores, maps and distances of this run mean nothing."]


def _declared_notes(declared):
    """list of str, which scores alone can be answered; [] where it is all four."""
    if len(declared) == len(SCORES):
        return []
    names = ", ".join(map(score_name, declared))
    return [
        f"The study of this run asks for the scores {names} only: every patch is given one of "
        "these, also one that shows another score."
    ]


def _map_notes(maps, n_patches):
    """list of str, of how many patches there is a map, where not of all."""
    if maps >= n_patches:
        return []
    return [
        f"Maps were drawn for {maps:,} of {n_patches:,} patches, evenly chosen; --maps N draws "
        "more."
    ]


def _write_scores(file, table):
    """list of str, where the scores of an earlier call are kept, after writing those of this one.

    Scores stand in the field's words. Somebody may have written into the table that was there.
    """
    scores_given = table["score_given"].map(score_name).where(table["score_given"] >= 0, "")
    text = table.drop(columns=INTERNAL).assign(score_given=scores_given).to_csv(index=False)
    notes = []
    if file.is_file() and file.read_bytes() != text.encode():
        old = files.keep_old(file)
        notes.append(f"The scores.csv of an earlier call was another: it is kept as {old.name}.")
    files.write_text(file, text)
    return notes
