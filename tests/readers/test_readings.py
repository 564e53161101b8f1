"""Tables of readings in both forms; a reading that cannot be used costs no other."""

import openpyxl
import pandas as pd
import pytest

from her2lib.files import DataError
from her2lib.readers import readings, votes


def read(tmp_path, text, *, patches=("a", "b", "c"), name="r.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return readings.ratings_of_table(tmp_path / name, patches=patches, **options)


def test_both_forms_of_a_rating_csv_give_the_same_readings(tmp_path):
    wide = tmp_path / "wide.csv"
    tidy = tmp_path / "tidy.csv"
    wide.write_text("\ufeffpatch;P1;rater_Dr. Ö\na;1+;2\nb;0;\n", encoding="utf-8")
    tidy.write_text("patch,rater,score\na,P1,1\nb,P1,0\na,Dr. Ö,2+\n", encoding="utf-8")
    tables = []
    for file in (wide, tidy):
        table, problems = readings.read_ratings(file, patches=["a", "b", "c"])
        assert problems == []
        tables.append(table.sort_values(["rater", "patch"], ignore_index=True))
    pd.testing.assert_frame_equal(*tables)
    matrix, raters, patches = votes.wide_ratings(tables[0], patches=["c", "b", "a"])
    assert matrix.tolist() == [[-1, -1], [-1, 0], [2, 1]]
    assert raters == ["Dr. Ö", "P1"]
    assert patches == ["c", "b", "a"]


def test_each_bad_reading_gets_a_sentence_and_the_rest_is_kept(tmp_path):
    file = tmp_path / "r.csv"
    file.write_text(
        "patch,rater,reading,score\na,P1,1,1+\nz,P1,1,2+\na,P1,1,3+\nb,P1,1,4+\n"
        "b,P2,x,1\nb,P2,1,2\na,P1,2,1\n,P1,1,1\n",
        encoding="utf-8",
    )
    ratings, problems = readings.read_ratings(file, patches=["a", "b"])
    assert ratings.values.tolist() == [["a", "P1", 1, 1], ["b", "P2", 1, 2], ["a", "P1", 2, 1]]
    assert len(ratings) + len(problems) == 8  # nothing is lost
    for line, sentence in (
        (3, "'z' is not in the manifest"),
        (4, "1+ is kept, this is 3+"),
        (5, "'4+' is not a HER2 score"),
        (6, "'x'"),
        (9, "'' is not in the manifest"),
    ):
        of_line = [problem for problem in problems if f"line {line}," in problem]
        assert sum(sentence in problem for problem in of_line) == 1, sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("patch,P1,p1\na,1,2\n", "two columns are named 'P1' and 'p1'"),
        ("tile,P1\na,1\n", "no column 'patch', only 'tile', 'P1'"),
        ("", "is no table, it is empty"),
        ("patch,P1\na,1\nb,1,2,3\n", "row 3 has 4 cells where the header has 2"),
        ("patch,score\na,1+\n", "no column holds scores alone under a reader's name"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_a_sentence(tmp_path, text, sentence):
    with pytest.raises(DataError, match=r"r\.csv") as raised:
        read(tmp_path, text)
    assert sentence in str(raised.value)


def test_case_12_numbers_of_readings_paths_and_names_without_ending_are_read(tmp_path):
    text = (
        "Image,Pathologist,Reading,Score\nD:\\x\\sub\\a.png,anna,1.0,2\nb,anna,1.0,3+\n"
        "sub/a.png,anna,2.0,1\nb.png,Anna,2,0\n"
    )
    taken = read(tmp_path, text, patches={"a.png": "sub/a.png", "b.png": "b.png"})
    assert taken.problems == []
    assert taken.ratings.to_numpy().tolist() == [
        ["a.png", "anna", 1, 2],
        ["b.png", "anna", 1, 3],
        ["a.png", "anna", 2, 1],
        ["b.png", "Anna", 2, 0],
    ]


def test_case_08_the_index_of_pandas_is_no_reader_and_that_is_said(tmp_path):
    table = pd.DataFrame({"patch": ["a", "b", "c"], "anna": ["0", "1+", "2+"]})
    taken = read(tmp_path, table.to_csv())
    assert taken.ratings["rater"].unique().tolist() == ["anna"]
    assert taken.sentences == [
        "r.csv: Column 1 (no heading) counts the rows: left out as an index."
    ]


def test_case_13_words_are_asked_for_remarks_left_out_and_n_a_is_not_read(tmp_path):
    text = "patch,anna,ben,comments\na,HER2 2+,1+,1+\nb,negative,n/a,so, so\nc,n/a,0,\n"
    with pytest.raises(DataError, match="row 3 has 5 cells where the header has 4"):
        read(tmp_path, text)
    text = text.replace("so, so", "so so")
    taken = read(tmp_path, text)
    assert len(taken.ratings) == 3
    (problem,) = taken.problems
    for part in ("r.csv line 3, anna", "'negative'", "[scores]", "--score-word"):
        assert part in problem
    assert "'comments' (a known word)" in taken.sentences[0]
    taken = read(tmp_path, text, score_words={"negative": "0"})
    assert taken.problems == []
    assert taken.ratings[["patch", "rater", "score"]].to_numpy().tolist() == [
        ["a", "anna", 2],
        ["b", "anna", 0],
        ["a", "ben", 1],
        ["c", "ben", 0],
    ]


def test_named_readers_of_a_table_with_a_row_for_each_reading(tmp_path):
    text = "patch,rater,score\na,anna,1\na,ben,2\n,,\nb,,3\n"
    taken = read(tmp_path, text, readers=["ANNA"])
    assert taken.ratings["rater"].tolist() == ["anna"]
    assert taken.sentences[-1] == "r.csv: left out, as not named under --readers: , ben."
    assert "no reader is named" in read(tmp_path, text).problems[0]


def test_a_workbook_with_a_second_reading_in_columns(tmp_path):
    book = openpyxl.Workbook()
    for row in (["Patch", "reading", "anna"], ["a", 1, "1+"], ["a", 2, "2+"], ["b", None, 0]):
        book.active.append(row)
    book.save(tmp_path / "r.xlsx")
    ratings, problems = readings.read_ratings(tmp_path / "r.xlsx", patches=["a", "b"])
    assert problems == []
    assert ratings.to_numpy().tolist() == [
        ["a", "anna", 1, 1],
        ["a", "anna", 2, 2],
        ["b", "anna", 1, 0],
    ]


def test_a_reader_who_counts_from_one_is_left_out_in_one_sentence(tmp_path):
    text = "patch,anna,ben\na,1,1+\nb,2,2+\nc,4,0\n"
    readings_ = read(tmp_path, text, readers=["anna", "ben"])
    assert set(readings_.ratings["rater"]) == {"ben"}
    assert len(readings_.problems) == 1
    assert "r.csv, anna: numbers from 1 to 4" in readings_.problems[0]
    words = {"1": "0", "2": "1+", "3": "2+", "4": "3+"}
    readings_ = read(tmp_path, text, readers=["anna", "ben"], score_words=words)
    of_anna = readings_.ratings[readings_.ratings["rater"] == "anna"]
    assert of_anna["score"].tolist() == [0, 1, 3]


def test_a_reading_of_two_scores_names_the_flag_that_chooses(tmp_path):
    text = "patch,anna\na,0/1+\nb,2+\n"
    assert "--score-word 0/1+=SCORE" in read(tmp_path, text).problems[0]
    chosen = read(tmp_path, text, score_words={"0/1+": "1+"})
    assert chosen.ratings["score"].tolist() == [1, 2]
