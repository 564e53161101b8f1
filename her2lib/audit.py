"""Recompute what can be recomputed, by other code than made it: figures in a TOML file, and every number of our own report."""

import html
import re
import tomllib
import warnings
from decimal import Decimal
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, recall_score, roc_auc_score

from her2lib.scores import CUTS, SCORES, nearest

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
KEYS = {  # what a file of reported figures may hold; studies/published.toml explains each
    "count": ("id", "what", "value", "parts", "scores", "patients", "where"),
    "rate": (
        "id",
        "what",
        "value",
        "right",
        "n",
        "per_score",
        "of",
        "scores",
        "about",
        "where",
        "network",
        "set",
    ),
    "kappa": ("id", "what", "value", "weighting", "rate", "where"),
    "matrix": ("id", "what", "raters", "values", "weighting", "consensus_of", "where"),
}
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


def audit_file(path):
    """DataFrame (id, claim, recomputed, verdict, sentence), contradictions first, of a TOML file of reported figures."""
    claims = _claims(Path(path))
    checks = {
        "count": _count,
        "rate": _rate,
        "kappa": lambda claim: _kappa(claim, claims["rate"]),
        "matrix": _matrix,
    }
    found = [
        part for kind, check in checks.items() for claim in claims[kind] for part in check(claim)
    ]
    return _sorted(found + list(_same(claims)))


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
        *by_kind(again[again.verdict != "contradiction"]).itertuples(index=False, name=None),
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
    told = pd.DataFrame([*told, ("", "", "", "caution", f"{whole} {LEFT}")], columns=COLUMNS)
    return pd.concat(
        [_sorted(found), again.loc[again.verdict == "contradiction", COLUMNS], told],
        ignore_index=True,
    )


def recount(numbers, folder):
    """DataFrame, a row per row of numbers.csv: id, claim, recomputed, verdict, sentence, source, how (or why not)."""
    folder, tables = Path(folder).resolve(), {}
    return pd.DataFrame(
        [_again(row, folder, tables) for row in numbers.to_dict("records")],
        columns=[*COLUMNS, "source", "how"],
    )


def by_kind(again):
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
        "verdict", key=lambda v: v.map(VERDICTS.index), kind="stable", ignore_index=True
    )


def moved(before, after, *, names=({}, {})):
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


def second(metric, truth, answer=None, graded=None):
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


def together(metric, ratings):
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


def feasible_kappa(per_score):
    """(lowest, highest) unweighted kappa that a confusion matrix with these [right, n] per score can have."""
    right, n = np.array(list(per_score.values()), float).T
    others = [
        np.delete([*n, *[0.0] * (len(n) < len(SCORES))], k) for k in range(len(n))
    ]  # 0: a score that is never true
    chance = (
        np.array(
            [
                (right * n).sum() + ((n - right) * [pick(o) for o in others]).sum()
                for pick in (max, min)
            ]
        )
        / n.sum() ** 2
    )
    return tuple((right.sum() / n.sum() - chance) / (1 - chance))


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


