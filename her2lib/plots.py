"""Arrays + ax -> ax. Nothing else in the library draws; maps become colour here and only here, by a stated rule."""

import io

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from her2lib.scores import COLOURS, SCORES

INK, GREY, RED = "#222222", "#999999", "#cc3311"
OPACITY = 0.75  # of a map over its patch where it is highest
SCALING = "positive part of the map, divided by its largest value in the patch, bilinear to the patch's size"
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
    options = {"pil_kwargs": {"quality": 82}} if kind == "jpeg" else {}
    figure.savefig(
        buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None, **options
    )
    return buffer.getvalue()


def close(figure):
    """None; the figure's memory is given back (a kernel that draws 500 galleries must not grow)."""
    plt.close(figure)


def counts(table, ax):
    """ax with one bar per set, stacked by score; table is sets x scores of counts."""
    left = np.zeros(len(table))
    for score, name in enumerate(SCORES):
        width = table[name].to_numpy(float) if name in table else np.zeros(len(table))
        ax.barh(
            range(len(table)), width, left=left, color=COLOURS[score], label=name, edgecolor="white"
        )
        for row, (start, long) in enumerate(zip(left, width, strict=True)):
            if long > 0.04 * table.to_numpy().sum(1).max():
                ax.text(
                    start + long / 2,
                    row,
                    f"{long:.0f}",
                    ha="center",
                    va="center",
                    color=_on(COLOURS[score]),
                )
        left += width
    ax.set(yticks=range(len(table)), yticklabels=table.index, xlabel="patches")
    ax.invert_yaxis()
    ax.legend(title="score", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=10)
    return ax


def curves(history, ax, *, what="accuracy", null=None):
    """ax with training and validation curves by epoch; epoch 0 is the network before training."""
    for column, colour, name in (
        (f"train_{what}", GREY, "training"),
        (f"val_{what}", COLOURS[3], "validation"),
    ):
        if column in history:
            ax.plot(history["epoch"], history[column], "o-", ms=4, color=colour, label=name)
    if null is not None:
        ax.axhline(null, color=INK, ls=":", lw=1.2, label="always the commonest score")
    ax.set(xlabel="epoch (0 = before training)", ylabel=what.replace("_", " "))
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.legend(fontsize=10)
    return ax


def confusion(matrix, ax, *, title=""):
    """ax with a confusion matrix: colour is the share of the row, each cell says share and count; (4,4) counts."""
    matrix = np.asarray(matrix, float)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        colour = "white" if value > 0.55 else INK
        weight = "bold" if row == column else "normal"
        ax.text(
            column,
            row - 0.1,
            f"{100 * value:.0f} %",
            ha="center",
            va="center",
            color=colour,
            size=15,
            weight=weight,
        )
        ax.text(
            column,
            row + 0.24,
            f"{matrix[row, column]:.0f}",
            ha="center",
            va="center",
            color=colour,
            size=10,
        )
    labels = [f"{name}\n(n={total:.0f})" for name, total in zip(SCORES, matrix.sum(1), strict=True)]
    ax.set(
        xticks=range(len(SCORES)),
        xticklabels=SCORES,
        yticks=range(len(SCORES)),
        yticklabels=labels,
        xlabel="predicted score",
        ylabel="true score",
        title=title,
    )
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def forest(table, ax, *, null=None):
    """ax with one dot and interval per row; table: name, value, low, high and optional null (bool, drawn grey)."""
    for row, item in enumerate(table.itertuples()):
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
    """ax with the kappas of every two raters, each over its interval; all are (R,R), NaN is blank."""
    ax.imshow(values, cmap="viridis", vmin=-0.2, vmax=1.0)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < 0.52 else INK
            ax.text(
                column, row - 0.1, f"{value:.2f}", ha="center", va="center", color=colour, size=12
            )
            if np.isfinite(low[row, column]) and row != column:
                span = f"{low[row, column]:.2f} to {high[row, column]:.2f}"
                ax.text(column, row + 0.24, span, ha="center", va="center", color=colour, size=7.5)
    ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    ax.set_xticklabels(names, rotation=35, ha="right")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def strips(values, scores, ax, *, ylabel):
    """ax with every value (N,) as a dot, one column per score (N,) int, and the median as a bar."""
    rng = np.random.default_rng(0)
    for score, colour in enumerate(COLOURS):
        column = np.asarray(values, float)[np.asarray(scores) == score]
        ax.scatter(
            score + rng.uniform(-0.25, 0.25, len(column)),
            column,
            s=12,
            color=colour,
            alpha=0.7,
            lw=0,
        )
        if len(column):
            ax.hlines(np.median(column), score - 0.32, score + 0.32, color=INK, lw=2.5)
    ax.set(xticks=range(len(SCORES)), xticklabels=SCORES, ylabel=ylabel)
    return ax


