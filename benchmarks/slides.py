"""`her2 tile` against bare OpenSlide read-and-encode with as many processes, on one generated pyramidal TIFF.
    python benchmarks/slides.py [--side-px 20000] [--workers 2] [--turns 3]     (about 10 minutes on 2 quiet cores)
The slide has six deflated levels (a JPEG writer would be one more dependency) of repeated phantoms in three pieces of tissue. Tiler and
peer take turns, so a busy machine slows both; the peer reads the very fields that the tiler cut and writes the same PNGs, with no
overview, no check, no manifest.
"""

import argparse
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

from her2lib.data import slides
from her2lib.files import usable_cores
from her2lib.phantoms import dataset

TILE_PX, LEVELS, MPP = 256, 6, 0.46


def base():
    """(2048,2048,3) uint8, four phantoms side by side: what the tissue of the slide repeats."""
    four = [
        dataset.make_patch(seed, side_px=1024, mpp=MPP, truth=False).image
        for seed in (3, 8, 13, 21)
    ]
    return np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])


def tiles(picture, side_px, down):
    """Generator of (TILE_PX,TILE_PX,3) uint8, the tiles of one level in reading order: three round pieces of tissue on glass."""
    picture = np.asarray(Image.fromarray(picture).reduce(down))
    period, at = len(picture), np.arange(-(-side_px // TILE_PX) * TILE_PX)
    for y in at[::TILE_PX]:
        for x in at[::TILE_PX]:
            rows, columns = np.arange(y, y + TILE_PX), np.arange(x, x + TILE_PX)
            v, u = rows[:, None] / side_px, columns[None] / side_px
            inside = np.zeros((TILE_PX, TILE_PX), bool)
            for cy, cx, radius in ((0.3, 0.3, 0.22), (0.65, 0.7, 0.24), (0.75, 0.25, 0.15)):
                inside |= (v - cy) ** 2 + (u - cx) ** 2 < radius**2
            piece = picture[np.ix_(rows % period, columns % period)]
            yield np.where(inside[..., None], piece, np.uint8(238))


def write_slide(file, side_px):
    """Path of a pyramidal TIFF whose mpp is MPP."""
    picture, options = (
        base(),
        dict(dtype="uint8", tile=(TILE_PX, TILE_PX), photometric="rgb", compression="zlib"),
    )
    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        for level in range(LEVELS):
            side = side_px // 2**level
            resolution = dict(resolution=(1e4 / MPP / 2**level,) * 2, resolutionunit="CENTIMETER")
            tiff.write(
                tiles(picture, side, 2**level),
                shape=(side, side, 3),
                subfiletype=int(level > 0),
                **options,
                **resolution,
            )
    return file


@lru_cache(maxsize=1)
def opened(path):
    """OpenSlide handle, one per process."""
    return openslide.OpenSlide(path)


def bare(job):
    """None; what anybody would write: read, drop alpha, encode."""
    path, x, y, side_px, file, level = job
    opened(path).read_region((x, y), 0, (side_px, side_px)).convert("RGB").save(
        file, "PNG", compress_level=level
    )


def turn_of_peer(slide, manifest, folder, workers, level):
    """Seconds of a fresh pool over the fields that the tiler cut."""
    folder.mkdir()
    jobs = [
        (str(slide), r.x, r.y, 1024, str(folder / Path(r.path).name), level)
        for r in manifest.itertuples()
    ]
    began = time.perf_counter()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(bare, jobs))
    return time.perf_counter() - began


def compare(slide, place, workers, turns):
    """Prints both rates and the median ratio of the turns, also against Pillow's default compression."""
    ratios, defaults = [], []
    for turn in range(turns):
        began = time.perf_counter()
        manifest, problems = slides.tile_slides(
            [slide], place / f"own{turn}", workers=workers, progress=False
        )
        own = time.perf_counter() - began
        peer = turn_of_peer(slide, manifest, place / f"peer{turn}", workers, slides.PNG_LEVEL)
        default = turn_of_peer(slide, manifest, place / f"default{turn}", workers, 6)
        n = len(manifest)
        print(
            f"{n} patches: own {n / own:.1f}/s, bare {n / peer:.1f}/s, bare with Pillow's default {n / default:.1f}/s {problems or ''}"
        )
        ratios.append(peer / own)
        defaults.append(default / own)
    print(
        f"own / bare {median(ratios):.2f} (turns {', '.join(f'{r:.2f}' for r in ratios)}); wanted: at least 0.7. "
        f"Against Pillow's default compression {median(defaults):.2f}. All with start-up of {workers} processes."
    )
    same = [
        np.array_equal(
            np.asarray(Image.open(place / "own0" / r.path)),
            np.asarray(
                openslide.OpenSlide(slide).read_region((r.x, r.y), 0, (1024, 1024)).convert("RGB")
            ),
        )
        for r in manifest[:: max(1, len(manifest) // 20)].itertuples()
    ]
    print(f"{sum(same)} of {len(same)} patches read back pixel-equal.")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--side-px", type=int, default=20000)
    options.add_argument("--workers", type=int, default=usable_cores())
    options.add_argument("--turns", type=int, default=3)
    options.add_argument(
        "--slide", type=Path, help="keep the generated slide here, or take the one that is there"
    )
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = options.slide or Path(scratch) / "generated.tif"
        made = made if made.exists() else write_slide(made, options.side_px)
        print(f"{options.side_px} x {options.side_px} px, {made.stat().st_size / 1e6:.0f} MB")
        compare(made, Path(scratch), options.workers, options.turns)
