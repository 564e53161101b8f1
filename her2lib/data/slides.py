"""Whole slides -> tissue -> patches at a stated mpp, with the reason for every field left out; any format OpenSlide reads."""

import io
import json
import math
import os
import re
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image
from tqdm.auto import tqdm

from her2lib.data import tissue_finder
from her2lib.data.images import DataError
from her2lib.data.layouts import MPP, read_csv
from her2lib.files import make_folder, usable_cores, write_bytes, write_table

# a level whose mpp is this near to the one asked for is taken as it is: resampling would only
# soften it
SAME = 0.01
# eight real patches of 1024 px: 0.085 s and 1.91 MB each; at Pillow's default of 6 0.30 s and 1.91
# MB
PNG_LEVEL = 1
REASONS = ("blank", "pen", "out of focus", "unreadable")
SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".svslide",
    ".czi",
    ".dcm",
)
FACTS = [
    "slide",
    "file",
    "width",
    "height",
    "slide_mpp",
    "mpp",
    "step",
    "down",
    "patches",
    *REASONS,
]
MANIFEST = ["path", "score", "slide", "patient", "x", "y", "mpp", "tissue", "dab", "sharpness"]


@dataclass(frozen=True)
class Grid:
    """How fields are cut from one slide: lengths left, top, step in px of level 0; read_px of the level become side_px."""

    path: str
    level: int
    read_px: int
    side_px: int
    mpp: float  # of the patches as they are written
    left: int
    top: int
    step: int
    columns: int
    rows: int


def find_slides(paths):
    """list of Path, the slides named or lying in the folders named; two of one name are refused, as patches carry the name."""
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"There is nothing at {path}: name a slide or a folder of slides.")
        found += (
            sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if path.is_dir()
            else [path]
        )
    if not found:
        raise DataError(
            f"No slide lies in {', '.join(map(str, paths))}: expected files such as {', '.join(SUFFIXES[:5])}."
        )
    names = Counter(name_of(path).lower() for path in found)
    if twice := [path.name for path in found if names[name_of(path).lower()] > 1]:
        raise DataError(
            f"{len(twice)} slides would have the same name ({', '.join(twice[:3])}): rename them or tile them apart."
        )
    return found


def tile_slides(
    paths,
    folder,
    *,
    mpp=0.46,
    side_px=1024,
    slide_mpp=None,
    tissue=0.1,
    patients=None,
    workers=None,
    progress=True,
):
    """(manifest, problems): PNG patches of every slide in folder/<slide>, manifest.csv, skipped.csv, slides.csv; resumable."""
    paths, folder, tables, problems = find_slides(paths), make_folder(folder), [], []
    if not (MPP[0] <= mpp <= MPP[1] and 32 <= side_px <= 8192 and 0 <= tissue <= 1):
        raise DataError(
            f"mpp={mpp}, side={side_px}, tissue={tissue}: take {MPP[0]} to {MPP[1]} micrometres, 32 to 8192 px and 0 to 1."
        )
    settings = dict(mpp=mpp, side_px=side_px, slide_mpp=slide_mpp, tissue=tissue)
    pool = ProcessPoolExecutor(
        workers or usable_cores(),
        get_context("spawn"),
        initializer=_die_with,
        initargs=(os.getpid(),),
    )
    with _alone(folder):
        try:
            for path in paths:
                try:
                    tables.append(_tile_one(path, folder, settings, pool, progress))
                    problems += _judged(path, tables[-1])
                except (openslide.OpenSlideError, DataError) as error:
                    said = (
                        ""
                        if isinstance(error, DataError)
                        else f"{path.name} is no slide that OpenSlide reads, or damaged"
                    )
                    problems.append(
                        f"{said} ({str(error)[:120]}): copy it again from its source."
                        if said
                        else str(error)
                    )
        finally:
            pool.shutdown(cancel_futures=True)
        return _written(tables, folder, patients or {}), problems


def open_slide(path):
    """openslide.OpenSlide of a file, or a sentence."""
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise DataError(
            f"{Path(path).name} is no slide that OpenSlide reads, or cut short: copy it again from its source."
        ) from error


def pixel_size(slide, name, given=None):
    """float mpp of level 0: what the file says, or what is given where it says nothing that a microscope makes."""
    told = [float(slide.properties.get(f"openslide.mpp-{axis}", "nan")) for axis in "xy"]
    known = all(MPP[0] <= length <= MPP[1] for length in told)
    if known and abs(told[0] / told[1] - 1) > SAME:
        raise DataError(
            f"{name} has oblong pixels ({told[0]:g} x {told[1]:g} micrometres): export it with square ones."
        )
    if known and given and abs(told[0] / given - 1) > SAME:
        raise DataError(
            f"{name} states {told[0]:g} micrometres a pixel and --slide-mpp {given:g}: leave the option out, or mend the file."
        )
    if not known and not given:
        wrong = (
            "no mpp" if any(map(math.isnan, told)) else f"mpp {told[0]:g}, which no microscope has"
        )
        raise DataError(
            f"{name} states {wrong}: give the micrometres a pixel of its full resolution with --slide-mpp, such as 0.25."
        )
    return told[0] if known else given


