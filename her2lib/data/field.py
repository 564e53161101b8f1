"""Is a picture a field of tissue in haematoxylin and DAB? If not, why: blank, H&E, nuclear stain …

Each rule sets one measure against one figure. The figures were chosen on one half of the material
of benchmarks/field.py and hold on the other, which has other seeds, cores and slides:

    refused of fields     real patches 0 of 32, phantoms 1 of 400 (8 without mpp), patches of the
                          smoke and demo studies 0 of 388
    refused of no fields  H&E 136 of 136, nuclear stain painted on real patches 64 of 64, on
                          phantoms 73 of 100, blurred by 8 um 62 of 66, inverted 64 of 66; glass,
                          black, noise, flat, grey, green, inked, photographs, text: all of 566

What passes: 4 in 9 nuclear stains with 10 % positive nuclei, 1 in 6 of those with more, any
stain of cytoplasm, a blur of less than a nucleus, red and blue exchanged, and glass with a trace
(0.2 to 3 % of the area) of whatever stain. Without mpp a window of less than 100 um may be taken
for blurred.
"""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

from her2lib.data.images import map_ahead, read_pixels
from her2lib.files import read_json, write_text

if TYPE_CHECKING:
    import torch

# What is written to the cache holds for these rules only: count up when one of them changes.
RULES = 1

# code: what the picture is instead of an H-DAB field. The first that holds is the reason.
REASONS = {
    "dark": "black, inverted, under dark ink, or hardly any light comes through",
    "blank": "blank, there is no tissue on the glass",
    "noise": "noise, neighbouring pixels have nothing in common",
    "grey": "grey, neither blue nor brown",
    "drawn": "a drawing, text or a screenshot, with as few colours as grey levels",
    "H&E": "pink as of eosin, so haematoxylin and eosin (H&E)",
    "ink": "under a pen, or green, blue or violet as neither stain is",
    "colour": "red, orange or yellow as neither stain is",
    "focus": "out of focus",
    "nuclear": "brown nuclei without brown membranes, as in a nuclear stain (Ki-67, ER)",
}
MEASURES = (
    *("light", "dark", "tissue", "colours", "grain", "chroma", "pink", "ink", "warm"),
    *("focus", "brown", "spots", "bulge"),
)

# Ruifrok & Johnston 2001 as in her2lib.stain, which would bring torch; a test holds them together.
HDAB = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.6362, -0.7100, 0.3018]])
FIELD_UM = 480.0  # side of a picture whose mpp is unknown

# Pictures are judged at this side or below, at 1 um a pixel or coarser: 256 px of a BCI patch have
# 1.9 um, where nuclei are still 4 px wide.
SIDE_PX = 256
FINEST_UM = 1.0
COARSEST_UM = 2.5  # above this nuclei are dots, and nuclear stain is not looked for
MOST_COLOURS = 512  # counting stops there, so it costs nothing


# --- judging --------------------------------------------------------------------------------------


def judge_fields(images: "torch.Tensor", *, mpp: float | None = None) -> pd.DataFrame:
    """DataFrame, one row an image: reason ("" an H-DAB field, else a code of REASONS), MEASURES.

    images: uint8 (B,3,H,W), RGB, on any device.
    mpp: micrometres a pixel; None takes the longer side for 480 um.
    Raises ValueError for images of another type or shape.

    Example: judge_fields(patches.images[:8]).reason
    """
    if str(images.dtype) != "torch.uint8" or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Images must be uint8 (B,3,H,W), not {images.dtype} {tuple(images.shape)}: "
            "permute and stack them."
        )
    rows = []
    for image in images:
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        measures = measure_field(picture, mpp=mpp)
        rows.append({"reason": name_reason(measures), **measures})
    return pd.DataFrame(rows, columns=["reason", *MEASURES])


