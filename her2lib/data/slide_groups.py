"""Which patches seem to come from one slide, recovered from borders, near-duplicates and stain."""

import numpy as np
import pandas as pd
import torch
from scipy.linalg import eigh
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtri
from scipy.stats import rankdata

from her2lib import stain

SMOOTH_PX, COARSE_PX, STRIP_PX = (
    1.0,
    8.0,
    512,
)  # of border strips: grain goes, nuclei and membranes stay, broad shading goes
TWIN = 0.95  # correlation of two 32 px thumbnails that show the same place
FALSE = (
    0.02,
    0.05,
    # share of false links borne, first and among patches that look alike; none borne: ARI 0.85,
    # these: 0.88
)
FAR = 0.1  # of linked pairs look so unlike that others like them are not compared again
# patches of a slide differ this much more than quarters of one tell (1.5: 18 groups of 8; 4 to 8:
# ARI 0.85 to 0.87)
APART = 6.0
SHADES = torch.tensor(
    [0.02, 0.1, 0.4]
)  # optical densities at which the colour of unstained tissue is read
OCTAVES, CHUNK_PX = 4, 2**22


def recover_groups(images):
    """(N,) str, the slide group of each uint8 patch (N,3,H,W), recovered from borders, near-duplicates and stain; number not given."""
    if len(images) < 2:
        return np.array([f"group {i + 1}" for i in range(len(images))], object)
    z, between = _model(_look(images))
    odds, edges = _gain(z, between), _borders(images)
    links = np.unique(np.concatenate([_twins(images), _adjacent(edges, false=FALSE[0])]), axis=0)
    for _ in range(
        2
        # borders are compared again among patches that look alike: fewer comparisons, fainter borders
        # count
    ):
        near = odds >= (np.quantile(odds[tuple(links.T)], FAR) if len(links) else 0)
        links = np.unique(np.concatenate([links, _adjacent(edges, near, false=FALSE[1])]), axis=0)
    return _named(
        _clustered(z, between, links[odds[tuple(links.T)] >= 0])
    )  # one false link joins two slides: stain may deny it


def set_leakage(groups, subset):
    """DataFrame (set, patches, shared, groups, cut): patches of each set whose group also stands in another set."""
    table = pd.DataFrame({"group": np.asarray(groups, object), "set": np.asarray(subset, object)})
    table = table[~table["set"].isin(["", "external"])]
    table["cut"] = table.groupby("group")["set"].transform("nunique") > 1
    rows = table.groupby("set", sort=False).agg(
        patches=("cut", "size"), shared=("cut", "sum"), groups=("group", "nunique")
    )
    rows["cut"] = (
        table[table["cut"]].groupby("set")["group"].nunique().reindex(rows.index, fill_value=0)
    )
    return rows.reset_index()


