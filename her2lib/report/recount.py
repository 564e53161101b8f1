"""A study's own report computed a second time, by other code than made its numbers."""

import html
import re
import warnings
from decimal import Decimal
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, recall_score, roc_auc_score

from her2lib.report import findings as findings_
from her2lib.scores import CUTS, SCORES

TRUST = {
    "91": "times, measured once on one machine",
    "08": "made from weights and pixels, and no table keeps its parts",
}
LEFT = (
    "Not repeated: the resampling behind the intervals (each must only hold its value), p-values, verdicts, figures, and what stands "
    "before the tables: the networks' answers, people's readings, what was measured on each patch."
)
_ODDS = [f"p{k}" for k in range(len(SCORES))]
_ENDING = re.compile(" (difference|gap|as answered|corrected|(before|after) re-reading)$")
_SPAN = re.compile(r'data-number="([^"]*)"[^>]*>([^<]*)<')
_FIGURE = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?")


def audit_report(folder):
    """DataFrame as of audit_file: each contradiction of report.html, numbers.csv and its tables, then a row per kind of number."""
    empty = {key: [""] for key in ("value", "low", "high")}
    numbers = pd.read_csv(Path(folder) / "numbers.csv", keep_default_na=False, na_values=empty)
    rows, again = {row["id"]: row for row in numbers.to_dict("records")}, recount(numbers, folder)
    found = [
        ({"id": i}, "", False, f"{i} stands twice in numbers.csv.")
        for i in set(numbers.id[numbers.id.duplicated()])
    ]
    printed = _SPAN.findall((Path(folder) / "report.html").read_text(encoding="utf-8"))
    for id_, text in (map(html.unescape, pair) for pair in printed):
        if wrong := _misprinted(text, rows[id_]) if id_ in rows else "numbers.csv has no such row":
            found.append(
                (
                    {"id": id_, "value": text},
                    "",
                    False,
                    f"The report prints {text!r} for {id_}, but {wrong}.",
                )
            )
    kinds = [
        *count_by_kind(again[again.verdict != "contradiction"]).itertuples(index=False, name=None),
        (
            "consistent",
            "report.html",
            "printed as they stand in numbers.csv",
            len(printed) - len(found),
        ),
    ]
    told = [
        (source, n, "", verdict, f"{n:6,} of {source}: {how}.") for verdict, source, how, n in kinds
    ]
    whole = f"{again.verdict.ne('unchecked').sum():,} of {len(again):,} numbers were computed a second time, by other code than made them."
    told = pd.DataFrame(
        [*told, ("", "", "", "caution", f"{whole} {LEFT}")], columns=findings_.COLUMNS
    )
    return pd.concat(
        [
            findings_._sorted(found),
            again.loc[again.verdict == "contradiction", findings_.COLUMNS],
            told,
        ],
        ignore_index=True,
    )


def recount(numbers, folder):
    """DataFrame, a row per row of numbers.csv: id, claim, recomputed, verdict, sentence, source, how (or why not)."""
    folder, tables = Path(folder).resolve(), {}
    return pd.DataFrame(
        [_again(row, folder, tables) for row in numbers.to_dict("records")],
        columns=[*findings_.COLUMNS, "source", "how"],
    )


def count_by_kind(again):
    """DataFrame (verdict, source, how, numbers) of a recount(): what was recomputed from which table, and what rests on trust."""
    source = again["source"].str.replace(
        r"runs/[^/]+/predictions", "runs/*/predictions", regex=True
    )
    kinds = (
        again.assign(source=source)
        .value_counts(["verdict", "source", "how"])
        .reset_index(name="numbers")
    )
    return kinds.sort_values(
        "verdict", key=lambda v: v.map(findings_.VERDICTS.index), kind="stable", ignore_index=True
    )


def recount_metric(metric, truth, answer=None, graded=None):
    """(value, n) of a metric of scores (N,) once more, by scikit-learn or counting; graded: (N,4) probabilities, of spearman (N,)."""
    word, _, where = metric.partition(" ")
    above = (
        np.cumsum(graded[:, :0:-1], axis=1)[:, ::-1].clip(0, 1) if np.ndim(graded) == 2 else None
    )  # (N,3) beyond each cut
    with (
        warnings.catch_warnings(action="ignore"),
        np.errstate(all="ignore"),
    ):  # what is not defined is NaN, here as there
        if word in SIDES:
            k, among = (CUTS if where in CUTS else SCORES).index(where), SIDES[word]
            return np.mean(among(answer, k)[among(truth, k)]), int(among(truth, k).sum())
        return float(AGAIN[metric](truth, answer, graded, above)) if len(truth) else np.nan, len(
            truth
        )


