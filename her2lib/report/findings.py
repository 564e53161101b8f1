"""What an audit finds, as rows: verdicts, rounding, order, exit code; and what moved between two studies."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd

COLUMNS = ["id", "claim", "recomputed", "verdict", "sentence"]
VERDICTS = (
    "contradiction",
    "caution",
    "unchecked",
    "consistent",
)  # only a contradiction makes the exit code 1
ONLY = ("only in the first", "only in the second")
MOVES = (
    "moved",
    *ONLY,
    "no interval",
    "within",
    "unchanged",
)  # only the first makes the exit code of her2 diff 1


def moved_numbers(before, after, *, names=({}, {})):
    """DataFrame (id, before, after, difference, low, high, verdict) of two numbers.csv; names (name -> axes) match their runs."""
    a, b = (_keyed(table, known) for table, known in zip((before, after), names, strict=True))
    both = a.add_suffix("_a").join(b.add_suffix("_b"), how="outer")
    old, new, difference = both["value_a"], both["value_b"], both["value_b"] - both["value_a"]
    low = difference - np.hypot(
        new - both["low_b"], both["high_a"] - old
    )  # from the two intervals (Zou and Donner 2008), as if the
    high = difference + np.hypot(
        both["high_b"] - new, old - both["low_a"]
    )  # studies were independent
    same, unknown = (difference == 0) | (old.isna() & new.isna()), low.isna() | high.isna()
    verdict = np.select(
        [both["id_b"].isna(), both["id_a"].isna(), same, unknown, (low <= 0) & (high >= 0)],
        [*ONLY, "unchanged", "no interval", "within"],
        "moved",
    )
    found = pd.DataFrame(
        {
            "id": both["id_b"].fillna(both["id_a"]),
            "before": old,
            "after": new,
            "difference": difference,
            "low": low,
            "high": high,
            "verdict": verdict,
        }
    )
    return found.sort_values(
        "verdict", key=lambda v: v.map(MOVES.index), kind="stable", ignore_index=True
    )


def exit_code(findings):
    """int, 1 if any finding is a contradiction, else 0."""
    return int((findings.verdict == "contradiction").any())


def _keyed(table, names):
    spelt = [
        "".join(names.get(part, part) for part in re.split(r"( minus | ~ )", str(run)))
        for run in table["run"]
    ]
    key = [
        " / ".join(map(str, part))
        for part in zip(table["question"], table["set"], spelt, table["metric"], strict=True)
    ]
    return table[["id", "value", "low", "high"]].set_axis(key, axis=0)


def _half(claim):
    if claim.get("kind") == "count" or "value" not in claim:
        return 0.0
    return float(Decimal(1).scaleb(Decimal(claim["value"]).as_tuple().exponent) / 2) * (
        5 if claim.get("about") else 1
    )


def _near(claim, exact):
    return abs(float(claim["value"]) - float(exact)) <= _half(claim) + 1e-9


def _sorted(found):
    rows = []
    for claim, again, fits, sentence in found:
        verdict = fits if isinstance(fits, str) else "consistent" if fits else "contradiction"
        if verdict == "consistent":  # one row for all that was tried
            again, sentence = (
                "",
                f"{claim.get('what', claim['id'])}: nothing contradicts {claim.get('value', 'it')}.",
            )
        rows.append((claim["id"], claim.get("value", ""), again, verdict, sentence))
    table = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["id", "verdict", "sentence"])
    wrong = {one for ids in table.id[table.verdict == "contradiction"] for one in ids.split(" / ")}
    table = table[(table.verdict != "consistent") | ~table.id.isin(wrong)]
    return table.sort_values(
        "verdict", key=lambda v: v.map(VERDICTS.index), kind="stable", ignore_index=True
    )
