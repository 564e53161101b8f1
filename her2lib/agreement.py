"""How well scores agree: every metric of the study with its interval, kappas, paired comparisons, the human range, shift."""

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from her2lib.calibration import auroc_cut, auroc_macro, calibration_error, ranked_probability_score
from her2lib.intervals import (
    Counted,
    Estimate,
    bootstrap,
    indexed,
    resampled,
    summary,
    tails,
    unit_sums,
    units_of,
)
from her2lib.scores import CUTS, SCORES

__all__ = ["Estimate", "bootstrap", "units_of"]  # wanted together with the metrics below
Q = len(SCORES)
WEIGHTS = ("unweighted", "linear", "quadratic")  # a kappa is never without one of these words
_ONE_SCORE = "both sides gave one and the same score throughout, so chance alone would agree"
_FEW = "no patch has two ratings, or all ratings are one score"


def confusion(truth, predicted):
    """(4,4) int counts: rows the true score, columns the predicted; patches with a score missing (-1) are left out."""
    return pairs(truth, predicted).sum(0).reshape(Q, Q).astype(int)


def pairs(truth, predicted, scores=Q, **_):
    """(N,16) the cell of the confusion matrix that each patch falls into, as a row of zeros and a one."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    valid = (truth >= 0) & (predicted >= 0)
    return np.eye(scores * scores)[np.where(valid, truth * scores + predicted, 0)] * valid[:, None]


def distance(weights, scores=Q):
    """(q,q) disagreement of two scores under the named weighting, 0 on the diagonal and 1 at the far corner."""
    steps = np.abs(np.subtract.outer(np.arange(scores), np.arange(scores))) / (scores - 1)
    if weights not in WEIGHTS:
        raise ValueError(f"{weights!r} is no weighting of kappa: write {', '.join(WEIGHTS)}.")
    return {"unweighted": (steps > 0).astype(float), "linear": steps, "quadratic": steps**2}[
        weights
    ]


def cohen(sums, weights, scores=Q):
    """(...) Cohen's kappa of (...,q*q) confusion counts."""
    table = sums.reshape(*sums.shape[:-1], scores, scores)
    expected = ((table.sum(-1) @ distance(weights, scores)) * table.sum(-2)).sum(-1)
    return 1 - (sums @ distance(weights, scores).ravel()) * sums.sum(-1) / expected


def given(ratings, scores=Q):
    """(N,q) how many raters gave each score to each patch, of ratings (N,R; -1 missing)."""
    return (np.asarray(ratings)[..., None] == np.arange(scores)).sum(1).astype(float)


def _chance_rows(ratings, scores=Q, weights="unweighted"):
    count = given(ratings, scores)
    raters = count.sum(1, keepdims=True)
    near = count @ (1 - distance(weights, scores)) - 1
    agreed = (count * near).sum(1, keepdims=True) / np.maximum(raters * (raters - 1), 1)
    return np.hstack([agreed * (raters > 1), raters > 1, count / np.maximum(raters, 1), raters > 0])


def _chance_corrected(sums, chance, scores, weights):
    observed, share = sums[..., 0] / sums[..., 1], sums[..., 2:-1] / sums[..., -1:]
    expected = chance(share, 1 - distance(weights, scores))
    return (observed - expected) / (1 - expected)


def _fleiss(sums, scores=Q):
    return _chance_corrected(sums, lambda share, _: (share**2).sum(-1), scores, "unweighted")


def _gwet(sums, scores=Q, weights="unweighted"):
    return _chance_corrected(
        sums,
        lambda share, near: near.sum() / (scores * (scores - 1)) * (share * (1 - share)).sum(-1),
        scores,
        weights,
    )


def _coincidences(ratings, scores=Q, **_):
    count = given(ratings, scores)
    both = count[:, :, None] * count[:, None, :] - count[:, :, None] * np.eye(scores)
    return (both / np.maximum(count.sum(1) - 1, 1)[:, None, None]).reshape(len(count), -1)


def _alpha(sums, scores=Q, level="ordinal"):
    table = sums.reshape(*sums.shape[:-1], scores, scores)
    used = table.sum(-1)
    place = (
        np.cumsum(used, -1) - used / 2
        if level == "ordinal"
        else np.broadcast_to(np.arange(scores), used.shape)
    )
    gap = (place[..., None] - place[..., None, :]) ** 2
    gap = gap > 0 if level == "nominal" else gap
    return 1 - (used.sum(-1) - 1) * (table * gap).sum((-1, -2)) / (
        used[..., None] * used[..., None, :] * gap
    ).sum((-1, -2))


