"""The simulated slide and its cells.

What the patches of a slide share, how every carcinoma cell stains, and the score the cells make.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtr

from her2lib.files import did_you_mean
from her2lib.phantoms import artefacts, scanner, tissue
from her2lib.scores import SCORES

ARTEFACTS = ("clones", "in_situ", *artefacts.PAINTERS)

# How often a patch shows an artefact that is drawn patch by patch.
RATES = {
    "necrosis": 0.12,
    "haemosiderin": 0.12,
    "crushed": 0.1,
    "folds": 0.08,
    "dust": 0.3,
    "bubbles": 0.03,
    "pen": 0.03,
    "out_of_focus": 0.06,
}
# What True means where a level is a density or a fraction.
FORCED = {"blush": 0.15, "stromal_blush": 0.12, "edge": 0.4, "in_situ": 0.6}

# Fraction of the outline, and DAB densities. No standard gives them: they part the grades that are
# drawn here.
COMPLETE = 0.85
INTENSE = 0.55
WEAK = 0.18
FAINT = 0.04
CELL_FRACTION = 0.10  # a score needs its grade in more than 10 % of the cells (ASCO/CAP 2018)

MIX = (0.05, 0.237, 0.44, 0.273)  # 0 .. 3+ in BCI: about 243, 1153, 2142, 1335 of 4873 patches
TRIES = 30  # windows looked at before a slide is said not to show a score

# Lowest and highest fraction of cells of grade 3, 2, 1 on a slide of a score.
GRADES = {
    0: ((0, 0, 0), (0, 0, 0.07)),
    1: ((0, 0, 0.25), (0, 0.05, 0.9)),
    2: ((0, 0.25, 0.2), (0.06, 0.85, 0.8)),
    3: ((0.3, 0.3, 0.2), (0.95, 0.9, 0.9)),
}
# Lowest and highest DAB density of the membrane of a cell of grade 0, 1, 2, 3.
LOWEST_DAB = (0, 0.08, 0.20, 0.60)
HIGHEST_DAB = (0, 0.17, 0.48, 1.05)

# Lowest and highest of what slides draw evenly.
RANGES = {
    "purity": (0, 1.5),
    "drawn_out": (1, 2.4),
    "tumour": (0, 2.6),
    "density": (-0.5, 1.6),
    "coarse": (0.8, 1.5),
    "height_um": (18, 32),
    "chromatin": (0.1, 0.3),
    "pleomorphic": (0.2, 0.8),
    "vessels": (0.1, 0.5),
    "blood": (0.2, 1.2),
    "fat": (1.4, 3.5),
    "crowd": (-0.7, 0.1),
    "loose": (-0.6, 0.6),
    "shrink": (-0.6, 0.4),
    "grain": (0, 1),
    "edge": (1.5, 3.5),
}


# --- the slide -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slide:
    """What the patches of one slide share."""

    seed: int
    score: int
    patient: str
    laboratory: int
    optics: scanner.Optics
    levels: dict[str, float]  # of the artefacts that a whole slide has
    grades: tuple[float, ...]  # fractions of cells of grade 3, 2, 1
    clone: tuple[float, ...]  # the same of a second clone
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
    normal: float  # fraction of sites with a normal gland
    vessels: float
    blood: float
    fat: float
    crowd: float  # of lymphocytes
    loose: float  # stroma, from dense to loose
    shrink: float  # clefts around nests
    grain: float  # direction of fibres, in turns
    core_um: float  # radius of a microarray core, 0 for a whole section
    core_at: tuple[float, ...]
    edge: float
    in_situ: float = 0.0
    necrosis_um: float = 1e3


def draw_slide(seed: int | list[int], *, score: int | None = None, laboratory: int = 0) -> Slide:
    """Slide drawn from a seed (an int or several): stain, scanner, patient, anatomy, mix of cells.

    Score 0..3 is drawn in BCI's fractions unless given; slides of one laboratory share its
    scanner and its dyes. For example draw_slide(7, score=2).
    """
    rng = rng_of(seed, 11)
    # every draw below advances the same generator: their order makes the slide
    drawn_score = _draw_score(rng, score)
    haematoxylin = float(np.clip(rng.lognormal(np.log(0.13), 0.65), 0.03, 0.5))
    cell_um = rng.uniform(8, 12)
    first, second = rng.choice(tissue.ARCHITECTURES, 2, p=(0.4, 0.15, 0.35, 0.1))
    return Slide(
        seed=int(rng.integers(2**62)),
        score=drawn_score,
        patient=f"P{np.ravel(seed)[-1]:05d}",
        laboratory=laboratory,
        optics=scanner.draw_optics(rng, laboratory=laboratory),
        levels=_draw_levels(rng),
        grades=_draw_grades(drawn_score, rng),
        clone=_draw_grades(int(np.clip(drawn_score + rng.choice((-2, -1, 1, 2)), 0, 3)), rng),
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


def set_up_patch(seed, score, slide, switches):
    """(Slide as this patch shows it, {artefact: level}, generator); a slide of None is drawn.

    switches: {artefact: True, False or a strength}; those not named stay as drawn.
    """
    for name in set(switches) - set(ARTEFACTS):
        hint = did_you_mean(name, ARTEFACTS)
        raise ValueError(f"There is no setting or artefact {name!r} of phantoms.{hint}")
    if slide is None:
        slide = draw_slide(seed, score=score)
    levels = _patch_levels(seed, slide, switches)
    necrosis_um = 1e3
    if levels["necrosis"]:
        necrosis_um = 62 - 25 * levels["necrosis"]
    slide = replace(slide, in_situ=levels["in_situ"], necrosis_um=necrosis_um)
    if not levels["clones"]:
        slide = replace(slide, clone=slide.grades)
    return slide, levels, rng_of(seed, 12)


def rng_of(seed, *tags):
    """Generator of a seed (an int or several) and a purpose."""
    return np.random.default_rng([*np.ravel(seed).astype(int).tolist(), *tags])


# --- a window of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One window of a slide: its anatomy, its cells, and how each of them stains."""

    window: tissue.Window
    ground: tissue.Ground
    cells: tissue.Cells
    table: pd.DataFrame  # one row per cell: x, y in micrometres, stain, clone, invasive, tumour


