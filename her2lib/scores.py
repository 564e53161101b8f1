"""The words of the field: the four HER2 scores, their order, colours and clinical cuts.

Scores and cuts are those of ASCO/CAP 2018, affirmed in 2023.
"""

import re
import unicodedata
from collections.abc import Mapping

SCORES = ("0", "1+", "2+", "3+")
# Of a study that declares no fewer: the positions in SCORES of the scores it asks for.
ALL_SCORES = tuple(range(len(SCORES)))
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
# Words of the clinic that name no single score of a patch, and what each may stand for. A study
# says which it means; until then they are refused by name.
CLINICAL_WORDS = {
    "null": "0 without any staining",
    "ultralow": "0 with faint staining in at most 10 %",
    "low": "1+, or 2+ without amplification",
    "negative": "0 or 1+, or 2+ without amplification",
    "equivocal": "2+",
    "positive": "3+, or 2+ with amplification",
}
# The scores that a word in a bracket behind a score agrees with: "2+ (equivocal)".
_AGREES = {
    "null": (0,),
    "ultralow": (0,),
    "low": (1, 2),
    "negative": (0, 1),
    "equivocal": (2,),
    "positive": (3,),
}
# What stands in a cell that nobody filled in, in lower case: pandas, R and Excel (English and
# German) write the first eight. "null" is none of them: it is a HER2 category.
_MISSING = {"", "na", "n/a", "nan", "<na>", "#n/a", "#na", "#nv", "n.a.", "?"}
_MISSING |= {"-", "–", "—", "not read"}

# "HER2", "score", "class_" and the like in front; a minus sign is part of such a word ("her2-2+")
# and of nothing else: -1 is no score.
_PREFIX = r"(?:(?:her[-\s]?2(?:/neu)?[\s_:=-]|(?:score|class|ihc)[\s_:=-]?)[\s_:=]*)*"
_WRITTEN = re.compile(
    _PREFIX + r"(?:\+\s*([0-3])|([0-3])(?:[.,]0+|\s*\+|\s*plus)?)(?:\s*\(([^()]*)\))?"
)
# "01.02.2024", "2024-02-01 00:00:00", "1-Feb", "02. Jan": a spreadsheet made a date of "1-2".
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{1,2}[.\s-]+[a-zä]{3,9}\.?(?:[\s-]\d{2,4})?"
)
_TWO_SCORES = re.compile(r"[0-3] ?\+? ?(?:[/-]|to|or) ?[0-3] ?\+?")
_NO_WORDS: Mapping[str, str] = {}


def parse_score(text: object, words: Mapping[str, str] = _NO_WORDS) -> int:
    """int 0..3, the position in SCORES of a written score ("2+", 2, 2.0, "HER2 2+", "=2+").

    words: what else a study declares as a score, {"negative": "0"}.
    Raises ValueError, in one sentence, for all that is not surely one score: "1-2", "2+/3+", "12".

    Example: parse_score("2+ (equivocal)") is 2.
    """
    spelling = _spelling_of(text)
    declared = _declared_score(spelling, words)
    if declared:
        # What is declared is a score as it is written, no second word.
        return parse_score(declared)
    match = _WRITTEN.fullmatch(spelling)
    if match:
        score = int(match.group(1) or match.group(2))
        if _bracket_agrees(match.group(3), score):
            return score
    raise ValueError(_no_score_sentence(text, spelling))


def is_missing(text: object) -> bool:
    """bool, whether a cell says that nothing was read: "", n/a, nan, #N/A, -, ?, not read."""
    return str(text).strip().casefold() in _MISSING


def is_date(text: object) -> bool:
    """bool, whether a text is a date, which spreadsheets make of 1-2 or 2/3: "01.02.2024"."""
    return bool(_DATE.fullmatch(_spelling_of(text)))


def is_two_scores(text: object) -> bool:
    """bool, whether a text is two scores, between which somebody would not choose: "0/1+"."""
    return bool(_TWO_SCORES.fullmatch(_spelling_of(text)))


def score_name(score: int) -> str:
    """str, the written form of a score 0..3 ("2+"); "?" for -1 (unknown)."""
    if score < 0:
        return "?"
    return SCORES[score]


# --- helpers ----------------------------------------------------------------------------------


def _spelling_of(text):
    """str in lower case without quotes, full-width signs, and the "=" of spreadsheets."""
    spelling = unicodedata.normalize("NFKC", str(text)).strip()
    spelling = spelling.removeprefix("=").strip().strip("'\"").strip()
    return re.sub(r"\s+", " ", spelling).casefold()


def _declared_score(spelling, score_words):
    """str, the score that a study declares a text to be; "" for none."""
    for declared, score in score_words.items():
        if _without_her2(_spelling_of(declared)) == _without_her2(spelling):
            return score
    return ""


def _without_her2(spelling):
    """str, the "low" of "her2-low"."""
    return spelling.removeprefix("her2").strip(" -_:")


def _bracket_agrees(remark, score):
    """bool, whether what stands in brackets behind a score says the same, or nothing stands."""
    if remark is None:
        return True
    remark = remark.strip()
    if remark in _AGREES:
        return score in _AGREES[remark]
    match = _WRITTEN.fullmatch(remark)
    return bool(match) and match.group(3) is None and score == int(match.group(1) or match.group(2))


def _no_score_sentence(text, spelling):
    """str, why a text is no score, with the remedy."""
    shown = repr(str(text)[:40])
    category = _without_her2(spelling)
    if category in CLINICAL_WORDS:
        example = f"{category}={SCORES[_AGREES[category][0]]}"
        return (
            f"{shown} is not a HER2 score but may stand for {CLINICAL_WORDS[category]}: say which "
            f"under [scores] of the study, or with --score-word (such as {example})."
        )
    if is_date(spelling):
        return (
            f"{shown} is not a HER2 score but a date, which a spreadsheet makes of 1-2 or 2/3: "
            f"write one of {', '.join(SCORES)}, in cells formatted as text."
        )
    remedy = f"write one of {', '.join(SCORES)}"
    if is_two_scores(spelling):
        remedy += f", or say which counts with --score-word {spelling.replace(' ', '')}=SCORE"
    return f"{shown} is not a HER2 score: {remedy}."
