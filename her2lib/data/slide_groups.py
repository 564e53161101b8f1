"""Which patches seem to come from one slide, recovered from borders, near-duplicates and stain."""

import math

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

# Of border strips: grain goes, nuclei and membranes stay, broad shading goes.
SMOOTH_PX = 1.0
COARSE_PX = 8.0
STRIP_PX = 512
# Borders that meet when two patches of a slide touch.
MEETING = (("right", "left"), ("bottom", "top"))
# Fraction of false links that is borne, first and among patches that look alike. With none borne
# the ARI is 0.85, with these 0.88.
FALSE_FIRST = 0.02
FALSE_ALIKE = 0.05
# This fraction of linked pairs looks so unlike that others like them are not compared again.
FAR = 0.1
# Correlation of two 32 px thumbnails that show the same tissue, and the least spread in grey
# levels of a thumbnail that is not glass.
TWIN = 0.95
TWIN_SPREAD = 3
# Patches of a slide differ this much more than quarters of a patch tell. At 1.5 there are 18
# groups of 8 slides; 4 to 8: ARI 0.85 to 0.87.
APART = 6.0
# Optical densities at which the colour of unstained tissue is read.
SHADES = torch.tensor([0.02, 0.1, 0.4])
OCTAVES = 4
CHUNK_PX = 2**22


# --- public ---------------------------------------------------------------------------------------


def recover_groups(images: torch.Tensor) -> np.ndarray:
    """(N,) str, the slide that each patch (N,3,H,W) uint8 seems to come from: "group 1" …

    Nothing is assumed about the number of slides. The evidence is borders that continue each
    other, near-duplicates, and the stain and texture of the patches. A group is a guess: it serves
    a sensitivity analysis, never a split by patient.

    recover_groups(patches.images)  # array(["group 1", "group 1", "group 2"], dtype=object)
    """
    if len(images) < 2:
        return _group_names(np.arange(len(images)))
    coordinates, between = _slide_axes(_appearance(images))
    log_odds = _log_odds_joined(coordinates, between)
    strips = _border_strips(images)
    touching = _continuing(strips, false=FALSE_FIRST)
    links = np.unique(np.concatenate([_same_tissue(images), touching]), axis=0)  # (L,2)
    # Borders are compared again among patches that look alike: with fewer comparisons, fainter
    # borders count.
    for _ in range(2):
        threshold = 0
        if len(links):
            threshold = np.quantile(log_odds[links[:, 0], links[:, 1]], FAR)
        more = _continuing(strips, log_odds >= threshold, false=FALSE_ALIKE)
        links = np.unique(np.concatenate([links, more]), axis=0)
    # One false link joins two slides, so the stain may deny it.
    links = links[log_odds[links[:, 0], links[:, 1]] >= 0]
    return _group_names(_clustered(coordinates, between, links))


def set_leakage(groups: np.ndarray, subset: np.ndarray) -> pd.DataFrame:
    """DataFrame (set, patches, shared, groups, cut), a row per set: what it shares with others.

    groups and subset (N,) name each patch's group and its set. shared counts the patches whose
    group also stands in another set, cut counts such groups. The external set and patches without
    a set are left out.

    set_leakage(["a", "a", "b"], ["train", "test", "train"])
    """
    table = pd.DataFrame({"group": np.asarray(groups, object), "set": np.asarray(subset, object)})
    table = table[~table["set"].isin(["", "external"])]
    table["cut"] = table.groupby("group")["set"].transform("nunique") > 1
    rows = table.groupby("set", sort=False).agg(
        patches=("cut", "size"), shared=("cut", "sum"), groups=("group", "nunique")
    )
    cut_groups = table[table["cut"]].groupby("set")["group"].nunique()
    rows["cut"] = cut_groups.reindex(rows.index, fill_value=0)
    return rows.reset_index()


# --- what a patch looks like ----------------------------------------------------------------------