def view_at(slide, at_um, side_um):
    """View of the window whose corner (x, y) lies at at_um."""
    window = tissue.Window(float(at_um[0]), float(at_um[1]), float(side_um))
    ground = tissue.lay_out(slide, window)
    cells = tissue.populate(slide, ground)
    return View(window, ground, cells, _stain_cells(slide, ground, cells))


def find_view(slide, rng, side_um, score=None):
    """View of a window on tissue and, when a score is wanted, on enough tumour of that score.

    Raises LookupError when none of TRIES windows shows the score.
    """
    for _ in range(TRIES):
        view = view_at(slide, _corner(slide, rng, side_um), side_um)
        if score is None:
            return view
        shown, rows, _ = decide(view, 1.0)
        if shown == score and enough_tumour(rows, side_um):
            return view
    raise LookupError(
        f"No window of {side_um:g} um of this slide shows the score {SCORES[score]}: "
        "give another slide or seed."
    )


def enough_tumour(rows, side_um):
    """bool, whether the carcinoma cells (rows) fill about a twentieth of a window."""
    return len(rows) > max(8, side_um**2 / 4000)


# --- the score -----------------------------------------------------------------------------------


def decide(view, mpp):
    """(score, rows, (n,) bool: which of all cells of the view decide the score).

    rows: DataFrame of the carcinoma cells with their nucleus in the window, x and y in pixels.
    """
    table = view.table
    x = (table["x"].to_numpy() - view.window.x_um) / mpp
    y = (table["y"].to_numpy() - view.window.y_um) / mpp
    side = view.window.side_um / mpp
    in_window = (x >= 0) & (y >= 0) & (x < side) & (y < side)
    inside = np.flatnonzero(table["tumour"].to_numpy() & in_window)
    rows = table.iloc[inside].reset_index(drop=True)
    rows = rows.assign(x=x[inside], y=y[inside]).drop(columns="tumour")
    score = score_of_cells(rows)
    # score 0: that none stains decides, so all do
    rows["deciding"] = rows["invasive"].to_numpy() & (grades_of_cells(rows) >= score)
    deciding = np.isin(np.arange(len(table)), inside[rows["deciding"]])
    return score, rows, deciding


def score_of_cells(cells: pd.DataFrame) -> int:
    """int 0..3 by the ASCO/CAP 2018 rule, from the stain of invasive cells.

    One row per cell: intensity (DAB optical density), completeness (fraction of the outline),
    invasive (bool). Example: score_of_cells(make_patch(7).cells).
    """
    grade = grades_of_cells(cells)[cells["invasive"].to_numpy(bool)]
    for score in (3, 2, 1):
        if (grade >= score).sum() > CELL_FRACTION * len(grade):
            return score
    return 0


