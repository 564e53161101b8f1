"""Whole slides summed up from their scored patches: fractions with intervals, one rule."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from her2lib.scores import ALL_SCORES, SCORES, score_name
from her2lib.stats.intervals import SumStatistic, bootstrap, mean

# Fields a side that the bootstrap draws whole, because neighbours share tissue, stain and cut.
BLOCK = 4
# The fraction of patches that the RULE asks for.
LEAST_FRACTION = 0.1
PROBABILITIES = [f"p{k}" for k in range(len(SCORES))]
SUMMARY = ["slide", "metric", "value", "low", "high", "n", "sample", "note"]
RULE = (
    "A slide is summed up as the highest score that, with all higher ones, more than 10 % of its "
    "patches are given. The rule counts patches, not tumour cells, and no pathologist has looked: "
    "it is not an ASCO/CAP score."
)


def summarise_slides(table: pd.DataFrame, *, scores: Sequence[int] = ALL_SCORES) -> pd.DataFrame:
    """DataFrame (slide, metric, value, low, high, n, sample, note) of a table of scores.

    Per slide: the fraction of patches of each score, the mean expected score, the RULE's score.
    scores are those that the run's study declares, as positions in SCORES.
    """
    rows = []
    for slide, part in table[table.slide != ""].groupby("slide"):
        rows += [{"slide": slide, **row} for row in _slide_summary(part, scores)]
    return pd.DataFrame(rows, columns=SUMMARY)


# --- helpers --------------------------------------------------------------------------------------


def _count_hits(hit):
    """(N,2) of hit (N,): the hit and one, whose sums make a fraction."""
    return np.stack([hit, np.ones(len(hit))], 1)


def _hit_fraction(sums):
    """(…) fraction of (…,2) sums of _count_hits."""
    return sums[..., 0] / sums[..., 1]


score_fraction = SumStatistic(_count_hits, _hit_fraction, kind="proportion")


def _slide_summary(part, scores):
    """list of dict, the rows of summarise_slides of one slide's patches."""
    groups, caution = _blocks(part)
    predicted = part[PROBABILITIES].to_numpy().argmax(1)
    estimates = {}
    for k in scores:
        hit = (predicted == k).astype(float)
        estimates[f"share of {score_name(k)}"] = bootstrap(score_fraction, hit, groups=groups)
    estimates["mean expected score"] = bootstrap(mean, part.expected.to_numpy(), groups=groups)
    rows = []
    for metric, estimate in estimates.items():
        notes = [note for note in (estimate.note, caution) if note]
        rows.append(
            {
                "metric": metric,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "sample": estimate.sample,
                "note": "; ".join(notes),
            }
        )
    count = {"n": len(part), "sample": "patches"}
    score = score_name(_rule_of_slide(predicted))
    rows.append({"metric": "summary score", "value": score, **count, "note": RULE})
    if (part.unlike != "").any():
        note = "not an estimate: a count of these patches"
        fraction = (part.unlike == "yes").mean()
        rows.append(
            {"metric": "share unlike the training data", "value": fraction, **count, "note": note}
        )
    return rows


def _rule_of_slide(predicted):
    """int, the RULE's score of a slide whose patches are predicted (N,)."""
    highest = 0
    for k in range(1, len(SCORES)):
        if (predicted >= k).mean() > LEAST_FRACTION:
            highest = k
    return highest


def _blocks(part):
    """(groups (N,) of a bootstrap, caution): squares of BLOCK x BLOCK neighbouring fields.

    Patches one by one where it is not known where they lie.
    """
    if part.x.isna().any():
        caution = "patches of one slide are not independent, so this interval is too narrow"
        return pd.Series(part.patch.to_numpy(), name="patches"), caution
    gaps = np.concatenate([np.diff(np.unique(part[axis])) for axis in ("x", "y")])
    side = BLOCK * gaps.min(initial=np.inf)
    blocks = [f"{x // side:.0f} {y // side:.0f}" for x, y in zip(part.x, part.y, strict=True)]
    caution = (
        f"blocks of {BLOCK} x {BLOCK} neighbouring fields are drawn whole; this one slide alone, "
        "nothing about other slides"
    )
    return pd.Series(blocks, name="blocks"), caution
