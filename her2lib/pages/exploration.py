"""What 01 shows of the patches: problems, counts, pictures, and what brown alone already knows."""

import html
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from her2lib import plots, stain
from her2lib.data.images import map_ahead, read_pixels
from her2lib.data.reading import Cohort
from her2lib.files import write_json, write_table
from her2lib.report.book import Book, Html, html_table
from her2lib.scores import score_name
from her2lib.stats.agreement import spearman
from her2lib.stats.intervals import bootstrap, resampling_groups

SUBSETS = ("train", "val", "test", "external")
EACH = 4  # patches of a score in the gallery
# A set whose names contradict its folders has thousands, which hide every other.
MANY_PROBLEMS = 200

# --- files and sets -----------------------------------------------------------------------------


def problem_table(book: Book, cohort: Cohort) -> Html:
    """Html table of every problem of the files with its remedy, or that there is none.

    More than MANY_PROBLEMS are shown by kind; all of them stand in problems.csv of this run.
    """
    if not len(cohort.problems):
        return book.say("No file has a problem.")
    write_table(book.file.parent / "problems.csv", cohort.problems)
    if len(cohort.problems) <= MANY_PROBLEMS:
        table = cohort.problems.drop(columns="kind")
        return html_table(table, caption="Files with a problem, and the remedy.")
    kinds = cohort.problems.groupby(["severity", "kind"], as_index=False)
    table = kinds.agg(
        files=("file", "size"),
        first=("file", "first"),
        problem=("problem", "first"),
        remedy=("remedy", "first"),
    )
    caption = (
        "Problems of the files by kind, with the first file and its remedy; each stands in "
        "runs/01_data_exploration/problems.csv."
    )
    return html_table(table, caption=caption)


def division_notes(book: Book, cohort: Cohort) -> Html:
    """Html list of what the reader should know about the sets, after writing count and notes."""
    table = cohort.table
    counts = {"patches": len(table)}
    for column in ("slide", "patient"):
        counts[f"{column}s"] = int(table.loc[table[column] != "", column].nunique())
    write_json(book.file.parent / "count.json", counts)
    write_json(book.file.parent / "notes.json", cohort.notes)
    items = "".join(f"<li>{html.escape(note)}</li>" for note in cohort.notes)
    return Html(f"<ul>{items}</ul>")


def count_figure(book: Book, table: pd.DataFrame) -> Html:
    """Html figure of the patches of each set, stacked by score."""
    scores = table["score"].map(score_name)
    counts = pd.crosstab(table["set"], scores)
    counts = counts.reindex([subset for subset in SUBSETS if subset in counts.index])
    figure, (ax,) = plots.panels(width=9, height=1.2 + 0.6 * len(counts))
    plots.counts(counts, ax, scores=book.study.declared_scores)
    caption = (
        "Patches by set and true score. The true score is the one that came with the patches; "
        "where a whole slide was scored, it is the slide's."
    )
    return book.figure(figure, "counts", caption)


def example_figure(book: Book, table: pd.DataFrame) -> Html:
    """Html figure of training patches drawn at random, a row for each score."""
    train = table[table["set"] == "train"]
    # with replacement, as a rare score may have fewer patches than its row has places
    drawn = train.groupby("score").sample(EACH, random_state=0, replace=True)
    drawn = drawn.drop_duplicates("path")
    images = [read_pixels(path) for path in drawn["path"]]
    titles = []
    for name, score in zip(drawn["name"], drawn["score"], strict=True):
        titles.append(f"{name[:34]}\nscore {score_name(score)}")
    caption = "Training patches with file name and true score."
    return book.figure(plots.gallery(images, titles), "patches", caption, photo=True)


def sets_per_slide(table: pd.DataFrame) -> pd.Series:
    """Series of how many sets each known slide stands in: 1, if the split is honest."""
    return table[table["slide"] != ""].groupby("slide")["set"].nunique()


# --- what brown alone already knows -------------------------------------------------------------


def whole_images(paths: Iterable) -> Iterator[torch.Tensor]:
    """(1,3,H,W) uint8 of each image file in turn, at its own size, decoded ahead of its use."""
    for pixels in map_ahead(_pixel_array, paths):
        yield torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (H,W,3) -> (1,3,H,W)


def rule_table(book: Book, table: pd.DataFrame) -> pd.DataFrame:
    """DataFrame (name, set, score, value, predicted) of the DAB rule, kept as rule.csv."""
    # whole pixels and not the store's: the rule looks for membranes, which shrinking blurs
    images = whole_images(table["path"].tolist())
    bar = tqdm(table["mpp"], desc="DAB rule", unit="patch")
    values = []
    for mpp, image in zip(bar, images, strict=True):
        values.append(stain.rule_value(image, mpp=mpp).item())
    measured = torch.tensor(values, dtype=torch.float64)
    predicted = stain.rule_score(measured, scores=book.study.declared_scores).numpy()
    rule = table[["name", "set", "score"]].assign(value=values, predicted=predicted)
    write_table(book.file.parent / "rule.csv", rule)
    return rule


def rule_figure(book: Book, table: pd.DataFrame, rule: pd.DataFrame, *, resamples: int) -> Html:
    """Html figure of the rule's value by true score, with its rank correlation and interval."""
    groups, _, warning = resampling_groups(table["patient"], table["slide"], table["name"])
    estimate = bootstrap(
        spearman,
        rule["value"].to_numpy(),
        rule["score"].to_numpy(),
        groups=groups,
        resamples=resamples,
    )
    source = "runs/01_data_exploration/rule.csv"
    ids = book.add({"spearman": estimate}, subset="all", run="DAB rule", source=source)
    figure, (ax,) = plots.panels(width=7, height=4)
    declared = book.study.declared_scores
    plots.strips(rule["value"], rule["score"], ax, ylabel="DAB rule value", scores=declared)
    ax.set_xlabel("true score")
    caption = (
        "The rule's value for every patch by true score; bars are medians. "
        f"Spearman correlation {{spearman}}. {warning}"
    )
    return book.figure(figure, "rule", caption, spearman=ids["spearman"])


def _pixel_array(path):
    return np.array(read_pixels(path))
