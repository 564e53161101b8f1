"""The anatomy under a phantom: an endless plane of glands, nests, stroma, fat and vessels, the same from every window."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

STEP_UM = 2.0  # anatomy is laid out on this grid and refined at the picture's own pixels
MARGIN_UM = 64.0
LATTICE_UM = 4.5  # at most one cell in each square of this side
FOOT, SHORT = (
    0.9,
    0.62,
)  # how far columnar cells draw to their foot, and how much their height is shortened
TUMOUR, NORMAL, IN_SITU = 1, 2, 3  # kinds of epithelium
STROMA, FAT, VESSEL, LUMEN = 4, 5, 6, 7
ARCHITECTURES = ("nests", "trabeculae", "glands", "single")


@dataclass(frozen=True)
class Window:
    """A square of the plane, its corner and side in micrometres."""

    x_um: float
    y_um: float
    side_um: float


@dataclass(frozen=True)
class Ground:
    """Coarse maps (h,w) around a window; lengths in micrometres."""

    window: Window
    x: np.ndarray  # (w,) positions of the grid
    y: np.ndarray
    depth: np.ndarray  # into epithelium from its basal side; negative in stroma
    slope: np.ndarray  # (2,h,w) gradient of depth, x and y
    height: np.ndarray  # depth at which the lumen begins
    columnar: np.ndarray  # 0 solid .. 1 columnar
    kind: np.ndarray  # of the nearest epithelium
    fat: np.ndarray  # > 0 inside
    vessel: np.ndarray  # > 0 inside
    glass: np.ndarray  # > 0 beyond the tissue
    crowd: np.ndarray  # 0 sparse .. 1 lymphocytes shoulder to shoulder
    fibre: np.ndarray  # coordinate across the fibres, in micrometres

    def up(self, field, shape, *, order=Image.BICUBIC):
        """(H,W) float32, a coarse field read at the centres of the window's pixels."""
        left = (self.window.x_um - self.x[0]) / STEP_UM + 0.5
        top = (self.window.y_um - self.y[0]) / STEP_UM + 0.5
        side = self.window.side_um / STEP_UM
        return _resize(field, (left, top, left + side, top + side), shape, order)

    def nearest(self, x, y):
        """(rows, columns) of the grid points nearest to positions."""
        return tuple(
            np.rint((p - grid[0]) / STEP_UM).astype(np.int32)
            for p, grid in ((y, self.y), (x, self.x))
        )


@dataclass(frozen=True)
class Cells:
    """Every cell whose nucleus lies near a window, one value each."""

    x: np.ndarray
    y: np.ndarray
    kind: np.ndarray
    place: np.ndarray  # (n,3) where neighbours are sought: stretched along columnar cells
    random: np.ndarray  # (n,8) uniform numbers of the cell's own
    slope: np.ndarray  # (n,2) of the depth in epithelium, of the fibre coordinate elsewhere
    crowd: np.ndarray


