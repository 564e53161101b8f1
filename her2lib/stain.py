"""H-DAB optical density: stain separation, white balance, masks, DAB measures, the score that uses DAB alone, stain jitter."""

import math

import torch
from torch.nn import functional as F

# Rows: haematoxylin, DAB (Ruifrok & Johnston 2001), residual = their normalised cross product; columns R, G, B. Own constants,
# because scikit-image changed its rgb2hed values between 0.17 and 0.18.
HDAB = torch.tensor(
    [[0.6500286, 0.7040310, 0.2860126], [0.2681475, 0.5703138, 0.7764272], [0.6364974, -0.7103387, 0.3019502]],
    dtype=torch.float64,
)
FIELD_UM = 480.0  # side of a patch whose mpp is unknown: BCI's 1024 px at 0.46 um
STAINS = ("haematoxylin", "dab", "grey")
CUTS = (0.05, 0.10, 0.20)
CHUNK_PX = 2**22  # pixels worked on at once: about 200 MB of float32 intermediates


def optical_density(images, *, white=None):
    """(B,3,H,W) float32 optical density, base 10, 0 = clear glass, of uint8 images; white: None (255), "glass" or (B,3) grey levels."""
    _check(images)
    white = _white(images, white)
    return torch.log10(white[:, :, None, None] / images.clamp(min=1))


def white_point(images):
    """(B,3) float32 colour of the glass, grey levels 1..255: the palest smooth areas, each channel for itself."""
    _check(images)
    smooth = _box(images.float(), _px(images, 4.0))
    top = torch.stack([_quantile(c, 0.99, high=256.0) for c in smooth.unbind(1)], 1)
    near = (smooth >= 0.94 * top[:, :, None, None]).all(1, keepdim=True)  # (B,1,H,W)
    mean = (smooth * near).sum((2, 3)) / near.sum((2, 3)).clamp(min=1)
    return torch.where(near.any(3).any(2), mean, top).clamp(min=1.0)


def white_balance(images, *, white="glass"):
    """(B,3,H,W) uint8, the images with their glass turned white (255, 255, 255)."""
    white = _white(images, white)
    return (images * (255.0 / white[:, :, None, None])).round().clamp(0, 255).to(torch.uint8)


def unmix(images, *, white=None, residual=False):
    """(B,2,H,W) float32 optical density of haematoxylin and DAB, base 10, signed (Ruifrok 2001); (B,3,H,W) with the residual."""
    inverse = torch.linalg.inv(HDAB).to(images.device, torch.float32)
    r, g, b = optical_density(images, white=white).unbind(1)
    return torch.stack([r * m[0] + g * m[1] + b * m[2] for m in inverse.T[: 3 if residual else 2]], 1)


def dab(images, *, white=None):
    """(B,H,W) float32 DAB optical density, base 10, at least 0 (Ruifrok 2001)."""
    return unmix(images, white=white)[:, 1].clamp(min=0)


def masks(images, *, mpp=None):
    """dict of (B,H,W) bool: tissue, glass, tumour, stroma, membrane."""
    stains = unmix(images, white="glass")
    od = stains.clamp(min=0).sum(1)
    tissue = _box(od[:, None], _px(images, 8.0, mpp))[:, 0] > 0.03
    tumour = (_box(od[:, None], _px(images, 16.0, mpp))[:, 0] > 0.12) & tissue
    brown = stains[:, 1]
    ridge = brown - _box(brown[:, None], _px(images, 6.0, mpp))[:, 0]
    return {"tissue": tissue, "glass": ~tissue, "tumour": tumour, "stroma": tissue & ~tumour, "membrane": (ridge > 0.08) & tissue}


def measures(images, *, white="glass", mpp=None):
    """dict of (B,) float32 DAB measures."""
    area = masks(images, mpp=mpp)
    brown = dab(images, white=white)
    tissue = area["tissue"].sum((1, 2)).clamp(min=1)
    out = {f"dab_q{100 * q:.0f}": _quantile(brown, q, high=2.5) for q in (0.5, 0.9, 0.95, 0.99)}
    out |= {f"share_{cut}": ((brown > cut) & area["tissue"]).sum((1, 2)) / tissue for cut in (0.15, 0.3, 0.6)}
    return out | {"dab_mean": brown.mean((1, 2)), "membrane": area["membrane"].sum((1, 2)) / tissue}


