"""The coefficients of Fleiss, Gwet and Krippendorff a second time, reading by reading, in loops.

None of this is the code that made the numbers (stats.coefficients sums matrices): here every two
readings of a patch are taken in turn, as the definitions are written.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, combinations, permutations, product
from operator import eq

import numpy as np

COEFFICIENTS = ("Fleiss", "Gwet AC1", "Gwet AC2", "Krippendorff")


def recount_coefficient(
    metric: str, ratings: np.ndarray, scores: Sequence[int]
) -> tuple[float, int]:
    """(value, n) of a coefficient of ratings (N,R; -1 not read); n patches have two readings.

    scores are the categories, as positions in SCORES, also those that nobody gave. NaN where the
    coefficient is not defined.
    """
    patches = [row[row >= 0].tolist() for row in ratings]
    read = [readings for readings in patches if readings]
    several = [readings for readings in read if len(readings) > 1]
    if not several:
        return np.nan, 0
    if metric.startswith("Krippendorff"):
        value = _krippendorff(several)
    elif metric.startswith("Fleiss"):
        value = _fleiss(read, several)
    else:
        value = _gwet(read, several, scores, squared=metric.startswith("Gwet AC2"))
    return value, len(several)


# --- from their definitions ---------------------------------------------------------------------


def _fleiss(read, several):
    """float, Fleiss' kappa (1971) for unequal numbers of readings."""
    observed = _mean_agreement(several, eq)
    by_chance = sum(fraction**2 for fraction in _fractions(read).values())
    return _beyond_chance(observed, by_chance)


def _gwet(read, several, scores, *, squared):
    """float, Gwet's AC1, or AC2 with quadratic weights (2014, chapter 5)."""
    widest = max(scores) - min(scores)

    def agreement(a, b):
        if squared:
            return 1 - ((a - b) / widest) ** 2
        return float(a == b)

    observed = _mean_agreement(several, agreement)
    # over all categories, whether anybody gave them or not
    total = sum(agreement(a, b) for a, b in product(scores, repeat=2))
    spread = sum(fraction * (1 - fraction) for fraction in _fractions(read).values())
    return _beyond_chance(observed, total / (len(scores) * (len(scores) - 1)) * spread)


def _krippendorff(several):
    """float, ordinal alpha (Krippendorff 2011) over all pairs of readings."""
    count = Counter(chain.from_iterable(several))
    distance = {}
    for low, high in combinations(sorted(count), 2):
        between = sum(n for score, n in count.items() if low <= score <= high)
        distance[low, high] = (between - (count[low] + count[high]) / 2) ** 2
    if not distance:
        return np.nan
    observed = 0.0
    for readings in several:
        pairs = [distance.get((min(a, b), max(a, b)), 0.0) for a, b in combinations(readings, 2)]
        observed += 2 * sum(pairs) / (len(readings) - 1)
    expected = 2 * sum(count[a] * count[b] * apart for (a, b), apart in distance.items())
    return 1 - observed * (count.total() - 1) / expected


# --- what they share ----------------------------------------------------------------------------


def _mean_agreement(several, agreement):
    """float, mean over patches of the mean agreement of every two of its readings."""
    means = []
    for readings in several:
        means.append(np.mean([agreement(a, b) for a, b in permutations(readings, 2)]))
    return float(np.mean(means))


def _fractions(read):
    """dict score -> its fraction of the readings of a patch, mean over patches."""
    fractions: Counter = Counter()
    for readings in read:
        for score in readings:
            fractions[score] += 1 / (len(readings) * len(read))
    return fractions


def _beyond_chance(observed, by_chance):
    if np.isclose(by_chance, 1):
        return np.nan
    return (observed - by_chance) / (1 - by_chance)
