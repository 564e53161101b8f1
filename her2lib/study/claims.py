"""Sentences on where networks look, from studies/claims.toml, and whether numbers bear them out."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import files
from her2lib.files import did_you_mean
from her2lib.stats.intervals import FEW_GROUPS, Estimate, bootstrap, mean
from her2lib.study.config import StudyError

CHOICES = {
    "less": ("its null", "the other", ""),
    "patches": ("all", "right", "wrong"),
    "says": ("above", "below"),
}


@dataclass(frozen=True)
class Evidence:
    """What was measured of one network on B patches; every array is (B,), NaN where undefined."""

    right: np.ndarray  # bool, which patches the network scored right
    measures: Mapping[tuple[str, str], np.ndarray]  # (measure, map, "" where it needs none)
    nulls: Mapping[tuple[str, str], np.ndarray]  # the same of the maps' values placed by chance


@dataclass(frozen=True)
class Claim:
    """One sentence and the number that decides it; the fields are explained in claims.toml."""

    text: str
    networks: tuple[str, ...]
    measured: str
    measure: str
    map: str
    less: str
    patches: str
    says: str

    def values(self, evidence: Mapping[str, Evidence], n_patches: int) -> np.ndarray:
        """(B,) the difference it speaks of, patch by patch; NaN where it does not apply.

        evidence is by kind of network; what it lacks, such as a network that was not trained, is
        NaN on every patch.
        """
        unknown = np.full(n_patches, math.nan)
        if self.networks[0] not in evidence:
            return unknown
        first = evidence[self.networks[0]]
        key = (self.measure, self.map)
        values = first.measures.get(key, unknown)
        # what a claim says is judged against chance or another network, seldom by itself
        if self.less == "its null":
            values = values - first.nulls.get(key, unknown)
        if self.less == "the other":
            values = values - _measure_of(evidence, self.networks[1], key, unknown)
        if self.patches == "all":
            return values
        return np.where(first.right == (self.patches == "right"), values, math.nan)


@dataclass(frozen=True)
class Verdict:
    """A claim on one recipe: "confirmed", "refuted" or "undecided", why, the number behind it."""

    claim: Claim
    recipe: str  # "" where the study trains one
    verdict: str
    why: str
    estimate: Estimate
    values: np.ndarray  # (B,)


def claims_file() -> Path:
    """Path of the sentences: studies/claims.toml."""
    return files.ROOT / "studies" / "claims.toml"


def read_claims(file: Path | str | None = None) -> list[Claim]:
    """[Claim] of a TOML file, studies/claims.toml by default.

    Raises StudyError for a claim with a missing or unknown key, or a value outside CHOICES.
    Example: [claim.text for claim in read_claims()]
    """
    file = Path(file or claims_file())
    rows = tomllib.loads(file.read_text(encoding="utf-8")).get("claim", [])
    return [_checked_claim(row, file.name) for row in rows]


def judge_claim(
    claim: Claim,
    evidence: Mapping[str, Evidence],
    *,
    groups: pd.Series,
    resamples: int = 2000,
    recipe: str = "",
    broken: str = "",
) -> Verdict:
    """Verdict on one claim; groups (B,) are resampled whole, broken says why none can testify."""
    values = claim.values(evidence, len(groups))
    estimate = bootstrap(mean, values, groups=groups, resamples=resamples)
    n_groups = groups[np.isfinite(values)].nunique()
    verdict, why = judge_estimate(estimate, says=claim.says, broken=broken, groups=n_groups)
    return Verdict(claim, recipe, verdict, why, estimate, values)


def judge_estimate(
    estimate: Estimate,
    null: Estimate | float = 0.0,
    *,
    says: str = "above",
    broken: str = "",
    groups: float = math.inf,
) -> tuple[str, str]:
    """(verdict, why): confirmed or refuted where the interval lies clear of the null's.

    The rest is undecided: broken (a sentence that says why) or fewer than FEW_GROUPS groups decide
    nothing. Raises ValueError unless says is "above" or "below".
    """
    if says not in CHOICES["says"]:
        raise ValueError(
            f"A claim says that a value lies 'above' or 'below' its null, not {says!r}."
        )
    if broken:
        return "undecided", broken
    low, high = _limits(null)
    if not np.isfinite([estimate.low, estimate.high, low, high]).all():
        return "undecided", estimate.note or "there is no interval"
    # two patients once "refuted" a claim in the demo: resampling two values knows nothing of a
    # third.
    if groups < FEW_GROUPS:
        return "undecided", f"only {groups} independent patients or slides, {FEW_GROUPS} are needed"

    side = _clear_side(estimate, low, high)
    why = f"the whole interval lies {side} the null"
    if not side:
        why = "the interval does not lie clear of the null"
    if estimate.note:
        why += f"; {estimate.note}"
    verdicts = {says: "confirmed", "": "undecided"}
    return verdicts.get(side, "refuted"), why


def _clear_side(estimate, low, high):
    """str, "above" or "below" where the whole interval lies there of low to high, else ""."""
    if estimate.low > high:
        return "above"
    if estimate.high < low:
        return "below"
    return ""


def _limits(null):
    """(low, high) of a null: an Estimate's interval, or a plain number twice."""
    if isinstance(null, Estimate):
        return null.low, null.high
    return null, null


def _measure_of(evidence, network, key, unknown):
    """(B,) one measure of one network, NaN where there is no such network or measure."""
    if network not in evidence:
        return unknown
    return evidence[network].measures.get(key, unknown)


def _checked_claim(row, file_name):
    """Claim of one [[claim]] table; a StudyError names the key or value that is wrong."""
    keys = [field.name for field in fields(Claim)]
    title = row.get("text", "a claim without text")
    # a misspelt key would silently leave a claim as it was, so every key must be known
    for key in row:
        if key not in keys:
            raise StudyError(f"{file_name}: {title}: unknown key {key!r}.{did_you_mean(key, keys)}")
    for key in keys:
        if key not in row:
            raise StudyError(f"{file_name}: {title}: the key {key!r} is missing.")
    for key, choices in CHOICES.items():
        if row[key] not in choices:
            raise StudyError(f"{file_name}: {title}: {key} is one of {choices}, not {row[key]!r}.")
    # a claim against another network needs one to be against
    if not row["networks"] or (row["less"] == "the other" and len(row["networks"]) < 2):
        raise StudyError(f"{file_name}: {title}: networks names too few networks.")
    return Claim(**{**row, "networks": tuple(row["networks"])})