def _appearance(images):
    """(N,4,D) glass, stain and texture of each quarter of a patch.

    Every column is brought to normal ranks: a pen mark is no giant.
    """
    h, w = images.shape[-2] // 2, images.shape[-1] // 2
    top, bottom = images[..., :h, :], images[..., h : 2 * h, :]
    quarters = [top[..., :w], top[..., w : 2 * w], bottom[..., :w], bottom[..., w : 2 * w]]
    quarters = torch.stack(quarters, 1).flatten(0, 1)  # (N,4,3,h,w) -> (N*4,3,h,w)
    step = max(1, CHUNK_PX // (h * w))
    chunks = [
        _stain_and_texture(quarters[start : start + step])
        for start in range(0, len(quarters), step)
    ]
    measures = np.concatenate(chunks)  # (N*4,D)
    ranks = (rankdata(measures, axis=0) - 0.5) / len(measures)
    return ndtri(ranks).reshape(len(images), 4, -1)


def _stain_and_texture(images):
    """(B,D) measures of uint8 (B,3,h,w), in optical density, base 10.

    Glass, the colour of unstained tissue, stain vectors of nuclei, stroma and membrane, amounts of
    stain, texture by octave.
    """
    glass = torch.log10(255 / stain.white_point(images))  # (B,3)
    # halved: grain would colour what is pale
    halved = torch.nn.functional.avg_pool2d(images.float(), 2)
    raw = torch.log10(255 / halved.clamp(min=1))
    density = raw - glass[:, :, None, None]  # (B,3,h/2,w/2)
    unmix = torch.linalg.inv(stain.HDAB)[:, :2].float()  # (3,2)
    planes = torch.einsum("bchw,cs->bshw", density, unmix)
    blue, brown = planes.flatten(2).unbind(1)  # (B,h*w/4) each
    unstained = brown < 0.8 * blue + 0.05

    high = torch.quantile(blue, 0.85, dim=1, keepdim=True)
    low = torch.quantile(blue, 0.6, dim=1, keepdim=True)
    is_nucleus = unstained & (blue > high.clamp(min=0.06))
    is_stroma = unstained & (blue > 0.02) & (blue <= low)
    is_membrane = (brown > 0.1) & (brown > 1.2 * blue)
    nuclei, nuclei_density = _mean_colour(density, is_nucleus, stain.HDAB[0])
    stroma, stroma_density = _mean_colour(density, is_stroma, nuclei)
    membrane, _ = _mean_colour(density, is_membrane, stain.HDAB[1])

    columns = [
        glass.mean(1, keepdim=True),
        _tint(glass),
        _tint(_colour_line(raw.flatten(2), unstained)).flatten(1),  # (B,S,2) -> (B,S*2)
        nuclei,
        stroma,
        membrane,
        nuclei_density,
        stroma_density,
        _quantiles(blue, highest=0.97),
        _quantiles(brown, highest=0.99),
        _octaves(planes),
    ]
    return torch.cat(columns, 1).numpy()


def _quantiles(plane, *, highest):
    """(B,6) quantiles of a stain's density (B,n), the highest as told."""
    return torch.quantile(plane, torch.tensor((0.1, 0.25, 0.5, 0.75, 0.9, highest)), dim=1).T


def _tint(density):
    """(B,…,2) red and blue less green of optical density (B,…,3).

    A wrong guess of how dark the glass is leaves it alone.
    """
    return density[..., ::2] - density[..., 1:2]


def _colour_line(density, where):
    """(B,S,3) optical density at mean densities SHADES.

    Read off the line that best fits density (B,3,n) where (B,n) holds.
    """
    count = where.sum(1).clamp(min=1)
    mean = (density * where[:, None]).sum(2) / count[:, None]
    residual = (density - mean[:, :, None]) * where[:, None]
    # the axis of the largest eigenvalue
    axis = torch.linalg.eigh(residual @ residual.mT)[1][:, :, 2]
    slope = axis.mean(1, keepdim=True)
    # stain darkens all three channels; a line that does not is read as flat
    axis = axis * slope.sign() / slope.abs().clamp(min=0.05)
    return mean[:, None] + axis[:, None] * (SHADES[:, None] - mean.mean(1)[:, None, None])


def _mean_colour(density, where, otherwise):
    """((B,3) direction, (B,1) length) of the mean of density (B,3,h,w) where (B,h*w) holds.

    The direction is otherwise where too few pixels hold or they are too pale.
    """
    count = where.sum(1, keepdim=True)
    mean = (density.flatten(2) * where[:, None]).sum(2) / count.clamp(min=1)
    length = mean.norm(dim=1, keepdim=True)
    enough = (count > 50) & (length > 0.01)
    direction = torch.where(enough, mean / length.clamp(min=1e-4), otherwise.float())
    return direction, length


def _octaves(planes):
    """(B,2*octaves) log of the mean height of detail of 2, 4, 8 … px in planes (B,2,h,w).

    It tells nuclear size, chromatin and membranes.
    """
    heights = []
    for _ in range(min(OCTAVES, int(np.log2(min(planes.shape[-2:]))))):
        halved = torch.nn.functional.avg_pool2d(planes, 2)
        coarse = torch.nn.functional.interpolate(halved, size=planes.shape[-2:], mode="bilinear")
        heights.append((planes - coarse).abs().mean((2, 3)))
        planes = halved
    if not heights:
        return planes.new_zeros(len(planes), 0)
    return (torch.cat(heights, 1) + 1e-3).log()


# --- links: the same tissue, borders that continue ------------------------------------------------


def _same_tissue(images):
    """(L,2) pairs of patches that show the same tissue: thumbnails that correlate."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.float().mean(1), 32).flatten(1)
    small = (small - small.mean(1, keepdim=True)).numpy()  # (N,32*32)
    length = np.linalg.norm(small, axis=1)
    # fewer grey levels of structure than TWIN_SPREAD: glass
    structured = length >= TWIN_SPREAD * 32
    correlation = (small @ small.T) / np.maximum(np.outer(length, length), 1e-6)
    same = (correlation > TWIN) & structured[:, None] & structured
    return np.argwhere(np.triu(same, 1))


def _border_strips(images):
    """dict left, right, top, bottom: (N,3,L) standardised optical density along that border."""
    borders = {
        "left": images[..., :, 0],
        "right": images[..., :, -1],
        "top": images[..., 0, :],
        "bottom": images[..., -1, :],
    }
    strips = {}
    for name, pixels in borders.items():
        density = stain.optical_density(pixels[..., None].contiguous())  # (N,3,L,1)
        strips[name] = _standardised(density[..., 0].numpy())
    return strips


def _standardised(line):
    """(N,3,L) of (N,3,length): at most STRIP_PX long, band-passed, with mean 0 and length 1."""
    factor = math.ceil(line.shape[-1] / STRIP_PX)
    length = line.shape[-1] // factor * factor
    line = line[..., :length].reshape(*line.shape[:2], -1, factor).mean(-1)  # (N,3,L)
    fine = gaussian_filter1d(line, SMOOTH_PX, axis=-1, mode="nearest")
    line = fine - gaussian_filter1d(line, COARSE_PX, axis=-1, mode="nearest")
    line = line - line.mean((1, 2), keepdims=True)
    return line / np.maximum(np.linalg.norm(line, axis=(1, 2), keepdims=True), 1e-6)


def _continuing(strips, allowed=None, *, false):
    """(L,2) pairs of patches whose borders continue each other; of the pairs allowed (N,N), or all.

    About the fraction `false` of them is false, judged by borders that cannot touch.
    """
    # Six comparisons of which none is true: each border with its like, and the meeting ones with
    # one of the two turned round. Two comparisons hold the true ones.
    null_fits = [_mutual_best(strip, strip, allowed)[1] for strip in strips.values()]
    pairs = []
    fits = []
    for a, b in MEETING:
        null_fits.append(_mutual_best(strips[a], strips[b][..., ::-1], allowed)[1])
        border_pairs, border_fits = _mutual_best(strips[a], strips[b], allowed)
        pairs.append(border_pairs)
        fits.append(border_fits)
    null_fits = np.sort(np.concatenate(null_fits))
    pairs = np.concatenate(pairs)
    fits = np.concatenate(fits)

    order = np.argsort(-fits)
    # how many of the links up to each one are false, by the null comparisons
    n_false = (len(null_fits) - np.searchsorted(null_fits, fits[order])) / 3
    bearable = np.flatnonzero(n_false <= false * np.arange(1, len(fits) + 1))
    n_links = bearable.max(initial=-1) + 1
    return np.sort(pairs[order[:n_links]], axis=1).reshape(-1, 2)


def _mutual_best(one, other, allowed):
    """((L,2) pairs that fit each other best, (L,) fits in deviations of all their fits)."""
    fit = one.reshape(len(one), -1) @ other.reshape(len(other), -1).T  # (N,N)
    np.fill_diagonal(fit, 0)
    spread_of_rows = np.sqrt((fit**2).mean(1, keepdims=True))
    spread_of_columns = np.sqrt((fit**2).mean(0, keepdims=True))
    fit /= np.maximum(spread_of_rows, spread_of_columns) + 1e-9
    if allowed is not None:
        fit = np.where(allowed, fit, 0)
    rows = np.arange(len(fit))
    best = fit.argmax(1)
    mutual = (fit.argmax(0)[best] == rows) & (fit[rows, best] > 0)
    return np.stack([rows, best], 1)[mutual], fit[rows, best][mutual]


# --- slides as Gaussians, clusters ----------------------------------------------------------------


def _slide_axes(appearance):
    """((N,D) patches, (D,) variance between slides) in axes that part slides (Ioffe 2006).

    In these axes patches of one slide spread by 1.
    """
    mean = appearance.mean(1)
    deviations = (appearance - mean[:, None]).reshape(-1, appearance.shape[2])  # (N*4,D)
    # covariance of the mean of four quarters
    within = deviations.T @ deviations / (12 * len(appearance))
    within = 0.9 * within + 0.1 * np.diag(np.diag(within))
    ratio, axes = eigh(np.cov(mean.T), APART * within + 1e-3 * np.eye(len(within)))
    return (mean - mean.mean(0)) @ axes, np.maximum(ratio - 1, 0)


def _log_odds_joined(total, between, count=None):
    """(K,K) log odds that two clusters, sums (K,D) of count (K,) patches, share a slide.

    Slides and patches are Gaussian; no prior.
    """
    if count is None:
        count = np.ones(len(total))
    apart = _log_likelihood(total, count, between)
    rows = []
    for k in range(len(total)):
        joined = _log_likelihood(total + total[k], count + count[k], between)
        rows.append(joined - apart - apart[k])
    return np.stack(rows)


def _log_likelihood(total, count, between):
    """(K,) log likelihood of one slide per cluster.

    Less that of as many slides as patches with no variance between them.
    """
    spread = 1 + count[:, None] * between
    return 0.5 * (between * total**2 / spread - np.log(spread)).sum(1)


def _clustered(coordinates, between, links):
    """(N,) int, the cluster of each patch (N,D); linked patches (L,2) stay together.

    Pairs of clusters that are each other's best join while that is likelier than not.
    """
    n = len(coordinates)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    member = connected_components(graph, directed=False)[1]
    while True:
        count = np.bincount(member)
        total = np.zeros((len(count), coordinates.shape[1]))
        np.add.at(total, member, coordinates)
        gain = _log_odds_joined(total, between, count)
        np.fill_diagonal(gain, -1)
        rows = np.arange(len(count))
        best = gain.argmax(1)
        mutual = (best[best] == rows) & (gain[rows, best] > 0)
        if not mutual.any():
            return member
        joined = np.where(mutual, np.minimum(best, rows), rows)
        member = np.unique(joined[member], return_inverse=True)[1]


def _group_names(members):
    """(N,) str of (N,) int: "group 1" is the cluster of the first patch, and so on."""
    numbers = {}
    for member in members.tolist():
        if member not in numbers:
            numbers[member] = len(numbers) + 1
    return np.array([f"group {numbers[member]}" for member in members.tolist()], object)
