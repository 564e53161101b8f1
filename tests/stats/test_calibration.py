"""Probabilities: AUROC with ties, temperature, priors, reliability, what to send on."""

import numpy as np
import pytest
from scored_patches import RNG, scored_patches
from sklearn import metrics as sk

from her2lib.scores import CUTS
from her2lib.stats import calibration, intervals


def test_auroc_shares_ties_as_scikit_learn_does_in_every_resample():
    truth, _, probabilities, groups = scored_patches(80)
    probabilities = np.round(probabilities, 1)
    index, _, n_groups = intervals.group_index(groups)
    drawn = intervals.resample_counts(19, 20, 0)[:, :n_groups]
    ours = calibration.auroc_cut[1].draws(drawn, index, truth, probabilities)
    above = calibration.at_least(probabilities)[:, 1]
    for counts, value in zip(drawn, ours, strict=True):
        take = np.repeat(np.arange(80), counts[index].astype(int))
        reference = sk.roc_auc_score(truth[take] > 1, above[take])
        assert value == pytest.approx(reference, abs=1e-9)


def test_temperature_finds_the_one_that_was_put_in_and_keeps_the_scores():
    random = RNG(5)
    honest = random.dirichlet(np.ones(4), 6000)
    truth = np.array([random.choice(4, p=p) for p in honest])
    sure = calibration.apply_temperature(honest, 1 / 2.5)
    temperature = calibration.fit_temperature(truth, sure)
    assert temperature == pytest.approx(2.5, rel=0.06)
    tempered = calibration.apply_temperature(sure, temperature)
    assert (tempered.argmax(1) == sure.argmax(1)).all()
    error = calibration.calibration_error[1]
    assert error(truth, tempered) < 0.3 * error(truth, sure)


def test_a_temperature_of_no_patches_is_refused():
    with pytest.raises(ValueError, match="there are none"):
        calibration.fit_temperature(np.zeros(0, int), np.zeros((0, 4)))


def test_prior_correction_by_hand_and_by_em():
    half = np.array([[0.5, 0.5, 0, 0]])
    shifted, _ = calibration.prior_corrected(half, trained=[1, 1, 1, 1], target=[3, 1, 0, 0])
    assert shifted[0].tolist() == pytest.approx([0.75, 0.25, 0, 0])
    random = RNG(0)
    truth = random.choice(4, 8000, p=[0.1, 0.1, 0.2, 0.6])
    measured = truth + random.normal(0, 0.6, 8000)
    likelihood = np.exp(-((measured[:, None] - np.arange(4)) ** 2) / 0.72)
    probabilities = likelihood / likelihood.sum(1, keepdims=True)
    _, fractions = calibration.prior_corrected(probabilities, trained=np.ones(4))
    assert fractions == pytest.approx([0.1, 0.1, 0.2, 0.6], abs=0.03)


def test_reliability_table():
    truth, _, probabilities, groups = scored_patches(400)
    table = calibration.reliability_table(truth, probabilities, groups=groups, resamples=200)
    assert table.groupby("cut").n.sum().tolist() == [400] * 3
    for cut, rows in table.groupby("cut"):
        error = (rows.n * (rows.forecast - rows.observed).abs()).sum() / 400
        statistic = calibration.calibration_error[CUTS.index(cut)]
        assert error == pytest.approx(statistic(truth, probabilities))


def test_risk_coverage_table():
    truth, predicted, probabilities, groups = scored_patches(400)
    curve = calibration.risk_coverage_table(truth, probabilities, groups=groups, resamples=200)
    last = curve.iloc[-1]
    assert (last.coverage, last["sent on"]) == (1, 0)
    assert last.error == pytest.approx(np.mean(truth != predicted))
    assert (curve.coverage.diff().dropna() > 0).all()
    half = curve.iloc[len(curve) // 2]
    sure = probabilities.max(1) >= half.threshold
    assert half.error == pytest.approx(np.mean((truth != predicted)[sure]))
    assert half.n == sure.sum()
    assert (curve.error_low <= curve.error).all()