def grid_of(slide, path, *, mpp, side_px, slide_mpp):
    """Grid of non-overlapping fields at mpp, from the coarsest level that has the detail."""
    (width, height), properties = slide.dimensions, slide.properties
    left, top = (int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    width, height = (
        int(properties.get("openslide.bounds-width", width)),
        int(properties.get("openslide.bounds-height", height)),
    )
    level = slide.get_best_level_for_downsample(mpp / slide_mpp * (1 + SAME))
    down = slide.level_downsamples[level]
    scale = mpp / slide_mpp / down
    if scale < 0.5:
        raise DataError(
            f"{Path(path).name} has {slide_mpp:g} micrometres a pixel, over twice the {mpp:g} asked for: take a larger --mpp."
        )
    read_px = side_px if abs(scale - 1) <= SAME else round(side_px * scale)
    step = math.ceil(read_px * down - 1e-6)
    if min(width, height) < step:
        raise DataError(
            f"{Path(path).name} is too small ({width} x {height} px of {slide_mpp:g} micrometres) for one patch of "
            f"{side_px} px at {mpp:g}: take a smaller --side."
        )
    true = slide_mpp * down * read_px / side_px
    return Grid(
        str(path), level, read_px, side_px, true, left, top, step, width // step, height // step
    )


def read_field(slide, grid, x, y):
    """PIL image, RGB, side_px square, of the field whose corner is pixel (x, y) of level 0; what was not scanned is white."""
    image = tissue_finder.flat_pixels(
        slide.read_region((int(x), int(y)), grid.level, (grid.read_px, grid.read_px))
    )
    return (
        image
        if grid.read_px == grid.side_px
        else image.resize((grid.side_px, grid.side_px), Image.Resampling.LANCZOS)
    )


def _tile_one(path, folder, settings, pool, progress):
    """dict of one slide: facts (a row of slides.csv) and fields (DataFrame), after cutting what earlier calls have not cut."""
    stat = path.stat()
    with open_slide(path) as slide:
        slide_mpp = pixel_size(slide, path.name, settings["slide_mpp"])
        grid = grid_of(
            slide, path, mpp=settings["mpp"], side_px=settings["side_px"], slide_mpp=slide_mpp
        )
        picture, scanned, down = tissue_finder.overview(slide, slide_mpp=slide_mpp)
        size = slide.dimensions
    tissue, pen, white = tissue_finder.find_tissue(picture, scanned)
    name, home = name_of(path), make_folder(folder / name_of(path))
    fields = tissue_finder.plan_fields(grid, tissue, pen, down, settings["tissue"])
    if len(fields):
        weights = tissue_finder.dab_tables(white)
        held = (
            asdict(grid) | settings | {"path": path.name, "file": [stat.st_size, stat.st_mtime_ns]}
        )
        _cut_all(fields, home, held, grid, weights, pool, name[:24] if progress else "")
    write_bytes(home / "thumbnail.png", _png(Image.fromarray(picture)))
    write_bytes(home / "overview.png", _png(tissue_finder.draw_fields(picture, fields, grid, down)))
    facts = dict(
        slide=name,
        file=str(path),
        width=size[0],
        height=size[1],
        slide_mpp=slide_mpp,
        mpp=grid.mpp,
        step=grid.step,
        down=down,
    )
    reasons = fields.reason.value_counts()
    return (
        facts
        | {"patches": int((fields.reason == "").sum())}
        | {r: int(reasons.get(r, 0)) for r in REASONS}
        | {"fields": fields}
    )


def _cut_all(fields, home, settings, grid, weights, pool, title):
    """None; cuts what home/fields.jsonl does not know yet, adds a line for each field as it is done, and fills fields."""
    known = _remembered(home / "fields.jsonl", settings)
    wanted = fields.index[fields.reason == ""]
    files = {
        row: home / f"{home.name}_x{fields.x[row]:06d}_y{fields.y[row]:06d}.png" for row in wanted
    }
    done = {
        row: known[files[row].name]
        for row in wanted
        if files[row].name in known and (known[files[row].name]["reason"] or files[row].exists())
    }
    with (home / "fields.jsonl").open("a", encoding="utf-8") as log:
        jobs = {
            pool.submit(
                _cut, grid, files[row], int(fields.x[row]), int(fields.y[row]), weights
            ): row
            for row in wanted
            if row not in done
        }
        bar = tqdm(
            as_completed(jobs),
            total=len(wanted),
            initial=len(done),
            desc=title,
            unit="patch",
            disable=not title,
        )
        for job in bar:
            done[jobs[job]] = job.result()
            log.write(json.dumps({"name": files[jobs[job]].name, **job.result()}) + "\n")
            log.flush()
    for row, made_ in done.items():
        fields.loc[row, ["reason", "dab", "sharpness"]] = [
            made_["reason"],
            made_["dab"],
            made_["sharpness"],
        ]
    for part in home.glob(".*.part"):  # left by workers that were killed
        part.unlink(missing_ok=True)


def _remembered(file, settings):
    """dict name -> row of the fields already cut under these settings, whose line stands first; a torn last line is not believed."""
    settings = json.loads(json.dumps(settings))
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    if len(lines) < 2:
        write_bytes(file, (json.dumps({"settings": settings}) + "\n").encode())
        return {}
    held = json.loads(lines[0])["settings"]
    if held != settings:
        key = next(k for k in settings if held.get(k) != settings[k])
        raise DataError(
            f"{file.parent} was cut with {key} {held.get(key)}, not {settings[key]}: give another --out or delete it."
        )
    if lines[-1]:
        write_bytes(file, ("\n".join(lines[:-1]) + "\n").encode())
    return {row["name"]: row for row in map(json.loads, lines[1:-1])}


def _cut(grid, file, x, y, weights):
    """dict reason, dab, sharpness of one field, its PNG written unless there is a reason not to; in a worker process."""
    try:
        image = read_field(_opened(grid.path), grid, x, y)
    except openslide.OpenSlideError:
        _opened.cache_clear()  # after an error OpenSlide refuses everything else of this slide
        return {"reason": "unreadable", "dab": None, "sharpness": None}
    sharp, few = tissue_finder.sharpness(image), np.asarray(image)[::2, ::2]
    dab = (
        sum(np.take(table, few[..., channel]) for channel, table in enumerate(weights[:3]))
        > weights[3]
    )
    if sharp >= tissue_finder.SHARP:
        write_bytes(file, _png(image))
    return {
        "reason": "" if sharp >= tissue_finder.SHARP else "out of focus",
        "dab": round(float(dab.mean()), 4),
        "sharpness": round(sharp, 3),
    }


_opened = lru_cache(maxsize=1)(open_slide)  # a worker cuts one slide after the other


def _judged(path, made_):
    """list of str, what is wrong with a slide that was read to the end."""
    counts = ", ".join(f"{made_[reason]} {reason}" for reason in REASONS if made_[reason])
    if made_["unreadable"]:
        return [
            f"{path.name} is damaged: {made_['unreadable']} of its fields cannot be read: copy it again from its source."
        ]
    if not made_["patches"]:
        return [
            f"{path.name} holds no tissue that can be used ({counts} fields): look at {name_of(path)}/overview.png."
        ]
    return []


def _written(tables, folder, patients):
    """DataFrame, the manifest; with it skipped.csv and slides.csv; rows of slides that earlier calls cut into the folder stay."""
    rows = [
        made_["fields"].assign(
            slide=made_["slide"],
            mpp=round(made_["mpp"], 5),
            score="",
            patient=patients.get(made_["slide"], ""),
        )
        for made_ in tables
    ]
    rows = (
        pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=[*MANIFEST, "reason"])
    )
    rows["path"] = [f"{r.slide}/{r.slide}_x{r.x:06d}_y{r.y:06d}.png" for r in rows.itertuples()]
    facts = pd.DataFrame(
        [{k: v for k, v in made_.items() if k != "fields"} for made_ in tables], columns=FACTS
    )
    kept = {
        "manifest": rows.loc[rows.reason == "", MANIFEST],
        "slides": facts,
        "skipped": rows.loc[
            rows.reason != "", ["slide", "x", "y", "reason", "tissue", "sharpness"]
        ],
    }
    for name, table in kept.items():
        file = folder / f"{name}.csv"
        if file.exists():
            old = pd.read_csv(
                file, dtype={"slide": str, "patient": str, "score": str}, keep_default_na=False
            )
            table = pd.concat([old[~old.slide.isin(facts.slide)], table])
        write_table(file, table)
    return kept["manifest"].reset_index(drop=True)


def read_patients(csv):
    """dict slide -> patient of a table with these columns; empty without one."""
    table = read_csv(csv) if csv else pd.DataFrame(columns=["slide", "patient"])
    if not {"slide", "patient"} <= set(table) or table.slide.duplicated().any():
        raise DataError(
            f"{csv} must have the columns slide and patient, and one row for each slide."
        )
    return {
        name_of(slide): patient for slide, patient in zip(table.slide, table.patient, strict=True)
    }


def name_of(path):
    """str, a slide's name as it stands in names of files and tables."""
    return re.sub(r"[^\w.+-]+", "_", Path(path).stem).lstrip(".=+-") or "slide"


def _png(image):
    image.save(buffer := io.BytesIO(), "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _alone(folder):
    """FileLock of a folder, held; one command at a time cuts into it, and the system lets go of it when that one dies."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise DataError(
            f"Another command is cutting into {folder}: wait for it, or give another --out."
        ) from error
    return lock


def _die_with(parent):
    """None; a worker ends with the command that started it: after kill -9 it would wait for work for ever."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
