"""Measures of agreement, each from its definition: fractions, Cohen, Fleiss, Gwet, Krippendorff.

Each is a function of sums over patches, so that a matrix product resamples it: functions named
…_rows or …_cells give a row per patch, all others the measure of sums of such rows, for any number
of leading axes.

All take scores, the scores that a study declares, as an ascending tuple of positions in SCORES:
(1, 2, 3) for 1+, 2+ and 3+. q is their number, also of those that nobody gave. Two scores lie as
many steps apart as their positions do: 0 and 2+ are two steps apart even where a study has no 1+.
So weighted kappas, alpha and errors do not change when a score is declared that nobody gives (only
Gwet's coefficients know their number of categories), and a coefficient of a study without 1+ can
be set beside one of a study with it. irrCAC and krippendorff count steps of numbers alike.
"""

from collections.abc import Sequence

import numpy as np

from her2lib.scores import ALL_SCORES, SCORES

# A kappa is never without one of these words.
WEIGHTS = ("unweighted", "linear", "quadratic")


def score_columns(values: np.ndarray, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) int, which of the declared scores each value is: 0 the lowest; -1 where unknown (-1).

    Raises ValueError for a value that is none of them: counted as another score, or as unknown,
    it would change a coefficient without a word.
    """
    values = np.asarray(values)
    declared = np.asarray(scores)
    columns = np.searchsorted(declared, values).clip(max=len(declared) - 1)
    known = values >= 0
    foreign = known & (declared[columns] != values)
    if foreign.any():
        first = values[foreign].flat[0]
        raise ValueError(
            f"{foreign.sum()} values are none of the scores {_names_of(scores)} (the first is "
            f"{_names_of([first])}): leave these out, or declare their score too."
        )
    return np.where(known, columns, -1)


def steps_between(scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(q,q) int, how many steps of SCORES lie between every two declared scores."""
    return np.abs(np.subtract.outer(np.asarray(scores), np.asarray(scores)))


def cuts_between(scores: Sequence[int] = ALL_SCORES) -> list[int]:
    """list of int, the positions in CUTS of the clinical cuts with declared scores on both sides.

    A study without 1+ has both 0|1+ and 1+|2+: they part its 0 from its 2+ alike.
    """
    return list(range(min(scores), max(scores)))


# --- fractions of a confusion matrix (…,q,q): rows the true score, columns the predicted --------


def confusion_cells(
    truth: np.ndarray, predicted: np.ndarray, scores: Sequence[int] = ALL_SCORES, **_
) -> np.ndarray:
    """(N,q*q) the cell of the confusion matrix that each patch falls into: zeros and a one."""
    row = score_columns(truth, scores)
    column = score_columns(predicted, scores)
    valid = (row >= 0) & (column >= 0)
    cell = np.where(valid, row * len(scores) + column, 0)
    return np.eye(len(scores) ** 2)[cell] * valid[:, None]


def fraction_right(confusion: np.ndarray, **_) -> np.ndarray:
    """(…) fraction of all patches on the diagonal: accuracy."""
    return np.einsum("...ii", confusion) / confusion.sum((-1, -2))


def mean_recall(confusion: np.ndarray, **_) -> np.ndarray:
    """(…) mean recall of the scores that occur: balanced accuracy, as scikit-learn."""
    support = confusion.sum(-1)
    right = np.einsum("...ii->...i", confusion)
    return np.nanmean(np.where(support > 0, right / support, np.nan), axis=-1)


def majority_rate(confusion: np.ndarray, **_) -> np.ndarray:
    """(…) fraction of the commonest true score: the accuracy of always answering it."""
    return confusion.sum(-1).max(-1) / confusion.sum((-1, -2))


def recall(confusion: np.ndarray, score: int, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) fraction of the patches of a score that were given it; pathologists: concordance."""
    return _fraction_within(confusion, [k == score for k in scores])


def sensitivity(confusion: np.ndarray, cut: int, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) fraction of the patches above a cut that were called above it."""
    return _fraction_within(confusion, [k > cut for k in scores])


def specificity(confusion: np.ndarray, cut: int, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) fraction of the patches below a cut that were called below it."""
    return _fraction_within(confusion, [k <= cut for k in scores])


def off_by_two_rate(confusion: np.ndarray, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) fraction of patches that are two or three steps of SCORES off."""
    far = steps_between(scores) > 1
    return (confusion * far).sum((-1, -2)) / confusion.sum((-1, -2))


def mean_absolute_error(confusion: np.ndarray, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) mean distance of true and predicted score, in steps of SCORES."""
    return (confusion * steps_between(scores)).sum((-1, -2)) / confusion.sum((-1, -2))


def _fraction_within(confusion, is_within):
    """(…) fraction of the patches whose true score is one of these that were predicted so."""
    of_these = confusion[..., is_within, :]  # (…,k,q)
    return of_these[..., is_within].sum((-1, -2)) / of_these.sum((-1, -2))


# --- Cohen's kappa of two raters ----------------------------------------------------------------


def disagreement_weights(weights: str, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(q,q) disagreement of two scores under the named weighting: 0 when equal, at most 1.

    The two declared scores that lie farthest apart disagree by 1, as Gwet (2014) has it.
    """
    steps = steps_between(scores) / (max(scores) - min(scores))
    if weights == "unweighted":
        return (steps > 0).astype(float)
    if weights == "linear":
        return steps
    if weights == "quadratic":
        return steps**2
    raise ValueError(f"{weights!r} is no weighting of kappa: write {', '.join(WEIGHTS)}.")


