"""Whole slides -> tissue -> patches at a stated mpp, with the reason for every field left out.

Any format that OpenSlide reads. Cutting resumes: every field that is done stands in a log beside
the patches, so a command that was killed goes on where it stopped.
"""

import io
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import openslide
import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image
from tqdm.auto import tqdm

from her2lib.data import slide_grid, tissue_finder
from her2lib.data.images import DataError
from her2lib.data.layouts import MPP, read_csv
from her2lib.files import make_folder, usable_cores, write_bytes, write_table

# Eight real patches of 1024 px: 0.085 s and 1.91 MB each; at Pillow's default of 6 it was 0.30 s
# and 1.91 MB.
PNG_LEVEL = 1
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
# Why a field is left out, and the columns of slides.csv, manifest.csv and skipped.csv.
REASONS = ("blank", "pen", "out of focus", "unreadable")
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
SKIPPED = ["slide", "x", "y", "reason", "tissue", "sharpness"]
# What cutting a field finds out about it.
MEASURED = ["reason", "dab", "sharpness"]


# --- cutting slides into patches ------------------------------------------------------------------


def tile_slides(
    paths: Sequence[Path | str],
    folder: Path | str,
    *,
    mpp: float = 0.46,
    side_px: int = 1024,
    slide_mpp: float | None = None,
    tissue: float = 0.1,
    patients: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """(manifest, problems): PNG patches of every slide, in folder/<slide>; a sentence per problem.

    Writes manifest.csv, skipped.csv (the fields left out, each with its reason) and slides.csv.
    The same call again cuts only what is missing; other settings in the same folder are refused.

    paths: slides, or folders of them.  folder: is made where it is not there.
    mpp: micrometres a pixel of the patches, 0.05 to 10.  side_px: their side, 32 to 8192 px.
    slide_mpp: micrometres a pixel of level 0, for slides that do not state it.
    tissue: the least fraction of a field that is tissue, 0 to 1.
    patients: {slide: patient} for the manifest, as read_patients gives it.
    workers: processes, None for one a core.  progress: a bar for each slide.

    Raises DataError where nothing can begin: no slide there, two slides of one name, a setting out
    of range, another command at work in the folder. A slide that fails is a problem, not an error.

    manifest, problems = tile_slides(["slides/"], "patches/", mpp=0.5, side_px=512)
    """
    paths = find_slides(paths)
    folder = make_folder(folder)
    settings = {"mpp": mpp, "side_px": side_px, "slide_mpp": slide_mpp, "tissue": tissue}
    _check_settings(mpp, side_px, tissue)
    pool = ProcessPoolExecutor(
        workers or usable_cores(),
        get_context("spawn"),
        initializer=_die_with,
        initargs=(os.getpid(),),
    )
    with _alone(folder):
        try:
            tiled, problems = _tile_all(paths, folder, settings, pool, progress)
        finally:
            pool.shutdown(cancel_futures=True)
        return _write_tables(tiled, folder, patients or {}), problems


def find_slides(paths: Sequence[Path | str]) -> list[Path]:
    """list of Path, the slides that are named or lie in the folders named.

    Two slides of one name are refused, because the patches carry that name.
    """
    slides = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"There is nothing at {path}: name a slide or a folder of slides.")
        if path.is_dir():
            slides += sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            slides.append(path)
    if not slides:
        raise DataError(
            f"No slide lies in {', '.join(map(str, paths))}: expected files such as "
            f"{', '.join(SUFFIXES[:5])}."
        )
    names = Counter(name_of(path).lower() for path in slides)
    twice = [path.name for path in slides if names[name_of(path).lower()] > 1]
    if twice:
        raise DataError(
            f"{len(twice)} slides would have the same name ({', '.join(twice[:3])}): rename them "
            "or tile them apart."
        )
    return slides


def read_patients(csv: Path | str | None) -> dict[str, str]:
    """dict slide -> patient of a table with these two columns; empty without a table."""
    if not csv:
        return {}
    table = read_csv(csv)
    if not {"slide", "patient"} <= set(table) or table.slide.duplicated().any():
        raise DataError(
            f"{csv} must have the columns slide and patient, and one row for each slide."
        )
    names = map(name_of, table.slide)
    return dict(zip(names, table.patient, strict=True))


def name_of(path: Path | str) -> str:
    """str, a slide's name as it stands in names of files and tables."""
    return re.sub(r"[^\w.+-]+", "_", Path(path).stem).lstrip(".=+-") or "slide"


# --- one slide after the other --------------------------------------------------------------------