def judge_files(
    paths: Iterable[str],
    *,
    mpp: Sequence[float] | None = None,
    cache: Path | str | None = None,
    progress: bool = False,
) -> list[str]:
    """list of sentences of REASONS, one a path: "" an H-DAB field, or a file that is no image.

    mpp: micrometres a pixel of each file, NaN where unknown.
    cache: folder that keeps the reasons for the next call; a file that has changed is read again.
    What was read before an interruption is kept. What is wrong with a file, images.probe_files
    tells.

    Example: reasons = judge_files(["a.png", "b.png"], cache="checks")
    """
    paths = list(paths)
    if mpp is None:
        mpp = [math.nan] * len(paths)
    keys = [_stamp(path, side_um) for path, side_um in zip(paths, mpp, strict=True)]
    checked = _read_reasons(cache)
    unread = {}
    for path, key in zip(paths, keys, strict=True):
        if key and checked.get(path, [None])[0] != key:
            unread[path] = key
    bar = tqdm(
        unread, desc="looking at fields", unit="file", disable=not progress or len(unread) < 100
    )

    def judge(path):
        return _judge_file(path, unread[path][-1])

    fresh = {}
    try:
        with contextlib.closing(map_ahead(judge, bar)) as results:
            for path, reason in zip(unread, results, strict=True):
                fresh[path] = [unread[path], reason]
    finally:
        _write_reasons(cache, fresh)
    checked |= fresh

    sentences = {"": "", **REASONS}
    reasons = []
    for path, key in zip(paths, keys, strict=True):
        reasons.append(sentences[checked[path][1]] if key else "")
    return reasons


def name_reason(measures: dict[str, float]) -> str:
    """str, the first code of REASONS that the measures of a picture meet, "" for none."""
    # Behind each rule: the most extreme of 1,600 fields that it shall let pass, then what it
    # is there for.
    m = measures
    rules = {
        # Palest 1 %: 198 grey levels; black at most 24, inverted 57 to 156. Area below 100: 0.52
        # under a phantom's pen; black ink 0.8.
        "dark": m["light"] < 160 or m["dark"] > 0.6,
        # 0.2 % of a BCI patch is 460 um2, about five cells.
        "blank": m["tissue"] < 0.002,
        # 0.67; noise 0.744.
        "noise": m["grain"] > 0.7,
        # 0.065 in 99 % of fields; grey pictures 0.
        "grey": m["chroma"] < 0.03,
        # 1.5; text, in blends of two colours, at most 0.9.
        "drawn": m["colours"] < 1.2,
        # 0.002; H&E 0.02 to 0.99.
        "H&E": m["pink"] > 0.01,
        # 0.5 under a phantom's pen; ink on all of a field 0.9.
        "ink": m["ink"] > 0.6,
        # 0.026; photographs 0.16 (median).
        "colour": m["warm"] > 0.06,
        # 0.211; real patches blurred by a Gaussian of 8 um at most 0.185.
        "focus": m["focus"] < 0.2,
        # Bulge 0.695 in membranes of real patches, 0.76 and more in nuclei painted into them.
        "nuclear": m["brown"] > 0.02 and m["spots"] >= 8 and m["bulge"] > 0.75,
    }
    return next((code for code in REASONS if rules[code]), "")


# --- measuring ------------------------------------------------------------------------------------


