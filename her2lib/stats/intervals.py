"""Numbers never travel alone: value, interval, n and what was resampled, whole patients or slides.

Patches of one patient are no independent observations. Every interval here resamples patients or
slides whole; patches only where neither is known, and then with a warning.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
# With fewer patients or slides the note calls the interval rough.
FEW_GROUPS = 10
_UNDEFINED = "it is not defined on these patches"
# Draws that differ by less are one value: sums of fractions round at 1e-16.
_ROUNDING = 1e-12

# The patient or slide of each patch; a Series says by its name which.
Groups: TypeAlias = Sequence | np.ndarray | pd.Series


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, the n patches it rests on and what they are; str() says it.

    sample is "patches of 51 slides", or "patches" where these were resampled one by one. value is
    NaN only with a note that says why; low and high are NaN where there is no interval.
    Example: print(Estimate(0.36, 0.2, 0.51, 281, "patches of 51 slides")).
    """

    value: float
    low: float
    high: float
    n: int
    sample: str
    note: str = ""
    as_percent: bool = False  # shown in per cent; everything else with two decimals

    def __str__(self) -> str:
        if np.isnan(self.value):
            return f"not estimable: {self.note or _UNDEFINED}"
        interval = f"no interval: {self.note}"
        if not (np.isnan(self.low) or np.isnan(self.high)):
            interval = f"{self._rounded(self.low)} to {self._rounded(self.high)}"
        value = self._rounded(self.value)
        if self.as_percent:
            value += " %"
        return f"{value} ({interval}; n = {int(self.n):,} {self.sample})"

    def text(self) -> str:
        """str, "86.1 % (82.0 to 89.9; n = 977 patches of 51 slides)" or "not estimable: <why>"."""
        return str(self)

    def _rounded(self, number):
        # + 0.0: never "-0.00"
        if self.as_percent:
            return f"{round(100 * number, 1) + 0.0:.1f}"
        return f"{round(number, 2) + 0.0:.2f}"


class SumStatistic:
    """A statistic of sums over patches, which a matrix product resamples.

    rows(*columns, **options) gives (N,K), of((...,K) sums, **options) the value. kind is "number",
    "fraction" (shown in per cent) or "proportion" (k of n patches, for which a Wilson interval is
    exact). size(rows, **options) gives (N,), 1 for a patch that enters; why says why a value may be
    NaN.
    """

    def __init__(
        self,
        rows: Callable,
        of: Callable,
        *,
        why: str = _UNDEFINED,
        kind: str = "number",
        size: Callable | None = None,
    ):
        self.rows = rows
        self.of = of
        self.why = why
        self.kind = kind
        self.size = size

    def __call__(self, *columns, **options) -> float:
        with np.errstate(all="ignore"):
            return float(self.of(self.rows(*columns, **options).sum(0), **options))

    def draws(self, drawn, index, /, *columns, **options):
        """(R,) values, one per row of drawn (R,G); index (N,) is the group of each patch."""
        return self.of(drawn @ group_sums(self.rows(*columns, **options), index), **options)

    def sizes(self, index, /, *columns, **options):
        """(G,) patches of each group that enter: for the recall of a score only those of it."""
        if self.size is None:
            return np.bincount(index)
        return group_sums(self.size(self.rows(*columns, **options), **options), index)


# --- what is resampled --------------------------------------------------------------------------


def resampling_groups(
    patient: Sequence | None, slide: Sequence | None, name: Sequence
) -> tuple[pd.Series, str, str]:
    """(Series of ids, what they are, warning): patients, else slides, else patches.

    Patients are resampled if each patch has one, else slides if each has one; else patches.
    The warning, for the report, says what is unknown; it is "" for patients.
    """
    patients = _ids(patient, len(name), "patients")
    slides = _ids(slide, len(name), "slides")
    n_without_patient = (patients == "").sum()
    n_without_slide = (slides == "").sum()
    if not n_without_patient:
        return patients, "patients", ""
    lost = f"the patient is unknown for {n_without_patient} of {len(name)} patches"
    if not n_without_slide:
        warning = (
            f"Intervals resample slides because {lost}: too narrow if a patient has several slides."
        )
        return slides, "slides", warning
    lost += f" and the slide for {n_without_slide}"
    warning = (
        f"Intervals resample patches as if they were independent, because {lost}: "
        "they are too narrow."
    )
    return _ids(name, len(name), "patches"), "patches", warning