def _tile_all(paths, folder, settings, pool, progress):
    """(list of (facts, fields) of the slides that could be cut, list of str of what went wrong)."""
    tiled = []
    problems = []
    for path in paths:
        try:
            facts, fields = _tile_one(path, folder, settings, pool, progress)
        except (openslide.OpenSlideError, DataError) as error:
            problems.append(_failure(path, error))
        else:
            tiled.append((facts, fields))
            problems += _slide_problems(path, facts)
    return tiled, problems


def _tile_one(path, folder, settings, pool, progress):
    """(facts, fields) of one slide, after cutting what earlier calls have not cut.

    facts is a row of slides.csv, fields a DataFrame with a row per field.
    """
    stat = path.stat()
    with slide_grid.open_slide(path) as slide:
        slide_mpp = slide_grid.pixel_size(slide, path.name, settings["slide_mpp"])
        grid = slide_grid.grid_of(
            slide, path, mpp=settings["mpp"], side_px=settings["side_px"], slide_mpp=slide_mpp
        )
        picture, scanned, down = tissue_finder.overview(slide, slide_mpp=slide_mpp)
        width, height = slide.dimensions
    tissue, pen, white = tissue_finder.find_tissue(picture, scanned)
    name = name_of(path)
    home = make_folder(folder / name)
    fields = tissue_finder.plan_fields(grid, tissue, pen, down, settings["tissue"])
    if len(fields):
        # the log of a slide holds for these settings and for this very file, wherever it lies
        identity = {"path": path.name, "file": [stat.st_size, stat.st_mtime_ns]}
        cut_settings = asdict(grid) | settings | identity
        dab_tables = tissue_finder.dab_tables(white)
        title = name[:24] if progress else ""
        _cut_all(fields, home, cut_settings, grid, dab_tables, pool, title)
    outlined = tissue_finder.draw_fields(picture, fields, grid, down)
    write_bytes(home / "thumbnail.png", _png_bytes(Image.fromarray(picture)))
    write_bytes(home / "overview.png", _png_bytes(outlined))
    facts = {
        "slide": name,
        "file": str(path),
        "width": width,
        "height": height,
        "slide_mpp": slide_mpp,
        "mpp": grid.mpp,
        "step": grid.step,
        "down": down,
    }
    return facts | _count_fields(fields), fields


def _count_fields(fields):
    """dict, how many fields of a slide became patches and how many each reason left out."""
    counts = fields.reason.value_counts()
    left_out = {reason: int(counts.get(reason, 0)) for reason in REASONS}
    return {"patches": int(counts.get("", 0)), **left_out}


def _cut_all(fields, home, settings, grid, dab_tables, pool, title):
    """Cuts what home/fields.jsonl does not know yet and fills in fields.

    Each field gets a line in that log as soon as it is done.
    """
    log_file = home / "fields.jsonl"
    wanted = fields.index[fields.reason == ""]
    files = {row: home / _patch_file(home.name, fields.x[row], fields.y[row]) for row in wanted}
    done = _done_before(files, _read_log(log_file, settings))

    jobs = {}
    with log_file.open("a", encoding="utf-8") as log:
        for row in wanted:
            if row not in done:
                corner = (int(fields.x[row]), int(fields.y[row]))
                jobs[pool.submit(_cut, grid, files[row], *corner, dab_tables)] = row
        bar = tqdm(
            as_completed(jobs),
            total=len(wanted),
            initial=len(done),
            desc=title,
            unit="patch",
            disable=not title,
        )
        for job in bar:
            row = jobs[job]
            done[row] = job.result()
            log.write(json.dumps({"name": files[row].name, **job.result()}) + "\n")
            log.flush()

    for row, entry in done.items():
        fields.loc[row, MEASURED] = [entry[column] for column in MEASURED]
    # left by workers that were killed
    for half_written in home.glob(".*.part"):
        half_written.unlink(missing_ok=True)


def _done_before(files, logged):
    """dict row -> line of the log, of the patches {row: file} that need not be cut again."""
    done = {}
    for row, file in files.items():
        entry = logged.get(file.name)
        # a patch that was cut and has been lost since is cut again
        if entry is not None and (entry["reason"] or file.exists()):
            done[row] = entry
    return done


def _read_log(file, settings):
    """dict name of a patch -> its line, of the fields already cut under these settings.

    The settings stand in the first line. A torn last line is not believed: its field is cut again.
    """
    settings = json.loads(json.dumps(settings))
    lines = []
    if file.exists():
        lines = file.read_text(encoding="utf-8").split("\n")
    if len(lines) < 2:
        write_bytes(file, (json.dumps({"settings": settings}) + "\n").encode())
        return {}
    before = json.loads(lines[0])["settings"]
    if before != settings:
        key = next(key for key in settings if before.get(key) != settings[key])
        raise DataError(
            f"{file.parent} was cut with {key} {before.get(key)}, not {settings[key]}: give "
            "another --out or delete it."
        )
    if lines[-1]:
        write_bytes(file, ("\n".join(lines[:-1]) + "\n").encode())
    return {entry["name"]: entry for entry in map(json.loads, lines[1:-1])}


