"""H-DAB optical density: stain separation, white balance, masks, DAB measures, the score that uses DAB alone, stain jitter."""

import math

import torch
from torch.nn import functional as F

# Rows: haematoxylin, DAB (Ruifrok & Johnston 2001, to three digits), residual = their normalised
# cross product; columns R, G, B.
# Own constants, because scikit-image changed its rgb2hed values between 0.17 and 0.18.
HDAB = torch.tensor(
    [[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.6362, -0.7100, 0.3018]], dtype=torch.float64
)
STAINS = ("haematoxylin", "dab", "grey")
# side of a patch whose mpp is unknown: BCI's 1024 px at 0.46 um, whatever it was resized to since
FIELD_UM = 480.0
# Gaussian radius of the ridge filter: the stained membranes of two neighbours are about 1.3-2 um
# across
RIDGE_UM = 0.75
# a membrane farther away than this is not that of the same carcinoma cell (10-20 um across)
CELL_UM = 12.0
DAB_CUTS = (
    0.15,
    0.3,
    0.6,
)  # optical density of weak, moderate and strong DAB, customary in machine H-scores
LEAK, MOST_LEAK = (
    0.28,
    0.45,
    # DAB read per haematoxylin where there is only haematoxylin: median and 95 % of phantoms'
    # laboratories
)
GREY = 0.87  # the same for neutral shadow (red cells, dust, folds): follows from HDAB
CUTS = (
    0.011,
    0.025,
    0.092,
)  # of rule_value at 0.5 um a pixel: geometric means of the neighbouring medians of 4 x 30 phantoms
CHUNK_PX = 2**22  # pixels worked on at once; masks then need about 0.4 GB beside their result


def optical_density(images, *, white=None):
    """(B,3,H,W) float32 optical density, base 10, 0 = clear glass; white: None (255), "glass" (estimated) or (B,3)."""
    return _chunked(_density, images, white)


def white_point(images):
    """(B,3) float32 grey levels of the glass, each channel for itself; without glass, of the palest 1 % of the tissue."""
    return _chunked(_glass, images, None)


def white_balance(images):
    """(B,3,H,W) uint8, the images with their glass turned white (255, 255, 255)."""
    return _chunked(
        _render,
        images,
        "glass",
        mix=torch.eye(3).expand(len(images), 3, 3),
        offset=torch.zeros(len(images), 3),
    )


def unmix(images, *, white=None, residual=False):
    """(B,2,H,W) float32 optical density of haematoxylin and DAB, base 10, signed (Ruifrok 2001); (B,3,H,W) with the residual."""
    return _chunked(_unmix, images, white, count=3 if residual else 2)


def dab(images, *, white=None):
    """(B,H,W) float32 DAB optical density, base 10, at least 0 (Ruifrok 2001)."""
    return unmix(images, white=white)[:, 1].clamp(min=0)


def masks(images, *, mpp=None):
    """dict of (B,H,W) bool: tissue and glass, tumour-like and stroma-like (both tissue), membrane-like (stained and thin)."""
    return _chunked(_masks, images, "glass", mpp=mpp)


def measures(images, *, mpp=None):
    """dict of (B,) float32: DAB optical density (od_*) of all pixels, shares of tissue or tumour-like area, the rule's value."""
    return _chunked(_measures, images, "glass", mpp=mpp)


def rule_value(images, *, mpp=None):
    """(B,) float32 root mean square of DAB ridges in the patch: how much membrane is stained, how strongly; no cast moves it."""
    return _chunked(
        lambda part, white: _ridges(part, white, mpp=mpp).square().mean((1, 2)).sqrt(), images, None
    )


def rule_score(values, *, cuts=CUTS):
    """(B,) int64 score 0..3 of rule values (B,) or uint8 images (B,3,H,W); the cuts hold for pixels of about 0.5 um, not of 2."""
    values = rule_value(values) if values.ndim == 4 else values
    return torch.bucketize(
        values, torch.tensor(cuts, device=values.device, dtype=values.dtype), right=True
    )


def jitter(images, *, generator, strength=0.15, turn=0.03, cast=0.02):
    """(B,3,H,W) uint8, each image with its stains scaled by about 1 +- strength, turned, and cast, all in optical density."""
    draw = (
        torch.randn((len(images), 5, 3), generator=generator, device=generator.device)
        .clamp(-2, 2)
        .to(images.device)
    )
    hdab = HDAB.to(images.device, torch.float32)
    vectors = F.normalize(hdab + turn * draw[:, :3], dim=2) * (1 + strength * draw[:, 3, :, None])
    mix = (
        torch.linalg.inv(HDAB).to(vectors) @ vectors
    )  # (B,3,3): out of the mean laboratory's stains, into another's
    return _chunked(_render, images, None, mix=mix, offset=cast * draw[:, 4])


def only(images, stain):
    """(B,3,H,W) uint8, one thing left on the image's own glass: "haematoxylin", "dab", or "grey" (density kept, hue removed)."""
    if stain not in STAINS:
        raise ValueError(f"Unknown stain {stain!r}: choose one of {', '.join(STAINS)}.")
    mix = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    if stain != "grey":
        k = STAINS.index(stain)
        mix = torch.linalg.inv(HDAB)[:, k, None] * HDAB[k]
    white = white_point(images)
    return _chunked(
        _render, images, white, mix=mix.expand(len(images), 3, 3), offset=torch.log10(255 / white)
    )


