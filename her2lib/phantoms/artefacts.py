"""What misleads a reader of HER2: blush, edges, crushed cells, necrosis, pigment, folds, dust, bubbles, pen, lost focus."""

import numpy as np
from scipy import ndimage

NO_ARTEFACT = (
    "blush",
    "stromal_blush",
)  # stain without meaning, but no damage: not part of the artefact mask


def mislead(canvas, levels, rng):
    """{misleader: level, 0 where it touched no pixel}; paints every misleader whose level is above 0 onto a canvas."""
    seen = {}
    for name, painter in PAINTERS.items():
        own = np.random.default_rng(
            int(rng.integers(2**32))
        )  # switching one misleader leaves the others where they were
        touched = painter(canvas, levels[name], own) if levels[name] else np.zeros(1, bool)
        seen[name] = float(levels[name]) * bool(touched.any())
        if seen[name] and name not in NO_ARTEFACT:
            canvas.masks["artefact"] |= touched
    return seen


def _blush(canvas, level, rng):
    cloud = np.clip(0.65 + 0.45 * canvas.noise(71, 90.0) + 0.3 * canvas.grain, 0, 2)
    canvas.dye["dab"] += np.float32(level) * cloud * canvas.epithelium
    return canvas.epithelium


def _stromal_blush(canvas, level, rng):
    cloud = np.clip(0.5 + 0.5 * canvas.noise(73, 140.0), 0, 2) * np.clip(
        6 * canvas.dye["eosin"], 0, 1.5
    )
    canvas.dye["dab"] += np.float32(level) * cloud * canvas.stroma
    return canvas.stroma


def _edge(canvas, level, rng):
    near = np.exp(-np.maximum(canvas.rim, 0) / 22) * (canvas.epithelium | canvas.stroma)
    canvas.dye["dab"] += (
        np.float32(level)
        * near
        * np.clip(0.7 + 0.5 * canvas.noise(75, 40.0) + 0.25 * canvas.grain, 0, 2)
    )
    return near > 0.2


def _necrosis(canvas, level, rng):
    dead = canvas.lumen & (canvas.depth > canvas.plan.necrosis_um - 25)
    clumps = np.clip(0.8 + 0.6 * canvas.noise(74, 11.0) + 0.4 * canvas.ragged, 0.1, 2)
    crumbs = np.clip(0.55 + 0.4 * canvas.grain + 0.4 * canvas.fine, 0, 2) * clumps * dead
    canvas.dye["haematoxylin"] += crumbs * np.float32(1.3 * canvas.plan.background + 0.02)
    canvas.dye["haematoxylin"] += np.float32(0.5 * canvas.plan.haematoxylin) * (crumbs > 1.8)
    canvas.dye["dab"] += np.float32(0.10 * level) * crumbs
    canvas.dye["eosin"] += 0.3 * crumbs
    return dead


def _crushed(canvas, level, rng):
    """Nuclei drawn out into streaks."""
    where = np.clip(3 * (canvas.noise(76, 70.0) - 1.6 + 0.6 * level), 0, 1) * (canvas.rim > 0)
    touched, drawn = where > 0.5, rng.permutation((1.0, 5.0)) / canvas.mpp
    if not touched.any():
        return touched
    wisps = 1 + 0.5 * canvas.noise(77, 2.0)
    for name, gain in (("haematoxylin", 1.8), ("dab", 1.0)):
        dye = canvas.dye[name]
        dye += where * (gain * wisps * ndimage.gaussian_filter(dye, drawn, truncate=2.5) - dye)
    canvas.masks["nucleus"] &= where < 0.5
    return touched


def _haemosiderin(canvas, level, rng):
    grains = (
        canvas.stroma
        & (canvas.noise(78, 22.0) > 2.3 - 0.5 * level)
        & (canvas.fine + 0.7 * canvas.grain > 0.6)
    )
    canvas.dye["pigment"] += np.maximum(0.3 + 0.3 * canvas.fine, 0.1) * grains
    return grains


