"""The audit finds what was planted, accuses nothing that is right, and recomputes the report's own numbers."""

import html
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from her2lib import agreement, audit
from her2lib.intervals import Estimate

PUBLISHED = Path(__file__).parents[1] / "studies" / "published.toml"
PARTS = ["0", "1+", "2+", "3+"]


def spoken(findings, verdict="contradiction"):
    return " ".join(findings.sentence[findings.verdict == verdict])


def test_the_study_contradicts_itself_where_we_know_it_does():
    findings = audit.audit_file(PUBLISHED)
    said = spoken(findings)
    assert "141 of 281 patches are 50.2 %, not 58.7 %" in said  # 1
    assert "124 of 281 patches are 44.1 %, not 40.1 %" in said
    assert "score 1+: 134 (poster, methods) against 135" in said  # 2
    assert "sum to 282, not to n = 281" in said
    assert "19 % is below chance (25 %)" in said  # 3
    assert "63 (slides) against 91.0 (poster)" in said
    assert "4630 (slides, methods) against 3500 (slides, contents)" in said  # 4
    assert "4 scores named, 3 counted (0 missing)" in said  # 5
    cautions = spoken(findings, "caution")
    assert "Consensus contains P1, so their 0.816 is partly built in" in cautions  # 6
    assert "come from 19 patients" in cautions  # 7
    assert audit.exit_code(findings) == 1


def test_the_published_densenet_rate_is_no_whole_number_of_patches():
    assert not [k for k in range(282) if round(100 * k / 281, 1) == 40.1]
    assert "40.1 % is no whole number of 281 patches" in spoken(audit.audit_file(PUBLISHED))


def clean(random):
    """Claims of a study whose numbers all come from one confusion matrix per network."""
    n = random.integers(20, 200, 4)
    truth, claims = np.repeat(np.arange(4), n), {"count": [], "rate": [], "kappa": [], "matrix": []}
    claims["count"].append({"id": "set", "what": "patches", "value": int(n.sum()), "scores": PARTS,
                            "parts": dict(zip(PARTS, n.tolist(), strict=True)), "where": "methods"})
    claims["count"].append({"id": "abstract", "what": "patches", "value": int(n.sum()), "where": "abstract"})
    for k in range(random.integers(1, 4)):
        right = random.random(len(truth)) < random.uniform(0.4, 0.95)
        predicted = np.where(right, truth, random.integers(0, 4, len(truth)))
        table, digits = agreement.confusion(truth, predicted), int(random.integers(0, 3))
        per = {score: [int(table[i, i]), int(n[i])] for i, score in enumerate(PARTS)}
        value = np.trace(table) / n.sum() * 100
        claims["rate"].append({"id": f"net{k}", "what": f"accuracy {k}", "value": f"{value:.{digits}f}", "n": int(n.sum()),
                               "per_score": per, "of": "set", "scores": 4})
        claims["rate"].append({"id": f"text{k}", "what": f"accuracy {k}", "value": f"{value:.1f}", "n": int(n.sum())})
        claims["rate"].append({"id": f"val{k}", "what": f"validation {k}", "value": f"{random.uniform(30, 99):.1f}", "scores": 4})
        claims["kappa"].append({"id": f"kappa{k}", "what": f"kappa {k}", "value": f"{cohen_kappa_score(truth, predicted):.3f}",
                                "weighting": "unweighted", "rate": f"net{k}"})
    half = np.triu(random.uniform(0.05, 0.95, (4, 4)), 1)
    claims["matrix"].append({"id": "matrix", "what": "kappas", "raters": ["P1", "P2", "A", "B"], "weighting": "linear",
                             "values": [[f"{v:.3f}" for v in row] for row in half + half.T + np.eye(4)]})
    return claims


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
    rate, n = claims["rate"][0], claims["count"][0]["value"]
    rate["per_score"]["2+"][0] -= n // 20 + 5
    return "net0"


def wrong_support(claims, random):
    claims["rate"][0]["per_score"][str(random.choice(PARTS))][1] += 1
    return "net0"


