"""H-DAB stain separation in optical density, and what follows from DAB alone.

White balance, masks, DAB measures, the score that uses DAB alone (the rule), stain jitter.
Images are uint8 (B,3,H,W) on any device; mpp is micrometres a pixel, None where it is unknown.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from her2lib.scores import ALL_SCORES

# Rows: haematoxylin, DAB (Ruifrok & Johnston 2001, to three digits), residual = their normalised
# cross product; columns R, G, B. Own constants, because scikit-image changed its rgb2hed values
# between 0.17 and 0.18.
HDAB = torch.tensor(
    [[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.6362, -0.7100, 0.3018]], dtype=torch.float64
)
STAINS = ("haematoxylin", "dab", "grey")

# Side of a patch whose mpp is unknown: BCI's 1024 px at 0.46 um, whatever it was resized to since.
FIELD_UM = 480.0
# Gaussian radius of the ridge filter: the stained membranes of two neighbours are about 1.3-2 um
# across.
RIDGE_UM = 0.75
# A membrane farther away than this is not that of the same carcinoma cell (10-20 um across).
CELL_UM = 12.0

# Optical density of weak, moderate and strong DAB, customary in machine H-scores.
DAB_CUTS = (0.15, 0.3, 0.6)
# DAB read per haematoxylin where there is only haematoxylin: median and 95 % of phantoms'
# laboratories.
LEAK = 0.28
MOST_LEAK = 0.45
# The same for neutral shadow (red cells, dust, folds): follows from HDAB.
GREY = 0.87
# Of rule_value at 0.5 um a pixel: geometric means of the neighbouring medians of 4 x 30 phantoms.
CUTS = (0.011, 0.025, 0.092)

TUMOUR_CUTS = (0.05, 0.1, 0.2, 0.4, 0.7)  # DAB above the leak of haematoxylin
RIDGE_CUTS = (0.02, 0.04, 0.08, 0.15, 0.3)

# Pixels worked on at once; masks then need about 0.4 GB beside their result.
CHUNK_PX = 2**22

White = str | tuple[float, ...] | torch.Tensor | None


# --- optical density and stains ------------------------------------------------------------------


def optical_density(images: torch.Tensor, *, white: White = None) -> torch.Tensor:
    """(B,3,H,W) float32 optical density, base 10, 0 = clear glass.

    white: None (255), "glass" (estimated, see white_point) or grey levels (3,) or (B,3).
    """
    return _chunked(_density, images, white)


def white_point(images: torch.Tensor) -> torch.Tensor:
    """(B,3) float32 grey levels of the glass, each channel for itself.

    Without glass, of the palest 1 % of the tissue.
    """
    return _chunked(_glass_levels, images, None)


def white_balance(images: torch.Tensor) -> torch.Tensor:
    """(B,3,H,W) uint8, the images with their glass turned white (255, 255, 255)."""
    unchanged = torch.eye(3).expand(len(images), 3, 3)
    return _chunked(_render, images, "glass", mix=unchanged, offset=torch.zeros(len(images), 3))


def unmix(images: torch.Tensor, *, white: White = None, residual: bool = False) -> torch.Tensor:
    """(B,2,H,W) float32 optical density of haematoxylin and DAB, signed, base 10 (Ruifrok 2001).

    (B,3,H,W) with the residual.
    """
    count = 2
    if residual:
        count = 3
    return _chunked(_unmixed, images, white, count=count)


def dab(images: torch.Tensor, *, white: White = None) -> torch.Tensor:
    """(B,H,W) float32 DAB optical density, base 10, at least 0 (Ruifrok 2001)."""
    return unmix(images, white=white)[:, 1].clamp(min=0)


def only(images: torch.Tensor, stain: str) -> torch.Tensor:
    """(B,3,H,W) uint8, one thing left on the image's own glass.

    stain: "haematoxylin", "dab", or "grey" (density kept, hue removed).
    """
    if stain not in STAINS:
        raise ValueError(f"Unknown stain {stain!r}: choose one of {', '.join(STAINS)}.")
    mix = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    if stain != "grey":
        row = STAINS.index(stain)
        mix = torch.linalg.inv(HDAB)[:, row, None] * HDAB[row]
    white = white_point(images)
    mix = mix.expand(len(images), 3, 3)
    return _chunked(_render, images, white, mix=mix, offset=torch.log10(255 / white))


def jitter(
    images: torch.Tensor,
    *,
    generator: torch.Generator,
    strength: float = 0.15,
    turn: float = 0.03,
    cast: float = 0.02,
) -> torch.Tensor:
    """(B,3,H,W) uint8, each image as another laboratory might have stained it.

    Its stains are scaled by about 1 +- strength, turned, and cast, all in optical density.
    """
    draw = torch.randn((len(images), 5, 3), generator=generator, device=generator.device)
    draw = draw.clamp(-2, 2).to(images.device)
    hdab = HDAB.to(images.device, torch.float32)
    vectors = F.normalize(hdab + turn * draw[:, :3], dim=2) * (1 + strength * draw[:, 3, :, None])
    # (B,3,3): out of the mean laboratory's stains, into another's
    mix = torch.linalg.inv(HDAB).to(vectors) @ vectors
    return _chunked(_render, images, None, mix=mix, offset=cast * draw[:, 4])


# --- what DAB says -------------------------------------------------------------------------------


def masks(images: torch.Tensor, *, mpp: float | None = None) -> dict[str, torch.Tensor]:
    """dict of (B,H,W) bool: tissue, glass, tumour, stroma, membrane.

    Tumour-like and stroma-like divide the tissue; membrane-like is stained and thin.
    """
    return _chunked(_masks, images, "glass", mpp=mpp)


def measures(images: torch.Tensor, *, mpp: float | None = None) -> dict[str, torch.Tensor]:
    """dict of (B,) float32: DAB optical density, fractions of area, the rule's value.

    od_*: of all pixels; tissue_over_* of the tissue; tumour_over_*, ridges_over_* and closed of
    the tumour-like area.
    """
    return _chunked(_measures, images, "glass", mpp=mpp)


def rule_value(images: torch.Tensor, *, mpp: float | None = None) -> torch.Tensor:
    """(B,) float32 root mean square of DAB ridges in the patch.

    How much membrane is stained and how strongly; no cast moves it.
    """
    return _chunked(_rule_values, images, None, mpp=mpp)


def rule_score(
    values: torch.Tensor,
    *,
    cuts: tuple[float, ...] = CUTS,
    scores: Sequence[int] = ALL_SCORES,
) -> torch.Tensor:
    """(B,) int64 score 0..3 of rule values (B,) or uint8 images (B,3,H,W).

    The cuts hold for pixels of about 0.5 um, not of 2. scores are those that a study declares, as
    positions in SCORES: the nearest of them is answered, the lower one of two as near.
    """
    if values.ndim == 4:
        values = rule_value(values)
    edges = torch.tensor(cuts, device=values.device, dtype=values.dtype)
    answered = torch.bucketize(values, edges, right=True)
    declared = torch.tensor(scores, device=values.device)
    # argmin takes the first of equal distances, the lower score
    nearest = (answered[..., None] - declared).abs().argmin(-1)
    return declared[nearest]


def px(images: torch.Tensor, micrometres: float, mpp: float | None) -> float:
    """float, a length in pixels; without mpp the longer side is taken for FIELD_UM."""
    if mpp is not None and mpp <= 0:
        raise ValueError(
            f"mpp={mpp} must be micrometres per pixel above 0; use None where it is unknown."
        )
    if mpp is None or math.isnan(mpp):
        mpp = FIELD_UM / max(images.shape[-2:])
    return micrometres / mpp


# --- a batch in parts ----------------------------------------------------------------------------


def _chunked(function, images, white, **options):
    """Result of function(images, white=(b,3), ...) on CHUNK_PX pixels at a time, joined.

    Options that are tensors are cut like images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Images must be uint8 (B,3,H,W), not {images.dtype} {tuple(images.shape)}: "
            "permute and stack them."
        )
    if not images.numel():
        raise ValueError(
            f"Images of shape {tuple(images.shape)} hold no pixels: leave empty batches out."
        )
    levels = _white_levels(images, white)
    step = max(1, CHUNK_PX // images[0, 0].numel())
    parts = []
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        cut = dict(options)
        for name, value in options.items():
            if torch.is_tensor(value):
                cut[name] = value[rows]
        parts.append(function(images[rows], white=levels[rows], **cut))
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(parts)


def _white_levels(images, white):
    """(B,3) float32 white of every image, on its device, from None, "glass", (3,) or (B,3)."""
    if isinstance(white, str):
        if white != "glass":
            raise ValueError(f'white={white!r} is unknown: use None, "glass" or grey levels (B,3).')
        return white_point(images)
    if white is None:
        white = 255.0
    levels = torch.as_tensor(white, device=images.device, dtype=torch.float32)
    return levels.expand(len(images), 3)


# --- density, glass, rendering -------------------------------------------------------------------


def _density(images, white):
    """(B,3,H,W) optical density; black counts as grey level 1."""
    return torch.log10(white[:, :, None, None] / images.clamp(min=1))


def _glass_levels(images, white):
    """(B,3) mean of the blocks within 2 % of the palest 1 %, else the palest 1 % itself."""
    # Means of blocks first: scanners sharpen, so single pixels of glass at 235 reach 255. A cast
    # multiplies a channel and, as no channel is compared with another, this estimate.
    side_px = min(max(1, round(px(images, 4.0, None))), *images.shape[-2:])
    blocks = F.avg_pool2d(images.float(), side_px)  # (B,3,h,w)
    palest = torch.stack([_quantile(c, 0.99, high=256.0) for c in blocks.unbind(1)], 1)  # (B,3)
    top = palest[:, :, None, None]
    pale = ((blocks - top).abs() <= 0.02 * top).all(1, keepdim=True)  # (B,1,h,w)
    count = pale.sum((2, 3))
    mean = (blocks * pale).sum((2, 3)) / count.clamp(min=1)
    return torch.where(count > 0, mean, palest).clamp(min=1.0)


def _unmixed(images, white, count=2):
    """(B,count,H,W) density of haematoxylin, DAB and the residual."""
    inverse = torch.linalg.inv(HDAB).to(torch.float32).T[:count].tolist()
    # sums, not a matrix product: TF32 would round it to ten bits on a GPU
    r, g, b = _density(images, white).unbind(1)
    return torch.stack([r * x + g * y + b * z for x, y, z in inverse], 1)


def _render(images, white, mix, offset):
    """(B,3,H,W) uint8 of the optical density times mix (B,3,3) plus offset (B,3)."""
    r, g, b = _density(images, white).unbind(1)
    mix = mix.to(r)[:, :, :, None, None]
    offset = offset.to(r)[:, :, None, None]
    channels = []
    for k in range(3):
        density = r * mix[:, 0, k] + g * mix[:, 1, k] + b * mix[:, 2, k] + offset[:, k]
        grey = (255 * torch.pow(10.0, -density)).round().clamp(0, 255)
        channels.append(grey.to(torch.uint8))
    return torch.stack(channels, 1)


# --- ridges: stained lines -----------------------------------------------------------------------


def _rule_values(images, white, mpp=None):
    """(B,) root mean square of the ridges."""
    return _ridges(images, white, mpp=mpp).square().mean((1, 2)).sqrt()


def _ridges(images, white, mpp=None):
    """(B,H,W) height of DAB ridges, less what haematoxylin leaks into DAB."""
    blue, brown = _unmixed(images, white).unbind(1)
    # finer than 0.8 px the pixel grid itself is a ridge
    sigma = max(0.8, px(images, RIDGE_UM, mpp))
    # both, because a gap between nuclei is a ridge of the second alone, and no membrane
    return torch.minimum(_ridge(brown, sigma), _ridge(brown - LEAK * blue, sigma))


def _ridge(x, sigma):
    """(B,H,W) height of bright lines of radius sigma pixels (after Sato 1998).

    Curvature across less curvature along, so dots vanish.
    """
    x = F.pad(_gaussian(x, sigma)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    middle = x[:, 1:-1, 1:-1]
    xx = x[:, 1:-1, 2:] + x[:, 1:-1, :-2] - 2 * middle
    yy = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] - 2 * middle
    xy = (x[:, 2:, 2:] + x[:, :-2, :-2] - x[:, 2:, :-2] - x[:, :-2, 2:]) / 4
    # minus the two eigenvalues of the Hessian
    half = (xx + yy) / 2
    spread = torch.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    across = spread - half
    along = (-half - spread).clamp(min=0)
    # a Gaussian line of radius sigma and height 1 gives 1
    return (across - along).clamp(min=0) * (2**1.5 * sigma**2)


def _gaussian(x, sigma):
    """(B,H,W) Gaussian blur by shifted sums: a convolution would be rounded to TF32 on a GPU."""
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)]
    total = sum(weights)
    for dim, edge in ((1, (0, 0, reach, reach)), (2, (reach, reach, 0, 0))):
        length = x.shape[dim]
        wide = F.pad(x[:, None], edge, mode="replicate")[:, 0]
        x = wide.narrow(dim, 0, length) * (weights[0] / total)
        for k in range(1, 2 * reach + 1):
            x.add_(wide.narrow(dim, k, length), alpha=weights[k] / total)
    return x


