"""The audit finds what was planted, accuses nothing that is right, and recomputes the report's own numbers."""

import html
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from her2lib.readers import sheets
from her2lib.report import findings as findings_
from her2lib.report import published, recount
from her2lib.stats import agreement, compare, intervals
from her2lib.stats.intervals import Estimate
from her2lib.study import fingerprints

PUBLISHED = Path(__file__).parents[2] / "studies" / "published.toml"
PARTS = ["0", "1+", "2+", "3+"]


def spoken(findings, verdict="contradiction"):
    return " ".join(findings.sentence[findings.verdict == verdict])


def test_the_study_contradicts_itself_where_we_know_it_does():
    findings = published.audit_file(PUBLISHED)
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
    assert findings_.exit_code(findings) == 1


def test_the_published_densenet_rate_is_no_whole_number_of_patches():
    assert not [k for k in range(282) if round(100 * k / 281, 1) == 40.1]
    assert "40.1 % is no whole number of 281 patches" in spoken(published.audit_file(PUBLISHED))


def clean(random):
    """Claims of a study whose numbers all come from one confusion matrix per network."""
    n = random.integers(20, 200, 4)
    truth, claims = np.repeat(np.arange(4), n), {"count": [], "rate": [], "kappa": [], "matrix": []}
    claims["count"].append(
        {
            "id": "set",
            "what": "patches",
            "value": int(n.sum()),
            "scores": PARTS,
            "parts": dict(zip(PARTS, n.tolist(), strict=True)),
            "where": "methods",
        }
    )
    claims["count"].append(
        {"id": "abstract", "what": "patches", "value": int(n.sum()), "where": "abstract"}
    )
    for k in range(random.integers(1, 4)):
        right = random.random(len(truth)) < random.uniform(0.4, 0.95)
        predicted = np.where(right, truth, random.integers(0, 4, len(truth)))
        table, digits = agreement.confusion_counts(truth, predicted), int(random.integers(0, 3))
        per = {score: [int(table[i, i]), int(n[i])] for i, score in enumerate(PARTS)}
        value = np.trace(table) / n.sum() * 100
        claims["rate"].append(
            {
                "id": f"net{k}",
                "what": f"accuracy {k}",
                "value": f"{value:.{digits}f}",
                "n": int(n.sum()),
                "per_score": per,
                "of": "set",
                "scores": 4,
            }
        )
        claims["rate"].append(
            {"id": f"text{k}", "what": f"accuracy {k}", "value": f"{value:.1f}", "n": int(n.sum())}
        )
        claims["rate"].append(
            {
                "id": f"val{k}",
                "what": f"validation {k}",
                "value": f"{random.uniform(30, 99):.1f}",
                "scores": 4,
            }
        )
        claims["kappa"].append(
            {
                "id": f"kappa{k}",
                "what": f"kappa {k}",
                "value": f"{cohen_kappa_score(truth, predicted):.3f}",
                "weighting": "unweighted",
                "rate": f"net{k}",
            }
        )
    half = np.triu(random.uniform(0.05, 0.95, (4, 4)), 1)
    claims["matrix"].append(
        {
            "id": "matrix",
            "what": "kappas",
            "raters": ["P1", "P2", "A", "B"],
            "weighting": "linear",
            "values": [[f"{v:.3f}" for v in row] for row in half + half.T + np.eye(4)],
        }
    )
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
    claims["rate"].append(
        {
            "id": "grim",
            "what": "pilot",
            "n": n,
            "value": str(
                random.choice(
                    [
                        v
                        for v in np.round(np.arange(30, 90, 0.1), 1)
                        if all(abs(v - m) > 0.1 for m in made)
                    ]
                )
            ),
        }
    )
    return "grim"


def below_chance(claims, random):
    claims["rate"][2]["value"] = f"{random.uniform(2, 24.5):.1f}"
    return "val0"


