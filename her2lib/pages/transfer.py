"""What 93 shows of networks that saw only phantoms, beside the DAB rule, on external patches."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from her2lib import plots, stain
from her2lib.data.images import read_pixels
from her2lib.files import write_table
from her2lib.pages import exploration
from her2lib.report.book import Book, Html, forest_table
from her2lib.stats import agreement, compare
from her2lib.stats.intervals import bootstrap, resampling_groups
from her2lib.study.claims import judge_estimate
from her2lib.study.config import Study
from her2lib.study.results import PROBABILITIES, case_caption, shown_runs

SOURCE = "runs/93_transfer/answers.csv"
METRICS = {  # metric: its name on the page
    "accuracy": "accuracy",
    "kappa quadratic": "quadratic-weighted kappa",
    "spearman": "Spearman",
}
NO_EXTERNAL = (
    "this study has no external set: give [data] external, or external patches under [phantom]"
)


@dataclass(frozen=True)
class Transfer:
    """External patches with what every network and rule says of them, a list by seed each."""

    patches: pd.DataFrame  # rows of the external set
    networks: dict[str, list[np.ndarray]]  # name -> probabilities (N,4)
    rules: dict[str, np.ndarray]  # name -> values (N,)
    groups: pd.Series
    sample: str
    warning: str
    resamples: int
    scores: tuple[int, ...]  # that the study declares, as positions in SCORES

    @property
    def truth(self) -> np.ndarray:
        """(N,) int, the true scores."""
        return self.patches["score"].to_numpy(int)

    def predicted(self) -> dict[str, list[np.ndarray]]:
        """dict name -> scores (N,) by seed, of networks, then rules."""
        predicted = {}
        for name, seeds in self.networks.items():
            predicted[name] = [probabilities.argmax(1) for probabilities in seeds]
        for name, values in self.rules.items():
            by_rule = stain.rule_score(torch.from_numpy(values), scores=self.scores)
            predicted[name] = [by_rule.numpy()]
        return predicted

    def ranks(self) -> dict[str, list[np.ndarray]]:
        """dict name -> what orders patches (N,) by seed: expected score, or the rule's value."""
        ranks = {}
        for name, seeds in self.networks.items():
            ranks[name] = [probabilities @ np.arange(4) for probabilities in seeds]
        for name, values in self.rules.items():
            ranks[name] = [values]
        return ranks


# --- the contestants ----------------------------------------------------------------------------


