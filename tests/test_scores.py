"""The four scores are read in every spelling, and nothing else is taken for one."""

import pytest

from her2lib import scores


@pytest.mark.parametrize(
    ("text", "score"),
    [("0", 0), ("1+", 1), ("2", 2), (" 3+ ", 3), ("'2+'", 2), ('"1"', 1), (3, 3), (2.0, 2)],
)
def test_every_spelling_of_a_score(text, score):
    assert scores.parse_score(text) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("1,0", 1),
        ("+1", 1),
        ("1 +", 1),
        ("=3+", 3),
        ('="3+"', 3),
        ("HER2 2+", 2),
        ("her2-2+", 2),
        ("HER2/neu 3+", 3),
        ("IHC 2+", 2),
        ("score 2+", 2),
        ("class_2+", 2),
        ("score_0", 0),
        ("3plus", 3),
        ("3 Plus", 3),
        ("３＋", 3),  # full width, as East Asian keyboards write
        ("2⁺", 2),
        ("2\xa0+", 2),  # a space that does not break, as Word writes
        ("2+ (equivocal)", 2),
        ("3+ (positive)", 3),
        ("1+ (low)", 1),
        ("2+ (2)", 2),
    ],
)
def test_scores_as_spreadsheets_folders_and_clinics_write_them(text, score):
    assert scores.parse_score(text) == score


@pytest.mark.parametrize(
    "text",
    [
        *("1-2", "2+/3+", "12", "1/2", "1 2", "HER2", "HER22+", "score -1", "2+?", "+1+", "3+, 2+"),
        *("3+ (equivocal)", "1+ (3+)", "2+ (ISH+)", "0 (positive)", "2+ (2+) (3+)", "true"),
    ],
)
def test_what_could_be_two_scores_is_none(text):
    with pytest.raises(ValueError, match="is not a HER2 score"):
        scores.parse_score(text)


@pytest.mark.parametrize(
    ("text", "stands_for"),
    [
        ("negative", "0 or 1+"),
        ("Low", "1+, or 2+"),
        ("HER2-low", "1+, or 2+"),
        ("ultralow", "0 with faint staining"),
        ("null", "0 without any staining"),
        ("POSITIVE", "3+, or 2+ with"),
        ("equivocal", "2+"),
    ],
)
def test_words_of_the_clinic_are_asked_for_and_read_where_they_are_declared(text, stands_for):
    with pytest.raises(ValueError, match="HER2 score") as raised:
        scores.parse_score(text)
    for part in (stands_for, "[scores]", "--score-word"):
        assert part in str(raised.value)
    word = text.lower().removeprefix("her2-")
    assert scores.parse_score(text, {word: "1+"}) == 1
    assert scores.parse_score(text, {f"HER2 {word.title()}": "3+"}) == 3


def test_a_declared_word_must_itself_be_declared_as_a_score():
    with pytest.raises(ValueError, match="'low' is not a HER2 score"):
        scores.parse_score("negative", {"negative": "low", "low": "1+"})


@pytest.mark.parametrize(
    "text", ["2024-02-01", "2024-02-01 00:00:00", "01.02.2024", "1/2/2024", "1-Feb", "02. Jan"]
)
def test_a_date_that_a_spreadsheet_made_of_a_score_is_called_one(text):
    with pytest.raises(ValueError, match="a date, which a spreadsheet makes of 1-2"):
        scores.parse_score(text)
    assert scores.is_date(text)
    assert not scores.is_date("2+")


def test_not_read_is_told_from_her2_null_and_from_zero():
    missing = ["", " ", "n/a", "NA", "nan", "#N/A", "-", "–", "?", "Not read", "<NA>"]
    assert all(scores.is_missing(text) for text in missing)
    assert not any(scores.is_missing(text) for text in ("null", "0", "none", "1+", "negative"))


@pytest.mark.parametrize("text", ["", "4+", "-1", "2++", "1.5", "x", None, float("nan"), "+"])
def test_what_is_no_score_is_refused_with_the_four_that_are(text):
    with pytest.raises(ValueError, match=r"is not a HER2 score: write one of 0, 1\+, 2\+, 3\+"):
        scores.parse_score(text)


def test_a_long_text_is_cut_short_in_the_sentence():
    with pytest.raises(ValueError, match="HER2 score") as error:
        scores.parse_score("x" * 1000)
    assert len(str(error.value)) < 120


def test_names_and_scores_are_each_others_inverse():
    for score, name in enumerate(scores.SCORES):
        assert scores.score_name(score) == name
        assert scores.parse_score(name) == score
    assert scores.score_name(-1) == "?"


def test_each_score_has_a_colour_and_a_meaning_and_each_neighbouring_pair_a_cut():
    assert len(scores.COLOURS) == len(set(scores.COLOURS)) == len(scores.MEANING) == 4
    pairs = zip(scores.SCORES[:-1], scores.SCORES[1:], strict=True)
    assert list(scores.CUTS) == [f"{below}|{above}" for below, above in pairs]