def other_value(claims, random):
    claims["rate"].append(
        {
            "id": "again",
            "what": "validation 0",
            "value": f"{float(claims['rate'][2]['value']) - 1.5:.1f}",
        }
    )
    return "again"


def kappa_too_large(claims, random):
    claims["kappa"][0]["value"] = f"{1 + random.uniform(0.01, 0.5):.3f}"
    return "kappa0"


def kappa_unfit(claims, random):
    per = claims["rate"][0]["per_score"]
    claims["kappa"][0]["value"] = (
        f"{published.feasible_kappa(per)[0] - random.uniform(0.01, 0.3):.3f}"
    )
    return "kappa0"


def crooked_matrix(claims, random):
    i, j = random.choice(4, 2, replace=False)
    claims["matrix"][0]["values"][i][j] = f"{float(claims['matrix'][0]['values'][i][j]) + 0.02:.3f}"
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


def written(claims, file):
    bare = {"value", "values"}
    lines = []
    for kind, rows in claims.items():
        for row in rows:
            lines += [
                f"[[{kind}]]",
                *(f"{key} = {toml(value, key in bare)}" for key, value in row.items()),
                "",
            ]
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
        before = published.audit_file(written(claims, tmp_path / "clean.toml"))
        assert findings_.exit_code(before) == 0, (seed, spoken(before))
        plant = PLANTED[seed % len(PLANTED)]
        planted = plant(claims, random)
        findings = published.audit_file(written(claims, tmp_path / "planted.toml"))
        accused = [
            set(ids.split(" / ")) for ids in findings.id[findings.verdict == "contradiction"]
        ]
        assert accused, (seed, plant.__name__)
        assert all(planted in ids for ids in accused), (seed, plant.__name__, accused)
        assert findings_.exit_code(findings) == 1


def test_a_file_that_cannot_be_read_is_answered_with_a_sentence(tmp_path):
    file = tmp_path / "f.toml"
    for text, sentence in (
        ("[[count", "is not TOML"),
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
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"f\.toml") as raised:
            published.audit_file(file)
        assert sentence in str(raised.value)


def test_feasible_kappa_holds_all_matrices_with_these_counts():
    low, high = published.feasible_kappa({"1+": [3, 5], "2+": [1, 3], "3+": [2, 4]})
    truth, wrong, seen = np.repeat([1, 2, 3], [5, 3, 4]), [0, 1, 5, 6, 8, 9], []
    for steps in itertools.product(
        (1, 2, 3), repeat=6
    ):  # each wrong answer is one of the three other scores
        predicted = truth.copy()
        predicted[wrong] = (truth[wrong] + steps) % 4
        seen.append(agreement.kappa(truth, predicted, weights="unweighted"))
    assert low == pytest.approx(min(seen), abs=1e-9)
    assert high == pytest.approx(max(seen), abs=1e-9)


def shown(row, text=None):
    text = (
        text
        or Estimate(
            **{
                key: row[key]
                for key in ("value", "low", "high", "n", "sample", "note", "as_percent")
            }
        ).text()
    )
    id_ = html.escape(row["id"], quote=True)
    return f'<p>It is <span class=number data-number="{id_}" title="a &gt; b">{html.escape(text)}</span>.</p>'


def answered(random, truth, name, run, **more):
    odds = (
        random.dirichlet(np.ones(4), len(truth))
        + np.eye(4)[np.where(random.random(len(truth)) < 0.6, truth, 0)]
    )
    odds /= odds.sum(1, keepdims=True)
    known = {
        "name": name,
        "run": run,
        "set": "test",
        "patch": [f"p{i}" for i in range(len(truth))],
        "truth": truth,
    }
    return pd.DataFrame(known | {f"p{k}": odds[:, k] for k in range(4)} | more)


def odds_of(table, name):
    return [
        own[["p0", "p1", "p2", "p3"]].to_numpy()
        for _, own in table[table.name == name].groupby("run", sort=False)
    ]


