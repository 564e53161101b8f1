"""Synthetic HER2 patches and slides with the truth known to the pixel: cells, membranes, tissue, the deciding cells, the score."""

import io
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import ndtr
from tqdm.auto import tqdm

from her2lib import optics, paint, tissue
from her2lib.scores import SCORES

ANATOMICAL = ("clones", "in_situ", "necrosis")  # misleaders that change which cells there are; the others lie on top
MISLEADERS = ("clones", "in_situ", *paint.MISLEADING)
TRIES = 30  # windows looked at before a slide is said not to show a score
RATES = dict(haemosiderin=0.12, crushed=0.12, folds=0.08, dust=0.3, bubbles=0.03, pen=0.03, out_of_focus=0.06, necrosis=0.12)
FORCED = dict(blush=0.15, stromal_blush=0.12, edge=0.4, in_situ=0.6)  # what True stands for where levels are optical densities or shares
COMPLETE, INTENSE, WEAK, FAINT, SHARE = 0.85, 0.55, 0.18, 0.04, 0.10  # of the outline; DAB density; > 10 % of tumour cells (ASCO/CAP 2018)
VERSION = 1  # of the pictures: a folder made by another version is not mixed with this one
MIX = (0.05, 0.237, 0.44, 0.273)  # shares of 0, 1+, 2+, 3+ in the BCI data set (243, 1153, 2142, 1335 of 4873)


@dataclass(frozen=True)
class Slide:
    """What the patches of one slide share."""

    seed: int
    score: int
    patient: str
    laboratory: int
    optics: optics.Optics
    architecture: str
    second: str
    purity: float
    drawn_out: float
    tumour: float
    density: float
    coarse: float
    cell_um: float
    nucleus_um: float
    height_um: float
    haematoxylin: float
    normal: float
    in_situ: float
    vessels: float
    fat: float
    crowd: float
    loose: float
    shrink: float
    blood: float
    background: float
    body: float
    chromatin: float
    pleomorphic: float
    grain: float
    core_um: float
    core_at: tuple
    edge: float
    necrosis_um: float
    levels: dict  # of the misleaders that a whole slide has
    grades: tuple  # shares of cells of grade 3, 2, 1
    clone: tuple  # the same of the second clone


@dataclass(frozen=True)
class Phantom:
    """One patch and its truth."""

    image: np.ndarray
    masks: dict
    cells: pd.DataFrame
    score: int
    misleaders: dict
    slide: Slide = field(repr=False)
    at_um: tuple = (0.0, 0.0)
    he: np.ndarray | None = field(default=None, repr=False)


def slide(seed, *, score=None, laboratory=0, patient=None):
    """Slide: stain, scanner, patient and the mix of cells that its patches share."""
    rng = _rng(seed, 11)
    score = int(rng.choice(4, p=np.array(MIX) / sum(MIX))) if score is None else int(score)
    haematoxylin = float(np.clip(rng.lognormal(np.log(0.15), 0.55), 0.045, 0.5))
    cell_um = rng.uniform(8, 12)
    first, second = rng.choice(tissue.ARCHITECTURES, 2, p=(0.4, 0.15, 0.35, 0.1))
    return Slide(
        seed=int(rng.integers(2**62)),
        score=score,
        patient=patient or f"P{np.ravel(seed)[-1]:05d}",
        laboratory=laboratory,
        optics=optics.draw(rng, laboratory=laboratory),
        architecture=str(first),
        second=str(second),
        purity=rng.uniform(0, 1.5),
        drawn_out=rng.uniform(1, 2.4),
        tumour=rng.uniform(0, 2.2),
        density=rng.uniform(-0.5, 1.3),
        coarse=rng.uniform(0.8, 1.5),
        cell_um=cell_um,
        nucleus_um=cell_um * rng.uniform(0.33, 0.43),
        height_um=rng.uniform(18, 32),
        haematoxylin=haematoxylin,
        normal=max(0.0, rng.uniform(-0.5, 0.7)),
        in_situ=0.0,
        vessels=rng.uniform(0.1, 0.5),
        fat=rng.uniform(1.4, 3.5),
        crowd=rng.uniform(-0.7, 0.1),
        loose=rng.uniform(-0.6, 0.6),
        shrink=rng.uniform(-0.6, 0.4),
        blood=rng.uniform(0.2, 1.2),
        background=min(haematoxylin * rng.uniform(0.15, 0.5), 0.11),
        body=haematoxylin * rng.uniform(0.06, 0.32),
        chromatin=rng.uniform(0.1, 0.3),
        pleomorphic=rng.uniform(0.2, 0.8),
        grain=rng.uniform(),
        core_um=float(rng.choice([0.0, rng.uniform(480, 760)], p=(0.7, 0.3))),
        core_at=tuple(rng.uniform(0, 1000, 2)),
        edge=rng.uniform(1.5, 3.5),
        necrosis_um=1e3,
        levels=_levels(rng),
        grades=_grades(score, rng),
        clone=_grades(int(np.clip(score + rng.choice((-2, -1, 1, 2)), 0, 3)), rng),
    )


