"""From stain on glass to a scanned picture.

Beer-Lambert in optical density, uneven light, focus, sharpening, noise, JPEG.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

# Optical density of a dye in red, green and blue, as a direction of length 1.
# Haematoxylin: mean of nuclei in eight cores of one scanner; Ruifrok's reads 0.65, 0.70, 0.29.
HAEMATOXYLIN = (0.66, 0.61, 0.44)
DAB = (0.36, 0.59, 0.72)
EOSIN = (0.09, 0.95, 0.28)
PIGMENT = (0.28, 0.50, 0.82)  # haemosiderin: golden, yellower than DAB
INKS = ((0.9, 0.6, 0.1), (0.95, 0.25, 0.75), (0.75, 0.7, 0.65))  # blue, green, black pens

# Grey levels of the light through nothing, and how often a laboratory's scanner shows them.
GLASS = {
    "white": (245, 245, 247),
    "lavender": (236, 235, 243),
    "grey": (220, 219, 221),
    "yellow": (242, 238, 226),
}
GLASS_FRACTIONS = (0.25, 0.45, 0.2, 0.1)


@dataclass(frozen=True)
class Optics:
    """What the patches of one slide share between stain and file."""

    haematoxylin: tuple[float, ...]
    dab: tuple[float, ...]
    glass: tuple[float, ...]  # RGB 0..255 of light through nothing
    tilt: tuple[float, ...]  # fraction of light lost from edge to edge, x and y
    blur_um: float
    sharpen: float
    sharpen_um: float
    noise: float
    jpeg: int  # quality, 0 for none
    ink: tuple[float, ...]
    eosin: tuple[float, ...] = EOSIN


def draw_optics(rng, *, laboratory=0):
    """Optics of one slide; slides of one laboratory share scanner and dyes, and differ a little."""
    lab = np.random.default_rng([7, laboratory])
    glass = np.array(GLASS[lab.choice(list(GLASS), p=GLASS_FRACTIONS)], float)
    # the arguments draw from both generators: their order is part of the picture
    return Optics(
        haematoxylin=_shift_vector(_shift_vector(HAEMATOXYLIN, 0.022, lab), 0.015, rng),
        dab=_shift_vector(_shift_vector(DAB, 0.014, lab), 0.008, rng),
        glass=tuple(np.clip(glass + rng.normal(0, 1.5) + rng.normal(0, 1.2, 3), 150, 254)),
        tilt=tuple(rng.normal(0, 0.012, 2)),
        blur_um=lab.uniform(0.2, 0.4) * rng.uniform(0.9, 1.15),
        sharpen=lab.uniform(0.5, 2.2),
        sharpen_um=lab.uniform(0.5, 0.9),
        noise=lab.uniform(0.5, 1.8),
        jpeg=int(lab.integers(78, 94)),
        ink=INKS[rng.integers(len(INKS))],
    )


def develop(optics, dyes, *, mpp, rng, defocus=None):
    """(H,W,3) uint8 picture of {dye: (H,W) optical density, base 10}.

    A dye is one of optics, "grey" or "pigment"; defocus is None or (H,W) 0..1.
    """
    vectors = {"grey": (1.0, 1.0, 1.0), "pigment": PIGMENT, **vars(optics)}
    dyes = [(density, vectors[name]) for name, density in dyes.items()]
    height, width = dyes[0][0].shape
    light = _light(optics, height, width)
    # noise is mostly shared by the channels after demosaicking
    noise = rng.standard_normal((height, width), np.float32)
    picture = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        density = sum(amount * np.float32(vector[channel]) for amount, vector in dyes)
        through = np.exp(density * np.float32(-np.log(10)))
        level = through * light * np.float32(optics.glass[channel])
        level = _scan(optics, level, mpp, defocus)
        level += noise * np.float32(optics.noise) * np.sqrt(np.maximum(level, 1) / 255)
        picture[..., channel] = np.clip(level + 0.5, 0, 255)
    return _through_jpeg(picture, optics.jpeg)


def _shift_vector(vector, spread, rng):
    """Three floats, a direction close to a dye's."""
    moved = np.clip(np.array(vector) + rng.normal(0, spread, 3), 0.02, 1)
    return tuple(float(value) for value in moved / np.linalg.norm(moved))


def _light(optics, height, width):
    """(H,W) float32 around 1, light that falls off from edge to edge."""
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    return 1 + np.float32(optics.tilt[0]) * x + np.float32(optics.tilt[1]) * y


def _scan(optics, level, mpp, defocus):
    """(H,W) grey levels after the lens, lost focus where it is, and the scanner's sharpening."""
    sharp = ndimage.gaussian_filter(level, optics.blur_um / mpp, truncate=3)
    if defocus is not None:
        blurred = ndimage.gaussian_filter(level, 2.2 / mpp, truncate=2)
        sharp += (blurred - sharp) * defocus
    smooth = ndimage.gaussian_filter(sharp, optics.sharpen_um / mpp, truncate=3)
    return sharp + np.float32(optics.sharpen) * (sharp - smooth)


def _through_jpeg(picture, quality):
    """(H,W,3) uint8 as it comes back from a JPEG file; quality 0 leaves it alone."""
    if not quality:
        return picture
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer).convert("RGB"))