def measure_field(picture: Image.Image, *, mpp: float | None = None) -> dict[str, float]:
    """{measure: value} of a PIL image, RGB: what the rules of name_reason look at.

    light: palest 1 % in the darkest channel, in grey levels; dark: fraction of area below grey
    level 100; tissue: fraction of area above 0.03 optical density; colours: number of colours (512
    at most) over that of grey levels; grain: fraction of the variance finer than 2 px; chroma:
    fraction of the tissue's density that is not grey; pink, warm: fractions of the dense tissue
    whose hue neither stain has; ink: the same of cold hues, of the area; focus: contrast of tissue
    at 2 um over that at 16 um; brown: fraction of tissue with DAB; spots: compact brown patches as
    large as nuclei; bulge: fraction of brown's curvature that stands out, as nuclei do, where
    cells in a net of membranes are hollows.
    """
    small, um = _reduce(picture, mpp)
    # Channels first: sums over the last axis of an (h,w,3) array take five times as long.
    pixels = np.moveaxis(np.asarray(small, np.float32), 2, 0).copy()  # (3,h,w)
    palest = [_palest(channel) for channel in small.split()]
    # One white for the three channels: grey glass counts as glass, green light stays green.
    density = np.log10(max(*palest, 1) / pixels.clip(1))
    mean = density.mean(0)
    tissue = mean > 0.03
    measures = {
        "light": float(min(palest)),
        "dark": float((pixels.mean(0) < 100).mean()),
        "tissue": float(tissue.mean()),
        "colours": _colour_richness(picture),
        "grain": _grain(pixels[1]),
        "focus": _focus(mean.clip(0.02), um),
    }
    stains = np.linalg.inv(HDAB).T.astype(np.float32) @ density.reshape(3, -1)
    stains = stains.reshape(density.shape)  # (3,h,w) haematoxylin, DAB, the rest
    measures |= _hues(density, stains, mean, tissue)
    measures |= _brown_shapes(stains, tissue, um)
    return {name: measures[name] for name in MEASURES}


