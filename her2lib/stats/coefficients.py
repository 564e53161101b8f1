"""Measures of agreement, each from its definition: fractions, Cohen, Fleiss, Gwet, Krippendorff.

Each is a function of sums over patches, so that a matrix product resamples it: functions named
…_rows or …_cells give a row per patch, all others the measure of sums of such rows, for any number
of leading axes.
"""

import numpy as np

from her2lib.scores import SCORES

# A kappa is never without one of these words.
WEIGHTS = ("unweighted", "linear", "quadratic")
# (4,4) how many scores lie between two.
STEPS = np.abs(np.subtract.outer(np.arange(len(SCORES)), np.arange(len(SCORES))))


# --- fractions of a confusion matrix (…,4,4): rows the true score, columns the predicted --------


def confusion_cells(
    truth: np.ndarray, predicted: np.ndarray, scores: int = len(SCORES), **_
) -> np.ndarray:
    """(N,16) the cell of the confusion matrix that each patch falls into: zeros and a one."""
    truth = np.asarray(truth)
    predicted = np.asarray(predicted)
    valid = (truth >= 0) & (predicted >= 0)
    cell = np.where(valid, truth * scores + predicted, 0)
    return np.eye(scores * scores)[cell] * valid[:, None]


def fraction_right(confusion: np.ndarray) -> np.ndarray:
    """(…) fraction of all patches on the diagonal: accuracy."""
    return np.einsum("...ii", confusion) / confusion.sum((-1, -2))


def mean_recall(confusion: np.ndarray) -> np.ndarray:
    """(…) mean recall of the scores that occur: balanced accuracy, as scikit-learn."""
    support = confusion.sum(-1)
    right = np.einsum("...ii->...i", confusion)
    return np.nanmean(np.where(support > 0, right / support, np.nan), axis=-1)


def majority_rate(confusion: np.ndarray) -> np.ndarray:
    """(…) fraction of the commonest true score: the accuracy of always answering it."""
    return confusion.sum(-1).max(-1) / confusion.sum((-1, -2))


def recall(confusion: np.ndarray, score: int) -> np.ndarray:
    """(…) fraction of the patches of a score that were given it; pathologists: concordance."""
    return _fraction_within(confusion, slice(score, score + 1))


def sensitivity(confusion: np.ndarray, cut: int) -> np.ndarray:
    """(…) fraction of the patches above a cut that were called above it."""
    return _fraction_within(confusion, slice(cut + 1, None))


def specificity(confusion: np.ndarray, cut: int) -> np.ndarray:
    """(…) fraction of the patches below a cut that were called below it."""
    return _fraction_within(confusion, slice(cut + 1))


def off_by_two_rate(confusion: np.ndarray) -> np.ndarray:
    """(…) fraction of patches that are two or three scores off."""
    return (confusion * (STEPS > 1)).sum((-1, -2)) / confusion.sum((-1, -2))


def mean_absolute_error(confusion: np.ndarray) -> np.ndarray:
    """(…) mean distance of true and predicted score, in scores."""
    return (confusion * STEPS).sum((-1, -2)) / confusion.sum((-1, -2))


def _fraction_within(confusion, scores):
    """(…) fraction of the patches whose true score is one of these that were predicted so."""
    right = confusion[..., scores, scores].sum((-1, -2))
    return right / confusion[..., scores, :].sum((-1, -2))


# --- Cohen's kappa of two raters ----------------------------------------------------------------


def disagreement_weights(weights: str, scores: int = len(SCORES)) -> np.ndarray:
    """(q,q) disagreement of two of q scores under the named weighting: 0 when equal, at most 1."""
    steps = np.abs(np.subtract.outer(np.arange(scores), np.arange(scores))) / (scores - 1)
    if weights == "unweighted":
        return (steps > 0).astype(float)
    if weights == "linear":
        return steps
    if weights == "quadratic":
        return steps**2
    raise ValueError(f"{weights!r} is no weighting of kappa: write {', '.join(WEIGHTS)}.")


