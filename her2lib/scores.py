"""The words of the field: the four HER2 scores, their order, colours and the three clinical cuts (ASCO/CAP 2018, affirmed 2023)."""

SCORES = ("0", "1+", "2+", "3+")
COLOURS = (
    "#4477aa",
    "#66ccee",
    "#ee9933",
    "#aa3377",
)  # told apart by colour-blind readers (after Tol's bright set)
CUTS = (
    "0|1+",
    "1+|2+",
    "2+|3+",
)  # treatment hangs on each: ultralow and low, in-situ hybridisation, positive
MEANING = (
    "no staining, or faint incomplete membrane staining in at most 10 % of tumour cells",
    "faint, incomplete membrane staining in more than 10 % of tumour cells",
    "weak to moderate complete membrane staining in more than 10 % of tumour cells",
    "intense complete membrane staining in more than 10 % of tumour cells",
)
_WRITTEN = {
    "0": 0,
    "1": 1,
    "1+": 1,
    "2": 2,
    "2+": 2,
    "3": 3,
    "3+": 3,
    "0+": 0,
    "0.0": 0,
    "1.0": 1,
    "2.0": 2,
    "3.0": 3,
}


def parse_score(text):
    """int 0..3, the place in SCORES of a written score ("2+", "2", 2, 2.0)."""
    word = str(text).strip().strip("'\"")
    if word in _WRITTEN:
        return _WRITTEN[word]
    raise ValueError(f"{str(text)[:40]!r} is not a HER2 score: write one of {', '.join(SCORES)}.")


def score_name(score):
    """str, the written form of a score 0..3; "?" for -1 (unknown)."""
    return SCORES[score] if score >= 0 else "?"
