"""Reported figures of a TOML file, checked against each other: sums, rates, kappas, matrices."""

import tomllib
from decimal import Decimal
from pathlib import Path

import numpy as np

from her2lib.files import did_you_mean
from her2lib.report import findings as findings_
from her2lib.scores import SCORES

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
    return findings_._sorted(found + list(_same(claims)))


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
            raise ValueError(f"{path.name}: unknown table {kind!r}.{did_you_mean(kind, KEYS)}")
        for claim in claims:
            for key in claim:
                if key not in KEYS[kind]:
                    raise ValueError(
                        f"{path.name}: unknown key {key!r} in a {kind}.{did_you_mean(key, KEYS[kind])}"
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
                    f"{path.name}: {claim['id']} needs plain numbers, without quotes and groups, and its value."
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
            findings_._near(claim, best),
            f"{what}: {value} % is no whole number of {n} patches (nearest {best:.2f} %).",
        )
    elif n:
        exact = 100 * right / n
        yield (
            claim,
            exact,
            findings_._near(claim, exact),
            f"{what}: {right} of {n} patches are {exact:.1f} %, not {value} %.",
        )


def _kappa(claim, rates):
    value, named = claim["value"], claim.get("weighting", "")
    yield claim, "", -1 <= value <= 1, f"{claim['what']}: {value} lies outside -1 to 1."
    if "rate" in claim and named in ("", "unweighted"):
        low, high = feasible_kappa(
            next(rate["per_score"] for rate in rates if rate["id"] == claim["rate"])
        )
        fits = low - findings_._half(claim) <= float(value) <= high + findings_._half(claim)
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
                (claim.get("value", sum(parts.values())), findings_._half(claim), claim)
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