def _of_table(of, why="there are no patches", kind="proportion", rows=slice(None)):
    return Counted(
        pairs,
        lambda sums: of(sums.reshape(*sums.shape[:-1], Q, Q)),
        why=why,
        kind=kind,
        size=lambda cells: cells.reshape(-1, Q, Q)[:, rows].sum((1, 2)),
    )


def _among(rows, columns, why):
    return _of_table(
        lambda t: t[..., rows, columns].sum((-1, -2)) / t[..., rows, :].sum((-1, -2)),
        why,
        rows=rows,
    )


def _balanced(table):
    support, right = table.sum(-1), np.einsum("...ii->...i", table)
    return np.nanmean(
        np.where(support > 0, right / support, np.nan), axis=-1
    )  # over the scores that occur, as scikit-learn


def _two(rows, of, **options):
    return Counted(
        lambda t, p: rows(np.stack([t, p], 1), **options), lambda s: of(s, **options), why=_FEW
    )


# Statistics: call them for the value, hand them to bootstrap for the Estimate. The last four take
# ratings (N,R; -1 missing).
kappa = Counted(
    pairs, cohen, why=_ONE_SCORE, size=lambda cells: cells.sum(1)
)  # kappa(a, b, weights="quadratic")
accuracy = _of_table(lambda t: np.einsum("...ii", t) / t.sum((-1, -2)))
fleiss = Counted(_chance_rows, _fleiss, why=_FEW, size=lambda rows: rows[:, 1])
gwet_ac1 = Counted(_chance_rows, _gwet, why=_FEW, size=lambda rows: rows[:, 1])
gwet_ac2 = Counted(
    partial(_chance_rows, weights="quadratic"),
    partial(_gwet, weights="quadratic"),
    why=_FEW,
    size=lambda rows: rows[:, 1],
)
krippendorff = Counted(_coincidences, _alpha, why=_FEW, size=lambda rows: rows.any(1))

_STEPS = np.abs(np.subtract.outer(np.arange(Q), np.arange(Q)))
SCORED = {  # metrics of (truth, predicted)
    "accuracy": accuracy,
    "balanced accuracy": _of_table(_balanced, kind="share"),
    "majority rate": _of_table(lambda t: t.sum(-1).max(-1) / t.sum((-1, -2)), kind="share"),
    **{
        f"concordance {s}": _among(slice(k, k + 1), slice(k, k + 1), f"no patch has score {s}")
        for k, s in enumerate(SCORES)
    },
    **{f"kappa {w}": Counted(pairs, lambda s, w=w: cohen(s, w), why=_ONE_SCORE) for w in WEIGHTS},
    "Gwet AC1": _two(_chance_rows, _gwet, weights="unweighted"),
    "Gwet AC2 quadratic": _two(_chance_rows, _gwet, weights="quadratic"),
    "Krippendorff alpha ordinal": _two(_coincidences, _alpha, level="ordinal"),
    "off-by-two rate": _of_table(lambda t: (t * (_STEPS > 1)).sum((-1, -2)) / t.sum((-1, -2))),
    "mean absolute error": _of_table(
        lambda t: (t * _STEPS).sum((-1, -2)) / t.sum((-1, -2)), kind="number"
    ),
    **{
        f"sensitivity {c}": _among(slice(k + 1, Q), slice(k + 1, Q), f"no patch lies above {c}")
        for k, c in enumerate(CUTS)
    },
    **{
        f"specificity {c}": _among(slice(k + 1), slice(k + 1), f"no patch lies below {c}")
        for k, c in enumerate(CUTS)
    },
}
GRADED = {  # metrics of (truth, probabilities)
    "AUROC macro": auroc_macro,
    **{f"AUROC {cut}": auroc_cut[k] for k, cut in enumerate(CUTS)},
    "ranked probability score": ranked_probability_score,
    **{f"ECE {cut}": calibration_error[k] for k, cut in enumerate(CUTS)},
}


