"""How one slide is read: its pixel size, the grid of fields at a stated mpp, a field's pixels."""

import math
from dataclasses import dataclass
from pathlib import Path

import openslide
from PIL import Image

from her2lib.files import DataError
from her2lib.intake.columns import MPP
from her2lib.slides import slide_files, tissue_finder

# A level whose mpp is within this fraction of the one asked for is taken as it is: resampling
# would only soften it.
SAME = 0.01
# Enlarged up to this factor a field keeps its look: slides of 20x (0.50 um) serve for BCI's
# 0.46 um. Beyond, membranes lie in fewer pixels than the patch pretends.
LITTLE_ENLARGED = 1.1
MOST_ENLARGED = 2.0


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
        remedy = "copy it again from its source"
        if slide_files.is_picture(path):
            remedy = "a TIFF without tiles must be converted into a pyramid"
        raise DataError(
            f"{Path(path).name} is no slide that OpenSlide reads, or cut short: {remedy}."
        ) from error


def pixel_size(
    slide: openslide.OpenSlide,
    name: str,
    slide_mpp: float | None = None,
    *,
    is_only: bool = True,
) -> float:
    """float, micrometres a pixel of level 0: what the file states, else slide_mpp.

    What no microscope makes (outside 0.05 to 10) counts as not stated.
    is_only: no other slide is cut with it, so slide_mpp is meant for this one and must agree.
    Raises DataError where neither states it, or the two contradict each other.
    """
    stated = [_length(slide.properties.get(f"openslide.mpp-{axis}", "")) for axis in "xy"]
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
    if slide_mpp and is_only and not same_size(stated[0], slide_mpp):
        raise DataError(
            f"{name} states {stated[0]:g} micrometres a pixel and --slide-mpp {slide_mpp:g}: "
            "leave the option out, or mend the file."
        )
    return stated[0]


def same_size(mpp: float, other_mpp: float) -> bool:
    """bool, whether two pixel sizes are one, but for how they are rounded."""
    return abs(mpp / other_mpp - 1) <= SAME


def grid_of(
    slide: openslide.OpenSlide,
    path: Path | str,
    *,
    mpp: float,
    side_px: int,
    slide_mpp: float,
    enlarge: bool = False,
) -> Grid:
    """Grid of fields at mpp that do not overlap, from the coarsest level that has the detail.

    Raises DataError where fields would be enlarged, unless enlarge allows it, or none fits in.
    """
    _check_enlargement(Path(path).name, slide_mpp / mpp, slide_mpp, mpp, enlarge)
    left, top, width, height = scanned_box(slide)
    level = slide.get_best_level_for_downsample(mpp / slide_mpp * (1 + SAME))
    down = slide.level_downsamples[level]
    scale = mpp / slide_mpp / down
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


def enlargement(mpp: float, slide_mpp: float) -> float:
    """float, how many times larger than scanned patches of mpp are; 1 where they are not."""
    factor = slide_mpp / mpp
    if factor <= 1 + SAME:
        return 1.0
    return round(factor, 3)


def scanned_box(slide: openslide.OpenSlide) -> tuple[int, int, int, int]:
    """(left, top, width, height) in px of level 0 of what was scanned; else the whole slide."""
    width, height = slide.dimensions
    properties = slide.properties
    return (
        int(properties.get("openslide.bounds-x", 0)),
        int(properties.get("openslide.bounds-y", 0)),
        int(properties.get("openslide.bounds-width", width)),
        int(properties.get("openslide.bounds-height", height)),
    )


def _check_enlargement(name, factor, slide_mpp, mpp, enlarge):
    """Raises DataError where a slide has too few pixels for mpp."""
    if factor <= LITTLE_ENLARGED or (enlarge and factor <= MOST_ENLARGED):
        return
    remedy = f"cut at its own with --mpp {slide_mpp:g}"
    if factor <= MOST_ENLARGED:
        remedy += ", or --enlarge takes the enlarged patches, which hold no finer detail"
    raise DataError(
        f"{name} has {slide_mpp:g} micrometres a pixel, {factor:.2g} times the {mpp:g} asked for: "
        f"{remedy}."
    )


def _length(text):
    """float of a property; NaN where it is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
