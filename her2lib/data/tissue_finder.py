"""What of a slide is worth cutting: its overview, glass, tissue, ink and focus, and the reason for every field left out."""

import math

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from her2lib.data.images import DataError

OVERVIEW_UM = 8.0  # a pixel of the overview: about one nucleus
# the overview is read in squares of at most this side, so a slide of one level needs no more memory
READ_PX = 4096
# mean optical density plus roughness; pale muscle has 0.028, glass below 0.004 (measured for
# stain's masks)
TISSUE_OD = 0.02
# what is smaller than a square of this side, strands within two pixels counted together, is dust,
# not tissue
SPECK_UM = 100.0
OUTLINES = {"": "#118833", "pen": "#cc3311", "out of focus": "#ee7733", "unreadable": "#000000"}
VIEW_PX = 1000  # a smaller overview is enlarged so that its grid can be read
PEN_SHARE = 0.02  # of a field under ink
# 7 real and 8 phantom patches: in focus 0.51 to 0.89, blurred by a Gaussian of 3 px 0.21 to 0.32,
# of 4.5 px 0.18 to 0.33
SHARP = 0.3


def overview(slide, *, slide_mpp):
    """(picture (h,w,3) uint8, scanned (h,w) bool, px of level 0 to one of it), read piece by piece at OVERVIEW_UM."""
    down = max(1.0, OVERVIEW_UM / slide_mpp)
    level = slide.get_best_level_for_downsample(down)
    scale = down / slide.level_downsamples[level]
    width, height = (max(1, int(side / down)) for side in slide.dimensions)
    if width * height > 2**27:
        raise DataError(
            f"It says to be {width * OVERVIEW_UM / 1e4:.0f} x {height * OVERVIEW_UM / 1e4:.0f} cm wide: check --slide-mpp."
        )
    canvas, side = Image.new("RGBA", (width, height)), max(1, int(READ_PX / scale))
    for y in range(0, height, side):
        for x in range(0, width, side):
            w, h = min(side, width - x), min(side, height - y)
            part = slide.read_region(
                (int(x * down), int(y * down)), level, (math.ceil(w * scale), math.ceil(h * scale))
            )
            canvas.paste(
                part.resize((w, h), Image.Resampling.BOX, box=(0, 0, w * scale, h * scale)), (x, y)
            )
    return np.asarray(flat_pixels(canvas)), np.asarray(canvas.getchannel(3)) > 250, down


def find_tissue(picture, scanned):
    """(tissue, pen, white): (h,w) bool masks of an overview and the (3,) grey levels of its glass."""
    white = _glass(picture, scanned)
    od = np.log10(white / np.clip(picture, 1, white)).astype(np.float32)
    pen = ndimage.binary_dilation(_large(_ink(od), SPECK_UM), iterations=2)
    grey = od.mean(2)
    near = ndimage.uniform_filter(grey, 3)
    found = (near + ndimage.uniform_filter(np.abs(grey - near), 3) > TISSUE_OD) & scanned & ~pen
    return _large(found, SPECK_UM), pen, white


def plan_fields(grid, tissue, pen, down, least):
    """DataFrame, a row per field: x, y, tissue (share) and reason ("" where it is to be cut), in reading order."""
    rows = []
    for x, y in (
        (grid.left + c * grid.step, grid.top + r * grid.step)
        for r in range(grid.rows)
        for c in range(grid.columns)
    ):
        box = tuple(
            slice(int(v / down), max(int((v + grid.step) / down), int(v / down) + 1))
            for v in (y, x)
        )
        seen, ink = (float(mask[box].mean()) if mask[box].size else 0.0 for mask in (tissue, pen))
        rows.append(
            (
                x,
                y,
                round(seen, 4),
                "pen" if ink > PEN_SHARE else "blank" if seen < max(least, 1e-9) else "",
            )
        )
    return pd.DataFrame(rows, columns=["x", "y", "tissue", "reason"]).assign(
        dab=np.nan, sharpness=np.nan
    )


