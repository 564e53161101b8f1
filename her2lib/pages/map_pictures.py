"""What notebooks 08 and 11 show of a panel: its pictures, and its tables with every number kept."""

import numpy as np
import pandas as pd
import torch

from her2lib import plots, stain
from her2lib.data.images import read_pixels
from her2lib.files import write_table
from her2lib.maps import attribution, focus
from her2lib.networks import models
from her2lib.pages.map_panel import MapPanel, map_label
from her2lib.report.book import Book, Html
from her2lib.stats.agreement import accuracy, kappa
from her2lib.stats.intervals import Estimate, bootstrap
from her2lib.study.claims import Verdict
from her2lib.study.results import case_caption, surest_cases

NO_ATTENTION = Html("<p>No network of this study has attention.</p>")
DRAWN_AS = f"drawn as: {plots.SCALING}."
ABLATED: dict[str, tuple] = {
    "accuracy": (accuracy, {}, "share given the true score"),
    "kappa": (kappa, {"weights": "quadratic"}, "quadratic-weighted kappa"),
}


# --- pictures of single patches -----------------------------------------------------------------


def steps_figure(book: Book, panel: MapPanel) -> Html:
    """Html figure of Grad-CAM's five steps on the patch that the first network is surest of."""
    name, net = next(iter(panel.networks.items()))
    case = chosen_cases(panel, name).iloc[0]
    x = _input_of_cases(panel, net, [case["patch"]])
    score = int(case["answer"])
    features, gradient = attribution.features_gradient(net, x, score)
    maps = attribution.grad_cam(net, x, score)
    figure, axes = plots.panels(1, 5, width=3, height=3.2)
    weights = gradient[0].mean((1, 2))
    plots.steps(_picture_of_case(panel, case["patch"]), features[0], weights, maps[0], axes)
    caption = f"{name}, {case['patch']}. Step 5 is {DRAWN_AS}"
    return book.figure(figure, "steps", caption, photo=True)


def trap_figures(book: Book, panel: MapPanel) -> Html:
    """Html, per network with attention: Grad-CAM into and behind the last block, and relevance."""
    pages = [_trap_figure(book, panel, name) for name in panel.attentive]
    return Html("".join(pages) or NO_ATTENTION)


def _trap_figure(book, panel, name):
    net = panel.networks[name]
    case = chosen_cases(panel, name).iloc[0]
    picture = _picture_of_case(panel, case["patch"])
    x = _input_of_cases(panel, net, [case["patch"]])
    score = int(case["answer"])
    # the gradient is exactly 0 for every patch, so the first patch's map stands for all
    zero_maps, largest = attribution.last_output_cam(
        net, panel.input_of(name), panel.predicted[name]
    )
    maps = {
        "into the last block": attribution.grad_cam(net, x, score)[0],
        "behind it: all zero": zero_maps[0],
        "relevance": attribution.relevance(net, x, score)[0],
    }
    figure, axes = plots.panels(1, 4, width=2.9, height=3.2)
    plots.patch(picture, axes[0], title=case_caption(case))
    plots.maps(picture, maps, axes[1:])
    caption = (
        f"{name}: the same Grad-CAM at two places. "
        "Largest gradient behind the last block: {zero}."
    )
    zero = _add_largest_gradient(book, name, largest, len(panel.patches.table))
    return book.figure(figure, f"trap_{name}", caption, photo=True, zero=zero)


def _add_largest_gradient(book, name, largest, n_patches):
    """str, the id of the largest gradient behind the last block, a number without an interval."""
    note = "the largest of all patches, tokens and channels, not a mean"
    estimate = Estimate(largest, np.nan, np.nan, n_patches, "patches", note)
    metric = "largest gradient behind the last block"
    return book.add({metric: estimate}, subset="test", run=name)[metric]


