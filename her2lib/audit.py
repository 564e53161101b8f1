"""Recompute what can be recomputed: reported figures written down in a TOML file, and every number of our own report."""

import html
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.agreement import GRADED, SCORED
from her2lib.scores import SCORES, nearest

COLUMNS = ["id", "claim", "recomputed", "verdict", "sentence"]
VERDICTS = ("contradiction", "caution", "unchecked", "consistent")  # only a contradiction makes the exit code 1
ONLY = ("only in the first", "only in the second")
MOVES = ("moved", *ONLY, "no interval", "within", "unchanged")  # only the first makes the exit code of her2 diff 1
KEYS = {  # what a file of reported figures may hold; studies/published.toml explains each
    "count": ("id", "what", "value", "parts", "scores", "patients", "where"),
    "rate": ("id", "what", "value", "right", "n", "per_score", "of", "scores", "about", "where", "network", "set"),
    "kappa": ("id", "what", "value", "weighting", "rate", "where"),
    "matrix": ("id", "what", "raters", "values", "weighting", "consensus_of", "where"),
}
_SPAN = re.compile(r'data-number="([^"]*)"[^>]*>([^<]*)<')
_FIGURE = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?")


def audit_file(path):
    """DataFrame (id, claim, recomputed, verdict, sentence), contradictions first, of a TOML file of reported figures."""
    claims = _claims(Path(path))
    rates = {claim["id"]: claim for claim in claims["rate"]}
    found = [part for claim in claims["count"] for part in _count(claim)]
    found += [part for claim in claims["rate"] for part in _rate(claim)]
    found += [part for claim in claims["kappa"] for part in _kappa(claim, rates)]
    found += [part for claim in claims["matrix"] for part in _matrix(claim)]
    return _sorted(found + list(_same(claims)))


def audit_report(folder):
    """DataFrame as of audit_file: each number printed in report.html against numbers.csv, each row of that against its source."""
    folder, tables = Path(folder), {}
    empty = {key: [""] for key in ("value", "low", "high")}
    numbers = pd.read_csv(folder / "numbers.csv", keep_default_na=False, na_values=empty)
    rows = {row["id"]: row for row in numbers.to_dict("records")}
    found = [({"id": i}, "", False, f"{i} stands twice in numbers.csv.") for i in set(numbers.id[numbers.id.duplicated()])]
    for printed in _SPAN.findall((folder / "report.html").read_text(encoding="utf-8")):
        id_, text = map(html.unescape, printed)
        wrong = _misprinted(text, rows[id_]) if id_ in rows else "numbers.csv has no such row"
        found.append(({"id": id_, "value": text}, "", not wrong, f"The report prints {text!r} for {id_}, but {wrong}."))
    return _sorted(found + [_again(row, folder, tables) for row in rows.values()])


def moved(before, after, *, names=({}, {})):
    """DataFrame (id, before, after, difference, low, high, verdict) of two numbers.csv; names (name -> axes) match their runs.

    Interval of the difference from the two intervals (Zou and Donner 2008), as if the studies were independent."""
    a, b = (_keyed(table, known) for table, known in zip((before, after), names, strict=True))
    both, rows = a.add_suffix("_a").join(b.add_suffix("_b"), how="outer"), []
    for row in both.to_dict("records"):
        if pd.isna(row["id_a"]) or pd.isna(row["id_b"]):
            first = pd.isna(row["id_b"])
            rows.append((row["id_a"] if first else row["id_b"], row["value_a"], row["value_b"], *[np.nan] * 3, ONLY[not first]))
            continue
        difference = row["value_b"] - row["value_a"]
        low = difference - np.hypot(row["value_b"] - row["low_b"], row["high_a"] - row["value_a"])
        high = difference + np.hypot(row["high_b"] - row["value_b"], row["value_a"] - row["low_a"])
        same = difference == 0 or (pd.isna(row["value_a"]) and pd.isna(row["value_b"]))
        verdict = "unchanged" if same else "no interval" if np.isnan([low, high]).any() else "within" if low <= 0 <= high else "moved"
        rows.append((row["id_b"], row["value_a"], row["value_b"], difference, low, high, verdict))
    found = pd.DataFrame(rows, columns=["id", "before", "after", "difference", "low", "high", "verdict"])
    return found.sort_values("verdict", key=lambda v: v.map(MOVES.index), kind="stable", ignore_index=True)


