"""`her2 tile` against bare OpenSlide read-and-encode with as many processes, on one pyramidal TIFF.

    python benchmarks/slides.py [--side-px 20000] [--workers 2] [--turns 3]

About 10 minutes on 2 quiet cores. The slide is generated: six deflated levels (a JPEG writer would
be one more dependency) of repeated phantoms in three pieces of tissue. Tiler and peer take turns,
so a busy machine slows both; the peer reads the very fields that the tiler cut and writes the same
PNGs, with no overview, no check, no manifest.
"""

import argparse
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import openslide
import tifffile
from PIL import Image

from her2lib.files import usable_cores
from her2lib.phantoms import dataset
from her2lib.slides import field_cutter, tiling

TILE_PX = 256
LEVELS = 6
MPP = 0.46
SIDE_PX = 1024
# Pillow's own default.
DEFAULT_PNG_LEVEL = 6
# Pieces of tissue: centre down and across, radius, in sides of the slide.
PIECES = ((0.3, 0.3, 0.22), (0.65, 0.7, 0.24), (0.75, 0.25, 0.15))


# --- the slide ------------------------------------------------------------------------------------


def base():
    """(2048,2048,3) uint8, four phantoms side by side: what the tissue of the slide repeats."""
    four = [
        dataset.make_patch(seed, side_px=1024, mpp=MPP, truth=False).image
        for seed in (3, 8, 13, 21)
    ]
    return np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])


def tiles(picture, side_px, down):
    """Generator of (TILE_PX,TILE_PX,3) uint8, the tiles of one level in reading order.

    Three round pieces of tissue on glass.
    """
    picture = np.asarray(Image.fromarray(picture).reduce(down))
    period = len(picture)
    starts = range(0, math.ceil(side_px / TILE_PX) * TILE_PX, TILE_PX)
    for y in starts:
        for x in starts:
            rows = np.arange(y, y + TILE_PX)
            columns = np.arange(x, x + TILE_PX)
            v = rows[:, None] / side_px
            u = columns[None] / side_px
            inside = np.zeros((TILE_PX, TILE_PX), bool)
            for centre_y, centre_x, radius in PIECES:
                inside |= (v - centre_y) ** 2 + (u - centre_x) ** 2 < radius**2
            tissue = picture[np.ix_(rows % period, columns % period)]
            yield np.where(inside[..., None], tissue, np.uint8(238))


def write_slide(file, side_px):
    """Path of a pyramidal TIFF whose mpp is MPP."""
    picture = base()
    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        for level in range(LEVELS):
            side = side_px // 2**level
            pixels_a_cm = 1e4 / MPP / 2**level
            tiff.write(
                tiles(picture, side, 2**level),
                shape=(side, side, 3),
                dtype="uint8",
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                resolution=(pixels_a_cm, pixels_a_cm),
                resolutionunit="CENTIMETER",
            )
    return file


# --- the peer -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def opened(path):
    """OpenSlide handle, one per process."""
    return openslide.OpenSlide(path)


def read_and_encode(job):
    """What anybody would write: read, drop alpha, encode."""
    path, corner, file, png_level = job
    region = opened(path).read_region(corner, 0, (SIDE_PX, SIDE_PX)).convert("RGB")
    region.save(file, "PNG", compress_level=png_level)


def turn_of_peer(slide, manifest, folder, workers, png_level):
    """Seconds of a fresh pool over the fields that the tiler cut."""
    folder.mkdir()
    jobs = []
    for row in manifest.itertuples():
        file = folder / Path(row.path).name
        jobs.append((str(slide), (row.x, row.y), str(file), png_level))
    began = time.perf_counter()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(read_and_encode, jobs))
    return time.perf_counter() - began


# --- the comparison -------------------------------------------------------------------------------


def compare(slide, scratch, workers, turns):
    """Prints both rates and the median ratio of the turns, also against Pillow's compression."""
    ratios = []
    default_ratios = []
    for turn in range(turns):
        began = time.perf_counter()
        manifest, problems = tiling.tile_slides(
            [slide], scratch / f"tiled{turn}", workers=workers, progress=False
        )
        tiler = time.perf_counter() - began
        peer = turn_of_peer(
            slide, manifest, scratch / f"peer{turn}", workers, field_cutter.PNG_LEVEL
        )
        default = turn_of_peer(
            slide, manifest, scratch / f"default{turn}", workers, DEFAULT_PNG_LEVEL
        )
        n = len(manifest)
        print(
            f"{n} patches: own {n / tiler:.1f}/s, bare {n / peer:.1f}/s, bare with Pillow's "
            f"default {n / default:.1f}/s {problems or ''}"
        )
        ratios.append(peer / tiler)
        default_ratios.append(default / tiler)
    turns_text = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"own / bare {median(ratios):.2f} (turns {turns_text}); wanted: at least 0.7. Against "
        f"Pillow's default compression {median(default_ratios):.2f}. All with start-up of "
        f"{workers} processes."
    )
    print_equality(slide, manifest, scratch / "tiled0")


def print_equality(slide, manifest, folder):
    """Prints how many of about 20 patches are equal to the slide's pixels."""
    handle = openslide.OpenSlide(slide)
    equal = []
    for row in manifest[:: max(1, len(manifest) // 20)].itertuples():
        patch = np.asarray(Image.open(folder / row.path))
        region = handle.read_region((row.x, row.y), 0, (SIDE_PX, SIDE_PX)).convert("RGB")
        equal.append(np.array_equal(patch, np.asarray(region)))
    print(f"{sum(equal)} of {len(equal)} patches read back pixel-equal.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side-px", type=int, default=20000)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--slide", type=Path, help="keep the generated slide here, or take the one that is there"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        slide = options.slide or Path(scratch) / "generated.tif"
        if not slide.exists():
            write_slide(slide, options.side_px)
        megabytes = slide.stat().st_size / 1e6
        print(f"{options.side_px} x {options.side_px} px, {megabytes:.0f} MB")
        compare(slide, Path(scratch), options.workers, options.turns)
