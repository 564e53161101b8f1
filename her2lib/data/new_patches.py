"""New patches in whatever form they come: images, folders of them, manifests, and slides to cut."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openslide
import pandas as pd

from her2lib.data import layouts, patches, slides
from her2lib.data.images import DataError, probe_files

# What is known of a patch before it is scored; NaN where it is not.
COLUMNS = ["patch", "path", "slide", "patient", "x", "y", "mpp", "dab"]


def gather_patches(
    paths: Sequence[Path | str], folder: Path | str, *, progress: bool = True, **tiling: Any
) -> tuple[pd.DataFrame, list[str]]:
    """(table, problems): a row per patch with COLUMNS, and a sentence per file that is left out.

    paths: images, folders of them, manifests, folders made by `her2 tile`, and slides, which are
    cut first, into folder/tiles. progress, tiling: the keywords of slides.tile_slides.

    Raises DataError where nothing lies at a path.

    table, problems = gather_patches(["new/"], "scored/", mpp=0.5)
    """
    tables = []
    problems = []
    whole_slides = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(
                f"There is nothing at {path}: name an image, a folder of them, a manifest.csv or "
                "a slide."
            )
        slides_there = _slides_at(path)
        if path.suffix.lower() == ".csv" or (path / "manifest.csv").is_file():
            table, more = _listed_patches(path)
        elif slides_there:
            whole_slides += slides_there
            continue
        else:
            table, more = _loose_patches(path)
        tables.append(table)
        problems += more
    if whole_slides:
        tiles = Path(folder) / "tiles"
        manifest, more = slides.tile_slides(whole_slides, tiles, progress=progress, **tiling)
        problems += more
        if len(manifest):
            table, more = _listed_patches(tiles)
            tables.append(table)
            problems += more
    if not tables:
        return pd.DataFrame(columns=["path"]), problems
    table = pd.concat(tables, ignore_index=True)
    return table.drop_duplicates("path", ignore_index=True), problems


def _slides_at(path):
    """list of Path, the slides that OpenSlide knows: a file itself, or those in a folder."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
    by_name = [file for file in files if file.suffix.lower() in slides.SUFFIXES]
    return [file for file in by_name if openslide.OpenSlide.detect_format(file)]


def _listed_patches(path):
    """(table, problems) of a manifest, or of the folder that it stands in."""
    table, faults = patches.read_table(path)
    errors = faults[faults.severity == "error"]
    problems = [
        f"{row.file} is left out: {row.problem}; {row.remedy}." for row in errors.itertuples()
    ]
    table = table.rename(columns={"name": "patch"})
    csv = path
    if path.suffix.lower() != ".csv":
        csv = path / "manifest.csv"
    written = layouts.read_csv(csv)
    # so it was made by `her2 tile`, which knows where each patch lies
    if {"path", "x", "y", "dab"} <= set(written):
        written = written.drop_duplicates("path")
        written.index = [os.path.join(csv.parent, name) for name in written.path]
        numbers = written[["x", "y", "dab"]].apply(pd.to_numeric, errors="coerce")
        table[["x", "y", "dab"]] = numbers.reindex(table.path).to_numpy()
    return table.reindex(columns=COLUMNS), problems


def _loose_patches(path):
    """(table, problems) of one image, or of all below a folder, of which nothing else is known."""
    files = [path]
    if not path.is_file():
        images = [file for file in path.rglob("*") if file.suffix.lower() in layouts.SUFFIXES]
        files = sorted(file for file in images if file.is_file())
    names = [str(file) for file in files]
    facts = probe_files(names).assign(path=names, patch=[file.name for file in files])
    problems = []
    for row in facts[facts.fault != ""].itertuples():
        _, wrong, remedy = patches.PROBLEMS[row.fault]
        problems.append(f"{row.patch} is left out: {wrong.format(row.detail)}; {remedy}.")
    sound = facts[facts.fault == ""]
    return sound.assign(slide="", patient="").reindex(columns=COLUMNS), problems
