"""Patches with one kind of evidence left or taken away: what does a network live on?"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from her2lib import stain

RIM_UM = 6.0  # more than a membrane and less than a cell


def ablations(
    images: torch.Tensor,
    *,
    masks: Mapping[str, torch.Tensor] | None = None,
    mpp: float | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """{name: (B,3,H,W) uint8} the patches with one kind of evidence left or taken.

    masks come from the stain, or from the truth on phantoms ({"tumour": (B,H,W) bool}).
    """
    if not masks:
        masks = stain.masks(images, mpp=mpp)
    tumour = masks["tumour"][:, None]
    # a brown rim left standing would tell the score, so it goes with the tumour
    rim_px = round(stain.px(images, RIM_UM, mpp))
    tumour_and_rim = F.max_pool2d(tumour.float(), 2 * rim_px + 1, 1, rim_px) > 0
    glass = stain.white_point(images).round().to(torch.uint8)[:, :, None, None]
    return {
        "intact": images,
        "dab_only": stain.only(images, "dab"),
        "haematoxylin_only": stain.only(images, "haematoxylin"),
        "hue_removed": stain.only(images, "grey"),
        "membranes_blurred": membranes_blurred(images, mpp),
        "background_only": torch.where(tumour_and_rim, glass, images),
        "tumour_only": torch.where(tumour, images, glass),
        "corners_only": torch.where(_corners(images), images, glass),
        "tiles_shuffled": tiles_shuffled(images, torch.Generator().manual_seed(seed)),
    }


def membranes_blurred(images, mpp):
    """(B,3,H,W) uint8, DAB spread over RIM_UM at each patch's own mean DAB."""
    stains = stain.unmix(images, residual=True)  # (B,stains,H,W)
    # the mean stays, so that the network cannot tell the blur by the amount of stain
    brown = stains[:, 1:2].clamp(min=0)
    flat = blurred(brown, stain.px(images, RIM_UM, mpp))
    mean = flat.mean((2, 3), keepdim=True).clamp(min=1e-9)
    stains[:, 1:2] = flat * brown.mean((2, 3), keepdim=True) / mean
    density = torch.einsum("bshw,sc->bchw", stains, stain.HDAB.to(stains))
    return (255 * torch.pow(10.0, -density)).round().clamp(0, 255).to(torch.uint8)


def tiles_shuffled(images, generator, tiles=4):
    """(B,3,h,w) uint8, tiles x tiles pieces of each patch put in an order drawn by chance."""
    b, c, height, width = images.shape
    h = height // tiles
    w = width // tiles
    # what does not fill a tile at the lower and right border is cut off
    cut = images[:, :, : h * tiles, : w * tiles].reshape(b, c, tiles, h, tiles, w)
    cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B,tiles*tiles,C,h,w)
    shuffled = []
    for patch in cut:
        order = torch.randperm(tiles**2, generator=generator)
        shuffled.append(patch[order.to(images.device)])
    cut = torch.stack(shuffled).reshape(b, tiles, tiles, c, h, w)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h * tiles, w * tiles)


def blurred(images, sigma_px):
    """(B,C,H,W) Gaussian blur in two one-dimensional passes.

    The square kernel costs more than the network at 224 px.
    """
    radius = min(round(3 * sigma_px), min(images.shape[-2:]) - 1)
    side = 2 * radius + 1
    for kernel in ((side, 1), (1, side)):
        images = gaussian_blur(images, kernel, [max(sigma_px, 1e-3)] * 2)
    return images


def _corners(images):
    """(H,W) bool, the outer quarters of both sides."""
    down, across = (
        (torch.arange(side) - (side - 1) / 2).abs() >= side / 4 for side in images.shape[-2:]
    )
    return (down[:, None] & across).to(images.device)