def recount_agreement(metric, ratings):
    """(value, n) of Fleiss' kappa, Gwet's AC1 or AC2, or ordinal alpha of ratings (N,R; -1 missing), pair of ratings by pair."""
    given, q = [row[row >= 0] for row in ratings if (row >= 0).any()], range(len(SCORES))
    several, alpha = [row for row in given if len(row) > 1], metric.startswith("Krippendorff")
    n = np.bincount(np.concatenate(several), minlength=len(q)) if several else np.zeros(len(q))
    rank = np.array(
        [[n[min(i, j) : max(i, j) + 1].sum() - (n[i] + n[j]) / 2 for j in q] for i in q]
    )  # scores passed from i to j
    apart = (
        rank**2
        if alpha
        else np.array(
            [[(i - j) ** 2 / 9 if "AC2" in metric else i != j for j in q] for i in q], float
        )
    )
    share = sum(np.bincount(row, minlength=len(q)) / len(row) for row in given) / max(len(given), 1)
    seen = [np.mean([apart[pair] for pair in permutations(row, 2)]) for row in several]
    weight = [
        len(row) if alpha else 1 for row in several
    ]  # alpha counts readings, the others patches
    with np.errstate(all="ignore"):
        even = n @ apart @ n / (n.sum() * (n.sum() - 1)) if alpha else share @ apart @ share
        chance = (
            1 - (1 - apart).sum() * (share * (1 - share)).sum() / 12
            if metric.startswith("Gwet")
            else even
        )
        return 1 - np.dot(seen, weight) / np.sum(weight) / chance, len(several)


def _again(row, folder, tables):
    said, files = f"{row['metric']} of {row['run']}", row["source"].split(", ")
    left = [
        row["id"],
        row["value"],
        "",
        "unchecked",
        f"{said} was not recomputed.",
        row["source"] or f"{row['question']}, no table",
    ]
    if not all(
        folder in (folder / file).resolve().parents and (folder / file).is_file() for file in files
    ):
        return [
            *left,
            "no table in this report's folder"
            if row["source"]
            else TRUST.get(row["id"][:2], "rests on no table"),
        ]
    try:
        if row["source"] not in tables:
            first, *more = (pd.read_csv(folder / file, keep_default_na=False) for file in files)
            tables[row["source"]] = first.merge(more[0], on="patch", how="left") if more else first
        how, rule = RULES[
            next(
                (column for column in RULES if column in tables[row["source"]]),
                "this kind of table",
            )
        ]
        value, n = rule(row, tables[row["source"]])
    except (LookupError, ValueError) as error:
        return [*left, f"no rule, row or column for {error.args[0]}"]
    same = np.isclose(value, row["value"], rtol=0, atol=1e-6, equal_nan=True) and n == int(row["n"])
    out = row["value"] < row["low"] - 1e-9 or row["value"] > row["high"] + 1e-9
    sentence = f"{said} is {value:.6g} (n = {n}) recomputed, {row['value']:.6g} (n = {row['n']}) in numbers.csv"
    sentence += (
        f", there outside its own interval, {row['low']:.6g} to {row['high']:.6g}." if out else "."
    )
    return [
        row["id"],
        row["value"],
        value,
        "consistent" if same and not out else "contradiction",
        sentence,
        row["source"],
        how,
    ]


def _answers(row, table):
    truth = (
        pd.to_numeric(table["reread"]).fillna(table["truth"])
        if " after " in row["metric"]
        else table["truth"]
    )
    table = table.assign(truth=truth.astype(int))[(table["set"] == row["set"]) & (truth >= 0)]
    table = table[table["metric"] == row["metric"]] if "metric" in table else table
    table = table.assign(answer=table[_ODDS].to_numpy(float).argmax(1)) if "p0" in table else table
    columns, name = (
        ["truth", "answer", _ODDS if "p0" in table else "rank"],
        "name" if "name" in table else "run",
    )
    metric, names = _ENDING.sub("", row["metric"]), re.split(" minus | less ", row["run"])
    own = [table.groupby(name).get_group(wanted).groupby("run", sort=False) for wanted in names]
    found = [
        [
            recount_metric(metric, *(seed[column].to_numpy() for column in columns))
            for _, seed in seeds
        ]
        for seeds in own
    ]
    both = (
        min(map(len, found)) if row["metric"].endswith(" gap") else None
    )  # a gap pairs as many seeds of one as of the other
    means = [np.mean([value for value, _ in seeds[:both]]) for seeds in found]
    return means[0] - sum(means[1:]), table.loc[
        table[name].isin(names), "patch"
    ].nunique() if means[1:] else found[0][0][1]


