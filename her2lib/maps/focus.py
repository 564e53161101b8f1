"""Where the maps' mass lies: tissue, depth in the tumour, scatter; how far attention looks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from her2lib.maps import attribution, inside
from her2lib.networks import models
from her2lib.stats.intervals import bootstrap, mean

# the tumour's edge: two to three carcinoma cells; 14 px is 30 um where 224 px show 480 um
EDGE_UM = 30.0
EDGE_PX = 14.0
BANDS_UM = (0.0, 15.0, 30.0, 60.0, math.inf)
BANDS_PX = (0.0, 7.0, 14.0, 28.0, math.inf)
# tokens this many times the median norm are counted as register-like (after Darcet 2024)
REGISTER_TIMES = 3.0


# --- on which tissue ----------------------------------------------------------------------------


def focus(
    maps: torch.Tensor,
    masks: Mapping[str, torch.Tensor],
    *,
    mpp: float | Sequence[float] | np.ndarray | None = None,
    grid: int = 7,
) -> pd.DataFrame:
    """DataFrame, a row per patch of maps (B,h,w): where its positive mass lies.

    Per mask (B,H,W) bool: share_ of the mass, area_ of the patch and hit_ (the highest cell);
    edge_to_centre and edge_share where there is a mask "tumour"; entropy, gini and peaks on a
    grid common to the networks that are compared; positive, the positive part of all mass.
    """
    columns = {"positive": maps.clamp(min=0).sum((1, 2)) / maps.abs().sum((1, 2))}
    for name, mask in masks.items():
        columns[f"share_{name}"] = mass_fraction(maps, mask)
        columns[f"area_{name}"] = mask.cpu().double().mean((1, 2))
        columns[f"hit_{name}"] = pointing(maps, mask)
    table = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    if "tumour" in masks:
        table["edge_to_centre"] = edge_to_centre(maps, masks["tumour"], mpp=mpp)
        # 0.5 is even; the ratio can be infinite, so this is the one to average
        table["edge_share"] = 1 - 1 / (1 + table.edge_to_centre)
    return table.join(scatter(maps, grid=grid))


def focus_by_chance(
    maps: torch.Tensor,
    generators: Sequence[torch.Generator],
    masks: Mapping[str, torch.Tensor],
    *,
    draws: int = 8,
    **options,
) -> pd.DataFrame:
    """DataFrame as of focus(): the same values placed by chance, mean of some draws: its null."""
    tables = []
    # each draw moves the generators on
    for _ in range(draws):
        tables.append(focus(attribution.surrogate(maps, generators), masks, **options))
    return pd.concat(tables).groupby(level=0).mean()


def mass_fraction(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) double, the fraction of each map's positive mass that lies on a mask (B,H,W) bool.

    A cell's mass is spread evenly over its pixels; NaN for a map without positive mass, which has
    no focus. Example: mass_fraction(maps, stain.masks(images)["tumour"])
    """
    mass = _positive_mass(maps)
    return (mass * _covered(mask, maps)).sum((1, 2)) / mass.sum((1, 2))


def pointing(maps, mask):
    """(B,) how much of the map's highest cell the mask covers, 0..1; chance is the mask's area."""
    highest = maps.cpu().flatten(1).argmax(1, keepdim=True)
    return _covered(mask, maps).flatten(1).gather(1, highest)[:, 0]


# --- how deep in the tumour ---------------------------------------------------------------------


def edge_to_centre(maps, tumour, *, mpp=None):
    """(B,) mass per area at the tumour's edge over that further inside; 1 = even.

    The edge is EDGE_UM deep, or EDGE_PX where mpp is unknown.
    """
    um = (0.0, EDGE_UM, math.inf)
    px = (0.0, EDGE_PX, math.inf)
    table = depth_bands(maps, tumour, mpp=mpp, um=um, px=px)
    density = table.pivot(index="patch", columns="band", values="density")
    density = density.reindex(index=range(len(maps)), columns=[0, 1])
    return (density[0] / density[1]).to_numpy()