def sharpness(image):
    """float, fine over coarse contrast (between px 2 and 16 apart) of a PIL image: about 0.6 in focus, below 0.3 out of it."""
    green = np.asarray(
        image.getchannel(1).reduce(2), np.float32
    )  # halved, as sensor noise is not sharpness
    fine, coarse = (
        sum(
            np.mean(np.square(a - b))
            for a, b in ((green[n:], green[:-n]), (green[:, n:], green[:, :-n]))
        )
        for n in (1, 8)
    )
    return math.sqrt(fine / max(coarse, 1e-6))


def dab_tables(white):
    """([3 tables (256,) of what a grey level adds to the DAB optical density], the density that counts as stained)."""
    from her2lib import stain  # brings torch, 3 s: here only, so that no worker waits for it

    share = np.linalg.inv(stain.HDAB.numpy())[:, 1]
    od = np.log10(white[:, None] / np.maximum(np.arange(256), 1)[None])
    return [*(share[:, None] * od).astype(np.float32), stain.DAB_CUTS[0]]


def draw_fields(picture, fields, grid, down):
    """PIL image, the overview, enlarged if it is small, with every field that is not blank outlined in the colour of what became of it."""
    zoom = max(1, -(-VIEW_PX // max(picture.shape[:2])))
    size = (picture.shape[1] * zoom, picture.shape[0] * zoom)
    image = Image.new("RGB", (max(size[0], VIEW_PX), size[1] + 30), "white")
    image.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (0, 0))
    pen, scale = ImageDraw.Draw(image), zoom / down
    for row in fields[fields.reason != "blank"].itertuples():
        box = [
            row.x * scale,
            row.y * scale,
            (row.x + grid.step) * scale - 2,
            (row.y + grid.step) * scale - 2,
        ]
        pen.rectangle(box, outline=OUTLINES[row.reason], width=2)
    for place, (reason, colour) in enumerate(OUTLINES.items()):
        text = f"{reason or 'cut'}: {(fields.reason == reason).sum()}"
        pen.text((10 + place * image.width // 5, size[1] + 6), text, fill=colour, font_size=16)
    pen.text(
        (10 + 4 * image.width // 5, size[1] + 6),
        f"blank: {(fields.reason == 'blank').sum()}",
        fill="#888888",
        font_size=16,
    )
    return image


def flat_pixels(region):
    """PIL image, RGB, of what OpenSlide read: what was not scanned is transparent and becomes white."""
    if region.getchannel(3).getextrema() == (255, 255):
        return region.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB")


def _glass(picture, scanned):
    """(3,) float, colour of the commonest smooth bright pixels, pure white (filler) only where there is no other glass."""
    grey = picture.mean(2)
    smooth = (
        scanned
        & (ndimage.maximum_filter(grey, 3) - ndimage.minimum_filter(grey, 3) <= 3)
        & (grey > 150)
    )
    true = smooth & (grey < 254.5)
    if (chosen := true if true.sum() >= 0.02 * max(scanned.sum(), 1) else smooth).sum() < 50:
        return (
            np.percentile(picture[scanned], 99, axis=0).clip(1)
            if scanned.any()
            else np.full(3, 255.0)
        )
    level = np.bincount(grey[chosen].round().astype(int), minlength=256).argmax()
    return picture[chosen & (np.abs(grey - level) <= 1)].mean(0)


def _ink(od):
    """(h,w) bool, where the ratio of optical densities (h,w,3) is that of blue, green, red or black ink and of neither stain."""
    r, g, b = np.moveaxis(od, 2, 0)  # haematoxylin has about 10:10:6, DAB 4:7:9, haemosiderin 3:5:8
    cold = (r > 0.25) & ((g < 0.5 * r) | ((g < 0.8 * r) & (b < 0.3 * r)))
    red = (g > 0.25) & (r < 0.2 * g) & (b > 0.5 * g)
    black = (od.min(2) > 0.55) & (od.min(2) > 0.8 * od.max(2))
    return cold | red | black


def _large(mask, side_um):
    """(h,w) bool, a mask of the overview without pieces smaller than a square of side_um; near strands are one piece."""
    pieces, n = ndimage.label(ndimage.binary_dilation(mask, iterations=2))
    return (np.bincount(pieces.ravel(), minlength=n + 1) >= (side_um / OVERVIEW_UM) ** 2)[
        pieces
    ] & mask