def _ratings(row, table):
    wide = (
        table[table["reading"].astype(int) == 1]
        .pivot(index="patch", columns="rater", values="score")
        .fillna(-1)
        .astype(int)
    )
    who = row["run"].removesuffix(" against the other raters")
    if " ~ " in who:
        others, own = wide.reindex(columns=who.split(" ~ "), fill_value=-1).to_numpy().T
    else:
        people = wide[table.loc[table["person"], "rater"].unique()]
        if who == "all raters":
            return recount_agreement(row["metric"], people.to_numpy())
        votes = [
            np.bincount(one[one >= 0], minlength=len(SCORES))
            for one in people.drop(columns=who, errors="ignore").to_numpy(int)
        ]
        others, own = (
            np.array([one.argmax() if (one == one.max()).sum() == 1 else -1 for one in votes]),
            wide[who].to_numpy(),
        )
    return recount_metric(
        row["metric"], *np.stack([others, own])[:, (others >= 0) & (own >= 0)]
    )  # where the others tie, nothing is settled


def _means(row, table):
    own = table[table["number"] == row["id"] if "number" in table else table["label"] == row["run"]]
    own = own[own["change"] == row["metric"].removeprefix("likeness, ")] if "change" in own else own
    values = pd.to_numeric(
        own["value" if "number" in own else "spearman" if "change" in own else row["metric"]]
    ).dropna()
    return values.mean(), len(values)


def _misprinted(text, row):
    if np.isnan(row["value"]) or text.startswith("not estimable"):
        return (
            ""
            if np.isnan(row["value"]) and text.startswith("not estimable")
            else f"its value is {row['value']}"
        )
    (head, _, interval), size = text.partition("n = ")[0].partition("("), text.partition("n = ")[2]
    scale = 100 if "%" in head else 1
    wanted = [
        (head, [row["value"] * scale]),
        (interval if " to " in interval else "", [row["low"] * scale, row["high"] * scale]),
    ]
    for part, exact in (pair for pair in [*wanted, (size, [row["n"]])] if pair[0]):
        figures = [
            Decimal(figure.replace(",", "").replace("−", "-")) for figure in _FIGURE.findall(part)
        ]
        if len(figures) < len(exact) or not all(
            findings_._near({"value": f}, e) for f, e in zip(figures, exact, strict=False)
        ):
            return f"its row holds {', '.join(f'{e:g}' for e in exact)}"
    return ""


SIDES = {"recall": np.equal, "sensitivity": np.greater, "specificity": np.less_equal}
AGAIN = {  # of (truth, answer, graded, above), none by the code that made the number
    "accuracy": lambda t, a, p, u: np.mean(t == a),
    "balanced accuracy": lambda t, a, p, u: recall_score(
        t, a, labels=np.unique(t), average="macro"
    ),
    "majority rate": lambda t, a, p, u: np.bincount(t).max() / len(t),
    "off-by-two rate": lambda t, a, p, u: np.mean(abs(a - t) > 1),
    "mean absolute error": lambda t, a, p, u: np.mean(abs(a - t)),
    "spearman": lambda t, a, p, u: pd.Series(t).rank().corr(pd.Series(p).rank()),
    "AUROC macro": lambda t, a, p, u: np.mean(
        [roc_auc_score(t == k, p[:, k]) for k in np.unique(t)]
    ),
    "ranked probability score": lambda t, a, p, u: np.mean((u - (t[:, None] > [0, 1, 2])) ** 2),
    **{
        f"AUROC {cut}": lambda t, a, p, u, k=k: roc_auc_score(t > k, u[:, k])
        for k, cut in enumerate(CUTS)
    },
    **{
        f"ECE {cut}": lambda t, a, p, u, k=k: (
            abs(np.histogram(u[:, k], np.arange(11) / 10, weights=u[:, k] - (t > k))[0]).sum()
            / len(t)
        )
        for k, cut in enumerate(CUTS)
    },
    **{
        f"kappa {name}": lambda t, a, p, u, w=w: cohen_kappa_score(
            t, a, labels=range(len(SCORES)), weights=w
        )
        for name, w in {"unweighted": None, "linear": "linear", "quadratic": "quadratic"}.items()
    },
    **{
        name: lambda t, a, p, u, name=name: recount_agreement(name, np.stack([t, a], axis=1))[0]
        for name in ("Gwet AC1", "Gwet AC2 quadratic", "Krippendorff alpha ordinal")
    },
}
RULES = {  # the column that tells the kind of table: what is done, the rule
    **dict.fromkeys(
        ["p0", "rank"],
        ("from the answer to each patch and its true score, by scikit-learn or counting", _answers),
    ),
    "rater": ("from single readings, by scikit-learn or counting", _ratings),
    **dict.fromkeys(["label", "number"], ("mean of the values kept for each patch", _means)),
    "kind": (
        "from the answer to each changed patch",
        lambda row, t: recount_metric(
            row["metric"].split(", ")[0].replace("kappa", "kappa quadratic"),
            *t.loc[t["kind"] == row["run"], ["truth", row["metric"].split(", ", 1)[1]]]
            .to_numpy(int)
            .T,
        ),
    ),
    "predicted": (
        "from the value and true score of each patch",
        lambda row, t: recount_metric(row["metric"], t["score"], graded=t["value"]),
    ),
}