def impossible_rate(claims, random):
    n = int(random.integers(15, 90))
    made = {round(100 * k / n, 1) for k in range(n + 1)}
    claims["rate"].append({"id": "grim", "what": "pilot", "n": n, "value": str(random.choice([
        v for v in np.round(np.arange(30, 90, 0.1), 1) if all(abs(v - m) > 0.1 for m in made)]))})
    return "grim"


def below_chance(claims, random):
    claims["rate"][2]["value"] = f"{random.uniform(2, 24.5):.1f}"
    return "val0"


def other_value(claims, random):
    claims["rate"].append({"id": "again", "what": "validation 0", "value": f"{float(claims['rate'][2]['value']) - 1.5:.1f}"})
    return "again"


def kappa_too_large(claims, random):
    claims["kappa"][0]["value"] = f"{1 + random.uniform(0.01, 0.5):.3f}"
    return "kappa0"


def kappa_unfit(claims, random):
    per = claims["rate"][0]["per_score"]
    claims["kappa"][0]["value"] = f"{audit.feasible_kappa(per)[0] - random.uniform(0.01, 0.3):.3f}"
    return "kappa0"


def crooked_matrix(claims, random):
    i, j = random.choice(4, 2, replace=False)
    claims["matrix"][0]["values"][i][j] = f"{float(claims['matrix'][0]['values'][i][j]) + 0.02:.3f}"
    return "matrix"


def not_one_with_oneself(claims, random):
    claims["matrix"][0]["values"][2][2] = "0.981"
    return "matrix"


PLANTED = (wrong_total, wrong_part, lost_score, wrong_rate, wrong_right, wrong_support, impossible_rate, below_chance,
           other_value, kappa_too_large, kappa_unfit, crooked_matrix, not_one_with_oneself)


def written(claims, file):
    bare = {"value", "values"}
    lines = []
    for kind, rows in claims.items():
        for row in rows:
            lines += [f"[[{kind}]]", *(f"{key} = {toml(value, key in bare)}" for key, value in row.items()), ""]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def toml(value, bare):
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {json.dumps(v)}' for k, v in value.items()) + " }"
    text = json.dumps(value)
    return text.replace('"', "") if bare else text


def test_of_200_files_each_planted_error_is_found_and_no_clean_number_accused(tmp_path):
    for seed in range(200):
        random = np.random.default_rng(seed)
        claims = clean(random)
        before = audit.audit_file(written(claims, tmp_path / "clean.toml"))
        assert audit.exit_code(before) == 0, (seed, spoken(before))
        plant = PLANTED[seed % len(PLANTED)]
        planted = plant(claims, random)
        findings = audit.audit_file(written(claims, tmp_path / "planted.toml"))
        accused = [set(ids.split(" / ")) for ids in findings.id[findings.verdict == "contradiction"]]
        assert accused, (seed, plant.__name__)
        assert all(planted in ids for ids in accused), (seed, plant.__name__, accused)
        assert audit.exit_code(findings) == 1


def test_a_file_that_cannot_be_read_is_answered_with_a_sentence(tmp_path):
    file = tmp_path / "f.toml"
    for text, sentence in (
        ("[[count", "is not TOML"),
        ("[[counts]]\nid='a'\nwhat='b'", "unknown table 'counts'. Did you mean 'count'"),
        ("[[count]]\nid='a'\nwhat='b'\nvalu=3", "unknown key 'valu' in a count. Did you mean 'value'"),
        ("[[count]]\nid='a'\nwhat='b'\n[[count]]\nid='a'\nwhat='b'", "'id' of its own"),
        ("[[count]]\nid='a'\nwhat='b'\nvalue='281'", "plain numbers"),
        ("[[rate]]\nid='a'\nwhat='b'", "its value"),
        ("[[rate]]\nid='a'\nwhat='b'\nvalue=3\nof='c'", "links to an id that is missing"),
        ("[[kappa]]\nid='a'\nwhat='b'\nvalue=0.3\nrate='c'", "links to an id that is missing")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"f\.toml") as raised:
            audit.audit_file(file)
        assert sentence in str(raised.value)


