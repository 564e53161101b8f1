"""Synthetic HER2 patches with the truth known to the pixel, and BCI-shaped folders of them.

A folder is resumable at any point: each patch leaves a small JSON in .parts when it is done.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from her2lib.files import read_json, usable_cores, write_bytes, write_table, write_text
from her2lib.phantoms import scanner
from her2lib.phantoms.artefacts import paint_artefacts
from her2lib.phantoms.slide import (
    MIX,
    Slide,
    decide,
    draw_slide,
    enough_tumour,
    find_view,
    set_up_patch,
    view_at,
)
from her2lib.phantoms.staining import paint
from her2lib.scores import SCORES

VERSION = 2  # of the pictures: a folder that another version began is not gone on with
EVEN = (1, 1, 1, 1)

# Patches of 0, 1+, 2+, 3+ in the study's external set, from 19 patients.
EXTERNAL = (0, 134, 38, 109)
EXTERNAL_PATIENTS = 19 / 281  # a patch
EXTERNAL_SLIDE = 10_000  # number of the first slide of the external site


@dataclass(frozen=True)
class Phantom:
    """One patch and its truth."""

    image: np.ndarray  # (H,W,3) uint8
    # {tumour, membrane, nucleus, stroma, artefact, deciding: (H,W) bool}; empty without truth
    masks: dict[str, np.ndarray]
    # one row per carcinoma cell: x, y in pixels, intensity, completeness, invasive, deciding …
    cells: pd.DataFrame
    score: int
    artefacts: dict[str, float]  # {artefact: level, 0 where it shows nowhere}
    slide: Slide = field(repr=False)
    at_um: tuple[float, float] = (0.0, 0.0)  # corner on the slide
    # (H,W,3) uint8, the same tissue in haematoxylin and eosin
    he: np.ndarray | None = field(default=None, repr=False)


# --- one patch -----------------------------------------------------------------------------------


def make_patch(
    seed: int | list[int],
    *,
    side_px: int = 1024,
    mpp: float = 0.5,
    score: int | None = None,
    slide: Slide | None = None,
    truth: bool = True,
    at_um: tuple[float, float] | None = None,
    he: bool = False,
    **switches: bool | float,
) -> Phantom:
    """Phantom of one patch, side_px wide at mpp micrometres a pixel; the same seed, the same bytes.

    Score 0..3, slide and corner (at_um, in micrometres) are drawn unless given. Without truth it
    has no masks; with he it has a partner in haematoxylin and eosin. Artefacts (blush, edge,
    clones …) are switched by True, False or a strength. Raises ValueError for a switch that does
    not exist, LookupError where the slide does not show the score. Example: make_patch(7, score=3).
    """
    slide, levels, rng = set_up_patch(seed, score, slide, switches)
    if at_um is None:
        view = find_view(slide, rng, side_px * mpp, score)
    else:
        view = view_at(slide, at_um, side_px * mpp)  # a stated corner is taken as it is
    score, cells, deciding = decide(view, mpp)

    # a membrane is about 1.3 um wide: coarser pictures are averaged from finer ones
    fine = max(1, int(np.ceil(mpp)))
    columns = ("intensity", "completeness", "cytoplasm")
    stain = {name: view.table[name].to_numpy(np.float32) for name in columns}
    canvas = paint(slide, view.ground, view.cells, stain, side_px=side_px * fine)
    artefacts = {name: float(levels[name]) for name in ("clones", "in_situ")}
    artefacts |= paint_artefacts(canvas, levels, rng)
    image = _picture(canvas, rng, fine, without="eosin")

    masks = {}
    if truth:
        # owner -1, no cell, reads the False at the end
        canvas.masks["deciding"] = np.append(deciding, False)[canvas.owner]
        masks = {name: _average(mask, fine) for name, mask in canvas.masks.items()}
    partner = None
    if he:
        partner = _he_picture(canvas, rng, fine)
    corner = (view.window.x_um, view.window.y_um)
    return Phantom(image, masks, cells, score, artefacts, slide, corner, partner)


def find_window(
    seed: int | list[int],
    slide: Slide,
    *,
    side_um: float,
    score: int | None = None,
    **switches: bool | float,
) -> tuple[float, float]:
    """(x, y) in micrometres, the corner of a window of a slide that shows tissue.

    With a score it shows tumour of that score where the slide has it. Raises ValueError for a
    switch that does not exist. Example: find_window(0, draw_slide(7), side_um=256, score=2).
    """
    slide, _, rng = set_up_patch(seed, score, slide, switches)
    try:
        view = find_view(slide, rng, side_um, score)
    except LookupError:
        # a slide poor in tumour: any tissue then, and the cells there say the score
        view = find_view(slide, rng, side_um)
    return view.window.x_um, view.window.y_um


def window_beside(at_um, slide, *, side_um, empty=False, **switches):
    """(x, y) in micrometres, the corner of a window that touches the one at at_um.

    It shows tumour where one of the four does, or is the first of them where it may be empty.
    """
    slide, _, _ = set_up_patch(0, None, slide, switches)
    for step in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        corner = (at_um[0] + step[0] * side_um, at_um[1] + step[1] * side_um)
        if empty:
            return corner
        rows = decide(view_at(slide, corner, side_um), 1.0)[1]
        if enough_tumour(rows, side_um):
            return corner
    return corner


def _picture(canvas, rng, fine, *, without):
    """(H,W,3) uint8 picture of all dyes but one, averaged over fine x fine pixels."""
    dyes = {}
    for name, dye in canvas.dye.items():
        painted = name in ("haematoxylin", "dab", "eosin") or dye.any()
        if painted and name != without:
            dyes[name] = dye
    picture = scanner.develop(
        canvas.plan.optics, dyes, mpp=canvas.mpp, rng=rng, defocus=canvas.defocus
    )
    return _average(picture, fine)


def _he_picture(canvas, rng, fine):
    """(H,W,3) uint8 picture in haematoxylin and eosin; changes the canvas."""
    # HE is stained darker than the counterstain
    canvas.dye["haematoxylin"] *= np.float32(0.6 / canvas.plan.haematoxylin)
    return _picture(canvas, rng, fine, without="dab")


def _average(picture, fine):
    """(H,W,…) mean of fine x fine pixels: uint8, or bool where at least half are True."""
    if fine == 1:
        return picture
    h = picture.shape[0] // fine
    w = picture.shape[1] // fine
    blocks = picture.reshape(h, fine, w, fine, *picture.shape[2:])  # (h,fine,w,fine,…)
    mean = blocks.mean((1, 3))  # (h,w,…)
    if picture.dtype == bool:
        return mean >= 0.5
    return (mean + 0.5).astype(np.uint8)


# --- a folder of patches -------------------------------------------------------------------------


def write_phantoms(
    folder: Path | str,
    *,
    patches: int = 400,
    slides: int = 51,
    side_px: int = 1024,
    mpp: float = 0.5,
    seed: int = 0,
    weak: bool = False,
    balanced: bool = False,
    he: bool = False,
    truth: bool = False,
    external: int = 0,
    raters: int = 0,
    laboratories: int = 1,
    workers: int | None = None,
    progress: bool = True,
    **switches: bool | float,
) -> Path:
    """Path of a BCI-shaped folder of phantoms with phantom.csv.

    The same call goes on where one was stopped. Raises ValueError for a switch that does not
    exist, and where the folder holds other files or phantoms of other settings.
    Example: write_phantoms("phantoms", patches=20, slides=5, side_px=256).

    Args:
        folder: New or unfinished folder; the same call goes on.
        patches: How many patches, the external site's apart.
        slides: How many slides they come from; one in five is in the test set.
        side_px: Side of a patch in pixels.
        mpp: Micrometres a pixel.
        seed: The same seed writes the same bytes.
        weak: Every patch carries its slide's score, as in BCI.
        balanced: As many patches of every score (default: BCI's fractions).
        he: Write each patch's registered partner in haematoxylin and eosin too.
        truth: Write masks and cell tables beside the patches.
        external: Patches of an external site, another laboratory's.
        raters: Simulated readers, each with a leaning and a spread of their own.
        laboratories: Laboratories, each with its own stain and scanner.
        workers: Processes that paint (default: every core).
        progress: Show a progress bar.
        switches: Artefacts (blush, edge, clones …) by True, False or a strength.
    """
    # refuses a misspelt setting before anything is written
    set_up_patch(0, None, None, switches)
    settings = {
        "version": VERSION,
        "patches": patches,
        "slides": slides,
        "side_px": side_px,
        "mpp": mpp,
        "seed": seed,
        "weak": weak,
        "balanced": balanced,
        "he": he,
        "truth": truth,
        "external": external,
        "raters": raters,
        "laboratories": laboratories,
        "switches": switches,
    }
    folder = Path(folder)
    if not _complete(folder, settings):
        jobs = _jobs(settings)
        _write_jobs(folder, jobs, settings, workers=workers, progress=progress)
        _finish(folder, settings, jobs)
    return folder


def _write_jobs(folder, jobs, settings, *, workers, progress):
    """Writes the patches that are not there yet, on several cores."""
    left = [job for job in jobs if not (folder / ".parts" / f"{job['id']}.json").exists()]
    parallel = joblib.Parallel(
        workers or usable_cores(), return_as="generator_unordered", batch_size=1
    )
    finished = parallel(joblib.delayed(_write_patch)(folder, job, settings) for job in left)
    with tqdm(
        total=len(jobs),
        initial=len(jobs) - len(left),
        desc="phantoms",
        unit="patch",
        disable=not progress,
    ) as bar:
        for _ in finished:
            bar.update()


def _complete(folder, settings):
    """True when folder holds this very set; one begun is gone on with, anything else is refused."""
    for name in ("phantom.json", ".phantom.json"):
        held = read_json(folder / name)
        if not held:
            continue
        _refuse_other_settings(folder, held, json.loads(json.dumps(settings)))
        if name == "phantom.json":
            _remove_parts(folder)
        return name == "phantom.json"
    if folder.exists() and any(not path.name.endswith(".part") for path in folder.iterdir()):
        raise ValueError(f"{folder} holds files that are no phantoms: choose an empty folder.")
    write_text(folder / ".phantom.json", json.dumps(settings, indent=1))
    return False


def _refuse_other_settings(folder, held, settings):
    """Raises ValueError, naming the first setting that differs."""
    for key in sorted(held | settings):
        if held.get(key) != settings.get(key):
            raise ValueError(
                f"{folder} holds phantoms made with {key}={held.get(key)}, not "
                f"{settings.get(key)}: choose another folder or delete it."
            )


# --- which patches -------------------------------------------------------------------------------


def _jobs(settings):
    """One dictionary per patch: slide, position on it, score wanted, set, running number."""
    jobs = []
    running = {"train": 0, "test": 0, "external": 0}
    for slide, count in [*_slides(settings), *_external_slides(settings)]:
        subset = slide["set"]
        for position in range(count):
            number = running[subset]
            running[subset] += 1
            identity = f"{subset}{number:06d}"
            jobs.append({**slide, "position": position, "number": number, "id": identity})
    return jobs


def _slides(settings):
    """[(slide, number of patches)] of the study itself; slides go round the laboratories."""
    fractions = MIX
    if settings["balanced"]:
        fractions = EVEN
    scores, counts = _allot(settings["patches"], settings["slides"], fractions)
    subsets = np.where(_every_fifth(scores), "test", "train").tolist()
    slides = []
    for number, (subset, score, count) in enumerate(zip(subsets, scores, counts, strict=True)):
        laboratory = number % settings["laboratories"]
        slides.append((_slide(number, subset, score, laboratory), count))
    return slides


def _external_slides(settings):
    """[(slide, number of patches)] of the external site, which is a laboratory of its own."""
    if not settings["external"]:
        return []
    fractions = EXTERNAL
    if settings["balanced"]:
        fractions = EVEN
    patients = max(3, round(settings["external"] * EXTERNAL_PATIENTS))
    scores, counts = _allot(settings["external"], patients, fractions)
    slides = []
    for number, (score, count) in enumerate(zip(scores, counts, strict=True), EXTERNAL_SLIDE):
        slides.append((_slide(number, "external", score, settings["laboratories"]), count))
    return slides


def _slide(number, subset, score, laboratory):
    """dict of what the jobs of one slide share."""
    return {"slide": number, "set": subset, "score": score, "laboratory": laboratory}


def _allot(patches, slides, fractions):
    """(scores, counts) of slides so that patches fall on scores in these fractions.

    No score with a fraction above 0 goes without a slide.
    """
    fractions = np.array(fractions, float) / sum(fractions)
    each = np.zeros(4, int)
    for _ in range(slides):
        # the score furthest behind its fraction; one without a slide comes first
        behind = np.where(each == 0, fractions + (fractions > 0), fractions / (each + 1))
        each[np.argmax(behind)] += 1
    wanted = np.where(each > 0, fractions, 0) / max(fractions[each > 0].sum(), 1e-9) * patches
    scores = np.repeat(np.arange(4), each)
    ends = np.rint(np.cumsum(wanted[scores] / each[scores])).astype(int)
    return scores.tolist(), np.diff(ends, prepend=0).tolist()


def _every_fifth(scores):
    """(slides,) bool, one slide in five of every score for the test set.

    At least one where a score has two.
    """
    test = np.zeros(len(scores), bool)
    for score in set(scores):
        of_score = np.flatnonzero(np.array(scores) == score)
        count = max(round(len(of_score) / 5), int(len(of_score) > 1))
        test[of_score[:count]] = True
    return test


# --- writing one of them -------------------------------------------------------------------------


def _write_patch(folder, job, settings):
    """Writes one patch, its partner and its truth."""
    phantom = _make(job, settings)
    row = _describe(job, phantom, settings)
    subfolder = f"IHC/{job['set']}"
    if job["set"] == "external":
        subfolder = "external"
    _save_picture(folder / subfolder / row["name"], phantom.image)
    if phantom.he is not None:
        _save_picture(folder / "HE" / job["set"] / row["name"], phantom.he)
    if settings["truth"]:
        stem = row["name"].removesuffix(".png")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **phantom.masks)
        write_bytes(folder / "truth" / f"{stem}.npz", buffer.getvalue())
        write_table(folder / "truth" / f"{stem}.csv", phantom.cells.round(3))
    # last: it says that this patch is done
    write_text(folder / ".parts" / f"{job['id']}.json", json.dumps(row, indent=1))


def _make(job, settings):
    """Phantom of one job."""
    slide_seed = [settings["seed"], job["slide"]]
    slide = draw_slide(slide_seed, score=job["score"], laboratory=job["laboratory"])
    side_um = settings["side_px"] * settings["mpp"]
    switches = settings["switches"]
    score = job["score"]
    if settings["weak"]:
        score = None
    pair_seed = [*slide_seed, job["position"] // 2]
    at_um = find_window(pair_seed, slide, side_um=side_um, score=score, **switches)
    # every second patch touches the one before it
    if job["position"] % 2:
        at_um = window_beside(at_um, slide, side_um=side_um, empty=settings["weak"], **switches)
    return make_patch(
        [*pair_seed, job["position"]],
        slide=slide,
        at_um=at_um,
        side_px=settings["side_px"],
        mpp=settings["mpp"],
        truth=settings["truth"],
        he=settings["he"] and job["set"] != "external",  # the external set is IHC alone
        **switches,
    )


def _describe(job, phantom, settings):
    """dict, the row of a patch in phantom.csv."""
    external = job["set"] == "external"
    weak = settings["weak"] and not external
    rating_seed = [settings["seed"], job["slide"], job["position"], 14]
    ratings = _rate(phantom.score, settings, rating_seed)
    score = phantom.score
    if weak:
        score = job["score"]
    if external and len(ratings) > 1:
        # a joint meeting: the middle of two readings and the truth
        score = int(np.median([*list(ratings.values())[:2], phantom.score]))
    row = {
        "name": f"{job['number']:05d}_{job['set']}_{SCORES[score]}.png",
        "score": SCORES[score],
        "slide": f"S{job['slide']:05d}",
        "patient": f"P{job['slide']:05d}",
        "set": job["set"],
        "mpp": settings["mpp"],
        "laboratory": job["laboratory"],
        "cell_score": SCORES[phantom.score],
        "weak": weak,
        "tumour_cells": len(phantom.cells),
        "x_um": float(np.round(phantom.at_um[0], 2)),
        "y_um": float(np.round(phantom.at_um[1], 2)),
    }
    row |= {name: round(level, 4) for name, level in phantom.artefacts.items()}
    row |= {name: SCORES[rating] for name, rating in ratings.items()}
    return row


def _rate(score, settings, seed):
    """{rater: score}: raters have a leaning and a spread; all share the patch's ambiguity."""
    rng = np.random.default_rng(seed)
    doubt = rng.uniform(-0.4, 0.4)
    ratings = {}
    for k in range(settings["raters"]):
        rater = np.random.default_rng([settings["seed"], 15, k])
        bias = rater.normal(0, 0.12)
        spread = rater.uniform(0.15, 0.4)
        reading = np.rint(score + doubt + bias + rng.normal(0, spread))
        ratings[f"rater_{chr(97 + k)}"] = int(np.clip(reading, 0, 3))
    return ratings


# --- finishing -----------------------------------------------------------------------------------


def _finish(folder, settings, jobs):
    """Writes phantom.csv, the external manifest and, last, phantom.json."""
    rows = pd.DataFrame([read_json(folder / ".parts" / f"{job['id']}.json") for job in jobs])
    write_table(folder / "phantom.csv", rows)
    if settings["external"]:
        raters = [name for name in rows if name.startswith("rater_")]
        columns = ["path", "score", "slide", "patient", "mpp", *raters]
        external = rows[rows["set"] == "external"].rename(columns={"name": "path"})
        write_table(folder / "external" / "manifest.csv", external[columns])
    write_text(folder / "phantom.json", json.dumps(settings, indent=1))
    _remove_parts(folder)


def _remove_parts(folder):
    """Removes what an unfinished or killed call left."""
    for path in (*folder.rglob(".*.part"), *folder.glob(".parts/*.json"), folder / ".phantom.json"):
        path.unlink(missing_ok=True)
    if (folder / ".parts").exists():
        (folder / ".parts").rmdir()


def _save_picture(path, picture):
    """Writes (H,W,3) uint8 as a PNG."""
    # level 6 is four times slower for 3 % less
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    write_bytes(path, buffer.getvalue())
