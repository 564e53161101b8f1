"""The kappa of two columns against scikit-learn, and what it refuses."""

import numpy as np
import pytest
from scored_patches import scored_patches
from sklearn import metrics as sk

from her2lib import stats
from her2lib.scores import SCORES
from her2lib.stats.agreement import kappa
from her2lib.stats.intervals import bootstrap
from her2lib.stats.one_kappa import quadratic_kappa


def test_quadratic_kappa_prints_its_sentence():
    truth, predicted, _, groups = scored_patches(281)
    estimate = quadratic_kappa(truth, predicted, groups=groups)
    known = bootstrap(kappa, truth, predicted, groups=groups, weights="quadratic")
    assert estimate == known
    assert str(estimate).endswith("n = 281 patches of 19 patients)")
    value = sk.cohen_kappa_score(truth, predicted, weights="quadratic")
    assert str(estimate).startswith(f"{value:.2f} ({estimate.low:.2f} to {estimate.high:.2f}; ")
    assert stats.quadratic_kappa is quadratic_kappa


def test_quadratic_kappa_takes_groups_without_a_name_as_groups():
    truth, predicted, _, groups = scored_patches(100)
    named = quadratic_kappa(truth, predicted, groups=groups)
    for plain in (list(groups.astype(str)), groups.astype(str).to_numpy(object)):
        estimate = quadratic_kappa(list(truth), list(predicted), groups=plain)
        assert estimate.sample == "patches of 19 groups"
        assert (estimate.value, estimate.low, estimate.high) == (named.value, named.low, named.high)


def test_quadratic_kappa_without_groups_resamples_patches_and_says_so():
    truth, predicted, *_ = scored_patches(100)
    estimate = quadratic_kappa(truth, predicted)
    assert estimate.sample == "patches"
    assert "patches are resampled as if independent" in estimate.note
    assert estimate.low < estimate.value < estimate.high


def test_quadratic_kappa_leaves_unknown_scores_and_their_patients_out():
    truth, predicted, _, groups = scored_patches(100)
    groups = groups.astype(str).to_numpy(object)
    unknown = groups == groups[0]
    truth[unknown] = -1
    groups[unknown] = ""
    estimate = quadratic_kappa(truth, predicted, groups=groups)
    known = quadratic_kappa(truth[~unknown], predicted[~unknown], groups=groups[~unknown])
    assert estimate == known
    assert estimate.n == (~unknown).sum()


def test_quadratic_kappa_refuses_what_is_no_column_of_scores():
    truth, predicted, probabilities, groups = scored_patches(60)
    empty = groups.astype(str).to_numpy(object)
    empty[:3] = ["", "  ", None]
    refused = {
        "unequal lengths, truth 59, predicted 60": (truth[1:], predicted, groups),
        "whole scores 0 to 3, or -1 for unknown, in predicted": (truth, predicted + 0.5, groups),
        "whole scores 0 to 3, or -1 for unknown, in truth": (truth + 1, predicted, groups),
        "unknown, in truth": (np.array(SCORES)[truth], predicted, groups),
        r"shape \(N,\), not \(60, 4\)": (truth, probabilities, groups),
        "59 for 60": (truth, predicted, groups[1:]),
        "3 of 60 have an empty one": (truth, predicted, empty),
    }
    for sentence, (a, b, ids) in refused.items():
        with pytest.raises(ValueError, match=sentence):
            quadratic_kappa(a, b, groups=ids)
    nothing = quadratic_kappa([], [])
    assert str(nothing) == "not estimable: there are no patches"


def test_quadratic_kappa_where_no_patient_is_known_warns_and_resamples_patches():
    truth, predicted, *_ = scored_patches(60)
    with pytest.warns(UserWarning, match="No patient or slide is known"):
        estimate = quadratic_kappa(truth, predicted, groups=[""] * 60)
    assert estimate == quadratic_kappa(truth, predicted)