# --- masks and measures --------------------------------------------------------------------------


def _masks(images, white, mpp=None):
    """dict of (B,H,W) bool, see masks."""
    blue, brown = _unmixed(images, white).unbind(1)
    density = _density(images, white).mean(1)
    # Pale smooth muscle is 0.014 darker than glass and 0.014 rough, out-of-focus stroma 0.008 and
    # 0.004, glass below 0.002 each.
    small_px = px(images, 8.0, mpp)
    level = _box(density, small_px)
    tissue = level + _box((density - level).abs(), small_px) > 0.012
    # Crowded carcinoma is darker than the mean of the tissue; the limits serve patches of stroma
    # (0.02) or nests (0.1) alone.
    around = _box(density, px(images, 16.0, mpp))
    tumour = tissue & (around > _mean_over(around, tissue).clamp(0.03, 0.07)[:, None, None])
    brown_enough = brown > GREY * blue.clamp(min=0) + 0.05
    line = (_ridges(images, white, mpp=mpp) > 0.05) & brown_enough & tissue
    # a line alone is a grain of haemosiderin, or dust
    lines = _box(line.float(), px(images, 2 * CELL_UM, mpp)) > 0.05
    return {
        "tissue": tissue,
        "glass": ~tissue,
        "tumour": tumour,
        "stroma": tissue & ~tumour,
        "membrane": line & lines,
    }


