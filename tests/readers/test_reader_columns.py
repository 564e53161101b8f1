"""A column is a reader because it is named, or because it holds scores and can be nothing else."""

import pytest

from her2lib.files import DataError
from her2lib.intake.text_tables import read_text_table
from her2lib.readers.reader_columns import reader_columns, reader_name


def judged(tmp_path, text, **options):
    """({reader: column}, sentences) of the columns of a CSV."""
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    table = read_text_table(tmp_path / "r.csv", needed=("patch",))
    return reader_columns(table, **options)


def test_case_09_numbers_of_slides_and_batches_are_no_readings(tmp_path):
    text = "patch,slide,batch,case,anna,ben\na,1,1,1,0,1+\nb,2,1,2,1,2+\nc,3,2,3,2,3+\n"
    readers, sentences = judged(tmp_path, text)
    assert readers == {"anna": "anna", "ben": "ben"}
    assert sentences == [
        "r.csv: left out as no reader: 'slide' (a known word), 'batch' (a known word), "
        "'case' (a known word)."
    ]


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (("1", "2", "3"), "holds only 1, 2, 3: scores, or numbers of slides"),
        (("2", "2", "2"), "holds only 2"),
        (("1.0", "2.0", ""), "holds only 1, 2"),
        (("0", "1", "7"), "holds 0, 1 but also '7': scores with slips, or a count"),
        (("positive", "negative", ""), "holds only 'negative', 'positive': scores in words, or"),
        (("1", "0", "1"), "only 0 and 1 where others write 1\\+: scores, or no and yes"),
    ],
)
def test_what_could_be_scores_or_something_else_is_refused_with_both(tmp_path, cells, says):
    text = "patch,anna,mine\n" + "".join(f"p{i},1+,{cell}\n" for i, cell in enumerate(cells))
    with pytest.raises(DataError, match=says) as raised:
        judged(tmp_path, text)
    assert "the column 'mine'" in str(raised.value)
    assert "--readers anna NAME" in str(raised.value)
    readers, sentences = judged(tmp_path, text, readers=["anna", "MINE"])
    assert readers == {"anna": "anna", "MINE": "mine"}
    assert sentences == []


@pytest.mark.parametrize(
    "cells",
    [("0", "1", "2"), ("0", "0", "0"), ("0", "1", "1"), ("1+", "2", "3"), ("HER2 2+", "n/a", "-")],
)
def test_scores_with_a_zero_or_a_plus_are_a_readers(tmp_path, cells):
    text = "patch,mine\n" + "".join(f"p{i},{cell}\n" for i, cell in enumerate(cells))
    assert judged(tmp_path, text)[0] == {"mine": "mine"}


def test_a_slip_among_scores_does_not_cost_the_reader_his_column(tmp_path):
    assert judged(tmp_path, "patch,anna\na,1+\nb,4+\nc,negative\nd,2+\n")[0] == {"anna": "anna"}


def test_case_13_comments_and_empty_columns_are_left_out_and_said(tmp_path):
    text = "patch,anna,comment,Notiz,ben\na,HER2 2+,2+ at the edge,2+,\nb,n/a,x,see me,\nc,0,,??,\n"
    readers, sentences = judged(tmp_path, text)
    assert readers == {"anna": "anna"}
    assert sentences == [
        "r.csv: left out as no reader: 'comment' (a known word), 'Notiz' (1 of 3 cells are "
        "scores), 'ben' (empty)."
    ]


def test_a_heading_that_says_reader_is_one_whatever_it_holds(tmp_path):
    text = "patch,rater_1,Reader_B,score\na,1,x,2\nb,2,y,3\n"
    readers, sentences = judged(tmp_path, text)
    assert readers == {"1": "rater_1", "B": "Reader_B"}
    assert sentences == ["r.csv: left out as no reader: 'score' (a known word)."]
    assert reader_name("rater_Dr. Ö") == "Dr. Ö"
    assert reader_name(" anna ") == "anna"


def test_named_readers_are_taken_and_all_others_left_out(tmp_path):
    text = "patch,slide,anna,ben\na,1,0,1\nb,2,1,2\n"
    readers, sentences = judged(tmp_path, text, readers=["rater_ben"])
    assert readers == {"ben": "ben"}
    assert sentences == ["r.csv: left out as no reader: 'slide' (not named), 'anna' (not named)."]
    assert judged(tmp_path, text, readers=["slide"])[0] == {"slide": "slide"}
    with pytest.raises(DataError, match="no column of 'carl', only 'patch', 'slide', 'anna'"):
        judged(tmp_path, text, readers=["carl"])


def test_a_table_without_a_reader_is_a_sentence_and_one_reader_has_one_column(tmp_path):
    with pytest.raises(DataError, match=r"no column holds scores alone .*--readers NAME NAME"):
        judged(tmp_path, "patch,slide\na,1\n")
    with pytest.raises(DataError, match="two columns are named 'anna'"):
        judged(tmp_path, "patch,anna,rater_anna\na,1+,2+\n")


@pytest.mark.parametrize("heading", ["percent", "H-score", "HER2 status", "Allred", "intensity"])
def test_other_measures_are_no_readers(tmp_path, heading):
    readers, _ = judged(tmp_path, f"patch,anna,{heading}\na,0,0\nb,2+,1\nc,3+,2\n")
    assert list(readers) == ["anna"]
