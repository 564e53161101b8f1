"""What a user may state about data, and the sentence for what no field can be."""

from pathlib import Path

import pytest

from her2lib.intake.choices import FIND_OUT, Choices, read_score_words, state_choices


def test_nothing_is_stated_unless_somebody_states_it():
    assert FIND_OUT.stated() == {}
    choices = Choices(score_from="folder2", mpp=0.25, allow=("/store",))
    assert choices.stated() == {"score_from": "folder2", "mpp": 0.25, "allow": ("/store",)}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("layout", "bic", "Did you mean 'bci'"),
        ("score_from", "folder9", "Did you mean 'folder"),
        ("patient_from", "x", "Known: folder1"),
        ("set_from", "names", "Did you mean 'name'"),
        ("mpp", 250.0, "0.05 to 10"),
        ("mpp", float("nan"), "0.05 to 10"),
    ],
)
def test_a_value_that_a_field_cannot_have_is_refused_with_the_right_word(field, value, says):
    with pytest.raises(ValueError, match=says):
        Choices(**{field: value})


def test_words_for_scores_are_read_and_a_text_that_is_none_is_refused():
    words = read_score_words(["Negative=0", "her2 low = 1+"])
    assert words == {"negative": "0", "her2 low": "1+"}
    for text in ("negative", "=0", "negative="):
        with pytest.raises(ValueError, match="write it as negative=0"):
            read_score_words([text])


def test_in_python_one_folder_or_a_list_of_paths_may_be_allowed():
    assert state_choices(allow="/store").allow == ("/store",)
    assert state_choices(allow=[Path("/a"), "/b"]).allow == ("/a", "/b")
    with pytest.raises(ValueError, match="Did you mean 'score_from'"):
        state_choices(scores_from="name")


def test_a_score_word_that_means_no_score_is_refused():
    with pytest.raises(ValueError, match="The score word 'negative': 'zero' is not a HER2 score"):
        Choices(score_words={"negative": "zero"})
