"""The audit of reported figures finds what was planted and accuses nothing that is right."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from her2lib.report import published
from her2lib.report.findings import exit_code
from her2lib.stats import agreement

PUBLISHED = Path(__file__).parents[2] / "studies" / "published.toml"
PARTS = ["0", "1+", "2+", "3+"]


def sentences(findings, verdict="contradiction"):
    return " ".join(findings.sentence[findings.verdict == verdict])


def test_the_study_contradicts_itself_where_we_know_it_does():
    findings = published.audit_file(PUBLISHED)
    wrong = sentences(findings)
    assert "141 of 281 patches are 50.2 %, not 58.7 %" in wrong  # 1
    assert "124 of 281 patches are 44.1 %, not 40.1 %" in wrong
    assert "score 1+: 134 (poster, methods) against 135" in wrong  # 2
    assert "sum to 282, not to n = 281" in wrong
    assert "19 % is below chance (25 %)" in wrong  # 3
    assert "63 (slides) against 91.0 (poster)" in wrong
    assert "4630 (slides, methods) against 3500 (slides, contents)" in wrong  # 4
    assert "4 scores named, 3 counted (0 missing)" in wrong  # 5
    cautions = sentences(findings, "caution")
    assert "Consensus contains P1, so their 0.816 is partly built in" in cautions  # 6
    assert "come from 19 patients" in cautions  # 7
    assert exit_code(findings) == 1


def test_the_published_densenet_rate_is_no_whole_number_of_patches():
    assert not [k for k in range(282) if round(100 * k / 281, 1) == 40.1]
    wrong = sentences(published.audit_file(PUBLISHED))
    assert "40.1 % is no whole number of 281 patches" in wrong


def test_feasible_kappa_holds_all_matrices_with_these_counts():
    low, high = published.feasible_kappa({"1+": [3, 5], "2+": [1, 3], "3+": [2, 4]})
    truth = np.repeat([1, 2, 3], [5, 3, 4])
    wrong = [0, 1, 5, 6, 8, 9]
    kappas = []
    # each wrong answer is one of the three other scores
    for steps in itertools.product((1, 2, 3), repeat=6):
        predicted = truth.copy()
        predicted[wrong] = (truth[wrong] + steps) % 4
        kappas.append(agreement.kappa(truth, predicted, weights="unweighted"))
    assert low == pytest.approx(min(kappas), abs=1e-9)
    assert high == pytest.approx(max(kappas), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[count", "is not valid TOML"),
        ("count = 3", "headed [[count]]"),
        ("[count]\nid='a'", "headed [[count]]"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=nan", "plain numbers"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=inf", "plain numbers"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=1e999", "plain numbers"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=true", "value is a number, not True"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=3\nscores=0", "nothing to score"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=3\nn='many'", "n is a whole number"),
        ("[[count]]\nid='a'\nwhat='b'\nparts=3", "parts is a table of counts"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=3\nper_score={a=[1]}", "has [right, n], not [1]"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=3\nper_score={a=[0, 0]}", "no patch stands"),
        ("[[matrix]]\nid='a'\nwhat='b'\nraters=['x']\nvalues=[1]", "a list of rows"),
        ("[[count]]\nid=['a']\nwhat='b'", "id is a text in quotes"),
        ("[[counts]]\nid='a'\nwhat='b'", "unknown table 'counts'. Did you mean 'count'"),
        (
            "[[count]]\nid='a'\nwhat='b'\nvalu=3",
            "unknown key 'valu' in a count. Did you mean 'value'",
        ),
        ("[[count]]\nid='a'\nwhat='b'\n[[count]]\nid='a'\nwhat='b'", "'id' of its own"),
        ("[[count]]\nid='a'\nwhat='b'\nvalue='281'", "plain numbers"),
        ("[[rate]]\nid='a'\nwhat='b'", "its value"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=3\nof='c'", "links to an id that is missing"),
        ("[[kappa]]\nid='a'\nwhat='b'\nvalue=0.3\nrate='c'", "links to an id that is missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_answered_with_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "f.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"f\.toml") as raised:
        published.audit_file(file)
    assert sentence in str(raised.value)


# --- planted errors -----------------------------------------------------------------------------


def clean_claims(random):
    """Claims of a study whose numbers all come from one confusion matrix per network."""
    n = random.integers(20, 200, 4)
    total = int(n.sum())
    counts = {
        "id": "set",
        "what": "patches",
        "value": total,
        "scores": PARTS,
        "parts": dict(zip(PARTS, n.tolist(), strict=True)),
        "where": "methods",
    }
    abstract = {"id": "abstract", "what": "patches", "value": total, "where": "abstract"}
    claims = {"count": [counts, abstract], "rate": [], "kappa": [], "matrix": []}
    for k in range(random.integers(1, 4)):
        add_network(claims, k, n, random)
    claims["matrix"].append(matrix_of_kappas(random))
    return claims


def add_network(claims, k, n, random):
    """Three rates and a kappa of one network, of one random confusion matrix."""
    truth = np.repeat(np.arange(4), n)
    right = random.random(len(truth)) < random.uniform(0.4, 0.95)
    predicted = np.where(right, truth, random.integers(0, 4, len(truth)))
    table = agreement.confusion_counts(truth, predicted)
    digits = int(random.integers(0, 3))
    total = int(n.sum())
    value = np.trace(table) / n.sum() * 100
    test = {
        "id": f"net{k}",
        "what": f"accuracy {k}",
        "value": f"{value:.{digits}f}",
        "n": total,
        "per_score": {score: [int(table[i, i]), int(n[i])] for i, score in enumerate(PARTS)},
        "of": "set",
        "scores": 4,
    }
    text = {"id": f"text{k}", "what": f"accuracy {k}", "value": f"{value:.1f}", "n": total}
    val = {
        "id": f"val{k}",
        "what": f"validation {k}",
        "value": f"{random.uniform(30, 99):.1f}",
        "scores": 4,
    }
    claims["rate"] += [test, text, val]
    kappa = {
        "id": f"kappa{k}",
        "what": f"kappa {k}",
        "value": f"{cohen_kappa_score(truth, predicted):.3f}",
        "weighting": "unweighted",
        "rate": f"net{k}",
    }
    claims["kappa"].append(kappa)


def matrix_of_kappas(random):
    half = np.triu(random.uniform(0.05, 0.95, (4, 4)), 1)
    values = half + half.T + np.eye(4)
    return {
        "id": "matrix",
        "what": "kappas",
        "raters": ["P1", "P2", "A", "B"],
        "weighting": "linear",
        "values": [[f"{value:.3f}" for value in row] for row in values],
    }


def wrong_total(claims, random):
    claims["count"][0]["value"] += int(random.choice([-7, -1, 1, 30]))
    return "set"


def wrong_part(claims, random):
    claims["count"][0]["parts"][str(random.choice(PARTS))] += int(random.choice([-1, 1, 9]))
    return "set"


def lost_score(claims, random):
    del claims["count"][0]["parts"][str(random.choice(PARTS))]
    return "set"


def wrong_rate(claims, random):
    rate = claims["rate"][0]
    rate["value"] = f"{min(float(rate['value']) + random.choice([2, -2, 8.6, -12]), 100):.1f}"
    return "net0"


def wrong_right(claims, random):
    n = claims["count"][0]["value"]
    claims["rate"][0]["per_score"]["2+"][0] -= n // 20 + 5
    return "net0"


def wrong_support(claims, random):
    claims["rate"][0]["per_score"][str(random.choice(PARTS))][1] += 1
    return "net0"


def impossible_rate(claims, random):
    n = int(random.integers(15, 90))
    possible = np.unique([round(100 * k / n, 1) for k in range(n + 1)])
    rates = np.round(np.arange(30, 90, 0.1), 1)
    impossible = [rate for rate in rates if (np.abs(rate - possible) > 0.1).all()]
    claims["rate"].append(
        {"id": "grim", "what": "pilot", "n": n, "value": str(random.choice(impossible))}
    )
    return "grim"


def below_chance(claims, random):
    claims["rate"][2]["value"] = f"{random.uniform(2, 24.5):.1f}"
    return "val0"


def other_value(claims, random):
    value = float(claims["rate"][2]["value"]) - 1.5
    claims["rate"].append({"id": "again", "what": "validation 0", "value": f"{value:.1f}"})
    return "again"


def kappa_too_large(claims, random):
    claims["kappa"][0]["value"] = f"{1 + random.uniform(0.01, 0.5):.3f}"
    return "kappa0"


def kappa_unfit(claims, random):
    lowest = published.feasible_kappa(claims["rate"][0]["per_score"])[0]
    claims["kappa"][0]["value"] = f"{lowest - random.uniform(0.01, 0.3):.3f}"
    return "kappa0"


def crooked_matrix(claims, random):
    i, j = random.choice(4, 2, replace=False)
    values = claims["matrix"][0]["values"]
    values[i][j] = f"{float(values[i][j]) + 0.02:.3f}"
    return "matrix"


def not_one_with_oneself(claims, random):
    claims["matrix"][0]["values"][2][2] = "0.981"
    return "matrix"


PLANTED = (
    wrong_total,
    wrong_part,
    lost_score,
    wrong_rate,
    wrong_right,
    wrong_support,
    impossible_rate,
    below_chance,
    other_value,
    kappa_too_large,
    kappa_unfit,
    crooked_matrix,
    not_one_with_oneself,
)


def write_claims(claims, file):
    lines = []
    for kind, rows in claims.items():
        for row in rows:
            lines.append(f"[[{kind}]]")
            lines += [f"{key} = {toml(key, value)}" for key, value in row.items()]
            lines.append("")
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def toml(key, value):
    """str; numbers that are kept as text, to keep their digits, are written without quotes."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {json.dumps(v)}' for k, v in value.items()) + " }"
    text = json.dumps(value)
    if key in ("value", "values"):
        return text.replace('"', "")
    return text


