"""Reported figures of a TOML file, checked against each other: sums, rates, kappas, matrices."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import chain, combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.files import did_you_mean
from her2lib.report.findings import Finding, findings_table, half_last_digit, rounds_to
from her2lib.scores import SCORES
from her2lib.study.keys import read_toml

# What a file of reported figures may hold; studies/published.toml explains each key.
KEYS = {
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
# key: what its value is; every other key holds a text.
SHAPES = {
    "value": (int | Decimal | str, "a number"),
    "n": (int, "a whole number"),
    "right": (int, "a whole number"),
    "patients": (int, "a whole number"),
    "about": (bool, "true or false"),
    "scores": (list | int, "how many scores there are, or a list of them"),
    "parts": (dict, "a table of counts"),
    "per_score": (dict, "a table of [right, n]"),
    "raters": (list, "a list of names"),
    "values": (list, "a list of rows"),
    "consensus_of": (list, "a list of names"),
}
# No study reports a larger figure; beyond, float overflows.
LARGEST = 10**15
# "About 85 %" may be rounded five times as coarsely as "85 %".
ABOUT = 5


@dataclass(frozen=True)
class ReportedClaim:
    """One reported figure as its table in the file gives it; numbers keep how they were printed."""

    kind: str
    id: str
    what: str
    value: Decimal | int | None = None
    where: str = ""
    parts: dict = field(default_factory=dict)  # count of each part
    scores: list | int | None = None  # names of scores (count), or how many there are (rate)
    patients: int | None = None
    right: int | None = None
    n: int | None = None
    per_score: dict = field(default_factory=dict)  # score -> [right, n]
    of: str = ""  # id of the count whose parts per_score repeats
    about: bool = False
    network: str = ""
    set: str = ""
    weighting: str = ""
    rate: str = ""  # id of the rate whose per_score a kappa must fit
    raters: list = field(default_factory=list)
    values: list = field(default_factory=list)
    consensus_of: list = field(default_factory=list)

    @property
    def title(self) -> str:
        """str, what is claimed and where it is written."""
        return self.what + self.source

    @property
    def source(self) -> str:
        """str, " (poster)", or nothing where the file does not say."""
        if not self.where:
            return ""
        return f" ({self.where})"

    @property
    def half(self) -> float:
        """float, how far the exact number may lie from the printed one; 0 for counts."""
        if self.kind == "count" or self.value is None:
            return 0.0
        if self.about:
            return ABOUT * half_last_digit(self.value)
        return half_last_digit(self.value)

    @property
    def n_scores(self) -> int:
        """How many answers there were: as many as are named or counted, four where none is said."""
        if isinstance(self.scores, list):
            return len(self.scores)
        return self.scores or len(SCORES)

    @property
    def total(self):
        """The value, or the sum of the parts where no value is written."""
        if self.value is None:
            return sum(self.parts.values())
        return self.value


def audit_file(path: Path | str) -> pd.DataFrame:
    """DataFrame (id, claim, recomputed, verdict, sentence) of reported figures, worst rows first.

    path is a TOML file as studies/published.toml explains it. Raises ValueError, with a sentence,
    for a file that cannot be read. Example: audit_file("studies/published.toml").
    """
    claims = _read(Path(path))
    by_id = {claim.id: claim for claim in claims}
    findings = []
    for claim in claims:
        if claim.kind == "count":
            findings += _count_findings(claim)
        elif claim.kind == "rate":
            findings += _rate_findings(claim)
        elif claim.kind == "kappa":
            findings += _kappa_findings(claim, by_id)
        else:
            findings += _matrix_findings(claim)
    findings += _conflicts(claims, by_id)
    return findings_table(findings)


def holds_figures(path: Path | str) -> bool:
    """bool, whether a TOML file is a table of reported figures and not a study's own file."""
    return bool(read_toml(Path(path)).keys() & KEYS.keys())