def _claims(path):
    try:
        written = tomllib.loads(
            path.read_text(encoding="utf-8"), parse_float=Decimal
        )  # Decimal keeps how exactly it was printed
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not TOML: {error}.") from error
    written.pop("title", None)
    seen = {claim.get("id"): claim for claims in written.values() for claim in claims}
    for kind, claims in written.items():
        if kind not in KEYS:
            raise ValueError(f"{path.name}: unknown table {kind!r}.{nearest(kind, KEYS)}")
        for claim in claims:
            for key in claim:
                if key not in KEYS[kind]:
                    raise ValueError(
                        f"{path.name}: unknown key {key!r} in a {kind}.{nearest(key, KEYS[kind])}"
                    )
            if not claim.get("id") or not claim.get("what") or seen[claim["id"]] is not claim:
                raise ValueError(
                    f"{path.name}: each claim needs a 'what' and an 'id' of its own (see {claim.get('id')!r})."
                )
            told = [claim.get(key, 0) for key in ("value", "n", "right")] + list(
                claim.get("parts", {}).values()
            )
            told += [
                number
                for row in (*claim.get("per_score", {}).values(), *claim.get("values", ()))
                for number in row
            ]
            if (kind in ("rate", "kappa") and "value" not in claim) or not all(
                isinstance(number, (int, Decimal)) for number in told
            ):
                raise ValueError(
                    f"{path.name}: {claim['id']} needs plain numbers, without quotes and units, and its value."
                )
            counted = claim if "of" in claim else seen.get(claim.get("rate"), {})
            if {"of", "rate"} & set(claim) and (
                "per_score" not in counted or claim.get("of", claim["id"]) not in seen
            ):
                raise ValueError(
                    f"{path.name}: {claim['id']} links to an id that is missing, or per_score is."
                )
            claim |= {"kind": kind, "where": f" ({claim['where']})" if claim.get("where") else ""}
    return {kind: written.get(kind, []) for kind in KEYS}


def _count(claim):
    parts, what, total = (
        claim.get("parts", {}),
        claim["what"] + claim["where"],
        sum(claim.get("parts", {}).values()),
    )
    if parts and "value" in claim:
        yield (
            claim,
            total,
            total == claim["value"],
            f"{what}: {' + '.join(map(str, parts.values()))} = {total}, not {claim['value']}.",
        )
    if "scores" in claim:
        missing = [score for score in claim["scores"] if score not in parts]
        told = f"{what}: {len(claim['scores'])} scores named, {len(parts)} counted ({', '.join(missing)} missing)."
        yield claim, len(parts), not missing, told
    if "patients" in claim:
        yield (
            claim,
            claim["patients"],
            "caution",
            f"{what} come from {claim['patients']} patients: intervals over patches are too narrow.",
        )


def _rate(claim):
    value, per, what = claim["value"], claim.get("per_score", {}), claim["what"] + claim["where"]
    yield claim, "", 0 <= value <= 100, f"{what}: {value} % lies outside 0 to 100."
    chance = 100 / claim.get("scores", float("inf"))
    yield (
        claim,
        chance,
        float(value) >= chance,
        f"{what}: {value} % is below chance ({chance:.3g} %).",
    )
    right, n = (
        claim.get(key, sum(pair[i] for pair in per.values()) if per else None)
        for i, key in enumerate(("right", "n"))
    )
    if per:
        summed = sum(pair[1] for pair in per.values())
        yield (
            claim,
            summed,
            summed == n,
            f"{what}: the patches per score sum to {summed}, not to n = {n}.",
        )
        yield (
            claim,
            "",
            all(k <= m for k, m in per.values()),
            f"{what}: for a score more patches are right than there are.",
        )
    if n and right is None:
        best = (
            100 * round(float(value) * n / 100) / n
        )  # of the shares that n patches can give, the nearest
        yield (
            claim,
            best,
            _near(claim, best),
            f"{what}: {value} % is no whole number of {n} patches (nearest {best:.2f} %).",
        )
    elif n:
        exact = 100 * right / n
        yield (
            claim,
            exact,
            _near(claim, exact),
            f"{what}: {right} of {n} patches are {exact:.1f} %, not {value} %.",
        )


def _kappa(claim, rates):
    value, named = claim["value"], claim.get("weighting", "")
    yield claim, "", -1 <= value <= 1, f"{claim['what']}: {value} lies outside -1 to 1."
    if "rate" in claim and named in ("", "unweighted"):
        low, high = feasible_kappa(
            next(rate["per_score"] for rate in rates if rate["id"] == claim["rate"])
        )
        fits = low - _half(claim) <= float(value) <= high + _half(claim)
        yield (
            claim | {"id": f"{claim['id']} / {claim['rate']}"},
            f"{low:.3f} to {high:.3f}",
            fits or ("caution" if not named else False),
            (
                f"{claim['what']}: with these counts per score an unweighted kappa lies in {low:.3f} to {high:.3f}, not at {value}."
            ),
        )