def rows_of(found, **place):
    """Rows of numbers.csv from {metric: Estimate} or a table."""
    table = (
        found
        if isinstance(found, pd.DataFrame)
        else pd.DataFrame([{"metric": name, **vars(one)} for name, one in found.items()])
    )
    return table.assign(**place)


def of_networks(tables, rows, random, truth, groups, draws):
    """None; networks and nulls, two seeds of one; their difference: their tables and the rows made from them."""
    everyone = pd.concat(
        [
            answered(random, truth, name, f"{name}-{seed}")
            for name, seeds in (("net", 2), ("rule", 1))
            for seed in range(seeds)
        ]
    )
    tables["06/contestants"], place = everyone, {"set": "test", "source": "runs/06/contestants.csv"}
    for name in ("net", "rule"):
        rows.append(
            rows_of(
                agreement.metrics(truth, odds_of(everyone, name), groups=groups, **draws),
                run=name,
                **place,
            )
        )
    gap = compare.compare(
        truth,
        [o.argmax(1) for o in odds_of(everyone, "net")],
        odds_of(everyone, "rule")[0].argmax(1),
        groups=groups,
        **draws,
    )
    rows.append(rows_of(gap, run="net minus rule", **place))


def of_splits(tables, rows, random, truth, groups, draws):
    """None; two splits: each its own test patches, some shared; three seeds against two; and before and after reading again: their tables and the rows made from them."""
    part, tests = {"random": range(50), "grouped": range(30, 90)}, []
    for name, own in part.items():
        for seed in range({"random": 3, "grouped": 2}[name]):
            one = answered(random, truth, name, f"{name}-s{seed}", set="own test").iloc[list(own)]
            tests.append(one)
    tables["09/by_split"], place = (
        pd.concat(tests),
        {"set": "own test", "source": "runs/09/by_split.csv"},
    )
    whole = {name: [np.full(90, -1) for _ in odds_of(tables["09/by_split"], name)] for name in part}
    for name, own in part.items():
        for answer, odds in zip(whole[name], odds_of(tables["09/by_split"], name), strict=True):
            answer[list(own)] = odds.argmax(1)
    gap = compare.compare(truth, whole["random"][:2], whole["grouped"], groups=groups, **draws)
    rows.append(
        rows_of(
            gap.assign(metric=gap.metric.str.replace("difference", "gap")),
            run="random minus grouped",
            **place,
        )
    )
    anew = np.where(np.arange(90) % 7 == 0, (truth + 1) % 4, truth)
    tables["09/reread"] = pd.DataFrame({"patch": [f"p{i}" for i in range(90)], "reread": anew})[
        anew != truth
    ]
    for name, own in part.items():
        chosen = list(own)
        found = {
            f"kappa quadratic {what} re-reading": intervals.bootstrap(
                agreement.SCORED["kappa quadratic"],
                score[chosen],
                [one[chosen] for one in whole[name]],
                groups=groups[chosen],
                **draws,
            )
            for what, score in (("before", truth), ("after", anew))
        }
        rows.append(
            rows_of(
                found, run=name, set="own test", source="runs/09/by_split.csv, runs/09/reread.csv"
            )
        )