def metrics(truth, scored, *, units, resamples=2000, seed=0):
    """DataFrame, a row per metric: metric + Estimate's fields; scored: (N,) scores, (N,4) probabilities, a list by seed."""
    runs = [np.asarray(one) for one in (scored if isinstance(scored, list) else [scored])]
    known = np.asarray(truth) >= 0
    runs, truth, units = [one[known] for one in runs], np.asarray(truth)[known], units[known]
    wanted = {
        name: (metric, [one.argmax(1) if one.ndim == 2 else one for one in runs])
        for name, metric in SCORED.items()
    }
    wanted |= {name: (metric, runs) for name, metric in GRADED.items() if runs[0].ndim == 2}
    rows = [
        {"metric": name}
        | vars(bootstrap(metric, truth, columns, units=units, resamples=resamples, seed=seed))
        for name, (metric, columns) in wanted.items()
    ]
    for row in rows:
        if row["metric"].startswith("concordance") and row["n"] and len(runs) == 1:
            row["note"] = "; ".join(
                filter(None, [f"{round(row['value'] * row['n'])} of {row['n']}", row["note"]])
            )
    return pd.DataFrame(rows)


def spearman(a, b):
    """float, Spearman's rank correlation of two columns; NaN when one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else np.nan


spearman.why = "one side is the same for every patch"


def kappa_matrix(ratings, *, units, weights, resamples=2000, seed=0):
    """Three (R,R) arrays: Cohen's kappa of every two raters of ratings (N,R; -1 missing) under the named weighting, low, high."""
    matrices = np.tile(np.eye(np.shape(ratings)[1]), (3, 1, 1))
    for (i, j), found in zip(*_pairwise(ratings, units, weights, resamples, seed)[:2], strict=True):
        matrices[:, i, j] = matrices[:, j, i] = found.value, found.low, found.high
    return tuple(matrices)


def kappa_table(ratings, names, *, units, weights, resamples=2000, seed=0):
    """DataFrame, a row per two raters: a, b, metric + Estimate's fields; the note says why where a kappa is not estimable."""
    if len(names) < 2:
        raise ValueError(
            f"Agreement needs two raters: {', '.join(names) or 'none'} is all there is."
        )
    couples, found, *_ = _pairwise(ratings, units, weights, resamples, seed)
    return pd.DataFrame(
        [
            {"a": names[i], "b": names[j], "metric": f"kappa {weights}"} | vars(estimate)
            for (i, j), estimate in zip(couples, found, strict=True)
        ]
    )


def human_range(ratings, names, *, networks, units, weights="quadratic", resamples=2000, seed=0):
    """DataFrame, per network: mean kappa with the raters, the raters' own range, distance from it, verdict and a sentence."""
    couples, found, draws, sizes = _pairwise(ratings, units, weights, resamples, seed)
    among = [
        {names[i], names[j]} & set(networks) for i, j in couples
    ]  # the networks in every couple
    usable = [p for p, estimate in enumerate(found) if not np.isnan(estimate.value)]
    human, rows = [p for p in usable if not among[p]], []
    for network in networks:
        own = [p for p in usable if among[p] == {network}]
        if not own or not human:
            lack = (
                f"{network} has no kappa with any rater"
                if not own
                else "no two raters have a kappa with each other"
            )
            rows.append(
                {
                    "network": network,
                    "verdict": "undecided",
                    "sentence": f"No human range for {network}: {lack}.",
                }
            )
            continue
        values = np.array([found[p].value for p in human])
        mean, worst, best = np.mean([found[p].value for p in own]), values.min(), values.max()
        cuts, drawn = tails(sizes[:, own].sum(1)), draws[:, own].mean(1)
        low, high = np.nanquantile(drawn, cuts)
        near, far = np.nanquantile(drawn - draws[:, human[values.argmin()]], cuts)
        verdict = (
            "above"
            if mean > best
            else "within"
            if mean >= worst
            else "below"
            if far < 0
            else "undecided"
        )
        spoken = {"undecided": "not clearly below the human range"}.get(
            verdict, f"{verdict} the human range"
        )
        estimate = found[own[0]]
        rows.append(
            {
                "network": network,
                "value": mean,
                "low": low,
                "high": high,
                "n": estimate.n,
                "units": estimate.units,
                "lowest": worst,
                "highest": best,
                "distance": mean - worst,
                "distance_low": near,
                "distance_high": far,
                "verdict": verdict,
                "sentence": f"{network} agrees with the {len(own)} raters at a mean {weights} kappa of {mean:.2f} "
                f"({low:.2f} to {high:.2f}; n = {estimate.n} {estimate.units}), "
                f"the raters with each other at {worst:.2f} to {best:.2f}: {spoken}, "
                f"{mean - worst:+.2f} ({near:+.2f} to {far:+.2f}) from its lower end.",
            }
        )
    return pd.DataFrame(rows)


