"""What of a slide is worth cutting: overview, glass, tissue, ink, focus, a reason for the rest."""

import math

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from her2lib.files import DataError

# A pixel of the overview, in micrometres: about one nucleus.
OVERVIEW_UM = 8.0
# The overview is read in squares of at most this side, so a slide of one level needs no more
# memory.
READ_PX = 4096
# Mean optical density plus roughness; pale muscle has 0.028, glass below 0.004 (measured for
# stain's masks).
TISSUE_OD = 0.02
# What is smaller than a square of this side, strands within two pixels counted together, is dust,
# not tissue.
SPECK_UM = 100.0
# Fraction of a field under ink.
PEN_FRACTION = 0.02
# 7 real and 8 phantom patches: in focus 0.51 to 0.89, blurred by a Gaussian of 3 px 0.21 to 0.32,
# of 4.5 px 0.18 to 0.33.
SHARP = 0.3

# Ruifrok's haematoxylin, DAB and residual, and the density of weak DAB: stain.HDAB and
# stain.DAB_CUTS written out (a test compares them), because stain brings torch, 3 s in each worker.
HDAB = ((0.650, 0.704, 0.286), (0.268, 0.570, 0.776), (0.6362, -0.7100, 0.3018))
WEAK_DAB = 0.15
# A pixel is pink where green is this much denser than red and blue; a field is H&E where so many
# of its stained pixels are: of 32 real and 48 phantom H-DAB patches at most 0.1 %, of 48 phantoms
# in H&E and 55 fields of two real H&E slides at least 58 %.
PINK = 1.3
STAINED = 0.08
LEAST_PIXELS = 50
HE_FRACTION = 0.2

# A smaller overview is enlarged so that its grid can be read.
VIEW_PX = 1000
# What became of a field -> colour of its outline; "" was cut.
OUTLINES = {"": "#118833", "pen": "#cc3311", "out of focus": "#ee7733", "unreadable": "#000000"}
# What has no outline, because it would hide the slide.
PLAIN = ("blank", "outside regions")
PLAIN_COLOUR = "#888888"
REGION_COLOUR = "#3366cc"


# --- the overview of a slide ----------------------------------------------------------------------


def overview(slide, *, slide_mpp):
    """(picture (h,w,3) uint8, scanned (h,w) bool, px of level 0 to one of it) at OVERVIEW_UM."""
    down = max(1.0, OVERVIEW_UM / slide_mpp)
    level = slide.get_best_level_for_downsample(down)
    scale = down / slide.level_downsamples[level]
    width, height = (max(1, int(side / down)) for side in slide.dimensions)
    if width * height > 2**27:
        raise DataError(
            f"It says to be {width * OVERVIEW_UM / 1e4:.0f} x {height * OVERVIEW_UM / 1e4:.0f} cm "
            "wide: check --slide-mpp."
        )
    canvas = Image.new("RGBA", (width, height))
    side = max(1, int(READ_PX / scale))
    for y in range(0, height, side):
        for x in range(0, width, side):
            w, h = min(side, width - x), min(side, height - y)
            corner = (int(x * down), int(y * down))
            read_px = (math.ceil(w * scale), math.ceil(h * scale))
            part = slide.read_region(corner, level, read_px)
            box = (0, 0, w * scale, h * scale)
            canvas.paste(part.resize((w, h), Image.Resampling.BOX, box=box), (x, y))
    scanned = np.asarray(canvas.getchannel(3)) > 250
    return np.asarray(flat_pixels(canvas)), scanned, down


def flat_pixels(region):
    """PIL image, RGB, of a region read by OpenSlide: what was not scanned is white.

    OpenSlide leaves it transparent.
    """
    if region.getchannel(3).getextrema() == (255, 255):
        return region.convert("RGB")
    flat = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB")
    # The other fields of such a slide are written with its profile, and Pillow drops it here.
    if "icc_profile" in region.info:
        flat.info["icc_profile"] = region.info["icc_profile"]
    return flat