def _matrix(claim):
    names, values, what = claim["raters"], claim["values"], claim["what"] + claim["where"]
    if [len(row) for row in values] != [len(names)] * len(names):
        yield claim, "", False, f"{what}: {len(names)} raters need as many rows and columns."
        return
    cells = [
        (a, b, values[i][j], values[j][i])
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i <= j
    ]
    for a, b, one, other in cells:
        yield claim, other, one == other, f"{what}: {a} with {b} is {one}, {b} with {a} {other}."
        yield claim, "", a != b or one == 1, f"{what}: {a} with itself is {one}, not 1."
        yield (
            claim,
            "",
            -1 <= one <= 1 and -1 <= other <= 1,
            f"{what}: {a} with {b} lies outside -1 to 1.",
        )
    yield (
        claim,
        "",
        bool(claim.get("weighting")) or "caution",
        f"{what}: the weighting is not said, and the score is ordinal.",
    )
    whole, *inside = claim.get("consensus_of", [""])
    for a, b, one, _ in cells:
        if a == whole and b in inside:
            yield (
                claim,
                one,
                "caution",
                f"{what}: {whole} contains {b}, so their {one} is partly built in: leave {b} out of it.",
            )


def _same(claims):
    told, counts = {}, {claim["id"]: claim["what"] for claim in claims["count"]}
    for claim in (claim for kind in ("count", "rate", "kappa") for claim in claims[kind]):
        parts, whole = claim.get("parts", {}), counts.get(claim.get("of"), claim["what"])
        if parts or "value" in claim:
            told.setdefault(claim["what"], []).append(
                (claim.get("value", sum(parts.values())), _half(claim), claim)
            )
        for score, n in (
            {score: n for score, (_, n) in claim["per_score"].items()} if "of" in claim else parts
        ).items():
            told.setdefault(f"{whole}, score {score}", []).append((n, 0, claim))
    for what, values in told.items():
        listed = " against ".join(f"{other}{claim['where']}" for other, _, claim in values)
        if any(
            abs(float(values[0][0]) - float(other)) > values[0][1] + more + 1e-9
            for other, more, _ in values
        ):
            yield (
                {"id": " / ".join(dict.fromkeys(claim["id"] for *_, claim in values))},
                "",
                False,
                f"{what}: {listed}.",
            )


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
        [second(metric, *(seed[column].to_numpy() for column in columns)) for _, seed in seeds]
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
            return together(row["metric"], people.to_numpy())
        votes = [
            np.bincount(one[one >= 0], minlength=len(SCORES))
            for one in people.drop(columns=who, errors="ignore").to_numpy(int)
        ]
        others, own = (
            np.array([one.argmax() if (one == one.max()).sum() == 1 else -1 for one in votes]),
            wide[who].to_numpy(),
        )
    return second(
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
            _near({"value": f}, e) for f, e in zip(figures, exact, strict=False)
        ):
            return f"its row holds {', '.join(f'{e:g}' for e in exact)}"
    return ""


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


SIDES = {"concordance": np.equal, "sensitivity": np.greater, "specificity": np.less_equal}
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
        name: lambda t, a, p, u, name=name: together(name, np.stack([t, a], axis=1))[0]
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
        lambda row, t: second(
            row["metric"].split(", ")[0].replace("kappa", "kappa quadratic"),
            *t.loc[t["kind"] == row["run"], ["truth", row["metric"].split(", ", 1)[1]]]
            .to_numpy(int)
            .T,
        ),
    ),
    "predicted": (
        "from the value and true score of each patch",
        lambda row, t: second(row["metric"], t["score"], graded=t["value"]),
    ),
}