def of_people(tables, rows, random, truth, groups, draws):
    """None; people, some of whom did not read all; a network among the raters: their tables and the rows made from them."""
    read = np.stack(
        [
            truth,
            (truth + truth % 2) % 4,
            np.where(np.arange(90) % 5, random.integers(0, 4, 90), -1),
            random.integers(0, 4, 90),
        ],
        axis=1,
    )
    raters, place = ["P1", "P2", "P3", "net"], {"set": "rated", "source": "runs/07/ratings.csv"}
    tables["07/ratings"] = pd.DataFrame(
        [
            (f"p{i}", rater, 1, read[i, k], rater != "net")
            for k, rater in enumerate(raters)
            for i in range(90)
            if read[i, k] >= 0
        ],
        columns=["patch", "rater", "reading", "score", "person"],
    )
    kappas = agreement.kappa_table(read, raters, groups=groups, weights="linear", **draws)
    rows.append(kappas.assign(run=kappas.a + " ~ " + kappas.b, **place))
    others = np.column_stack([sheets.leave_one_out(read[:, :3]), sheets.consensus(read[:, :3])[0]])
    for k, rater in enumerate(raters):
        known = (others[:, k] >= 0) & (read[:, k] >= 0)
        found = {
            name: intervals.bootstrap(
                agreement.SCORED[name],
                others[known, k],
                read[known, k],
                groups=groups[known],
                **draws,
            )
            for name in ("accuracy", "kappa unweighted", "kappa quadratic")
        }
        rows.append(rows_of(found, run=f"{rater} against the other raters", **place))
    together = {
        "Fleiss kappa": agreement.fleiss,
        "Gwet AC1": agreement.gwet_ac1,
        "Gwet AC2 (quadratic)": agreement.gwet_ac2,
        "Krippendorff alpha (ordinal)": agreement.krippendorff,
    }
    rows.append(
        rows_of(
            {
                name: intervals.bootstrap(metric, read[:, :3], groups=groups, **draws)
                for name, metric in together.items()
            },
            run="all raters",
            **place,
        )
    )


def of_values(tables, rows, random, truth, groups, draws):
    """None; values kept for each patch, some of them unknown: their tables and the rows made from them."""
    values = np.where(random.random((90, 3)) < 0.1, np.nan, random.random((90, 3)))
    mean = {
        name: intervals.bootstrap(intervals.mean, values[:, k], groups=groups, **draws)
        for k, name in enumerate(("share", "shift", "claimed"))
    }
    tables["08/focus"] = pd.DataFrame(
        {"share": values[:, 0], "label": "net, grad-cam", "kind": "net", "patch": range(90)}
    )
    tables["08/likeness"] = pd.DataFrame(
        {"spearman": values[:, 1], "change": "shift", "label": "net, grad-cam"}
    )
    tables["08/claims"] = pd.DataFrame({"value": values[:, 2], "number": "06/test/net/claimed"})
    for name, metric, run in (
        ("share", "focus", "net, grad-cam"),
        ("shift", "likeness", "net, grad-cam"),
        ("claimed", "claims", "net"),
    ):
        told = {("likeness, shift" if name == "shift" else name): mean[name]}
        rows.append(rows_of(told, run=run, set="test", source=f"runs/08/{metric}.csv"))
    changed = np.where(random.random(90) < 0.5, truth, random.integers(0, 4, 90))
    tables["08/ablations"] = pd.DataFrame(
        {"net, tuned": changed, "kind": "tiles_shuffled", "truth": truth}
    )
    found = {
        "accuracy, net, tuned": intervals.bootstrap(
            agreement.accuracy, truth, changed, groups=groups, **draws
        ),
        "kappa, net, tuned": intervals.bootstrap(
            agreement.kappa, truth, changed, groups=groups, weights="quadratic", **draws
        ),
    }
    rows.append(rows_of(found, run="tiles_shuffled", set="test", source="runs/08/ablations.csv"))
    tables["01/rule"] = pd.DataFrame(
        {"score": truth, "value": values[:, 0].round(1) + truth, "predicted": truth}
    ).fillna(0)
    found = {
        "spearman": intervals.bootstrap(
            agreement.spearman, tables["01/rule"].value.to_numpy(), truth, groups=groups, **draws
        )
    }
    rows.append(rows_of(found, run="DAB rule", set="all", source="runs/01/rule.csv"))


