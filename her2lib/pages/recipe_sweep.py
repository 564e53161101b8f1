"""What 92 shows of recipes: one row for every finished run, and figures that change one axis each.

`grid` is the DataFrame of run_grid(): validation kappa of every run that learnt given scores.
"""

import math

import pandas as pd

from her2lib import plots
from her2lib.report.book import Book, Html, html_table
from her2lib.stats import agreement
from her2lib.stats.intervals import resampling_groups
from her2lib.study.config import Study
from her2lib.study.keys import NETWORKS
from her2lib.study.results import PROBABILITIES, run_records

HELD = ("n_train", "side_px", "weights", "split")  # axes that a figure holds at their commonest
PRESENTED = "as_presented"
SHOWN_COLUMNS = [
    "shown",
    "recipe",
    "lr",
    "n_train",
    "side_px",
    "weights",
    "seed",
    "kappa",
    "swing",
    "COLLAPSED",
]


def run_grid(book: Book, study: Study, predictions: pd.DataFrame) -> pd.DataFrame:
    """DataFrame, a row per run: axes, rate, validation kappa with interval, verdict.

    Columns beside the axes: value, low, high, n, resampled (what the interval resamples), id (of
    the number), lr, base (the recipe without its rate), swept (the rate was changed), collapsed,
    verdict, shown (the network's name), fluctuation.
    """
    records = run_records(study)
    rows = []
    # a run that learnt shuffled scores tells nothing about its recipe
    for axes in study.runs():
        run = axes["run"]
        if run not in records or axes["label_shuffle"] != "none":
            continue
        record = records[run]
        base, _, rate = axes["recipe"].partition("@")
        rows.append(
            {
                **axes,
                **_validation_kappa(book, study, predictions, run),
                "lr": record["recipe"]["lr"],
                "base": base,
                "swept": bool(rate),
                "collapsed": bool(record["verdict"]),
                "verdict": record["verdict"],
                "shown": NETWORKS[axes["network"]].title,
                "fluctuation": record["fluctuation"],
            }
        )
    return pd.DataFrame(rows)


def holding_usual(grid: pd.DataFrame, *free: str) -> pd.DataFrame:
    """DataFrame, the rows in which every axis of HELD but the free ones has its commonest value."""
    usual = pd.Series(True, grid.index)
    for axis in HELD:
        if axis not in free:
            usual &= grid[axis] == grid[axis].mode()[0]
    return grid[usual]


# --- one axis a figure --------------------------------------------------------------------------


def rate_figure(book: Book, grid: pd.DataFrame) -> Html:
    """Html figure of kappa by learning rate, the presented recipe otherwise unchanged."""
    swept = _by_rate(grid)
    presented = swept.loc[~swept["swept"], "lr"]
    mark = None
    if len(presented):
        mark = presented.iloc[0]
    figure, (ax,) = plots.panels(width=8.5, height=4.6)
    plots.sweep(
        swept, ax, x="lr", xlabel="learning rate", log=True, mark=mark, marked="as presented"
    )
    caption = (
        "Validation kappa (quadratic) after the last epoch by learning rate; "
        f"n = {grid['n'].max()} validation patches, "
        f"{_resampled(grid)} resampled for the 95 % intervals."
    )
    return book.figure(figure, "lr", caption)


def rate_table(book: Book, grid: pd.DataFrame) -> Html:
    """Html table of the best rate of each network beside the rate that was presented."""
    swept = _by_rate(grid)
    best = swept.loc[swept.groupby("network", sort=False)["value"].idxmax()]
    presented = swept[~swept["swept"]].drop_duplicates("network").set_index("network")
    rows = {}
    for row in best.itertuples():
        if row.network in presented.index:
            start = presented.loc[row.network]
            rows[row.shown] = [start["id"], start["verdict"] or "no", f"{row.lr:g}", row.id]
    return book.table(
        ["as presented", "collapsed?", "best rate", "kappa there"],
        rows=rows,
        head="network",
        caption="The best rate is chosen on the same validation patches, so its kappa flatters.",
    )