def _pairwise(ratings, units, weights, resamples, seed):
    ratings, (index, word, groups) = np.asarray(ratings), indexed(units)
    couples = list(combinations(range(ratings.shape[1]), 2))
    if not couples:
        return couples, [], np.empty((resamples, 0)), np.empty((groups, 0))
    sums = np.stack(
        [unit_sums(pairs(ratings[:, i], ratings[:, j]), index) for i, j in couples], axis=1
    )  # (G,couples,16)
    sizes = sums.sum(2)
    with np.errstate(all="ignore"):
        drawn = resampled(groups, resamples, seed) @ sums.reshape(groups, len(couples) * Q * Q)
        values, draws = (
            cohen(sums.sum(0), weights),
            cohen(drawn.reshape(resamples, len(couples), -1), weights),
        )
    why = [_ONE_SCORE if rated.any() else "no patch has both ratings" for rated in sizes.T]
    found = [
        summary(values[p], draws[:, p], sizes[:, p], word, why=why[p]) for p in range(len(couples))
    ]
    return couples, found, draws, sizes


def compare(truth, a, b, *, units, resamples=5000, seed=0):
    """DataFrame, a minus b in accuracy and kappa (interval, permutation p) and exact McNemar; a, b: scores or lists by seed."""
    rows = []
    for name in ("accuracy", "kappa quadratic"):
        found = bootstrap(
            _difference(SCORED[name]), truth, a, b, units=units, resamples=resamples, seed=seed
        )
        p, test = permuted(SCORED[name], truth, a, b, units=units, resamples=resamples, seed=seed)
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
                "units": "patches",
                "share": True,
                "p": p,
                "test": "exact McNemar, as if patches were independent",
                "note": f"right where the other is wrong: {only_a} against {only_b} patches",
            }
        )
    return pd.DataFrame(rows)


def compare_all(truth, scored, *, units, against=None, resamples=5000, seed=0):
    """DataFrame, compare() of every two of scored {name: scores}, or of each with one; p_holm is Holm's correction per metric."""
    names = (
        [(name, against) for name in scored if name != against]
        if against
        else list(combinations(scored, 2))
    )
    table = pd.concat(
        [
            compare(
                truth, scored[a], scored[b], units=units, resamples=resamples, seed=seed
            ).assign(a=a, b=b)
            for a, b in names
        ],
        ignore_index=True,
    )
    table["p_holm"] = table.groupby("metric").p.transform(
        lambda p: multipletests(p, method="holm")[1]
    )
    return table[["a", "b", *(column for column in table if column not in ("a", "b"))]]


def permuted(metric, truth, a, b, *, units, resamples=5000, seed=0):
    """(p, what was done): a and b swapped in whole units, in all ways if these are few, else at random; seeds are averaged."""
    index, word, groups = indexed(units)
    a, b = (
        np.stack(
            [
                unit_sums(metric.rows(truth, one), index)
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
    return Counted(
        lambda t, a, b: np.hstack([metric.rows(t, a), metric.rows(t, b)]),
        lambda sums: metric.of(sums[..., : Q * Q]) - metric.of(sums[..., Q * Q :]),
        why=metric.why,
        kind="share" if metric.kind != "number" else "number",
    )


def shift(sets, *, resamples=2000, seed=0):
    """DataFrame, per set {name: (truth, predicted, units)} and score: shares, concordance, change since the first set."""
    rows, first = [], {}
    for name, (truth, predicted, units) in sets.items():
        for k, score in enumerate(SCORES):
            seen = bootstrap(
                SCORED[f"concordance {score}"],
                truth,
                predicted,
                units=units,
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
                    "metric": f"concordance {score}",
                }
                | {key: value for key, value in vars(seen).items() if key != "share"}
                | (
                    {"change": change, "change_low": change - down, "change_high": change + up}
                    if old is not seen
                    else {}
                )
            )
    return pd.DataFrame(rows)