def px(images, micrometres, mpp):
    """float, a length in pixels; without mpp the longer side is taken for FIELD_UM."""
    if mpp is not None and mpp <= 0:
        raise ValueError(
            f"mpp={mpp} must be micrometres per pixel above 0; use None where it is unknown."
        )
    return micrometres / (
        FIELD_UM / max(images.shape[-2:]) if mpp is None or math.isnan(mpp) else mpp
    )


def _chunked(function, images, white, **options):
    """Result of function(part, white=(b,3), ...) on CHUNK_PX pixels at a time, joined; tensor options are cut like images."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Images must be uint8 (B,3,H,W), not {images.dtype} {tuple(images.shape)}: permute and stack them."
        )
    if not images.numel():
        raise ValueError(
            f"Images of shape {tuple(images.shape)} hold no pixels: leave empty batches out."
        )
    step, levels, parts = max(1, CHUNK_PX // images[0, 0].numel()), _levels(images, white), []
    for k in range(0, len(images), step):
        here = {name: v[k : k + step] if torch.is_tensor(v) else v for name, v in options.items()}
        parts.append(function(images[k : k + step], white=levels[k : k + step], **here))
    return (
        {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        if isinstance(parts[0], dict)
        else torch.cat(parts)
    )


def _levels(images, white):
    """(B,3) float32 white of every image, on its device, from None, "glass", (3,) or (B,3)."""
    if isinstance(white, str) and white != "glass":
        raise ValueError(f'white={white!r} is unknown: use None, "glass" or grey levels (B,3).')
    if isinstance(white, str):
        return white_point(images)
    white = torch.as_tensor(
        255.0 if white is None else white, device=images.device, dtype=torch.float32
    )
    return white.expand(len(images), 3)


def _density(images, white):
    return torch.log10(white[:, :, None, None] / images.clamp(min=1))


def _glass(images, white):
    # Means of blocks first: scanners sharpen, so single pixels of glass at 235 reach 255. A cast
    # multiplies a channel and, as no
    # channel is compared with another, this estimate.
    blocks = F.avg_pool2d(
        images.float(), min(max(1, round(px(images, 4.0, None))), *images.shape[-2:])
    )  # (B,3,h,w)
    top = torch.stack([_quantile(c, 0.99, high=256.0) for c in blocks.unbind(1)], 1)[
        :, :, None, None
    ]
    near = ((blocks - top).abs() <= 0.02 * top).all(1, keepdim=True)
    mean = (blocks * near).sum((2, 3)) / near.sum((2, 3)).clamp(min=1)
    return torch.where(near.sum((2, 3)) > 0, mean, top[:, :, 0, 0]).clamp(min=1.0)


def _unmix(images, white, count=2):
    inverse = torch.linalg.inv(HDAB).to(torch.float32).T[:count].tolist()
    r, g, b = _density(images, white).unbind(
        1
    )  # sums, not a matrix product: TF32 would round it to ten bits on a GPU
    return torch.stack([r * x + g * y + b * z for x, y, z in inverse], 1)


def _render(images, white, mix, offset):
    """(B,3,H,W) uint8 of the optical density times mix (B,3,3) plus offset (B,3)."""
    r, g, b = _density(images, white).unbind(1)
    m, o = mix.to(r)[:, :, :, None, None], offset.to(r)[:, :, None, None]
    od = [r * m[:, 0, k] + g * m[:, 1, k] + b * m[:, 2, k] + o[:, k] for k in range(3)]
    return torch.stack(
        [(255 * torch.pow(10.0, -x)).round().clamp(0, 255).to(torch.uint8) for x in od], 1
    )


def _ridges(images, white, mpp=None):
    h, d = _unmix(images, white).unbind(1)
    sigma = max(
        0.8, px(images, RIDGE_UM, mpp)
    )  # finer than 0.8 px the pixel grid itself is a ridge
    return torch.minimum(
        _ridge(d, sigma), _ridge(d - LEAK * h, sigma)
    )  # the first: a gap between nuclei is no membrane


def _ridge(x, sigma):
    """(B,H,W) height of bright lines of radius sigma: curvature across less along, so dots vanish (after Sato 1998)."""
    x = F.pad(_blur(x, sigma)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    middle = x[:, 1:-1, 1:-1]
    xx = x[:, 1:-1, 2:] + x[:, 1:-1, :-2] - 2 * middle
    yy = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] - 2 * middle
    xy = (x[:, 2:, 2:] + x[:, :-2, :-2] - x[:, 2:, :-2] - x[:, :-2, 2:]) / 4
    half, spread = (xx + yy) / 2, torch.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    across, along = (
        spread - half,
        (-half - spread).clamp(min=0),
    )  # minus the two eigenvalues of the Hessian
    return (across - along).clamp(min=0) * (
        2**1.5 * sigma**2
    )  # a Gaussian line of radius sigma and height 1 gives 1


def _blur(x, sigma):
    """(B,H,W) Gaussian blur by shifted sums: a convolution would be rounded to TF32 on a GPU."""
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)]
    for dim in (1, 2):
        n, edge = x.shape[dim], (reach, reach, 0, 0) if dim == 2 else (0, 0, reach, reach)
        wide = F.pad(x[:, None], edge, mode="replicate")[:, 0]
        x = wide.narrow(dim, 0, n) * (weights[0] / sum(weights))
        for k in range(1, 2 * reach + 1):
            x.add_(wide.narrow(dim, k, n), alpha=weights[k] / sum(weights))
    return x


def _masks(images, white, mpp=None):
    h, d = _unmix(images, white).unbind(1)
    od, small, wide = _density(images, white).mean(1), px(images, 8.0, mpp), px(images, 16.0, mpp)
    # Pale smooth muscle is 0.014 darker than glass and 0.014 rough, out-of-focus stroma 0.008 and
    # 0.004, glass below 0.002 each.
    tissue = _box(od, small) + _box((od - _box(od, small)).abs(), small) > 0.012
    # Crowded carcinoma is darker than the mean of the tissue; the limits serve patches of stroma
    # (0.02) or nests (0.1) alone.
    near = _box(od, wide)
    tumour = tissue & (near > _share(near, tissue).clamp(0.03, 0.07)[:, None, None])
    line = (_ridges(images, white, mpp=mpp) > 0.05) & (d > GREY * h.clamp(min=0) + 0.05) & tissue
    lines = (
        _box(line.float(), px(images, 2 * CELL_UM, mpp)) > 0.05
    )  # alone: a grain of haemosiderin, dust
    return {
        "tissue": tissue,
        "glass": ~tissue,
        "tumour": tumour,
        "stroma": tissue & ~tumour,
        "membrane": line & lines,
    }


def _measures(images, white, mpp=None):
    blue, brown = _unmix(images, white).unbind(1)
    ridge, own, brown = (
        _ridges(images, white, mpp=mpp),
        brown - MOST_LEAK * blue,
        brown.clamp(min=0),
    )
    area = _masks(images, _glass(images, white), mpp=mpp)
    tissue, tumour, membrane = area["tissue"], area["tumour"], area["membrane"]
    closed = _closed(membrane, max(1, round(px(images, CELL_UM, mpp))))
    out = {f"od_q{round(100 * q)}": _quantile(brown, q, high=2.5) for q in (0.5, 0.9, 0.95, 0.99)}
    out |= {f"tissue_over_{cut}": _share(brown > cut, tissue) for cut in DAB_CUTS}
    out |= {f"tumour_over_{cut}": _share(own > cut, tumour) for cut in (0.05, 0.1, 0.2, 0.4, 0.7)}
    out |= {
        f"ridges_over_{cut}": _share(ridge > cut, tumour) for cut in (0.02, 0.04, 0.08, 0.15, 0.3)
    }
    return out | {
        "od_mean": brown.mean((1, 2)),
        "od_membrane": _share(brown, membrane),
        "rule": ridge.square().mean((1, 2)).sqrt(),
        "tissue": tissue.float().mean((1, 2)),
        "tumour": tumour.float().mean((1, 2)),
        "membrane": _share(membrane, tissue),
        "closed": _share(closed, tumour & ~membrane),
    }


def _closed(wall, reach_px):
    """(B,H,W) bool, places with a wall in reach to the left, right, above and below: inside cells whose membrane is complete."""
    x, seen = wall[:, None].float(), torch.ones((), device=wall.device)
    for side in range(4):
        edge = [reach_px if k == side else 0 for k in range(4)]
        seen = torch.minimum(
            seen,
            F.max_pool2d(F.pad(x, edge), (1, reach_px + 1) if side < 2 else (reach_px + 1, 1), 1),
        )
    return seen[:, 0] > 0


def _share(x, area):
    """(B,) mean of x (B,H,W) over the area (B,H,W) bool; 0 where there is none."""
    return (x * area).sum((1, 2)) / area.sum((1, 2)).clamp(min=1)


def _box(x, side_px):
    """(B,H,W) mean over a square of about side_px, columns then rows: 17 times cheaper than at once at 35 px."""
    x, half = x[:, None], [min(round(side_px) // 2, n // 2) for n in x.shape[-2:]]
    x = F.avg_pool2d(x, (2 * half[0] + 1, 1), 1, (half[0], 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, 2 * half[1] + 1), 1, (0, half[1]), count_include_pad=False)[:, 0]


def _quantile(x, q, *, high, bins=2048):
    """(B,) quantile of values (B,h,w) from 0 to high, by histogram: no sort, and any size, unlike torch.quantile."""
    place = (x.flatten(1) * (bins / high)).long().clamp(0, bins - 1)
    counts = torch.zeros(len(x), bins, device=x.device).scatter_add_(
        1, place, torch.ones_like(place, dtype=torch.float32)
    )
    return ((counts.cumsum(1) < q * counts.sum(1, keepdim=True)).sum(1) + 0.5) * (high / bins)
