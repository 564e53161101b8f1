"""Numbers never travel alone: value, interval, n, groups; patients or slides are resampled whole, patches only with a warning."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
FEW_UNITS = 10  # with fewer patients the note calls the interval rough
_UNDEFINED = "it is not defined on these patches"


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, the n patches it rests on and what they are ("patches of 51 slides"); NaN only with a note."""

    value: float
    low: float
    high: float
    n: int
    sample: str
    note: str = ""
    as_percent: bool = False  # shown in per cent; everything else with two decimals

    def text(self):
        """str, "86.1 % (82.0 to 89.9; n = 977 patches of 51 slides)", "0.36 (0.20 to 0.51; …)" or "not estimable: <reason>"."""
        if np.isnan(self.value):
            return f"not estimable: {self.note or _UNDEFINED}"
        known = not (np.isnan(self.low) or np.isnan(self.high))
        around = (
            f"{self._shown(self.low)} to {self._shown(self.high)}"
            if known
            else f"no interval: {self.note}"
        )
        return f"{self._shown(self.value)}{' %' if self.as_percent else ''} ({around}; n = {int(self.n):,} {self.sample})"

    def _shown(self, number):
        return (
            f"{round(100 * number, 1) + 0.0:.1f}"
            if self.as_percent
            else f"{round(number, 2) + 0.0:.2f}"
        )  # + 0.0: never "-0.00"


class SumStatistic:
    """A statistic of sums over patches: rows(*columns) gives (N,K), of((...,K) sums) the value; a matrix product resamples it."""

    def __init__(self, rows, of, *, why=_UNDEFINED, kind="number", size=None):
        self.rows, self.of, self.why, self.kind, self.size = (
            rows,
            of,
            why,
            kind,
            size,
        )  # kind: number, share, proportion (k of n)

    def __call__(self, *columns, **options):
        with np.errstate(all="ignore"):
            return float(self.of(self.rows(*columns, **options).sum(0), **options))

    def draws(self, drawn, index, /, *columns, **options):
        """(R,) values, one per row of drawn (R,G): how often each unit was drawn; index (N,) is each patch's unit."""
        return self.of(drawn @ group_sums(self.rows(*columns, **options), index), **options)

    def sizes(self, index, /, *columns, **options):
        """(G,) patches of each unit that enter: for the recall of one score only the patches of that score."""
        return (
            np.bincount(index)
            if self.size is None
            else group_sums(self.size(self.rows(*columns, **options)), index)
        )


def resampling_groups(patient, slide, name):
    """(Series of ids, its word, warning): patients if each patch has one, else slides, else patches; a warning for the report."""
    columns = {"patients": patient, "slides": slide, "patches": name}
    columns = {
        word: pd.Series("" if c is None else list(c), range(len(name)), dtype=object)
        for word, c in columns.items()
    }
    columns = {
        word: c.fillna("").astype(str).str.strip().rename(word) for word, c in columns.items()
    }
    word = next((word for word, c in columns.items() if (c != "").all()), "patches")
    if word == "patients":
        return columns[word], word, ""
    lost = f"the patient is unknown for {(columns['patients'] == '').sum()} of {len(name)} patches"
    if word == "slides":
        return (
            columns[word],
            word,
            f"Intervals resample slides because {lost}: too narrow if a patient has several slides.",
        )
    lost += f" and the slide for {(columns['slides'] == '').sum()}"
    return (
        columns[word],
        word,
        f"Intervals resample patches as if they were independent, because {lost}: they are too narrow.",
    )


def bootstrap(statistic, *columns, groups, resamples=2000, seed=0, **options):
    """Estimate of statistic(*columns, **options), groups resampled whole; a column may be a list, one array per seed."""
    index, word, groups = group_index(groups)
    why, kind = getattr(statistic, "why", _UNDEFINED), getattr(statistic, "kind", "number")
    if not groups:
        return Estimate(
            np.nan, np.nan, np.nan, 0, "patches", "there are no patches", kind != "number"
        )
    runs = _runs(columns)
    with np.errstate(all="ignore"):
        value = np.mean([statistic(*run, **options) for run in runs])
        drawn = resample_counts(groups, resamples, seed)
        draws = np.stack(
            [_draws(statistic, drawn, index, run, options) for run in runs], axis=1
        )  # (R,seeds)
    if len(runs) > 1:  # the second level: which seeds were trained
        draws, kind = (
            draws * resample_counts(len(runs), resamples, seed + 1),
            "share" if kind == "proportion" else kind,
        )
    sizes = (
        statistic.sizes(index, *runs[0], **options)
        if hasattr(statistic, "sizes")
        else np.bincount(index)
    )
    return estimate_from_draws(value, draws.mean(1), sizes, word, why=why, kind=kind)