def depth_bands(maps, tumour, *, mpp=None, um=BANDS_UM, px=BANDS_PX):
    """DataFrame, a row per patch and band of depth inside the tumour: how much of the map is there.

    Columns low, high, unit (um, or px where mpp is unknown), mass, area, density (1 = even).
    """
    rows = []
    for patch, um_per_px in enumerate(_um_per_px(mpp, len(maps))):
        mask = tumour[patch].cpu().numpy()
        # no edge is to be seen in this patch
        if mask.all() or not mask.any():
            continue
        if np.isnan(um_per_px):
            rows += _bands_of_patch(patch, maps[patch], mask, px, "px", 1.0)
        else:
            rows += _bands_of_patch(patch, maps[patch], mask, um, "um", um_per_px)
    table = pd.DataFrame(rows, columns=["patch", "band", "low", "high", "unit", "mass", "area"])
    for column in ("mass", "area"):
        table[column] /= table.groupby("patch")[column].transform("sum")
    return table.assign(density=table.mass / table.area)


def _bands_of_patch(patch, map_, mask, limits, unit, unit_per_px):
    """list of rows (patch, band, low, high, unit, mass, area) of one map and tumour mask (H,W)."""
    # the patch's border cuts the tumour: it is no edge
    depth = distance_transform_edt(mask) * unit_per_px
    bands = [(depth > low) & (depth <= high) for low, high in pairwise(limits)]
    in_band = torch.from_numpy(np.stack(bands))  # (bands,H,W)
    mass = mass_fraction(map_[None].expand(len(bands), -1, -1), in_band).numpy()
    area = in_band.double().mean((1, 2)).numpy()
    return [
        (patch, i, low, high, unit, mass[i], area[i])
        for i, (low, high) in enumerate(pairwise(limits))
    ]


# --- how scattered ------------------------------------------------------------------------------


def scatter(maps, *, grid=7):
    """DataFrame, a row per patch: entropy and gini (0..1), peaks above half of the highest.

    On at most grid x grid cells, so that networks of different grids compare.
    """
    size = [min(grid, side) for side in maps.shape[1:]]
    mass = F.adaptive_avg_pool2d(_positive_mass(maps), size)
    fraction = mass.flatten(1) / mass.sum((1, 2))[:, None]  # (B,cells)
    n = fraction.shape[1]
    entropy = torch.special.entr(fraction).sum(1) / math.log(max(n, 2))
    ranks = torch.arange(1, n + 1, dtype=fraction.dtype)
    gini = (fraction.sort(1).values * (2 * ranks - n - 1)).sum(1) / n
    return pd.DataFrame({"entropy": entropy, "gini": gini, "peaks": _peaks(mass)})


def _peaks(mass):
    """(B,) cells that no neighbour exceeds, above half of the highest; NaN without any mass."""
    highest = mass.amax((1, 2), keepdim=True)
    is_peak = (mass == F.max_pool2d(mass, 3, 1, 1)) & (mass > highest / 2)
    return is_peak.sum((1, 2)).double().where(highest[:, 0, 0] > 0, math.nan)


# --- how far attention looks --------------------------------------------------------------------


def attention_distance(attention, grid, *, pitch_px=1.0):
    """(B,heads) mean distance in px from a patch token to those it attends to.

    Mean over queries (Dosovitskiy 2021); attention is (B,heads,T,T).
    """
    h, w = grid
    positions = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(attention)
    positions = positions.reshape(h * w, 2) * pitch_px
    # prefix tokens have no position, so only the patches' own block is read
    among_patches = attention[..., -h * w :, -h * w :]  # (B,heads,h*w,h*w)
    distance = torch.cdist(positions, positions)
    return ((among_patches * distance).sum(-1) / among_patches.sum(-1)).mean(-1)


