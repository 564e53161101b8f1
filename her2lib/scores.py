"""The words of the field: the four HER2 scores, their order, colours and clinical cuts.

Scores and cuts are those of ASCO/CAP 2018, affirmed in 2023.
"""

SCORES = ("0", "1+", "2+", "3+")
# Told apart by colour-blind readers (after Tol's bright set).
COLOURS = ("#4477aa", "#66ccee", "#ee9933", "#aa3377")
# Treatment hangs on each: HER2-ultralow and -low, in-situ hybridisation, HER2-positive.
CUTS = ("0|1+", "1+|2+", "2+|3+")
MEANING = (
    "no staining, or faint incomplete membrane staining in at most 10 % of tumour cells",
    "faint, incomplete membrane staining in more than 10 % of tumour cells",
    "weak to moderate complete membrane staining in more than 10 % of tumour cells",
    "intense complete membrane staining in more than 10 % of tumour cells",
)
# Every way in which files write a score.
_SPELLINGS = {
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


def parse_score(text: object) -> int:
    """int 0..3, the position in SCORES of a written score ("2+", "2", 2, 2.0).

    Raises ValueError, in one sentence, for anything else. Example: parse_score("2+") is 2.
    """
    spelling = str(text).strip().strip("'\"")
    if spelling in _SPELLINGS:
        return _SPELLINGS[spelling]
    raise ValueError(f"{str(text)[:40]!r} is not a HER2 score: write one of {', '.join(SCORES)}.")


def score_name(score: int) -> str:
    """str, the written form of a score 0..3 ("2+"); "?" for -1 (unknown)."""
    if score < 0:
        return "?"
    return SCORES[score]
