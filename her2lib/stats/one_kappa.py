"""The quadratic kappa of two columns of scores, for a researcher's own notebook."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from her2lib.scores import ALL_SCORES
from her2lib.stats.agreement import SCORED
from her2lib.stats.intervals import Estimate, Groups, bootstrap


def quadratic_kappa(
    truth: Sequence | np.ndarray,
    predicted: Sequence | np.ndarray,
    *,
    groups: Groups | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate of Cohen's kappa with quadratic weights, its interval by patients or slides.

    truth and predicted are scores 0..3, -1 where unknown: such patches are left out. groups holds
    the patient or slide of each patch, known for all: some empty ids are refused, for they would
    count as one patient. Without groups, or with empty ids alone (a warning), patches are
    resampled one by one, and the note says so. Raises
    ValueError for columns of unequal length and for what is no score.
    Example: print(quadratic_kappa(test.score, probabilities.argmax(1), groups=test.patient)).
    """
    a = _checked_scores(truth, "truth")
    b = _checked_scores(predicted, "predicted")
    if len(a) != len(b):
        raise ValueError(f"quadratic_kappa: unequal lengths, truth {len(a)}, predicted {len(b)}.")
    known = (a >= 0) & (b >= 0)  # patients without a patch that enters are not resampled
    alone = groups is None
    if groups is not None and not any(map(str, groups)):
        warnings.warn("No patient or slide is known: patches are resampled alone.", stacklevel=2)
        alone = True
    if alone:
        groups = pd.Series(range(len(a)), name="patches")
    groups = _checked_groups(groups, known)
    estimate = bootstrap(
        SCORED["kappa quadratic"],
        a[known],
        b[known],
        groups=groups,
        resamples=resamples,
        seed=seed,
    )
    if not alone or np.isnan(estimate.value):
        return estimate
    note = "no groups given: patches are resampled as if independent, too narrow if they are not"
    # No interval may be read without knowing that it is too narrow.
    return replace(estimate, note="; ".join(filter(None, [estimate.note, note])))


# --- what was typed by hand -----------------------------------------------------------------------


def _checked_scores(column, name):
    """(N,) int scores -1..3 of a column; raises ValueError for anything else."""
    scores = np.asarray(column)
    if scores.ndim != 1:
        raise ValueError(
            f"quadratic_kappa needs one score a patch in {name}, shape (N,), not {scores.shape}: "
            "probabilities (N,4) become scores by .argmax(1)."
        )
    if not len(scores):
        return scores.astype(int)
    numeric = scores.dtype.kind in "iuf"
    if not numeric or not np.isin(scores, [-1, *ALL_SCORES]).all():
        raise ValueError(
            f"quadratic_kappa needs whole scores 0 to {ALL_SCORES[-1]}, or -1 for unknown, "
            f"in {name}."
        )
    return scores.astype(int)


def _checked_groups(groups, known):
    """(n,) Series of the ids of the patches that enter; ValueError where one has none."""
    groups = pd.Series(list(groups), dtype=object, name=getattr(groups, "name", None))
    if len(groups) != len(known):
        raise ValueError(
            f"quadratic_kappa needs a group for each patch: {len(groups)} for {len(known)}."
        )
    groups = groups[known]
    empty = groups.isna() | (groups.astype(str).str.strip() == "")
    if empty.any():
        raise ValueError(
            f"quadratic_kappa needs a group for each patch, but {empty.sum()} of {len(groups)} "
            "have an empty one: leave these patches out, or leave groups out to resample patches."
        )
    return groups
