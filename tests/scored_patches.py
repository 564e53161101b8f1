"""Patches with true and predicted scores, probabilities and patients, to test statistics on."""

import numpy as np
import pandas as pd

RNG = np.random.default_rng


def scored_patches(n=300, seed=0, right=0.6, groups=19):
    """(truth (N,), predicted (N,), probabilities (N,4), Series of patients) of n patches."""
    random = RNG(seed)
    truth = random.integers(0, 4, n)
    predicted = np.where(random.random(n) < right, truth, random.integers(0, 4, n))
    probabilities = random.dirichlet(np.ones(4), n) + 0.7 * np.eye(4)[predicted]
    probabilities /= probabilities.sum(1, keepdims=True)
    patients = pd.Series(random.integers(0, groups, n), name="patient")
    return truth, probabilities.argmax(1), probabilities, patients
