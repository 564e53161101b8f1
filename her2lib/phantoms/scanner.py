"""From stain on glass to a scanned picture: Beer-Lambert in optical density, uneven light, focus, scanner, noise, JPEG."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

HAEMATOXYLIN = (
    0.66,
    0.61,
    0.44,
)  # mean direction of nuclei in eight cores of one scanner; Ruifrok's reads 0.65, 0.70, 0.29
DAB = (0.36, 0.59, 0.72)
INKS = ((0.9, 0.6, 0.1), (0.95, 0.25, 0.75), (0.75, 0.7, 0.65))  # blue, green, black pens
PIGMENT = (0.28, 0.50, 0.82)  # haemosiderin: golden, yellower than DAB
EOSIN = (0.09, 0.95, 0.28)
GLASS = {
    "white": (245, 245, 247),
    "lavender": (236, 235, 243),
    "grey": (220, 219, 221),
    "yellow": (242, 238, 226),
}


@dataclass(frozen=True)
class Optics:
    """What the patches of one slide share between stain and file."""

    haematoxylin: tuple
    dab: tuple
    glass: tuple  # RGB 0..255 of light through nothing
    tilt: tuple  # share of light lost from edge to edge, x and y
    blur_um: float
    sharpen: float
    sharpen_um: float
    noise: float
    jpeg: int
    ink: tuple
    eosin: tuple = EOSIN


def draw(rng, *, laboratory=0):
    """Optics of one slide; slides of one laboratory share its scanner and its dyes, and differ a little."""
    lab = np.random.default_rng([7, laboratory])
    glass = np.array(GLASS[lab.choice(list(GLASS), p=(0.25, 0.45, 0.2, 0.1))], float)
    return Optics(
        haematoxylin=_jitter(_jitter(HAEMATOXYLIN, 0.022, lab), 0.015, rng),
        dab=_jitter(_jitter(DAB, 0.014, lab), 0.008, rng),
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
    """(H,W,3) uint8 picture of {dye: (H,W) density, base 10}; a dye is one of optics or a grey, defocus (H,W) is 0..1."""
    vectors = {"grey": (1.0, 1.0, 1.0), "pigment": PIGMENT, **vars(optics)}
    dyes = [(density, vectors[name]) for name, density in dyes.items()]
    height, width = dyes[0][0].shape
    light = _light(optics, height, width)
    noise = rng.standard_normal(
        (height, width), np.float32
    )  # mostly shared by the channels after demosaicking
    picture = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        density = sum(d * np.float32(v[channel]) for d, v in dyes)
        seen = np.exp(density * np.float32(-np.log(10))) * light * np.float32(optics.glass[channel])
        seen = _scan(optics, seen, mpp, defocus)
        seen += noise * np.float32(optics.noise) * np.sqrt(np.maximum(seen, 1) / 255)
        picture[..., channel] = np.clip(seen + 0.5, 0, 255)
    return _jpeg(picture, optics.jpeg)


def _jitter(vector, amount, rng):
    moved = np.clip(np.array(vector) + rng.normal(0, amount, 3), 0.02, 1)
    return tuple(float(v) for v in moved / np.linalg.norm(moved))


def _light(optics, height, width):
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    return 1 + np.float32(optics.tilt[0]) * x + np.float32(optics.tilt[1]) * y


def _scan(optics, seen, mpp, defocus):
    sharp = ndimage.gaussian_filter(seen, optics.blur_um / mpp, truncate=3)
    if defocus is not None:
        blurred = ndimage.gaussian_filter(seen, 2.2 / mpp, truncate=2)
        sharp += (blurred - sharp) * defocus
    return sharp + np.float32(optics.sharpen) * (
        sharp - ndimage.gaussian_filter(sharp, optics.sharpen_um / mpp, truncate=3)
    )


def _jpeg(picture, quality):
    if not quality:
        return picture
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer).convert("RGB"))
