"""The words for sets and scores, in folders and in tables alike."""

import pandas as pd
import pytest

from her2lib.intake import columns


@pytest.mark.parametrize(
    ("text", "subset"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train_set", "train"),
        ("trainset", "train"),
        ("TEST-SET", "test"),
        ("Test images", "test"),
        ("valA", "val"),
        ("valid", "val"),
        ("set_val", "val"),
        ("external", "external"),
        ("patient", ""),
        ("tests", ""),
        ("attest", ""),
        ("TrainValAB", ""),
        ("", ""),
    ],
)
def test_a_set_is_known_with_what_stands_around_it(text, subset):
    assert columns.set_of_word(text) == subset


def test_a_score_is_told_from_nothing_and_from_what_is_none():
    parse = columns.parse_written_score
    assert parse("class_2+") == 2
    assert parse("n/a") == parse("") == columns.NOT_WRITTEN
    assert parse("negative") == columns.NOT_A_SCORE
    assert parse("negative", {"negative": "0"}) == 0


def test_a_raw_table_has_every_column_and_readings_last():
    rows = columns.as_raw_table(pd.DataFrame({"path": ["a.png"], "rater_b": ["1+"], "x": [1]}))
    assert list(rows) == [*columns.RAW_COLUMNS, "rater_b"]
    assert rows.loc[0, "slide"] == ""


@pytest.mark.parametrize(
    ("texts", "words", "begins"),
    [
        ("1 2 3 4", {}, "numbers from 1 to 4"),
        ("1 2 3 4 negative", {"negative": "0"}, ""),
        ("1 2 3 4", {"1": "0", "2": "1+", "3": "2+", "4": "3+"}, ""),
        ("0 1 2 3 4", {}, ""),
        ("1+ 2+ 3+ 4", {}, ""),
        ("0 10 40 120", {}, "numbers from 0 to 120"),
        ("0 1 0,5 0,7 2.5", {}, "numbers from 0 to 2.5"),
        ("0 1 2 3 12 33", {}, ""),
        ("0 1 2 3 n/a", {}, ""),
        ("", {}, ""),
    ],
)
def test_numbers_on_another_scale_are_told(texts, words, begins):
    what, remedy = columns.other_scale(texts.split(), words)
    assert what.startswith(begins)
    assert bool(what) == bool(remedy) == bool(begins)
