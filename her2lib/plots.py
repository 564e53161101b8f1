"""Arrays + ax -> ax. Nothing else in the library draws.

Maps become colour here and only here, by one stated rule (SCALING).
"""

import io
import math
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from her2lib.scores import ALL_SCORES, COLOURS, SCORES

INK = "#222222"
GREY = "#999999"
RED = "#cc3311"
TEAL = "#00695c"  # of what was got right
OPACITY = 0.75  # of a map over its patch where it is highest
SCALING = (
    "positive part of the map, divided by its largest value in the patch, "
    "bilinear to the patch's size"
)
matplotlib.rcParams.update(
    {
        "font.size": 12,
        "axes.titlesize": 13,
        "axes.labelsize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 100,
        "savefig.bbox": "tight",
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "her2",
        "axes.edgecolor": "#666666",
        "legend.frameon": False,
        "figure.facecolor": "white",
        "font.family": "DejaVu Sans",
    }
)


def panels(rows=1, columns=1, *, width=4.2, height=3.6):
    """(figure, array of axes) of rows x columns panels; sizes of one panel in inches."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False
    )
    return figure, axes.ravel()


def image_bytes(figure, *, dpi=96, kind="png"):
    """bytes of a figure as png, jpeg (for photographs) or svg."""
    buffer = io.BytesIO()
    options = {}
    if kind == "jpeg":
        options["pil_kwargs"] = {"quality": 82}
    if kind == "svg":
        options["metadata"] = {"Date": None}  # the same figure is the same file
    figure.savefig(buffer, format=kind, dpi=dpi, **options)
    return buffer.getvalue()


def close(figure):
    """None; the figure's memory is given back (a kernel that draws 500 galleries must not grow)."""
    plt.close(figure)


# --- what there is, and how it was learnt -----------------------------------------------------


def counts(table, ax, *, scores=ALL_SCORES):
    """ax with one bar per set, stacked by score; table is sets x scores of counts.

    scores are those that the study declares, as positions in SCORES.
    """
    rows = range(len(table))
    legible = 0.04 * table.to_numpy().sum(1).max()  # a narrower bar has no room for its number
    left = np.zeros(len(table))
    for name, colour in ((SCORES[score], COLOURS[score]) for score in scores):
        width = table.get(name, pd.Series(0, table.index)).to_numpy(float)
        ax.barh(rows, width, left=left, color=colour, label=name, edgecolor="white")
        for row in np.flatnonzero(width > legible):
            middle = left[row] + width[row] / 2
            _write(ax, middle, row, f"{width[row]:.0f}", color=_text_colour(colour))
        left += width
    ax.set(yticks=rows, yticklabels=table.index, xlabel="patches")
    ax.invert_yaxis()
    ax.legend(title="score", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=10)
    return ax


def curves(history, ax, *, what="accuracy", null=None):
    """ax with training and validation curves by epoch; epoch 0 is the network before training."""
    for subset, colour, name in (
        ("train", GREY, "training"),
        ("val", COLOURS[3], "validation"),
    ):
        column = f"{subset}_{what}"
        if column in history:
            ax.plot(history["epoch"], history[column], "o-", ms=4, color=colour, label=name)
    if null is not None:
        ax.axhline(null, color=INK, ls=":", lw=1.2, label="always the commonest score")
    ax.set(xlabel="epoch (0 = before training)", ylabel=what.replace("_", " "))
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.legend(fontsize=10)
    return ax


# --- agreement --------------------------------------------------------------------------------


