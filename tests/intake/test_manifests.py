"""A manifest is read as it is meant: which column names the patch, which holds its score."""

import time
import unicodedata

import openpyxl
import pytest
from examples import one_problem, picture

from her2lib.data.patches import read_table
from her2lib.files import DataError
from her2lib.intake.choices import Choices
from her2lib.intake.columns import RAW_COLUMNS
from her2lib.intake.manifests import manifest_table, rater_headings, read_manifest


def write(tmp_path, text, name="manifest.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_rows_come_as_they_were_written_with_the_row_that_they_stand_in(tmp_path):
    file = write(tmp_path, 'path,score,slide,mpp,Rater_B\na.png,1 +,S1,"0,25",2\n,3+,,,\n')
    root, rows, problems, notes = read_manifest(file)
    assert root == tmp_path
    assert list(rows) == [*RAW_COLUMNS, "rater_b", "line"]
    assert rows.iloc[0].tolist() == [
        *("a.png", str(tmp_path / "a.png"), "1 +", "S1", "", "0,25", "", "", "2", 2),
    ]
    # A row that names no patch is named by where it stands.
    assert rows.file[1] == "(row 3 of manifest.csv)"
    assert rows.path[1] == ""
    assert (problems, notes) == ([], [])


@pytest.mark.parametrize(
    "header",
    ["image,label", "filename,class", "Image Name;HER2 Score", "patch,score", "name\tLabel"],
)
def test_case_36_words_of_others_for_path_and_score_are_known(tmp_path, header):
    picture(tmp_path / "a.png", 0)
    sep = next(sign for sign in ",;\t" if sign in header)
    write(tmp_path, f"{header}\na.png{sep}2+\n")
    table, problems = read_table(tmp_path)
    assert (table.name[0], table.score[0]) == ("a.png", 2)
    assert problems.empty


def test_case_and_wsi_are_patient_and_slide_and_that_is_said(tmp_path):
    file = write(tmp_path, "image,label,case,wsi\na.png,1,P7,S3\n")
    _, rows, problems, notes = read_manifest(file)
    assert (rows.patient[0], rows.slide[0]) == ("P7", "S3")
    assert problems == []
    assert notes == [
        f"manifest.csv: The column '{word}' is read as {column}."
        for word, column in (
            ("image", "path"),
            ("label", "score"),
            ("case", "patient"),
            ("wsi", "slide"),
        )
    ]


def test_what_pandas_and_r_write_for_unknown_is_no_slide_of_that_name(tmp_path):
    file = write(tmp_path, "path,score,slide,mpp\na,1,nan,NA\nb,2,NA,0.5\nc,3,S1,\n")
    _, rows, _, notes = read_manifest(file)
    assert rows.slide.tolist() == ["", "", "S1"]
    assert rows.mpp.tolist() == ["", "0.5", ""]
    assert notes == [
        "manifest.csv: 2 cells of the column 'slide' hold 'NA', 'nan', read as empty.",
        "manifest.csv: 1 cell of the column 'mpp' holds 'NA', read as empty.",
    ]


def test_another_dialect_is_said(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("Studie 7\npath;score\na;1\n".encode("utf-16"))
    assert read_manifest(tmp_path / "manifest.csv")[3] == [
        "manifest.csv was read as semicolons, UTF-16, header in line 2.",
        "manifest.csv: The rows above the header (row 2) are titles, not read.",
    ]


def test_each_cell_that_is_no_score_is_named_by_row_and_column(tmp_path):
    write(tmp_path, "Title\n\npath,score,rater_a\na.png,2024-02-01,1+\nb.png,4+,x\nc.png,Low,0\n")
    for i, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", i)
    _, problems = read_table(tmp_path)
    date = one_problem(problems, "row 4, score: '2024-02-01' is not a HER2 score")
    assert "a spreadsheet made a date of it" in date.remedy
    one_problem(problems, "row 5, score: '4+' is not a HER2 score")
    assert "--score-word" in one_problem(problems, "row 6, score: 'Low'").remedy


@pytest.mark.parametrize(
    ("heading", "meant"),
    [
        ("slides", "slide"),
        ("patiant", "patient"),
        ("rater1", "rater_"),
        ("fold", "set"),
        ("file", "path"),
        ("label", "score"),
        ("pathologist", "rater_"),
    ],
)
def test_a_column_that_nearly_is_one_is_told(tmp_path, heading, meant):
    _, _, problems, _ = read_manifest(write(tmp_path, f"path,score,{heading}\na,1,x\n"))
    assert problems == [("column", "manifest.csv", (repr(heading), meant))]


def test_columns_of_the_users_own_are_no_problem(tmp_path):
    text = "path,score,stored,remark,x,dab,score_given\na,1,b,c,4,5,6\n"
    assert read_manifest(write(tmp_path, text))[2] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,score\n", "lists no patches"),
        ("path,lbl\na,1\n", "no column 'score', only 'path', 'lbl'"),
        ("path,score,Rater_A,rater_a\na,1,0,1\n", "two columns are named 'Rater_A' and 'rater_a'"),
        ("path,score,rater_A,RATER_a \na,1,0,1\n", "two columns are named"),
        ("path,score,wsi,slide id\na,1,s,t\n", "could each be 'slide'"),
        ("path,score\na,b.png,1\n", "row 2 has 3 cells where the header has 2"),
    ],
)
def test_what_could_mean_two_things_is_refused(tmp_path, text, says):
    with pytest.raises(DataError, match=says) as raised:
        read_manifest(write(tmp_path, text))
    assert "manifest.csv" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_raters_are_one_column_each(tmp_path):
    table = manifest_table(write(tmp_path, "path,score,Rater_Dr. Ö,rater_b\na,1,0,1\n"))
    assert rater_headings(table) == {"rater_dr. ö": "Rater_Dr. Ö", "rater_b": "rater_b"}