def cohen_kappa(
    confusion: np.ndarray, weights: str | None = None, scores: Sequence[int] | None = None
) -> np.ndarray:
    """(…) Cohen's kappa of (…,q,q) confusion counts (Cohen 1960, weighted 1968).

    Without scores they are consecutive.
    """
    if weights is None:
        raise TypeError("kappa needs weights=…: unweighted, linear or quadratic.")
    if scores is None:
        scores = range(confusion.shape[-1])
    disagreement = disagreement_weights(weights, scores)
    by_chance = ((confusion.sum(-1) @ disagreement) * confusion.sum(-2)).sum(-1)
    cells = confusion.reshape(*confusion.shape[:-2], -1)  # (…,q*q)
    return 1 - (cells @ disagreement.ravel()) * cells.sum(-1) / by_chance


# --- any number of raters, some readings missing ------------------------------------------------


def rating_counts(ratings: np.ndarray, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(N,q) how many raters gave each score to each patch, of ratings (N,R; -1 missing)."""
    columns = score_columns(ratings, scores)
    return (columns[..., None] == np.arange(len(scores))).sum(1).astype(float)


def reading_rows(
    ratings: np.ndarray, scores: Sequence[int] = ALL_SCORES, weights: str = "unweighted"
) -> np.ndarray:
    """(N,q+3) per patch: agreement of its readings, if it has two, fractions by score, if any."""
    count = rating_counts(ratings, scores)
    n_readings = count.sum(1, keepdims=True)
    # How much the other readings of the patch agree with one of each score.
    agreeing = count @ (1 - disagreement_weights(weights, scores)) - 1
    n_pairs = np.maximum(n_readings * (n_readings - 1), 1)
    agreement = (count * agreeing).sum(1, keepdims=True) / n_pairs
    several = n_readings > 1
    fractions = count / np.maximum(n_readings, 1)
    return np.hstack([agreement * several, several, fractions, n_readings > 0])


def fleiss_of_sums(sums: np.ndarray, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(…) Fleiss' kappa of sums (…,q+3) of reading_rows (Fleiss 1971)."""
    observed, fractions = _observed_and_fractions(sums)
    by_chance = (fractions**2).sum(-1)
    return (observed - by_chance) / (1 - by_chance)


def gwet_of_sums(
    sums: np.ndarray, scores: Sequence[int] = ALL_SCORES, weights: str = "unweighted"
) -> np.ndarray:
    """(…) Gwet's AC1 (unweighted) or AC2 of sums (…,q+3) of reading_rows (Gwet 2014).

    Chance agreement falls with q, and so these rise with every score that is declared but never
    given: 0.71 over three scores was 0.88 over four.
    """
    observed, fractions = _observed_and_fractions(sums)
    agreement = 1 - disagreement_weights(weights, scores)
    spread = (fractions * (1 - fractions)).sum(-1)
    by_chance = agreement.sum() / (len(scores) * (len(scores) - 1)) * spread
    return (observed - by_chance) / (1 - by_chance)


def _observed_and_fractions(sums):
    """((…) mean agreement of patches with two readings, (…,q) mean fraction of each score)."""
    return sums[..., 0] / sums[..., 1], sums[..., 2:-1] / sums[..., -1:]


def coincidence_rows(ratings: np.ndarray, scores: Sequence[int] = ALL_SCORES, **_) -> np.ndarray:
    """(N,q*q) ordered pairs of a patch's readings, over the number of its readings less one."""
    count = rating_counts(ratings, scores)
    # (N,q,q), a reading makes no pair with itself
    pairs = count[:, :, None] * count[:, None, :] - count[:, :, None] * np.eye(len(scores))
    others = np.maximum(count.sum(1) - 1, 1)
    return (pairs / others[:, None, None]).reshape(len(count), -1)


def alpha_of_sums(
    sums: np.ndarray, scores: Sequence[int] = ALL_SCORES, level: str = "ordinal"
) -> np.ndarray:
    """(…) Krippendorff's alpha of summed coincidences (…,q*q) (Krippendorff 2011).

    level is how scores differ: "nominal", "ordinal" or "interval".
    """
    coincidences = sums.reshape(*sums.shape[:-1], len(scores), len(scores))
    n = coincidences.sum(-1)  # (…,q) readings of each score
    distance = _squared_distances(n, level, scores)
    expected = (n[..., None] * n[..., None, :] * distance).sum((-1, -2))
    return 1 - (n.sum(-1) - 1) * (coincidences * distance).sum((-1, -2)) / expected


def _squared_distances(n, level, scores):
    """(…,q,q) squared distance of every two scores, of (…,q) readings of each score."""
    positions = np.broadcast_to(np.asarray(scores), n.shape)
    if level == "ordinal":
        positions = np.cumsum(n, -1) - n / 2
    distance = (positions[..., None] - positions[..., None, :]) ** 2
    if level == "nominal":
        return distance > 0
    return distance


def _names_of(scores):
    """str, "1+, 2+, 3+" of positions in SCORES; a position beyond them is written as a number."""
    return ", ".join(map(_written_name, scores))


def _written_name(score):
    if score in ALL_SCORES:
        return SCORES[int(score)]
    return f"{score:g}"