def attention_distances(
    net: models.Net, x: torch.Tensor, *, mpp: float | Sequence[float] | np.ndarray | None = None
) -> pd.DataFrame:
    """DataFrame, a row per patch, layer and head: distance_px of the input, and distance_um.

    distance_um is NaN where mpp is unknown. Raises ValueError for a network without attention.
    """
    with inside.looking(net, gradients=False):
        pieces = [_distances_by_layer(net, x[piece]) for piece in inside.input_pieces(net, x)]
    distance = torch.cat(pieces).cpu().double().numpy()  # (B,layers,heads)
    patch, layer, head = (index.ravel() for index in np.indices(distance.shape))
    table = pd.DataFrame(
        {"patch": patch, "layer": layer, "head": head, "distance_px": distance.ravel()}
    )
    return table.assign(distance_um=table.distance_px * _um_per_px(mpp, len(x))[patch])


def _distances_by_layer(net, x):
    """(B,layers,heads) attention distance in px."""
    attention = net.tap(x, attention=range(net.layers)).attention
    pitch_px = x.shape[-1] / net.grid[1]
    layers = [
        attention_distance(attention[layer], net.grid, pitch_px=pitch_px)
        for layer in range(net.layers)
    ]
    return torch.stack(layers, 1)


def high_norm_tokens(net, x, *, times=REGISTER_TIMES):
    """(norm (B,h,w), count (B,)) of register-like tokens: those with a norm above `times`.

    The norm is that of the features over its median in the patch.
    """
    with inside.looking(net, gradients=False):
        norm = net.tap(x).features.norm(dim=1)
    norm = norm / norm.flatten(1).median(1).values[:, None, None]
    return norm, (norm > times).sum((1, 2))


def attention_by_weights(
    nets: Mapping[str, models.Net],
    x: torch.Tensor,
    *,
    mpp: float | Sequence[float] | np.ndarray | None = None,
) -> pd.DataFrame:
    """DataFrame, attention_distances of {weights: net}; tokens: the patch's high-norm ones."""
    tables = []
    for weights, net in nets.items():
        table = attention_distances(net, x, mpp=mpp).assign(weights=weights)
        count = high_norm_tokens(net, x)[1].cpu().numpy()
        tables.append(table.assign(tokens=count[table.patch]))
    return pd.concat(tables, ignore_index=True)


# --- truth and means ----------------------------------------------------------------------------


def read_truth(folder: Path | str, names: Iterable[str], *, side_px: int) -> dict:
    """{mask: (B,side_px,side_px) bool} of the truth beside phantoms: tumour, deciding …."""
    stored = [np.load(Path(folder) / f"{Path(name).stem}.npz") for name in names]
    masks = {}
    for name in stored[0].files:
        mask = torch.from_numpy(np.stack([patch[name] for patch in stored]))  # (B,H,W)
        resized = F.interpolate(mask[:, None].float(), side_px, mode="nearest-exact")
        masks[name] = resized[:, 0] > 0
    return masks


def mean_table(
    table: pd.DataFrame,
    columns: Iterable[str],
    *,
    by: Sequence[str],
    groups: pd.Series,
    resamples: int = 2000,
) -> pd.DataFrame:
    """DataFrame, a row per value of `by` and column: by, metric and the fields of its Estimate.

    groups holds what to resample, one unit for each number that stands in the column `patch`.
    """
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        units = groups.iloc[part["patch"]]
        for column in columns:
            values = part[column].to_numpy(float)
            estimate = bootstrap(mean, values, groups=units, resamples=resamples)
            labels = dict(zip(by, key, strict=True))
            rows.append({**labels, "metric": column, **vars(estimate)})
    return pd.DataFrame(rows)


# --- helpers ------------------------------------------------------------------------------------


def _positive_mass(maps):
    """(B,h,w) double, the maps' positive part, on the CPU."""
    # Apple's GPUs know no double precision
    return maps.cpu().clamp(min=0).double()


def _covered(mask, maps):
    """(B,h,w) fraction of each map cell's pixels that a mask (B,H,W) covers."""
    return F.adaptive_avg_pool2d(mask.cpu().double()[:, None], maps.shape[1:])[:, 0]


def _um_per_px(mpp, n_patches):
    """(B,) um per pixel of the masks or input, NaN where unknown; mpp is one number or one each."""
    if mpp is None:
        mpp = math.nan
    return np.broadcast_to(np.asarray(mpp, float), n_patches)