def feasible_kappa(
    per_score: dict[str, list[int]], *, scores: int = len(SCORES)
) -> tuple[float, float]:
    """(lowest, highest) unweighted kappa that matrices with [right, n] per score can have.

    scores is how many answers there were, also those that are never right.
    """
    right, n = np.array(list(per_score.values()), float).T
    supports = n.tolist()
    if len(supports) < scores:
        # A score that is never true can still be answered, for no chance agreement at all.
        supports.append(0.0)
    commonest = []
    rarest = []
    for k in range(len(n)):
        others = supports[:k] + supports[k + 1 :]
        commonest.append(max(others))
        rarest.append(min(others))
    # Chance agreement is largest, and kappa lowest, if wrong answers are the commonest other score.
    largest = _chance_agreement(right, n, commonest)
    smallest = _chance_agreement(right, n, rarest)
    observed = right.sum() / n.sum()
    return (observed - largest) / (1 - largest), (observed - smallest) / (1 - smallest)


def _chance_agreement(right, n, support_of_wrong_answers):
    """float, chance agreement if a score's wrong answers all are a score with this support."""
    expected = (right * n).sum() + ((n - right) * support_of_wrong_answers).sum()
    return expected / n.sum() ** 2


# --- reading ------------------------------------------------------------------------------------


def _read(path):
    """list of claims of a TOML file, counts first, then rates, kappas, matrices; each checked."""
    # Decimal keeps how exactly a number was printed: 40.10 is not 40.1.
    tables = read_toml(path, parse_float=Decimal)
    tables.pop("title", None)
    for kind, its_rows in tables.items():
        if kind not in KEYS:
            raise ValueError(f"{path.name}: unknown table {kind!r}.{did_you_mean(kind, KEYS)}")
        if not isinstance(its_rows, list) or not all(isinstance(row, dict) for row in its_rows):
            raise ValueError(f"{path.name}: write each {kind} as a table headed [[{kind}]].")

    rows = list(chain.from_iterable(tables.values()))
    by_id = {str(row.get("id")): row for row in rows}
    for kind in tables:
        for row in tables[kind]:
            try:
                _check_claim_keys(row, kind, by_id)
                _check_shapes(row)
                _check_numbers(row, kind)
                _check_links(row, by_id)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error

    claims = []
    for kind in KEYS:
        claims += [ReportedClaim(kind=kind, **row) for row in tables.get(kind, [])]
    return claims


def _check_claim_keys(row, kind, by_id):
    """None; raises ValueError where a row has an unknown key, or no id of its own."""
    for key in row:
        if key not in KEYS[kind]:
            raise ValueError(f"unknown key {key!r} in a {kind}.{did_you_mean(key, KEYS[kind])}")
    if not row.get("id") or not row.get("what") or by_id[str(row["id"])] is not row:
        raise ValueError(
            f"each claim needs a 'what' and an 'id' of its own (see {row.get('id')!r})."
        )


def _check_shapes(row):
    """None; raises ValueError where a key holds another kind of thing than it does in KEYS."""
    for key, value in row.items():
        kinds, noun = SHAPES.get(key, (str, "a text in quotes"))
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"{row['id']}: {key} is {noun}, not {value!r}.")
    if row.get("scores") == 0:
        raise ValueError(f"{row['id']}: scores = 0 leaves nothing to score.")
    for pair in row.get("per_score", {}).values():
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{row['id']}: each score of per_score has [right, n], not {pair!r}.")
    for line in row.get("values", []):
        if not isinstance(line, list):
            raise ValueError(f"{row['id']}: values is a list of rows, each in brackets.")


def _check_numbers(row, kind):
    """None; raises ValueError where a figure is no finite number, or a value is missing."""
    numbers = [row[key] for key in ("value", "n", "right") if key in row]
    numbers += row.get("parts", {}).values()
    for pair in row.get("per_score", {}).values():
        numbers += pair
    for line in row.get("values", []):
        numbers += line
    lacks_value = kind in ("rate", "kappa") and "value" not in row
    if lacks_value or not all(_is_figure(number) for number in numbers):
        raise ValueError(
            f"{row['id']} needs plain numbers, without quotes and groups, and its value."
        )
    pairs = row.get("per_score", {}).values()
    if pairs and sum(n for _, n in pairs) <= 0:
        raise ValueError(f"{row['id']}: no patch stands in per_score.")


def _is_figure(number):
    """bool, whether this is a finite number of a size that a study can report: no nan, no true."""
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        return False
    return Decimal(number).is_finite() and abs(number) < LARGEST