def estimate_from_draws(value, draws, sizes, word, *, why=_UNDEFINED, kind="number"):
    """Estimate from a value, its (R,) draws and the patches of each unit (G,); Wilson where exact, else corrected percentiles."""
    groups, defined = int((sizes > 0).sum()), np.isfinite(draws)
    low = high = np.nan
    if np.isnan(value):
        note = why
    elif groups < 2 or not defined.any():
        note = (
            f"there is one {word[:-1] if word != 'patches' else 'patch'} only"
            if groups < 2
            else why
        )
    elif kind == "proportion" and (
        sizes.max() == 1 or np.ptp(draws[defined]) < 1e-12
    ):  # rounding leaves 1e-16
        low, high = proportion_confint(value * groups, groups, method="wilson")
        note = (
            "Wilson interval"
            if sizes.max() == 1
            else f"all {word} alike: Wilson interval over {groups} {word}"
        )
    else:
        low, high = np.quantile(draws[defined], interval_quantiles(sizes))
        low, high = (
            min(low, value),
            max(high, value),
        )  # a biased statistic (ECE of few patches) can lie outside its own draws
        note = f"only {groups} {word}: a rough interval" if groups < FEW_UNITS else ""
        note = (
            "every resample gives this value: the interval measures no doubt"
            if np.ptp(draws[defined]) < 1e-12
            else note
        )
    if np.isfinite(low) and not defined.all():
        note = (
            f"{note}; ".lstrip("; ")
            + f"interval from the {defined.mean():.0%} of resamples in which it is defined"
        )
    groups = (
        "patches"
        if word == "patches"
        else f"patches of {groups} {word[:-1] if groups == 1 else word}"
    )
    return Estimate(
        float(value), float(low), float(high), int(sizes.sum()), groups, note, kind != "number"
    )


def interval_quantiles(sizes):
    """(2,) quantiles of the draws that make a 95 % interval: percentiles widened for few or uneven groups."""
    # Expanded percentiles (Hesterberg 2015) at Kish's effective number of groups. 19 patients,
    # correlation 0.3, right 60 (85) %:
    # plain percentiles cover 93.2 (90.2) %, these 95.4 (92.0); patients of uneven size: 90.5 (86.3)
    # and 96.0 (92.5). Studentised
    # intervals cover about as much, but grow without bound when one patient dominates.
    sizes = np.asarray(sizes, float)
    groups = max(sizes.sum() ** 2 / (sizes**2).sum(), 1 + 1e-9)
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, groups - 1) * np.sqrt(groups / (groups - 1))
    return stats.norm.cdf([-reach, reach])


@lru_cache(maxsize=3)
def resample_counts(groups, resamples, seed):
    """(R,G) how often each of G groups is drawn in each of R resamples; read-only, the same for all statistics of one table."""
    shares = np.full(groups, 1 / groups) if groups else np.ones(1)
    drawn = (
        np.random.default_rng(seed)
        .multinomial(groups, shares, size=resamples)
        .astype(float)[:, :groups]
    )
    drawn.setflags(write=False)
    return drawn


def group_index(groups):
    """((N,) int unit of each patch, the groups' word in the plural, their number); a Series brings its word as its name."""
    word = str(getattr(groups, "name", None) or "unit")
    found, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    word = "patches" if word in ("patch", "patches", "name") else word.rstrip("s") + "s"
    return index, word, len(found)


def group_sums(rows, index):
    """(G,…) sums of the rows (N,…) of each unit."""
    order = np.argsort(index, kind="stable")
    return np.add.reduceat(
        np.asarray(rows, float)[order], np.flatnonzero(np.diff(index[order], prepend=-1)), axis=0
    )


def _runs(columns):
    seeds = {len(c) for c in columns if isinstance(c, list) and len(c) != 1} or {1}
    if len(seeds) > 1:
        raise ValueError(
            f"Columns with one array per seed need equally many seeds, not {sorted(seeds)}."
        )
    return [
        tuple(np.asarray(c[s % len(c)] if isinstance(c, list) else c) for c in columns)
        for s in range(seeds.pop())
    ]


def _draws(statistic, drawn, index, run, options):
    if hasattr(statistic, "draws"):
        return statistic.draws(drawn, index, *run, **options)
    takes = (np.repeat(np.arange(len(index)), row[index].astype(int)) for row in drawn)
    return np.array(
        [statistic(*(column[take] for column in run), **options) for take in takes], dtype=float
    )


mean = SumStatistic(
    lambda values: np.stack(
        [np.where(np.isfinite(values), values, 0), np.isfinite(values)], axis=1
    ),
    lambda sums: sums[..., 0] / sums[..., 1],
    why="it is not defined on any of these patches",
    size=lambda rows: rows[:, 1],
)