def exit_code(findings):
    """int, 1 if any finding is a contradiction, else 0."""
    return int((findings.verdict == "contradiction").any())


def recomputed(row, table):
    """(value, n) of a row of numbers.csv from its source: predictions (mean over seeds; "A minus B"), or ratings ("A ~ B")."""
    name = row["metric"].removesuffix(" difference")
    if name not in SCORED | GRADED:
        raise LookupError(f"no rule recomputes {row['metric']!r}")
    if "rater" in table:
        wide = table[table.reading.astype(int) == 1].pivot(index="patch", columns="rater", values="score")
        both = wide[row["run"].split(" ~ ")].dropna().astype(int).to_numpy()
        return SCORED[name](*both.T), len(both)
    table = table[(table["truth"].astype(int) >= 0) & (table["set"] == row["set"])]
    values = []
    for wanted in row["run"].split(" minus "):
        own = table[table["name" if "name" in table else "run"] == wanted]
        seeds = [_of_predictions(name, seed) for _, seed in own.groupby("run")]
        if not seeds:
            raise LookupError(f"its source has no row of {wanted!r} in the set {row['set']!r}")
        values.append(np.mean([value for value, _ in seeds]))
    return values[0] - sum(values[1:]), seeds[0][1]


def feasible_kappa(per_score):
    """(lowest, highest) unweighted kappa that a confusion matrix with these [right, n] per score can have."""
    right, n = np.array(list(per_score.values()), float).T
    columns = np.append(n, [0.0] * (len(n) < len(SCORES)))  # a wrong answer may also be a score that is never true
    others = [np.delete(columns, k) for k in range(len(n))]
    chance = np.array([(right * n).sum() + ((n - right) * [pick(o) for o in others]).sum() for pick in (max, min)]) / n.sum() ** 2
    return tuple((right.sum() / n.sum() - chance) / (1 - chance))


def _keyed(table, names):
    """DataFrame of numbers by question, set, run and metric; a run's name is replaced by its axes, also in "A minus B"."""
    def spelt(run):
        return "".join(names.get(part, part) for part in re.split(r"( minus | ~ )", str(run)))

    key = [" / ".join(map(str, (row.question, row.set, spelt(row.run), row.metric))) for row in table.itertuples()]
    return table[["id", "value", "low", "high"]].set_axis(key, axis=0)


def _of_predictions(name, table):
    odds, truth = table[[f"p{k}" for k in range(len(SCORES))]].to_numpy(float), table["truth"].to_numpy(int)
    columns, metric = (truth, odds if name in GRADED else odds.argmax(1)), (SCORED | GRADED)[name]
    each = np.arange(len(truth))
    return metric(*columns), int(metric.sizes(each, *columns).sum()) if hasattr(metric, "sizes") else len(truth)


def _claims(path):
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)  # Decimal keeps how exactly it was printed
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
                    raise ValueError(f"{path.name}: unknown key {key!r} in a {kind}.{nearest(key, KEYS[kind])}")
            if not claim.get("id") or not claim.get("what") or seen[claim["id"]] is not claim:
                raise ValueError(f"{path.name}: each claim needs a 'what' and an 'id' of its own (see {claim.get('id')!r}).")
            told = [claim.get(key, 0) for key in ("value", "n", "right")] + list(claim.get("parts", {}).values())
            told += [number for row in (*claim.get("per_score", {}).values(), *claim.get("values", ())) for number in row]
            bare = kind in ("rate", "kappa") and "value" not in claim
            if bare or not all(isinstance(number, (int, Decimal)) for number in told):
                raise ValueError(f"{path.name}: {claim['id']} needs plain numbers, without quotes and units, and its value.")
            counted = claim if "of" in claim else seen.get(claim.get("rate"), {})
            if {"of", "rate"} & set(claim) and ("per_score" not in counted or claim.get("of", claim["id"]) not in seen):
                raise ValueError(f"{path.name}: {claim['id']} links to an id that is missing, or per_score is.")
            claim["kind"] = kind
    return {kind: written.get(kind, []) for kind in KEYS}