def patch(seed, *, side_px=1024, mpp=0.5, score=None, slide=None, truth=True, at_um=None, he=False, **switches):
    """Phantom of one patch; slide and score are drawn when not given, at_um is its corner on the slide."""
    plan, levels, rng = _set_up(seed, score, slide, switches)
    window, ground, cells, table = _find(plan, rng, side_px * mpp, score, at_um)
    inner = {name: table[name].to_numpy(np.float32) for name in ("intensity", "completeness", "cytoplasm")}
    fine = max(1, int(np.ceil(mpp)))  # membranes are about 1.3 um: coarser pictures are averaged from finer ones
    canvas = paint.paint(plan, ground, cells, inner, side_px=side_px * fine, rng=rng, levels=levels)
    image = _seen(plan, canvas, ("haematoxylin", "dab", "grey", "ink", "pigment"), mpp / fine, rng)
    score, shown = _decide(table, window, mpp)
    canvas.masks["deciding"] = np.append(table.deciding.to_numpy(), False)[canvas.owner]
    masks = {name: _shrink(mask, fine) for name, mask in canvas.masks.items()} if truth else {}
    pink = _pink(plan, canvas, mpp / fine, rng, fine) if he else None
    present = {name: levels[name] for name in ("clones", "in_situ")} | canvas.seen
    return Phantom(_shrink(image, fine), masks, shown, score, present, plan, (window.x_um, window.y_um), pink)


def cells(seed, *, side_px=1024, mpp=0.5, score=None, slide=None, at_um=None, **switches):
    """(cell table, score) of patch(seed, ...) without painting it."""
    plan, _, rng = _set_up(seed, score, slide, switches)
    window, _, _, table = _find(plan, rng, side_px * mpp, score, at_um)
    score, shown = _decide(table, window, mpp)
    return shown, score


def score_of_cells(cells):
    """int 0..3 by the ASCO/CAP 2018 rule from intensity (DAB density) and completeness (share of the outline) of invasive cells."""
    grade = grades_of_cells(cells)
    invasive = cells.invasive.to_numpy(bool)
    reached = [score for score in (3, 2, 1) if (grade[invasive] >= score).sum() > SHARE * invasive.sum()]
    return reached[0] if reached else 0


def grades_of_cells(cells):
    """(n,) int 0..3: 3 complete and intense, 2 complete and weak to moderate, 1 any fainter or incomplete stain, 0 none."""
    intensity, complete = cells.intensity.to_numpy(), cells.completeness.to_numpy() >= COMPLETE
    stained = (intensity >= FAINT) & (cells.completeness.to_numpy() > 0)
    return np.select([complete & (intensity >= INTENSE), complete & (intensity >= WEAK), stained], [3, 2, 1], 0)


def place(seed, slide, *, side_um, score=None, **switches):
    """(x, y) in micrometres, the corner of a window that shows tissue and, where the slide has it, tumour of that score."""
    plan, _, rng = _set_up(seed, score, slide, switches)
    try:
        window, *_ = _find(plan, rng, side_um, score, None)
    except LookupError:  # a slide poor in tumour: any tissue then, and the cells there say the score
        window, *_ = _find(plan, rng, side_um, None, None)
    return window.x_um, window.y_um


