"""What 07 shows of people and networks as raters: kappas, the human range, patches from elsewhere.

Each function takes the book in which numbers are kept; `rated` is a RatedPatches.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from her2lib import plots
from her2lib.data.images import read_pixels
from her2lib.files import write_table
from her2lib.readers import votes as votes_
from her2lib.report import sections
from her2lib.report.book import Book, Html
from her2lib.scores import score_name
from her2lib.stats import agreement, calibration, compare
from her2lib.stats.intervals import bootstrap
from her2lib.study import results
from her2lib.study.config import Study
from her2lib.study.results import PROBABILITIES, RatedPatches

RATINGS = "runs/07_agreement/ratings.csv"
CORRECTED = "runs/07_agreement/corrected.csv"
CONTESTANTS = "runs/06_compare_models/contestants.csv"
AGAINST_OTHERS = {  # metric: its name on the page
    "accuracy": "same score",
    "kappa unweighted": "kappa unweighted",
    "kappa quadratic": "kappa quadratic",
}


def keep_ratings(book: Book, rated: RatedPatches) -> pd.DataFrame:
    """DataFrame of each rater's scores, described, after writing ratings.csv."""
    tidy = rated.tidy()
    # who is a person stands beside each score, so that every consensus can be made again from it
    is_person = tidy["rater"].isin(rated.people)
    write_table(book.file.parent / "ratings.csv", tidy.assign(person=is_person))
    return pd.DataFrame(rated.ratings, columns=rated.names).replace(-1, np.nan).describe().T


def who_read(book: Book, rated: RatedPatches) -> Html:
    """Html of how many patches were read by whom, and what the intervals resample."""
    return book.say(
        "{n} patches were read by {r} raters ({who}). Intervals resample {sample}. {warning} "
        "{undeclared}",
        n=len(rated.patch),
        r=len(rated.people),
        who=", ".join(rated.people) or "no rater columns in the data",
        sample=rated.sample,
        warning=rated.warning,
        undeclared=_undeclared_readings(book.study, rated),
    )


# --- how well raters agree ----------------------------------------------------------------------


def kappa_figure(book: Book, rated: RatedPatches, *, resamples: int) -> Html:
    """Html figure of the quadratic-weighted kappa of every two raters, all kept in numbers.csv."""
    options = {
        "groups": rated.groups,
        "weights": "quadratic",
        "scores": rated.scores,
        "resamples": resamples,
    }
    for row in agreement.kappa_table(rated.ratings, rated.names, **options).to_dict("records"):
        pair = f"{row['a']} ~ {row['b']}"
        book.add(pd.DataFrame([row]), subset="rated", run=pair, source=RATINGS)
    values, low, high = agreement.kappa_matrix(rated.ratings, **options)
    raters = len(rated.names)
    figure, (ax,) = plots.panels(width=1.5 + 1.25 * raters, height=1 + 1.05 * raters)
    plots.matrix(values, ax, names=rated.names, low=low, high=high)
    caption = (
        f"Quadratic-weighted kappa with 95 % interval; n = {len(rated.patch)} patches, "
        f"intervals resample {rated.sample}."
    )
    return book.figure(figure, "kappas", caption)


def against_the_others(book: Book, rated: RatedPatches, *, resamples: int) -> Html:
    """Html table of each rater against the majority of the others, each network against all."""
    rows = {}
    for name, (others, scores) in _pairs_with_nothing_built_in(rated).items():
        known = (others >= 0) & (scores >= 0)
        estimates = {}
        for metric in AGAINST_OTHERS:
            estimates[metric] = bootstrap(
                agreement.SCORED[metric],
                others[known],
                scores[known],
                groups=rated.groups[known],
                scores=rated.scores,
                resamples=resamples,
            )
        run = f"{name} against the other raters"
        ids = book.add(estimates, subset="rated", run=run, source=RATINGS)
        rows[name] = list(ids.values())
    caption = f"95 % intervals, resampling {rated.sample}."
    return book.table(
        AGAINST_OTHERS.values(), rows=rows, head="against the others", caption=caption
    )


