"""How one slide is read: its pixel size, the grid of fields at a stated mpp, a field's pixels."""

import math
from dataclasses import dataclass
from pathlib import Path

import openslide
from PIL import Image

from her2lib.data import tissue_finder
from her2lib.data.images import DataError
from her2lib.data.layouts import MPP

# A level whose mpp is within this fraction of the one asked for is taken as it is: resampling
# would only soften it.
SAME = 0.01


@dataclass(frozen=True)
class Grid:
    """How fields are cut from one slide; left, top and step are px of level 0.

    Of the pyramid level, squares of read_px are read and become side_px at mpp.
    """

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


def open_slide(path: Path | str) -> openslide.OpenSlide:
    """openslide.OpenSlide of a file; a DataError with the remedy where it is no slide."""
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise DataError(
            f"{Path(path).name} is no slide that OpenSlide reads, or cut short: copy it again "
            "from its source."
        ) from error


def pixel_size(slide: openslide.OpenSlide, name: str, slide_mpp: float | None = None) -> float:
    """float, micrometres a pixel of level 0: what the file states, else slide_mpp.

    What no microscope makes (outside 0.05 to 10) counts as not stated.
    """
    stated = [float(slide.properties.get(f"openslide.mpp-{axis}", "nan")) for axis in "xy"]
    known = all(MPP[0] <= length <= MPP[1] for length in stated)
    if not known:
        if slide_mpp:
            return slide_mpp
        wrong = f"mpp {stated[0]:g}, which no microscope has"
        if any(map(math.isnan, stated)):
            wrong = "no mpp"
        raise DataError(
            f"{name} states {wrong}: give the micrometres a pixel of its full resolution with "
            "--slide-mpp, such as 0.25."
        )
    if abs(stated[0] / stated[1] - 1) > SAME:
        raise DataError(
            f"{name} has oblong pixels ({stated[0]:g} x {stated[1]:g} micrometres): export it "
            "with square ones."
        )
    if slide_mpp and abs(stated[0] / slide_mpp - 1) > SAME:
        raise DataError(
            f"{name} states {stated[0]:g} micrometres a pixel and --slide-mpp {slide_mpp:g}: "
            "leave the option out, or mend the file."
        )
    return stated[0]


def grid_of(
    slide: openslide.OpenSlide, path: Path | str, *, mpp: float, side_px: int, slide_mpp: float
) -> Grid:
    """Grid of fields at mpp that do not overlap, from the coarsest level that has the detail."""
    left, top, width, height = _scanned_box(slide)
    level = slide.get_best_level_for_downsample(mpp / slide_mpp * (1 + SAME))
    down = slide.level_downsamples[level]
    scale = mpp / slide_mpp / down
    if scale < 0.5:
        raise DataError(
            f"{Path(path).name} has {slide_mpp:g} micrometres a pixel, over twice the {mpp:g} "
            "asked for: take a larger --mpp."
        )
    read_px = round(side_px * scale)
    if abs(scale - 1) <= SAME:
        read_px = side_px
    step = math.ceil(read_px * down - 1e-6)
    if min(width, height) < step:
        raise DataError(
            f"{Path(path).name} is too small ({width} x {height} px of {slide_mpp:g} micrometres) "
            f"for one patch of {side_px} px at {mpp:g}: take a smaller --side."
        )
    return Grid(
        path=str(path),
        level=level,
        read_px=read_px,
        side_px=side_px,
        mpp=slide_mpp * down * read_px / side_px,
        left=left,
        top=top,
        step=step,
        columns=width // step,
        rows=height // step,
    )


def read_field(slide: openslide.OpenSlide, grid: Grid, x: int, y: int) -> Image.Image:
    """PIL image, RGB, side_px square, of the field whose corner is pixel (x, y) of level 0.

    What was never scanned is white.
    """
    region = slide.read_region((int(x), int(y)), grid.level, (grid.read_px, grid.read_px))
    image = tissue_finder.flat_pixels(region)
    if grid.read_px == grid.side_px:
        return image
    return image.resize((grid.side_px, grid.side_px), Image.Resampling.LANCZOS)


def _scanned_box(slide):
    """(left, top, width, height) in px of level 0 of what was scanned; else the whole slide."""
    width, height = slide.dimensions
    properties = slide.properties
    return (
        int(properties.get("openslide.bounds-x", 0)),
        int(properties.get("openslide.bounds-y", 0)),
        int(properties.get("openslide.bounds-width", width)),
        int(properties.get("openslide.bounds-height", height)),
    )