def test_of_200_files_each_planted_error_is_found_and_no_clean_number_accused(tmp_path):
    for seed in range(200):
        random = np.random.default_rng(seed)
        claims = clean_claims(random)
        before = published.audit_file(write_claims(claims, tmp_path / "clean.toml"))
        assert exit_code(before) == 0, (seed, sentences(before))
        plant = PLANTED[seed % len(PLANTED)]
        planted = plant(claims, random)
        findings = published.audit_file(write_claims(claims, tmp_path / "planted.toml"))
        wrong = findings.id[findings.verdict == "contradiction"]
        accused = [set(ids.split(" / ")) for ids in wrong]
        assert accused, (seed, plant.__name__)
        assert all(planted in ids for ids in accused), (seed, plant.__name__, accused)
        assert exit_code(findings) == 1


def test_a_paper_of_three_scores_is_judged_over_three(tmp_path):
    counts = '{ "1+" = [3, 5], "2+" = [1, 3], "3+" = [2, 4] }'
    for scores, n_scores in (("3", 3), ('["1+", "2+", "3+"]', 3), ("4", 4)):
        file = tmp_path / "paper.toml"
        file.write_text(
            f'[[rate]]\nid = "a"\nwhat = "accuracy"\nvalue = 50.0\nscores = {scores}\n'
            f"per_score = {counts}\nn = 12\n"
            '[[kappa]]\nid = "k"\nwhat = "kappa"\nvalue = 0.9\nweighting = "unweighted"\n'
            'rate = "a"\n'
        )
        per_score = {"1+": [3, 5], "2+": [1, 3], "3+": [2, 4]}
        low, high = published.feasible_kappa(per_score, scores=n_scores)
        wrong = sentences(published.audit_file(file))
        assert f"an unweighted kappa lies in {low:.3f} to {high:.3f}, not at 0.9" in wrong
    truth = np.repeat([1, 2, 3], [5, 3, 4])
    wrong = [0, 1, 5, 6, 8, 9]
    kappas = []
    # each wrong answer is one of the two other scores
    for steps in itertools.product((1, 2), repeat=6):
        predicted = truth.copy()
        predicted[wrong] = (truth[wrong] - 1 + steps) % 3 + 1
        kappas.append(agreement.kappa(truth, predicted, weights="unweighted", scores=(1, 2, 3)))
    bounds = published.feasible_kappa(per_score, scores=3)
    assert bounds == pytest.approx((min(kappas), max(kappas)))
