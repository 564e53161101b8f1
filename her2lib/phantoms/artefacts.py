"""Artefacts that mislead a reader of HER2.

Blush, edges, crushed cells, necrosis, pigment, folds, dust, bubbles, pen, lost focus. Each painter
takes a staining.StainCanvas, a level and a generator, changes the canvas's dyes, and returns where
it touched them (H,W).
"""

import numpy as np
from scipy import ndimage

# stain without meaning, but no damage: not part of the artefact mask
NO_DAMAGE = ("blush", "stromal_blush")


def paint_artefacts(canvas, levels, rng):
    """{artefact: level, 0 where it touched no pixel}; paints those whose level is above 0."""
    shown = {}
    for name, painter in PAINTERS.items():
        # a generator each: switching one artefact leaves the others where they were
        painter_rng = np.random.default_rng(int(rng.integers(2**32)))
        shown[name] = 0.0
        if not levels[name]:
            continue
        touched = painter(canvas, levels[name], painter_rng)
        if not touched.any():
            continue
        shown[name] = float(levels[name])
        if name not in NO_DAMAGE:
            canvas.masks["artefact"] |= touched
    return shown


# --- stain without meaning -----------------------------------------------------------------------


def _blush(canvas, level, rng):
    """Cytoplasm of epithelium stained in clouds."""
    cloud = np.clip(0.65 + 0.45 * canvas.noise(71, 90.0) + 0.3 * canvas.grain, 0, 2)
    canvas.dye["dab"] += np.float32(level) * cloud * canvas.epithelium
    return canvas.epithelium


def _stromal_blush(canvas, level, rng):
    """Stroma stained in clouds, most where it is dense."""
    cloud = np.clip(0.5 + 0.5 * canvas.noise(73, 140.0), 0, 2)
    cloud = cloud * np.clip(6 * canvas.dye["eosin"], 0, 1.5)
    canvas.dye["dab"] += np.float32(level) * cloud * canvas.stroma
    return canvas.stroma


def _edge(canvas, level, rng):
    """Stain that rises towards the edge of the tissue, by a factor e in 22 micrometres."""
    rise = np.exp(-np.maximum(canvas.rim, 0) / 22) * (canvas.epithelium | canvas.stroma)
    cloud = np.clip(0.7 + 0.5 * canvas.noise(75, 40.0) + 0.25 * canvas.grain, 0, 2)
    canvas.dye["dab"] += np.float32(level) * rise * cloud
    return rise > 0.2


# --- damaged tissue ------------------------------------------------------------------------------


def _necrosis(canvas, level, rng):
    """Debris of dead cells deep in nests and ducts."""
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
    touched = where > 0.5
    if not touched.any():
        return touched
    sigma = rng.permutation((1.0, 5.0)) / canvas.mpp
    wisps = 1 + 0.5 * canvas.noise(77, 2.0)
    for name, gain in (("haematoxylin", 1.8), ("dab", 1.0)):
        dye = canvas.dye[name]
        dye += where * (gain * wisps * ndimage.gaussian_filter(dye, sigma, truncate=2.5) - dye)
    canvas.masks["nucleus"] &= where < 0.5
    return touched


def _haemosiderin(canvas, level, rng):
    """Golden grains in groups in the stroma."""
    group = canvas.stroma & (canvas.noise(78, 22.0) > 2.3 - 0.5 * level)
    grains = group & (canvas.fine + 0.7 * canvas.grain > 0.6)
    canvas.dye["pigment"] += np.maximum(0.3 + 0.3 * canvas.fine, 0.1) * grains
    return grains


def _folds(canvas, level, rng):
    """Tissue lying double along a line: every dye twice."""
    ridge = np.abs(canvas.noise(79, 300.0)) * 120
    fold = np.exp(-((ridge / (4 + 5 * level)) ** 2))
    fold = fold * np.clip(3 * canvas.noise(80, 200.0), 0, 1) * (canvas.rim > 0)
    touched = fold > 0.3
    if touched.any():
        for dye in canvas.dye.values():
            dye *= 1 + 1.2 * fold
        canvas.dye["grey"] += 0.05 * fold
    return touched


