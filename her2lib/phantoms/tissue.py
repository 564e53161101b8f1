"""The anatomy under a phantom: an endless plane of glands, nests, stroma, fat and vessels.

Every number comes from a lattice point and the slide's seed, so all windows show the same plane.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

STEP_UM = 2.0  # anatomy is laid out on this grid and refined at the picture's own pixels
MARGIN_UM = 64.0
LATTICE_UM = 4.5  # at most one cell in each square of this side

# How far columnar cells draw to their foot, and how much their height is shortened.
FOOT = 0.9
SHORT = 0.62

# Kinds of epithelium, then of everything else.
TUMOUR = 1
NORMAL = 2
IN_SITU = 3
STROMA = 4
FAT = 5
VESSEL = 6
LUMEN = 7

ARCHITECTURES = ("nests", "trabeculae", "glands", "single")


# --- what a window holds -------------------------------------------------------------------------


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
    y: np.ndarray  # (h,)
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

    def upsample(self, field, shape, *, order=Image.BICUBIC):
        """(H,W) float32, a coarse field read at the centres of the window's pixels."""
        left = (self.window.x_um - self.x[0]) / STEP_UM + 0.5
        top = (self.window.y_um - self.y[0]) / STEP_UM + 0.5
        side = self.window.side_um / STEP_UM
        return _resize(field, (left, top, left + side, top + side), shape, order)

    def nearest(self, x, y):
        """(rows, columns) int32 of the grid points nearest to positions in micrometres."""
        rows = np.rint((y - self.y[0]) / STEP_UM).astype(np.int32)
        columns = np.rint((x - self.x[0]) / STEP_UM).astype(np.int32)
        return rows, columns


@dataclass(frozen=True)
class Cells:
    """Every cell whose nucleus lies near a window, one value each."""

    x: np.ndarray  # (n,) micrometres
    y: np.ndarray
    kind: np.ndarray
    embedding: np.ndarray  # (n,3) where neighbours are sought: stretched along columnar cells
    random: np.ndarray  # (n,8) uniform numbers of the cell's own
    slope: np.ndarray  # (n,2) of the depth in epithelium, of the fibre coordinate elsewhere
    crowd: np.ndarray


# --- laying out ----------------------------------------------------------------------------------