def confusion(matrix, ax, *, title="", scores=ALL_SCORES):
    """ax with a confusion matrix of (q,q) counts; cells say fraction of row and count.

    scores are those of its rows and columns, as positions in SCORES.
    """
    matrix = np.asarray(matrix, float)
    totals = matrix.sum(1)
    fraction = matrix / np.maximum(totals[:, None], 1)
    ax.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(fraction):
        colour = "white" if value > 0.55 else INK
        weight = "bold" if row == column else "normal"
        percent = f"{100 * value:.0f} %"
        _write(ax, column, row - 0.1, percent, color=colour, size=15, weight=weight)
        _write(ax, column, row + 0.24, f"{matrix[row, column]:.0f}", color=colour, size=10)
    names = [SCORES[score] for score in scores]
    labels = [f"{name}\n(n={total:.0f})" for name, total in zip(names, totals, strict=True)]
    ax.set(
        xticks=range(len(names)),
        xticklabels=names,
        yticks=range(len(names)),
        yticklabels=labels,
        xlabel="predicted score",
        ylabel="true score",
        title=title,
    )
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def forest(table, ax, *, null=None):
    """ax with one dot and interval per row; table: name, value, low, high, optional null (grey)."""
    for row, item in enumerate(table.itertuples()):
        # nulls are grey: they are what a network must clear
        colour = GREY if getattr(item, "null", False) else INK
        ax.plot([item.low, item.high], [row, row], color=colour, lw=2.5, solid_capstyle="round")
        ax.plot(item.value, row, "o", color=colour, ms=8)
    if null is not None:
        ax.axvline(null, color=RED, ls=":", lw=1.2)
    ax.set(yticks=range(len(table)), yticklabels=table["name"], ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="x", color="#dddddd", lw=0.7)
    ax.set_axisbelow(True)
    return ax


def matrix(values, ax, *, names, low, high):
    """ax with the kappas of every two raters over their intervals; all are (R,R), NaN is blank."""
    ax.imshow(values, cmap="viridis", vmin=-0.2, vmax=1.0)
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        colour = "white" if value < 0.52 else INK
        _write(ax, column, row - 0.1, f"{value:.2f}", color=colour, size=12)
        if np.isfinite(low[row, column]) and row != column:
            span = f"{low[row, column]:.2f} to {high[row, column]:.2f}"
            _write(ax, column, row + 0.24, span, color=colour, size=7.5)
    ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    ax.set_xticklabels(names, rotation=35, ha="right")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def strips(values, true_scores, ax, *, ylabel, scores=ALL_SCORES):
    """ax with every value (N,) as a dot in the column of its score (N,) int, medians as bars.

    scores are the columns that there are, as positions in SCORES.
    """
    rng = np.random.default_rng(0)
    for score in scores:
        colour = COLOURS[score]
        column = np.asarray(values, float)[np.asarray(true_scores) == score]
        x = score + rng.uniform(-0.25, 0.25, len(column))
        ax.scatter(x, column, s=12, color=colour, alpha=0.7, lw=0)
        if len(column):
            ax.hlines(np.median(column), score - 0.32, score + 0.32, color=INK, lw=2.5)
    names = [SCORES[score] for score in scores]
    ax.set(xticks=scores, xticklabels=names, ylabel=ylabel)
    return ax


