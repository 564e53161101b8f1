"""What an audit finds, as rows: verdicts, rounding, order; and what moved between two studies."""

import re
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd

COLUMNS = ["id", "claim", "recomputed", "verdict", "sentence"]
# In the order of the rows; only a contradiction makes the exit code 1.
VERDICTS = ("contradiction", "caution", "unchecked", "consistent")
ONLY = ("only in the first", "only in the second")
# In the order of the rows; only "moved" makes the exit code of `her2 diff` 1.
MOVES = ("moved", *ONLY, "no interval", "within", "unchanged")
# Columns of numbers.csv as older reports call them; their "concordance 2+" is "recall 2+".
OLD_COLUMNS = {"units": "sample", "share": "as_percent"}


@dataclass(frozen=True)
class Finding:
    """One row of an audit: a reported number, what it is when computed again, and a sentence."""

    id: str
    claim: object
    recomputed: object
    verdict: str
    sentence: str


# --- tables of findings -------------------------------------------------------------------------


def findings_table(findings: list[Finding]) -> pd.DataFrame:
    """DataFrame (id, claim, recomputed, verdict, sentence) of Findings, contradictions first."""
    rows = [tuple(vars(finding).values()) for finding in findings]
    table = pd.DataFrame(rows, columns=COLUMNS)
    # One row says for all checks of a claim that nothing contradicts it, if nothing does.
    table = table.drop_duplicates(["id", "verdict", "sentence"])
    contradicted = set()
    for ids in table.loc[table["verdict"] == "contradiction", "id"]:
        contradicted.update(ids.split(" / "))
    cleared = (table["verdict"] == "consistent") & table["id"].isin(contradicted)
    return sorted_by_verdict(table[~cleared], VERDICTS)


def sorted_by_verdict(table: pd.DataFrame, verdicts: tuple[str, ...]) -> pd.DataFrame:
    """DataFrame, the rows in the order of these verdicts; within one verdict as they were."""
    order = table["verdict"].map(verdicts.index).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def exit_code(findings: pd.DataFrame) -> int:
    """int, 1 if any finding is a contradiction, else 0."""
    return int((findings["verdict"] == "contradiction").any())


# --- rounding -----------------------------------------------------------------------------------


def half_last_digit(printed: Decimal | int) -> float:
    """float, half of the last digit of a printed Decimal or int: 0.05 of 58.7, 0.5 of 59."""
    exponent = int(Decimal(printed).as_tuple().exponent)
    return float(Decimal(1).scaleb(exponent) / 2)


def rounds_to(printed: Decimal | int, exact: float, *, half: float | None = None) -> bool:
    """bool, whether a printed number can be the exact one, rounded at its last digit (or half)."""
    if half is None:
        half = half_last_digit(printed)
    return abs(float(printed) - float(exact)) <= half + 1e-9


# --- numbers.csv --------------------------------------------------------------------------------


def in_new_words(numbers: pd.DataFrame) -> pd.DataFrame:
    """DataFrame, numbers.csv in today's columns and metrics; ids stay, as reports point to them."""
    renamed = numbers.rename(columns=OLD_COLUMNS)
    metric = renamed["metric"].astype(str).str.replace(r"^concordance ", "recall ", regex=True)
    return renamed.assign(metric=metric)


def moved_numbers(
    before: pd.DataFrame, after: pd.DataFrame, *, names: tuple[dict, dict] = ({}, {})
) -> pd.DataFrame:
    """DataFrame (id, before, after, difference, low, high, verdict) of two numbers.csv.

    names: for each of the two, the axes behind the names of its runs (name -> axes), by which
    runs are matched that the two studies call differently.
    """
    first = _by_question(in_new_words(before), names[0])
    second = _by_question(in_new_words(after), names[1])
    both = first.add_suffix("_a").join(second.add_suffix("_b"), how="outer")
    old = both["value_a"]
    new = both["value_b"]
    difference = new - old
    # From the two intervals (Zou and Donner 2008), as if the studies were independent.
    low = difference - np.hypot(new - both["low_b"], both["high_a"] - old)
    high = difference + np.hypot(both["high_b"] - new, old - both["low_a"])
    same = (difference == 0) | (old.isna() & new.isna())
    unknown = low.isna() | high.isna()
    cases = [both["id_b"].isna(), both["id_a"].isna(), same, unknown, (low <= 0) & (high >= 0)]
    verdict = np.select(cases, [*ONLY, "unchanged", "no interval", "within"], "moved")
    table = pd.DataFrame(
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
    return sorted_by_verdict(table, MOVES)


def _by_question(numbers, names):
    """DataFrame (id, value, low, high), indexed by question, set, axes of the run and metric."""
    keys = []
    for row in numbers[["question", "set", "run", "metric"]].itertuples(index=False):
        parts = re.split(r"( minus | ~ )", str(row.run))
        axes = "".join(names.get(part, part) for part in parts)
        keys.append(f"{row.question} / {row.set} / {axes} / {row.metric}")
    return numbers[["id", "value", "low", "high"]].set_axis(keys, axis=0)


def move_sentence(row) -> str:
    """str, one number of two studies: what it was, what it is, by how much it moved."""
    sentence = f"{row.verdict:18} {row.id}"
    if row.verdict.startswith("only"):
        return sentence
    sentence += f": {row.before:.4g} -> {row.after:.4g}"
    if row.verdict == "moved":
        sentence += f", difference {row.difference:+.4g} ({row.low:.4g} to {row.high:.4g})"
    return sentence