def noise(seed, tag, x, y, wavelength_um):
    """(len(y), len(x)) float32, smooth noise of unit spread over evenly spaced positions, the same wherever a window lies."""
    step = x[1] - x[0]
    lx = np.arange(int(x[0] // wavelength_um) - 3, int(x[-1] // wavelength_um) + 5)
    ly = np.arange(int(y[0] // wavelength_um) - 3, int(y[-1] // wavelength_um) + 5)
    knots = 3.46 * (_uniform(seed, tag, lx[None], ly[:, None]) - 0.5)
    for axis in (0, 1):
        knots = ndimage.correlate1d(knots, (1 / 6, 4 / 6, 1 / 6), axis=axis)
    left = (x[0] - step / 2) / wavelength_um - lx[0] + 0.5
    top = (y[0] - step / 2) / wavelength_um - ly[0] + 0.5
    box = (left, top, left + len(x) * step / wavelength_um, top + len(y) * step / wavelength_um)
    return _resize(knots.astype(np.float32) * 1.9, box, (len(y), len(x)), Image.BICUBIC)


def lay_out(plan, window):
    """Ground of one window of a slide's plan (see phantom.slide)."""
    first = 2 * np.floor(
        (np.array([window.x_um, window.y_um]) - MARGIN_UM) / STEP_UM / 2
    )  # even: _invasive halves the grid
    count = 2 * int(np.ceil((window.side_um + 2 * MARGIN_UM) / STEP_UM / 2)) + 2
    x, y = ((f + np.arange(count)) * STEP_UM for f in first)
    kind, columnar, height = _epithelium(plan, x, y)
    depth, kind = _depth(kind)
    slope = np.stack(np.gradient(depth, STEP_UM)[::-1]).astype(np.float32)
    alive = (
        plan.necrosis_um
        + 12 * noise(plan.seed, 17, x, y, 45.0)
        + 60 * np.clip(0.8 - noise(plan.seed, 18, x, y, 130.0), 0, 2)
    )
    height = np.minimum(height, alive)
    columnar *= np.clip(
        2.2 * (slope**2).sum(0) - 0.9, 0, 1
    )  # where opposite sides meet no cell knows its foot
    glass = _glass(plan, x, y)
    vessel = np.minimum(
        _circles(plan.seed, 31, x, y, 230.0, plan.vessels, (5, 24), 2.5), -depth - 8
    )
    gate = noise(plan.seed, 32, x, y, 260.0) - plan.fat
    fat = np.minimum(gate * 60, -depth - 10)
    crowd = np.clip(0.5 + 0.45 * noise(plan.seed, 33, x, y, 110.0) + plan.crowd, 0, 1)
    turn = 2 * np.pi * plan.grain
    fibre = (
        (x * np.cos(turn))[None]
        + (y * np.sin(turn))[:, None]
        - 0.8 * np.clip(np.maximum(depth, vessel), -50, 5)
    )
    fibre = (
        fibre + 30 * noise(plan.seed, 34, x, y, 120.0) + 6 * noise(plan.seed, 35, x, y, 30.0)
    ).astype(np.float32)
    return Ground(
        window, x, y, depth, slope, height, columnar, kind, fat, vessel, glass, crowd, fibre
    )


def glass_share(plan, window):
    """float, about how much of a window lies beyond the tissue, from a coarse look."""
    steps = (np.arange(16) + 0.5) / 16 * window.side_um
    return float((_glass(plan, window.x_um + steps, window.y_um + steps) > 0).mean())


def populate(plan, ground):
    """Cells of a Ground: blue noise in a space stretched along columnar cells, so that they stand on their basal side."""
    points, random = _candidates(plan.seed, ground)
    row, column = ground.nearest(*points.T)
    at = lambda field: field[row, column]  # noqa: E731
    kind = _compartment(at, ground)
    space = np.array([9, plan.cell_um * 0.83, 6.6, 8.0, 9, 44, 6.2, 26])[kind]
    space = np.where(
        kind == TUMOUR,
        space * (1 - 0.35 * at(ground.columnar)) * (0.9 + 0.4 * random[:, 1] ** 2),
        space,
    )
    space = np.where(kind == STROMA, 16 - 10.0 * at(ground.crowd) ** 0.7, space)
    keep = (at(ground.glass) < -2) & (random[:, 7] < 2.2 * (LATTICE_UM / space) ** 2)
    points, random, kind, space, row, column = (
        a[keep] for a in (points, random, kind, space, row, column)
    )
    slope = ground.slope[:, row, column].T
    place = embed(points, at(ground.depth), slope, at(ground.columnar) * (kind < STROMA))
    alive = _thin(np.column_stack([place[:, :2], place[:, 2] + 1000 * kind]), space, random[:, 6])
    across = np.stack(np.gradient(ground.fibre, STEP_UM)[::-1])[:, row, column].T
    slope = np.where((kind < STROMA)[:, None], slope, across)
    return Cells(*(a[alive] for a in (*points.T, kind, place, random, slope, at(ground.crowd))))


def embed(points, depth, slope, columnar):
    """(n,3) places where Voronoi cells of points (n,2) become columns: the foot on the basal side, and a shortened depth."""
    foot = points - (FOOT * columnar * np.maximum(depth, 0))[:, None] * slope
    return np.column_stack([foot, (1 - SHORT * columnar) * columnar * np.maximum(depth, 0)])


def _resize(field, box, shape, order):
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(image.resize(shape[::-1], order, box=box))


def _uniform(seed, tag, ix, iy):
    """float64 0..1 for every lattice point, from a 64-bit mix (splitmix64), so that any window finds the same numbers."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(seed % 2**63) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
            tag
        ) * np.uint64(0xD1B54A32D192ED03)
        for part in (ix, iy):
            mixed = mixed + np.asarray(part, np.int64).astype(np.uint64) * np.uint64(
                0x9E3779B97F4A7C15
            )
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def _epithelium(plan, x, y):
    share = np.clip(2.5 * noise(plan.seed, 11, x, y, 220.0) - plan.purity, 0, 1) * (
        plan.architecture != plan.second
    )
    first = _invasive(plan, plan.architecture, x, y)
    second = _invasive(plan, plan.second, x, y) if share.any() else first
    field = first[0] * (1 - share) + second[0] * share
    field = np.minimum(field, 3 * (noise(plan.seed, 12, x, y, 420.0) + plan.tumour))
    columnar = first[1] * (1 - share) + second[1] * share
    height = plan.height_um * (1 + 0.22 * noise(plan.seed, 13, x, y, 50.0)) + 150 * np.clip(
        1.6 - 2 * columnar, 0, 1
    )
    kind = (field > 0) * TUMOUR
    normal = _circles(plan.seed, 14, x, y, 78.0, plan.normal, (19, 33), 4.0, gate=(15, 300.0))
    ducts = _circles(plan.seed, 16, x, y, 330.0, plan.in_situ, (60, 120), 9.0)
    for circles, number, h, c in ((normal, NORMAL, 16.0, 0.9), (ducts, IN_SITU, 150.0, 0.25)):
        kind[circles > -10] = 0
        kind[circles > 0] = number
        height = np.where(circles > -10, h, height)
        columnar = np.where(circles > -10, c, columnar)
    return kind, *(ndimage.gaussian_filter(f.astype(np.float32), 2) for f in (columnar, height))


def _invasive(plan, name, x, y):
    """(h,w) field, above 0 where carcinoma lies, and how columnar its cells stand; patterns are drawn out along one direction."""
    turn, half = 2 * np.pi * plan.grain, (len(x) // 2 + 1)
    hx, hy = (
        a[0] + 2 * STEP_UM * np.arange(half) for a in (x, y)
    )  # every second grid point is enough for these waves
    along = (hy * np.cos(turn))[:, None] - (hx * np.sin(turn))[None]
    across = (hx * np.cos(turn))[None] + (hy * np.sin(turn))[:, None]
    box = (0.25, 0.25, 0.25 + len(x) / 2, 0.25 + len(y) / 2)

    def n(tag, wavelength):
        knots, stretch = wavelength * plan.coarse, plan.drawn_out**0.5
        field = _noise_at(plan.seed, tag, along / (knots * stretch), across / (knots / stretch))
        return _resize(field, box, (len(y), len(x)), Image.BICUBIC)

    if name == "glands":
        return 0.75 + 0.5 * plan.density - np.abs(n(21, 55) + 0.45 * n(22, 23)), 0.95
    if name == "trabeculae":
        return 0.33 + 0.3 * plan.density - np.abs(n(23, 55) + 0.25 * n(24, 22)), 0.5
    if name == "single":
        return n(25, 11) + 0.5 * n(26, 60) - 1.0 + plan.density, 0.0
    return n(27, 60) + 0.4 * n(28, 25) + plan.density, 0.1


def _noise_at(seed, tag, u, v):
    """float32 smooth noise of unit spread at any points, u and v in wavelengths."""
    lu, lv = (np.arange(int(np.floor(a.min())) - 2, int(np.ceil(a.max())) + 3) for a in (u, v))
    knots = 7.2 * (_uniform(seed, tag, lu[None], lv[:, None]) - 0.5).astype(np.float32)
    return ndimage.map_coordinates(knots, [v - lv[0], u - lu[0]], order=3, prefilter=False)


def _circles(seed, tag, x, y, spacing_um, share, radius_um, wiggle_um, gate=None):
    """(h,w) how far inside the nearest of scattered round outlines each grid point lies, in micrometres."""
    field = np.full((len(y), len(x)), -50.0, np.float32)
    reach = radius_um[1] * 1.6 + 50
    cx = np.arange(int((x[0] - reach) // spacing_um), int((x[-1] + reach) // spacing_um) + 1)
    cy = np.arange(int((y[0] - reach) // spacing_um), int((y[-1] + reach) // spacing_um) + 1)
    u = [_uniform(seed, 100 * tag + k, cx[None], cy[:, None]) for k in range(6)]
    for j, i in zip(*np.nonzero(u[0] < share), strict=True):
        px, py = (cx[i] + 0.5 * u[1][j, i]) * spacing_um, (cy[j] + 0.5 * u[2][j, i]) * spacing_um
        radius = radius_um[0] + (radius_um[1] - radius_um[0]) * u[3][j, i]
        sx, sy = (slice(*np.searchsorted(a, (p - reach, p + reach))) for a, p in ((x, px), (y, py)))
        dx, dy, turn = x[None, sx] - px, y[sy, None] - py, np.pi * u[4][j, i]
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        stretch = 1 + 0.6 * u[5][j, i]
        inside = radius - np.hypot(along / stretch, across * stretch**0.5)
        field[sy, sx] = np.maximum(field[sy, sx], inside)
    if gate:
        field = np.where(noise(seed, gate[0], x, y, gate[1]) > 0, field, -50)
    return field + wiggle_um * noise(seed, tag + 50, x, y, 24.0)


def _depth(kind):
    inside = kind > 0
    if not inside.any():
        return np.full(kind.shape, -1e3, np.float32), np.ones_like(kind)
    if inside.all():
        return np.full(kind.shape, 1e3, np.float32), kind
    outer, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    signed = (ndimage.distance_transform_edt(inside) - outer) * STEP_UM
    signed = ndimage.gaussian_filter(signed.astype(np.float32), 1.1)
    return signed, kind[tuple(nearest)]


def _glass(plan, x, y):
    if plan.core_um:  # tissue microarray: round cores in a square raster
        pitch = 2.4 * plan.core_um
        dx = (x - plan.core_at[0] + pitch / 2) % pitch - pitch / 2
        dy = (y - plan.core_at[1] + pitch / 2) % pitch - pitch / 2
        field = np.hypot(dx[None], dy[:, None]) - plan.core_um
    else:
        field = 90 * (noise(plan.seed, 41, x, y, 380.0) - plan.edge)
    if x[1] - x[0] > STEP_UM:  # a coarse look needs no ragged edge
        return field
    return (
        field + 5 * noise(plan.seed, 42, x, y, 34.0) + 2 * noise(plan.seed, 43, x, y, 9.0)
    ).astype(np.float32)


def _candidates(seed, ground):
    ix = np.arange(int(ground.x[1] / LATTICE_UM) + 1, int(ground.x[-2] / LATTICE_UM))
    iy = np.arange(int(ground.y[1] / LATTICE_UM) + 1, int(ground.y[-2] / LATTICE_UM))
    ix, iy = (a.ravel() for a in np.meshgrid(ix, iy))
    random = np.stack([_uniform(seed, 200 + k, ix, iy) for k in range(10)], 1)
    points = (np.stack([ix, iy], 1) + 0.98 * (random[:, 8:] - 0.5)) * LATTICE_UM
    return points, random[:, :8].astype(np.float32)


def _compartment(at, ground):
    depth, kind = at(ground.depth), at(ground.kind)
    outer = np.select([at(ground.vessel) > 1, at(ground.fat) > 0], [VESSEL, FAT], STROMA)
    return np.where(depth > 0, np.where(depth > at(ground.height), LUMEN, kind), outer)


def _thin(place, space, rank):
    """Indices of the points left when no two stand closer than their spacing; the higher rank stays."""
    alive = np.ones(len(place), bool)
    for low, high in ((0, 8.9), (8.9, 20), (20, 99)):
        group = np.flatnonzero((space > low) & (space <= high))
        if len(group) < 2:
            continue
        near = group[
            cKDTree(place[group]).query_pairs(float(space[group].max()), output_type="ndarray")
        ]
        apart = np.linalg.norm(place[near[:, 0]] - place[near[:, 1]], axis=1)
        near = near[apart < np.minimum(space[near[:, 0]], space[near[:, 1]])]
        _settle(near, rank, alive)
    return np.flatnonzero(alive)


def _settle(near, rank, alive):
    lose = np.where(rank[near[:, 0]] < rank[near[:, 1]], near[:, 0], near[:, 1])
    win = near.sum(1) - lose
    while len(
        lose
    ):  # a point that loses to nobody stays, its neighbours go, the rest is asked again
        contested = np.zeros(len(alive), bool)
        contested[lose] = True
        gone = lose[~contested[win]]
        alive[gone] = False
        left = alive[lose] & alive[win] & contested[win]
        lose, win = lose[left], win[left]