def find_tissue(picture, scanned):
    """(tissue, pen, white): (h,w) bool masks of an overview, (3,) grey levels of its glass."""
    white = _glass_level(picture, scanned)
    density = np.log10(white / np.clip(picture, 1, white)).astype(np.float32)  # (h,w,3)
    pen = ndimage.binary_dilation(_without_specks(_is_ink(density)), iterations=2)
    grey = density.mean(2)
    smooth = ndimage.uniform_filter(grey, 3)
    roughness = ndimage.uniform_filter(np.abs(grey - smooth), 3)
    tissue = (smooth + roughness > TISSUE_OD) & scanned & ~pen
    return _without_specks(tissue), pen, white


# --- the fields of its grid -----------------------------------------------------------------------


def plan_fields(grid, tissue, pen, down, least, in_region=None):
    """DataFrame, a row per field in reading order: x, y, tissue (fraction), reason, dab, sharpness.

    The reason is "" where the field is to be cut; dab, sharpness and eosin are measured then.
    in_region: (rows,columns) bool, where patches are wanted; None for everywhere.
    """
    rows = []
    for row in range(grid.rows):
        for column in range(grid.columns):
            x = grid.left + column * grid.step
            y = grid.top + row * grid.step
            box = (_overview_pixels(y, grid.step, down), _overview_pixels(x, grid.step, down))
            tissue_fraction = _fraction(tissue[box])
            reason = ""
            if in_region is not None and not in_region[row, column]:
                reason = "outside regions"
            elif _fraction(pen[box]) > PEN_FRACTION:
                reason = "pen"
            elif tissue_fraction < max(least, 1e-9):
                reason = "blank"
            rows.append((x, y, round(tissue_fraction, 4), reason))
    fields = pd.DataFrame(rows, columns=["x", "y", "tissue", "reason"])
    return fields.assign(dab=np.nan, sharpness=np.nan, eosin=np.nan)


def sharpness(image):
    """float, fine over coarse contrast (of pixels 2 and 16 apart) of a PIL image.

    About 0.6 in focus, below 0.3 out of it.
    """
    # halved, as the noise of a sensor is not sharpness
    green = np.asarray(image.getchannel(1).reduce(2), np.float32)
    return math.sqrt(_contrast(green, 1) / max(_contrast(green, 8), 1e-6))


def dab_tables(white):
    """(3 tables (256,), density): what a grey level of R, G, B adds to the DAB optical density.

    The density is the one from which a pixel counts as stained. Base 10; white (3,) is the glass.
    """
    weights = np.linalg.inv(np.array(HDAB))[:, 1]
    density = np.log10(white[:, None] / np.maximum(np.arange(256), 1)[None])
    tables = (weights[:, None] * density).astype(np.float32)
    return list(tables), WEAK_DAB


def dab_fraction(image, tables):
    """float, fraction of a PIL image that is stained with DAB, by the tables of dab_tables."""
    levels, least = tables
    # every other pixel is enough for a fraction
    pixels = np.asarray(image)[::2, ::2]
    density = sum(np.take(table, pixels[..., channel]) for channel, table in enumerate(levels))
    return float((density > least).mean())


def eosin_fraction(image, white):
    """float, fraction of the stained pixels of a PIL image that are pink as eosin; white is (3,).

    Eosin takes far more green than red and blue, which neither haematoxylin nor DAB does.
    """
    # every fourth pixel is enough for a fraction
    pixels = np.asarray(image)[::4, ::4].reshape(-1, 3)
    density = np.log10(white / np.clip(pixels, 1, white))
    red, green, blue = density[density.mean(1) > STAINED].T
    if len(green) < LEAST_PIXELS:
        return 0.0
    return float((green > PINK * np.maximum(red, blue)).mean())


# --- the drawing that is kept ---------------------------------------------------------------------