def _check_links(row, by_id):
    """None; raises ValueError where "of" or "rate" names no claim, or one without per_score."""
    if "of" in row:
        linked = row["of"] in by_id and "per_score" in row
    elif "rate" in row:
        linked = "per_score" in by_id.get(row["rate"], {})
    else:
        linked = True
    if not linked:
        raise ValueError(f"{row['id']} links to an id that is missing, or per_score is.")


# --- checking one claim -------------------------------------------------------------------------


def _check(claim, holds, sentence, *, recomputed=""):
    """Finding: nothing to say where the check holds, else a contradiction and its sentence."""
    if not holds:
        return Finding(claim.id, _printed(claim), recomputed, "contradiction", sentence)
    value = "it"
    if claim.value is not None:
        value = claim.value
    quiet = f"{claim.what}: nothing contradicts {value}."
    return Finding(claim.id, _printed(claim), "", "consistent", quiet)


def _caution(claim, sentence, *, recomputed=""):
    """Finding that accuses nothing but says what a reader should know."""
    return Finding(claim.id, _printed(claim), recomputed, "caution", sentence)


def _printed(claim):
    """The claim's value, or "" where it has none."""
    if claim.value is None:
        return ""
    return claim.value


def _count_findings(claim):
    """Findings about a count: its parts sum to it, each named score is counted, patients."""
    what = claim.title
    total = sum(claim.parts.values())
    if claim.parts and claim.value is not None:
        addends = " + ".join(map(str, claim.parts.values()))
        sentence = f"{what}: {addends} = {total}, not {claim.value}."
        yield _check(claim, total == claim.value, sentence, recomputed=total)
    if claim.scores is not None:
        missing = [score for score in claim.scores if score not in claim.parts]
        n_counted = len(claim.parts)
        sentence = (
            f"{what}: {len(claim.scores)} scores named, {n_counted} counted "
            f"({', '.join(missing)} missing)."
        )
        yield _check(claim, not missing, sentence, recomputed=n_counted)
    if claim.patients is not None:
        n = claim.patients
        sentence = f"{what} come from {n} patients: intervals over patches are too narrow."
        yield _caution(claim, sentence, recomputed=n)


def _rate_findings(claim):
    """Findings about a rate in per cent: range, chance, patches per score, right of n."""
    value = claim.value
    what = claim.title
    yield _check(claim, 0 <= value <= 100, f"{what}: {value} % lies outside 0 to 100.")
    chance = 0.0
    if claim.scores:
        chance = 100 / claim.n_scores
    sentence = f"{what}: {value} % is below chance ({chance:.3g} %)."
    yield _check(claim, float(value) >= chance, sentence, recomputed=chance)
    if claim.per_score:
        yield from _per_score_findings(claim)
    right = _count_of_rate(claim, claim.right, position=0)
    n = _count_of_rate(claim, claim.n, position=1)
    if not n:
        return
    if right is None:
        # Of the rates that n patches can give, the nearest (GRIM test, Brown and Heathers 2017).
        nearest = 100 * round(float(value) * n / 100) / n
        sentence = f"{what}: {value} % is no whole number of {n} patches (nearest {nearest:.2f} %)."
        yield _check(claim, _fits(claim, nearest), sentence, recomputed=nearest)
    else:
        exact = 100 * right / n
        sentence = f"{what}: {right} of {n} patches are {exact:.1f} %, not {value} %."
        yield _check(claim, _fits(claim, exact), sentence, recomputed=exact)


def _fits(claim, exact):
    """bool, whether the claimed value can be the exact one, rounded."""
    return rounds_to(claim.value, exact, half=claim.half)


def _count_of_rate(claim, written, *, position):
    """int, right or n of a rate: as written, else the sum over per_score; None without either."""
    if written is not None or not claim.per_score:
        return written
    return sum(pair[position] for pair in claim.per_score.values())


def _per_score_findings(claim):
    """Findings about [right, n] of each score: they sum to n, and right is no more than n."""
    what = claim.title
    pairs = claim.per_score.values()
    total = sum(n for _, n in pairs)
    n = _count_of_rate(claim, claim.n, position=1)
    sentence = f"{what}: the patches per score sum to {total}, not to n = {n}."
    yield _check(claim, total == n, sentence, recomputed=total)
    sentence = f"{what}: for a score more patches are right than there are."
    yield _check(claim, all(right <= n for right, n in pairs), sentence)