def _count(claim):
    parts, what, total = claim.get("parts", {}), claim["what"] + _where(claim), sum(claim.get("parts", {}).values())
    if parts and "value" in claim:
        summed = " + ".join(map(str, parts.values()))
        yield claim, total, total == claim["value"], f"{what}: {summed} = {total}, not {claim['value']}."
    if "scores" in claim:
        missing = [score for score in claim["scores"] if score not in parts]
        yield claim, len(parts), not missing, (
            f"{what}: {len(claim['scores'])} scores named, {len(parts)} counted ({', '.join(missing)} missing).")
    if "patients" in claim:
        yield claim, claim["patients"], "caution", (
            f"{what} come from {claim['patients']} patients: an interval that takes patches as independent is too narrow.")


def _rate(claim):
    value, per, what = claim["value"], claim.get("per_score", {}), claim["what"] + _where(claim)
    yield claim, "", 0 <= value <= 100, f"{what}: {value} % lies outside 0 to 100."
    chance = 100 / claim.get("scores", float("inf"))
    yield claim, chance, float(value) >= chance, f"{what}: {value} % is below chance ({chance:.3g} %)."
    right, n = (claim.get(key, sum(pair[i] for pair in per.values()) if per else None) for i, key in enumerate(("right", "n")))
    if per:
        summed = sum(pair[1] for pair in per.values())
        yield claim, summed, summed == n, f"{what}: the patches per score sum to {summed}, not to n = {n}."
        yield claim, "", all(k <= m for k, m in per.values()), f"{what}: for a score more patches are right than there are."
    if n and right is None:
        best = 100 * round(float(value) * n / 100) / n  # of the shares that n patches can give, the nearest
        yield claim, best, _near(claim, best), f"{what}: {value} % is no whole number of {n} patches (nearest {best:.2f} %)."
    elif n:
        exact = 100 * right / n
        yield claim, exact, _near(claim, exact), f"{what}: {right} of {n} patches are {exact:.1f} %, not {value} %."


def _kappa(claim, rates):
    value, named = claim["value"], claim.get("weighting", "")
    yield claim, "", -1 <= value <= 1, f"{claim['what']}: {value} lies outside -1 to 1."
    if "rate" in claim and named in ("", "unweighted"):
        low, high = feasible_kappa(rates[claim["rate"]]["per_score"])
        fits = low - _half(claim) <= float(value) <= high + _half(claim)
        both = claim | {"id": f"{claim['id']} / {claim['rate']}"}
        yield both, f"{low:.3f} to {high:.3f}", fits or ("caution" if not named else False), (
            f"{claim['what']}: with these counts per score an unweighted kappa lies in {low:.3f} to {high:.3f}, not at {value}.")


def _matrix(claim):
    names, values, what = claim["raters"], claim["values"], claim["what"] + _where(claim)
    if [len(row) for row in values] != [len(names)] * len(names):
        yield claim, "", False, f"{what}: {len(names)} raters need as many rows and columns."
        return
    cells = [(a, b, values[i][j], values[j][i]) for i, a in enumerate(names) for j, b in enumerate(names) if i <= j]
    for a, b, one, other in cells:
        yield claim, other, one == other, f"{what}: {a} with {b} is {one}, {b} with {a} {other}."
        yield claim, "", a != b or one == 1, f"{what}: {a} with itself is {one}, not 1."
        yield claim, "", -1 <= one <= 1 and -1 <= other <= 1, f"{what}: {a} with {b} lies outside -1 to 1."
    yield claim, "", bool(claim.get("weighting")) or "caution", f"{what}: the weighting is not said, and the score is ordinal."
    whole, *inside = claim.get("consensus_of", [""])
    for a, b, one, _ in cells:
        if a == whole and b in inside:
            yield claim, one, "caution", f"{what}: {whole} contains {b}, so their {one} is partly built in: leave {b} out of it."