def grades_of_cells(cells):
    """(n,) int 0..3 of every cell, from intensity and completeness.

    3 complete and intense, 2 complete and weak to moderate, 1 any fainter or incomplete stain.
    """
    intensity = cells["intensity"].to_numpy()
    completeness = cells["completeness"].to_numpy()
    complete = completeness >= COMPLETE
    stained = (intensity >= FAINT) & (completeness > 0)
    strong = complete & (intensity >= INTENSE)
    moderate = complete & (intensity >= WEAK)
    return np.select([strong, moderate, stained], [3, 2, 1], 0)


# --- draws ---------------------------------------------------------------------------------------


def _draw_score(rng, score):
    """int 0..3, drawn in BCI's fractions where none is given."""
    if score is None:
        return int(rng.choice(4, p=MIX))
    return int(score)


def _draw_levels(rng):
    """{artefact: level} of a slide.

    Optical density of blush and edge, fraction of ducts, whether there are two clones.
    """
    blush = rng.exponential((0.045, 0.025)) * (rng.random(2) < 0.7)
    return {
        "blush": blush[0],
        "stromal_blush": blush[1],
        "edge": max(0.0, rng.uniform(-1, 1) * 0.45),
        "in_situ": max(0.0, rng.uniform(-1, 1) * 0.5),
        "clones": float(rng.random() < 0.15),
    }


def _draw_grades(score, rng):
    """Three floats, the fractions of cells of grade 3, 2, 1 on a slide of a score."""
    fractions = rng.uniform(*GRADES[score])
    return tuple(np.diff(np.minimum(np.cumsum(fractions), 1), prepend=0).tolist())


def _patch_levels(seed, slide, switches):
    """{artefact: level} of one patch: drawn for it, its slide's, or as switched."""
    rng = rng_of(seed, 16)
    drawn = {}
    for name, rate in RATES.items():
        strength = rng.uniform(0.3, 1)
        drawn[name] = strength * (rng.random() < rate)
    drawn |= slide.levels
    levels = {}
    for name in ARTEFACTS:
        levels[name] = drawn[name]
        if switches.get(name) is not None:
            levels[name] = FORCED.get(name, 1.0) * float(switches[name])
    return levels


def _corner(slide, rng, side_um):
    """(2,) corner of a window on tissue: the first with less than 0.3 glass, or the best of 60."""
    corners = rng.uniform(-20000, 20000, (60, 2))
    glass = []
    for corner in corners:
        glass.append(tissue.glass_fraction(slide, tissue.Window(*corner, side_um)))
        if glass[-1] < 0.3:
            break
    return corners[int(np.argmin(glass))]


def _stain_cells(slide, ground, cells):
    """DataFrame, one row per cell of any kind, with the stain of its membrane and cytoplasm."""
    r = cells.random
    rows, columns = ground.nearest(cells.x, cells.y)
    shared = tissue.noise(slide.seed, 81, ground.x, ground.y, 70.0)[rows, columns]
    clone = tissue.noise(slide.seed, 82, ground.x, ground.y, 150.0)[rows, columns] > 0.4
    tumour = np.isin(cells.kind, (tissue.TUMOUR, tissue.IN_SITU))
    grade = _draw_cell_grades(slide, r, shared, clone) * tumour

    low = np.array(LOWEST_DAB)[grade]
    high = np.array(HIGHEST_DAB)[grade]
    intensity = low + (high - low) * np.clip(0.5 + 0.3 * shared + 0.4 * (r[:, 1] - 0.5), 0, 1)
    complete = 0.88 + 0.12 * r[:, 4]
    incomplete = 0.15 + 0.6 * r[:, 4]
    completeness = np.where(grade >= 2, complete, incomplete) * (grade > 0)
    columns = {
        "x": cells.x,
        "y": cells.y,
        "intensity": intensity,
        "completeness": completeness,
        "cytoplasm": intensity * (0.12 + 0.4 * r[:, 3]),
        "clone": clone.astype(int),
        "invasive": cells.kind == tissue.TUMOUR,
        "tumour": tumour,
    }
    return pd.DataFrame(columns)


def _draw_cell_grades(slide, r, shared, clone):
    """(n,) int 0..3, so that each clone holds its fractions of grades; neighbours are alike."""
    # a sum of four uniforms is near enough to normal
    single = np.sqrt(3) * (r[:, 2] + r[:, 3] + r[:, 5] + r[:, 6] - 2)
    rank = ndtr(0.75 * shared + 0.66 * single)
    first = np.cumsum(slide.grades)[:, None]
    second = np.cumsum(slide.clone)[:, None]
    three, two, one = np.where(clone, second, first)  # (3,n) upper ends of the ranks
    return np.select([rank < three, rank < two, rank < one], [3, 2, 1], 0)
