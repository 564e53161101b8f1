"""What 09 shows of labels: groups cut by the split, the gap between splits, doubts, re-reading.

Each function takes values or the book in which numbers are kept; `table` is a row for every patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import plots, stain
from her2lib.data import slide_groups, splits
from her2lib.data.images import read_pixels
from her2lib.files import fingerprint, write_table
from her2lib.pages import exploration
from her2lib.readers import label_doubt, sheets
from her2lib.report import sections
from her2lib.report.book import Book, Html, html_table
from her2lib.scores import score_name
from her2lib.stats import compare
from her2lib.stats.agreement import SCORED
from her2lib.stats.intervals import FEW_GROUPS, bootstrap, resampling_groups
from her2lib.study.cohort import recovered_groups
from her2lib.study.config import Study
from her2lib.study.results import (
    PROBABILITIES,
    Evaluation,
    display_names,
    evaluations,
    run_record,
)

BY_SPLIT = "runs/09_label_review/by_split.csv"
SAME_BUT_SPLIT = ("network", "recipe", "weights", "side_px", "n_train")
SPLIT_ORDER = ("random", "official", "grouped")
READERS = ["reader_1", "reader_2"]

# --- patches of one slide on both sides ---------------------------------------------------------


def patch_groups(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """DataFrame (name, slide, set, score, group, recovered), a row for every patch.

    A patch's group is its patient or slide where one is given, else a group recovered from pixels.
    Recovering needs a store of 512 px, so it is left out where every slide is given.
    """
    recovered = ((table["slide"] == "") & (table["patient"] == "")).to_numpy()
    group = splits.split_groups(table)
    if recovered.any():
        group = np.where(recovered, recovered_groups(study, table), group)
    columns = table[["name", "slide", "set", "score"]]
    return columns.assign(group=group, recovered=recovered)


def leakage_table(groups: pd.DataFrame) -> Html:
    """Html table of how many patches have a patch of their group in another set.

    Random is drawn here patch by patch, to show what it would cut; official is the study's split.
    """
    inside = groups[groups["set"] != "external"]
    group = inside["group"].to_numpy()
    # as many patches in each set as the study has, so that only the way of drawing differs
    drawn = np.random.default_rng(0).permutation(inside["set"])
    cuts = pd.concat(
        [
            slide_groups.set_leakage(group, inside["set"]).assign(split="official"),
            slide_groups.set_leakage(group, drawn).assign(split="random"),
        ]
    )
    how = "given as slide or patient, none recovered"
    recovered = set(groups.loc[groups["recovered"], "group"])
    if recovered:
        how = f"{len(recovered)} of them recovered, the others given"
    return html_table(
        cuts,
        columns=["split", "set", "patches", "shared", "groups", "cut"],
        caption=f"{len(set(group))} groups of {len(inside)} patches, {how}; "
        "shared: patches whose group stands in another set too; cut: such groups.",
    )


# --- the gap between splits ---------------------------------------------------------------------


@dataclass(frozen=True)
class SplitTests:
    """Every network on the test set of its own split, in the order random, official, grouped."""

    tests: list[Evaluation]
    axes: dict[str, dict]  # name -> the axes of its first run
    collapsed: set[str]  # names
    few: set[str]  # names of those with too few slides or patients for an interval

    def split_of(self, test: Evaluation) -> str:
        """str, the split under which a network was trained and tested."""
        return self.axes[test.name]["split"]

    def pairs(self) -> list[tuple[Evaluation, Evaluation]]:
        """list of two tests that differ in their split alone."""
        pairs = []
        for later, b in enumerate(self.tests):
            for a in self.tests[:later]:
                if self._same_but_split(a) == self._same_but_split(b):
                    pairs.append((a, b))
        return pairs

    def _same_but_split(self, test):
        return [self.axes[test.name][axis] for axis in SAME_BUT_SPLIT]


def split_tests(study: Study, book: Book, predictions: pd.DataFrame) -> SplitTests:
    """SplitTests of the finished runs; their predictions are kept as by_split.csv."""
    names = display_names(study)
    axes = {run["run"]: run for run in study.runs()}
    first_axes: dict[str, dict] = {}
    for run, name in names.items():
        first_axes.setdefault(name, axes[run])
    apart = _own_test_predictions(predictions, names, axes)
    write_table(book.file.parent / "by_split.csv", apart)
    tests = []
    if len(apart):
        tests = evaluations(apart, scores=study.declared_scores)
    in_order = []
    for split in SPLIT_ORDER:
        in_order += [test for test in tests if first_axes[test.name]["split"] == split]
    collapsed = {names[run] for run in axes if run_record(study, run).get("verdict")}
    few = {test.name for test in tests if test.groups.nunique() < FEW_GROUPS}
    return SplitTests(in_order, first_axes, collapsed, few)


def own_test_table(book: Book, study: Study, compared: SplitTests) -> Html:
    """Html table of every network on its own test set, beside the commonest score there."""
    once = (
        f"Only one split was run. For the gap, add to {study.file.name}: "
        '[[extra_axes]] split = ["random", "grouped"].'
    )
    if not compared.tests:
        return sections.paragraphs([once])
    rows = {}
    for test in compared.tests:
        estimates = _accuracy_and_kappa(test, study.maps["resamples"])
        ids = book.add(estimates, subset="own test", run=test.name, source=BY_SPLIT)
        split = compared.split_of(test)
        if test.name in compared.collapsed:
            split += ", COLLAPSED"
        if test.name in compared.few:
            split += ", rough"
        size = f"{len(test.truth)} of {test.groups.nunique()} {test.sample}"
        rows[test.name] = [split, size, *ids.values()]
    caption = (
        "Commonest score: the share of whichever score is commonest in that test set, "
        f"in each draw anew. {compared.tests[0].warning}"
    )
    if len({compared.split_of(test) for test in compared.tests}) == 1:
        caption = f"{caption} {once}"
    return book.table(
        ["split", "test patches", "accuracy", "commonest score", "quadratic-weighted kappa"],
        rows=rows,
        head="each on its own test set",
        caption=caption,
    )


def split_gaps(book: Book, study: Study, table: pd.DataFrame, compared: SplitTests) -> Html:
    """Html, a sentence for every two tests that differ in split alone: the gap, or undecided."""
    sentences = []
    for a, b in compared.pairs():
        gaps = _gaps(table, a, b, study.maps["resamples"])
        run = f"{a.name} minus {b.name}"
        ids = book.add(gaps, subset="own test", run=run, source=BY_SPLIT)
        sentence = book.say(
            "{a} minus {b}: accuracy {right} (in points), quadratic-weighted kappa {kappa}. {end}",
            a=a.name,
            b=b.name,
            right=ids["accuracy gap"],
            kappa=ids["kappa quadratic gap"],
            end=_decided(compared, a, b, gaps),
        )
        sentences.append(sentence)
    return Html("".join(sentences))


def _own_test_predictions(predictions, names, axes):
    """DataFrame of test predictions, set "own test", of the runs that learnt given scores."""
    if not len(predictions):
        return pd.DataFrame(columns=["run", "name"])
    apart = predictions[predictions["set"] == "test"].assign(set="own test")
    learnt = [run for run in axes if axes[run]["label_shuffle"] == "none"]
    apart = apart[apart["run"].isin(learnt)]
    return apart.assign(name=apart["run"].map(names))


def _accuracy_and_kappa(test, resamples):
    predicted = [probabilities.argmax(1) for probabilities in test.probabilities]
    estimates = {}
    for metric in ("accuracy", "majority rate", "kappa quadratic"):
        estimates[metric] = bootstrap(
            SCORED[metric],
            test.truth,
            predicted,
            groups=test.groups,
            scores=test.scores,
            resamples=resamples,
        )
    return estimates


def _gaps(table, a, b, resamples):
    """DataFrame of the differences of two tests over the patches of both, slides drawn together."""
    both = table[table["name"].isin([*a.patch, *b.patch])]
    predicted = []
    for test in (a, b):
        # in the other's test set a patch has no answer, -1
        by_patch = [pd.Series(one.argmax(1), test.patch) for one in test.probabilities]
        by_patch = [scores.reindex(both["name"]).fillna(-1).to_numpy(int) for scores in by_patch]
        predicted.append(by_patch)
    seeds = min(len(scores) for scores in predicted)  # as many of one as of the other
    groups = resampling_groups(both["patient"], both["slide"], both["name"])[0]
    gaps = compare.compare(
        both["score"].to_numpy(),
        predicted[0][:seeds],
        predicted[1][:seeds],
        groups=groups,
        scores=a.scores,
        resamples=resamples,
    )
    return gaps.assign(metric=gaps["metric"].str.replace("difference", "gap"))


def _decided(compared, a, b, gaps):
    """str, whether an interval leaves zero out, or why nothing is decided."""
    names = {a.name, b.name}
    if names & compared.collapsed:
        return "Undecided: a run collapsed."
    if names & compared.few:
        return f"Undecided: fewer than {FEW_GROUPS} {a.sample} in a test set."
    if (gaps["low"] * gaps["high"] <= 0).all():
        return "Undecided: both intervals hold zero."
    return "An interval leaves zero out."


# --- which scores the evidence doubts -----------------------------------------------------------


def rank_labels(
    study: Study, table: pd.DataFrame, predictions: pd.DataFrame, groups: pd.DataFrame
) -> pd.DataFrame:
    """DataFrame of label_doubt.rank_doubts over every scored patch, the most doubtful first.

    The learner never sees the patch's own slide, or, where none is known, its recovered group.
    """
    ids = np.where(table["slide"] != "", table["slide"], groups["group"])
    rule, excess, features = _stain_measures(table)
    learner = label_doubt.out_of_fold_probabilities(features, table["score"], groups=ids)
    ratings = None
    people = [column for column in table if column.startswith("rater_")]
    if people:
        ratings = table[people].fillna(-1)
    return label_doubt.rank_doubts(
        table["score"],
        patch=table["name"],
        predictions=_network_votes(study, table, predictions),
        learner=learner,
        rule=rule,
        features=features,
        ratings=ratings,
        groups=ids,
        excess=excess,
    )


def most_doubtful(doubts: pd.DataFrame, *, most: int) -> pd.DataFrame:
    """DataFrame, the first rows of a ranking that are doubted or not visible in their patch."""
    return doubts[doubts["kind"] != ""].head(most)


def doubt_table(doubts: pd.DataFrame, top: pd.DataFrame) -> Html:
    """Html table of the most doubtful labels; the caption counts all."""
    readable = top.assign(
        score=top["score"].map(score_name),
        suggested=top["suggested"].map(score_name),
        doubt=top["doubt"].round(2),
    )
    doubted = (doubts["kind"] == "in doubt").sum()
    invisible = (doubts["kind"] == "not visible here").sum()
    silent = doubts["reasons"].str.startswith("no evidence").sum()
    return html_table(
        readable,
        caption=f"{doubted} of {len(doubts)} scores are doubted, "
        f"{invisible} are not visible in their patch; of {silent} nothing can be said, "
        "because no other slide or group shows their score.",
    )


def doubt_figure(book: Book, table: pd.DataFrame, top: pd.DataFrame) -> Html:
    """Html figure of the most doubtful patches, with the score given and what the evidence says."""
    paths = table.set_index("name").loc[top["patch"], "path"]
    titles = []
    for row in top.itertuples():
        scores = f"given {score_name(row.score)}, evidence {score_name(row.suggested)}"
        titles.append(f"{row.patch[:34]}\n{scores}\n{row.kind}, doubt {row.doubt:.2f}")
    figure = plots.gallery([read_pixels(path) for path in paths], titles)
    caption = "Patches whose score the evidence doubts most. Research use only."
    return book.figure(figure, "doubt", caption, photo=True)


def _stain_measures(table):
    """(rule (N,), excess DAB (N,), learner's features (N,D)) of the image files, one at a time."""
    rule = []
    excess = []
    features = []
    images = exploration.whole_images(table["path"].tolist())
    for image, mpp in zip(images, table["mpp"], strict=True):
        rule.append(stain.rule_value(image, mpp=mpp).item())
        excess.append(label_doubt.excess_dab(image, mpp=mpp).item())
        features.append(label_doubt.learner_features(image, mpp=mpp)[0])
    return np.array(rule), np.array(excess), np.array(features)


def _network_votes(study, table, predictions):
    """list of (N,4) probabilities of every run for patches that it has not learnt, else NaN."""
    if not len(predictions):
        return []
    axes = {run["run"]: run for run in study.runs()}
    votes = []
    for run, rows in predictions[predictions["set"] != "train"].groupby("run"):
        shuffled = axes[run]["label_shuffle"] != "none"
        # weak votes spoil a ranking that does without them
        if shuffled or run_record(study, run).get("verdict"):
            continue
        by_patch = rows.drop_duplicates("patch").set_index("patch")[PROBABILITIES]
        votes.append(by_patch.reindex(table["name"]).to_numpy(float))
    return votes


# --- read again ---------------------------------------------------------------------------------


def hand_out_sheets(
    study: Study, table: pd.DataFrame, doubts: pd.DataFrame, top: pd.DataFrame
) -> Path:
    """Path of this round's sheets below reading/; written once, for each doubted patch and another.

    The other is an undoubted patch of the same given score.
    """
    # so neither a patch's score nor its being on the sheet tells a reader that it is doubted
    undoubted = doubts[doubts["kind"] == ""].sample(frac=1, random_state=0)
    wanted = undoubted["score"].map(top["score"].value_counts()).fillna(0)
    others = undoubted[undoubted.groupby("score").cumcount() < wanted]
    round_ = table[table["name"].isin([*top["patch"], *others["patch"]])]
    # named by its patches: the same doubts find the same sheets again, filled in or not
    folder = study.folder / "reading" / fingerprint(sorted(round_["name"]))[:8]
    if len(round_) and not (folder / "key.csv").exists():
        sheets.write_sheets(round_, folder, readers=READERS, repeats=0)
    return folder


def keep_settled_scores(study: Study, settled: pd.DataFrame) -> Path:
    """Path of reading/reread.csv (patch, reread), written only when its content changes."""
    file = study.folder / "reading" / "reread.csv"
    table = settled[["patch", "reread"]]
    # a study that trains with it is run anew when the file is newer
    if not file.is_file() or file.read_text(encoding="utf-8") != table.to_csv(index=False):
        write_table(file, table)
    return file


def reading_sentences(
    study: Study,
    folder: Path,
    ratings: pd.DataFrame,
    settled: pd.DataFrame,
    problems: Sequence[str],
) -> Html:
    """Html: where the sheets lie, or what was read again and how to train with it."""
    if not ratings["patch"].nunique():
        where = folder.relative_to(study.folder.parent)
        sentence = (
            f"No sheet is filled in yet: {where} holds one for each of two readers (sheet.html). "
            f"Once filled in: her2 run {study.name}"
        )
        return sections.paragraphs([sentence, *problems])
    read = ratings["patch"].nunique()
    moved = int((settled["score"] != settled["reread"]).sum())
    sentence = (
        f"{read} patches were read again: {len(settled)} are settled, {moved} of them with another "
        f"score; {read - len(settled)} not, as readers met halfway. To train with them: copy "
        f"{study.file.name} under another name, add reread = "
        f'"reports/{study.name}/reading/reread.csv" under [data], run it, and '
        f"her2 diff {study.name} with it."
    )
    return sections.paragraphs([sentence, *problems])


def reread_table(
    book: Book, study: Study, table: pd.DataFrame, compared: SplitTests, settled: pd.DataFrame
) -> Html:
    """Html table of the same answers against given and re-read scores; "" if none is read."""
    if not len(settled) or not compared.tests:
        return Html("")
    before = table.set_index("name")["score"]
    reread = settled.set_index("patch")["reread"].reindex(before.index)
    after = reread.fillna(before).astype(int)
    source = f"{BY_SPLIT}, reading/reread.csv"
    rows = {}
    for test in compared.tests:
        predicted = [probabilities.argmax(1) for probabilities in test.probabilities]
        kappas = {}
        # over all four scores, for a patch may be read again as one that the study does not
        # declare; a weighted kappa is the same however many are declared
        for when, scores in (("before", before), ("after", after)):
            kappas[f"kappa quadratic {when} re-reading"] = bootstrap(
                SCORED["kappa quadratic"],
                scores[test.patch].to_numpy(),
                predicted,
                groups=test.groups,
                resamples=study.maps["resamples"],
            )
        ids = book.add(kappas, subset="own test", run=test.name, source=source)
        here_settled = np.isin(test.patch, settled["patch"]).sum()
        rows[test.name] = [f"{here_settled} of {len(test.truth)}", *ids.values()]
    warning = resampling_groups(table["patient"], table["slide"], table["name"])[2]
    return book.table(
        ["settled anew", "before", "after"],
        rows=rows,
        head="quadratic-weighted kappa",
        caption="The same answers against the given and the re-read scores, each on its own test "
        f"set; nothing was trained anew. {warning}",
    )