def beside(at_um, slide, *, side_um, empty=False, **switches):
    """(x, y) in micrometres, the corner of a window that touches the one at at_um and shows tumour, or may be empty."""
    plan = _set_up(0, None, slide, switches)[0]
    for step in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        at = (at_um[0] + step[0] * side_um, at_um[1] + step[1] * side_um)
        *_, table = _find(plan, None, side_um, None, at)
        if empty or _enough(_decide(table, tissue.Window(*at, side_um), 1.0)[1], side_um):
            return at
    return at


def write(
    folder,
    *,
    patches=400,
    slides=24,
    side_px=256,
    mpp=1.0,
    seed=0,
    weak=False,
    balanced=False,
    he=False,
    truth=False,
    external=0,
    raters=0,
    workers=None,
    progress=True,
    **switches,
):
    """Path of a BCI-shaped folder of phantoms with phantom.csv; the same call goes on where it was stopped and repeats nothing."""
    _known(switches)
    folder = Path(folder)
    settings = dict(version=VERSION, patches=patches, slides=slides, side_px=side_px, mpp=mpp, seed=seed, weak=weak, balanced=balanced)
    settings |= dict(he=he, truth=truth, external=external, raters=raters, **switches)
    if _complete(folder, settings):
        return folder
    jobs = _jobs(settings)
    for name in {"IHC/train", "IHC/test", ".parts"} | {j["folder"] for j in jobs} | ({"HE/train", "HE/test"} if he else set()):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if truth:
        (folder / "truth").mkdir(exist_ok=True)
    left = [job for job in jobs if not (folder / ".parts" / f"{job['id']}.json").exists()]
    run = joblib.Parallel(workers or os.cpu_count(), return_as="generator_unordered", batch_size=1)
    done = run(joblib.delayed(_write_one)(folder, job, settings, switches) for job in left)
    bar = tqdm(done, total=len(jobs), initial=len(jobs) - len(left), desc="phantoms", unit="patch", disable=not progress)
    for _ in bar:
        pass
    return _finish(folder, settings, jobs)


_slide = slide


def _known(switches):
    unknown = set(switches) - set(MISLEADERS)
    if unknown:
        raise ValueError(f"No misleader is called {min(unknown)!r}: choose from {', '.join(MISLEADERS)}.")


def _complete(folder, settings):
    """True when folder holds this very set; an unfinished one is marked as ours, another one is refused."""
    settings = json.loads(json.dumps(settings))
    for name in ("phantom.json", ".phantom.json"):
        if (folder / name).exists():
            held = json.loads((folder / name).read_text())
            if held != settings:
                key = next(k for k in sorted(held | settings) if held.get(k) != settings.get(k))
                was, now = held.get(key), settings.get(key)
                raise ValueError(f"{folder} holds phantoms made with {key}={was}, not {now}: choose another folder or delete it.")
            if name == "phantom.json":
                _sweep(folder)
                return True
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / ".phantom.json", json.dumps(settings, indent=1).encode())
    return False


def _jobs(settings):
    """One dictionary per patch: which slide, which place in it, where its file goes."""
    jobs = []
    shares = (0.25,) * 4 if settings["balanced"] else MIX
    scores, counts = _allot(settings["patches"], settings["slides"], shares)
    test = _every_fifth(scores)
    running = {"train": 0, "test": 0}
    for k, (score, count) in enumerate(zip(scores, counts, strict=True)):
        part = "test" if test[k] else "train"
        for j in range(count):
            jobs.append(dict(id=f"{part}{running[part]:05d}", slide=k, place=j, score=score, set=part, folder=f"IHC/{part}", laboratory=0))
            jobs[-1]["number"] = running[part]
            running[part] += 1
    patients = max(3, round(settings["external"] * 19 / 281)) if settings["external"] else 0
    scores, counts = _allot(settings["external"], patients, shares if settings["balanced"] else (0, 134, 38, 109))
    place = dict(set="external", folder="external", laboratory=1)
    for k, (score, count) in enumerate(zip(scores, counts, strict=True)):
        for j in range(count):
            number = len(jobs)
            jobs.append(dict(id=f"external{number:05d}", slide=10000 + k, place=j, score=score, number=number, **place))
    return jobs


