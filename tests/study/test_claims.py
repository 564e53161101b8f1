"""Claims on where networks look: read from their file, turned into differences, judged."""

import math

import numpy as np
import pandas as pd
import pytest

from her2lib.stats.intervals import Estimate
from her2lib.study import claims
from her2lib.study.claims import Claim, Evidence, judge_claim, judge_estimate, read_claims
from her2lib.study.config import StudyError

ENTROPY = {"resnet18": 0.5, "vit": 0.9, "hybrid": 0.8}


def evidence_of(kind, right=(True, True), **further):
    """Evidence of two patches: a map stands 0.2 above its null, scatter is the network's own."""
    methods = ["grad_cam"]
    if kind != "resnet18":
        methods.append("relevance")
    measures = {(measure, ""): np.array(values) for measure, values in further.items()}
    nulls = {}
    for method in methods:
        for measure in ("edge_share", "share_tumour"):
            measures[measure, method] = np.full(2, 0.7)
            nulls[measure, method] = np.full(2, 0.5)
        measures["entropy", method] = np.full(2, ENTROPY[kind])
        nulls["entropy", method] = np.full(2, ENTROPY[kind])
    return Evidence(np.array(right), measures, nulls)


@pytest.mark.parametrize(
    ("interval", "null", "says", "verdict"),
    [
        ((0.1, 0.3), 0.0, "above", "confirmed"),
        ((0.1, 0.3), 0.0, "below", "refuted"),
        ((-0.3, -0.1), 0.0, "below", "confirmed"),
        ((-0.3, -0.1), 0.0, "above", "refuted"),
        ((-0.1, 0.3), 0.0, "above", "undecided"),
        ((0.0, 0.0), 0.0, "above", "undecided"),
        ((0.1, 0.3), (0.2, 0.4), "above", "undecided"),
        ((0.5, 0.6), (0.2, 0.4), "above", "confirmed"),
        ((0.1, 0.15), (0.2, 0.4), "above", "refuted"),
    ],
)
def test_a_verdict_needs_intervals_that_lie_clear_of_each_other(interval, null, says, verdict):
    def estimate(low, high):
        return Estimate((low + high) / 2, low, high, 20, "patches")

    if isinstance(null, tuple):
        null = estimate(*null)
    assert judge_estimate(estimate(*interval), null, says=says)[0] == verdict


def test_a_verdict_that_cannot_be_reached_says_why():
    sure = Estimate(1.0, 0.9, 1.1, 20, "patches")
    none = Estimate(math.nan, math.nan, math.nan, 0, "patches", "there are no patches")
    assert judge_estimate(sure, says="above", broken="ViT collapsed") == (
        "undecided",
        "ViT collapsed",
    )
    assert judge_estimate(none, says="above") == ("undecided", "there are no patches")
    assert judge_estimate(sure, none, says="above")[0] == "undecided"
    note = "interval from the 90% of resamples in which it is defined"
    noted = Estimate(1.0, 0.9, 1.1, 4, "patches", note)
    assert judge_estimate(noted, says="above") == (
        "confirmed",
        f"the whole interval lies above the null; {note}",
    )
    assert judge_estimate(sure, says="above", groups=10)[0] == "confirmed"
    assert judge_estimate(sure, says="above", groups=9) == (
        "undecided",
        "only 9 independent patients or slides, 10 are needed",
    )
    with pytest.raises(ValueError, match="'above' or 'below'"):
        judge_estimate(sure, says="more")


def test_every_claim_of_the_study_becomes_a_difference_from_its_null():
    evidence = {
        "resnet18": evidence_of("resnet18", (True, False), lost_without_position=[1.0, 0.0]),
        "vit": evidence_of("vit", lost_without_position=[0.0, 0.0], attention_farther=[3.0, 5.0]),
        "hybrid": evidence_of("hybrid", lost_without_position=[0.0, 1.0]),
    }
    all_claims = read_claims()
    values = {(claim.networks, claim.measured): claim.values(evidence, 2) for claim in all_claims}
    edge = "edge share less its null"
    tumour = "share on tumour less its null"
    less = "scatter (entropy) less that of the other"
    right_only = [0.2, math.nan]
    wrong_only = [math.nan, 0.2]
    assert np.allclose(values[("resnet18",), edge], right_only, equal_nan=True)
    assert np.allclose(values[("resnet18",), tumour], wrong_only, equal_nan=True)
    assert np.allclose(values[("vit",), tumour], 0.2)
    assert np.allclose(values[("vit", "resnet18"), less], 0.4)
    assert np.allclose(values[("hybrid", "vit"), less], -0.1)
    assert np.allclose(values[("hybrid",), edge], 0.2)
    farther = "attention distance, px, of layer 1 less untrained"
    assert values[("vit",), farther].tolist() == [3, 5]
    assert [claim.says for claim in all_claims if claim.measured == less] == ["above", "below"]
    position = [claim for claim in all_claims if "position" in claim.text]
    assert [claim.values(evidence, 2).tolist() for claim in position] == [[1, 0], [0, 1]]
    assert len(values) == len(all_claims) == 9


def test_a_claim_on_a_network_that_was_not_trained_has_no_value():
    evidence = {"hybrid": evidence_of("hybrid")}
    values = {claim: claim.values(evidence, 2) for claim in read_claims()}
    known = {claim.networks for claim in values if np.isfinite(values[claim]).any()}
    assert known == {("hybrid",)}
    assert all(array.shape == (2,) for array in values.values())


def test_a_verdict_keeps_its_number_and_counts_the_groups_that_bear_on_it():
    claim = Claim("looks", ("vit",), "edge", "edge_share", "relevance", "its null", "all", "above")
    values = np.linspace(0.1, 0.3, 20)
    evidence = Evidence(np.full(20, True), {("edge_share", "relevance"): values + 0.5}, {})
    groups = pd.Series([f"P{i}" for i in range(20)], name="patients")
    without_null = judge_claim(claim, {"vit": evidence}, groups=groups, resamples=200)
    assert without_null.verdict == "undecided"
    evidence.nulls["edge_share", "relevance"] = np.full(20, 0.5)
    verdict = judge_claim(claim, {"vit": evidence}, groups=groups, resamples=200, recipe="tuned")
    assert verdict.verdict == "confirmed"
    assert verdict.recipe == "tuned"
    assert verdict.estimate.value == pytest.approx(0.2)
    assert np.allclose(verdict.values, values)
    few = groups.str.replace(r"P1?\d", "P0", regex=True)
    one_group = judge_claim(claim, {"vit": evidence}, groups=few, resamples=200)
    assert one_group.verdict == "undecided"
    broken = judge_claim(claim, {"vit": evidence}, groups=groups, broken="ViT collapsed")
    assert (broken.verdict, broken.why) == ("undecided", "ViT collapsed")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('says = "above"', 'says = "more"', "says is one of"),
        ("measure = ", "mesure = ", "unknown key 'mesure'. Did you mean 'measure'"),
        ('patches = "right"\n', "", "the key 'patches' is missing"),
        ('less = "its null"', 'less = "the other"', "too few networks"),
    ],
)
def test_a_wrong_claim_is_refused_by_the_name_of_what_is_wrong(tmp_path, old, new, message):
    text = claims.claims_file().read_text(encoding="utf-8")
    first = text[text.index("[[claim]]") :].split("\n\n")[0] + "\n"
    file = tmp_path / "claims.toml"
    file.write_text(first, encoding="utf-8")
    assert len(read_claims(file)) == 1
    file.write_text(first.replace(old, new), encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_claims(file)