def lines(table, ax, *, x, y, low, high, xlabel, ylabel):
    """ax with a line through the rows of a tidy table, in the band of their intervals.

    x, y, low and high name columns of the table.
    """
    table = table.sort_values(x)
    ax.plot(table[x], table[y], "o-", ms=5, color=COLOURS[3])
    ax.fill_between(table[x], table[low], table[high], color=COLOURS[3], alpha=0.15, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def sweep(table, ax, *, x, xlabel, log=False, mark=None, marked=""):
    """ax of validation kappa by one axis of a sweep, a line per network.

    table: shown (the network's name), value, low, high, collapsed (drawn as a cross), and x, the
    column of the axis. mark is a value of x with a line of its own, called marked.
    """
    names = table["shown"].nunique()
    for number, (name, part) in enumerate(table.groupby("shown", sort=False)):
        part = part.sort_values(x)
        colour = COLOURS[(3 - number) % 4]
        at = _beside(part[x], number - (names - 1) / 2, axis=table[x], log=log)
        below = part["value"] - part["low"]
        above = part["high"] - part["value"]
        style = {"lw": 1.8, "elinewidth": 1, "marker": "o", "ms": 6}
        ax.errorbar(at, part["value"], [below, above], color=colour, label=name, **style)
        collapsed = part["collapsed"].to_numpy(bool)
        ax.plot(at[collapsed], part["value"][collapsed], "x", color=INK, ms=11, mew=2.2)
    if table["collapsed"].any():
        ax.plot([], [], "x", color=INK, ms=9, mew=2.2, label="COLLAPSED")
    if mark is not None:
        ax.axvline(mark, color=GREY, ls="--", lw=1.2)
        over = ax.get_xaxis_transform()
        ax.text(mark, 1.01, marked, transform=over, ha="center", va="bottom", color=GREY, size=10)
    ax.axhline(0, color=GREY, ls=":", lw=1)
    ax.set(xlabel=xlabel, ylabel="validation kappa (quadratic)")
    if log:
        ax.set_xscale("log")
    # beside the intervals, which fill the panel
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def _beside(values, step, *, axis, log):
    """Values moved sideways by a step, or the intervals of four networks would hide each other."""
    if log:
        return values * 1.06**step
    width = np.ptp(axis) or 1  # of one value alone
    return values + step * 0.012 * width


def reliability(table, ax):
    """ax of the observed fraction against the stated probability per cut, with intervals.

    table: calibration.reliability_table; larger dots stand for more patches.
    """
    ax.plot([0, 1], [0, 1], color=GREY, ls=":")
    for number, (cut, part) in enumerate(table.groupby("cut", sort=False)):
        around = np.clip([part["observed"] - part["low"], part["high"] - part["observed"]], 0, 1)
        colour = COLOURS[number + 1]
        x = part["forecast"]
        y = part["observed"]
        ax.errorbar(x, y, np.nan_to_num(around), color=colour, lw=1, label=cut, capsize=2)
        ax.scatter(x, y, s=10 + 4 * np.sqrt(part["n"]), color=colour)
    ax.set(
        xlabel="stated probability of lying above the border",
        ylabel="observed fraction",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    ax.legend(title="border", fontsize=10)
    return ax


# --- where networks look ----------------------------------------------------------------------


def heads(table, ax, *, even=None, mpp=None):
    """ax with each head's attention distance and interval by layer, a line through their means.

    table: weights, layer, head, value, low, high; even is the distance of even attention, in px.
    """
    colours = (GREY, COLOURS[3], COLOURS[1])
    for number, (weights, part) in enumerate(table.groupby("weights", sort=False)):
        colour = colours[number]
        within = (part["head"] + 0.5) / part["head"].nunique() - 0.5
        x = part["layer"] + 1 + 0.5 * within + 0.04 * number
        around = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(x, part["value"], around, fmt=".", ms=5, lw=1, color=colour, alpha=0.7)
        means = part.groupby("layer")["value"].mean()
        ax.plot(means.index + 1, means, color=colour, lw=2, label=weights)
    if even is not None:
        ax.axhline(even, color=INK, ls=":", lw=1.2, label="even attention")
    layers = sorted(table["layer"].unique() + 1)
    ax.set(xlabel="layer", ylabel="attention distance, px", xticks=layers)
    # one slide alone has no interval, so the values count beside the upper ends
    highest = max(table[["value", "high"]].max().max(), even or 0)
    ax.set_ylim(0, 1.15 * highest)
    if mpp and np.isfinite(mpp):
        scales = (partial(np.multiply, mpp), partial(np.multiply, 1 / mpp))
        ax.secondary_yaxis("right", functions=scales).set_ylabel("micrometres")
    ax.legend(fontsize=10, loc="lower right")
    return ax


def bands(table, ax, *, title="", unit="um"):
    """ax with a map's density by depth in the tumour, its null grey beside it.

    table: band (0 …), depth (in words), null, value, low, high.
    """
    styles = {False: (INK, -0.12, "map"), True: (GREY, 0.12, "by chance")}
    for null, part in table.groupby("null"):
        colour, step, label = styles[bool(null)]
        x = part["band"] + step
        around = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(x, part["value"], around, fmt="o", ms=7, lw=2, color=colour, label=label)
    ax.axhline(1, color=RED, ls=":", lw=1.2)
    named = table.drop_duplicates("band")
    ax.set(xticks=named["band"], xticklabels=named["depth"], title=title)
    ax.set(xlim=(-0.5, named["band"].max() + 0.5))
    ax.set(xlabel=f"depth in the tumour, {unit}", ylabel="map over area")
    # a difference of a hundredth must look like one
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.5), max(high, 1.5))
    return ax


