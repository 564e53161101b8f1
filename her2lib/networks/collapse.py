"""Has a run learnt anything: COLLAPSED and why, agreement, how far its validation curve swings."""

import math

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from her2lib.scores import SCORES

# The verdict of an epoch whose loss, logits or weights were not finite numbers.
LOSS_NOT_FINITE = "loss not finite"


def collapse_reason(probabilities, truth) -> str:
    """str, why a network has learnt nothing: one answer, majority rate, no numbers; else "".

    Patches of unknown score (-1) are left out, and a truth of one score alone cannot judge.
    """
    if not np.isfinite(probabilities).all():
        return "probabilities not finite"
    # A patch that nobody scored judges nobody.
    known = np.asarray(truth) >= 0
    truth = np.asarray(truth)[known]
    predicted = np.asarray(probabilities)[known].argmax(1)
    if len(set(truth)) < 2:
        return ""
    if len(set(predicted)) == 1:
        return f"answers {SCORES[predicted[0]]} only"
    # What always answering the commonest score would get right.
    majority = np.bincount(truth).max() / len(truth)
    if (predicted == truth).mean() <= majority:
        return f"at or below the majority rate {100 * majority:.1f} %"
    return ""


def fluctuation(history) -> float:
    """float, mean |change per epoch| / range of validation accuracy after epoch 0.

    1/(n-1) for a curve of n epochs that only rises, 1 for one that swings to and fro.
    """
    trained = pd.DataFrame(history).query("epoch > 0")
    curve = trained["val_accuracy"].dropna().to_numpy()
    if len(curve) < 2 or not np.ptp(curve):
        return 0.0
    return float(np.abs(np.diff(curve)).mean() / np.ptp(curve))


def accuracy_and_kappa(predicted, truth) -> tuple[float, float]:
    """(accuracy, quadratic-weighted kappa); kappa nan where all are one and the same score."""
    predicted = np.asarray(predicted)
    truth = np.asarray(truth)
    accuracy = float((predicted == truth).mean())
    if len({*predicted, *truth}) < 2:
        return accuracy, math.nan
    kappa = cohen_kappa_score(truth, predicted, weights="quadratic", labels=range(len(SCORES)))
    return accuracy, float(kappa)


def loss_problem(history) -> str:
    """str, "loss not finite in epoch 3", or ""."""
    history = pd.DataFrame(history)
    broken = history.loc[~_loss_finite(history), "epoch"]
    if broken.empty:
        return ""
    return f"{LOSS_NOT_FINITE} in epoch {broken.iloc[0]}"


def evaluate_predictions(predictions: pd.DataFrame) -> dict:
    """dict n, accuracy, kappa, verdict of the predictions of one set (truth, p0..p3).

    Patches without a score count in n alone.
    """
    known = predictions[predictions.truth >= 0]
    probabilities = known.filter(regex=r"^p\d$").to_numpy()
    agreement = (math.nan, math.nan)
    if len(known):
        agreement = accuracy_and_kappa(probabilities.argmax(1), known.truth)
    accuracy, kappa = agreement
    return {
        "n": len(predictions),
        "accuracy": accuracy,
        "kappa": kappa,
        "verdict": collapse_reason(probabilities, known.truth),
    }


def _loss_finite(history):
    """(epochs,) bool, the column of that name."""
    if "loss_finite" in history:
        return history["loss_finite"].astype(bool)
    # A history.csv written before there was such a column: there the verdict is all that tells.
    return history["verdict"] != LOSS_NOT_FINITE