# --- on the glass, in the scanner ----------------------------------------------------------------


def _dust(canvas, level, rng):
    """Dark specks under 3 micrometres and, one in five, large pale ones."""
    touched = np.zeros(canvas.shape, bool)
    for _ in range(rng.integers(1, 2 + int(4 * level))):
        radius = rng.choice([rng.uniform(0.8, 3), rng.uniform(8, 22)], p=(0.8, 0.2))
        disc = _disc(canvas, rng, radius) + 0.5 * canvas.grain * (radius < 4)
        if radius < 4:
            soft = np.clip(disc, 0, 1.2) / 1.2
            density = rng.uniform(0.7, 1.6)
        else:
            soft = np.clip(disc, 0, 12) / 12
            density = rng.uniform(0.1, 0.35)
        canvas.dye["grey"] += np.float32(density) * soft
        touched |= soft > 0.3
    return touched


def _bubbles(canvas, level, rng):
    """Air under the cover slip: a dark rim, a bright line inside it, and lost focus."""
    touched = np.zeros(canvas.shape, bool)
    for _ in range(rng.integers(1, 3)):
        inside = _disc(canvas, rng, rng.uniform(30, 60 + 80 * level))
        rim = 0.45 * np.exp(-((inside / 2.2) ** 2))
        shade = 0.1 * np.exp(-np.abs(inside) / 6) * (inside > 0)
        canvas.dye["grey"] += rim + shade
        canvas.dye["grey"] -= 0.06 * np.exp(-(((inside - 6) / 3) ** 2))
        _soften(canvas, 0.85 * (inside > 0))
        touched |= inside > -3
    return touched


def _pen(canvas, level, rng):
    """One stroke of a felt pen across the window, or beside it."""
    window = canvas.ground.window
    turn = rng.uniform(0, 2 * np.pi)
    across = window.side_um * rng.uniform(-0.1, 0.5)
    middle = window.side_um / 2
    x = canvas.x - window.x_um - middle
    y = canvas.y - window.y_um - middle
    inside = (x * np.cos(turn))[None] + (y * np.sin(turn))[:, None] - across
    inside = inside + 6 * canvas.noise(82, 40.0)
    stroke = np.clip(inside / 12, 0, 1) * np.clip((140 + 160 * level - inside) / 12, 0, 1)
    touched = stroke > 0.3
    if touched.any():
        ink = (0.3 + 0.4 * level) * stroke.astype(np.float32)
        canvas.dye["ink"] += ink * (1 + 0.15 * canvas.noise(83, 15.0))
    return touched


def _out_of_focus(canvas, level, rng):
    """Focus lost in large clouds."""
    defocus = np.clip(0.5 + canvas.noise(84, 350.0) + (level - 0.5), 0, 1)
    if (defocus > 0.5).any():
        _soften(canvas, defocus)
    return defocus > 0.5


# --- helpers -------------------------------------------------------------------------------------


def _disc(canvas, rng, radius_um):
    """(H,W) float32 micrometres inside a circle somewhere in the window."""
    window = canvas.ground.window
    centre = rng.uniform(0, window.side_um, 2)
    x = canvas.x - window.x_um - centre[0]
    y = canvas.y - window.y_um - centre[1]
    return (radius_um - np.hypot(x[None], y[:, None])).astype(np.float32)


def _soften(canvas, defocus):
    """Adds (H,W) 0..1 to where the canvas is out of focus."""
    defocus = defocus.astype(np.float32)
    if canvas.defocus is None:
        canvas.defocus = defocus
    else:
        canvas.defocus = np.maximum(canvas.defocus, defocus)


# by name, in the order in which they are painted
PAINTERS = {
    "blush": _blush,
    "stromal_blush": _stromal_blush,
    "edge": _edge,
    "necrosis": _necrosis,
    "haemosiderin": _haemosiderin,
    "crushed": _crushed,
    "folds": _folds,
    "dust": _dust,
    "bubbles": _bubbles,
    "pen": _pen,
    "out_of_focus": _out_of_focus,
}
