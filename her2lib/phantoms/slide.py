"""The simulated slide and its cells: what patches of a slide share, how every carcinoma cell stains, and the score they make."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtr

from her2lib.files import did_you_mean
from her2lib.phantoms import artefacts, scanner, tissue
from her2lib.scores import SCORES

MISLEADERS = ("clones", "in_situ", *artefacts.PAINTERS)
RATES = dict(
    necrosis=0.12,
    haemosiderin=0.12,
    crushed=0.1,
    folds=0.08,
    dust=0.3,
    bubbles=0.03,
    pen=0.03,
    out_of_focus=0.06,
)
FORCED = dict(
    blush=0.15, stromal_blush=0.12, edge=0.4, in_situ=0.6
)  # what True means where a level is a density or a share
# Share of the outline, and DAB densities. No standard gives them: they part the grades that are
# drawn here.
COMPLETE, INTENSE, WEAK, FAINT = 0.85, 0.55, 0.18, 0.04
SHARE = 0.10  # a score needs its grade in more than 10 % of the invasive cells (ASCO/CAP 2018)
MIX = (
    0.05,
    0.237,
    0.44,
    0.273,
)  # of 0, 1+, 2+, 3+ in BCI: about 243, 1153, 2142, 1335 of 4873 patches
TRIES = 30  # windows looked at before a slide is said not to show a score
GRADES = {  # lowest and highest share of cells of grade 3, 2, 1 on a slide of a score
    0: ((0, 0, 0), (0, 0, 0.07)),
    1: ((0, 0, 0.25), (0, 0.05, 0.9)),
    2: ((0, 0.25, 0.2), (0.06, 0.85, 0.8)),
    3: ((0.3, 0.3, 0.2), (0.95, 0.9, 0.9)),
}
RANGES = dict(  # lowest and highest of what slides draw evenly
    purity=(0, 1.5),
    drawn_out=(1, 2.4),
    tumour=(0, 2.6),
    density=(-0.5, 1.6),
    coarse=(0.8, 1.5),
    height_um=(18, 32),
    chromatin=(0.1, 0.3),
    pleomorphic=(0.2, 0.8),
    vessels=(0.1, 0.5),
    blood=(0.2, 1.2),
    fat=(1.4, 3.5),
    crowd=(-0.7, 0.1),
    loose=(-0.6, 0.6),
    shrink=(-0.6, 0.4),
    grain=(0, 1),
    edge=(1.5, 3.5),
)


@dataclass(frozen=True)
class Slide:
    """What the patches of one slide share."""

    seed: int
    score: int
    patient: str
    laboratory: int
    optics: scanner.Optics
    levels: dict  # of the misleaders that a whole slide has
    grades: tuple  # shares of cells of grade 3, 2, 1
    clone: tuple  # the same of a second clone
    architecture: str
    second: str
    purity: float  # how little of the second architecture there is
    drawn_out: float  # length to width of nests
    tumour: float  # how much carcinoma
    density: float  # how closely its nests lie
    coarse: float  # their size
    cell_um: float
    nucleus_um: float  # radius
    height_um: float  # of columnar epithelium
    haematoxylin: float  # optical density of a nucleus
    background: float  # the same of stroma
    body: float  # the same of cytoplasm
    chromatin: float
    pleomorphic: float
    normal: float  # share of places with a normal gland
    vessels: float
    blood: float
    fat: float
    crowd: float  # of lymphocytes
    loose: float  # stroma, from dense to loose
    shrink: float  # clefts around nests
    grain: float  # direction of fibres, in turns
    core_um: float  # radius of a microarray core, 0 for a whole section
    core_at: tuple
    edge: float
    in_situ: float = 0.0
    necrosis_um: float = 1e3


def slide(seed, *, score=None, laboratory=0):
    """Slide drawn from a seed (an int or several): stain, scanner, patient, anatomy and mix of cells."""
    rng = rng_of(seed, 11)
    score = int(rng.choice(4, p=MIX)) if score is None else int(score)
    haematoxylin = float(np.clip(rng.lognormal(np.log(0.13), 0.65), 0.03, 0.5))
    cell_um = rng.uniform(8, 12)
    first, second = rng.choice(tissue.ARCHITECTURES, 2, p=(0.4, 0.15, 0.35, 0.1))
    return Slide(
        seed=int(rng.integers(2**62)),
        score=score,
        patient=f"P{np.ravel(seed)[-1]:05d}",
        laboratory=laboratory,
        optics=scanner.draw(rng, laboratory=laboratory),
        levels=_levels(rng),
        grades=_grades(score, rng),
        clone=_grades(int(np.clip(score + rng.choice((-2, -1, 1, 2)), 0, 3)), rng),
        architecture=str(first),
        second=str(second),
        core_um=float(rng.choice([0.0, rng.uniform(480, 760)], p=(0.7, 0.3))),
        core_at=tuple(rng.uniform(0, 1000, 2)),
        haematoxylin=haematoxylin,
        background=min(haematoxylin * rng.uniform(0.15, 0.5), 0.11),
        body=haematoxylin * rng.uniform(0.02, 0.24),
        cell_um=cell_um,
        nucleus_um=cell_um * rng.uniform(0.33, 0.43),
        normal=max(0.0, rng.uniform(-0.5, 0.7)),
        **{name: rng.uniform(*ends) for name, ends in RANGES.items()},
    )


def set_up(seed, score, plan, switches):
    """(Slide as this patch shows it, {misleader: level}, generator)."""
    for name in set(switches) - set(MISLEADERS):
        raise ValueError(
            f"There is no setting or misleader {name!r} of phantoms.{did_you_mean(name, MISLEADERS)}"
        )
    plan = plan or slide(seed, score=score)
    own = rng_of(seed, 16)
    drawn = {
        name: own.uniform(0.3, 1) * (own.random() < rate) for name, rate in RATES.items()
    } | plan.levels
    levels = {
        n: drawn[n] if switches.get(n) is None else FORCED.get(n, 1.0) * float(switches[n])
        for n in MISLEADERS
    }
    plan = replace(
        plan,
        in_situ=levels["in_situ"],
        necrosis_um=62 - 25 * levels["necrosis"] if levels["necrosis"] else 1e3,
    )
    return (
        (plan if levels["clones"] else replace(plan, clone=plan.grades)),
        levels,
        rng_of(seed, 12),
    )


def find(plan, rng, side_um, score=None, at_um=None):
    """(Window, Ground, Cells, cell table) at at_um, or on tissue and, when a score is wanted, on enough tumour of that score."""
    wanted = score if at_um is None else None  # a given place is taken as it is
    for _ in range(TRIES):
        corner = _corner(plan, rng, side_um) if at_um is None else at_um
        window = tissue.Window(float(corner[0]), float(corner[1]), float(side_um))
        ground = tissue.lay_out(plan, window)
        cells = tissue.populate(plan, ground)
        table = _stain(plan, ground, cells)
        if wanted is not None:
            shown, rows = decide(table, window, 1.0)
        if wanted is None or (shown == wanted and enough(rows, side_um)):
            return window, ground, cells, table
    raise LookupError(
        f"No window of {side_um:g} um of this slide shows the score {SCORES[score]}: give another slide or seed."
    )


def decide(table, window, mpp):
    """(score, rows of carcinoma cells with their nucleus in the window, x and y in pixels); marks in table who decides."""
    x, y = (
        (table[name].to_numpy() - corner) / mpp
        for name, corner in (("x", window.x_um), ("y", window.y_um))
    )
    side, invasive = window.side_um / mpp, table.invasive.to_numpy()
    inside = np.flatnonzero(table.tumour.to_numpy() & (x >= 0) & (y >= 0) & (x < side) & (y < side))
    rows = (
        table.iloc[inside]
        .reset_index(drop=True)
        .assign(x=x[inside], y=y[inside])
        .drop(columns="tumour")
    )
    score = score_of_cells(rows)
    rows["deciding"] = invasive[inside] & (
        grades_of_cells(rows) >= score
    )  # score 0: that none stains decides, so all do
    table["deciding"] = np.isin(np.arange(len(table)), inside[rows.deciding])
    return score, rows


def score_of_cells(cells):
    """int 0..3 by the ASCO/CAP 2018 rule, from intensity (DAB density) and completeness (share) of invasive cells."""
    grade = grades_of_cells(cells)[cells.invasive.to_numpy(bool)]
    reached = [score for score in (3, 2, 1) if (grade >= score).sum() > SHARE * len(grade)]
    return reached[0] if reached else 0


def grades_of_cells(cells):
    """(n,) int 0..3: 3 complete and intense, 2 complete and weak to moderate, 1 any fainter or incomplete stain, 0 none."""
    intensity, completeness = cells.intensity.to_numpy(), cells.completeness.to_numpy()
    complete, stained = completeness >= COMPLETE, (intensity >= FAINT) & (completeness > 0)
    return np.select(
        [complete & (intensity >= INTENSE), complete & (intensity >= WEAK), stained], [3, 2, 1], 0
    )


def enough(rows, side_um):
    """bool, whether carcinoma fills about a twentieth of a window."""
    return len(rows) > max(8, side_um**2 / 4000)


def rng_of(seed, *tags):
    """Generator of a seed (an int or several) and a purpose."""
    return np.random.default_rng([*np.ravel(seed).astype(int).tolist(), *tags])


def _levels(rng):
    """{misleader: level} of a slide: optical density of blush and edge, share of ducts, whether there are two clones."""
    blush = rng.exponential((0.045, 0.025)) * (rng.random(2) < 0.7)
    edge, in_situ = (max(0.0, rng.uniform(-1, 1) * top) for top in (0.45, 0.5))
    return dict(
        blush=blush[0],
        stromal_blush=blush[1],
        edge=edge,
        in_situ=in_situ,
        clones=float(rng.random() < 0.15),
    )


def _grades(score, rng):
    shares = rng.uniform(*GRADES[score])
    return tuple(np.diff(np.minimum(np.cumsum(shares), 1), prepend=0).tolist())


def _corner(plan, rng, side_um):
    """(2,) a corner whose window lies on tissue: the first with less than 0.3 glass, or the best of many."""
    corners, shares = rng.uniform(-20000, 20000, (60, 2)), []
    for corner in corners:
        shares.append(tissue.glass_share(plan, tissue.Window(*corner, side_um)))
        if shares[-1] < 0.3:
            break
    return corners[int(np.argmin(shares))]


def _stain(plan, ground, cells):
    """DataFrame, one row per cell of any kind around the window, with the stain of its membrane and cytoplasm."""
    row, column = ground.nearest(cells.x, cells.y)
    near = tissue.noise(plan.seed, 81, ground.x, ground.y, 70.0)[row, column]
    clone = tissue.noise(plan.seed, 82, ground.x, ground.y, 150.0)[row, column] > 0.4
    r = cells.random
    own = np.sqrt(3) * (
        r[:, 2] + r[:, 3] + r[:, 5] + r[:, 6] - 2
    )  # a sum of four uniforms is near enough to normal
    rank = ndtr(0.75 * near + 0.66 * own)
    three, two, one = np.where(
        clone, np.cumsum(plan.clone)[:, None], np.cumsum(plan.grades)[:, None]
    )
    tumour = np.isin(cells.kind, (tissue.TUMOUR, tissue.IN_SITU))
    grade = np.select([rank < three, rank < two, rank < one], [3, 2, 1], 0) * tumour
    low, high = np.array([0, 0.08, 0.20, 0.60])[grade], np.array([0, 0.17, 0.48, 1.05])[grade]
    intensity = low + (high - low) * np.clip(0.5 + 0.3 * near + 0.4 * (r[:, 1] - 0.5), 0, 1)
    completeness = np.where(grade >= 2, 0.88 + 0.12 * r[:, 4], 0.15 + 0.6 * r[:, 4]) * (grade > 0)
    cytoplasm, invasive = intensity * (0.12 + 0.4 * r[:, 3]), cells.kind == tissue.TUMOUR
    rows = dict(
        x=cells.x, y=cells.y, intensity=intensity, completeness=completeness, cytoplasm=cytoplasm
    )
    return pd.DataFrame(rows | dict(clone=clone.astype(int), invasive=invasive, tumour=tumour))
