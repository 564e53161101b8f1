"""Synthetic HER2 patches with the truth known to the pixel, and BCI-shaped folders of them, resumable at any point."""

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
from her2lib.phantoms import slide as slide_
from her2lib.phantoms.artefacts import mislead
from her2lib.phantoms.slide import MIX, Slide, slide
from her2lib.phantoms.staining import paint
from her2lib.scores import SCORES

VERSION = 2  # of the pictures: a folder that another version began is not gone on with
EXTERNAL = (
    0,
    134,
    38,
    109,
)  # patches of 0, 1+, 2+, 3+ in the study's external set, from 19 patients
_STUDY_PATIENTS = 19 / 281


@dataclass(frozen=True)
class Phantom:
    """One patch and its truth."""

    image: np.ndarray  # (H,W,3) uint8
    # {tumour, membrane, nucleus, stroma, artefact, deciding: (H,W) bool}; empty without truth
    masks: dict
    cells: (
        pd.DataFrame
    )  # one row per carcinoma cell: x, y in pixels, intensity, completeness, invasive, deciding …
    score: int
    misleaders: dict  # {misleader: level, 0 where it shows nowhere}
    slide: Slide = field(repr=False)
    at_um: tuple = (0.0, 0.0)  # corner on the slide
    he: np.ndarray | None = field(
        default=None, repr=False
    )  # (H,W,3) uint8, the same tissue in haematoxylin and eosin


def make_patch(
    seed,
    *,
    side_px=1024,
    mpp=0.5,
    score=None,
    slide=None,
    truth=True,
    at_um=None,
    he=False,
    **switches,
):
    """Phantom of one patch; slide, score and place are drawn unless given; True, False or a strength switch a misleader."""
    plan, levels, rng = slide_.set_up(seed, score, slide, switches)
    window, ground, found, table = slide_.find(plan, rng, side_px * mpp, score, at_um)
    score, shown = slide_.decide(table, window, mpp)
    fine = max(
        1, int(np.ceil(mpp))
    )  # a membrane is about 1.3 um wide: coarser pictures are averaged from finer ones
    stain = {
        name: table[name].to_numpy(np.float32)
        for name in ("intensity", "completeness", "cytoplasm")
    }
    canvas = paint(plan, ground, found, stain, side_px=side_px * fine)
    misleaders = {name: float(levels[name]) for name in ("clones", "in_situ")} | mislead(
        canvas, levels, rng
    )
    image = _picture(canvas, rng, fine, without="eosin")
    canvas.masks["deciding"] = np.append(table.deciding.to_numpy(), False)[
        canvas.owner
    ]  # -1, no cell, reads the False
    masks = {name: _average(mask, fine) for name, mask in canvas.masks.items()} if truth else {}
    pink = _he(canvas, rng, fine) if he else None
    return Phantom(image, masks, shown, score, misleaders, plan, (window.x_um, window.y_um), pink)


def find_window(seed, slide, *, side_um, score=None, **switches):
    """(x, y) in micrometres, the corner of a window that shows tissue and, where the slide has it, tumour of that score."""
    plan, _, rng = slide_.set_up(seed, score, slide, switches)
    try:
        window, *_ = slide_.find(plan, rng, side_um, score)
    except (
        LookupError
    ):  # a slide poor in tumour: any tissue then, and the cells there say the score
        window, *_ = slide_.find(plan, rng, side_um)
    return window.x_um, window.y_um


def window_beside(at_um, slide, *, side_um, empty=False, **switches):
    """(x, y) in micrometres, the corner of a window that touches the one at at_um and shows tumour, or may be empty."""
    plan, *_ = slide_.set_up(0, None, slide, switches)
    for step in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        at = (at_um[0] + step[0] * side_um, at_um[1] + step[1] * side_um)
        window, *_, table = slide_.find(plan, None, side_um, None, at)
        if empty or slide_.enough(slide_.decide(table, window, 1.0)[1], side_um):
            return at
    return at


def write_phantoms(
    folder,
    *,
    patches=400,
    slides=24,
    side_px=256,
    mpp=1.0,
    seed=0,
    weak=False,
    balanced=False,
    he=False,
    truth=False,
    external=0,
    raters=0,
    laboratories=1,
    workers=None,
    progress=True,
    **switches,
):
    """Path of a BCI-shaped folder of phantoms with phantom.csv; the same call goes on where one was stopped."""
    slide_.set_up(0, None, None, switches)  # refuses a misspelt setting before anything is written
    settings = dict(
        version=VERSION,
        patches=patches,
        slides=slides,
        side_px=side_px,
        mpp=mpp,
        seed=seed,
        weak=weak,
        balanced=balanced,
        he=he,
        truth=truth,
        external=external,
        raters=raters,
        laboratories=laboratories,
        switches=switches,
    )
    folder = Path(folder)
    if _complete(folder, settings):
        return folder
    jobs = _jobs(settings)
    left = [job for job in jobs if not (folder / ".parts" / f"{job['id']}.json").exists()]
    run = joblib.Parallel(workers or usable_cores(), return_as="generator_unordered", batch_size=1)
    done = run(joblib.delayed(_write_one)(folder, job, settings) for job in left)
    for _ in tqdm(
        done,
        total=len(jobs),
        initial=len(jobs) - len(left),
        desc="phantoms",
        unit="patch",
        disable=not progress,
    ):
        pass
    return _finish(folder, settings, jobs)