def rule_value(images, *, white="glass", mpp=None):
    """(B,) float32 continuous value of the rule that uses DAB alone, larger = more staining."""
    return measures(images, white=white, mpp=mpp)["dab_q95"]


def rule_score(values, *, cuts=CUTS):
    """(B,) int64 score 0..3 of rule values (B,) or of uint8 images (B,3,H,W)."""
    values = rule_value(values) if values.ndim == 4 else values
    return torch.bucketize(values, torch.tensor(cuts, device=values.device, dtype=values.dtype))


def jitter(images, *, generator, strength=0.15, turn=0.03, cast=0.02):
    """(B,3,H,W) uint8, each image with its stains scaled by 1 +- strength, their vectors turned, and a colour cast, in optical density."""
    draw = torch.randn((len(images), 5, 3), generator=generator, device=generator.device).clamp(-2, 2).to(images.device)
    hdab = HDAB.to(images.device, torch.float32)
    vectors = F.normalize(hdab + turn * draw[:, :3], dim=2) * (1 + strength * draw[:, 3, :, None])  # (B,3,3)
    mix = torch.linalg.inv(hdab) @ vectors
    return _render(optical_density(images), mix, cast * draw[:, 4])


def only(images, stain, *, white="glass"):
    """(B,3,H,W) uint8 with one thing left on the image's own glass: "haematoxylin", "dab", or "grey" (hue removed)."""
    if stain not in STAINS:
        raise ValueError(f"Unknown stain {stain!r}: choose one of {', '.join(STAINS)}.")
    white = _white(images, white)
    hdab = HDAB.to(images.device, torch.float32)
    if stain == "grey":
        mix = torch.full((3, 3), 1 / 3, device=images.device)
    else:
        row = STAINS.index(stain)
        mix = torch.linalg.inv(hdab)[:, row, None] * hdab[row]
    return _render(optical_density(images, white=white), mix.expand(len(images), 3, 3), torch.log10(255 / white))


def _render(od, mix, offset):
    """(B,3,H,W) uint8 of optical density times mix (B,3,3) plus offset (B,3)."""
    od = torch.einsum("bchw,bcd->bdhw", od, mix) + offset[:, :, None, None]
    return (255 * torch.pow(10.0, -od)).round().clamp(0, 255).to(torch.uint8)


def _check(images):
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Images must be uint8 (B,3,H,W), not {images.dtype} {tuple(images.shape)}; use torch.from_numpy(image).permute(2, 0, 1)[None].")


def _white(images, white):
    """(B,3) float32 white on the images' device."""
    if isinstance(white, str):
        if white != "glass":
            raise ValueError(f'white={white!r} is unknown: use None, "glass" or grey levels (B,3).')
        return white_point(images)
    white = torch.as_tensor(255.0 if white is None else white, device=images.device, dtype=torch.float32)
    return white.expand(len(images), 3)


def _px(images, micrometres, mpp=None):
    """int, odd number of pixels for a length."""
    if mpp is None or math.isnan(mpp):
        mpp = FIELD_UM / max(images.shape[-2:])
    return 2 * round(micrometres / mpp / 2) + 1


def _box(x, side_px):
    """Mean over a square window, same size."""
    return F.avg_pool2d(x, side_px, 1, side_px // 2, count_include_pad=False)


def _quantile(x, q, *, high, bins=2048):
    """(B,) quantile by histogram of (B,H,W) values in 0..high."""
    place = (x.flatten(1) * (bins / high)).long().clamp(0, bins - 1)
    counts = torch.zeros(len(x), bins, device=x.device).scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))
    return (counts.cumsum(1) < q * counts.sum(1, keepdim=True)).sum(1) * (high / bins)