def human_range_sentences(rated: RatedPatches, *, resamples: int) -> Html:
    """Html, a sentence for each network: inside the range of kappas between people or not."""
    names = [*rated.people, *rated.networks]
    ranges = agreement.human_range(
        rated.of(names),
        names,
        networks=rated.networks,
        groups=rated.groups,
        scores=rated.scores,
        resamples=resamples,
    )
    return sections.paragraphs(ranges["sentence"])


def all_raters_together(book: Book, rated: RatedPatches, *, resamples: int) -> Html:
    """Html table of Fleiss' kappa, Gwet's AC1 and AC2 and Krippendorff's alpha of all people."""
    coefficients: list[tuple[str, Callable, dict[str, Any]]] = [
        ("Fleiss kappa", agreement.fleiss, {}),
        ("Gwet AC1", agreement.gwet_ac1, {}),
        ("Gwet AC2 (quadratic)", agreement.gwet_ac2, {"weights": "quadratic"}),
        ("Krippendorff alpha (ordinal)", agreement.krippendorff, {}),
    ]
    votes = rated.of(rated.people)
    estimates = {}
    for name, coefficient, options in coefficients:
        # without a rater there is nothing to estimate, not even a reason why not
        if votes.shape[1]:
            estimates[name] = bootstrap(
                coefficient,
                votes,
                groups=rated.groups,
                scores=rated.scores,
                resamples=resamples,
                **options,
            )
    ids = book.add(estimates, subset="rated", run="all raters", source=RATINGS)
    return book.table(
        ["all raters together"],
        rows={name: [id_] for name, id_ in ids.items()},
        caption=f"95 % intervals, resampling {rated.sample}. Gwet's coefficients hang on the "
        f"number of scores: here {len(rated.scores)} ({_names(rated.scores)}).",
    )


def split_votes_figure(book: Book, rated: RatedPatches, table: pd.DataFrame, *, most: int) -> Html:
    """Html figure of the patches on which people disagree most; table names the image files."""
    votes = rated.of(rated.people)
    split = votes_.disagreements(votes, list(rated.patch)).head(most)
    paths = table.set_index("name").loc[split["patch"], "path"]
    images = [read_pixels(path) for path in paths]
    titles = [f"{row.patch[:34]}\n{row.scores}" for row in split.itertuples()]
    caption = "Widest disagreements first, with each rater's score."
    return book.figure(plots.gallery(images, titles), "split", caption, photo=True)


# --- patches from elsewhere ---------------------------------------------------------------------


def looks_at_external_set(study: Study, predictions: pd.DataFrame) -> Html:
    """Html, a sentence for each look at the external set, after noting it in the ledger."""
    if predictions.empty or "external" not in set(predictions["set"]):
        return sections.paragraphs(["There is no external set in this study."])
    ledger = study.folder / "ledger.csv"
    sentences = []
    for run, record in results.run_records(study).items():
        fingerprint = " ".join(record["fingerprints"].values())
        _, sentence = results.log_look(ledger, run=run, fingerprint=fingerprint)
        sentences.append(sentence)
    return sections.paragraphs(sentences or ["There is no external set in this study."])


def shift_table(book: Book, study: Study, predictions: pd.DataFrame, *, resamples: int) -> Html:
    """Html table of the recall of each score on validation, test and external patches."""
    names = predictions["run"].map(results.display_names(study))
    shown = results.shown_runs(study)
    sets: dict[str, dict] = {}
    for one in results.evaluations(predictions.assign(name=names)):
        if one.subset != "train" and one.name in shown:
            predicted = [probabilities.argmax(1) for probabilities in one.probabilities]
            sets.setdefault(one.name, {})[one.subset] = (one.truth, predicted, one.groups)
    options: dict[str, Any] = {"scores": study.declared_scores, "resamples": resamples}
    shifts = {name: compare.domain_shift(by_set, **options) for name, by_set in sets.items()}
    return sections.shifts(book, shifts, source=CONTESTANTS)