def cohen_kappa(confusion: np.ndarray, weights: str | None = None) -> np.ndarray:
    """(…) Cohen's kappa of (…,q,q) confusion counts (Cohen 1960, weighted 1968)."""
    if weights is None:
        raise TypeError("kappa needs weights=…: unweighted, linear or quadratic.")
    disagreement = disagreement_weights(weights, confusion.shape[-1])
    by_chance = ((confusion.sum(-1) @ disagreement) * confusion.sum(-2)).sum(-1)
    cells = confusion.reshape(*confusion.shape[:-2], -1)  # (…,q*q)
    return 1 - (cells @ disagreement.ravel()) * cells.sum(-1) / by_chance


# --- any number of raters, some readings missing ------------------------------------------------


def rating_counts(ratings: np.ndarray, scores: int = len(SCORES)) -> np.ndarray:
    """(N,q) how many raters gave each score to each patch, of ratings (N,R; -1 missing)."""
    return (np.asarray(ratings)[..., None] == np.arange(scores)).sum(1).astype(float)


def reading_rows(
    ratings: np.ndarray, scores: int = len(SCORES), weights: str = "unweighted"
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


def fleiss_of_sums(sums: np.ndarray, scores: int = len(SCORES)) -> np.ndarray:
    """(…) Fleiss' kappa of sums (…,q+3) of reading_rows (Fleiss 1971)."""
    observed, fractions = _observed_and_fractions(sums)
    by_chance = (fractions**2).sum(-1)
    return (observed - by_chance) / (1 - by_chance)


def gwet_of_sums(
    sums: np.ndarray, scores: int = len(SCORES), weights: str = "unweighted"
) -> np.ndarray:
    """(…) Gwet's AC1 (unweighted) or AC2 of sums (…,q+3) of reading_rows (Gwet 2014)."""
    observed, fractions = _observed_and_fractions(sums)
    agreement = 1 - disagreement_weights(weights, scores)
    spread = (fractions * (1 - fractions)).sum(-1)
    by_chance = agreement.sum() / (scores * (scores - 1)) * spread
    return (observed - by_chance) / (1 - by_chance)


def _observed_and_fractions(sums):
    """((…) mean agreement of patches with two readings, (…,q) mean fraction of each score)."""
    return sums[..., 0] / sums[..., 1], sums[..., 2:-1] / sums[..., -1:]


def coincidence_rows(ratings: np.ndarray, scores: int = len(SCORES), **_) -> np.ndarray:
    """(N,q*q) ordered pairs of a patch's readings, over the number of its readings less one."""
    count = rating_counts(ratings, scores)
    # (N,q,q), a reading makes no pair with itself
    pairs = count[:, :, None] * count[:, None, :] - count[:, :, None] * np.eye(scores)
    others = np.maximum(count.sum(1) - 1, 1)
    return (pairs / others[:, None, None]).reshape(len(count), -1)


def alpha_of_sums(
    sums: np.ndarray, scores: int = len(SCORES), level: str = "ordinal"
) -> np.ndarray:
    """(…) Krippendorff's alpha of summed coincidences (…,q*q) (Krippendorff 2011).

    level is how scores differ: "nominal", "ordinal" or "interval".
    """
    coincidences = sums.reshape(*sums.shape[:-1], scores, scores)
    n = coincidences.sum(-1)  # (…,q) readings of each score
    distance = _squared_distances(n, level)
    expected = (n[..., None] * n[..., None, :] * distance).sum((-1, -2))
    return 1 - (n.sum(-1) - 1) * (coincidences * distance).sum((-1, -2)) / expected


def _squared_distances(n, level):
    """(…,q,q) squared distance of every two scores, of (…,q) readings of each score."""
    positions = np.broadcast_to(np.arange(n.shape[-1]), n.shape)
    if level == "ordinal":
        positions = np.cumsum(n, -1) - n / 2
    distance = (positions[..., None] - positions[..., None, :]) ** 2
    if level == "nominal":
        return distance > 0
    return distance