def _measures(images, white, mpp=None):
    """dict of (B,), see measures."""
    blue, brown = _unmixed(images, white).unbind(1)
    ridge = _ridges(images, white, mpp=mpp)
    above_leak = brown - MOST_LEAK * blue
    brown = brown.clamp(min=0)
    area = _masks(images, _glass_levels(images, white), mpp=mpp)
    tissue, tumour, membrane = area["tissue"], area["tumour"], area["membrane"]
    closed = _closed(membrane, max(1, round(px(images, CELL_UM, mpp))))
    values = {}
    for q in (0.5, 0.9, 0.95, 0.99):
        values[f"od_q{round(100 * q)}"] = _quantile(brown, q, high=2.5)
    for cut in DAB_CUTS:
        values[f"tissue_over_{cut}"] = _mean_over(brown > cut, tissue)
    for cut in TUMOUR_CUTS:
        values[f"tumour_over_{cut}"] = _mean_over(above_leak > cut, tumour)
    for cut in RIDGE_CUTS:
        values[f"ridges_over_{cut}"] = _mean_over(ridge > cut, tumour)
    return values | {
        "od_mean": brown.mean((1, 2)),
        "od_membrane": _mean_over(brown, membrane),
        "rule": ridge.square().mean((1, 2)).sqrt(),
        "tissue": tissue.float().mean((1, 2)),
        "tumour": tumour.float().mean((1, 2)),
        "membrane": _mean_over(membrane, tissue),
        "closed": _mean_over(closed, tumour & ~membrane),
    }