def lines(table, ax, *, x, y, low, high, xlabel, ylabel):
    """ax with a line through the rows of a tidy table, in a band for their intervals; x, y, low, high name its columns."""
    table = table.sort_values(x)
    ax.plot(table[x], table[y], "o-", ms=5, color=COLOURS[3])
    ax.fill_between(table[x], table[low], table[high], color=COLOURS[3], alpha=0.15, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def sweep(table, ax, *, x, xlabel, log=False, mark=None, marked=""):
    """ax of validation kappa by one axis of a sweep, a line per network; table: shown, value, low, high, collapsed (a cross)."""
    spread = table[x].nunique()
    for number, (name, part) in enumerate(table.groupby("shown", sort=False)):
        part, colour = part.sort_values(x), COLOURS[(3 - number) % 4]
        place = (
            number - (table["shown"].nunique() - 1) / 2
        )  # side by side, or the intervals of four networks hide each other
        at = (
            part[x] * 1.06**place
            if log
            else part[x] + place * 0.012 * (np.ptp(table[x]) if spread > 1 else 1)
        )
        ax.errorbar(
            at,
            part["value"],
            [part["value"] - part["low"], part["high"] - part["value"]],
            color=colour,
            lw=1.8,
            elinewidth=1,
            marker="o",
            ms=6,
            label=name,
        )
        bad = part["collapsed"].to_numpy(bool)
        ax.plot(at[bad], part["value"][bad], "x", color=INK, ms=11, mew=2.2)
    if table["collapsed"].any():
        ax.plot([], [], "x", color=INK, ms=9, mew=2.2, label="COLLAPSED")
    if mark is not None:
        ax.axvline(mark, color=GREY, ls="--", lw=1.2)
        ax.text(
            mark,
            1.01,
            marked,
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=GREY,
            size=10,
        )
    ax.axhline(0, color=GREY, ls=":", lw=1)
    ax.set(
        xlabel=xlabel, ylabel="validation kappa (quadratic)", **({"xscale": "log"} if log else {})
    )
    ax.legend(
        fontsize=9, loc="upper left", bbox_to_anchor=(1, 1)
    )  # beside the intervals, which fill the panel
    return ax


def reliability(table, ax):
    """ax of observed share against stated probability per cut (calibration.reliability), with intervals; larger dots, more patches."""
    ax.plot([0, 1], [0, 1], color=GREY, ls=":")
    for number, (cut, part) in enumerate(table.groupby("cut", sort=False)):
        around = np.clip([part["observed"] - part["low"], part["high"] - part["observed"]], 0, 1)
        ax.errorbar(
            part["forecast"],
            part["observed"],
            np.nan_to_num(around),
            color=COLOURS[number + 1],
            lw=1,
            label=cut,
            capsize=2,
        )
        ax.scatter(
            part["forecast"],
            part["observed"],
            s=10 + 4 * np.sqrt(part["n"]),
            color=COLOURS[number + 1],
        )
    ax.set(
        xlabel="stated probability of lying above the border",
        ylabel="observed share",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    ax.legend(title="border", fontsize=10)
    return ax


def heads(table, ax, *, even=None, mpp=None):
    """ax with each head's attention distance and interval by layer, a line through the layers' means; table: weights, layer, head, value"""
    for number, (weights, part) in enumerate(table.groupby("weights", sort=False)):
        colour, heads_ = (GREY, COLOURS[3], COLOURS[1])[number], part["head"].nunique()
        x = part["layer"] + 1 + 0.5 * ((part["head"] + 0.5) / heads_ - 0.5) + 0.04 * number
        around = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(x, part["value"], around, fmt=".", ms=5, lw=1, color=colour, alpha=0.7)
        means = part.groupby("layer")["value"].mean()
        ax.plot(means.index + 1, means, color=colour, lw=2, label=weights)
    if even is not None:
        ax.axhline(even, color=INK, ls=":", lw=1.2, label="even attention")
    ax.set(
        xlabel="layer", ylabel="attention distance, px", xticks=sorted(table["layer"].unique() + 1)
    )
    ax.set_ylim(
        0, 1.15 * max(table[["value", "high"]].max().max(), even or 0)
    )  # one slide alone has no interval
    if mpp and np.isfinite(mpp):
        ax.secondary_yaxis(
            "right", functions=(lambda px: px * mpp, lambda um: um / mpp)
        ).set_ylabel("micrometres")
    ax.legend(fontsize=10, loc="lower right")
    return ax


def bands(table, ax, *, title="", unit="um"):
    """ax with a map's density by depth in the tumour, its null grey beside it; table: band (0 …), depth (words), null, value, low, high."""
    for null, part in table.groupby("null"):
        colour, x = (GREY, part["band"] + 0.12) if null else (INK, part["band"] - 0.12)
        around = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(
            x,
            part["value"],
            around,
            fmt="o",
            ms=7,
            lw=2,
            color=colour,
            label="by chance" if null else "map",
        )
    ax.axhline(1, color=RED, ls=":", lw=1.2)
    named = table.drop_duplicates("band")
    ax.set(
        xticks=named["band"],
        xticklabels=named["depth"],
        xlim=(-0.5, named["band"].max() + 0.5),
        title=title,
        xlabel=f"depth in the tumour, {unit}",
        ylabel="map over area",
    )
    ax.set_ylim(
        min(ax.get_ylim()[0], 0.5), max(ax.get_ylim()[1], 1.5)
    )  # a difference of a hundredth must look like one
    return ax


def maps(image, heats, axes, *, bar=True):
    """axes with maps {title: (h,w)} over one patch, each by SCALING; the colour scale they share stands beside the last."""
    for ax, (title, heat) in zip(axes, heats.items(), strict=True):
        overlay(image, heat, ax, title=title)
    if bar:
        level = np.linspace(0, 1, 256)[:, None]
        seen = 1 - OPACITY * level * (
            1 - matplotlib.colormaps["inferno"](level[:, 0])[:, :3]
        )  # as overlay lays it over white
        scale = matplotlib.cm.ScalarMappable(
            matplotlib.colors.Normalize(0, 1), matplotlib.colors.ListedColormap(seen)
        )
        axes[-1].figure.colorbar(scale, ax=axes[-1], shrink=0.8, ticks=[0, 0.5, 1])
    return axes


def patch(image, ax, *, title="", colour=INK):
    """ax with one patch, (3,H,W) uint8 tensor or (H,W,3) array, with a title in the colour of its verdict."""
    ax.imshow(picture(image))
    ax.set_title(title, fontsize=9.5, color=colour)
    return _bare(ax)


def overlay(image, heat, ax, *, title=""):
    """ax with a map over a grey patch; drawn by SCALING, opacity grows with the map to OPACITY."""
    grey = picture(image).mean(2)
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    shown = upsample(heat, grey.shape)
    ax.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=OPACITY * shown)
    ax.set_title(title, fontsize=9.5, color=INK)
    return _bare(ax)


def fields(image, boxes, values, ax, *, high=None, title=""):
    """ax with a value on each field (x, y, side in px of the image) over a slide's grey overview, and the scale beside it."""
    ax.imshow(picture(image).mean(2), cmap="gray", vmin=0, vmax=255)
    squares = [plt.Rectangle((x, y), side, side) for x, y, side in boxes]
    squares = matplotlib.collections.PatchCollection(squares, cmap="inferno", alpha=0.65, lw=0)
    squares.set(
        array=np.asarray(values, float), clim=(0, high or max(float(np.nanmax(values)), 1e-9))
    )
    ax.figure.colorbar(ax.add_collection(squares), ax=ax, shrink=0.7)
    ax.set_title(title)
    return _bare(ax)


def steps(image, features, weights, heat, axes):
    """axes (5) with Grad-CAM's steps: patch, strongest feature maps, their weights, signed sum, ReLU overlaid."""
    order = np.argsort(-np.abs(np.asarray(weights)))[:9]
    patch(image, axes[0], title="1  patch")
    tiles = np.asarray(features)[order]
    tiles = (tiles - tiles.min((1, 2), keepdims=True)) / (
        np.ptp(tiles, axis=(1, 2)).reshape(-1, 1, 1) + 1e-12
    )
    tiles = np.pad(tiles, ((0, 9 - len(tiles)), (0, 1), (0, 1)), constant_values=np.nan)
    axes[1].imshow(
        np.block([[tiles[3 * row + column] for column in range(3)] for row in range(3)]),
        cmap="gray",
    )
    axes[1].set_title("2  nine feature maps", fontsize=9.5)
    strongest = np.asarray(weights)[order]
    axes[2].barh(
        range(len(order)),
        strongest,
        color=[COLOURS[0] if weight < 0 else COLOURS[3] for weight in strongest],
    )
    axes[2].invert_yaxis()
    axes[2].set_title("3  their mean gradients", fontsize=9.5)
    limit = np.abs(heat).max() + 1e-12
    axes[3].imshow(heat, cmap="PuOr_r", vmin=-limit, vmax=limit)
    axes[3].set_title("4  weighted sum, signed", fontsize=9.5)
    overlay(image, heat, axes[4], title="5  positive part over the patch")
    for ax in (axes[1], axes[3]):
        ax.set(xticks=[], yticks=[])
    axes[2].set(yticks=[])
    return axes


def gallery(images, titles, *, right=None, heats=None, columns=4):
    """figure of patches with their captions, green-blue when right and red when wrong, a map under each when given."""
    rows = max(1, -(-len(images) // columns))
    tall = 2 if heats is not None else 1
    figure, axes = plt.subplots(
        rows * tall, columns, figsize=(3.1 * columns, 3.65 * rows * tall), squeeze=False
    )
    for ax in axes.ravel():
        ax.axis("off")
    if not len(images):
        axes[0, 0].text(0, 0.5, "There is no such patch.", color=GREY)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = tall * (number // columns), number % columns
        colour = INK if right is None else ("#00695c" if right[number] else RED)
        patch(image, axes[row, column], title=title, colour=colour).axis("on")
        if heats is not None:
            overlay(image, heats[number], axes[row + 1, column]).axis("on")
    return figure


def picture(image):
    """(H,W,3) uint8 array of a patch given as (3,H,W) tensor or (H,W,3) array."""
    image = np.asarray(image)
    return image.transpose(1, 2, 0) if image.shape[0] == 3 and image.shape[-1] != 3 else image


def upsample(heat, shape):
    """(H,W) in 0..1: a signed map as it is drawn, by SCALING."""
    from skimage.transform import resize

    heat = np.maximum(np.asarray(heat, float), 0)
    return resize(heat, shape, order=1, mode="edge", anti_aliasing=False) / (heat.max() or 1.0)


def _bare(ax):
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def _on(colour):
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.6 else INK