def of_answers(tables, rows, random, truth, groups, draws):
    """None; two probabilities for each patch, and answers that come with a rank: their tables and the rows made from them."""
    everyone = tables["06/contestants"]
    tables["07/corrected"] = pd.concat(
        [
            answered(random, truth, "net", "net-0", metric=f"accuracy {word}")
            for word in ("as answered", "corrected")
        ]
    )
    found = {
        metric: intervals.bootstrap(
            agreement.accuracy,
            truth,
            own[["p0", "p1", "p2", "p3"]].to_numpy().argmax(1),
            groups=groups,
            **draws,
        )
        for metric, own in tables["07/corrected"].groupby("metric")
    }
    rows.append(rows_of(found, run="net", set="test", source="runs/07/corrected.csv"))
    tables["93/answers"] = everyone.assign(
        answer=everyone[["p0", "p1", "p2", "p3"]].to_numpy().argmax(1),
        rank=everyone["p2"] + 2 * everyone["p3"],
    ).drop(columns=["p0", "p1", "p2", "p3"])
    ranks = {
        name: [own["rank"].to_numpy() for _, own in part.groupby("run")]
        for name, part in tables["93/answers"].groupby("name")
    }
    less = {
        "spearman": intervals.bootstrap(
            lambda t, a, b: agreement.spearman(a, t) - agreement.spearman(b, t),
            truth,
            ranks["net"],
            ranks["rule"][0],
            groups=groups,
            **draws,
        )
    }
    rows.append(rows_of(less, run="net less rule", set="test", source="runs/93/answers.csv"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, numbers) of a report with every kind of number that the audit knows, each made by the library from its table."""
    folder, tables, rows, random = tmp_path_factory.mktemp("made"), {}, [], np.random.default_rng(0)
    known = {
        "truth": random.integers(0, 4, 90),
        "groups": pd.Series([f"a{i % 12}" for i in range(90)], name="patient"),
        "draws": {"resamples": 60},
    }
    for part in (of_networks, of_splits, of_people, of_values, of_answers):
        part(tables, rows, random, **known)
    numbers = pd.concat(rows, ignore_index=True)
    numbers["id"] = [
        f"06/{r.set}/{r.run}/{r.metric}"
        + f"/{r.source}" * (r.metric in ("accuracy as answered", "spearman"))
        for r in numbers.itertuples()
    ]
    numbers["question"] = "06_compare"
    for name, table in tables.items():
        (folder / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / "runs" / f"{name}.csv", index=False)
    numbers.to_csv(folder / "numbers.csv", index=False)
    (folder / "report.html").write_text(
        "\n".join(shown(row) for row in numbers.to_dict("records")), encoding="utf-8"
    )
    return folder, numbers


@pytest.fixture
def reported(made, tmp_path):
    """(folder, numbers) of a copy that a test may spoil."""
    return Path(shutil.copytree(made[0], tmp_path / "report")), made[1]


def test_a_right_report_is_recomputed_whole(reported):
    folder, numbers = reported
    again = recount.recount(numbers, folder)
    assert (again.verdict == "consistent").all(), again[
        again.verdict != "consistent"
    ].sentence.to_list()
    assert again.id.is_unique
    assert len(set(numbers.source)) == 11
    assert recount.count_by_kind(again).numbers.sum() == len(numbers)
    findings = recount.audit_report(folder)
    assert findings_.exit_code(findings) == 0
    assert (
        len(findings) == len(recount.count_by_kind(again)) + 2
    )  # what is printed, and what nobody repeats
    assert f"{len(numbers):6,} of report.html: printed as they stand" in spoken(
        findings, "consistent"
    )
    assert "Not repeated: the resampling behind the intervals" in spoken(findings, "caution")


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("value", 0.002), ("value", -0.002), ("value", np.nan), ("n", 1), ("n", -1)],
)
def test_every_kind_of_number_is_contradicted_when_it_is_wrong(reported, column, wrong):
    folder, numbers = reported
    again = recount.recount(numbers.assign(**{column: numbers[column] + wrong}), folder)
    assert (again.verdict == "contradiction").all(), again[
        again.verdict != "contradiction"
    ].id.to_list()


def test_a_changed_table_is_seen_in_the_numbers_that_rest_on_it(reported):
    folder, numbers = reported
    kinds = (
        ("08/focus", "share"),
        ("08/likeness", "spearman"),
        ("08/claims", "value"),
        ("93/answers", "rank"),
        ("01/rule", "value"),
    )
    numbers = numbers[numbers.source.isin([f"runs/{source}.csv" for source, _ in kinds])]
    for source, column in kinds:
        file = folder / "runs" / f"{source}.csv"
        table = pd.read_csv(file)
        table.assign(
            **{
                column: table[column].sample(frac=1, random_state=0).to_numpy()
                + 0.01 * np.arange(len(table))
            }
        ).to_csv(file, index=False)
        again = recount.recount(numbers, folder)
        assert set(again.source[again.verdict == "contradiction"]) == {f"runs/{source}.csv"}
        table.to_csv(file, index=False)


def test_a_value_outside_its_own_interval_is_a_contradiction(reported):
    folder, numbers = reported
    row = numbers.index[numbers.metric == "kappa linear"][0]
    again = recount.recount(
        numbers.assign(low=np.where(numbers.index == row, numbers.value + 0.01, numbers.low)),
        folder,
    )
    assert list(again.index[again.verdict == "contradiction"]) == [row]
    assert "outside its own interval" in again.sentence[row]


def test_what_cannot_be_recomputed_says_why(reported):
    folder, numbers = reported
    row = numbers[numbers.metric == "accuracy"].iloc[[0]]
    told = {
        "no table in this report's folder": row.assign(source="../elsewhere.csv"),
        "times, measured once on one machine": row.assign(source="", id="91/a"),
        "made from weights and pixels, and no table keeps its parts": row.assign(
            source="", id="08/a"
        ),
        "rests on no table": row.assign(source=""),
        "no rule, row or column for nonsense": row.assign(metric="nonsense"),
        "no rule, row or column for nobody": row.assign(run="nobody"),
    }
    for why, changed in told.items():
        again = recount.recount(changed, folder)
        assert again[["verdict", "how"]].to_numpy().tolist() == [["unchecked", why]]
    pd.read_csv(folder / "runs/07/ratings.csv").drop(columns="person").to_csv(
        folder / "runs/07/ratings.csv", index=False
    )
    again = recount.recount(numbers[numbers.run == "all raters"], folder)
    assert set(again.how) == {"no rule, row or column for person"}
    pd.concat([row.assign(source="", id="91/a"), numbers[numbers.run == "net"]]).to_csv(
        folder / "numbers.csv", index=False
    )
    (folder / "report.html").write_text("", encoding="utf-8")
    assert "     1 of 06_compare, no table: times, measured once on one machine." in spoken(
        recount.audit_report(folder), "unchecked"
    )


def test_runs_of_one_kind_share_a_line(tmp_path):
    rows = []
    for run in ("a-s0", "a-s1", "b-s0"):
        table = answered(np.random.default_rng(1), np.arange(40) % 4, "", run).drop(columns="name")
        (tmp_path / "runs" / run).mkdir(parents=True)
        table.to_csv(tmp_path / "runs" / run / "predictions.csv", index=False)
        found = agreement.metrics(
            table.truth.to_numpy(),
            odds_of(table.assign(name="a"), "a")[0],
            groups=pd.Series(table.patch, name="patch"),
            resamples=20,
        )
        rows.append(
            found.assign(
                id=run + "/" + found.metric,
                question="92",
                set="test",
                run=run,
                source=f"runs/{run}/predictions.csv",
            )
        )
    kinds = recount.count_by_kind(recount.recount(pd.concat(rows), tmp_path))
    assert kinds[["verdict", "source", "numbers"]].to_numpy().tolist() == [
        ["consistent", "runs/*/predictions.csv", 3 * len(found)]
    ]


class TestTheSecondTime:
    """Every metric by other code agrees with the first, also where it is not defined."""

    def test_every_metric_agrees(self):
        for seed in range(40):
            random = np.random.default_rng(seed)
            kept = random.choice(
                4, random.integers(1, 5), replace=False
            )  # often a score is missing
            truth, odds = (
                random.choice(kept, 30),
                random.dirichlet(np.ones(4) * random.choice([0.05, 1, 5]), 30)
                .astype(np.float32)
                .astype(float),
            )
            odds = [odds, np.eye(4)[odds.argmax(1)], np.eye(4)[np.full(30, kept[0])]][
                seed % 3
            ]  # probabilities, a rule, one answer
            for name, metric in {**agreement.SCORED, **agreement.GRADED}.items():
                columns = truth, odds if name in agreement.GRADED else odds.argmax(1)
                value, n = recount.recount_metric(name, truth, odds.argmax(1), odds)
                assert value == pytest.approx(metric(*columns), abs=1e-9, nan_ok=True), (seed, name)
                assert (
                    n
                    == intervals.bootstrap(
                        metric, *columns, groups=pd.Series(range(30), name="patch"), resamples=2
                    ).n
                ), (seed, name)

    def test_none_of_it_is_the_code_that_made_the_number(self):
        assert not {"agreement", "calibration", "intervals", "readers"} & set(
            fingerprints.imported_modules(Path(recount.__file__).read_text(encoding="utf-8"))
        )

    def test_all_raters_together_with_ratings_missing(self):
        for seed in range(20):
            random = np.random.default_rng(seed)
            read = np.where(random.random((40, 4)) < 0.3, -1, random.integers(0, 4, (40, 4)))
            for name, metric in (
                ("Fleiss kappa", agreement.fleiss),
                ("Gwet AC1", agreement.gwet_ac1),
                ("Gwet AC2 (quadratic)", agreement.gwet_ac2),
                ("Krippendorff alpha (ordinal)", agreement.krippendorff),
            ):
                assert recount.recount_agreement(name, read) == pytest.approx(
                    (metric(read), ((read >= 0).sum(1) > 1).sum())
                ), name

    def test_all_raters_together_by_hand(self):
        read = np.array([[0, 0], [1, 1], [0, 1]])  # agree in 2 of 3; half of the ratings are 0
        assert recount.recount_agreement("Fleiss kappa", read)[0] == pytest.approx(
            (2 / 3 - 1 / 2) / (1 - 1 / 2)
        )
        assert recount.recount_agreement("Gwet AC1", read)[0] == pytest.approx(
            (2 / 3 - 1 / 6) / (1 - 1 / 6)
        )  # chance: 2 x 0.25 / 3
        assert recount.recount_agreement("Krippendorff alpha (ordinal)", read)[0] == pytest.approx(
            1 - (2 / 6) / (2 * 9 / 30)
        )
        assert np.isnan(recount.recount_agreement("Fleiss kappa", np.array([[0, -1]]))[0])


def test_each_wrong_number_of_a_report_is_named(reported):
    folder, numbers = reported
    page = (folder / "report.html").read_text(encoding="utf-8")
    row = numbers.loc[numbers.metric == "accuracy"].iloc[0]
    text = Estimate(row.value, row.low, row.high, row.n, row.groups, "", True).text()
    high = f"{100 * row.high:.1f}"
    wrong = (
        text.replace(f"{100 * row.value:.1f}", "99.9"),
        text.replace(f"to {high}", "to 100.0"),
        text.replace("n = 90", "n = 91"),
        "some",
        "not estimable: no",
    )
    planted = "".join(shown(row, printed) for printed in wrong) + shown(
        {"id": "typed by hand"}, "12.0 %"
    )
    (folder / "report.html").write_text(page + planted, encoding="utf-8")
    findings = recount.audit_report(folder)
    assert all(
        f"The report prints {printed!r} for {row.id}" in spoken(findings)
        for printed in wrong
        if printed != text
    )
    assert text not in wrong
    assert "numbers.csv has no such row" in spoken(findings)
    assert (findings.verdict == "contradiction").sum() == len(wrong) + 1
    (folder / "report.html").write_text(page, encoding="utf-8")
    numbers.assign(n=numbers.n + (numbers.id == row.id)).to_csv(folder / "numbers.csv", index=False)
    wrong = recount.audit_report(folder).query("verdict == 'contradiction'")
    assert set(wrong.id) == {row.id}
    assert "recomputed" in " ".join(wrong.sentence)
    pd.concat([numbers, numbers.iloc[[0]]]).to_csv(folder / "numbers.csv", index=False)
    assert "stands twice" in spoken(recount.audit_report(folder))


class TestMoved:
    """Two numbers.csv side by side."""

    def table(self, **rows):
        names = {
            "id": list(rows),
            "question": "06",
            "set": "test",
            "run": list(rows),
            "metric": "accuracy",
        }
        return pd.DataFrame(
            {
                **names,
                **dict(
                    zip(("value", "low", "high"), zip(*rows.values(), strict=True), strict=True)
                ),
            }
        )

    def verdicts(self, a, b, **options):
        return findings_.moved_numbers(a, b, **options).set_index("id")["verdict"].to_dict()

    def test_a_number_moves_when_the_interval_of_its_difference_excludes_zero(self):
        before = self.table(
            far=(0.5, 0.4, 0.6), near=(0.5, 0.4, 0.6), equal=(0.5, 0.4, 0.6), gone=(0.5, 0.4, 0.6)
        )
        after = self.table(
            far=(0.8, 0.7, 0.9), near=(0.6, 0.5, 0.7), equal=(0.5, 0.4, 0.6), new=(0.5, 0.4, 0.6)
        )
        found = findings_.moved_numbers(before, after).set_index("id")
        assert found["verdict"].to_dict() == {
            "far": "moved",
            "gone": "only in the first",
            "new": "only in the second",
            "near": "within",
            "equal": "unchanged",
        }
        low, high = found.loc["far", ["low", "high"]]
        assert (low, high) == pytest.approx(
            (0.3 - 0.02**0.5, 0.3 + 0.02**0.5)
        )  # by hand: 0.3 -+ sqrt(0.1^2 + 0.1^2)

    def test_intervals_that_overlap_may_still_have_moved(self):
        before, after = self.table(a=(0.5, 0.4, 0.6)), self.table(a=(0.65, 0.55, 0.75))
        assert self.verdicts(before, after) == {"a": "moved"}  # 0.15 > 0.1414

    def test_without_an_interval_nothing_is_said_to_move(self):
        nan = float("nan")
        assert self.verdicts(self.table(a=(0.5, nan, nan)), self.table(a=(0.9, nan, nan))) == {
            "a": "no interval"
        }
        assert self.verdicts(self.table(a=(nan, nan, nan)), self.table(a=(nan, nan, nan))) == {
            "a": "unchanged"
        }

    def test_names_are_matched_by_their_axes(self):
        before = self.table(ResNet18=(0.5, 0.4, 0.6)).assign(run="ResNet18 minus DAB rule")
        after = self.table(long=(0.9, 0.8, 1.0)).assign(run="ResNet18, as presented minus DAB rule")
        names = {"ResNet18": "network=resnet18"}, {"ResNet18, as presented": "network=resnet18"}
        assert self.verdicts(before, after, names=names) == {"long": "moved"}
        assert set(self.verdicts(before, after).values()) == set(findings_.ONLY)


def test_one_rater_alone_has_no_others_to_agree_with():
    table = pd.DataFrame(
        {"patch": ["a", "b"], "rater": "P", "reading": 1, "score": [0, 1], "person": True}
    )
    value, n = recount._ratings(
        {"run": "P against the other raters", "metric": "kappa quadratic"}, table
    )
    assert np.isnan(value)
    assert n == 0
