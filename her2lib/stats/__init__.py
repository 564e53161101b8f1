"""Statistics: how well scores agree, with an interval beside every number.

intervals       Estimate (value, interval, n, sample), the bootstrap of whole patients or slides
coefficients    measures of agreement from their definitions: Cohen, Fleiss, Gwet, Krippendorff
agreement       every metric of the study, kappas of every two raters, the human range
one_kappa       the quadratic kappa of two columns, for a notebook of one's own
compare         paired differences of networks with their tests, change between sets
calibration     what probabilities are worth: AUROC, calibration, temperature, priors
"""

import lazy_loader

__all__ = [
    "Estimate",
    "bootstrap",
    "compare_all",
    "human_range",
    "kappa",
    "metrics",
    "quadratic_kappa",
    "reliability_table",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "agreement": ["human_range", "kappa", "metrics"],
        "calibration": ["reliability_table"],
        "compare": ["compare_all"],
        "intervals": ["Estimate", "bootstrap"],
        "one_kappa": ["quadratic_kappa"],
    },
)