def rule_values(book: Book, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """dict rule -> values (N,) on whole pixels of the external patches, kept as rules.csv."""
    # white balance helped within one laboratory and hurt across laboratories, so both are kept
    raw = []
    balanced = []
    images = exploration.whole_images(table["path"].tolist())
    for mpp, image in zip(table["mpp"], images, strict=True):
        raw.append(stain.rule_value(image, mpp=mpp).item())
        balanced.append(stain.rule_value(stain.white_balance(image), mpp=mpp).item())
    rules = {"DAB rule": np.array(raw), "DAB rule, white-balanced": np.array(balanced)}
    columns = table[["name", "slide", "score"]]
    write_table(book.file.parent / "rules.csv", columns.assign(**rules))
    return rules


def network_probabilities(
    study: Study, predictions: pd.DataFrame, names: pd.Series
) -> dict[str, list[np.ndarray]]:
    """dict network -> probabilities (N,4) of these patches, one for each finished seed."""
    networks = {}
    for name, run in shown_runs(study).items():
        seeds = []
        for sibling in _seeds_of(study, run):
            rows = predictions[predictions["run"] == sibling].set_index("patch")
            probabilities = rows[PROBABILITIES].reindex(names).to_numpy(float)
            # a seed that is not finished, or lacks a patch, would not be heard on the same patches
            if np.isfinite(probabilities).all():
                seeds.append(probabilities)
        networks[name] = seeds
    return networks


def transfer(
    study: Study,
    table: pd.DataFrame,
    networks: dict[str, list[np.ndarray]],
    rules: dict[str, np.ndarray],
) -> Transfer:
    """Transfer of these external patches; its intervals resample patients or slides."""
    groups, sample, warning = resampling_groups(table["patient"], table["slide"], table["name"])
    resamples = study.maps["resamples"]
    declared = study.declared_scores
    return Transfer(table, networks, rules, groups, sample, warning, resamples, declared)


def keep_answers(book: Book, answered: Transfer) -> None:
    """None; answers.csv, a row for every contestant, seed and patch."""
    predicted = answered.predicted()
    tables = []
    for name, seeds in answered.ranks().items():
        for seed, values in enumerate(seeds):
            table = pd.DataFrame(
                {
                    "name": name,
                    "run": seed,
                    "patch": answered.patches["name"],
                    "set": "external",
                    "truth": answered.truth,
                    "answer": predicted[name][seed],
                    "rank": values,
                }
            )
            tables.append(table)
    write_table(book.file.parent / "answers.csv", pd.concat(tables))


# --- how well they do ---------------------------------------------------------------------------


def measure_transfer(book: Book, answered: Transfer) -> dict[str, dict[str, str]]:
    """dict contestant -> {metric: id} of accuracy, kappa and Spearman, with their intervals."""
    options = {"groups": answered.groups, "resamples": answered.resamples}
    ranks = answered.ranks()
    ids = {}
    for name, predicted in answered.predicted().items():
        table = agreement.metrics(answered.truth, predicted, scores=answered.scores, **options)
        table = table[table["metric"].isin(METRICS)]
        ids[name] = book.add(table, subset="external", run=name, source=SOURCE)
        spearman = bootstrap(agreement.spearman, ranks[name], answered.truth, **options)
        ids[name] |= book.add({"spearman": spearman}, subset="external", run=name, source=SOURCE)
    return ids


def metric_table(book: Book, answered: Transfer, ids: dict[str, dict[str, str]]) -> Html:
    """Html table of each network and rule on the external set."""
    return book.table(
        METRICS.values(),
        rows={name: [ids[name][metric] for metric in METRICS] for name in ids},
        head="on the external set",
        caption=f"n = {len(answered.truth)} patches; brackets: 95 % intervals that resample "
        f"{answered.sample}. {answered.warning}",
    )


def metric_figure(book: Book, answered: Transfer, ids: dict[str, dict[str, str]]) -> Html:
    """Html figure of kappa and Spearman with intervals, the rules in grey."""
    figure, axes = plots.panels(1, 2, width=6.5, height=1.2 + 0.45 * len(ids))
    is_rule = [name in answered.rules for name in ids]
    for ax, metric in zip(axes, ("kappa quadratic", "spearman"), strict=True):
        table = forest_table(book, [ids[name][metric] for name in ids], names=list(ids))
        plots.forest(table.assign(null=is_rule), ax)
        ax.set_xlabel(f"{METRICS[metric]}, external set")
    caption = (
        f"External set, n = {len(answered.truth)} patches: networks (black) beside the rule "
        f"(grey), 95 % intervals resampling {answered.sample}."
    )
    return book.figure(figure, "forest", caption)


def above_the_rule(book: Book, answered: Transfer) -> Html:
    """Html table of every network less every rule, on the same patches, with a verdict by kappa."""
    rows = {}
    for name in answered.networks:
        for rule in answered.rules:
            rows[f"{name} less {rule}"] = _difference_cells(book, answered, name, rule)
    return book.table(
        ["quadratic-weighted kappa", "Spearman", "above the rule, by kappa?"],
        rows=rows,
        head="difference",
        caption=f"Paired differences with 95 % intervals resampling {answered.sample}; "
        f"n = {len(answered.truth)} patches.",
    )


# --- patch by patch -----------------------------------------------------------------------------


def order_figure(book: Book, answered: Transfer) -> Html:
    """Html figure of every patch by true score, as each network and rule orders it."""
    ranks = answered.ranks()
    figure, axes = plots.panels(1, len(ranks), width=4.6, height=3.6)
    for ax, (name, values) in zip(axes, ranks.items(), strict=True):
        ylabel = "rule value"
        if name in answered.networks:
            ylabel = "expected score"
        expected = np.mean(values, axis=0)
        plots.strips(expected, answered.truth, ax, ylabel=ylabel, scores=answered.scores)
        ax.set(title=name, xlabel="true score")
    caption = (
        f"Every external patch by true score (n = {len(answered.truth)}); bars are medians. "
        "Networks: expected score, mean over seeds."
    )
    return book.figure(figure, "order", caption)


def worst_figure(book: Book, answered: Transfer, *, most: int) -> Html:
    """Html figure of the patches on which the first network is most mistaken, mean over seeds."""
    mean = np.mean(next(iter(answered.networks.values())), axis=0)  # (N,4)
    distance = np.abs(mean @ np.arange(4) - answered.truth)
    worst = np.argsort(-distance, kind="stable")[:most]
    images = []
    titles = []
    for row in worst:
        patch = answered.patches.loc[row]
        probabilities = dict(zip(PROBABILITIES, mean[row], strict=True))
        images.append(read_pixels(patch["path"]))
        case = {"patch": patch["name"], "truth": answered.truth[row], **probabilities}
        titles.append(case_caption(case))
    right = list(mean[worst].argmax(1) == answered.truth[worst])
    figure = plots.gallery(images, titles, right=right)
    caption = "Largest distance between expected and true score first."
    return book.figure(figure, "worst", caption, photo=True)


def _seeds_of(study, run):
    """list of runs that differ from a run in their seed alone, the run among them."""
    stem = run.rsplit("-s", 1)[0]
    siblings = []
    for row in study.runs():
        if row["label_shuffle"] == "none" and row["run"].rsplit("-s", 1)[0] == stem:
            siblings.append(row["run"])
    return siblings


def _spearman_gap(truth, a, b):
    return agreement.spearman(a, truth) - agreement.spearman(b, truth)


def _difference_cells(book, answered, name, rule):
    """list of ids and words: a network less a rule in kappa and Spearman, and the verdict."""
    options = {"groups": answered.groups, "resamples": answered.resamples}
    predicted = answered.predicted()
    # the rule knows no seeds: every seed of the network meets the same answers of it
    by_rule = predicted[rule] * len(predicted[name])
    pair = compare.compare(
        answered.truth, predicted[name], by_rule, scores=answered.scores, **options
    )
    kappa = pair[pair["metric"] == "kappa quadratic difference"]
    keep = {"subset": "external", "run": f"{name} less {rule}", "source": SOURCE}
    ids = book.add(kappa, **keep)
    ranks = answered.ranks()[name]
    spearman = bootstrap(_spearman_gap, answered.truth, ranks, answered.rules[rule], **options)
    ids |= book.add({"spearman": spearman}, **keep)
    verdict, why = judge_estimate(kappa.iloc[0], groups=answered.groups.nunique())
    return [ids["kappa quadratic difference"], ids["spearman"], f"{verdict}: {why}"]