def _ids(column, n, group_kind):
    """(n,) Series of str ids, "" where unknown, named by what they are."""
    if column is None:
        column = [""] * n
    ids = pd.Series(list(column), range(n), dtype=object).fillna("").astype(str)
    return ids.str.strip().rename(group_kind)


def group_index(groups: Groups) -> tuple[np.ndarray, str, int]:
    """((N,) int group of each patch, what groups are in the plural, their number).

    A Series says by its name what its ids are ("patient" or "patients"); else they are "groups".
    """
    name = str(getattr(groups, "name", None) or "group")
    ids, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if name in ("patch", "patches", "name"):
        return index, "patches", len(ids)
    return index, name.rstrip("s") + "s", len(ids)


def group_sums(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(G,…) sums of the rows (N,…) of each group."""
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    return np.add.reduceat(np.asarray(rows, float)[order], starts, axis=0)


@lru_cache(maxsize=3)
def resample_counts(n_groups: int, resamples: int, seed: int) -> np.ndarray:
    """(R,G) how often each of G groups is drawn in each of R resamples; read-only.

    The same for all statistics of one table: differences between them are no chance of the draw.
    """
    if not n_groups:
        return _read_only(np.empty((resamples, 0)))
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)
    return _read_only(drawn.astype(float))


def _read_only(array):
    array.setflags(write=False)
    return array


# --- the bootstrap ------------------------------------------------------------------------------


def bootstrap(
    statistic: Callable, *columns, groups: Groups, resamples: int = 2000, seed: int = 0, **options
) -> Estimate:
    """Estimate of statistic(*columns, **options), patients or slides resampled whole.

    A column is an array with a row per patch, or a list of such arrays, one per seed of training;
    their mean is estimated, and seeds are resampled too. groups (N,) holds the patient or slide of
    each patch; a Series says by its name which. options go to the statistic. Raises ValueError for
    lists of different length. Example: bootstrap(accuracy, truth, predicted, groups=patients).
    """
    index, group_kind, n_groups = group_index(groups)
    why = getattr(statistic, "why", _UNDEFINED)
    kind = getattr(statistic, "kind", "number")
    if not n_groups:
        nothing = "there are no patches"
        return Estimate(np.nan, np.nan, np.nan, 0, "patches", nothing, kind != "number")
    runs = _columns_by_seed(columns)
    with np.errstate(all="ignore"):
        value = np.mean([statistic(*run, **options) for run in runs])
        drawn = resample_counts(n_groups, resamples, seed)
        by_seed = [_draws(statistic, drawn, index, run, options) for run in runs]
    draws = np.stack(by_seed, axis=1)  # (R,seeds)
    if len(runs) > 1:
        # The second level: which seeds were trained.
        draws = draws * resample_counts(len(runs), resamples, seed + 1)
        if kind == "proportion":
            kind = "fraction"
    sizes = np.bincount(index)
    if hasattr(statistic, "sizes"):
        sizes = statistic.sizes(index, *runs[0], **options)
    return estimate_from_draws(value, draws.mean(1), sizes, group_kind, why=why, kind=kind)


def _columns_by_seed(columns):
    """list of tuples of arrays, the columns of each seed; a single array stands for all seeds."""
    lengths = {len(column) for column in columns if isinstance(column, list)} - {1}
    if len(lengths) > 1:
        raise ValueError(
            f"Columns with one array per seed need equally many seeds, not {sorted(lengths)}."
        )
    n_seeds = 1
    if lengths:
        n_seeds = lengths.pop()
    return [tuple(_of_seed(column, seed) for column in columns) for seed in range(n_seeds)]


def _of_seed(column, seed):
    if isinstance(column, list):
        column = column[seed % len(column)]
    return np.asarray(column)


def _draws(statistic, drawn, index, run, options):
    """(R,) values of a statistic; a plain function is called on the patches of each resample."""
    if hasattr(statistic, "draws"):
        return statistic.draws(drawn, index, *run, **options)
    values = []
    for counts in drawn:
        patches = np.repeat(np.arange(len(index)), counts[index].astype(int))
        values.append(statistic(*(column[patches] for column in run), **options))
    return np.array(values, dtype=float)


# --- from draws to an interval ------------------------------------------------------------------


def estimate_from_draws(
    value: float,
    draws: np.ndarray,
    sizes: np.ndarray,
    group_kind: str,
    *,
    why: str = _UNDEFINED,
    kind: str = "number",
) -> Estimate:
    """Estimate from a value, its (R,) draws and the patches of each group (G,).

    Wilson intervals where these are exact, else widened percentiles.
    """
    defined = np.isfinite(draws)
    low, high, note = _interval(value, draws[defined], sizes, group_kind, why, kind)
    if np.isfinite(low) and not defined.all():
        rest = f"interval from the {defined.mean():.0%} of resamples in which it is defined"
        note = "; ".join(filter(None, [note, rest]))
    n_groups = int((sizes > 0).sum())
    sample = "patches"
    if group_kind != "patches":
        sample = f"patches of {_counted(n_groups, group_kind)}"
    n = int(sizes.sum())
    return Estimate(float(value), float(low), float(high), n, sample, note, kind != "number")


def _interval(value, draws, sizes, group_kind, why, kind):
    """(low, high, note) from the draws in which the statistic is defined."""
    n_groups = int((sizes > 0).sum())
    if np.isnan(value):
        return np.nan, np.nan, why
    if n_groups < 2:
        return np.nan, np.nan, f"there is one {_singular(group_kind)} only"
    if not len(draws):
        return np.nan, np.nan, why
    constant = np.ptp(draws) < _ROUNDING
    alone = sizes.max() == 1
    if kind == "proportion" and (alone or constant):
        low, high = proportion_confint(value * n_groups, n_groups, method="wilson")
        if alone:
            return low, high, "Wilson interval"
        where = f"{n_groups} {group_kind}"
        return low, high, f"all {group_kind} alike: Wilson interval over {where}"

    low, high = np.quantile(draws, interval_quantiles(sizes))
    note = ""
    if n_groups < FEW_GROUPS:
        note = f"only {n_groups} {group_kind}: a rough interval"
    if constant:
        note = "every resample gives this value: the interval measures no doubt"
    # A biased statistic (calibration error of few patches) can lie outside its own draws.
    return min(low, value), max(high, value), note


def interval_quantiles(sizes: np.ndarray) -> np.ndarray:
    """(2,) quantiles of the draws that make a 95 % interval: widened for few or uneven groups."""
    # Expanded percentiles (Hesterberg 2015) at Kish's effective number of groups. 19 patients,
    # correlation 0.3, right 60 (85) %: plain percentiles cover 93.2 (90.2) %, these 95.4 (92.0);
    # patients of uneven size: 90.5 (86.3) and 96.0 (92.5). Studentised intervals cover about as
    # much, but grow without bound when one patient dominates.
    sizes = np.asarray(sizes, float)
    n_effective = max(sizes.sum() ** 2 / (sizes**2).sum(), 1 + 1e-9)
    widened = np.sqrt(n_effective / (n_effective - 1))
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, n_effective - 1) * widened
    return stats.norm.cdf([-reach, reach])


def _counted(n, plural):
    """str, "1 patient" or "19 patients"."""
    if n == 1:
        return f"1 {_singular(plural)}"
    return f"{n} {plural}"


def _singular(plural):
    if plural == "patches":
        return "patch"
    return plural[:-1]


# --- the mean -----------------------------------------------------------------------------------


def _finite_rows(values):
    """(N,2) each value, 0 where it is unknown, and whether it is known."""
    known = np.isfinite(values)
    return np.stack([np.where(known, values, 0), known], axis=1)


def _ratio(sums):
    return sums[..., 0] / sums[..., 1]


def _second(rows):
    return rows[:, 1]


# Of one column (N,), NaN left out.
mean = SumStatistic(
    _finite_rows, _ratio, why="it is not defined on any of these patches", size=_second
)
