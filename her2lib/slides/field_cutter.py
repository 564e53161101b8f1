"""The fields of one slide cut on several processes, each noted in a log as soon as it is done.

A command that was killed goes on where it stopped: what the log knows is not cut again.
"""

import io
import json
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from her2lib.files import DataError, usable_cores, write_bytes
from her2lib.slides import slide_grid, tissue_finder
from her2lib.slides.tile_tables import patch_file

# Eight real patches of 1024 px: 0.085 s and 1.91 MB each; at Pillow's default of 6 it was 0.30 s
# and 1.91 MB.
PNG_LEVEL = 1
LOG = "fields.jsonl"
# Settings in a user's words; the others follow from them.
STATED = ("slide_mpp", "mpp", "side_px", "tissue", "path", "file")
# What cutting a field finds out about it.
MEASURED = ["reason", "dab", "sharpness", "eosin"]


# --- cutting --------------------------------------------------------------------------------------


def open_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """ProcessPoolExecutor whose processes end with this one; None for one a core."""
    return ProcessPoolExecutor(
        workers or usable_cores(),
        get_context("spawn"),
        initializer=_die_with,
        initargs=(os.getpid(),),
    )


def cut_fields(
    fields: pd.DataFrame,
    folder: Path,
    grid: slide_grid.Grid,
    white: np.ndarray,
    *,
    settings: Mapping[str, Any],
    pool: Executor,
    title: str = "",
) -> None:
    """Cuts the fields without a reason into folder, and fills in what was measured of them.

    fields: as tissue_finder.plan_fields gives them.  white: (3,) grey levels of the glass.
    settings: what the patches depend on; a log of others is refused with a DataError.
    title: of the bar; without one there is none.
    """
    log_file = folder / LOG
    wanted = fields.index[fields.reason == ""]
    files = {row: folder / patch_file(folder.name, fields.x[row], fields.y[row]) for row in wanted}
    done = _done_before(files, _read_log(log_file, settings))

    jobs = {}
    with log_file.open("a", encoding="utf-8") as log:
        for row in wanted:
            if row not in done:
                corner = (int(fields.x[row]), int(fields.y[row]))
                jobs[pool.submit(cut_field, grid, files[row], *corner, white)] = row
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
        # a log of an earlier version lacks a measure
        fields.loc[row, MEASURED] = [entry.get(column) for column in MEASURED]
    # left by workers that were killed
    for half_written in folder.glob(".*.part"):
        half_written.unlink(missing_ok=True)


def cut_field(grid: slide_grid.Grid, file: Path, x: int, y: int, white: np.ndarray) -> dict:
    """dict of MEASURED of one field; its PNG is written unless there is a reason against it."""
    try:
        image = slide_grid.read_field(_opened(grid.path), grid, x, y)
    except openslide.OpenSlideError:
        # after an error OpenSlide refuses everything else of this slide
        _opened.cache_clear()
        return {"reason": "unreadable", "dab": None, "sharpness": None, "eosin": None}
    sharpness = tissue_finder.sharpness(image)
    reason = "out of focus"
    if sharpness >= tissue_finder.SHARP:
        reason = ""
        write_bytes(file, png_bytes(image))
    dab = tissue_finder.dab_fraction(image, tissue_finder.dab_tables(white))
    return {
        "reason": reason,
        "dab": round(dab, 4),
        "sharpness": round(sharpness, 3),
        "eosin": round(tissue_finder.eosin_fraction(image, white), 3),
    }


def cut_before(folder: Path) -> dict[tuple[str, int, int], str]:
    """dict slide_files.file_identity -> name, of the slides whose logs lie below a folder."""
    names = {}
    for log_file in sorted(folder.glob(f"*/{LOG}")):
        with log_file.open(encoding="utf-8", errors="replace") as log:
            settings = _settings_of(log.readline())
        identity = (settings.get("path"), *settings.get("file", ()))
        if len(identity) == 3:
            names[identity] = log_file.parent.name
    return names


def png_bytes(image: Image.Image) -> bytes:
    """bytes of a PIL image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


# --- the log --------------------------------------------------------------------------------------


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
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    if len(lines) < 2:
        write_bytes(file, (json.dumps({"settings": settings}) + "\n").encode())
        return {}
    before = _settings_of(lines[0])
    differing = _differing(before, settings)
    if differing:
        raise DataError(_other_settings(file.parent, differing[0], before, settings))
    if lines[-1]:
        write_bytes(file, ("\n".join(lines[:-1]) + "\n").encode())
    try:
        return {entry["name"]: entry for entry in map(json.loads, lines[1:-1])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: delete {file.parent} and cut it again.") from error


def _settings_of(line):
    """dict, the settings in the first line of a log; empty where it holds none."""
    try:
        return dict(json.loads(line)["settings"])
    except (ValueError, KeyError, TypeError):
        return {}


def _differing(before, settings):
    """list of the settings that are others than before, first those that a user states."""
    keys = [key for key in dict.fromkeys([*STATED, *settings]) if key in settings]
    # Earlier versions noted None for the scale that a slide itself states.
    if before.get("slide_mpp") is None:
        keys = [key for key in keys if key != "slide_mpp"]
    return [key for key in keys if before.get(key) != settings[key]]


def _other_settings(folder, key, before, settings):
    """str, why a folder cannot go on: what it was cut with, and what was asked for."""
    remedy = "give another --out or delete it"
    if key in ("file", "path"):
        name = before.get("path", settings["path"])
        return f"{folder} was cut from another {name} than the one there now: {remedy}."
    return f"{folder} was cut with {key} {before.get(key)}, not {settings.get(key)}: {remedy}."


# --- in a worker process --------------------------------------------------------------------------

# a worker cuts one slide after the other
_opened = lru_cache(maxsize=1)(slide_grid.open_slide)


def _die_with(parent):
    """Lets a worker end with the command that started it.

    After kill -9 of that command it would wait for work for ever.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
