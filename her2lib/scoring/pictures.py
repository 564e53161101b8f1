"""Pictures of what was scored: a patch beside its map, a slide under its scores."""

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from her2lib import files, plots
from her2lib.data import store
from her2lib.data.images import read_pixels
from her2lib.files import DataError
from her2lib.intake import text_tables
from her2lib.maps import attribution
from her2lib.networks import models
from her2lib.scores import SCORES
from her2lib.slides import annotations, slide_files

MAPS_AT_ONCE = 16
# Side in px of a patch under its map.
SHOWN_PX = 512
# Bytes of a name in UTF-8: most disks take 255, and a picture that is being written has a longer
# name than the finished one.
LONGEST_NAME = 150
TITLE_LETTERS = 60
RESEARCH = "Research use only: a patch-level surrogate is not an ASCO/CAP score."


# --- names of files -------------------------------------------------------------------------------


def map_names(rows: pd.DataFrame) -> dict[int, str]:
    """dict row -> name of its map's file without ending, unlike any other in whatever case.

    rows: patch and path. A long name, and one that comes twice, ends in a hash of its path.

    Example: map_names(rows)[0]
    """
    names = rows.patch.map(slide_files.name_of)
    comes_twice = names.str.casefold().duplicated(keep=False)
    for row in names.index[comes_twice]:
        names[row] = _with_hash(names[row], rows.path[row])
    return {row: short_name(name) for row, name in names.items()}


def short_name(name: str) -> str:
    """str, a name for a file of at most LONGEST_NAME bytes; a longer one ends in its hash."""
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    return _with_hash(name, name)


def _with_hash(name, text):
    """str, a name cut to leave space for eight signs of a text's hash."""
    sign_bytes = os.fsencode(name)[: LONGEST_NAME - 9]
    beginning = sign_bytes.decode("utf-8", errors="ignore")
    return f"{beginning}_{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"


# --- patches --------------------------------------------------------------------------------------


def draw_maps(net: models.Net, images: torch.Tensor, rows: pd.DataFrame, folder: Path) -> None:
    """None; writes folder/maps/*.png: each patch beside its map for the score that was predicted.

    images: (N,3,H,W) uint8 on the CPU, what the network saw.  rows: of score_paths, with map.
    """
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
    # the square that the network saw
    square, _ = store.decode_patch(row.path, SHOWN_PX, field_px=row.field_px)
    pixels = square.transpose(1, 2, 0)
    title = _plain_text(row.patch[-TITLE_LETTERS:])
    colour = plots.INK
    if row.unlike == "yes":
        title += "\nUNLIKE THE TRAINING DATA"
        colour = plots.RED
    figure, (left, right) = plots.panels(1, 2, width=5.2, height=5.6)
    plots.patch(pixels, left, title=title, colour=colour)
    scored = f"scored {row.score} ({row.confidence:.0%})"
    plots.overlay(pixels, one_map, right, title=f"{scored}\n{caption}")
    right.set_xlabel(f"{plots.SCALING}\n{RESEARCH}", fontsize=6.5)
    _write_figure(folder / row.map, figure)


# --- slides ---------------------------------------------------------------------------------------


def draw_slide(slide: str, part: pd.DataFrame, folder: Path) -> list[str]:
    """list of str, why a slide has no picture; empty after <slide>_heat.png and QuPath's GeoJSON.

    The picture shows the expected score of every field over the thumbnail, plain DAB beside it as
    the null. part: rows of score_paths, of one slide cut by `her2 tile`.
    """
    home = Path(part.path.iloc[0]).parent
    name = short_name(slide_files.name_of(f"{slide}.x"))
    try:
        facts = _facts_of_slide(home.parent / "slides.csv", slide)
        step = round(facts["step"])
        origin = (round(facts.get("left", 0)), round(facts.get("top", 0)))
        annotations.write_scores(folder / f"{name}_scores.geojson", part, step=step, origin=origin)
        thumbnail = np.asarray(read_pixels(home / "thumbnail.png"))
    except (DataError, OSError, KeyError):
        return [
            f"No heat map of slide {slide}: slides.csv and {home.name}/thumbnail.png of `her2 tile`"
            " are not beside its patches, or were changed."
        ]
    boxes = part[["x", "y"]].assign(side=facts["step"]).to_numpy(float) / facts["down"]
    figure, (left, right) = plots.panels(1, 2, width=7.5, height=6.5)
    title = f"{_plain_text(slide[-TITLE_LETTERS:])}: expected score of each patch (0 to 3)"
    plots.fields(thumbnail, boxes, part.expected, left, high=3.0, title=title)
    title = "Null: share of the patch with DAB over 0.15, no network"
    plots.fields(thumbnail, boxes, part.dab, right, high=None, title=title)
    left.set_xlabel(RESEARCH, fontsize=8)
    _write_figure(folder / f"{name}_heat.png", figure)
    return []


def _facts_of_slide(csv, slide) -> Mapping[str, float]:
    """dict step, down, left, top of a slide, in whatever dialect slides.csv was saved."""
    cells = text_tables.read_text_table(csv, needed=("slide",)).cells
    row = cells[cells["slide"] == slide].iloc[:1]
    if not len(row):
        raise KeyError(slide)
    facts = {}
    for column in ("step", "down", "left", "top"):
        if column in row:
            text = row[column].iloc[0].replace(",", ".")
            facts[column] = float(pd.to_numeric(text, errors="coerce"))
    if not facts["step"] > 0 or not facts["down"] > 0:
        raise KeyError(slide)
    return facts


# --- helpers --------------------------------------------------------------------------------------


def _plain_text(text):
    """str, a name that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _write_figure(file, figure):
    """Writes and closes a figure; letters that the font lacks show as boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        files.write_bytes(file, plots.image_bytes(figure))
    plots.close(figure)