def _reduce(picture, mpp):
    """(PIL image, micrometres a pixel) of a picture at SIDE_PX and FINEST_UM, 32 px or more."""
    longest = max(picture.size)
    if mpp is None or math.isnan(mpp):
        mpp = FIELD_UM / longest
    wanted = max(round(FINEST_UM / mpp), math.ceil(longest / SIDE_PX))
    down = max(1, min(wanted, min(picture.size) // 32))
    return picture.reduce(down), mpp * down


def _palest(channel):
    """int, grey level that 99 % of the pixels of one channel do not exceed."""
    below = np.cumsum(channel.histogram())
    return int(np.searchsorted(below, 0.99 * below[-1]))


def _colour_richness(picture):
    """float, colours of a PIL image for every grey level between its darkest and its palest green.

    In tissue every level comes in many hues, in a drawing in one.
    """
    counted = picture.getcolors(maxcolors=MOST_COLOURS)
    count = MOST_COLOURS
    # None says that there are more.
    if counted:
        count = len(counted)
    darkest, palest = picture.getextrema()[1]
    return count / (palest - darkest + 1)


def _grain(green):
    """float, fraction of the variance (h,w) that is lost to means of 2 x 2 pixels."""
    h, w = (side // 2 * 2 for side in green.shape)
    means = green[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3))
    return float(1 - means.var() / max(green[:h, :w].var(), 1e-6))


def _focus(density, um):
    """float, contrast of pixels 2 um apart over that of pixels 16 um apart, of (h,w) density."""
    most = min(density.shape) - 1
    fine = max(1, round(2 / um))
    coarse = min(max(2, round(16 / um)), most)
    return math.sqrt(_contrast_at(density, fine) / max(_contrast_at(density, coarse), 1e-9))


def _contrast_at(density, distance):
    """float, mean squared difference of pixels this far apart, down and across."""
    down = np.square(density[distance:] - density[:-distance]).mean()
    across = np.square(density[:, distance:] - density[:, :-distance]).mean()
    return float(down + across)


def _hues(density, stains, mean, tissue):
    """{chroma, pink, ink, warm} of optical density and stains (3,h,w)."""
    length = np.sqrt(np.square(density).sum(0)).clip(1e-6)
    grey = np.sqrt(3) * mean
    chroma = np.sqrt((np.square(length) - np.square(grey)).clip(0)) / length
    blue, brown, rest = stains / length
    # Of density 1: haematoxylin is (1,0,0), DAB (0,1,0), grey (0.6,0.5,0.1), eosin's rest -0.6,
    # green's 0.9. The cuts leave room for the dyes of other laboratories.
    dense = mean > 0.06
    return {
        "chroma": _mean_inside(chroma, tissue),
        "pink": _mean_inside(rest < -0.25, dense),
        "ink": float((dense & ((rest > 0.45) | (brown < -0.2))).mean()),
        "warm": _mean_inside(blue < -0.2, dense),
    }


def _brown_shapes(stains, tissue, um):
    """{brown, spots, bulge}: how much is brown, and whether as nuclei or as membranes."""
    blue, brown, _ = stains
    # Haematoxylin alone reads up to 0.45 of itself as DAB (stain.MOST_LEAK); 0.6 is beyond it.
    brown = (brown - 0.6 * blue).clip(0)
    stained = brown > 0.1
    shapes = {"brown": _mean_inside(stained, tissue), "spots": 0, "bulge": 0.0}
    if um <= COARSEST_UM:
        shapes["spots"] = _count_spots(stained, um)
    if shapes["spots"]:
        shapes["bulge"] = _bulge(brown, sigma_px=max(1.2, 1.6 / um))
    return shapes


def _count_spots(stained, um):
    """int, patches 3 to 18 um wide that fill 60 % of their box, at most twice as long as wide."""
    patches, count = ndimage.label(stained)
    areas = np.bincount(patches.ravel(), minlength=count + 1)[1:]
    boxes = [(y.stop - y.start, x.stop - x.start) for y, x in ndimage.find_objects(patches)]
    sides = np.array(boxes).reshape(-1, 2)
    short, long = sides.min(1), sides.max(1)
    round_enough = (areas > 0.6 * short * long) & (long <= 2 * short)
    return int((round_enough & (short * um >= 3) & (long * um <= 18)).sum())


def _bulge(brown, *, sigma_px):
    """float 0..1, curvature of bulges over that of bulges and hollows, of brown (h,w)."""
    xx = ndimage.gaussian_filter(brown, sigma_px, order=(0, 2))
    yy = ndimage.gaussian_filter(brown, sigma_px, order=(2, 0))
    xy = ndimage.gaussian_filter(brown, sigma_px, order=(1, 1))
    middle = (xx + yy) / 2
    spread = np.sqrt(np.square((xx - yy) / 2) + np.square(xy))
    # A bulge bends down in every direction, a hollow up; a line does neither.
    bulges = (-(middle + spread)).clip(0).sum()
    hollows = (middle - spread).clip(0).sum()
    return float(bulges / max(bulges + hollows, 1e-6))


def _mean_inside(x, area):
    """float, mean of x (h,w) over the area (h,w) bool; 0 where there is none."""
    return float(x[area].mean()) if area.any() else 0.0


# --- files and the results of earlier calls -------------------------------------------------------


def _judge_file(path, mpp):
    """str, the reason of one file; "" where it cannot be read, which is no matter of the field."""
    # A stranger's bytes raise anything in a decoder; images.FAULTS names it.
    try:
        return name_reason(measure_field(read_pixels(path), mpp=mpp))
    except Exception:
        return ""


def _stamp(path, mpp):
    """[bytes, mtime, ctime, mpp or None] of a file, or None where there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    if math.isnan(mpp):
        mpp = None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, mpp]


def _read_reasons(folder):
    """dict path -> [stamp, reason] from earlier calls; empty without a folder."""
    if not folder:
        return {}
    return read_json(Path(folder, f"fields_{RULES}.json"))


def _write_reasons(folder, fresh):
    """Adds reasons to the cache. It only saves time, so a full or locked disk warns."""
    if not folder or not fresh:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(folder, "fields.lock")):
            content = json.dumps(_read_reasons(folder) | fresh)
            write_text(Path(folder, f"fields_{RULES}.json"), content)
    except OSError as error:
        warnings.warn(
            f"{folder}: what was seen of the fields is not kept ({error.strerror}), "
            f"so the next call looks again.",
            stacklevel=3,
        )