def _allot(patches, slides, shares):
    """(scores, counts) of slides so that patches fall on scores in these shares, every score with a share having a slide if possible."""
    if not slides:
        return [], []
    shares = np.array(shares, float) / sum(shares)
    each = np.zeros(4, int)
    for _ in range(slides):  # the score furthest behind its share; one without a slide comes first
        each[np.argmax(np.where(each == 0, shares + (shares > 0), shares / (each + 1)))] += 1
    wanted = np.where(each > 0, shares, 0) / shares[each > 0].sum() * patches
    scores = np.repeat(np.arange(4), each)
    ends = np.rint(np.cumsum(wanted[scores] / each[scores])).astype(int)
    return scores.tolist(), np.diff(ends, prepend=0).tolist()


def _every_fifth(scores):
    """One slide in five of every score goes to the test set, at least one where a score has two."""
    test = np.zeros(len(scores), bool)
    for score in set(scores):
        mine = np.flatnonzero(np.array(scores) == score)
        test[mine[: max(round(len(mine) / 5), int(len(mine) > 1))]] = True
    return test


def _write_one(folder, job, settings, switches):
    made = _make(job, settings, switches)
    row = _row(job, made, settings)
    _save_picture(folder / job["folder"] / row["name"], made.image)
    if settings["he"] and job["set"] != "external":
        _save_picture(folder / "HE" / job["set"] / row["name"], made.he)
    if settings["truth"]:
        stem = folder / "truth" / Path(row["name"]).stem
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **made.masks)
        _save(stem.with_name(stem.name + ".npz"), buffer.getvalue())
        _save(stem.with_name(stem.name + ".csv"), made.cells.round(3).to_csv(index=False).encode())
    _save(folder / ".parts" / f"{job['id']}.json", json.dumps(row).encode())  # last: this patch is done


