"""Numbers that never travel alone: value, interval, n and units; resampled by patient or slide, never by patch where it can be helped."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
FEW_UNITS = 10  # below this many patients even the corrected interval is a guess, and the note says so


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, the patches it rests on (n) and their units ("patches of 51 slides"); NaN only with a note."""

    value: float
    low: float
    high: float
    n: int
    units: str
    note: str = ""
    share: bool = False  # shares are shown in per cent, everything else with two decimals

    def text(self):
        """str, "86.1 % (82.0 to 89.9; n = 977 patches of 51 slides)", "0.36 (0.20 to 0.51; …)" or "not estimable: <reason>"."""
        if np.isnan(self.value):
            return f"not estimable: {self.note}"
        around = f"{self._shown(self.low)} to {self._shown(self.high)}"
        if np.isnan(self.low) or np.isnan(self.high):
            around = f"no interval: {self.note}"
        return f"{self._shown(self.value)}{' %' if self.share else ''} ({around}; n = {self.n:,} {self.units})"

    def _shown(self, number):
        return f"{round(100 * number, 1) + 0.0:.1f}" if self.share else f"{round(number, 2) + 0.0:.2f}"


class Counted:
    """A statistic of sums over patches: rows(*columns) gives (N,K), of((...,K) sums) the value; so one matrix product resamples it."""

    def __init__(self, rows, of, *, why="it is not defined on these patches", kind="number", size=None):
        self.rows, self.of, self.why, self.kind, self.size = rows, of, why, kind, size

    def __call__(self, *columns, **options):
        with np.errstate(all="ignore"):
            return float(self.of(self.rows(*columns, **options).sum(0), **options))

    def draws(self, weights, index, /, *columns, **options):
        """(R,) values, one per row of weights (R,G): how often each unit was drawn; index (N,) says each patch's unit."""
        return self.of(weights @ unit_sums(self.rows(*columns, **options), index), **options)

    def sizes(self, index, /, *columns, **options):
        """(G,) patches of each unit that enter the statistic: for one score's concordance only the patches of that score."""
        return unit_sums(np.ones(len(index)) if self.size is None else self.size(self.rows(*columns, **options)), index)


def units_of(patient, slide, name):
    """(Series of ids, word, warning): patients if every patch has one, else slides, else patches with a sentence for the report."""
    for word, ids in (("patients", patient), ("slides", slide)):
        ids = np.full(len(name), "") if ids is None else pd.Series(list(ids)).fillna("").astype(str).str.strip().to_numpy()
        known = int((ids != "").sum())
        if len(ids) and known == len(ids):
            return pd.Series(ids, name=word), word, ""
        if known:
            break
    lost = f"{word[:-1]} is unknown for {len(name) - known} of {len(name)} patches" if known else "no patient or slide is known"
    if known and word == "patients" and slide is not None and (pd.Series(list(slide)).fillna("").astype(str) != "").all():
        ids = pd.Series(list(slide), name="slides").astype(str)
        return ids, "slides", f"Intervals resample slides, not patients, because {lost}: they may be too narrow."
    warning = f"Intervals resample patches as if they were independent, because {lost}: they are too narrow."
    return pd.Series([str(n) for n in name], name="patches"), "patches", warning


def bootstrap(statistic, *columns, units, resamples=2000, seed=0, **options):
    """Estimate of statistic(*columns, **options), units resampled whole; a column given as a list of arrays holds one array per seed."""
    index, word, groups = _index(units)
    runs = _runs(columns)
    if not len(index):
        return Estimate(np.nan, np.nan, np.nan, 0, word, "there are no patches")
    with np.errstate(all="ignore"):
        value = float(np.mean([statistic(*run, **options) for run in runs]))
        weights = resampled(groups, resamples, seed)
        draws = np.stack([_draws(statistic, weights, index, run, options) for run in runs], axis=1)  # (R,seeds)
    if len(runs) > 1:
        draws = draws * resampled(len(runs), resamples, seed + 1)
    sizes = statistic.sizes(index, *runs[0], **options) if hasattr(statistic, "sizes") else np.bincount(index)
    return summary(value, draws.mean(1), sizes, word, why=getattr(statistic, "why", "it is not defined on these patches"),
                   kind=getattr(statistic, "kind", "number"))


def summary(value, draws, sizes, word, *, why="it is not defined on these patches", kind="number"):
    """Estimate from a value, its (R,) draws and the patches per unit: Wilson where exact, else the expanded percentile interval."""
    n, groups = int(sizes.sum()), int((sizes > 0).sum())
    units = "patches" if word == "patches" else f"patches of {groups} {word[:-1] if groups == 1 else word}"
    low = high = np.nan
    share, note, defined = kind != "number", "", np.isfinite(draws)
    if np.isnan(value):
        note = why
    elif groups < 2:
        note = f"one {word[:-1]} only, and intervals come from the differences between {word}"
    elif kind == "proportion" and (sizes.max() == 1 or np.ptp(draws[defined]) == 0):
        low, high = proportion_confint(round(value * groups), groups, method="wilson")
        note = "Wilson interval over patches" if sizes.max() == 1 else f"Wilson interval over {word}: all are alike"
    elif np.ptp(draws[defined]) == 0:
        low = high = value
        note = "every resample gives the same value: this interval does not measure doubt"
    else:
        low, high = np.quantile(draws[defined], tails(sizes))
        note = "" if groups >= FEW_UNITS else f"only {groups} {word}: the interval is rough"
    if not defined.all() and not note:
        note = f"defined in {defined.mean():.0%} of the resamples"
    return Estimate(float(value), float(low), float(high), n, units, note, share)


def tails(sizes):
    """(2,) quantiles of the draws to take for a 95 % interval from few units: the t-corrected percentiles of Hesterberg 2015."""
    groups = max(int((sizes > 0).sum()), 2)
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, groups - 1) * np.sqrt(groups / (groups - 1))
    return np.array([stats.norm.cdf(-reach), stats.norm.cdf(reach)])


@lru_cache(maxsize=3)
def resampled(groups, resamples, seed):
    """(R,G) how often each of G units is drawn in each of R resamples (read-only, shared by all statistics of one table)."""
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(float)
    weights.setflags(write=False)
    return weights


def unit_sums(rows, index):
    """(G,K) sums of the rows (N,K) of each unit."""
    sums = np.zeros((index.max() + 1, *rows.shape[1:]))
    np.add.at(sums, index, rows)
    return sums


def _index(units):
    word = str(getattr(units, "name", None) or "unit")
    word = "patches" if word in ("patch", "name") else word if word.endswith("s") else f"{word}s"
    found, index = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    return index, word, len(found)


def _runs(columns):
    seeds = max((len(c) for c in columns if isinstance(c, list)), default=1)
    return [tuple(np.asarray(c[s] if isinstance(c, list) else c) for c in columns) for s in range(seeds)]


def _draws(statistic, weights, index, run, options):
    if hasattr(statistic, "draws"):
        return statistic.draws(weights, index, *run, **options)
    patches = np.arange(len(index))
    taken = (np.repeat(patches, row[index].astype(int)) for row in weights)
    return np.array([statistic(*(column[take] for column in run), **options) for take in taken], dtype=float)