# --- in a worker process --------------------------------------------------------------------------

# a worker cuts one slide after the other
_opened = lru_cache(maxsize=1)(slide_grid.open_slide)


def _cut(grid, file, x, y, dab_tables):
    """dict reason, dab, sharpness of one field; its PNG is written unless there is a reason."""
    try:
        image = slide_grid.read_field(_opened(grid.path), grid, x, y)
    except openslide.OpenSlideError:
        # after an error OpenSlide refuses everything else of this slide
        _opened.cache_clear()
        return {"reason": "unreadable", "dab": None, "sharpness": None}
    sharpness = tissue_finder.sharpness(image)
    reason = "out of focus"
    if sharpness >= tissue_finder.SHARP:
        reason = ""
        write_bytes(file, _png_bytes(image))
    return {
        "reason": reason,
        "dab": round(tissue_finder.dab_fraction(image, dab_tables), 4),
        "sharpness": round(sharpness, 3),
    }


def _die_with(parent):
    """Lets a worker end with the command that started it.

    After kill -9 of that command it would wait for work for ever.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- problems, tables, files ----------------------------------------------------------------------


def _check_settings(mpp, side_px, tissue):
    """Raises DataError where a setting of tile_slides is out of range."""
    if not (MPP[0] <= mpp <= MPP[1] and 32 <= side_px <= 8192 and 0 <= tissue <= 1):
        raise DataError(
            f"mpp={mpp}, side={side_px}, tissue={tissue}: take {MPP[0]} to {MPP[1]} micrometres, "
            "32 to 8192 px and 0 to 1."
        )


def _failure(path, error):
    """str, why a slide could not be cut."""
    if isinstance(error, DataError):
        return str(error)
    return (
        f"{path.name} is no slide that OpenSlide reads, or damaged ({str(error)[:120]}): copy it "
        "again from its source."
    )


def _slide_problems(path, facts):
    """list of str, what is wrong with a slide that was read to the end."""
    if facts["unreadable"]:
        return [
            f"{path.name} is damaged: {facts['unreadable']} of its fields cannot be read: copy it "
            "again from its source."
        ]
    if not facts["patches"]:
        counts = ", ".join(f"{facts[reason]} {reason}" for reason in REASONS if facts[reason])
        return [
            f"{path.name} holds no tissue that can be used ({counts} fields): look at "
            f"{name_of(path)}/overview.png."
        ]
    return []


def _write_tables(tiled, folder, patients):
    """DataFrame, the manifest; it, skipped.csv and slides.csv are written.

    Rows of slides that earlier calls cut into the folder stay.
    """
    facts = pd.DataFrame([one for one, _ in tiled], columns=FACTS)
    rows = _field_rows(tiled, patients)
    tables = {
        "manifest": rows.loc[rows.reason == "", MANIFEST],
        "slides": facts,
        "skipped": rows.loc[rows.reason != "", SKIPPED],
    }
    for name, table in tables.items():
        file = folder / f"{name}.csv"
        if file.exists():
            text = {"slide": str, "patient": str, "score": str}
            earlier = pd.read_csv(file, dtype=text, keep_default_na=False)
            table = pd.concat([earlier[~earlier.slide.isin(facts.slide)], table])
        write_table(file, table)
    return tables["manifest"].reset_index(drop=True)


def _field_rows(tiled, patients):
    """DataFrame, a row per field of all slides, with the columns of MANIFEST and the reason."""
    parts = []
    for facts, fields in tiled:
        patient = patients.get(facts["slide"], "")
        mpp = round(facts["mpp"], 5)
        parts.append(fields.assign(slide=facts["slide"], mpp=mpp, score="", patient=patient))
    if parts:
        rows = pd.concat(parts, ignore_index=True)
    else:
        rows = pd.DataFrame(columns=[*MANIFEST, "reason"])
    paths = [f"{row.slide}/{_patch_file(row.slide, row.x, row.y)}" for row in rows.itertuples()]
    return rows.assign(path=paths)


def _patch_file(slide, x, y):
    """str, the file name of the patch whose corner is pixel (x, y) of level 0."""
    return f"{slide}_x{x:06d}_y{y:06d}.png"


def _png_bytes(image):
    """bytes of a PIL image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _alone(folder):
    """Context that holds a folder: one command at a time cuts into it.

    The system lets go of the lock when its command dies.
    """
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout as error:
        raise DataError(
            f"Another command is cutting into {folder}: wait for it, or give another --out."
        ) from error
