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