def maps(image, maps, axes, *, bar=True):
    """axes with maps {title: (h,w)} over one patch, each by SCALING, and their colour scale."""
    for ax, (title, one_map) in zip(axes, maps.items(), strict=True):
        overlay(image, one_map, ax, title=title)
    if bar:
        # the colours as overlay lays them over white
        level = np.linspace(0, 1, 256)
        inferno = matplotlib.colormaps["inferno"](level)[:, :3]  # (256,3)
        over_white = 1 - OPACITY * level[:, None] * (1 - inferno)
        scale = matplotlib.cm.ScalarMappable(
            matplotlib.colors.Normalize(0, 1), matplotlib.colors.ListedColormap(over_white)
        )
        axes[-1].figure.colorbar(scale, ax=axes[-1], shrink=0.8, ticks=[0, 0.5, 1])
    return axes


def patch(image, ax, *, title="", colour=INK):
    """ax with one patch, (3,H,W) uint8 tensor or (H,W,3) array; its title has the given colour."""
    ax.imshow(picture(image))
    ax.set_title(title, fontsize=9.5, color=colour)
    return _bare(ax)


def overlay(image, one_map, ax, *, title=""):
    """ax with a map over a grey patch; drawn by SCALING, opacity grows with the map to OPACITY."""
    grey = picture(image).mean(2)
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    positive = upsample(one_map, grey.shape)
    ax.imshow(positive, cmap="inferno", vmin=0, vmax=1, alpha=OPACITY * positive)
    ax.set_title(title, fontsize=9.5, color=INK)
    return _bare(ax)


def fields(image, boxes, values, ax, *, high=None, title=""):
    """ax with a value on each field (x, y, side in px) over a slide's grey overview, with a scale.

    high is the upper end of the scale; 0 or None takes the highest value.
    """
    ax.imshow(picture(image).mean(2), cmap="gray", vmin=0, vmax=255)
    rectangles = [plt.Rectangle((x, y), side, side) for x, y, side in boxes]
    squares = matplotlib.collections.PatchCollection(rectangles, cmap="inferno", alpha=0.65, lw=0)
    highest = high or max(float(np.nanmax(values)), 1e-9)
    squares.set(array=np.asarray(values, float), clim=(0, highest))
    ax.figure.colorbar(ax.add_collection(squares), ax=ax, shrink=0.7)
    ax.set_title(title)
    return _bare(ax)


def steps(image, features, weights, one_map, axes):
    """axes (5) with Grad-CAM's steps: patch, strongest features, weights, signed sum, overlay."""
    weights = np.asarray(weights)
    order = np.argsort(-np.abs(weights))[:9]
    patch(image, axes[0], title="1  patch")

    axes[1].imshow(_nine_tiles(np.asarray(features)[order]), cmap="gray")
    axes[1].set_title("2  nine feature maps", fontsize=9.5)

    strongest = weights[order]
    colours = np.where(strongest < 0, COLOURS[0], COLOURS[3])
    axes[2].barh(range(len(order)), strongest, color=colours)
    axes[2].invert_yaxis()
    axes[2].set_title("3  their mean gradients", fontsize=9.5)

    limit = np.abs(one_map).max() + 1e-12
    axes[3].imshow(one_map, cmap="PuOr_r", vmin=-limit, vmax=limit)
    axes[3].set_title("4  weighted sum, signed", fontsize=9.5)

    overlay(image, one_map, axes[4], title="5  positive part over the patch")
    for ax in (axes[1], axes[3]):
        ax.set(xticks=[], yticks=[])
    axes[2].set(yticks=[])
    return axes