def _closed(wall, reach_px):
    """(B,H,W) bool, inside cells whose membrane is complete.

    There is a wall within reach to the left, right, above and below.
    """
    wall = wall[:, None].float()  # (B,1,H,W)
    closed = torch.ones((), device=wall.device)
    across = (1, reach_px + 1)
    down = (reach_px + 1, 1)
    for edge, window in (
        ((reach_px, 0, 0, 0), across),
        ((0, reach_px, 0, 0), across),
        ((0, 0, reach_px, 0), down),
        ((0, 0, 0, reach_px), down),
    ):
        seen = F.max_pool2d(F.pad(wall, edge), window, 1)
        closed = torch.minimum(closed, seen)
    return closed[:, 0] > 0


def _mean_over(x, area):
    """(B,) mean of x (B,H,W) over the area (B,H,W) bool; 0 where there is none."""
    return (x * area).sum((1, 2)) / area.sum((1, 2)).clamp(min=1)


def _box(x, side_px):
    """(B,H,W) mean over a square of about side_px.

    Columns then rows: 17 times cheaper than at once at 35 px.
    """
    half_h, half_w = (min(round(side_px) // 2, length // 2) for length in x.shape[-2:])
    x = x[:, None]
    x = F.avg_pool2d(x, (2 * half_h + 1, 1), 1, (half_h, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, 2 * half_w + 1), 1, (0, half_w), count_include_pad=False)[:, 0]


def _quantile(x, q, *, high, bins=2048):
    """(B,) quantile of values (B,h,w) from 0 to high, by histogram.

    No sort, and any size, unlike torch.quantile.
    """
    level = (x.flatten(1) * (bins / high)).long().clamp(0, bins - 1)
    ones = torch.ones_like(level, dtype=torch.float32)
    counts = torch.zeros(len(x), bins, device=x.device).scatter_add_(1, level, ones)
    below = counts.cumsum(1) < q * counts.sum(1, keepdim=True)
    return (below.sum(1) + 0.5) * (high / bins)