def case_figures(book: Book, panel: MapPanel) -> Html:
    """Html, per network: the patches it is surest of, right and wrong, each over its map."""
    pages = []
    for name, method in panel.followed.items():
        net = panel.networks[name]
        cases = chosen_cases(panel, name)
        x = _input_of_cases(panel, net, cases["patch"])
        scores = torch.tensor(cases["answer"].to_numpy())
        figure = plots.gallery(
            [_picture_of_case(panel, patch) for patch in cases["patch"]],
            [case_caption(case) for case in cases.to_dict("records")],
            right=list(cases["right"]),
            maps=attribution.METHODS[method].function(net, x, scores),
        )
        about = attribution.METHODS[method].caption
        caption = f"{name}. {about}, for the predicted score; {DRAWN_AS}"
        pages.append(book.figure(figure, f"cases_{name}", caption, photo=True))
    return Html("".join(pages))


def row_figure(book: Book, panel: MapPanel) -> Html:
    """Html figure of one patch: every network's map above, the same values by chance below."""
    name = next(iter(panel.networks))
    drawn = panel.predictions[panel.predictions["patch"].isin(panel.patches.table["name"])]
    case = surest_cases(drawn[drawn["run"] == panel.runs[name]], each=1).iloc[0]
    # only patches of the panel have a map placed by chance beside their own
    i = panel.patches.table["name"].tolist().index(case["patch"])
    picture = np.array(read_pixels(panel.patches.table["path"].iloc[i]))  # (H,W,3)
    brown = stain.only(torch.from_numpy(picture).permute(2, 0, 1)[None], "dab")[0]
    captions = _caption_lines(drawn[drawn["patch"] == case["patch"]])

    figure, axes = plots.panels(2, 2 + len(panel.networks), width=2.3, height=2.9)
    upper, lower = np.split(axes, 2)
    plots.patch(picture, upper[0], title="\n".join(captions[panel.runs[name]][:2]))
    plots.patch(brown, upper[1], title="brown stain alone")
    plots.maps(picture, _row_of_maps(panel, i, captions), upper[2:])
    plots.maps(picture, _maps_without_network(panel, i), lower[:2], bar=False)
    plots.maps(picture, _row_by_chance(panel, i), lower[2:])
    caption = f"{case['patch']}: {name} is surest of it. Maps {DRAWN_AS}"
    return book.figure(figure, "row", caption, photo=True)


