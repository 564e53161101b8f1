"""Stain on anatomy: the optical density of every dye in one window, and masks of what was painted.

Arrays of n pixels belong to flat pixel numbers of the picture: index.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from her2lib.phantoms import tissue

DYES = ("haematoxylin", "dab", "eosin", "grey", "ink", "pigment")
MASKS = ("tumour", "membrane", "nucleus", "artefact")  # painted; stroma follows from the anatomy


class StainCanvas:
    """Densities, masks and owners of a window's pixels while they are painted, and its anatomy."""

    def __init__(self, plan, ground, side_px):
        self.plan = plan
        self.ground = ground
        self.shape = (side_px, side_px)
        self.mpp = ground.window.side_um / side_px
        centres = (np.arange(side_px, dtype=np.float64) + 0.5) * self.mpp
        self.x = ground.window.x_um + centres
        self.y = ground.window.y_um + centres
        self.dye = {name: np.zeros(self.shape, np.float32) for name in DYES}
        self.defocus = None
        self.owner = np.full(self.shape, -1, np.int32)  # the epithelial cell of a pixel
        self.fine = self.noise(51, 1.2)
        self.grain = self.noise(52, 2.6)
        self.ragged = self.noise(53, 7.0)
        self._read_anatomy()
        self.masks = {name: np.zeros(self.shape, bool) for name in MASKS}
        self.masks["stroma"] = self.stroma

    def _read_anatomy(self):
        """The coarse maps at every pixel, with ragged borders."""
        ground = self.ground
        ragged = self.ragged + 0.6 * self.grain
        self.depth = ground.upsample(ground.depth, self.shape) + 0.8 * ragged
        self.height = ground.upsample(ground.height, self.shape, order=Image.BILINEAR)
        # micrometres to the edge of the tissue
        self.rim = -ground.upsample(ground.glass, self.shape) - 1.5 * ragged
        self.vessel = ground.upsample(ground.vessel, self.shape) + 0.5 * ragged
        self.fat = (ground.upsample(ground.fat, self.shape) > 0) & (self.rim > 0)
        self.epithelium = (self.depth > 0) & (self.depth < self.height) & (self.rim > 0)
        self.lumen = (self.depth >= self.height) & (self.rim > 0)
        self.stroma = (self.depth <= 0) & (self.rim > 0)

    def noise(self, tag, wavelength_um):
        """(H,W) float32 smooth noise of unit spread, continuous over the slide."""
        return tissue.noise(self.plan.seed, tag, self.x, self.y, wavelength_um)

    def from_corner(self, index):
        """(n,) x and (n,) y float32, micrometres of pixels from the corner of the window."""
        window = self.ground.window
        x = (self.x - window.x_um).astype(np.float32)[index % self.shape[1]]
        y = (self.y - window.y_um).astype(np.float32)[index // self.shape[1]]
        return x, y


def paint(plan, ground, cells, stain, *, side_px):
    """StainCanvas of one window; stain: {intensity, completeness, cytoplasm: (n,) of all cells}."""
    canvas = StainCanvas(plan, ground, side_px)
    _paint_stroma(canvas)
    _paint_loose_cells(canvas, cells)
    _paint_epithelium(canvas, cells, stain)
    _paint_secretion(canvas)
    return canvas


# --- stroma --------------------------------------------------------------------------------------


def _paint_stroma(canvas):
    """Fibres from dense to loose, lacunae, vessel walls, and clefts around nests."""
    plan = canvas.plan
    fibre = _fibres(canvas)
    loose = np.clip(0.5 + 0.35 * canvas.noise(63, 130.0) + plan.loose, 0, 1)
    strands = np.exp(-((fibre / 0.45) ** 2)) * np.maximum(0.9 + 0.5 * canvas.grain, 0.1)
    dense = 0.75 + 0.3 * fibre + 0.22 * canvas.grain + 0.2 * canvas.fine
    matrix = dense + (strands + 0.15 * canvas.fine - dense) * loose
    lacuna = canvas.noise(64, 9.0) + 0.5 * canvas.grain - 1.5 + 0.9 * loose
    lacuna = np.clip(lacuna, 0, 0.5) * 2
    matrix *= (1 - 0.85 * lacuna) * (1 + 0.25 * canvas.noise(65, 22.0))
    matrix += 0.9 * np.exp(-np.abs(canvas.vessel + 2) / 1.3)
    np.clip(matrix, 0.02, 2.5, out=matrix)
    # cells shrink away from the stroma
    cleft = (canvas.depth > -3.5) & (canvas.noise(66, 24.0) > 0.7 - plan.shrink)
    matrix[cleft | (canvas.vessel > 0)] *= 0.12
    matrix[canvas.fat] = 0
    canvas.dye["haematoxylin"] += canvas.stroma * (plan.background * matrix)
    canvas.dye["eosin"] += canvas.stroma * (0.3 * matrix)


def _fibres(canvas):
    """(H,W) texture that runs along a slow wave and around epithelium, about unit spread."""
    turn = 2 * np.pi * canvas.plan.grain
    along = (canvas.y * np.cos(turn))[:, None] - (canvas.x * np.sin(turn))[None]
    across = canvas.ground.upsample(canvas.ground.fibre, canvas.shape)
    across = across + 1.3 * canvas.ragged + 2.2 * canvas.noise(62, 16.0)
    # the texture repeats after 1024 steps of 0.4 micrometres across and 1.8 along
    rows = (across * (1 / 0.4)).astype(np.int32) & 1023
    columns = (along * (1 / 1.8)).astype(np.int32) & 1023
    return _fibre_texture().ravel()[rows * 1024 + columns]


@cache
def _fibre_texture():
    """(1024,1024) float32 noise of three wavelengths, unit spread, drawn out along its rows."""
    raw = np.random.default_rng(0).standard_normal((1024, 1024))
    raw = sum(
        ndimage.gaussian_filter(raw, (sigma, 1.5 * sigma), mode="wrap") * sigma**0.45
        for sigma in (0.9, 1.8, 3.6)
    )
    return (raw / raw.std()).astype(np.float32)


# --- cells outside epithelium --------------------------------------------------------------------


@dataclass(frozen=True)
class Outlines:
    """Ovals of loose cells, one value each: unit axes divided by their half lengths, and colour."""

    along_x: np.ndarray
    along_y: np.ndarray
    across_x: np.ndarray
    across_y: np.ndarray
    tone: np.ndarray  # optical density of haematoxylin
    red: np.ndarray  # bool: a red cell, without nucleus


def _paint_loose_cells(canvas, cells):
    """Spindle cells, lymphocytes, plasma cells, red cells, fat: one outline each.

    They are painted on everything but epithelium.
    """
    group = np.flatnonzero(cells.kind >= tissue.STROMA)
    index = np.flatnonzero((canvas.depth <= 1) & (canvas.rim > 0))
    if len(group) < 3 or not len(index):
        return
    nearest = _nearest_cells(canvas, cells, group, index, 2)
    outlines = _outlines(canvas.plan, cells)
    x, y = canvas.from_corner(index)
    window = canvas.ground.window
    centre_x = (cells.x - window.x_um).astype(np.float32)
    centre_y = (cells.y - window.y_um).astype(np.float32)
    # the nearest cell last: it lies over the second nearest
    for cell in nearest[::-1]:
        _paint_outlines(canvas, outlines, cell, index, x - centre_x[cell], y - centre_y[cell])
    _paint_fat_walls(canvas, cells, nearest, index, (x, y), (centre_x, centre_y))


def _outlines(plan, cells):
    """Outlines of all cells; those without one (fat, most of lumen and vessels) are specks."""
    r = cells.random
    kind = cells.kind
    lymph = (kind == tissue.STROMA) & (r[:, 1] < 0.12 + 0.55 * cells.crowd)
    red = kind == tissue.VESSEL
    plump = r[:, 2] ** 2
    long = np.select([red, lymph], [2.9 + 0.5 * r[:, 2], 2.3 + 1.1 * r[:, 2]], 3.2 + 5.0 * plump)
    round_short = 2.1 + 0.8 * r[:, 3]
    spindle_short = 1.0 + 1.6 * r[:, 3] * (1 - 0.5 * plump)
    short = np.where(red | lymph, round_short, spindle_short)
    empty = (kind == tissue.FAT) | (kind == tissue.LUMEN) & (r[:, 4] > 0.3)
    empty = empty | (kind == tissue.VESSEL) & (r[:, 4] > plan.blood)
    long[empty] = 0.01
    short[empty] = 0.01
    # fibres run across the slope of their coordinate
    along = np.arctan2(cells.slope[:, 0], -cells.slope[:, 1])
    turn = np.where(red | lymph, 2 * np.pi * r[:, 0], along + 1.1 * (r[:, 0] - 0.5))
    tone = plan.haematoxylin * np.where(lymph, 0.75 + 0.6 * r[:, 5], 0.3 + 0.8 * r[:, 5])
    return Outlines(
        along_x=(np.cos(turn) / long).astype(np.float32),
        along_y=(np.sin(turn) / long).astype(np.float32),
        across_x=(np.cos(turn) / short).astype(np.float32),
        across_y=(np.sin(turn) / short).astype(np.float32),
        tone=tone.astype(np.float32),
        red=red,
    )


def _paint_outlines(canvas, outlines, cell, index, dx, dy):
    """Paints, at pixels dx and dy micrometres from the centre of their cell, what lies inside."""
    along = dx * outlines.along_x[cell] + dy * outlines.along_y[cell]
    across = dy * outlines.across_x[cell] - dx * outlines.across_y[cell]
    inside = 1 - np.sqrt(along**2 + across**2)
    inside += 0.14 * canvas.grain.ravel()[index]

    # cells shrink and leave a pale ring
    haematoxylin = canvas.dye["haematoxylin"].ravel()
    haematoxylin[index[(inside < 0) & (inside > -0.3)]] *= 0.45

    hit = np.flatnonzero(inside > 0)
    cell = cell[hit]
    index = index[hit]
    inside = inside[hit]
    red = outlines.red[cell]
    nucleus = index[~red]
    mottled = 0.85 + 0.3 * canvas.fine.ravel()[nucleus] + 0.12 * (inside[~red] < 0.3)
    haematoxylin[nucleus] = outlines.tone[cell[~red]] * mottled
    canvas.masks["nucleus"].ravel()[nucleus] = True
    rim = np.exp(-(((inside[red] - 0.14) / 0.12) ** 2))
    canvas.dye["grey"].ravel()[index[red]] = 0.015 + 0.3 * rim
    canvas.dye["eosin"].ravel()[index[red]] = 0.5


def _paint_fat_walls(canvas, cells, nearest, index, position, centre):
    """Thin walls halfway between two neighbouring fat cells."""
    fat = canvas.fat.ravel()[index]
    if not fat.any() or len(nearest) < 2:
        return
    x, y = (axis[fat] for axis in position)
    centre_x, centre_y = centre
    one = nearest[0][fat]
    two = nearest[1][fat]
    index = index[fat]
    to_one = (x - centre_x[one]) ** 2 + (y - centre_y[one]) ** 2
    to_two = (x - centre_x[two]) ** 2 + (y - centre_y[two]) ** 2
    apart = np.hypot(centre_x[one] - centre_x[two], centre_y[one] - centre_y[two]) + 1e-3
    off_wall = np.abs((to_two - to_one) / (2 * apart) + canvas.grain.ravel()[index])
    wall = np.exp(-off_wall / 0.9)
    wall[cells.kind[two] != tissue.FAT] = 0
    canvas.dye["haematoxylin"].ravel()[index] += 0.09 * wall
    canvas.dye["eosin"].ravel()[index] += 0.3 * wall


# --- which cell a pixel belongs to ---------------------------------------------------------------


@dataclass(frozen=True)
class Spots:
    """n pixels in the space in which every cell is a Voronoi cell (tissue.embed)."""

    x: np.ndarray  # (n,) micrometres from the corner of the window
    y: np.ndarray
    z: np.ndarray  # shortened depth
    slope_x: np.ndarray  # of the depth
    slope_y: np.ndarray
    columnar: np.ndarray


@dataclass(frozen=True)
class Borders:
    """Where n pixels of epithelium lie in their cells."""

    cell: np.ndarray  # (n,) the cell that a pixel belongs to
    rival: np.ndarray  # (n,) the cell across the nearest border
    edge_um: np.ndarray  # (n,) to the nearest border
    free: np.ndarray  # (n,) bool: that border faces stroma or lumen, not a neighbour
    offset: tuple  # three (n,), from the nucleus of the cell


def _nearest_cells(canvas, cells, group, index, count):
    """[count x (n,)] int32 cells of a group nearest to n pixels, sought on the coarse grid."""
    ground = canvas.ground
    wide = len(ground.x)
    rows, columns = ground.nearest(canvas.x, canvas.y)
    grid = (rows[:, None] * wide + columns[None]).ravel()[index]
    # each grid point is asked once, however many pixels lie near it
    wanted = np.zeros(ground.depth.size, bool)
    wanted[grid] = True
    wanted = np.flatnonzero(wanted)
    slot = np.zeros(ground.depth.size, np.int32)
    slot[wanted] = np.arange(len(wanted))
    points = np.stack([ground.x[wanted % wide], ground.y[wanted // wide]], 1)
    slope = ground.slope.reshape(2, -1)[:, wanted].T  # (2,h,w) -> (n,2)
    columnar = ground.columnar.ravel()[wanted] * (cells.kind[group[0]] < tissue.STROMA)
    spots = tissue.embed(points, ground.depth.ravel()[wanted], slope, columnar)
    tree = cKDTree(cells.embedding[group])
    nearest = tree.query(spots, k=min(count, len(group)))[1].reshape(len(wanted), -1)
    return [group[rank].astype(np.int32)[slot[grid]] for rank in nearest.T]


def _spots(canvas, index):
    """Spots of pixels, a little warped: no membrane is a ruled line."""
    ground = canvas.ground
    depth = canvas.depth.ravel()[index]
    slope_x = ground.upsample(ground.slope[0], canvas.shape, order=Image.BILINEAR).ravel()[index]
    slope_y = ground.upsample(ground.slope[1], canvas.shape, order=Image.BILINEAR).ravel()[index]
    columnar = ground.upsample(ground.columnar, canvas.shape, order=Image.BILINEAR).ravel()[index]
    x, y = canvas.from_corner(index)
    x = x + (1.5 * canvas.noise(54, 11.0) + 0.45 * canvas.noise(56, 3.5)).ravel()[index]
    y = y + (1.5 * canvas.noise(55, 11.0) + 0.45 * canvas.noise(57, 3.5)).ravel()[index]
    foot = tissue.FOOT * columnar * depth
    return Spots(
        x=x - foot * slope_x,
        y=y - foot * slope_y,
        z=(1 - tissue.SHORT * columnar) * columnar * depth,
        slope_x=slope_x,
        slope_y=slope_y,
        columnar=columnar,
    )


def _borders(canvas, cells, nearest, spots, index):
    """Borders of n pixels, from the three cells nearest to each."""
    window = canvas.ground.window
    corner = (window.x_um, window.y_um, 0)
    nuclei = np.ascontiguousarray((cells.embedding - corner).T, np.float32)  # (3,cells)
    offsets = []
    for cell in nearest:
        offsets.append(
            (spots.x - nuclei[0][cell], spots.y - nuclei[1][cell], spots.z - nuclei[2][cell])
        )
    squares = [x**2 + y**2 + z**2 for x, y, z in offsets]
    _sort_by_distance(nearest, squares, offsets)
    first_um = _border_um(spots, squares, offsets, 1)
    second_um = _border_um(spots, squares, offsets, 2)
    edge_um = np.minimum(first_um, second_um)
    # the basal side and the lumen bound a cell, too
    depth = canvas.depth.ravel()[index]
    below_lumen = (canvas.height - canvas.depth).ravel()[index]
    free_um = np.minimum(depth, below_lumen)
    return Borders(
        cell=nearest[0],
        rival=np.where(second_um < first_um, nearest[2], nearest[1]),
        edge_um=np.minimum(edge_um, free_um),
        free=free_um < edge_um,
        offset=offsets[0],
    )


def _sort_by_distance(nearest, squares, offsets):
    """Sorts, in place, the three candidates of every pixel by distance, the nearest first."""
    lists = (nearest, squares, *zip(*offsets, strict=True))
    for k in (1, 2, 1):
        swap = np.flatnonzero(squares[k] < squares[k - 1])
        for candidates in lists:
            farther = candidates[k - 1][swap]
            candidates[k - 1][swap] = candidates[k][swap]
            candidates[k][swap] = farther


def _border_um(spots, squares, offsets, k):
    """(n,) micrometres from a pixel to the border between its cell and candidate k."""
    # from the nucleus of the cell to the rival's
    ax, ay, az = (zero - other for zero, other in zip(offsets[0], offsets[k], strict=True))
    along = ax * spots.slope_x + ay * spots.slope_y
    columnar = spots.columnar
    upward = along * (1 - tissue.FOOT * columnar) + az * (1 - tissue.SHORT * columnar) * columnar
    sideways = np.maximum(ax**2 + ay**2 - along**2, 0)
    apart = np.sqrt(sideways + upward**2) + np.float32(0.01)
    return (squares[k] - squares[0]) / (2 * apart)


# --- epithelium ----------------------------------------------------------------------------------


def _paint_epithelium(canvas, cells, stain):
    """Carcinoma, normal glands and ducts: nuclei, cytoplasm, and DAB on the membranes."""
    group = np.flatnonzero(cells.kind < tissue.STROMA)
    index = np.flatnonzero(canvas.epithelium)
    if len(group) < 3 or not len(index):
        return
    nearest = _nearest_cells(canvas, cells, group, index, 3)
    spots = _spots(canvas, index)
    borders = _borders(canvas, cells, nearest, spots, index)
    fine = canvas.fine.ravel()[index]
    grain = canvas.grain.ravel()[index]

    nucleus = _nuclei(canvas, cells, borders, spots, index)
    cytoplasm = _cytoplasm(canvas, cells, borders.cell, index) * (1 + 0.3 * fine + 0.25 * grain)
    blue = np.where(nucleus > 0, nucleus, np.maximum(cytoplasm, 0.004))
    canvas.dye["haematoxylin"].ravel()[index] = blue
    canvas.dye["eosin"].ravel()[index] = np.where(nucleus > 0, 0.1, 0.2 + 0.05 * fine)

    granular = np.maximum(0.8 + 0.3 * fine + 0.4 * grain, 0)
    inner = stain["cytoplasm"][borders.cell] * granular * np.where(nucleus > 0, 0.3, 1)
    membrane = _membranes(canvas, cells, stain, borders, spots, index)
    canvas.dye["dab"].ravel()[index] += membrane + inner

    tumour = cells.kind[borders.cell] == tissue.TUMOUR
    line = borders.edge_um < max(1.0, 0.75 * canvas.mpp)
    canvas.owner.ravel()[index] = borders.cell
    canvas.masks["nucleus"].ravel()[index] = nucleus > 0
    canvas.masks["tumour"].ravel()[index] = tumour
    canvas.masks["membrane"].ravel()[index] = line & tumour


def _cytoplasm(canvas, cells, cell, index):
    """(n,) haematoxylin of cytoplasm; in normal glands paler above, where mucin lies."""
    plan = canvas.plan
    normal = cells.kind[cell] == tissue.NORMAL
    plain = np.where(normal, max(plan.body, 0.16 * plan.haematoxylin), plan.body)
    mucin = np.clip(2.0 - canvas.depth.ravel()[index] / 11, 0.6, 1.8)
    return plain * (0.75 + 0.5 * cells.random[:, 6])[cell] * np.where(normal, mucin, 1)


def _nuclei(canvas, cells, borders, spots, index):
    """(n,) haematoxylin of nuclei, 0 outside: darker rim, pale chromatin, nucleoli."""
    plan = canvas.plan
    inside = _inside_nucleus(canvas, cells, borders, spots, index)
    fine = canvas.fine.ravel()[index]
    r = cells.random
    pyknotic = 0.9 * (r[:, 6] > 0.97)  # a few
    tone = plan.haematoxylin * (0.75 + 0.65 * r[:, 3] ** 1.5 + pyknotic)
    rim = np.exp(-(((inside - 0.08) * 11) ** 2))
    nucleolus = (fine > 1.75) & (inside > 0.3)
    chromatin = 0.62 + plan.chromatin * fine + 0.45 * rim + 0.7 * nucleolus
    stained = tone.astype(np.float32)[borders.cell] * np.maximum(chromatin, 0.2)
    return np.where(inside > 0, stained, 0).astype(np.float32)


def _inside_nucleus(canvas, cells, borders, spots, index):
    """(n,) 1 at the middle of the nucleus, 0 at its outline, negative outside."""
    plan = canvas.plan
    r = cells.random
    normal = cells.kind == tissue.NORMAL
    size = plan.nucleus_um * np.where(normal, 0.8, 0.8 + plan.pleomorphic * r[:, 1] ** 2)
    size[r[:, 5] < 0.05] = 0.01  # cut above or below the nucleus
    long = 1 + 0.4 * r[:, 2]
    cos = np.cos(2 * np.pi * r[:, 0]) / size
    sin = np.sin(2 * np.pi * r[:, 0]) / size
    axes = (cos / long, sin / long, cos * long, sin * long, 0.95 / size)
    a, b, c, d, e = (axis.astype(np.float32)[borders.cell] for axis in axes)

    x, y, z = borders.offset
    # nuclei of normal glands lie in a row near the basal side
    z = np.where(normal[borders.cell], spots.z - 2.2, z)
    along = x * a + y * b
    across = y * c - x * d
    upward = z * e
    inside = 1 + 0.07 * canvas.grain.ravel()[index] - np.sqrt(along**2 + across**2 + upward**2)
    return np.minimum(inside, (borders.edge_um - 0.35) * np.float32(1 / plan.nucleus_um))


def _membranes(canvas, cells, stain, borders, spots, index):
    """(n,) DAB density: of two membranes that meet each carries the stain of its own cell."""
    density = np.zeros(len(borders.cell), np.float32)
    shade = np.maximum(stain["intensity"][borders.cell], stain["intensity"][borders.rival])
    width = 0.3 + 0.2 * np.minimum(shade, 1.3) + 0.12 * canvas.mpp
    close = np.flatnonzero((borders.edge_um < 5) & (shade > 0))
    for cell in (borders.cell[close], borders.rival[close]):
        arc = _stained_arc(canvas, cells, stain, cell, spots.x[close], spots.y[close])
        density[close] += 0.5 * stain["intensity"][cell] * arc
    patchy = canvas.grain.ravel()[index[close]] + canvas.ragged.ravel()[index[close]]
    fainter = np.where(borders.free[close], 0.65, 1)
    density[close] *= fainter * np.clip(0.95 + 0.24 * patchy, 0.35, 1.6)
    line = np.exp(-0.5 * (borders.edge_um[close] / width[close]) ** 2)
    # membranes that lie askew in the section blur inwards
    density[close] *= 0.85 * line + 0.24 * np.exp(-borders.edge_um[close] / 1.7)
    return density


def _stained_arc(canvas, cells, stain, cell, x, y):
    """(n,) 0..1, whether the outline of a cell is stained in the direction of a point."""
    window = canvas.ground.window
    dx = x - (cells.embedding[:, 0] - window.x_um).astype(np.float32)[cell]
    dy = y - (cells.embedding[:, 1] - window.y_um).astype(np.float32)[cell]
    turn = np.arctan2(dy, dx) * np.float32(1 / (2 * np.pi)) + 1
    # an incomplete membrane is stained in one to three arcs
    arcs = (1 + np.floor(3 * cells.random[:, 4])).astype(np.float32)[cell]
    phase = ((turn + cells.random[:, 0][cell]) * arcs) % 1
    complete = stain["completeness"][cell]
    return np.where(complete > 0.97, 1, np.clip((complete - phase) * 10 + 0.5, 0, 1))


def _paint_secretion(canvas):
    """Crumbs and strands of secretion in some lumens; necrosis is painted with the artefacts."""
    foam = canvas.lumen & (canvas.noise(67, 80.0) > 0.6)
    foam = foam & (canvas.grain + 0.7 * canvas.fine > 1.1)
    canvas.dye["haematoxylin"][foam] += 0.5 * canvas.plan.background
    canvas.dye["eosin"][foam] += 0.12