def noise(seed, tag, x, y, wavelength_um):
    """(len(y), len(x)) float32 smooth noise of unit spread, the same wherever a window lies.

    The positions x and y are evenly spaced, in micrometres; the tag tells one noise from another.
    """
    step = x[1] - x[0]
    lattice_x = np.arange(int(x[0] // wavelength_um) - 3, int(x[-1] // wavelength_um) + 5)
    lattice_y = np.arange(int(y[0] // wavelength_um) - 3, int(y[-1] // wavelength_um) + 5)
    knots = 3.46 * (_uniform(seed, tag, lattice_x[None], lattice_y[:, None]) - 0.5)
    for axis in (0, 1):
        knots = ndimage.correlate1d(knots, (1 / 6, 4 / 6, 1 / 6), axis=axis)
    left = (x[0] - step / 2) / wavelength_um - lattice_x[0] + 0.5
    top = (y[0] - step / 2) / wavelength_um - lattice_y[0] + 0.5
    box = (left, top, left + len(x) * step / wavelength_um, top + len(y) * step / wavelength_um)
    return _resize(knots.astype(np.float32) * 1.9, box, (len(y), len(x)), Image.BICUBIC)


def lay_out(plan, window):
    """Ground of one window of a slide (slide.Slide)."""
    x, y = _grid(window)
    kind, columnar, height = _lay_epithelium(plan, x, y)
    depth, kind = _signed_depth(kind)
    slope = np.stack(np.gradient(depth, STEP_UM)[::-1]).astype(np.float32)  # (2,h,w)
    height = np.minimum(height, _alive_um(plan, x, y))
    # where opposite sides meet no cell knows its foot
    columnar *= np.clip(2.2 * (slope**2).sum(0) - 0.9, 0, 1)
    vessel = _vessels(plan, x, y, depth)
    fat = np.minimum((noise(plan.seed, 32, x, y, 260.0) - plan.fat) * 60, -depth - 10)
    crowd = np.clip(0.5 + 0.45 * noise(plan.seed, 33, x, y, 110.0) + plan.crowd, 0, 1)
    return Ground(
        window=window,
        x=x,
        y=y,
        depth=depth,
        slope=slope,
        height=height,
        columnar=columnar,
        kind=kind,
        fat=fat,
        vessel=vessel,
        glass=_beyond_tissue(plan, x, y),
        crowd=crowd,
        fibre=_across_fibres(plan, x, y, depth, vessel),
    )


def glass_fraction(plan, window):
    """float, about how much of a window lies beyond the tissue, from a coarse look."""
    steps = (np.arange(16) + 0.5) / 16 * window.side_um
    return float((_beyond_tissue(plan, window.x_um + steps, window.y_um + steps) > 0).mean())


# --- cells ---------------------------------------------------------------------------------------


def populate(plan, ground):
    """Cells of a Ground: blue noise in a space stretched along columnar cells.

    In that space columnar cells are round, so they come to stand on their basal side.
    """
    points, random = _candidates(plan.seed, ground)
    at = ground.nearest(*points.T)
    kind = _compartment(ground, at)
    spacing = _spacing_um(plan, ground, at, kind, random)
    keep = (ground.glass[at] < -2) & (random[:, 7] < 2.2 * (LATTICE_UM / spacing) ** 2)
    points = points[keep]
    random = random[keep]
    kind = kind[keep]
    spacing = spacing[keep]

    rows, columns = ground.nearest(*points.T)
    slope = ground.slope[:, rows, columns].T  # (n,2)
    columnar = ground.columnar[rows, columns] * (kind < STROMA)
    embedding = embed(points, ground.depth[rows, columns], slope, columnar)
    # a thousand micrometres keep cells of different kinds out of each other's way
    by_kind = np.column_stack([embedding[:, :2], embedding[:, 2] + 1000 * kind])
    alive = _thin(by_kind, spacing, random[:, 6])
    fibre_slope = np.stack(np.gradient(ground.fibre, STEP_UM)[::-1])[:, rows, columns].T  # (n,2)
    slope = np.where((kind < STROMA)[:, None], slope, fibre_slope)
    return Cells(
        x=points[alive, 0],
        y=points[alive, 1],
        kind=kind[alive],
        embedding=embedding[alive],
        random=random[alive],
        slope=slope[alive],
        crowd=ground.crowd[rows, columns][alive],
    )


def embed(points, depth, slope, columnar):
    """(n,3) positions in which Voronoi cells of points (n,2) become columns.

    The first two are the foot on the basal side, the third is a shortened depth.
    """
    foot = points - (FOOT * columnar * np.maximum(depth, 0))[:, None] * slope
    return np.column_stack([foot, (1 - SHORT * columnar) * columnar * np.maximum(depth, 0)])


# --- noise and lattices --------------------------------------------------------------------------


def _resize(field, box, shape, order):
    """(H,W) float32, the box (left, top, right, bottom) of a field, resampled."""
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(image.resize(shape[::-1], order, box=box))


def _uniform(seed, tag, ix, iy):
    """float64 0..1 for every lattice point, so that any window gets the same numbers.

    A 64-bit mix: splitmix64.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        mixed = np.uint64(seed % 2**63) * golden + np.uint64(tag) * np.uint64(0xD1B54A32D192ED03)
        for index in (ix, iy):
            mixed = mixed + np.asarray(index, np.int64).astype(np.uint64) * golden
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def _noise_at(seed, tag, u, v):
    """float32 smooth noise of unit spread at any points, u and v in wavelengths."""
    lattice_u = np.arange(int(np.floor(u.min())) - 2, int(np.ceil(u.max())) + 3)
    lattice_v = np.arange(int(np.floor(v.min())) - 2, int(np.ceil(v.max())) + 3)
    uniform = _uniform(seed, tag, lattice_u[None], lattice_v[:, None])
    knots = 7.2 * (uniform - 0.5).astype(np.float32)
    where = [v - lattice_v[0], u - lattice_u[0]]
    return ndimage.map_coordinates(knots, where, order=3, prefilter=False)


def _circles(seed, tag, x, y, *, spacing_um, fraction, radius_um):
    """(h,w) float32 micrometres inside the nearest of scattered ovals, -50 far from all.

    A fraction of the squares of a raster of spacing_um holds one; radius_um is (lowest, highest).
    """
    field = np.full((len(y), len(x)), -50.0, np.float32)
    reach = radius_um[1] * 1.6 + 50
    ix = np.arange(int((x[0] - reach) // spacing_um), int((x[-1] + reach) // spacing_um) + 1)
    iy = np.arange(int((y[0] - reach) // spacing_um), int((y[-1] + reach) // spacing_um) + 1)
    uniform = [_uniform(seed, 100 * tag + k, ix[None], iy[:, None]) for k in range(6)]
    chosen, shift_x, shift_y, size, turn, stretch = uniform
    for j, i in zip(*np.nonzero(chosen < fraction), strict=True):
        centre_x = (ix[i] + 0.5 * shift_x[j, i]) * spacing_um
        centre_y = (iy[j] + 0.5 * shift_y[j, i]) * spacing_um
        radius = radius_um[0] + (radius_um[1] - radius_um[0]) * size[j, i]
        columns = slice(*np.searchsorted(x, (centre_x - reach, centre_x + reach)))
        rows = slice(*np.searchsorted(y, (centre_y - reach, centre_y + reach)))
        inside = radius - _oval_distance(
            x[None, columns] - centre_x,
            y[rows, None] - centre_y,
            turn=np.pi * turn[j, i],
            stretch=1 + 0.6 * stretch[j, i],
        )
        field[rows, columns] = np.maximum(field[rows, columns], inside)
    return field


def _oval_distance(dx, dy, *, turn, stretch):
    """(h,w) distance from a centre, measured in a turned and stretched oval."""
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = dy * np.cos(turn) - dx * np.sin(turn)
    return np.hypot(along / stretch, across * stretch**0.5)


# --- anatomy -------------------------------------------------------------------------------------


def _grid(window):
    """(w,) x and (h,) y of the coarse grid of a window and its margin, in micrometres."""
    # an even first point and an even count: _invasive halves the grid
    corner = np.array([window.x_um, window.y_um])
    first = 2 * np.floor((corner - MARGIN_UM) / STEP_UM / 2)
    count = 2 * int(np.ceil((window.side_um + 2 * MARGIN_UM) / STEP_UM / 2)) + 2
    x = (first[0] + np.arange(count)) * STEP_UM
    y = (first[1] + np.arange(count)) * STEP_UM
    return x, y


def _lay_epithelium(plan, x, y):
    """(h,w) kind of epithelium or 0, how columnar it stands, and the height of its cells."""
    field, columnar = _carcinoma(plan, x, y)
    height = plan.height_um * (1 + 0.22 * noise(plan.seed, 13, x, y, 50.0))
    height = height + 150 * np.clip(1.6 - 2 * columnar, 0, 1)
    kind = (field > 0) * TUMOUR
    for circles, number, circle_height, circle_columnar in (
        (_normal_glands(plan, x, y), NORMAL, 16.0, 0.9),
        (_ducts(plan, x, y), IN_SITU, 150.0, 0.25),
    ):
        # carcinoma keeps 10 micrometres away from both
        kind[circles > -10] = 0
        kind[circles > 0] = number
        height = np.where(circles > -10, circle_height, height)
        columnar = np.where(circles > -10, circle_columnar, columnar)
    columnar = ndimage.gaussian_filter(columnar.astype(np.float32), 2)
    height = ndimage.gaussian_filter(height.astype(np.float32), 2)
    return kind, columnar, height


def _carcinoma(plan, x, y):
    """(h,w) field, above 0 where carcinoma lies, and how columnar its cells stand."""
    # two architectures grow into each other where the slide has a second one
    second_fraction = np.clip(2.5 * noise(plan.seed, 11, x, y, 220.0) - plan.purity, 0, 1)
    second_fraction = second_fraction * (plan.architecture != plan.second)
    field, columnar = _invasive(plan, plan.architecture, x, y)
    second_field, second_columnar = field, columnar
    if second_fraction.any():
        second_field, second_columnar = _invasive(plan, plan.second, x, y)
    field = field * (1 - second_fraction) + second_field * second_fraction
    field = np.minimum(field, 3 * (noise(plan.seed, 12, x, y, 420.0) + plan.tumour))
    columnar = columnar * (1 - second_fraction) + second_columnar * second_fraction
    return field, columnar


def _invasive(plan, architecture, x, y):
    """(h,w) field, above 0 where carcinoma lies, and 0..1 how columnar its cells stand.

    Patterns are drawn out along one direction.
    """
    turn = 2 * np.pi * plan.grain
    # every second grid point is enough for these waves
    half = len(x) // 2 + 1
    half_x = x[0] + 2 * STEP_UM * np.arange(half)
    half_y = y[0] + 2 * STEP_UM * np.arange(half)
    along = (half_y * np.cos(turn))[:, None] - (half_x * np.sin(turn))[None]
    across = (half_x * np.cos(turn))[None] + (half_y * np.sin(turn))[:, None]
    box = (0.25, 0.25, 0.25 + len(x) / 2, 0.25 + len(y) / 2)

    def wave(tag, wavelength_um):
        knots = wavelength_um * plan.coarse
        stretch = plan.drawn_out**0.5
        field = _noise_at(plan.seed, tag, along / (knots * stretch), across / (knots / stretch))
        return _resize(field, box, (len(y), len(x)), Image.BICUBIC)

    if architecture == "glands":
        return 0.75 + 0.5 * plan.density - np.abs(wave(21, 55) + 0.45 * wave(22, 23)), 0.95
    if architecture == "trabeculae":
        return 0.33 + 0.3 * plan.density - np.abs(wave(23, 55) + 0.25 * wave(24, 22)), 0.5
    if architecture == "single":
        return wave(25, 11) + 0.5 * wave(26, 60) - 1.0 + plan.density, 0.0
    return wave(27, 60) + 0.4 * wave(28, 25) + plan.density, 0.1


def _normal_glands(plan, x, y):
    """(h,w) micrometres inside the nearest normal gland; they come in groups (lobules)."""
    glands = _circles(
        plan.seed, 14, x, y, spacing_um=78.0, fraction=plan.normal, radius_um=(19, 33)
    )
    glands = np.where(noise(plan.seed, 15, x, y, 300.0) > 0, glands, -50)
    return glands + 4.0 * noise(plan.seed, 64, x, y, 24.0)


def _ducts(plan, x, y):
    """(h,w) micrometres inside the nearest duct with carcinoma in situ."""
    ducts = _circles(
        plan.seed, 16, x, y, spacing_um=330.0, fraction=plan.in_situ, radius_um=(60, 120)
    )
    return ducts + 9.0 * noise(plan.seed, 66, x, y, 24.0)


def _vessels(plan, x, y, depth):
    """(h,w) micrometres inside the nearest vessel; none comes within 8 of epithelium."""
    vessels = _circles(
        plan.seed, 31, x, y, spacing_um=230.0, fraction=plan.vessels, radius_um=(5, 24)
    )
    vessels = vessels + 2.5 * noise(plan.seed, 81, x, y, 24.0)
    return np.minimum(vessels, -depth - 8)


def _signed_depth(kind):
    """(h,w) micrometres into epithelium, negative outside, and the kind of the nearest."""
    inside = kind > 0
    if not inside.any():
        return np.full(kind.shape, -1e3, np.float32), np.ones_like(kind)
    if inside.all():
        return np.full(kind.shape, 1e3, np.float32), kind
    outer, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    signed = (ndimage.distance_transform_edt(inside) - outer) * STEP_UM
    signed = ndimage.gaussian_filter(signed.astype(np.float32), 1.1)
    return signed, kind[tuple(nearest)]


def _alive_um(plan, x, y):
    """(h,w) depth to which cells live; deeper ones are dead where the slide has necrosis."""
    uneven = plan.necrosis_um + 12 * noise(plan.seed, 17, x, y, 45.0)
    return uneven + 60 * np.clip(0.8 - noise(plan.seed, 18, x, y, 130.0), 0, 2)


def _across_fibres(plan, x, y, depth, vessel):
    """(h,w) float32 coordinate across the fibres, which flow around epithelium and vessels."""
    turn = 2 * np.pi * plan.grain
    obstacle = np.clip(np.maximum(depth, vessel), -50, 5)
    fibre = (x * np.cos(turn))[None] + (y * np.sin(turn))[:, None] - 0.8 * obstacle
    fibre = fibre + 30 * noise(plan.seed, 34, x, y, 120.0) + 6 * noise(plan.seed, 35, x, y, 30.0)
    return fibre.astype(np.float32)


def _beyond_tissue(plan, x, y):
    """(h,w) micrometres beyond the edge of the tissue, negative on it."""
    if plan.core_um:
        # tissue microarray: round cores in a square raster
        pitch = 2.4 * plan.core_um
        dx = (x - plan.core_at[0] + pitch / 2) % pitch - pitch / 2
        dy = (y - plan.core_at[1] + pitch / 2) % pitch - pitch / 2
        field = np.hypot(dx[None], dy[:, None]) - plan.core_um
    else:
        field = 90 * (noise(plan.seed, 41, x, y, 380.0) - plan.edge)
    # a coarse look needs no ragged edge
    if x[1] - x[0] > STEP_UM:
        return field
    ragged = field + 5 * noise(plan.seed, 42, x, y, 34.0) + 2 * noise(plan.seed, 43, x, y, 9.0)
    return ragged.astype(np.float32)


# --- which points become cells -------------------------------------------------------------------


def _candidates(seed, ground):
    """(n,2) micrometres of at most one point in each lattice square, and (n,8) random numbers."""
    ix = np.arange(int(ground.x[1] / LATTICE_UM) + 1, int(ground.x[-2] / LATTICE_UM))
    iy = np.arange(int(ground.y[1] / LATTICE_UM) + 1, int(ground.y[-2] / LATTICE_UM))
    ix, iy = (index.ravel() for index in np.meshgrid(ix, iy))
    random = np.stack([_uniform(seed, 200 + k, ix, iy) for k in range(10)], 1)
    points = (np.stack([ix, iy], 1) + 0.98 * (random[:, 8:] - 0.5)) * LATTICE_UM
    return points, random[:, :8].astype(np.float32)


def _compartment(ground, at):
    """(n,) kind of cell at grid points: epithelium by depth, else vessel, fat or stroma."""
    depth = ground.depth[at]
    outer = np.select([ground.vessel[at] > 1, ground.fat[at] > 0], [VESSEL, FAT], STROMA)
    inner = np.where(depth > ground.height[at], LUMEN, ground.kind[at])
    return np.where(depth > 0, inner, outer)


def _spacing_um(plan, ground, at, kind, random):
    """(n,) least distance to the next cell: by kind, carcinoma by size, stroma by crowding."""
    by_kind = np.array([9, plan.cell_um * 0.83, 6.6, 8.0, 9, 44, 6.2, 26])
    spacing = by_kind[kind]
    tumour = spacing * (1 - 0.35 * ground.columnar[at]) * (0.9 + 0.4 * random[:, 1] ** 2)
    spacing = np.where(kind == TUMOUR, tumour, spacing)
    return np.where(kind == STROMA, 16 - 10.0 * ground.crowd[at] ** 0.7, spacing)


def _thin(position, spacing, rank):
    """Indices of the points left when no two of a group stand closer than their spacing.

    Of two that do, the one of higher rank stays.
    """
    alive = np.ones(len(position), bool)
    # Small, middle and large cells are sought apart, each with its own search radius. Two of
    # different groups are not compared: carcinoma with spacings on both sides of 8.9 overlaps
    # (in 24 slides 26 % of its cells).
    for low, high in ((0, 8.9), (8.9, 20), (20, 99)):
        group = np.flatnonzero((spacing > low) & (spacing <= high))
        if len(group) < 2:
            continue
        tree = cKDTree(position[group])
        pairs = group[tree.query_pairs(float(spacing[group].max()), output_type="ndarray")]
        apart = np.linalg.norm(position[pairs[:, 0]] - position[pairs[:, 1]], axis=1)
        pairs = pairs[apart < np.minimum(spacing[pairs[:, 0]], spacing[pairs[:, 1]])]
        _remove_losers(pairs, rank, alive)
    return np.flatnonzero(alive)


def _remove_losers(pairs, rank, alive):
    """Marks in alive, of (n,2) pairs that stand too close, those that must go."""
    lower_first = rank[pairs[:, 0]] < rank[pairs[:, 1]]
    lose = np.where(lower_first, pairs[:, 0], pairs[:, 1])
    win = pairs.sum(1) - lose
    # a point that loses to nobody stays, its neighbours go, the rest is asked again
    while len(lose):
        contested = np.zeros(len(alive), bool)
        contested[lose] = True
        alive[lose[~contested[win]]] = False
        left = alive[lose] & alive[win] & contested[win]
        lose = lose[left]
        win = win[left]
