"""What the field gate (her2lib.data.field) says of fields, of other stains, and of no fields.

    python benchmarks/field.py [--phantoms 200] [--workers 2]

About 4 minutes on 2 quiet cores. Each kind of picture is made twice, from other seeds, other cores
or other images: the figures of field.py were chosen on the half called "chosen on"; "held out" was
looked at afterwards. ../shared/real and ../shared/slides are read where they are.
"""

import argparse
import time
import tomllib
from collections import Counter
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import openslide
import skimage.data
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

from her2lib.data import field
from her2lib.files import ROOT
from her2lib.phantoms import dataset
from her2lib.phantoms.artefacts import PAINTERS
from her2lib.phantoms.slide import draw_slide

SHARED = ROOT.parent / "shared"
HALVES = {"chosen on": 5, "held out": 17}  # name: seed
LABORATORIES = 12
MPPS = (0.25, 0.35, 0.5, 0.75, 1.0)
SIDES_PX = (96, 128, 192, 256, 384, 512, 1024)
INKS = ((0.9, 0.6, 0.1), (0.95, 0.25, 0.75), (0.75, 0.7, 0.65), (0.1, 0.9, 0.6))
FIELDS = ("phantoms", "phantoms, mpp unknown", "smoke study", "demo study", "real", "real crops")