def _same(claims):
    told, counts = {}, {claim["id"]: claim["what"] for claim in claims["count"]}
    for claim in (claim for kind in ("count", "rate", "kappa") for claim in claims[kind]):
        parts, whole = claim.get("parts", {}), counts.get(claim.get("of"), claim["what"])
        if parts or "value" in claim:
            told.setdefault(claim["what"], []).append((claim.get("value", sum(parts.values())), _half(claim), claim))
        if "of" in claim:
            parts = {score: n for score, (_, n) in claim["per_score"].items()}
        for score, n in parts.items():
            told.setdefault(f"{whole}, score {score}", []).append((n, 0, claim))
    for what, values in told.items():
        value, slack, _ = values[0]
        listed = " against ".join(f"{other}{_where(claim)}" for other, _, claim in values)
        if any(abs(float(value) - float(other)) > slack + more + 1e-9 for other, more, _ in values):
            yield {"id": " / ".join(dict.fromkeys(claim["id"] for *_, claim in values))}, "", False, f"{what}: {listed}."


def _again(row, folder, tables):
    said, source = f"{row['metric']} of {row['run']}", (folder / row["source"]).resolve()
    claim = {"id": row["id"], "what": said, "value": row["value"]}
    if folder.resolve() not in source.parents or not source.is_file():
        return claim, "", "unchecked", f"{said}: its source {row['source']!r} is no table in this report's folder."
    try:
        if source not in tables:
            tables[source] = pd.read_csv(source, keep_default_na=False)
        value, n = recomputed(row, tables[source])
    except (LookupError, ValueError) as error:
        return claim, "", "unchecked", f"{said} was not recomputed: {error}."
    same = np.isclose(value, row["value"], rtol=0, atol=1e-6, equal_nan=True) and n == int(row["n"])
    return claim, value, same, f"{said} is {value:.6g} (n = {n}) recomputed, {row['value']:.6g} (n = {row['n']}) in numbers.csv."


def _misprinted(text, row):
    if np.isnan(row["value"]) or text.startswith("not estimable"):
        return "" if np.isnan(row["value"]) and text.startswith("not estimable") else f"its value is {row['value']}"
    head, size = text.partition("n = ")[::2]
    head, interval = head.partition("(")[::2]
    scale = 100 if "%" in head else 1
    wanted = [(head, [row["value"] * scale]), (interval if " to " in interval else "", [row["low"] * scale, row["high"] * scale])]
    for part, exact in (pair for pair in [*wanted, (size, [row["n"]])] if pair[0]):
        figures = [Decimal(figure.replace(",", "").replace("−", "-")) for figure in _FIGURE.findall(part)]
        if len(figures) < len(exact) or not all(_near({"value": f}, e) for f, e in zip(figures, exact, strict=False)):
            return f"its row holds {', '.join(f'{e:g}' for e in exact)}"
    return ""


def _half(claim):
    if claim.get("kind") == "count" or "value" not in claim:
        return 0.0
    return float(Decimal(1).scaleb(Decimal(claim["value"]).as_tuple().exponent) / 2) * (5 if claim.get("about") else 1)


def _near(claim, exact):
    return abs(float(claim["value"]) - float(exact)) <= _half(claim) + 1e-9


def _where(claim):
    return f" ({claim['where']})" if claim.get("where") else ""


def _sorted(found):
    rows = []
    for claim, again, fits, sentence in found:
        verdict = fits if isinstance(fits, str) else "consistent" if fits else "contradiction"
        if verdict == "consistent":  # one row for all that was tried
            again, sentence = "", f"{claim.get('what', claim['id'])}: nothing contradicts {claim.get('value', 'it')}."
        rows.append((claim["id"], claim.get("value", ""), again, verdict, sentence))
    table = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["id", "verdict", "sentence"])
    wrong = {one for ids in table.id[table.verdict == "contradiction"] for one in ids.split(" / ")}
    table = table[(table.verdict != "consistent") | ~table.id.isin(wrong)]
    return table.sort_values("verdict", key=lambda v: v.map(VERDICTS.index), kind="stable", ignore_index=True)