def chosen_cases(panel: MapPanel, name: str) -> pd.DataFrame:
    """DataFrame of the test patches that a network is surest of, half right and half wrong."""
    predictions = panel.predictions
    of_run = predictions[(predictions["run"] == panel.runs[name]) & (predictions["set"] == "test")]
    return surest_cases(of_run, each=panel.study.maps["gallery"] // 2)


def _caption_lines(predictions):
    """{run: lines of the caption} of the predictions for one patch."""
    return {
        row["run"]: case_caption(row).replace(", ", "\n").split("\n")
        for row in predictions.to_dict("records")
    }


def _row_of_maps(panel, i, captions):
    """{title: (h,w)} the known map of every network for patch i, titled by what it predicted."""
    maps = {}
    for name, method in panel.followed.items():
        predicted = captions[panel.runs[name]][2:]
        title = "\n".join([map_label(name, method), *predicted])
        maps[title] = panel.maps[name, method][i]
    return maps


def _row_by_chance(panel, i):
    """{title: (h,w)}; the title is the same for all, so spaces keep the keys apart."""
    return {
        "null: by chance" + " " * n: panel.by_chance[key][i]
        for n, key in enumerate(panel.followed.items())
    }


def _maps_without_network(panel, i):
    """{title: map} the nulls "centre" and "dab" of patch i."""
    # neither looks at a network: one is needed only to carry the patch
    net = next(iter(panel.networks.values()))
    x = models.normalise(panel.patches.images[[i]], net)
    return {
        f"null: {null}": attribution.METHODS[null].function(net, x)[0] for null in ("centre", "dab")
    }


def _rows_of(panel, names):
    """list of int, the rows of patches in the cohort."""
    row_of = dict(zip(panel.cohort.table["name"], panel.cohort.table.index, strict=True))
    return [row_of[name] for name in names]


def _picture_of_case(panel, patch):
    """The patch as its file shows it, in full size."""
    (row,) = _rows_of(panel, [patch])
    return read_pixels(panel.cohort.table["path"][row])


def _input_of_cases(panel, net, names):
    """(B,3,H,W) float32, patches of the cohort by name as a network reads them."""
    return models.normalise(panel.cohort.patches.images[_rows_of(panel, names)], net)


# --- tables of means ----------------------------------------------------------------------------


def means_table(
    book: Book,
    panel: MapPanel,
    table: pd.DataFrame,
    columns: dict[str, str],
    *,
    file: str,
    head: str,
    caption: str = "",
) -> Html:
    """Html table of the means of columns {column: title} by label; table is kept as file (CSV).

    Every mean is added to the book with its interval and the file as its source, so that the
    recount can repeat it. Example: means_table(book, panel, faithfulness_table(panel),
    {"road": "ROAD"}, file="belief.csv", head="map").
    """
    write_table(book.file.parent / file, table)
    means = focus.mean_table(table, columns, by=["label"], **panel.resampling)
    ids = _add_by_label(book, means, file)
    rows = {label: [by_metric[column] for column in columns] for label, by_metric in ids.items()}
    return book.table(columns.values(), head=head, rows=rows, caption=caption or panel.stands_on)


def similarity_means(book: Book, panel: MapPanel, table: pd.DataFrame) -> Html:
    """Html table of the maps' rank correlation with themselves, a column per change."""
    file = "likeness.csv"
    write_table(book.file.parent / file, table)
    means = focus.mean_table(table, ["spearman"], by=["label", "change"], **panel.resampling)
    means["metric"] = "likeness, " + means["change"]
    changes = means["change"].unique()
    rows = {}
    for label, ids in _add_by_label(book, means, file).items():
        rows[label] = [ids.get(f"likeness, {change}", "no such run") for change in changes]
    return book.table(changes, head="likeness (Spearman)", rows=rows, caption=panel.stands_on)


def ablation_means(book: Book, panel: MapPanel, table: pd.DataFrame) -> Html:
    """Html tables of accuracy and kappa on patches with one kind of evidence left or taken."""
    file = "ablations.csv"
    write_table(book.file.parent / file, table)
    pages = []
    for what, (statistic, options, head) in ABLATED.items():
        rows = {}
        for kind, patches in table.groupby("kind", sort=False):
            estimates = {}
            for name in panel.networks:
                columns = (patches["truth"].to_numpy(), patches[name].to_numpy())
                estimate = bootstrap(statistic, *columns, **panel.resampling, **options)
                estimates[f"{what}, {name}"] = estimate
            source = _source(book, file)
            ids = book.add(estimates, subset="test", run=kind, source=source)
            rows[kind.replace("_", " ")] = list(ids.values())
        pages.append(book.table(panel.networks, head=head, rows=rows, caption=panel.stands_on))
    return Html("".join(pages))


def depth_figure(book: Book, panel: MapPanel, table: pd.DataFrame) -> Html:
    """Html figure of each known map's density by depth in the tumour, its null beside it."""
    figure, axes = plots.panels(1, len(panel.networks), width=3.6, height=3.4)
    unit = table["unit"].iloc[0]
    for ax, (name, method) in zip(axes, panel.followed.items(), strict=True):
        bands = table[(table["name"] == name) & (table["method"] == method)]
        by = ["null", "band", "depth"]
        means = focus.mean_table(bands, ["density"], by=by, **panel.resampling)
        plots.bands(means, ax, title=map_label(name, method), unit=unit)
    caption = (
        "Share of the map in each depth of the tumour over the share of its area there: 1 (dotted) "
        "is even; black the map, grey the same values placed by chance. " + panel.stands_on
    )
    return book.figure(figure, "bands", caption)


# --- how far attention looks --------------------------------------------------------------------


def attention_figures(book: Book, panel: MapPanel, table: pd.DataFrame) -> Html:
    """Html, per network with attention: each head's distance by layer, untrained and trained."""
    pages = []
    # untrained attention is nearly even and looks far already: the dotted line says how far
    for name in panel.attentive:
        rows = table[table["name"] == name]
        means = focus.mean_table(
            rows, ["distance_px"], by=["weights", "layer", "head"], **panel.resampling
        )
        figure, axes = plots.panels(1, 1, width=9, height=4)
        even = _even_distance_px(panel.networks[name])
        plots.heads(means, axes[0], even=even, mpp=panel.patches.scale)
        caption = (
            f"{name}: a dot is a head, its bar the 95 % interval, the line the mean of the layer. "
        )
        if panel.networks[name].config["weights"] == "none":
            caption += "It began from random weights: there are no pretrained ones to compare."
        pages.append(book.figure(figure, f"attention_{name}", caption))
    return Html("".join(pages))


def attention_means(book: Book, panel: MapPanel, table: pd.DataFrame) -> Html:
    """Html table of the mean distance in the first and last layer; a CSV per network is kept."""
    if not panel.attentive:
        return NO_ATTENTION
    # the first and the last layer say most; the figure shows all of them
    rows = {}
    for name in panel.attentive:
        file = f"attention_{panel.runs[name]}.csv"
        of_network = table[table["name"] == name].drop(columns="name")
        write_table(book.file.parent / file, of_network)
        ends = of_network["layer"].isin([0, panel.networks[name].layers - 1])
        means = focus.mean_table(
            of_network[ends],
            ["distance_px", "distance_um", "tokens"],
            by=["label"],
            **panel.resampling,
        )
        for label, ids in _add_by_label(book, means, file).items():
            rows[label] = list(ids.values())
    titles = ["pixels", "micrometres", "high-norm tokens a patch"]
    return book.table(titles, head="mean attention distance", rows=rows, caption=panel.stands_on)


def _even_distance_px(net):
    """float, mean distance in px of attention that is the same to every patch token."""
    tokens = net.grid[0] * net.grid[1]
    attention = torch.ones(1, 1, tokens, tokens)
    pitch_px = net.side_px / net.grid[1]
    return focus.attention_distance(attention, net.grid, pitch_px=pitch_px).item()


# --- what becomes of the claims -----------------------------------------------------------------


def claims_table(book: Book, panel: MapPanel, verdicts: list[Verdict]) -> Html:
    """Html table of a study's claims and their verdicts; claims.csv keeps every patch's value."""
    # the value of every patch is kept beside the verdict, so that the mean can be recounted
    rows = {}
    tables = []
    for verdict in verdicts:
        claim = verdict.claim
        number = _add_verdict(book, verdict)
        stands_on = f"{verdict.estimate.n} {verdict.estimate.sample}"
        cells = [verdict.verdict.upper(), claim.measured, number, verdict.why, stands_on]
        rows[f"{claim.text} {verdict.recipe}".strip()] = cells
        columns = {
            "claim": claim.text,
            "recipe": verdict.recipe,
            "verdict": verdict.verdict,
            "why": verdict.why,
            "number": number,
            "patch": panel.patches.table["name"],
            "value": verdict.values,
        }
        tables.append(pd.DataFrame(columns))
    write_table(book.file.parent / "claims.csv", pd.concat(tables))
    titles = ["verdict", "measured", "value", "because", "stands on"]
    return book.table(titles, head="claim", rows=rows, caption=panel.stands_on)


def _add_verdict(book, verdict):
    """str, the id of the number behind a verdict."""
    claim = verdict.claim
    run = " and ".join([name for name in [*claim.networks, verdict.recipe] if name])
    ids = book.add(
        {claim.measured: verdict.estimate},
        question=claim.text,
        source=_source(book, "claims.csv"),
        subset="test",
        run=run,
    )
    return ids[claim.measured]


def _add_by_label(book, means, file):
    """{label: {metric: id}} of a table of means, every number kept with its source."""
    source = _source(book, file)
    return {
        label: book.add(part, subset="test", run=label, source=source)
        for label, part in means.groupby("label", sort=False)
    }


def _source(book, file):
    """str, the path of a table of this notebook as numbers.csv names it."""
    return f"runs/{book.notebook}/{file}"