def corrected_table(book: Book, study: Study, predictions: pd.DataFrame, *, resamples: int) -> Html:
    """Html table of accuracy on the external set, as answered and corrected for its fractions."""
    rows = {}
    tables = []
    for name, run in results.shown_runs(study).items():
        of_run = predictions[(predictions["run"] == run) & (predictions["truth"] >= 0)]
        on_train = of_run.loc[of_run["set"] == "train", "truth"]
        trained = np.bincount(on_train, minlength=len(PROBABILITIES))
        of_run = of_run.assign(name=name)
        for one in results.evaluations(of_run, scores=study.declared_scores):
            if one.subset != "external":
                continue
            answered = one.probabilities[0]
            # the fractions there are estimated from the answers alone; no true score is used
            corrected = calibration.prior_corrected(answered, trained=trained)[0]
            both = {"accuracy as answered": answered, "accuracy corrected": corrected}
            ids = _add_accuracies(book, one, run, both, resamples)
            rows[name] = list(ids.values())
            tables += [_as_table(one, run, metric, values) for metric, values in both.items()]
    kept_as = pd.DataFrame()
    if tables:
        kept_as = pd.concat(tables)
    write_table(book.file.parent / "corrected.csv", kept_as)
    return book.table(
        ["as answered", "corrected"],
        rows=rows,
        head="external set",
        caption="Share given the true score, 95 % intervals.",
    )


def _add_accuracies(book, one, run, both, resamples):
    """dict metric -> id of the accuracy of each of {metric: probabilities (N,4)}."""
    estimates = {}
    for metric, probabilities in both.items():
        predicted = probabilities.argmax(1)
        estimates[metric] = bootstrap(
            agreement.accuracy,
            one.truth,
            predicted,
            groups=one.groups,
            scores=one.scores,
            resamples=resamples,
        )
    return book.add(estimates, subset="external", run=one.name, source=CORRECTED)


def _as_table(one, run, metric, probabilities):
    """DataFrame of corrected.csv: p0..p3, metric, name, run, set, patch, truth; a row per patch."""
    table = pd.DataFrame(probabilities, columns=PROBABILITIES)
    return table.assign(
        metric=metric,
        name=one.name,
        run=run,
        set="external",
        patch=one.patch,
        truth=one.truth,
    )


def _undeclared_readings(study, rated):
    """str, a sentence about the readings of scores that the study does not declare; "" for none."""
    foreign = sorted(set(rated.scores) - set(study.declared_scores))
    if not foreign:
        return ""
    counts = []
    for person in rated.people:
        n_readings = int(np.isin(rated.of([person]), foreign).sum())
        if n_readings:
            counts.append(f"{n_readings} of {person}")
    return (
        f"Readings of {_names(foreign)}, which this study does not declare, stay as they are "
        f"({', '.join(counts)}): the raters' coefficients are over {_names(rated.scores)}."
    )


def _names(scores):
    return ", ".join(map(score_name, scores))


def _pairs_with_nothing_built_in(rated):
    """dict rater -> (scores of the others (N,), own scores (N,)); -1 where there is none."""
    votes = rated.of(rated.people)
    if len(rated.people) > 1:
        others = votes_.leave_one_out(votes)
    else:
        others = np.full_like(votes, -1)  # one alone has no others
    pairs = {}
    for column, name in enumerate(rated.people):
        pairs[name] = (others[:, column], votes[:, column])
    if rated.people:
        consensus = votes_.consensus(votes)[0]
        for name in rated.networks:
            pairs[name] = (consensus, rated.of([name])[:, 0])
    return pairs
