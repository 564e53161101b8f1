"""Is one network better than another: paired differences, permutation and McNemar tests, change between sets."""

from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from her2lib.scores import SCORES
from her2lib.stats import agreement
from her2lib.stats.intervals import (
    SumStatistic,
    bootstrap,
    group_index,
    group_sums,
)


def compare(truth, a, b, *, groups, resamples=5000, seed=0):
    """DataFrame, a minus b in accuracy and kappa (interval, permutation p) and exact McNemar; a, b: scores or lists by seed."""
    rows = []
    for name in ("accuracy", "kappa quadratic"):
        found = bootstrap(
            _difference(agreement.SCORED[name]),
            truth,
            a,
            b,
            groups=groups,
            resamples=resamples,
            seed=seed,
        )
        p, test = permutation_test(
            agreement.SCORED[name], truth, a, b, groups=groups, resamples=resamples, seed=seed
        )
        rows.append({"metric": f"{name} difference"} | vars(found) | {"p": p, "test": test})
    if not isinstance(a, list) and not isinstance(b, list):
        only_a, only_b = (int(((x == truth) & (y != truth)).sum()) for x, y in ((a, b), (b, a)))
        p = (
            min(1.0, float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))
            if only_a + only_b
            else 1.0
        )
        rows.append(
            {
                "metric": "McNemar",
                "value": (only_a - only_b) / len(truth),
                "n": len(truth),
                "sample": "patches",
                "as_percent": True,
                "p": p,
                "test": "exact McNemar, as if patches were independent",
                "note": f"right where the other is wrong: {only_a} against {only_b} patches",
            }
        )
    return pd.DataFrame(rows)


def compare_all(truth, scored, *, groups, against=None, resamples=5000, seed=0):
    """DataFrame, compare() of every two of scored {name: scores}, or of each with one; p_holm is Holm's correction per metric."""
    names = (
        [(name, against) for name in scored if name != against]
        if against
        else list(combinations(scored, 2))
    )
    table = pd.concat(
        [
            compare(
                truth, scored[a], scored[b], groups=groups, resamples=resamples, seed=seed
            ).assign(a=a, b=b)
            for a, b in names
        ],
        ignore_index=True,
    )
    table["p_holm"] = table.groupby("metric").p.transform(
        lambda p: multipletests(p, method="holm")[1]
    )
    return table[["a", "b", *(column for column in table if column not in ("a", "b"))]]


def permutation_test(metric, truth, a, b, *, groups, resamples=5000, seed=0):
    """(p, what was done): a and b swapped in whole groups, in all ways if these are few, else at random; seeds are averaged."""
    index, word, groups = group_index(groups)
    a, b = (
        np.stack(
            [
                group_sums(metric.rows(truth, one), index)
                for one in (c if isinstance(c, list) else [c])
            ]
        )
        for c in (a, b)
    )
    whole = a.sum(1)[:, None] + b.sum(1)[:, None]  # (seeds,1,K)
    every = 2**groups <= resamples
    swaps = (
        np.indices((2,) * groups).reshape(groups, -1).T
        if every
        else (np.random.default_rng(seed).integers(0, 2, (resamples, groups)))
    )
    swaps[0] = 0  # the scores as they are: counted once, also among random swaps
    with np.errstate(all="ignore"):
        swapped = a.sum(1)[:, None] + swaps @ (b - a)
        gap = np.abs((metric.of(swapped) - metric.of(whole - swapped)).mean(0))
    return float(
        np.mean(gap >= gap[0] - 1e-12)
    ), f"{'all' if every else 'random'} {len(swaps)} swaps of {groups} {word}"


def _difference(metric):
    return SumStatistic(
        lambda t, a, b: np.hstack([metric.rows(t, a), metric.rows(t, b)]),
        lambda sums: (
            metric.of(sums[..., : agreement.Q * agreement.Q])
            - metric.of(sums[..., agreement.Q * agreement.Q :])
        ),
        why=metric.why,
        kind="share" if metric.kind != "number" else "number",
    )


def domain_shift(sets, *, resamples=2000, seed=0):
    """DataFrame, per set {name: (truth, predicted, groups)} and score: shares, recall, change since the first set."""
    rows, first = [], {}
    for name, (truth, predicted, groups) in sets.items():
        for k, score in enumerate(SCORES):
            seen = bootstrap(
                agreement.SCORED[f"recall {score}"],
                truth,
                predicted,
                groups=groups,
                resamples=resamples,
                seed=seed,
            )
            old = first.setdefault(score, seen)
            change = (
                seen.value - old.value
            )  # its interval from the two (Newcombe 1998): the sets are independent
            down = np.hypot(seen.value - seen.low, old.high - old.value)
            up = np.hypot(seen.high - seen.value, old.value - old.low)
            rows.append(
                {
                    "set": name,
                    "score": score,
                    "share": np.mean(np.asarray(truth) == k),
                    "predicted share": np.mean(np.asarray(predicted) == k),
                    "metric": f"recall {score}",
                }
                | {key: value for key, value in vars(seen).items() if key != "as_percent"}
                | (
                    {"change": change, "change_low": change - down, "change_high": change + up}
                    if old is not seen
                    else {}
                )
            )
    return pd.DataFrame(rows)