def test_feasible_kappa_holds_all_matrices_with_these_counts():
    low, high = audit.feasible_kappa({"1+": [3, 5], "2+": [1, 3], "3+": [2, 4]})
    truth, wrong, seen = np.repeat([1, 2, 3], [5, 3, 4]), [0, 1, 5, 6, 8, 9], []
    for steps in itertools.product((1, 2, 3), repeat=6):  # each wrong answer is one of the three other scores
        predicted = truth.copy()
        predicted[wrong] = (truth[wrong] + steps) % 4
        seen.append(agreement.kappa(truth, predicted, weights="unweighted"))
    assert low == pytest.approx(min(seen), abs=1e-9)
    assert high == pytest.approx(max(seen), abs=1e-9)


def shown(row, text=None):
    text = text or Estimate(**{key: row[key] for key in ("value", "low", "high", "n", "units", "note", "share")}).text()
    id_ = html.escape(row["id"], quote=True)
    return f'<p>It is <span class=number data-number="{id_}" title="a &gt; b">{html.escape(text)}</span>.</p>'


@pytest.fixture
def reported(tmp_path):
    """(folder, numbers) of a report whose numbers come from its own predictions and ratings."""
    random = np.random.default_rng(0)
    truth, rows, tables = random.integers(0, 4, 90), [], []
    for name, seeds in (("net", 2), ("rule", 1)):
        for seed in range(seeds):
            odds = random.dirichlet(np.ones(4), 90) + np.eye(4)[np.where(random.random(90) < 0.6, truth, 0)]
            odds /= odds.sum(1, keepdims=True)
            known = {"name": name, "run": f"{name}-{seed}", "set": "test", "patch": [f"p{i}" for i in range(90)], "truth": truth}
            tables.append(pd.DataFrame(known | {f"p{k}": odds[:, k] for k in range(4)}))
    everyone = pd.concat(tables)
    units = pd.Series([f"a{i % 9}" for i in range(90)], name="patient")
    odds, place = {}, {"set": "test", "source": "runs/06/all.csv"}
    for name, own in everyone.groupby("name"):
        odds[name] = [seed[["p0", "p1", "p2", "p3"]].to_numpy() for _, seed in own.groupby("run")]
        rows.append(agreement.metrics(truth, odds[name], units=units, resamples=60).assign(run=name, **place))
    gaps = agreement.compare(truth, [o.argmax(1) for o in odds["net"]], odds["rule"][0].argmax(1), units=units, resamples=60)
    rows.append(gaps.assign(run="net minus rule", **place))
    read = {"P1": truth, "P2": (truth + truth % 2) % 4}
    ratings = pd.DataFrame([(f"p{i}", rater, 1, score) for rater, scores in read.items() for i, score in enumerate(scores)],
                           columns=["patch", "rater", "reading", "score"])
    both = ratings.pivot(index="patch", columns="rater", values="score")
    kappas = agreement.kappa_table(both.to_numpy(), ["P1", "P2"], units=pd.Series(both.index, name="patch"), weights="linear")
    rows.append(kappas.assign(run="P1 ~ P2", set="external", source="ratings.csv"))
    numbers = pd.concat(rows, ignore_index=True)
    numbers["id"] = [f"06/{r.set}/{r.run}/{r.metric}" for r in numbers.itertuples()]
    (tmp_path / "runs" / "06").mkdir(parents=True)
    everyone.to_csv(tmp_path / "runs" / "06" / "all.csv", index=False)
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    numbers.to_csv(tmp_path / "numbers.csv", index=False)
    (tmp_path / "report.html").write_text("\n".join(shown(row) for row in numbers.to_dict("records")), encoding="utf-8")
    return tmp_path, numbers


def test_a_right_report_is_recomputed_whole(reported):
    folder, numbers = reported
    findings = audit.audit_report(folder)
    assert audit.exit_code(findings) == 0, spoken(findings)
    assert set(findings.id[findings.verdict == "consistent"]) == set(numbers.id)
    assert not (findings.verdict == "unchecked").any()


