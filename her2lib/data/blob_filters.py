"""What blob filters of six widths answer to both stains of a picture, on halved copies of it.

scale reads micrometres a pixel off these numbers. Brings no torch.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import ndimage

# Density of haematoxylin and of DAB from that of red, green, blue: columns of the inverse of
# stain.HDAB, typed out because scale.TABLE was fitted with them and because stain brings torch.
UNMIX = {"h": (1.2001, 0.6852, -0.9178), "d": (-0.6898, 0.0236, 1.5095)}
# Filters of 1.0 (narrow) and 1.4 px (wide), in each of three halvings: of 1.0 to 5.7 px.
HALVINGS = 3

# A picture is looked at as it is, halved and quartered.
COPIES = (1, 2, 4)
LEAST_COPY_PX = 48
# Of larger copies the square with most stain: all of 1024 px would take 0.2 s.
WORK_PX = 320
# Above this fraction of ink nothing would be left to look at.
MOST_INK = 0.8
# Amounts of stain beyond their 5 and 97 % are cut here, in spans: dust and folds weigh little.
LOWEST, HIGHEST = -0.3, 1.3


# --- copies of a picture -------------------------------------------------------------------------


def copy_features(image: np.ndarray) -> pd.DataFrame:
    """DataFrame, a row per copy of a uint8 image (3,H,W): reduced, side_px, then the features.

    reduced says how often its pixels went into one; a large copy is its busiest square only.
    Example: copy_features(images[0]).
    """
    rows = []
    for reduced in COPIES:
        if reduced > 1 and min(image.shape[1:]) < reduced * LEAST_COPY_PX:
            continue
        levels = _busiest_square(image, WORK_PX * reduced).astype(np.float32)
        for _ in range(reduced.bit_length() - 1):
            levels = _halve(levels)
        row = {"reduced": reduced, "side_px": float(np.sqrt(levels[0].size))}
        rows.append(row | features(levels))
    return pd.DataFrame(rows)


def _busiest_square(image, side_px):
    """uint8 (3,h,w) part of an image, at most side_px high and wide, where it is darkest."""
    step = 16
    darkness = 255.0 - image[1, ::step, ::step]
    sums = np.pad(darkness.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows, columns = (min(side_px // step, side) for side in darkness.shape)
    inside = sums[rows:, columns:] - sums[:-rows, columns:]
    inside = inside - sums[rows:, :-columns] + sums[:-rows, :-columns]
    top, left = (step * at for at in np.unravel_index(np.argmax(inside), inside.shape))
    return image[:, top : top + side_px, left : left + side_px]


# --- features of one copy ------------------------------------------------------------------------


def features(levels: np.ndarray) -> dict[str, float]:
    """dict feature -> float, of the grey levels (3,H,W) of one copy.

    h and d are haematoxylin and DAB; 0n to 2w the filters, narrow and wide, in three halvings.
    Example: features(image.astype("float32")).
    """
    density = np.log10(255 / np.maximum(levels, 1))  # (3,H,W)
    coarse = _halve(_halve(density))
    glass = np.percentile(coarse.reshape(3, -1), 2, axis=1).astype(np.float32)[:, None, None]
    density -= glass
    clean = _clean_pixels(coarse - glass, density.shape[1:])
    row = {"ink": 1 - clean.mean()}
    if row["ink"] > MOST_INK:
        clean[:] = True
    answers = {}
    for stain, weights in UNMIX.items():
        amount = np.einsum("chw,c->hw", density, np.array(weights, np.float32))
        amount, of_stain = _normalise(amount, clean)
        row |= {f"{stain} {name}": value for name, value in of_stain.items()}
        answers[stain] = list(_filter_answers(amount, clean))
        for name, answer, roundness in answers[stain]:
            powers = _powers(answer, roundness)
            row |= {f"{stain}{name} {kind}": value for kind, value in powers.items()}
    for (name, h, _), (_, d, _) in zip(answers["h"], answers["d"], strict=True):
        row[f"{name} both"] = np.dot(h, d) / np.sqrt(np.dot(h, h) * np.dot(d, d) + 1e-9)
    return {name: float(value) for name, value in row.items()}


def _clean_pixels(density, shape):
    """(H,W) bool, where neither ink nor dust lies, of quartered optical densities (3,h,w)."""
    red, green, blue = density
    faintest, strongest = density.min(0), density.max(0)
    # as in tissue_finder: neither stain has such a hue, and neither is black
    cold = (red > 0.25) & ((green < 0.5 * red) | ((green < 0.8 * red) & (blue < 0.3 * red)))
    warm = (green > 0.25) & (red < 0.2 * green)
    black = (faintest > 0.45) & (faintest > 0.75 * strongest)
    foul = ndimage.binary_dilation(cold | warm | black, iterations=2)
    clean = ~foul.repeat(4, axis=0).repeat(4, axis=1)
    missing = [(0, whole - part) for whole, part in zip(shape, clean.shape, strict=True)]
    return np.pad(clean, missing, mode="edge")


def _normalise(amount, clean):
    """((H,W) amounts of a stain in spans above their 5 %, dict of that span, mean, skewness).

    A span reaches from their 5 to their 97 %, so pale laboratories look like dark ones.
    """
    halved = _halve(amount)
    values = halved[clean[1::2, 1::2][: halved.shape[0], : halved.shape[1]]]
    low, high = np.percentile(values, (5, 97)).astype(np.float32)
    span = max(high - low, np.float32(1e-3))
    values = np.clip((values - low) / span, LOWEST, HIGHEST)
    mean = values.mean()
    centred = values - mean
    squares = centred * centred
    skew = np.dot(squares, centred) / len(centred) / (squares.mean() ** 1.5 + 1e-6)
    row = {"span": np.log(span), "mean": mean, "skew": skew}
    return np.clip((amount - low) / span, LOWEST, HIGHEST), row


def _filter_answers(amount: np.ndarray, clean: np.ndarray) -> Iterator:
    """Yields (name, (n,) answers of a blob filter, (n,) roundness), of amounts (H,W)."""
    for halving in range(HALVINGS):
        step = 2**halving
        seen = clean[step // 2 :: step, step // 2 :: step][: amount.shape[0], : amount.shape[1]]
        smooth = np.pad(amount, 5, mode="symmetric")
        # the second of two like filters is wider by the root of 2, and its answers by 2
        for name, rim, scale in (("n", 2, 1), ("w", 0, 2)):
            smooth = _smooth(smooth)
            answer, roundness = _curvature(smooth[rim : len(smooth) - rim, rim : -rim or None])
            answer = np.float32(scale) * answer[seen]
            yield f"{halving}{name}", answer, np.float32(scale**2) * roundness[seen]
        amount = _halve(amount)


def _powers(answer, roundness):
    """dict kind -> float, natural logarithms: how strongly a filter answers to each kind of thing.

    blob and gap: stained and pale; round: what of them is no ridge, as nuclei and cell bodies.
    """
    round_blob = np.dot(roundness, answer > 0) / len(answer)
    strength = {
        "blob": (np.maximum(answer, 0) ** 2).mean(),
        "gap": (np.minimum(answer, 0) ** 2).mean(),
        "round blob": round_blob,
        "round gap": roundness.mean() - round_blob,
    }
    return {kind: np.log(max(value, 0) + 1e-7) for kind, value in strength.items()}


# --- filters -------------------------------------------------------------------------------------


def _halve(field):
    """(…,H/2,W/2) means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in field.shape[-2:])
    rows = field[..., :height:2, :width] + field[..., 1:height:2, :width]
    return (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)


def _smooth(field):
    """(H-4,W-4) field under the binomial filter 1 4 6 4 1, about a Gaussian of 1 px."""
    for _ in range(2):
        field = 2 * field[1:-1] + field[:-2] + field[2:]
        field = 2 * field[:, 1:-1] + field[:, :-2] + field[:, 2:]
    return field * np.float32(1 / 256)


def _curvature(field):
    """((H-2,W-2) negative Laplacian, determinant of the second derivatives, at least 0)."""
    middle = 2 * field[1:-1, 1:-1]
    down = middle - field[:-2, 1:-1] - field[2:, 1:-1]
    across = middle - field[1:-1, :-2] - field[1:-1, 2:]
    mixed = field[2:, 2:] + field[:-2, :-2] - field[2:, :-2] - field[:-2, 2:]
    return down + across, np.maximum(down * across - mixed * mixed * np.float32(1 / 16), 0)