def axis_figure(book: Book, grid: pd.DataFrame, axis: str, *, name: str, label: str) -> Html:
    """Html figure of kappa by n_train or side_px, under the recipe that was run at most values."""
    # a recipe that was run at one value alone would be a point and no line
    recipe = grid.groupby("recipe")[axis].nunique().idxmax()
    rows = holding_usual(grid, axis)
    figure, (ax,) = plots.panels(width=8.5, height=4.6)
    plots.sweep(rows[rows["recipe"] == recipe], ax, x=axis, xlabel=label)
    caption = (
        f"Validation kappa (quadratic) by {label.removesuffix(' in px')} under "
        f"{recipe.replace('_', ' ')}; n = {grid['n'].max()} validation patches."
    )
    return book.figure(figure, name, caption)


# --- a row for each recipe ----------------------------------------------------------------------


def remedies(grid: pd.DataFrame) -> pd.DataFrame:
    """DataFrame of each remedy alone on top of the presented recipe, named by the remedy."""
    rows = holding_usual(grid)
    presented = rows["base"].str.split("+").str[0] == PRESENTED
    rows = rows[presented & ~rows["swept"]]
    names = rows["base"].str.partition("+")[2].replace("", "as presented").str.replace("_", " ")
    return rows.assign(name=names, null=rows["collapsed"])


def starting_weights(grid: pd.DataFrame) -> pd.DataFrame:
    """DataFrame of the presented and the tuned recipe by the weights they start from."""
    rows = holding_usual(grid, "weights")
    rows = rows[rows["recipe"].isin((PRESENTED, "tuned"))].sort_values("recipe", kind="stable")
    names = rows["recipe"].str.replace("_", " ") + ", " + rows["weights"].astype(str)
    return rows.assign(name=names, null=rows["collapsed"])


def forest_by_network(book: Book, rows: pd.DataFrame, *, name: str, title: str) -> Html:
    """Html figure of kappa by name, a panel for each network; the dotted line is its first row."""
    # a network with one row alone has nothing to be compared with
    networks = [part for _, part in rows.groupby("shown", sort=False) if len(part) > 1]
    networks = networks or [rows]
    columns = min(len(networks), 2)
    height = 1.4 + 0.4 * rows["name"].nunique()
    figure, axes = plots.panels(math.ceil(len(networks) / 2), columns, width=7, height=height)
    for ax, part in zip(axes, networks, strict=False):
        plots.forest(part, ax, null=part["value"].iloc[0])
        ax.set(title=part["shown"].iloc[0], xlabel="validation kappa (quadratic)")
    caption = (
        f"{title}; grey: COLLAPSED; n = {rows['n'].max()} validation patches, "
        f"95 % intervals resampling {_resampled(rows)}."
    )
    return book.figure(figure, name, caption)


def run_table(grid: pd.DataFrame) -> Html:
    """Html table of every run with its kappa, how its curve swings, and whether it collapsed."""
    table = grid.assign(kappa=grid["value"], swing=grid["fluctuation"], COLLAPSED=grid["verdict"])
    return html_table(
        table[SHOWN_COLUMNS].rename(columns={"shown": "network"}),
        caption="Swing: mean change of validation accuracy from epoch to epoch over its range "
        "(1: to and fro). One seed a point unless said otherwise.",
    )


def _validation_kappa(book, study, predictions, run):
    """dict value, low, high, n, sample, id of the validation kappa of a run."""
    rows = predictions[(predictions["run"] == run) & (predictions["set"] == "val")]
    rows = rows[rows["truth"] >= 0]
    groups, sample, _ = resampling_groups(rows["patient"], rows["slide"], rows["patch"])
    predicted = rows[PROBABILITIES].to_numpy(float).argmax(1)
    table = agreement.metrics(
        rows["truth"].to_numpy(int),
        predicted,
        groups=groups,
        scores=study.declared_scores,
        resamples=study.maps["resamples"],
    )
    kappa = table[table["metric"] == "kappa quadratic"]
    ids = book.add(kappa, subset="val", run=run, source=f"runs/{run}/predictions.csv")
    numbers = kappa.iloc[0][["value", "low", "high", "n"]].to_dict()
    return {**numbers, "resampled": sample, "id": ids["kappa quadratic"]}


def _by_rate(grid):
    rows = holding_usual(grid)
    return rows[rows["base"] == PRESENTED]


def _resampled(rows):
    """str, what the intervals resample: the same validation patches for all runs."""
    return rows["resampled"].iloc[-1]