def _folds(canvas, level, rng):
    """Tissue lying double along a line: every dye twice."""
    ridge = np.abs(canvas.noise(79, 300.0)) * 120
    fold = (
        np.exp(-((ridge / (4 + 5 * level)) ** 2))
        * np.clip(3 * canvas.noise(80, 200.0), 0, 1)
        * (canvas.rim > 0)
    )
    touched = fold > 0.3
    if touched.any():
        for dye in canvas.dye.values():
            dye *= 1 + 1.2 * fold
        canvas.dye["grey"] += 0.05 * fold
    return touched


def _dust(canvas, level, rng):
    touched = np.zeros(canvas.shape, bool)
    for _ in range(rng.integers(1, 2 + int(4 * level))):
        radius = rng.choice([rng.uniform(0.8, 3), rng.uniform(8, 22)], p=(0.8, 0.2))
        blob = _disc(canvas, rng, radius) + 0.5 * canvas.grain * (radius < 4)
        soft = np.clip(blob, 0, 1.2 if radius < 4 else 12) / (1.2 if radius < 4 else 12)
        canvas.dye["grey"] += (
            np.float32(rng.uniform(0.7, 1.6) if radius < 4 else rng.uniform(0.1, 0.35)) * soft
        )
        touched |= soft > 0.3
    return touched


def _bubbles(canvas, level, rng):
    touched = np.zeros(canvas.shape, bool)
    for _ in range(rng.integers(1, 3)):
        inside = _disc(canvas, rng, rng.uniform(30, 60 + 80 * level))
        canvas.dye["grey"] += 0.45 * np.exp(-((inside / 2.2) ** 2)) + 0.1 * np.exp(
            -np.abs(inside) / 6
        ) * (inside > 0)
        canvas.dye["grey"] -= 0.06 * np.exp(-(((inside - 6) / 3) ** 2))
        _soften(canvas, 0.85 * (inside > 0))
        touched |= inside > -3
    return touched


def _pen(canvas, level, rng):
    turn, across = rng.uniform(0, 2 * np.pi), canvas.ground.window.side_um * rng.uniform(-0.1, 0.5)
    middle = canvas.ground.window.side_um / 2
    x, y = (
        canvas.x - canvas.ground.window.x_um - middle,
        canvas.y - canvas.ground.window.y_um - middle,
    )
    inside = (
        (x * np.cos(turn))[None] + (y * np.sin(turn))[:, None] - across + 6 * canvas.noise(82, 40.0)
    )
    stroke = np.clip(inside / 12, 0, 1) * np.clip((140 + 160 * level - inside) / 12, 0, 1)
    if not (stroke > 0.3).any():
        return stroke > 0.3
    canvas.dye["ink"] += (
        (0.3 + 0.4 * level) * stroke.astype(np.float32) * (1 + 0.15 * canvas.noise(83, 15.0))
    )
    return stroke > 0.3


def _out_of_focus(canvas, level, rng):
    share = np.clip(0.5 + canvas.noise(84, 350.0) + (level - 0.5), 0, 1)
    if (share > 0.5).any():
        _soften(canvas, share)
    return share > 0.5


def _disc(canvas, rng, radius_um):
    """(H,W) micrometres inside a circle at a random place of the window."""
    at = rng.uniform(0, canvas.ground.window.side_um, 2)
    x, y = (
        canvas.x - canvas.ground.window.x_um - at[0],
        canvas.y - canvas.ground.window.y_um - at[1],
    )
    return (radius_um - np.hypot(x[None], y[:, None])).astype(np.float32)


def _soften(canvas, share):
    share = share.astype(np.float32)
    canvas.defocus = share if canvas.defocus is None else np.maximum(canvas.defocus, share)


PAINTERS = {
    painter.__name__[1:]: painter
    for painter in (  # by name, in the order in which they are painted
        _blush,
        _stromal_blush,
        _edge,
        _necrosis,
        _haemosiderin,
        _crushed,
        _folds,
        _dust,
        _bubbles,
        _pen,
        _out_of_focus,
    )
}