def test_each_wrong_number_of_a_report_is_named(reported):
    folder, numbers = reported
    page = (folder / "report.html").read_text(encoding="utf-8")
    row = numbers.loc[numbers.metric == "accuracy"].iloc[0]
    text = Estimate(row.value, row.low, row.high, row.n, row.units, "", True).text()
    high = f"{100 * row.high:.1f}"
    for printed in (text.replace(f"{100 * row.value:.1f}", "99.9"), text.replace(f"to {high}", "to 100.0"),
                    text.replace("n = 90", "n = 91"), "some", "not estimable: no"):
        assert printed != text
        (folder / "report.html").write_text(page + shown(row, printed), encoding="utf-8")
        assert row.id in set(audit.audit_report(folder).query("verdict == 'contradiction'").id), printed
    (folder / "report.html").write_text(page + shown({"id": "typed by hand"}, "12.0 %"), encoding="utf-8")
    assert "numbers.csv has no such row" in spoken(audit.audit_report(folder))
    (folder / "report.html").write_text(page, encoding="utf-8")
    for column, change in (("value", 0.002), ("n", 1)):
        numbers.assign(**{column: numbers[column] + change * (numbers.id == row.id)}).to_csv(folder / "numbers.csv", index=False)
        wrong = audit.audit_report(folder).query("verdict == 'contradiction'")
        assert set(wrong.id) == {row.id}
        assert "recomputed" in " ".join(wrong.sentence)
    moved = np.where(numbers.id == row.id, "../elsewhere.csv", numbers.source)
    numbers.assign(source=moved).to_csv(folder / "numbers.csv", index=False)
    findings = audit.audit_report(folder)
    assert "is no table in this report's folder" in spoken(findings, "unchecked")
    assert audit.exit_code(findings) == 0


class TestMoved:
    """Two numbers.csv side by side."""

    def table(self, **rows):
        names = {"id": list(rows), "question": "06", "set": "test", "run": list(rows), "metric": "accuracy"}
        return pd.DataFrame({**names, **dict(zip(("value", "low", "high"), zip(*rows.values(), strict=True), strict=True))})

    def verdicts(self, a, b, **options):
        return audit.moved(a, b, **options).set_index("id")["verdict"].to_dict()

    def test_a_number_moves_when_the_interval_of_its_difference_excludes_zero(self):
        before = self.table(far=(0.5, 0.4, 0.6), near=(0.5, 0.4, 0.6), equal=(0.5, 0.4, 0.6), gone=(0.5, 0.4, 0.6))
        after = self.table(far=(0.8, 0.7, 0.9), near=(0.6, 0.5, 0.7), equal=(0.5, 0.4, 0.6), new=(0.5, 0.4, 0.6))
        found = audit.moved(before, after).set_index("id")
        assert found["verdict"].to_dict() == {"far": "moved", "gone": "only in the first", "new": "only in the second", "near": "within", "equal": "unchanged"}
        low, high = found.loc["far", ["low", "high"]]
        assert (low, high) == pytest.approx((0.3 - 0.02**0.5, 0.3 + 0.02**0.5))  # by hand: 0.3 -+ sqrt(0.1^2 + 0.1^2)

    def test_intervals_that_overlap_may_still_have_moved(self):
        before, after = self.table(a=(0.5, 0.4, 0.6)), self.table(a=(0.65, 0.55, 0.75))
        assert self.verdicts(before, after) == {"a": "moved"}  # 0.15 > 0.1414

    def test_without_an_interval_nothing_is_said_to_move(self):
        nan = float("nan")
        assert self.verdicts(self.table(a=(0.5, nan, nan)), self.table(a=(0.9, nan, nan))) == {"a": "no interval"}
        assert self.verdicts(self.table(a=(nan, nan, nan)), self.table(a=(nan, nan, nan))) == {"a": "unchanged"}

    def test_names_are_matched_by_their_axes(self):
        before = self.table(ResNet18=(0.5, 0.4, 0.6)).assign(run="ResNet18 minus DAB rule")
        after = self.table(long=(0.9, 0.8, 1.0)).assign(run="ResNet18, as presented minus DAB rule")
        names = {"ResNet18": "network=resnet18"}, {"ResNet18, as presented": "network=resnet18"}
        assert self.verdicts(before, after, names=names) == {"long": "moved"}
        assert set(self.verdicts(before, after).values()) == set(audit.ONLY)