def _make(job, settings, switches):
    plan = slide([settings["seed"], job["slide"]], score=job["score"], laboratory=job["laboratory"])
    side_um = settings["side_px"] * settings["mpp"]
    first = [settings["seed"], job["slide"], job["place"] // 2 * 2]
    wanted = None if settings["weak"] else job["score"]
    at = place(first, plan, side_um=side_um, score=wanted, **switches)
    if job["place"] % 2:  # every second patch touches the one before it
        at = beside(at, plan, side_um=side_um, empty=settings["weak"], **switches)
    options = dict(side_px=settings["side_px"], mpp=settings["mpp"], truth=settings["truth"], he=settings["he"])
    return patch([*first, job["place"]], slide=plan, at_um=at, **options, **switches)


def _row(job, made, settings):
    weak = settings["weak"] and job["set"] != "external"
    rng = np.random.default_rng([settings["seed"], job["slide"], job["place"], 14])
    ratings = _rate(made.score, settings["raters"], settings["seed"], rng)
    score = job["score"] if weak else made.score
    if job["set"] == "external" and len(ratings) > 1:  # the joint meeting: the middle of two readings and the truth
        score = int(np.median([*list(ratings.values())[:2], made.score]))
    name = f"{job['number']:05d}_{job['set']}_{SCORES[score]}.png"
    row = dict(name=name, score=SCORES[score], slide=f"S{job['slide']:05d}", patient=f"P{job['slide']:05d}", set=job["set"])
    row |= dict(mpp=settings["mpp"], cell_score=SCORES[made.score], weak=weak, tumour_cells=len(made.cells))
    row |= {"x_um": round(made.at_um[0], 2), "y_um": round(made.at_um[1], 2)} | {k: round(v, 4) for k, v in made.misleaders.items()}
    return row | {k: SCORES[v] for k, v in ratings.items()}


def _rate(score, raters, seed, rng):
    """{rater: score}: each rater has a leaning and a spread of their own, and all share the patch's ambiguity."""
    doubt, ratings = rng.uniform(-0.4, 0.4), {}
    for k in range(raters):
        own = np.random.default_rng([seed, 15, k])
        bias, spread = own.normal(0, 0.12), own.uniform(0.15, 0.4)
        ratings[f"rater_{chr(97 + k)}"] = int(np.clip(np.rint(score + doubt + bias + rng.normal(0, spread)), 0, 3))
    return ratings


def _finish(folder, settings, jobs):
    rows = pd.DataFrame([json.loads((folder / ".parts" / f"{job['id']}.json").read_text()) for job in jobs])
    _save(folder / "phantom.csv", rows.to_csv(index=False).encode())
    if settings["external"]:
        outside = rows[rows.set == "external"]
        columns = ["path", "score", "slide", "patient", "mpp", *[c for c in rows if c.startswith("rater_")]]
        _save(folder / "external" / "manifest.csv", outside.rename(columns={"name": "path"})[columns].to_csv(index=False).encode())
    _save(folder / "phantom.json", json.dumps(settings, indent=1).encode())
    _sweep(folder)
    return folder


def _sweep(folder):
    for path in (*folder.rglob(".*.tmp"), *folder.glob(".parts/*.json"), folder / ".phantom.json"):
        path.unlink(missing_ok=True)
    if (folder / ".parts").exists():
        (folder / ".parts").rmdir()


def _save(path, content):
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _save_picture(path, picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    _save(path, buffer.getvalue())


def _pink(plan, canvas, mpp, rng, fine):
    """(H,W,3) uint8, the same tissue in haematoxylin and eosin."""
    canvas.dye["haematoxylin"] *= np.float32(0.75 / plan.haematoxylin)
    return _shrink(_seen(plan, canvas, ("haematoxylin", "eosin", "grey", "ink"), mpp, rng), fine)


def _seen(plan, canvas, dyes, mpp, rng):
    present = {name: canvas.dye[name] for name in dyes if name in ("haematoxylin", "dab", "eosin") or canvas.dye[name].any()}
    return optics.develop(plan.optics, present, mpp=mpp, rng=rng, defocus=canvas.defocus)


def _grades(score, rng):
    low = ((0, 0, 0.0), (0, 0, 0.25), (0, 0.25, 0.2), (0.3, 0.3, 0.2))[score]
    high = ((0, 0, 0.07), (0, 0.05, 0.9), (0.06, 0.85, 0.8), (0.95, 0.9, 0.9))[score]
    shares = np.array([rng.uniform(a, b) for a, b in zip(low, high, strict=True)])
    left = 1.0
    for k in range(3):
        shares[k] = min(shares[k], left)
        left -= shares[k]
    return tuple(shares)


def _find(plan, rng, side_um, score, at_um):
    """(window, ground, cells, table) at at_um, or where there is tissue and, if a score is wanted, enough tumour of that score."""
    for _ in range(1 if score is None or at_um is not None else TRIES):
        corner = _corner(plan, rng, side_um) if at_um is None else np.asarray(at_um, float)
        window = tissue.Window(float(corner[0]), float(corner[1]), float(side_um))
        ground = tissue.lay_out(plan, window)
        found = tissue.populate(plan, ground)
        table = _truth(plan, ground, found)
        shown, rows = _decide(table, window, 1.0)
        if at_um is not None or score is None or (shown == score and _enough(rows, side_um)):
            return window, ground, found, table
    raise LookupError(f"No window of {side_um:g} um of this slide shows the score {SCORES[score]}: give another slide or seed.")


def _corner(plan, rng, side_um):
    """(2,) a corner whose window lies on tissue: the first with less than 0.3 glass, or the best of many."""
    corners = rng.uniform(-20000, 20000, (60, 2))
    shares = []
    for corner in corners:
        shares.append(tissue.glass_share(plan, tissue.Window(*corner, side_um)))
        if shares[-1] < 0.3:
            break
    return corners[int(np.argmin(shares))]


def _enough(rows, side_um):
    return len(rows) > max(10, side_um**2 / 4000)  # about one twentieth of the window


def _truth(plan, ground, found):
    """DataFrame, one row per cell of any kind around the window, with the stain of its membrane."""
    latent = tissue.noise(plan.seed, 81, ground.x, ground.y, 70.0)
    row = np.rint((found.y - ground.y[0]) / tissue.STEP_UM).astype(int)
    column = np.rint((found.x - ground.x[0]) / tissue.STEP_UM).astype(int)
    r = found.random
    own = np.sqrt(3) * (r[:, 2] + r[:, 3] + r[:, 5] + r[:, 6] - 2)
    rank = ndtr(0.75 * latent[row, column] + 0.66 * own)
    second = tissue.noise(plan.seed, 82, ground.x, ground.y, 150.0)[row, column] > 0.4
    three, two, one = np.where(second, np.cumsum(plan.clone)[:, None], np.cumsum(plan.grades)[:, None])
    grade = np.select([rank < three, rank < two, rank < one], [3, 2, 1], 0) * np.isin(found.kind, (tissue.TUMOUR, tissue.IN_SITU))
    low, high = np.array([0, 0.08, 0.20, 0.60])[grade], np.array([0, 0.17, 0.48, 1.05])[grade]
    within = np.clip(0.5 + 0.3 * latent[row, column] + 0.4 * (r[:, 1] - 0.5), 0, 1)
    complete = np.where(grade >= 2, 0.88 + 0.12 * r[:, 4], 0.15 + 0.6 * r[:, 4]) * (grade > 0)
    intensity = low + (high - low) * within
    cytoplasm = intensity * (0.1 + 0.38 * r[:, 3])
    rows = dict(x=found.x, y=found.y, intensity=intensity, completeness=complete, cytoplasm=cytoplasm)
    return pd.DataFrame(rows | dict(invasive=found.kind == tissue.TUMOUR))


def _decide(table, window, mpp):
    """(score, cells whose nucleus lies in the window, x and y in pixels); marks the deciding cells in the table."""
    x, y = (table.x - window.x_um) / mpp, (table.y - window.y_um) / mpp
    side = window.side_um / mpp
    inside = table.invasive & (x >= 0) & (y >= 0) & (x < side) & (y < side)
    score = score_of_cells(table[inside])
    table["deciding"] = inside & (grades_of_cells(table) >= score)
    return score, table.assign(x=x, y=y)[inside].reset_index(drop=True)


def _rng(seed, *tags):
    return np.random.default_rng([*np.ravel(seed).astype(int).tolist(), *tags])


def _levels(rng):
    """{misleader: level} of a slide: optical density of blush and edge, share of ducts, whether there are two clones."""
    blush = rng.exponential((0.045, 0.025)) * (rng.random(2) < 0.7)
    edge, in_situ = (max(0.0, rng.uniform(-1, 1) * top) for top in (0.45, 0.5))
    return dict(blush=blush[0], stromal_blush=blush[1], edge=edge, in_situ=in_situ, clones=float(rng.random() < 0.15))


def _set_up(seed, score, plan, switches):
    """(slide as this patch shows it, level of every misleader, generator)."""
    _known(switches)
    plan = plan or slide(seed, score=score)
    own = _rng(seed, 16)
    drawn = {name: own.uniform(0.3, 1) * (own.random() < rate) for name, rate in RATES.items()} | plan.levels
    levels = {n: drawn[n] if switches.get(n) is None else FORCED.get(n, 1.0) * float(switches[n]) for n in MISLEADERS}
    plan = replace(plan, in_situ=levels["in_situ"], necrosis_um=62 - 25 * levels["necrosis"] if levels["necrosis"] else 1e3)
    return (plan if levels["clones"] else replace(plan, clone=plan.grades)), levels, _rng(seed, 12)


def _shrink(picture, fine):
    if fine == 1:
        return picture
    h, w = picture.shape[0] // fine, picture.shape[1] // fine
    mean = picture.reshape(h, fine, w, fine, *picture.shape[2:]).mean((1, 3))  # (h,fine,w,fine,…) -> (h,w,…)
    return mean >= 0.5 if picture.dtype == bool else (mean + 0.5).astype(np.uint8)

