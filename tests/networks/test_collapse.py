"""collapse: one answer, the majority rate, broken losses, and how far a curve swings."""

import numpy as np
import pandas as pd
import pytest

from her2lib.networks import collapse

TRUTH = np.array([2, 2, 2, 1, 0])


def certain(*predicted):
    """(N,4) probabilities of a network that is sure of these scores."""
    return np.eye(4)[list(predicted)]


def curve(*accuracies):
    return pd.DataFrame({"epoch": range(len(accuracies)), "val_accuracy": accuracies})


def test_one_answer_the_majority_rate_and_sound_work():
    reason = collapse.collapse_reason
    assert reason(certain(2, 2, 2, 2, 2), TRUTH) == "answers 2+ only"
    assert reason(certain(2, 2, 1, 1, 3), TRUTH) == "at or below the majority rate 60.0 %"
    assert reason(certain(2, 2, 2, 1, 3), TRUTH) == ""
    one_score = np.array([2, 2, 2])
    assert reason(certain(2, 2, 2), one_score) == "", "one score alone cannot be judged"
    partly_known = np.array([2, 2, 1, -1])
    assert reason(certain(2, 2, 1, 0), partly_known) == "", "unknown scores are left out"


def test_nan_is_never_silent():
    nothing = np.full((5, 4), np.nan)
    assert collapse.collapse_reason(nothing, TRUTH) == "probabilities not finite"


def test_fluctuation_worked_out_by_hand():
    # Epoch 0 does not count.
    assert collapse.fluctuation(curve(0.9, 0.1, 0.2, 0.3, 0.4)) == pytest.approx(1 / 3)
    assert collapse.fluctuation(curve(0.0, 0.1, 0.5, 0.1, 0.5)) == pytest.approx(1.0)
    assert collapse.fluctuation(curve(0.3, 0.5, 0.5)) == 0.0
    assert collapse.fluctuation(curve(0.3, 0.5)) == 0.0


def test_a_broken_loss_is_told_by_its_column_and_not_by_a_word():
    history = pd.DataFrame(
        {
            "epoch": [0, 1, 2, 3],
            "loss_finite": [True, True, True, False],
            "verdict": ["", "infinite wisdom, finite data", "", "loss not finite"],
        }
    )
    assert collapse.loss_problem(history) == "loss not finite in epoch 3"
    assert collapse.loss_problem(history[:3]) == ""


def test_a_history_without_that_column_is_still_read():
    history = pd.DataFrame({"epoch": [0, 1], "verdict": ["", "loss not finite"]})
    assert collapse.loss_problem(history) == "loss not finite in epoch 1"
    assert collapse.loss_problem(history[:1]) == ""


def test_predictions_are_judged_where_the_score_is_known():
    probabilities = certain(2, 2, 1, 1, 0)
    predictions = pd.DataFrame({f"p{k}": column for k, column in enumerate(probabilities.T)})
    predictions["truth"] = [2, 2, 1, 0, -1]
    evaluation = collapse.evaluate_predictions(predictions)
    assert evaluation["n"] == 5
    assert evaluation["accuracy"] == 0.75
    assert evaluation["verdict"] == ""
    nothing_known = collapse.evaluate_predictions(predictions.assign(truth=-1))
    assert nothing_known["n"] == 5
    assert np.isnan([nothing_known["accuracy"], nothing_known["kappa"]]).all()
