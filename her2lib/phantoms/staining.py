"""Stain on anatomy: the optical density of every dye in one window of tissue, and masks of what was painted."""

from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from her2lib.phantoms import tissue

DYES = ("haematoxylin", "dab", "eosin", "grey", "ink", "pigment")


class Canvas:
    """Densities, masks and owners of the pixels of one window while they are painted, with the anatomy read at every pixel."""

    def __init__(self, plan, ground, side_px):
        self.plan, self.ground, self.shape = plan, ground, (side_px, side_px)
        self.mpp = ground.window.side_um / side_px
        at = (np.arange(side_px, dtype=np.float64) + 0.5) * self.mpp
        self.x, self.y = ground.window.x_um + at, ground.window.y_um + at
        self.dye = {name: np.zeros(self.shape, np.float32) for name in DYES}
        self.defocus = None
        self.owner = np.full(self.shape, -1, np.int32)  # the epithelial cell of a pixel
        self.fine, self.grain = self.noise(51, 1.2), self.noise(52, 2.6)
        self.ragged = self.noise(53, 7.0)
        ragged = self.ragged + 0.6 * self.grain
        self.depth = ground.up(ground.depth, self.shape) + 0.8 * ragged
        self.height = ground.up(ground.height, self.shape, order=Image.BILINEAR)
        self.rim = (
            -ground.up(ground.glass, self.shape) - 1.5 * ragged
        )  # micrometres to the edge of the tissue
        self.vessel = ground.up(ground.vessel, self.shape) + 0.5 * ragged
        self.fat = (ground.up(ground.fat, self.shape) > 0) & (self.rim > 0)
        self.epithelium = (self.depth > 0) & (self.depth < self.height) & (self.rim > 0)
        self.lumen = (self.depth >= self.height) & (self.rim > 0)
        self.stroma = (self.depth <= 0) & (self.rim > 0)
        self.masks = {
            name: np.zeros(self.shape, bool)
            for name in ("tumour", "membrane", "nucleus", "artefact")
        }
        self.masks["stroma"] = self.stroma

    def noise(self, tag, wavelength_um):
        """(H,W) float32 smooth noise of unit spread, continuous over the slide."""
        return tissue.noise(self.plan.seed, tag, self.x, self.y, wavelength_um)


def paint(plan, ground, cells, truth, *, side_px):
    """Canvas of one window; truth holds intensity, completeness and cytoplasm (n,) of every cell."""
    canvas = Canvas(plan, ground, side_px)
    _stroma(canvas)
    _loose_cells(canvas, cells)
    _epithelium(canvas, cells, truth)
    _lumen(canvas)
    return canvas


def _stroma(canvas):
    plan, h, e = canvas.plan, canvas.dye["haematoxylin"], canvas.dye["eosin"]
    fibre = _fibres(canvas)
    loose = np.clip(0.5 + 0.35 * canvas.noise(63, 130.0) + plan.loose, 0, 1)
    strands = np.exp(-((fibre / 0.45) ** 2)) * np.maximum(0.9 + 0.5 * canvas.grain, 0.1)
    dense = 0.75 + 0.3 * fibre + 0.22 * canvas.grain + 0.2 * canvas.fine
    matrix = dense + (strands + 0.15 * canvas.fine - dense) * loose
    lacuna = np.clip(canvas.noise(64, 9.0) + 0.5 * canvas.grain - 1.5 + 0.9 * loose, 0, 0.5) * 2
    matrix *= (1 - 0.85 * lacuna) * (1 + 0.25 * canvas.noise(65, 22.0))
    matrix += 0.9 * np.exp(-np.abs(canvas.vessel + 2) / 1.3)
    np.clip(matrix, 0.02, 2.5, out=matrix)
    gap = (canvas.depth > -3.5) & (
        canvas.noise(66, 24.0) > 0.7 - plan.shrink
    )  # cells shrink away from the stroma
    matrix[gap | (canvas.vessel > 0)] *= 0.12
    matrix[canvas.fat] = 0
    h += canvas.stroma * (plan.background * matrix)
    e += canvas.stroma * (0.3 * matrix)