def draw_fields(picture, fields, grid, down, outlines=()):
    """PIL image, the overview with every field that is not blank in the colour of its outcome.

    A small overview is enlarged. outlines: rings (V,2) in px of level 0 of the regions to cut in.
    """
    height, width = picture.shape[:2]
    zoom = max(1, math.ceil(VIEW_PX / max(height, width)))
    width, height = width * zoom, height * zoom
    image = Image.new("RGB", (max(width, VIEW_PX), height + 30), "white")
    enlarged = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
    image.paste(enlarged, (0, 0))
    draw = ImageDraw.Draw(image)
    scale = zoom / down
    for field in fields[~fields.reason.isin(PLAIN)].itertuples():
        box = [
            field.x * scale,
            field.y * scale,
            (field.x + grid.step) * scale - 2,
            (field.y + grid.step) * scale - 2,
        ]
        draw.rectangle(box, outline=OUTLINES[field.reason], width=2)
    for ring in outlines:
        draw.line([tuple(point) for point in ring * scale], fill=REGION_COLOUR, width=3)
    _draw_legend(draw, fields, y=height + 6, width=image.width)
    return image


def _draw_legend(draw, fields, *, y, width):
    """Writes how many fields were cut or left out, each in the colour of its outline."""
    plain = dict.fromkeys(PLAIN, PLAIN_COLOUR)
    for column, (reason, colour) in enumerate((OUTLINES | plain).items()):
        text = f"{reason or 'cut'}: {(fields.reason == reason).sum()}"
        draw.text((10 + column * width // 6, y), text, fill=colour, font_size=16)


# --- masks ----------------------------------------------------------------------------------------


def _glass_level(picture, scanned):
    """(3,) float, colour of the commonest smooth bright pixels of an overview.

    Pure white is filler and counts only where there is no other glass.
    """
    grey = picture.mean(2)
    roughness = ndimage.maximum_filter(grey, 3) - ndimage.minimum_filter(grey, 3)
    glass = scanned & (roughness <= 3) & (grey > 150)
    not_filler = glass & (grey < 254.5)
    if not_filler.sum() >= 0.02 * max(scanned.sum(), 1):
        glass = not_filler
    if glass.sum() < 50:
        if not scanned.any():
            return np.full(3, 255.0)
        return np.percentile(picture[scanned], 99, axis=0).clip(1)
    level = np.bincount(grey[glass].round().astype(int), minlength=256).argmax()
    return picture[glass & (np.abs(grey - level) <= 1)].mean(0)


def _is_ink(density):
    """(h,w) bool, where the optical densities (h,w,3) stand as in blue, green, red or black ink."""
    # Neither stain stands so: haematoxylin has about 10:10:6, DAB 4:7:9, haemosiderin 3:5:8.
    red, green, blue = np.moveaxis(density, 2, 0)
    cold_hue = (green < 0.5 * red) | ((green < 0.8 * red) & (blue < 0.3 * red))
    cold_ink = (red > 0.25) & cold_hue
    # Eosin is nearest: 25 % of the pixels of a real frozen section had blue over 0.5 of green,
    # 0.02 % over 0.6. Red markers have about 0.85.
    red_ink = (green > 0.25) & (red < 0.2 * green) & (blue > 0.65 * green)
    black_ink = (density.min(2) > 0.55) & (density.min(2) > 0.8 * density.max(2))
    return cold_ink | red_ink | black_ink


def _without_specks(mask):
    """(h,w) bool, a mask of the overview without pieces smaller than a square of SPECK_UM.

    Strands within two pixels of each other are one piece.
    """
    pieces, n_pieces = ndimage.label(ndimage.binary_dilation(mask, iterations=2))
    areas = np.bincount(pieces.ravel(), minlength=n_pieces + 1)
    large = areas >= (SPECK_UM / OVERVIEW_UM) ** 2
    return large[pieces] & mask


def _overview_pixels(start, length, down):
    """slice of the overview, at least one pixel, under length px of level 0 from start."""
    first = int(start / down)
    return slice(first, max(int((start + length) / down), first + 1))


def _fraction(mask):
    """float, fraction of a mask that is set; 0 outside the overview."""
    if not mask.size:
        return 0.0
    return float(mask.mean())


def _contrast(green, distance):
    """float, mean squared difference of pixels this far apart, down and across."""
    down = np.mean(np.square(green[distance:] - green[:-distance]))
    across = np.mean(np.square(green[:, distance:] - green[:, :-distance]))
    return down + across