def _look(images):
    """(N,4,D) glass, stain and texture of each quarter of a patch, every column brought to normal ranks: a pen mark is no giant."""
    h, w = (side // 2 for side in images.shape[-2:])
    parts = torch.stack(
        [images[..., y : y + h, x : x + w] for y in (0, h) for x in (0, w)], 1
    ).flatten(0, 1)  # (N*4,3,h,w)
    step = max(1, CHUNK_PX // (h * w))
    found = np.concatenate([_looked(parts[k : k + step]) for k in range(0, len(parts), step)])
    return ndtri((rankdata(found, axis=0) - 0.5) / len(found)).reshape(len(images), 4, -1)


def _looked(images):
    """(B,D) of glass, colour of unstained tissue, stain vectors of nuclei, stroma and membrane, amounts of stain, texture by octave."""
    glass = torch.log10(255 / stain.white_point(images))  # (B,3)
    raw = torch.log10(
        255 / torch.nn.functional.avg_pool2d(images.float(), 2).clamp(min=1)
    )  # grain would colour what is pale
    density = raw - glass[:, :, None, None]  # (B,3,h,w)
    planes = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(stain.HDAB)[:, :2].float())
    blue, brown = planes.flatten(2).unbind(1)
    plain = brown < 0.8 * blue + 0.05
    high, low = (torch.quantile(blue, q, dim=1, keepdim=True) for q in (0.85, 0.6))
    nuclei, strong = _vector(density, plain & (blue > high.clamp(min=0.06)), stain.HDAB[0])
    stroma, weak = _vector(density, plain & (blue > 0.02) & (blue <= low), nuclei)
    membrane, _ = _vector(density, (brown > 0.1) & (brown > 1.2 * blue), stain.HDAB[1])
    amounts = [
        torch.quantile(plane, torch.tensor((0.1, 0.25, 0.5, 0.75, 0.9, q)), dim=1).T
        for plane, q in ((blue, 0.97), (brown, 0.99))
    ]
    tints = [
        glass.mean(1, keepdim=True),
        _tint(glass),
        _tint(_line(raw.flatten(2), plain)).flatten(1),
    ]
    return torch.cat(
        [*tints, nuclei, stroma, membrane, strong, weak, *amounts, _octaves(planes)], 1
    ).numpy()


def _tint(density):
    """(B,…,2) red and blue less green of optical density (B,…,3): a wrong guess of how dark the glass is leaves it alone."""
    return density[..., ::2] - density[..., 1:2]


def _line(density, where):
    """(B,S,3) optical density at mean densities SHADES, on the line that best fits density (B,3,n) where (B,n) holds."""
    count = where.sum(1).clamp(min=1)
    mean = (density * where[:, None]).sum(2) / count[:, None]
    rest = (density - mean[:, :, None]) * where[:, None]
    axis = torch.linalg.eigh(rest @ rest.mT)[1][:, :, 2]  # of the largest eigenvalue
    steep = axis.mean(1, keepdim=True)
    axis = (
        axis * steep.sign() / steep.abs().clamp(min=0.05)
    )  # stain darkens all three; a line that does not is read as flat
    return mean[:, None] + axis[:, None] * (SHADES[:, None] - mean.mean(1)[:, None, None])


def _vector(density, where, otherwise):
    """((B,3) direction, (B,1) length) of the mean optical density where (B,h*w) holds; otherwise, where too little does."""
    count = where.sum(1, keepdim=True)
    mean = (density.flatten(2) * where[:, None]).sum(2) / count.clamp(min=1)
    length = mean.norm(dim=1, keepdim=True)
    return torch.where(
        (count > 50) & (length > 0.01), mean / length.clamp(min=1e-4), otherwise.float()
    ), length


def _octaves(planes):
    """(B,2*octaves) log of the mean height of detail of 2, 4, 8 … px in planes (B,2,h,w): nuclear size, chromatin, membranes."""
    found = []
    for _ in range(min(OCTAVES, int(np.log2(min(planes.shape[-2:]))))):
        coarse = torch.nn.functional.avg_pool2d(planes, 2)
        wide = torch.nn.functional.interpolate(coarse, size=planes.shape[-2:], mode="bilinear")
        found.append((planes - wide).abs().mean((2, 3)))
        planes = coarse
    return (torch.cat(found, 1) + 1e-3).log() if found else planes.new_zeros(len(planes), 0)


def _twins(images):
    """(L,2) pairs of patches that show the same place: thumbnails with structure that correlate."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.float().mean(1), 32).flatten(1)
    small = (small - small.mean(1, keepdim=True)).numpy()
    size = np.linalg.norm(small, axis=1)
    alike = (small @ small.T) / np.maximum(np.outer(size, size), 1e-6)
    alike[:, size < 3 * 32] = 0  # less than 3 grey levels of structure: glass
    return np.argwhere(np.triu((alike > TWIN) & (size[:, None] >= 3 * 32), 1))


def _borders(images):
    """dict left, right, top, bottom: (N,3,L) standardised optical density along the border, broad shading removed."""
    sides = {
        "left": images[..., :, 0],
        "right": images[..., :, -1],
        "top": images[..., 0, :],
        "bottom": images[..., -1, :],
    }
    return {
        name: _strip(stain.optical_density(strip[..., None].contiguous())[..., 0].numpy())
        for name, strip in sides.items()
    }


def _strip(line):
    """(N,3,L) of (N,3,L): band-passed, brought to at most STRIP_PX, mean 0 and length 1."""
    line = line[..., : line.shape[-1] // (k := -(-line.shape[-1] // STRIP_PX)) * k]
    line = line.reshape(*line.shape[:2], -1, k).mean(-1)
    line = gaussian_filter1d(line, SMOOTH_PX, axis=-1, mode="nearest") - gaussian_filter1d(
        line, COARSE_PX, axis=-1, mode="nearest"
    )
    line = line - line.mean((1, 2), keepdims=True)
    return line / np.maximum(np.linalg.norm(line, axis=(1, 2), keepdims=True), 1e-6)


def _adjacent(edges, allowed=None, *, false):
    """(L,2) pairs whose touching borders continue each other; about this share is false, judged by borders that cannot touch."""
    meet = (("right", "left"), ("bottom", "top"))
    never = [_best(edges[side], edges[side], allowed)[1] for side in edges]
    never += [
        _best(edges[a], edges[b][..., ::-1], allowed)[1] for a, b in meet
    ]  # six comparisons, none of them true, for two
    pairs, fit = map(
        np.concatenate, zip(*(_best(edges[a], edges[b], allowed) for a, b in meet), strict=True)
    )
    order, never = np.argsort(-fit), np.sort(np.concatenate(never))
    wrong = (len(never) - np.searchsorted(never, fit[order])) / 3
    good = np.flatnonzero(wrong <= false * np.arange(1, len(fit) + 1))
    return np.sort(pairs[order[: good.max(initial=-1) + 1]], axis=1).reshape(-1, 2)


def _best(one, other, allowed):
    """((L,2) pairs that are each other's best fit, (L,) by how many deviations of all their fits)."""
    fit = one.reshape(len(one), -1) @ other.reshape(len(other), -1).T
    np.fill_diagonal(fit, 0)
    fit /= (
        np.maximum(
            np.sqrt((fit**2).mean(1, keepdims=True)), np.sqrt((fit**2).mean(0, keepdims=True))
        )
        + 1e-9
    )
    fit = fit if allowed is None else np.where(allowed, fit, 0)
    first, rows = fit.argmax(1), np.arange(len(fit))
    mutual = (fit.argmax(0)[first] == rows) & (fit[rows, first] > 0)
    return np.stack([rows, first], 1)[mutual], fit[rows, first][mutual]


def _model(look):
    """((N,D) patches, (D,) variance between slides) in axes that part slides, where patches of one slide spread by 1 (Ioffe 2006)."""
    mean = look.mean(1)
    corners = (look - mean[:, None]).reshape(-1, look.shape[2])
    quarters = corners.T @ corners / (12 * len(look))  # covariance of the mean of four
    quarters = 0.9 * quarters + 0.1 * np.diag(np.diag(quarters))
    ratio, axes = eigh(np.cov(mean.T), APART * quarters + 1e-3 * np.eye(len(quarters)))
    return (mean - mean.mean(0)) @ axes, np.maximum(ratio - 1, 0)


def _gain(total, between, count=None):
    """(K,K) log odds that two clusters, sums (K,D) of count (K,) patches, share a slide: Gaussian slides and patches, no prior."""
    count = np.ones(len(total)) if count is None else count
    own = _fit(total, count, between)
    return np.stack(
        [
            _fit(total + total[k], count + count[k], between) - own - own[k]
            for k in range(len(total))
        ]
    )


def _fit(total, count, between):
    """(K,) log likelihood of one slide per cluster, less that of as many slides as patches with no variance between them."""
    spread = 1 + count[:, None] * between
    return 0.5 * (between * total**2 / spread - np.log(spread)).sum(1)


def _clustered(z, between, links):
    """(N,) int: linked patches stay together; pairs of clusters that are each other's best join while that is likelier than not."""
    member = connected_components(
        coo_array((np.ones(len(links)), tuple(links.T)), shape=(len(z), len(z))), directed=False
    )[1]
    while True:
        count = np.bincount(member)
        total = np.zeros((len(count), z.shape[1]))
        np.add.at(total, member, z)
        gain, rows = _gain(total, between, count), np.arange(len(count))
        np.fill_diagonal(gain, -1)
        best = gain.argmax(1)
        mutual = (best[best] == rows) & (gain[rows, best] > 0)
        if not mutual.any():
            return member
        member = np.unique(
            np.where(mutual, np.minimum(best, rows), rows)[member], return_inverse=True
        )[1]


def _named(numbers):
    first = {number: place for place, number in enumerate(dict.fromkeys(numbers.tolist()))}
    return np.array([f"group {first[number] + 1}" for number in numbers.tolist()], object)