def _fibres(canvas):
    """(H,W) texture that runs along a slow wave and around epithelium, about unit spread."""
    v = canvas.ground.up(canvas.ground.fibre, canvas.shape)
    turn = 2 * np.pi * canvas.plan.grain
    u = (canvas.y * np.cos(turn))[:, None] - (canvas.x * np.sin(turn))[None]
    v = v + 1.3 * canvas.ragged + 2.2 * canvas.noise(62, 16.0)
    tile = _tile()
    rows, columns = (v * (1 / 0.4)).astype(np.int32) & 1023, (u * (1 / 1.8)).astype(np.int32) & 1023
    return tile.ravel()[rows * 1024 + columns]


@cache
def _tile():
    raw = np.random.default_rng(0).standard_normal((1024, 1024))
    raw = sum(
        ndimage.gaussian_filter(raw, (s, 1.5 * s), mode="wrap") * s**0.45 for s in (0.9, 1.8, 3.6)
    )
    return (raw / raw.std()).astype(np.float32)


def _loose_cells(canvas, cells):
    """Spindle cells, lymphocytes, plasma cells, red cells, fat: one outline each, painted on everything but epithelium."""
    group = np.flatnonzero(cells.kind >= tissue.STROMA)
    pixels = np.flatnonzero((canvas.depth <= 1) & (canvas.rim > 0))
    if len(group) < 3 or not len(pixels):
        return
    near = _nearest(canvas, cells, group, pixels, 2)
    long, short, turn, tone, red = _outlines(canvas.plan, cells)
    origin = canvas.ground.window
    px = (canvas.x - origin.x_um).astype(np.float32)[pixels % canvas.shape[1]]
    py = (canvas.y - origin.y_um).astype(np.float32)[pixels // canvas.shape[1]]
    cx, cy = (cells.x - origin.x_um).astype(np.float32), (cells.y - origin.y_um).astype(np.float32)
    ax, ay = (np.cos(turn) / long).astype(np.float32), (np.sin(turn) / long).astype(np.float32)
    bx, by = (np.cos(turn) / short).astype(np.float32), (np.sin(turn) / short).astype(np.float32)
    ragged = 0.14 * canvas.grain.ravel()[pixels]
    h, g, e = (canvas.dye[name].ravel() for name in ("haematoxylin", "grey", "eosin"))
    for n in near[::-1]:
        dx, dy = px - cx[n], py - cy[n]
        inside = 1 - np.sqrt((dx * ax[n] + dy * ay[n]) ** 2 + (dy * bx[n] - dx * by[n]) ** 2)
        inside += ragged
        halo = pixels[(inside < 0) & (inside > -0.3)]  # cells shrink and leave a pale ring
        h[halo] *= 0.45
        hit = np.flatnonzero(inside > 0)
        n, at, inside = n[hit], pixels[hit], inside[hit]
        round_ = red[n]
        white = ~round_
        h[at[white]] = tone[n[white]] * (
            0.85 + 0.3 * canvas.fine.ravel()[at[white]] + 0.12 * (inside[white] < 0.3)
        )
        g[at[round_]] = 0.015 + 0.3 * np.exp(-(((inside[round_] - 0.14) / 0.12) ** 2))
        e[at[round_]] = 0.5
        canvas.masks["nucleus"].ravel()[at[white]] = True
    _fat_walls(canvas, cells, near, pixels, px, py, cx, cy)


def _outlines(plan, cells):
    """Half axes in micrometres, turn, haematoxylin and redness of every loose cell."""
    r, kind = cells.random, cells.kind
    lymph = (kind == tissue.STROMA) & (r[:, 1] < 0.12 + 0.55 * cells.crowd)
    red = kind == tissue.VESSEL
    plump = r[:, 2] ** 2
    long = np.select([red, lymph], [2.9 + 0.5 * r[:, 2], 2.3 + 1.1 * r[:, 2]], 3.2 + 5.0 * plump)
    short = np.select(
        [red, lymph],
        [2.1 + 0.8 * r[:, 3], 2.1 + 0.8 * r[:, 3]],
        1.0 + 1.6 * r[:, 3] * (1 - 0.5 * plump),
    )
    bare = (
        (kind == tissue.FAT)
        | (kind == tissue.LUMEN) & (r[:, 4] > 0.3)
        | (kind == tissue.VESSEL) & (r[:, 4] > plan.blood)
    )
    long[bare] = short[bare] = 0.01
    along = np.arctan2(
        cells.slope[:, 0], -cells.slope[:, 1]
    )  # fibres run across the slope of their coordinate
    turn = np.where(red | lymph, 2 * np.pi * r[:, 0], along + 1.1 * (r[:, 0] - 0.5))
    tone = plan.haematoxylin * np.where(lymph, 0.75 + 0.6 * r[:, 5], 0.3 + 0.8 * r[:, 5])
    return long, short, turn, tone.astype(np.float32), red


def _fat_walls(canvas, cells, near, pixels, px, py, cx, cy):
    fat = canvas.fat.ravel()[pixels]
    if not fat.any() or len(near) < 2:
        return
    one, two, px, py = near[0][fat], near[1][fat], px[fat], py[fat]
    square = [(px - cx[n]) ** 2 + (py - cy[n]) ** 2 for n in (one, two)]
    apart = np.hypot(cx[one] - cx[two], cy[one] - cy[two]) + 1e-3
    wall = np.exp(
        -np.abs((square[1] - square[0]) / (2 * apart) + canvas.grain.ravel()[pixels[fat]]) / 0.9
    )
    wall[cells.kind[two] != tissue.FAT] = 0
    canvas.dye["haematoxylin"].ravel()[pixels[fat]] += 0.09 * wall
    canvas.dye["eosin"].ravel()[pixels[fat]] += 0.3 * wall


def _nearest(canvas, cells, group, pixels, count):
    """(count,n) indices of the cells nearest to each of n pixels, sought on the coarse grid."""
    ground, wide = canvas.ground, len(canvas.ground.x)
    row, column = ground.nearest(canvas.x, canvas.y)
    flat = (row[:, None] * wide + column[None]).ravel()[pixels]
    wanted = np.zeros(ground.depth.size, bool)
    wanted[flat] = True
    wanted = np.flatnonzero(wanted)
    slot = np.zeros(ground.depth.size, np.int32)
    slot[wanted] = np.arange(len(wanted))
    points = np.stack([ground.x[wanted % wide], ground.y[wanted // wide]], 1)
    columnar = ground.columnar.ravel()[wanted] * (cells.kind[group[0]] < tissue.STROMA)
    spot = tissue.embed(
        points, ground.depth.ravel()[wanted], ground.slope.reshape(2, -1)[:, wanted].T, columnar
    )
    found = (
        cKDTree(cells.place[group])
        .query(spot, k=min(count, len(group)))[1]
        .reshape(len(wanted), -1)
    )
    return [group[f].astype(np.int32)[slot[flat]] for f in found.T]


def _epithelium(canvas, cells, truth):
    group = np.flatnonzero(cells.kind < tissue.STROMA)
    pixels = np.flatnonzero(canvas.epithelium)
    if len(group) < 3 or not len(pixels):
        return
    near = _nearest(canvas, cells, group, pixels, 3)
    spot, slope, columnar = _spot(canvas, pixels)
    own, other, edge, offset = _voronoi(canvas, cells, near, spot, slope, columnar)
    depth, up = canvas.depth.ravel()[pixels], (canvas.height - canvas.depth).ravel()[pixels]
    edge, facing = np.minimum(edge, np.minimum(depth, up)), np.minimum(depth, up) < edge
    kind = cells.kind[own]
    nucleus = _nucleus(canvas, cells, own, offset, edge, pixels, spot[2])
    fine = canvas.fine.ravel()[pixels]
    body = _body(canvas, cells, own, depth) * (1 + 0.3 * fine + 0.25 * canvas.grain.ravel()[pixels])
    canvas.dye["haematoxylin"].ravel()[pixels] = np.where(
        nucleus > 0, nucleus, np.maximum(body, 0.004)
    )
    canvas.dye["eosin"].ravel()[pixels] = np.where(nucleus > 0, 0.1, 0.2 + 0.05 * fine)
    granular = np.maximum(0.8 + 0.3 * fine + 0.4 * canvas.grain.ravel()[pixels], 0)
    inner = truth["cytoplasm"][own] * granular * np.where(nucleus > 0, 0.3, 1)
    stain = _membrane(canvas, cells, truth, own, other, edge, facing, spot, pixels)
    canvas.dye["dab"].ravel()[pixels] += stain + inner
    canvas.owner.ravel()[pixels] = own
    canvas.masks["nucleus"].ravel()[pixels] = nucleus > 0
    canvas.masks["tumour"].ravel()[pixels] = kind == tissue.TUMOUR
    canvas.masks["membrane"].ravel()[pixels] = (edge < max(1.0, 0.75 * canvas.mpp)) & (
        kind == tissue.TUMOUR
    )


def _body(canvas, cells, own, depth):
    """(n,) haematoxylin of cytoplasm; in normal glands paler above, where mucin lies."""
    plan, normal = canvas.plan, cells.kind[own] == tissue.NORMAL
    plain = np.where(normal, max(plan.body, 0.16 * plan.haematoxylin), plan.body)
    return (
        plain
        * (0.75 + 0.5 * cells.random[:, 6])[own]
        * np.where(normal, np.clip(2.0 - depth / 11, 0.6, 1.8), 1)
    )


def _spot(canvas, pixels):
    """Places [3 x (n,)], slopes [2 x (n,)], columnarity (n,) of pixels, a little warped: no membrane is a ruled line."""
    ground = canvas.ground
    slope = [ground.up(s, canvas.shape, order=Image.BILINEAR).ravel()[pixels] for s in ground.slope]
    columnar = ground.up(ground.columnar, canvas.shape, order=Image.BILINEAR).ravel()[pixels]
    wx, wy = (
        (1.5 * canvas.noise(t, 11.0) + 0.45 * canvas.noise(t + 2, 3.5)).ravel()[pixels]
        for t in (54, 55)
    )
    x = (canvas.x - ground.window.x_um).astype(np.float32)[pixels % canvas.shape[1]] + wx
    y = (canvas.y - ground.window.y_um).astype(np.float32)[pixels // canvas.shape[1]] + wy
    depth = canvas.depth.ravel()[pixels]
    foot = tissue.FOOT * columnar * depth
    return (
        [
            x - foot * slope[0],
            y - foot * slope[1],
            (1 - tissue.SHORT * columnar) * columnar * depth,
        ],
        slope,
        columnar,
    )


def _voronoi(canvas, cells, near, spot, slope, columnar):
    """Own and other cell, distance to their border in micrometres and offset [3 x (n,)] from the own nucleus."""
    window = canvas.ground.window
    seeds = np.ascontiguousarray((cells.place - (window.x_um, window.y_um, 0)).T, np.float32)
    offsets = [[s - seed[n] for s, seed in zip(spot, seeds, strict=True)] for n in near]
    squares = [o[0] ** 2 + o[1] ** 2 + o[2] ** 2 for o in offsets]
    for k in (1, 2, 1):  # sort the three candidates by distance, the nearest first
        swap = np.flatnonzero(squares[k] < squares[k - 1])
        for pair in (near, squares, *zip(*offsets, strict=True)):
            a, b = pair[k - 1], pair[k]
            a[swap], b[swap] = b[swap], a[swap]
    edge, other = [], near[1]
    for k in (1, 2):
        ax, ay, az = (
            o - p for o, p in zip(offsets[0], offsets[k], strict=True)
        )  # from the own nucleus to the rival's
        along = ax * slope[0] + ay * slope[1]
        upward = (
            along * (1 - tissue.FOOT * columnar) + az * (1 - tissue.SHORT * columnar) * columnar
        )
        stretch = np.sqrt(np.maximum(ax**2 + ay**2 - along**2, 0) + upward**2) + np.float32(0.01)
        edge.append((squares[k] - squares[0]) / (2 * stretch))
    return near[0], np.where(edge[1] < edge[0], near[2], other), np.minimum(*edge), offsets[0]


def _nucleus(canvas, cells, own, offset, edge, pixels, spot_z):
    """(n,) haematoxylin of nuclei, 0 outside: darker rim, pale chromatin, nucleoli."""
    plan, r = canvas.plan, cells.random
    normal = cells.kind == tissue.NORMAL
    basal = normal[own]
    offset[2] = np.where(
        basal, spot_z - 2.2, offset[2]
    )  # nuclei of normal glands lie in a row near the basal side
    size = plan.nucleus_um * np.where(normal, 0.8, 0.8 + plan.pleomorphic * r[:, 1] ** 2)
    size[r[:, 5] < 0.05] = 0.01  # cut above or below the nucleus
    long = 1 + 0.4 * r[:, 2]
    cos, sin = np.cos(2 * np.pi * r[:, 0]) / size, np.sin(2 * np.pi * r[:, 0]) / size
    axes = (cos / long, sin / long, cos * long, sin * long, 0.95 / size)
    a, b, c, d, z = (axis.astype(np.float32)[own] for axis in axes)
    x, y, z = offset[0] * a + offset[1] * b, offset[1] * c - offset[0] * d, offset[2] * z
    inside = 1 + 0.07 * canvas.grain.ravel()[pixels] - np.sqrt(x**2 + y**2 + z**2)
    inside = np.minimum(inside, (edge - 0.35) * np.float32(1 / plan.nucleus_um))
    fine = canvas.fine.ravel()[pixels]
    tone = plan.haematoxylin * (
        0.75 + 0.65 * r[:, 3] ** 1.5 + 0.9 * (r[:, 6] > 0.97)
    )  # a few pyknotic
    rim, nucleolus = np.exp(-(((inside - 0.08) * 11) ** 2)), (fine > 1.75) & (inside > 0.3)
    chromatin = 0.62 + plan.chromatin * fine + 0.45 * rim + 0.7 * nucleolus
    return np.where(
        inside > 0, tone.astype(np.float32)[own] * np.maximum(chromatin, 0.2), 0
    ).astype(np.float32)


def _membrane(canvas, cells, truth, own, other, edge, facing, spot, pixels):
    """(n,) DAB density: each of two membranes that meet carries the stain of its own cell, where that cell is stained."""
    stain = np.zeros(len(own), np.float32)
    shade = np.maximum(truth["intensity"][own], truth["intensity"][other])
    width = 0.3 + 0.2 * np.minimum(shade, 1.3) + 0.12 * canvas.mpp
    close = np.flatnonzero((edge < 5) & (shade > 0))
    window = canvas.ground.window
    for cell in (own[close], other[close]):
        dx = spot[0][close] - (cells.place[:, 0] - window.x_um).astype(np.float32)[cell]
        dy = spot[1][close] - (cells.place[:, 1] - window.y_um).astype(np.float32)[cell]
        turn = np.arctan2(dy, dx) * np.float32(1 / (2 * np.pi)) + 1
        phase = (
            (turn + cells.random[:, 0][cell])
            * (1 + np.floor(3 * cells.random[:, 4])).astype(np.float32)[cell]
        ) % 1
        complete = truth["completeness"][cell]
        stained = np.where(complete > 0.97, 1, np.clip((complete - phase) * 10 + 0.5, 0, 1))
        stain[close] += 0.5 * truth["intensity"][cell] * stained
    patchy = canvas.grain.ravel()[pixels[close]] + canvas.ragged.ravel()[pixels[close]]
    stain[close] *= np.where(facing[close], 0.65, 1) * np.clip(0.95 + 0.24 * patchy, 0.35, 1.6)
    line = np.exp(-0.5 * (edge[close] / width[close]) ** 2)
    stain[close] *= 0.85 * line + 0.24 * np.exp(
        -edge[close] / 1.7
    )  # membranes that lie askew in the section blur inwards
    return stain


def _lumen(canvas):
    """Secretion in some lumens: crumbs and strands; debris of dead cells where there is necrosis."""
    foam = canvas.lumen & (canvas.noise(67, 80.0) > 0.6) & (canvas.grain + 0.7 * canvas.fine > 1.1)
    canvas.dye["haematoxylin"][foam] += 0.5 * canvas.plan.background
    canvas.dye["eosin"][foam] += 0.12