def _kappa_findings(claim, by_id):
    """Findings about a kappa: its range, and whether the counts per score of its rate allow it."""
    value = claim.value
    sentence = f"{claim.what}: {value} lies outside -1 to 1."
    yield _check(claim, -1 <= value <= 1, sentence)
    if not claim.rate or claim.weighting not in ("", "unweighted"):
        return
    rate = by_id[claim.rate]
    low, high = feasible_kappa(rate.per_score, scores=rate.n_scores)
    fits = low - claim.half <= float(value) <= high + claim.half
    span = f"{low:.3f} to {high:.3f}"
    sentence = (
        f"{claim.what}: with these counts per score an unweighted kappa lies in {span}, "
        f"not at {value}."
    )
    both = replace(claim, id=f"{claim.id} / {claim.rate}")
    if fits or claim.weighting:
        yield _check(both, fits, sentence, recomputed=span)
    else:
        # Another weighting may be meant: a kappa without its weighting is not called wrong.
        yield _caution(both, sentence, recomputed=span)


def _matrix_findings(claim):
    """Findings about a matrix of kappas: its form, range and weighting, raters in a consensus."""
    names = claim.raters
    what = claim.title
    if [len(row) for row in claim.values] != [len(names)] * len(names):
        yield _check(claim, False, f"{what}: {len(names)} raters need as many rows and columns.")
        return
    for i, j in combinations_with_replacement(range(len(names)), 2):
        yield from _cell_findings(claim, i, j)
    if not claim.weighting:
        yield _caution(claim, f"{what}: the weighting is not said, and the score is ordinal.")
    whole, *members = claim.consensus_of or [""]
    for i, j in combinations_with_replacement(range(len(names)), 2):
        if names[i] == whole and names[j] in members:
            value = claim.values[i][j]
            sentence = (
                f"{what}: {whole} contains {names[j]}, so their {value} is partly built in: "
                f"leave {names[j]} out of it."
            )
            yield _caution(claim, sentence, recomputed=value)


def _cell_findings(claim, i, j):
    """Findings about the kappa of rater i with rater j and of j with i."""
    what = claim.title
    a = claim.raters[i]
    b = claim.raters[j]
    upper = claim.values[i][j]
    lower = claim.values[j][i]
    sentence = f"{what}: {a} with {b} is {upper}, {b} with {a} {lower}."
    yield _check(claim, upper == lower, sentence, recomputed=lower)
    sentence = f"{what}: {a} with itself is {upper}, not 1."
    yield _check(claim, a != b or upper == 1, sentence)
    sentence = f"{what}: {a} with {b} lies outside -1 to 1."
    yield _check(claim, -1 <= upper <= 1 and -1 <= lower <= 1, sentence)


# --- one figure in several claims ---------------------------------------------------------------


def _conflicts(claims, by_id):
    """Findings, one for each figure that the file reports more than once and not alike."""
    mentions = {}
    for claim in claims:
        if claim.kind != "matrix":
            for what, value, half in _mentioned_figures(claim, by_id):
                mentions.setdefault(what, []).append((value, half, claim))
    for what, rows in mentions.items():
        first, first_half, _ = rows[0]
        if any(
            abs(float(first) - float(value)) > first_half + half + 1e-9 for value, half, _ in rows
        ):
            listed = " against ".join(f"{value}{claim.source}" for value, _, claim in rows)
            ids = " / ".join(dict.fromkeys(claim.id for *_, claim in rows))
            yield Finding(ids, "", "", "contradiction", f"{what}: {listed}.")


def _mentioned_figures(claim, by_id):
    """(what, value, half) of each figure that a claim mentions: its own and one for each score."""
    if claim.value is not None or claim.parts:
        yield claim.what, claim.total, claim.half
    whole = claim.what
    counts = claim.parts
    if claim.of:
        # The patches per score of a rate repeat the parts of the count that it names.
        if by_id[claim.of].kind == "count":
            whole = by_id[claim.of].what
        counts = {score: n for score, (_, n) in claim.per_score.items()}
    for score, n in counts.items():
        yield f"{whole}, score {score}", n, 0