def test_a_workbook_is_a_manifest_too(tmp_path):
    picture(tmp_path / "a.png", 0)
    book = openpyxl.Workbook()
    book.active.append(["Image", "Score"])
    book.active.append(["a.png", 2.0])
    book.save(tmp_path / "mine.xlsx")
    table, problems = read_table(tmp_path / "mine.xlsx")
    assert table[["name", "score"]].to_numpy().tolist() == [["a.png", 2]]
    assert problems.empty


def test_the_other_unicode_form_backslashes_and_absolute_paths_find_the_file(tmp_path):
    name = unicodedata.normalize("NFD", "é.png")
    file = picture(tmp_path / "sub" / name, 0)
    text = f"path,score\nsub\\{unicodedata.normalize('NFC', name)},0\n{file},1\n"
    _, rows, _, _ = read_manifest(write(tmp_path, text))
    assert rows.path.tolist() == [str(file), str(file)]


def test_a_hundred_thousand_rows_take_seconds(tmp_path):
    rows = [f"{i}.png,{i % 4},s{i // 50},1+" for i in range(100_000)]
    file = write(tmp_path, "\n".join(["path,score,slide,rater_a", *rows]))
    began = time.process_time()
    _, table, _, _ = read_manifest(file)
    assert len(table) == 100_000
    assert time.process_time() - began < 8


def test_columns_that_are_not_read_are_named(tmp_path):
    head = "path,score," + ",".join(f"x{i}" for i in range(9)) + ",core,pixel size (um)"
    text = f"{head}\na.png,0" + ",1" * 11
    _, _, problems, notes = read_manifest(write(tmp_path, text))
    assert notes[0].startswith("manifest.csv: columns that are not read: 'x0', 'x1'")
    assert notes[0].endswith("'x7' and 3 more.")
    assert [details[1] for _, _, details in problems] == ["slide", "mpp"]


def test_folders_of_other_scores_than_the_table_gives_are_said(tmp_path):
    text = "path,score\n0/a.png,0\n2+/b.png,3\n3+/c.png,3\n"
    _, _, _, notes = read_manifest(write(tmp_path, text))
    assert "1 of 3 rows have another score than the folder" in notes[0]
    assert "2+/b.png" in notes[0]
    _, _, _, notes = read_manifest(write(tmp_path, text.replace("2+", "0").replace("3+", "1")))
    assert notes == []


def test_classes_counted_from_one_are_refused_until_somebody_says_what_they_mean(tmp_path):
    for i in range(4):
        picture(tmp_path / f"{i}.png", i)
    rows = "".join(f"{i}.png,{i + 1}\n" for i in range(4))
    file = write(tmp_path, f"image,class\n{rows}")
    table, problems = read_table(file)
    assert table.empty
    assert set(problems["kind"]) == {"scale"}
    assert "--score-word 1=0 --score-word 2=1+" in problems["remedy"][0]
    words = {"1": "0", "2": "1+", "3": "2+", "4": "3+"}
    table, problems = read_table(file, choices=Choices(score_words=words))
    assert list(table["score"]) == [0, 1, 2, 3]
    assert problems.empty


def test_a_file_that_stands_in_two_rows_is_told_by_its_rows(tmp_path):
    picture(tmp_path / "a.png", 0)
    table, problems = read_table(write(tmp_path, "path,score\na.png,2\na.png,2\n"))
    assert len(table) == 1
    assert "delete one of the two rows" in one_problem(problems, "stands in the table twice").remedy
    table, problems = read_table(write(tmp_path, "path,score\na.png,2\na.png,3\n"))
    assert table.empty
    assert "a.png in row 2, a.png in row 3" in problems["problem"][0]


def test_words_of_other_languages_are_hints(tmp_path):
    with pytest.raises(DataError, match="perhaps 'Bild' and 'Bewertung'"):
        read_manifest(write(tmp_path, "Bild;Bewertung;Patient\na.png;2+;7\n"))
    with pytest.raises(DataError) as error:
        read_manifest(write(tmp_path, "image,H-score\na.png,120\n"))
    assert "perhaps" not in str(error.value)
