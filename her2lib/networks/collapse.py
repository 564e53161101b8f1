"""Has a run learnt anything: COLLAPSED and why, agreement of its answers, how far its validation curve swings."""

import math

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from her2lib.scores import SCORES


def collapse_reason(probabilities, truth):
    """str, why a network has learnt nothing (one answer, majority rate, no numbers), else "", also if truth is one score."""
    if not np.isfinite(probabilities).all():
        return "probabilities not finite"
    known = np.asarray(truth) >= 0
    truth, answer = np.asarray(truth)[known], np.asarray(probabilities)[known].argmax(1)
    if len(set(truth)) < 2:
        return ""
    if len(set(answer)) == 1:
        return f"answers {SCORES[answer[0]]} only"
    majority = np.bincount(truth).max() / len(truth)
    return (
        f"at or below the majority rate {100 * majority:.1f} %"
        if (answer == truth).mean() <= majority
        else ""
    )


def fluctuation(history):
    """float, mean |change per epoch| / range of validation accuracy after epoch 0: 1/(n-1) if it only rises, 1 if it swings to and fro."""
    curve = pd.DataFrame(history).query("epoch > 0")["val_accuracy"].dropna().to_numpy()
    span = np.ptp(curve) if len(curve) > 1 else 0.0
    return float(np.abs(np.diff(curve)).mean() / span) if span else 0.0


def accuracy_and_kappa(answer, truth):
    """(accuracy, quadratic-weighted kappa), kappa nan where answers and truth are one and the same score."""
    answer, truth = np.asarray(answer), np.asarray(truth)
    right = float((answer == truth).mean())
    if len({*answer, *truth}) < 2:
        return right, math.nan
    return right, float(
        cohen_kappa_score(truth, answer, weights="quadratic", labels=range(len(SCORES)))
    )


def loss_problem(history):
    """str, "loss not finite in epoch 3", or ""."""
    wrong = [
        f"loss not finite in epoch {row.epoch}"
        for row in pd.DataFrame(history).itertuples()
        if "finite" in row.verdict
    ]
    return wrong[0] if wrong else ""


def evaluate_predictions(rows):
    """dict n, accuracy, kappa, verdict of the predictions of one set; patches without a score count in n alone."""
    known = rows[rows.truth >= 0]
    probabilities = known.filter(regex=r"^p\d$").to_numpy()
    accuracy, kappa = (
        accuracy_and_kappa(probabilities.argmax(1), known.truth)
        if len(known)
        else (math.nan, math.nan)
    )
    return dict(
        n=len(rows),
        accuracy=accuracy,
        kappa=kappa,
        verdict=collapse_reason(probabilities, known.truth),
    )
