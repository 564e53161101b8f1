"""Where the maps' mass lies: on which tissue, at which depth of the tumour, in how many places; how far attention looks."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from her2lib.maps import attribution
from her2lib.stats.intervals import FEW_UNITS, Estimate, bootstrap, mean

EDGE_UM, EDGE_PX = (
    30.0,
    14.0,
)  # two to three carcinoma cells; 14 px is 30 um where 224 px show 480 um
BANDS_UM, BANDS_PX = (0.0, 15.0, 30.0, 60.0, math.inf), (0.0, 7.0, 14.0, 28.0, math.inf)
REGISTER_TIMES = (
    3.0  # tokens this many times the median norm are counted as register-like (after Darcet 2024)
)


def mass_fraction(maps, mask):
    """(B,) share of each map's positive mass on a mask (B,H,W) bool, cell by cell spread evenly; NaN without mass."""
    mass = maps.cpu().clamp(min=0).double()  # on the CPU: Apple's GPUs know no double precision
    return (mass * _covered(mask, maps)).sum((1, 2)) / mass.sum(
        (1, 2)
    )  # 0/0 is NaN: a map without mass has no focus


def focus(maps, masks, *, mpp=None, grid=7):
    """DataFrame, a row per patch: share_, area_ and hit_ per mask, edge_to_centre, edge_share, entropy, gini, peaks, positive."""
    table = {"positive": maps.clamp(min=0).sum((1, 2)) / maps.abs().sum((1, 2))}
    for name, mask in masks.items():
        table[f"share_{name}"], table[f"area_{name}"] = (
            mass_fraction(maps, mask),
            mask.cpu().double().mean((1, 2)),
        )
        table[f"hit_{name}"] = pointing(maps, mask)
    table = pd.DataFrame({name: column.cpu().numpy() for name, column in table.items()})
    if "tumour" in masks:
        table["edge_to_centre"] = edge_to_centre(maps, masks["tumour"], mpp=mpp)
        table["edge_share"] = 1 - 1 / (
            1 + table.edge_to_centre
        )  # 0.5 = even; the ratio can be infinite, so average this one
    return table.join(scatter(maps, grid=grid))


def focus_by_chance(maps, generators, masks, *, draws=8, **options):
    """DataFrame as of focus(): the same values placed by chance, mean of some draws; what stands beside the map as its null."""
    tables = [
        focus(attribution.surrogate(maps, generators), masks, **options) for _ in range(draws)
    ]  # each draw moves the generators on
    return pd.concat(tables).groupby(level=0).mean()


def pointing(maps, mask):
    """(B,) pointing game: how much of the map's highest cell the mask (B,H,W) covers, 0..1; chance is the mask's area."""
    return (
        _covered(mask, maps)
        .flatten(1)
        .gather(1, maps.cpu().flatten(1).argmax(1, keepdim=True))[:, 0]
    )


def edge_to_centre(maps, tumour, *, mpp=None):
    """(B,) mass per area within EDGE_UM (EDGE_PX: mpp unknown) of the tumour's edge over that further inside; 1 = even."""
    table = depth_bands(
        maps, tumour, mpp=mpp, um=(0.0, EDGE_UM, math.inf), px=(0.0, EDGE_PX, math.inf)
    )
    density = table.pivot(index="patch", columns="band", values="density").reindex(
        index=range(len(maps)), columns=[0, 1]
    )
    return (density[0] / density[1]).to_numpy()


def depth_bands(maps, tumour, *, mpp=None, um=BANDS_UM, px=BANDS_PX):
    """DataFrame, a row per patch and band of depth inside the tumour: low, high, unit, mass, area, density (1 = even)."""
    rows = []
    for patch, (mask, length) in enumerate(
        zip(tumour.cpu().numpy(), _lengths(mpp, len(maps)), strict=True)
    ):
        if mask.all() or not mask.any():
            continue  # no edge is to be seen in this patch
        limits, unit = (px, "px") if np.isnan(length) else (um, "um")
        depth = distance_transform_edt(mask) * (
            1.0 if unit == "px" else length
        )  # the patch's border cuts the tumour, no edge
        inside = torch.from_numpy(
            np.stack([(depth > low) & (depth <= high) for low, high in pairwise(limits)])
        )
        mass = mass_fraction(maps[patch : patch + 1].expand(len(inside), -1, -1), inside).numpy()
        area = inside.double().mean((1, 2)).numpy()
        rows += [
            (patch, i, limits[i], limits[i + 1], unit, mass[i], area[i]) for i in range(len(inside))
        ]
    table = pd.DataFrame(rows, columns=["patch", "band", "low", "high", "unit", "mass", "area"])
    for column in ("mass", "area"):
        table[column] /= table.groupby("patch")[column].transform("sum")
    return table.assign(density=table.mass / table.area)


def scatter(maps, *, grid=7):
    """DataFrame, a row per patch, on at most grid x grid cells to compare networks: entropy, gini (0..1), peaks above half."""
    size = [min(grid, side) for side in maps.shape[1:]]
    mass = F.adaptive_avg_pool2d(maps.cpu().clamp(min=0).double(), size)
    part = mass.flatten(1) / mass.sum((1, 2))[:, None]
    n = part.shape[1]
    entropy = torch.special.entr(part).sum(1) / math.log(max(n, 2))
    ranks = torch.arange(1, n + 1, dtype=part.dtype)
    gini = (part.sort(1).values * (2 * ranks - n - 1)).sum(1) / n
    top = mass.amax((1, 2), keepdim=True)
    peaks = (
        ((mass == F.max_pool2d(mass, 3, 1, 1)) & (mass > top / 2))
        .sum((1, 2))
        .double()
        .where(top[:, 0, 0] > 0, math.nan)
    )
    return pd.DataFrame({"entropy": entropy, "gini": gini, "peaks": peaks})