def _picture(canvas, rng, fine, *, without):
    always = {"haematoxylin", "dab", "eosin"}
    dyes = {
        name: dye
        for name, dye in canvas.dye.items()
        if name != without and (name in always or dye.any())
    }
    return _average(
        scanner.develop(canvas.plan.optics, dyes, mpp=canvas.mpp, rng=rng, defocus=canvas.defocus),
        fine,
    )


def _he(canvas, rng, fine):
    canvas.dye["haematoxylin"] *= np.float32(
        0.6 / canvas.plan.haematoxylin
    )  # HE is stained darker than the counterstain
    return _picture(canvas, rng, fine, without="dab")


def _average(picture, fine):
    if fine == 1:
        return picture
    h, w = picture.shape[0] // fine, picture.shape[1] // fine
    mean = picture.reshape(h, fine, w, fine, *picture.shape[2:]).mean(
        (1, 3)
    )  # (h,fine,w,fine,…) -> (h,w,…)
    return mean >= 0.5 if picture.dtype == bool else (mean + 0.5).astype(np.uint8)


def _complete(folder, settings):
    """True when folder holds this very set; one begun is gone on with, anything else in it is refused."""
    settings = json.loads(json.dumps(settings))
    for name in ("phantom.json", ".phantom.json"):
        if held := read_json(folder / name):
            if held != settings:
                key = next(k for k in sorted(held | settings) if held.get(k) != settings.get(k))
                was, now = held.get(key), settings.get(key)
                raise ValueError(
                    f"{folder} holds phantoms made with {key}={was}, not {now}: choose another folder or delete it."
                )
            if name == "phantom.json":
                _sweep(folder)
            return name == "phantom.json"
    if folder.exists() and any(not path.name.endswith(".part") for path in folder.iterdir()):
        raise ValueError(f"{folder} holds files that are no phantoms: choose an empty folder.")
    write_text(folder / ".phantom.json", _json(settings))
    return False


def _jobs(settings):
    """One dictionary per patch: slide, place on it, score wanted, set, running number."""
    scores, counts = _allot(
        settings["patches"], settings["slides"], (1, 1, 1, 1) if settings["balanced"] else MIX
    )
    sets = np.where(_every_fifth(scores), "test", "train").tolist()
    labs = [k % settings["laboratories"] for k in range(len(scores))]
    slides = list(zip(range(len(scores)), sets, scores, counts, labs, strict=True))
    patients = max(3, round(settings["external"] * _STUDY_PATIENTS)) if settings["external"] else 0
    outside = _allot(
        settings["external"], patients, (1, 1, 1, 1) if settings["balanced"] else EXTERNAL
    )
    slides += [
        (10_000 + k, "external", *two, settings["laboratories"])
        for k, two in enumerate(zip(*outside, strict=True))
    ]
    jobs, running = [], {"train": 0, "test": 0, "external": 0}
    for number, part, score, count, laboratory in slides:
        for place_ in range(count):
            job = dict(
                slide=number,
                set=part,
                score=score,
                laboratory=laboratory,
                place=place_,
                number=running[part],
            )
            jobs.append(job | {"id": f"{part}{running[part]:06d}"})
            running[part] += 1
    return jobs


def _allot(patches, slides, shares):
    """(scores, counts) of slides so that patches fall on scores in these shares; no score with a share goes without."""
    shares, each = np.array(shares, float) / sum(shares), np.zeros(4, int)
    for _ in range(slides):  # the score furthest behind its share; one without a slide comes first
        each[np.argmax(np.where(each == 0, shares + (shares > 0), shares / (each + 1)))] += 1
    wanted = np.where(each > 0, shares, 0) / max(shares[each > 0].sum(), 1e-9) * patches
    scores = np.repeat(np.arange(4), each)
    ends = np.rint(np.cumsum(wanted[scores] / each[scores])).astype(int)
    return scores.tolist(), np.diff(ends, prepend=0).tolist()


