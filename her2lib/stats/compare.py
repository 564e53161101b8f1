"""Is one network better than another: paired differences, their tests, change between sets."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from her2lib.scores import ALL_SCORES, SCORES
from her2lib.stats.agreement import SCORED
from her2lib.stats.intervals import (
    Estimate,
    Groups,
    SumStatistic,
    bootstrap,
    group_index,
    group_sums,
)

# Scores (N,) of one network, or a list of such, one per seed.
Predicted: TypeAlias = np.ndarray | list[np.ndarray]
# Differences of permuted statistics that differ by less are one value.
_ROUNDING = 1e-12


# --- two networks on the same patches -----------------------------------------------------------


def compare(
    truth: np.ndarray,
    a: Predicted,
    b: Predicted,
    *,
    groups: Groups,
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, a minus b in accuracy and quadratic kappa, with interval and p; exact McNemar.

    a and b are (N,) scores, or lists of them, one per seed; with seeds there is no McNemar test.
    The p of a difference is of a permutation test that swaps whole groups. scores are those that
    the study declares, as positions in SCORES. Raises ValueError for lists of different length.
    Example: compare(truth, a, b, groups=patients).
    """
    options: dict[str, Any] = {
        "groups": groups,
        "resamples": resamples,
        "seed": seed,
        "scores": scores,
    }
    rows = []
    for name in ("accuracy", "kappa quadratic"):
        metric = SCORED[name]
        estimate = bootstrap(_difference(metric), truth, a, b, **options)
        p, test = permutation_test(metric, truth, a, b, **options)
        rows.append({"metric": f"{name} difference", **vars(estimate), "p": p, "test": test})
    if not isinstance(a, list) and not isinstance(b, list):
        rows.append(_mcnemar_row(truth, a, b))
    return pd.DataFrame(rows)


def compare_all(
    truth: np.ndarray,
    scored: dict[str, Predicted],
    *,
    groups: Groups,
    against: str | None = None,
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, compare() of every two of scored {name: scores}, or of each with one of them.

    a and b are the names, p_holm is p after Holm's correction over the pairs, for each metric.
    """
    pairs = list(combinations(scored, 2))
    if against:
        pairs = [(name, against) for name in scored if name != against]
    options: dict[str, Any] = {
        "groups": groups,
        "resamples": resamples,
        "seed": seed,
        "scores": scores,
    }
    tables = []
    for a, b in pairs:
        table = compare(truth, scored[a], scored[b], **options)
        tables.append(table.assign(a=a, b=b))
    table = pd.concat(tables, ignore_index=True)
    table["p_holm"] = table.groupby("metric")["p"].transform(_holm)
    rest = [column for column in table if column not in ("a", "b")]
    return table[["a", "b", *rest]]


def _holm(p):
    return multipletests(p, method="holm")[1]


def _difference(metric):
    """SumStatistic of a metric of (truth, a) minus the same of (truth, b)."""
    kind = "number"
    if metric.kind != "number":
        kind = "fraction"
    rows = partial(_rows_of_both, metric)
    return SumStatistic(rows, partial(_difference_of_sums, metric), why=metric.why, kind=kind)


def _rows_of_both(metric, truth, a, b, **options):
    return np.hstack([metric.rows(truth, a, **options), metric.rows(truth, b, **options)])


def _difference_of_sums(metric, sums, **options):
    # (…,2*q*q): the cells of the confusion matrix of a, then those of b.
    of_a, of_b = np.split(sums, 2, axis=-1)
    return metric.of(of_a, **options) - metric.of(of_b, **options)


def _mcnemar_row(truth, a, b):
    """dict, a row of compare(): how many patches only a or only b gets right, exact test."""
    only_a = int(((a == truth) & (b != truth)).sum())
    only_b = int(((b == truth) & (a != truth)).sum())
    p = 1.0
    if only_a + only_b:
        p = min(1.0, float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))
    return {
        "metric": "McNemar",
        "value": (only_a - only_b) / len(truth),
        "n": len(truth),
        "sample": "patches",
        "as_percent": True,
        "p": p,
        "test": "exact McNemar, as if patches were independent",
        "note": f"right where the other is wrong: {only_a} against {only_b} patches",
    }


# --- the permutation test -----------------------------------------------------------------------


def permutation_test(
    metric: SumStatistic,
    truth: np.ndarray,
    a: Predicted,
    b: Predicted,
    *,
    groups: Groups,
    resamples: int = 5000,
    seed: int = 0,
    **options,
) -> tuple[float, str]:
    """(p, what was done): a and b swapped in whole groups; the mean over seeds is tested.

    All swaps are tried if they are no more than resamples, else that many random ones. options go
    to the metric.
    """
    index, group_kind, n_groups = group_index(groups)
    sums_a = _sums_by_seed(metric, truth, a, index, options)
    sums_b = _sums_by_seed(metric, truth, b, index, options)
    swaps, how = _swaps(n_groups, resamples, seed)
    whole = sums_a.sum(1)[:, None] + sums_b.sum(1)[:, None]  # (seeds,1,K)
    with np.errstate(all="ignore"):
        swapped = sums_a.sum(1)[:, None] + swaps @ (sums_b - sums_a)  # (seeds,swaps,K)
        by_seed = metric.of(swapped, **options) - metric.of(whole - swapped, **options)
        differences = np.abs(by_seed.mean(0))
    p = float(np.mean(differences >= differences[0] - _ROUNDING))
    return p, f"{how} {len(swaps)} swaps of {n_groups} {group_kind}"


def _sums_by_seed(metric, truth, predicted, index, options):
    """(seeds,G,K) sums of a metric's rows over the patches of each group."""
    if not isinstance(predicted, list):
        predicted = [predicted]
    return np.stack([group_sums(metric.rows(truth, run, **options), index) for run in predicted])


def _swaps(n_groups, resamples, seed):
    """((swaps,G) of 0 and 1: which groups are swapped, "all" or "random"); the first swaps none."""
    if 2**n_groups <= resamples:
        return np.indices((2,) * n_groups).reshape(n_groups, -1).T, "all"
    swaps = np.random.default_rng(seed).integers(0, 2, (resamples, n_groups))
    # The scores as they are count once, also among random swaps: p is never 0.
    swaps[0] = 0
    return swaps, "random"


# --- one network on several sets ----------------------------------------------------------------


def domain_shift(
    sets: dict[str, tuple],
    *,
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, per set {name: (truth, predicted, groups)} and score: shares, recall, its change.

    The change is since the first set, its interval that of two independent sets. scores are those
    that the study declares, as positions in SCORES.
    """
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "scores": scores}
    rows = []
    first: dict[str, Estimate] = {}
    for name, (truth, predicted, groups) in sets.items():
        for k in scores:
            score = SCORES[k]
            metric = f"recall {score}"
            recall = bootstrap(SCORED[metric], truth, predicted, groups=groups, **options)
            fields = vars(recall).copy()
            del fields["as_percent"]
            row = {
                "set": name,
                "score": score,
                "share": np.mean(np.asarray(truth) == k),
                "predicted share": np.mean(np.asarray(predicted) == k),
                "metric": metric,
                **fields,
            }
            if score in first:
                row |= _change(first[score], recall)
            else:
                first[score] = recall
            rows.append(row)
    return pd.DataFrame(rows)


def _change(old, new):
    """dict: new minus old of two independent Estimates, interval from theirs (Newcombe 1998)."""
    change = new.value - old.value
    down = np.hypot(new.value - new.low, old.high - old.value)
    up = np.hypot(new.high - new.value, old.value - old.low)
    return {"change": change, "change_low": change - down, "change_high": change + up}