def _nine_tiles(tiles):
    """(3*(h+1),3*(w+1)) of up to nine feature maps (9,h,w), each brought to 0..1, NaN between."""
    lowest = tiles.min((1, 2), keepdims=True)
    spread = np.ptp(tiles, axis=(1, 2)).reshape(-1, 1, 1)
    tiles = (tiles - lowest) / (spread + 1e-12)
    missing = 9 - len(tiles)
    tiles = np.pad(tiles, ((0, missing), (0, 1), (0, 1)), constant_values=np.nan)
    return np.block([list(tiles[0:3]), list(tiles[3:6]), list(tiles[6:9])])


# --- patches ----------------------------------------------------------------------------------


def gallery(images, titles, *, right=None, maps=None, columns=4):
    """figure of patches with captions, teal when right, red when wrong, maps under them."""
    rows = max(1, math.ceil(len(images) / columns))
    tall = 1 + (maps is not None)
    size = (3.1 * columns, 3.65 * rows * tall)
    figure, axes = plt.subplots(rows * tall, columns, figsize=size, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    if not len(images):
        axes[0, 0].text(0, 0.5, "There is no such patch.", color=GREY)
    colours = [INK] * len(images)
    if right is not None:
        colours = list(np.where(np.asarray(right, bool), TEAL, RED))
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row = tall * (number // columns)
        column = number % columns
        patch(image, axes[row, column], title=title, colour=colours[number]).axis("on")
        if maps is not None:
            overlay(image, maps[number], axes[row + 1, column]).axis("on")
    return figure


def overlays(patches, maps, *, titles=None, columns=4):
    """figure of patches (Patches, or (N,3,H,W) uint8) with their maps (N,h,w) under them.

    titles are the captions; without them the names of the patches, where they have some.
    Example: her2.plots.overlays(test[:8], her2.grad_cam(fit.net, test[:8], score=2))
    """
    images = getattr(patches, "images", patches)
    if len(images) != len(maps):
        raise ValueError(
            f"There are {len(images)} patches and {len(maps)} maps: give one for each."
        )
    if titles is None:
        titles = [str(name) for name in getattr(patches, "name", range(1, len(images) + 1))]
    return gallery(images, titles, maps=maps, columns=columns)


def picture(image):
    """(H,W,3) uint8 array of a patch given as (3,H,W) tensor or (H,W,3) array."""
    image = np.asarray(image)
    if image.shape[0] == 3 and image.shape[-1] != 3:
        return image.transpose(1, 2, 0)  # (3,H,W) -> (H,W,3)
    return image


def upsample(one_map, shape):
    """(H,W) in 0..1: a signed map (h,w) as it is drawn, by SCALING; shape is (H,W)."""
    from skimage.transform import resize

    positive = np.maximum(np.asarray(one_map, float), 0)
    large = resize(positive, shape, order=1, mode="edge", anti_aliasing=False)
    return large / (positive.max() or 1.0)


# --- helpers ----------------------------------------------------------------------------------


def _write(ax, x, y, text, **style):
    """None; a text centred on (x, y)."""
    ax.text(x, y, text, ha="center", va="center", **style)


def _bare(ax):
    """ax without ticks and frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def _text_colour(background):
    """str, white on a dark background, ink on a light one (luma of ITU-R BT.601)."""
    red, green, blue = matplotlib.colors.to_rgb(background)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return "white" if luma < 0.6 else INK