def _every_fifth(scores):
    """(slides,) bool, one slide in five of every score for the test set, at least one where a score has two."""
    test = np.zeros(len(scores), bool)
    for score in set(scores):
        mine = np.flatnonzero(np.array(scores) == score)
        test[mine[: max(round(len(mine) / 5), int(len(mine) > 1))]] = True
    return test


def _write_one(folder, job, settings):
    made = _make(job, settings)
    row = _row(job, made, settings)
    _save_picture(
        folder / ("external" if job["set"] == "external" else f"IHC/{job['set']}") / row["name"],
        made.image,
    )
    if made.he is not None:
        _save_picture(folder / "HE" / job["set"] / row["name"], made.he)
    if settings["truth"]:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **made.masks)
        stem = row["name"].removesuffix(".png")
        write_bytes(folder / "truth" / f"{stem}.npz", buffer.getvalue())
        write_table(folder / "truth" / f"{stem}.csv", made.cells.round(3))
    write_text(folder / ".parts" / f"{job['id']}.json", _json(row))  # last: this patch is done


def _make(job, settings):
    plan = slide([settings["seed"], job["slide"]], score=job["score"], laboratory=job["laboratory"])
    side_um, switches = settings["side_px"] * settings["mpp"], settings["switches"]
    pair = [settings["seed"], job["slide"], job["place"] // 2]
    at = find_window(
        pair, plan, side_um=side_um, score=None if settings["weak"] else job["score"], **switches
    )
    if job["place"] % 2:  # every second patch touches the one before it
        at = window_beside(at, plan, side_um=side_um, empty=settings["weak"], **switches)
    options = {name: settings[name] for name in ("side_px", "mpp", "truth")}
    he = settings["he"] and job["set"] != "external"  # the external set is IHC alone
    return make_patch([*pair, job["place"]], slide=plan, at_um=at, he=he, **options, **switches)


def _row(job, made, settings):
    outside = job["set"] == "external"
    weak = settings["weak"] and not outside
    ratings = _rate(made.score, settings, [settings["seed"], job["slide"], job["place"], 14])
    score = job["score"] if weak else made.score
    if outside and len(ratings) > 1:  # a joint meeting: the middle of two readings and the truth
        score = int(np.median([*list(ratings.values())[:2], made.score]))
    row = dict(
        name=f"{job['number']:05d}_{job['set']}_{SCORES[score]}.png",
        score=SCORES[score],
        slide=f"S{job['slide']:05d}",
    )
    row |= dict(
        patient=f"P{job['slide']:05d}",
        set=job["set"],
        mpp=settings["mpp"],
        laboratory=job["laboratory"],
    )
    row |= dict(cell_score=SCORES[made.score], weak=weak, tumour_cells=len(made.cells))
    row |= dict(zip(("x_um", "y_um"), np.round(made.at_um, 2).tolist(), strict=True))
    row |= {name: round(level, 4) for name, level in made.misleaders.items()}
    return row | {name: SCORES[rating] for name, rating in ratings.items()}


def _rate(score, settings, seed):
    """{rater: score}: each rater has a leaning and a spread of their own, and all share the patch's ambiguity."""
    rng, ratings = np.random.default_rng(seed), {}
    doubt = rng.uniform(-0.4, 0.4)
    for k in range(settings["raters"]):
        own = np.random.default_rng([settings["seed"], 15, k])
        bias, spread = own.normal(0, 0.12), own.uniform(0.15, 0.4)
        ratings[f"rater_{chr(97 + k)}"] = int(
            np.clip(np.rint(score + doubt + bias + rng.normal(0, spread)), 0, 3)
        )
    return ratings


def _finish(folder, settings, jobs):
    rows = pd.DataFrame([read_json(folder / ".parts" / f"{job['id']}.json") for job in jobs])
    write_table(folder / "phantom.csv", rows)
    if settings["external"]:
        outside = rows[rows.set == "external"].rename(columns={"name": "path"})
        columns = [
            "path",
            "score",
            "slide",
            "patient",
            "mpp",
            *[name for name in rows if name.startswith("rater_")],
        ]
        write_table(folder / "external" / "manifest.csv", outside[columns])
    write_text(folder / "phantom.json", _json(settings))
    _sweep(folder)
    return folder


def _sweep(folder):
    """Removes what an unfinished or killed call left."""
    for path in (*folder.rglob(".*.part"), *folder.glob(".parts/*.json"), folder / ".phantom.json"):
        path.unlink(missing_ok=True)
    if (folder / ".parts").exists():
        (folder / ".parts").rmdir()


def _json(value):
    return json.dumps(value, indent=1)


def _save_picture(path, picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer, "PNG", compress_level=1
    )  # 6 is four times slower for 3 % less
    write_bytes(path, buffer.getvalue())
