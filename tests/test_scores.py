"""The four scores are read in every spelling, and nothing else is taken for one."""

import pytest

from her2lib import scores


@pytest.mark.parametrize(
    ("text", "score"),
    [("0", 0), ("1+", 1), ("2", 2), (" 3+ ", 3), ("'2+'", 2), ('"1"', 1), (3, 3), (2.0, 2)],
)
def test_every_spelling_of_a_score(text, score):
    assert scores.parse_score(text) == score


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