def attention_distance(attention, grid, *, pitch_px=1.0):
    """(B,heads) mean distance in px from a patch token to those it attends to, mean over queries (Dosovitskiy 2021)."""
    h, w = grid
    places = (
        torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(attention).reshape(h * w, 2)
        * pitch_px
    )
    among = attention[..., -h * w :, -h * w :]  # (B,heads,h*w,h*w): prefix tokens have no place
    return ((among * torch.cdist(places, places)).sum(-1) / among.sum(-1)).mean(-1)


def attention_distances(net, x, *, mpp=None):
    """DataFrame, a row per patch, layer and head: distance_px of the input, distance_um (NaN where mpp is unknown)."""
    with attribution.looking(net, gradients=False):
        parts = []
        for part in attribution.input_pieces(net, x):
            seen = net.tap(x[part], attention=range(net.layers)).attention
            pitch_px = x.shape[-1] / net.grid[1]
            parts.append(
                torch.stack(
                    [
                        attention_distance(seen[i], net.grid, pitch_px=pitch_px)
                        for i in range(net.layers)
                    ],
                    1,
                )
            )
    distance = torch.cat(parts).cpu().double().numpy()  # (B,layers,heads)
    patch, layer, head = (index.ravel() for index in np.indices(distance.shape))
    table = pd.DataFrame(
        {"patch": patch, "layer": layer, "head": head, "distance_px": distance.ravel()}
    )
    return table.assign(distance_um=table.distance_px * _lengths(mpp, len(x))[patch])


def high_norm_tokens(net, x, *, times=REGISTER_TIMES):
    """(norm (B,h,w) of the features over each patch's median, count (B,) of those above times): register-like tokens."""
    with attribution.looking(net, gradients=False):
        norm = net.tap(x).features.norm(dim=1)
    norm = norm / norm.flatten(1).median(1).values[:, None, None]
    return norm, (norm > times).sum((1, 2))


def attention_by_weights(nets, x, *, mpp=None):
    """DataFrame, attention_distances of {weights: net}, and `tokens`: how many high-norm tokens the patch has."""
    tables = [
        attention_distances(net, x, mpp=mpp).assign(weights=weights)
        for weights, net in nets.items()
    ]
    counts = [high_norm_tokens(net, x)[1].cpu().numpy() for net in nets.values()]
    return pd.concat(
        [
            table.assign(tokens=count[table.patch])
            for table, count in zip(tables, counts, strict=True)
        ],
        ignore_index=True,
    )


def read_truth(folder, names, *, side_px):
    """{mask: (B,side_px,side_px) bool} of the truth that lies beside phantoms: tumour, membrane, deciding cells and others."""
    stored = [np.load(Path(folder) / f"{Path(name).stem}.npz") for name in names]
    masks = {
        mask: torch.from_numpy(np.stack([one[mask] for one in stored])) for mask in stored[0].files
    }
    return {
        mask: F.interpolate(found[:, None].float(), side_px, mode="nearest-exact")[:, 0] > 0
        for mask, found in masks.items()
    }


def mean_table(table, columns, *, by, groups, resamples=2000):
    """DataFrame, a row per group and column: by, metric and Estimate's fields; groups (Series) holds one unit per number in `patch`."""
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        own = dict(groups=groups.iloc[part["patch"]], resamples=resamples)
        found = {column: bootstrap(mean, part[column].to_numpy(float), **own) for column in columns}
        rows += [
            dict(zip(by, key, strict=True)) | {"metric": column} | vars(estimate)
            for column, estimate in found.items()
        ]
    return pd.DataFrame(rows)


def judge_estimate(estimate, null=0.0, *, says="above", broken="", groups=math.inf):
    """(word, why): confirmed or refuted where the estimate's interval lies clear of the null's, else undecided, as with few groups."""
    if says not in ("above", "below"):
        raise ValueError(
            f"A claim says that a value lies 'above' or 'below' its null, not {says!r}."
        )
    low, high = (null.low, null.high) if isinstance(null, Estimate) else (null, null)
    if broken:
        return "undecided", broken
    if not np.isfinite([estimate.low, estimate.high, low, high]).all():
        return "undecided", estimate.note or "there is no interval"
    if (
        groups < FEW_UNITS
        # two patients once "refuted" a claim in the demo: resampling two values knows nothing of a
        # third
    ):
        return "undecided", f"only {groups} independent patients or slides, {FEW_UNITS} are needed"
    rough = f"; {estimate.note}" if estimate.note else ""
    side = "above" if estimate.low > high else "below" if estimate.high < low else ""
    if not side:
        return "undecided", f"the interval does not lie clear of the null{rough}"
    return (
        "confirmed" if side == says else "refuted",
        f"the whole interval lies {side} the null{rough}",
    )


def _covered(mask, maps):
    """(B,h,w) share of each map cell's pixels that a mask (B,H,W) covers."""
    return F.adaptive_avg_pool2d(mask.cpu().double()[:, None], maps.shape[1:])[:, 0]


def _lengths(mpp, patches):
    """(B,) um per pixel of the masks or input, NaN where unknown; mpp is one number for all or one per patch."""
    return np.broadcast_to(np.asarray(math.nan if mpp is None else mpp, float), patches)