def main():
    """Prints one row a kind: number, refused in both halves, reasons, seconds of one core."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=200, help="phantoms in each half")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    pool = joblib.Parallel(options.workers, max_nbytes=None)
    judged = {}
    for half, seed in HALVES.items():
        for kind, pictures in material(seed, options.phantoms, pool).items():
            results = pool(joblib.delayed(judge)(picture, mpp) for picture, mpp in pictures)
            judged.setdefault(kind, {})[half] = results
    print_table(judged)


def judge(picture, mpp):
    """(reason, seconds of one core) of an (H,W,3) uint8 picture."""
    image = Image.fromarray(picture)
    began = time.process_time()
    reason = field.name_reason(field.measure_field(image, mpp=mpp))
    return reason, time.process_time() - began


def print_table(judged):
    """Prints the kinds; first those of which none should be refused."""
    print(f"{'kind':24}{'n':>6}{'refused, chosen on':>20}{'held out':>12}{'ms':>7}  reasons")
    for kind in sorted(judged, key=lambda kind: kind not in FIELDS):
        results = [result for half in HALVES for result in judged[kind].get(half, [])]
        refused = []
        for half in HALVES:
            reasons = [reason for reason, _ in judged[kind].get(half, [])]
            refused.append(f"{sum(map(bool, reasons))} of {len(reasons)}")
        names = Counter(reason or "a field" for reason, _ in results)
        reasons = ", ".join(f"{name} {count}" for name, count in names.most_common())
        ms = 1000 * np.median([seconds for _, seconds in results])
        print(f"{kind:24}{len(results):6}{refused[0]:>20}{refused[1]:>12}{ms:7.1f}  {reasons}")


# --- all kinds ------------------------------------------------------------------------------------


def material(seed, count, pool):
    """{kind: [((H,W,3) uint8, mpp or None)]} of one half."""
    phantoms = drawn(pool, phantom, seed, count)
    cores = real_patches(seed)
    fields = cores[::2] + phantoms[: max(12, count // 8)]
    score_0 = real_patches(seed, scores=("0", "1+"))
    rng = np.random.default_rng(seed)
    kinds = {
        "phantoms": phantoms,
        "phantoms, mpp unknown": [(picture, None) for picture, _ in phantoms],
        "real": cores,
        "real crops": crops(cores, seed),
        "H&E phantoms": drawn(pool, he_phantom, seed, count // 6),
        "H&E slides": slide_tiles(seed),
        "nuclear phantoms": drawn(pool, nuclear_phantom, seed, count // 4),
        "nuclear, painted on real": [repaint(*core, rng) for core in score_0 for _ in range(4)],
        "skimage immunohisto.": halves_of(skimage.data.immunohistochemistry(), seed),
    }
    if seed == HALVES["chosen on"]:
        kinds["smoke study"] = study_phantoms("smoke")
        kinds["demo study"] = study_phantoms("demo")
    return kinds | spoiled(fields, seed) | no_fields(seed)


def drawn(pool, make, seed, count):
    """list of (picture, mpp), without the seeds whose slide does not show what was asked for."""
    pictures = pool(joblib.delayed(make)(seed, number) for number in range(count))
    return [picture for picture in pictures if picture is not None]


# --- fields ---------------------------------------------------------------------------------------


def phantom(seed, number):
    """(picture, mpp) of one phantom of any score, laboratory, scale; one in three is damaged."""
    rng = np.random.default_rng([seed, number])
    mpp = float(rng.choice(MPPS))
    side_px = int(rng.choice(SIDES_PX))
    switches = {}
    if number % 3 == 0:
        switches[str(rng.choice(list(PAINTERS)))] = True
    score = number % 4
    slide = draw_slide([seed, number], score=score, laboratory=int(rng.integers(LABORATORIES)))
    try:
        at_um = dataset.find_window(
            [seed, number], slide, side_um=side_px * mpp, score=score, **switches
        )
    except LookupError:
        return None
    made = dataset.make_patch(
        [seed, number], slide=slide, at_um=at_um, side_px=side_px, mpp=mpp, truth=False, **switches
    )
    return made.image, mpp


def study_phantoms(name):
    """list of (picture, None), all patches of a study as `her2 run` makes them."""
    with (ROOT / "studies" / f"{name}.toml").open("rb") as file:
        settings = tomllib.load(file)["phantom"]
    folder = Path("/tmp") / f"field-{name}"
    dataset.write_phantoms(folder, progress=False, **{**settings, "truth": False})
    files = sorted(folder.rglob("*.png"))
    return [(np.asarray(Image.open(file).convert("RGB")), None) for file in files]


def real_patches(seed, scores=("0", "1+", "2+", "3+")):
    """list of (picture, None): every other core of ../shared/real, four patches each."""
    if not (SHARED / "real").exists():
        return []
    lines = (SHARED / "real" / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split(",") for line in lines]
    slides = sorted({row[2] for row in rows})[list(HALVES.values()).index(seed) :: 2]
    pictures = []
    for path, score, slide, _ in rows:
        if slide in slides and score in scores:
            pictures.append((np.asarray(Image.open(SHARED / "real" / path).convert("RGB")), None))
    return pictures


def crops(patches, seed):
    """list of (picture, 0.5): windows of 64 to 150 um of real patches, with their glass."""
    rng = np.random.default_rng(seed)
    pictures = []
    for picture, _ in patches:
        for _ in range(6):
            side = int(rng.choice([128, 200, 300]))
            y, x = rng.integers(0, len(picture) - side, 2)
            pictures.append((picture[y : y + side, x : x + side], 0.5))
    return pictures


# --- other stains ---------------------------------------------------------------------------------


def he_phantom(seed, number):
    """(picture, mpp) of the partner in haematoxylin and eosin of one phantom."""
    rng = np.random.default_rng([seed, 2, number])
    mpp = float(rng.choice([0.25, 0.5, 1.0]))
    slide = draw_slide([seed, 2, number], laboratory=int(rng.integers(LABORATORIES)))
    side_px = int(rng.choice([128, 256, 512]))
    made = dataset.make_patch(
        [seed, 2, number], slide=slide, side_px=side_px, mpp=mpp, truth=False, he=True
    )
    return made.he, mpp


def slide_tiles(seed):
    """list of (picture, mpp): tiles of the two slides in ../shared/slides with 5 % tissue or more.

    The halves are the slides: one of paraffin, one frozen.
    """
    name, mpp = (("cmu_small_region.svs", 0.499), ("tcga-cr-7395-01a-01-ts1.svs", None))[
        list(HALVES.values()).index(seed)
    ]
    if not (SHARED / "slides" / name).exists():
        return []
    slide = openslide.OpenSlide(str(SHARED / "slides" / name))
    width, height = slide.dimensions
    pictures = []
    for side in (512, 1024):
        for y in range(0, height - side, side):
            for x in range(0, width - side, side):
                region = slide.read_region((x, y), 0, (side, side)).convert("RGB")
                if field.measure_field(region, mpp=mpp)["tissue"] > 0.05:
                    pictures.append((np.asarray(region), mpp))
    return pictures


def nuclear_phantom(seed, number):
    """(picture, mpp) of a score-0 phantom of which 5 to 80 % of the tumour's nuclei are brown."""
    rng = np.random.default_rng([seed, 3, number])
    mpp = float(rng.choice([0.25, 0.5, 1.0]))
    strength = (0.3, 0.5, 0.8)[number % 3]
    positive = (0.1, 0.3, 0.8)[number // 3 % 3]
    slide = draw_slide([seed, 3, number], score=0, laboratory=int(rng.integers(LABORATORIES)))
    try:
        made = dataset.make_patch(
            [seed, 3, number], slide=slide, side_px=round(256 / mpp), mpp=mpp, score=0
        )
    except LookupError:
        return None
    side_px = len(made.image)
    rows, columns = np.mgrid[:side_px, :side_px]
    _, nearest = cKDTree(made.cells[["x", "y"]]).query(np.c_[columns.ravel(), rows.ravel()])
    chosen = rng.random(len(made.cells)) < positive
    nuclei = made.masks["nucleus"] & made.masks["tumour"] & chosen[nearest].reshape(rows.shape)
    soft = ndimage.gaussian_filter(nuclei.astype(np.float32), 0.4 / mpp)
    texture = 1 + 0.4 * ndimage.gaussian_filter(rng.standard_normal(nuclei.shape), 1 / mpp)
    return add_dye(made.image, strength * soft * texture, field.HDAB[1]), mpp


def repaint(picture, mpp, rng):
    """(picture, mpp) of a real score-0 patch whose darkest blue spots were turned brown."""
    strength = rng.choice([0.3, 0.5, 0.7])
    positive = rng.choice([0.2, 0.4, 0.6])
    density = -np.log10(np.clip(picture, 1, 255) / 255)
    blue = ndimage.gaussian_filter(density @ np.linalg.inv(field.HDAB)[:, 0], 2)
    spots, count = ndimage.label(blue > np.percentile(blue, 88))
    chosen = rng.random(count + 1) < positive
    chosen[0] = False
    soft = ndimage.gaussian_filter(chosen[spots].astype(float), 1.0)
    return add_dye(picture, strength * soft, field.HDAB[1]), mpp


def add_dye(picture, amount, vector):
    """(H,W,3) uint8 with so much more optical density (H,W) of a dye."""
    through = 10 ** -(np.asarray(amount)[..., None] * np.asarray(vector))
    return np.clip(picture * through, 0, 255).round().astype(np.uint8)


def halves_of(picture, seed):
    """list of (picture, None), four quarters of the left or the right half of a picture."""
    half = np.array_split(picture, 2, axis=1)[list(HALVES.values()).index(seed)]
    return [(np.ascontiguousarray(part), None) for part in (half, *np.array_split(half, 2))]


# --- no fields ------------------------------------------------------------------------------------


def spoiled(fields, seed):
    """{kind: [(picture, mpp)]}, fields made useless: blurred, grey, inverted, green, under ink."""
    kinds = {
        "blurred by 4 um": partial(blurred, sigma_um=4),
        "blurred by 8 um": partial(blurred, sigma_um=8),
        "grey tissue": lambda picture, _: np.repeat(luminance(picture), 3, 2),
        "inverted": lambda picture, _: 255 - picture,
        "green": lambda picture, _: (picture * np.array([0.55, 1, 0.6])).astype(np.uint8),
    }
    for name, ink in zip(("blue", "green", "black", "red"), INKS, strict=True):
        kinds[f"under {name} ink"] = partial(inked, ink=ink)
    return {
        kind: [(make(picture, mpp), mpp) for picture, mpp in fields] for kind, make in kinds.items()
    }


def blurred(picture, mpp, *, sigma_um):
    """(H,W,3) uint8 after a Gaussian."""
    sigma_px = sigma_um / (mpp or field.FIELD_UM / len(picture))
    return ndimage.gaussian_filter(picture.astype(np.float32), (sigma_px, sigma_px, 0)).astype(
        np.uint8
    )


def luminance(picture):
    """(H,W,1) uint8."""
    return (picture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]


def inked(picture, _, *, ink):
    """(H,W,3) uint8 under a stroke of a pen that leaves a margin of 5 %."""
    amount = np.full(picture.shape[:2], 0.8)
    amount[: len(picture) // 20] = 0
    return add_dye(picture, amount, ink)


def no_fields(seed):
    """{kind: [(picture, None)]}: glass, black, noise, flat colours, photographs, screenshots."""
    rng = np.random.default_rng(seed)
    kinds = {}
    for side in (96, 224, 512, 1024):
        shape = (side, side, 3)
        levels = {"white": (255, 245, 225), "black": (0, 5, 20)}
        for kind, means in levels.items():
            for mean in means:
                kinds.setdefault(kind, []).append(rng.normal(mean, 1, shape))
        noises = [rng.uniform(0, 256, shape), rng.normal(128, 30, shape)]
        noises.append(np.array([170, 140, 120]) + rng.normal(0, 25, (side, side, 1)))
        kinds.setdefault("noise", []).extend(noises)
        for _ in range(6):
            flat = rng.uniform(0, 255, 3) + rng.normal(0, 1.5, shape)
            kinds.setdefault("flat colour", []).append(flat)
        for pink in ((230, 160, 190), (205, 120, 165)):
            kinds.setdefault("flat pink", []).append(np.array(pink) + rng.normal(0, 8, shape))
    kinds["photographs"] = photographs(seed)
    kinds["screenshots"] = [screenshot(rng) for _ in range(8)]
    ready = {}
    for kind, pictures in kinds.items():
        ready[kind] = [(np.clip(x, 0, 255).round().astype(np.uint8), None) for x in pictures]
    return ready


def photographs(seed):
    """list of (H,W,3) uint8, three photographs out of scikit-image and parts of each."""
    names = ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field")
    pictures = []
    for name in names[list(HALVES.values()).index(seed) :: 2]:
        whole = getattr(skimage.data, name)()[..., :3]
        side = min(whole.shape[:2]) // 2
        pictures += [whole, whole[:side, :side], whole[side : 2 * side, side : 2 * side]]
    return pictures


def screenshot(rng):
    """(H,W,3) uint8, a window of text in two colours with a bar on top."""
    side = int(rng.choice([512, 800, 1024]))
    paper, ink = [
        ("white", "black"),
        ("#1e1e2e", "#dddddd"),
        ("#fafafa", "#224488"),
        ("#fffbe0", "#663300"),
    ][rng.integers(4)]
    image = Image.new("RGB", (side, side), paper)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, side, 30), fill="#4472c4")
    for y in range(40, side, 18):
        draw.text((10, y), "".join(rng.choice(list("her2 lib 0123"), side // 8)), fill=ink)
    return np.asarray(image)


if __name__ == "__main__":
    main()
