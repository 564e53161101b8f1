"""One table reads back as the same cells in every dialect; what could be two things is refused."""

import csv
import io
import unicodedata

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from her2lib.files import DataError
from her2lib.intake import text_tables
from her2lib.intake.text_tables import read_text_table

NEEDED = ("path", "score")


def table_of(tmp_path, content, *, needed=NEEDED, name="a.csv", **options):
    """TextTable of a file with these bytes or this text."""
    if isinstance(content, str):
        content = content.encode()
    (tmp_path / name).write_bytes(content)
    return read_text_table(tmp_path / name, needed=needed, **options)


# --- every dialect ------------------------------------------------------------------------------

# Letters, marks, numbers, signs and blanks of all scripts; no line ends, which have tests of their
# own.
TEXTS = st.text(
    st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs")), max_size=9
)


def plain(text):
    """str, a cell as any program hands it on: stripped, composed, no formula."""
    return unicodedata.normalize("NFC", text).strip().lstrip("=").strip()


@st.composite
def cells(draw):
    """list of rows of str under path, score and three columns more."""
    n = draw(st.integers(1, 6))
    rows = []
    for i in range(n):
        row = [f"p{i}{plain(draw(TEXTS))}", draw(st.sampled_from(["0", "1+", "2 +", "3.0", ""]))]
        rows.append([*row, *(plain(draw(TEXTS)) for _ in range(3))])
    return rows


def written(header, rows, *, sep, end, titles, blanks, index, state_sep):
    """str, a text of a table as one of many programs writes it."""
    text = io.StringIO()
    if state_sep:
        text.write(f"sep={sep}{end}")
    out = csv.writer(text, delimiter=sep, lineterminator=end)
    out.writerows([["Study of HER2 (2024)"], ["made by", "hand"]][:titles])
    if index is not None:
        header = [index, *header]
        rows = [[str(i), *row] for i, row in enumerate(rows)]
    out.writerow(header)
    for i, row in enumerate(rows):
        if i in blanks:
            out.writerow([])
            out.writerow([""] * len(header))
        out.writerow(row)
    return text.getvalue()


HEADER = ["path", "score", "slide", "Größe µm", "my text"]


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    rows=cells(),
    sep=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    titles=st.integers(0, 2),
    blanks=st.sets(st.integers(1, 5), max_size=2),
    index=st.sampled_from([None, "", "Unnamed: 0"]),
    state_sep=st.booleans(),
)
def test_a_table_in_any_dialect_reads_back_as_the_same_cells(
    tmp_path, rows, sep, encoding, end, titles, blanks, index, state_sep
):
    options = {"sep": sep, "end": end, "titles": titles, "blanks": blanks, "index": index}
    text = written(HEADER, rows, state_sep=state_sep, **options)
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:
        content = text.encode("utf-8")
        encoding = "utf-8"
    if encoding == "cp1252":
        # "Ã¤" of Windows is "ä" of UTF-8: nothing can tell.
        assume(not _is_utf8(content))
    table = table_of(tmp_path, content)
    assert table.cells.to_numpy().tolist() == rows
    assert list(table.headings.values()) == HEADER
    expected = pd.read_csv(
        io.BytesIO(content),
        sep=sep,
        encoding=encoding,
        skiprows=titles + state_sep,
        dtype=str,
        keep_default_na=False,
        index_col=None if index is None else 0,
    ).map(str.strip)
    # pandas drops rows of nothing, but not those of empty cells
    expected = expected[expected["path"] != ""]
    np.testing.assert_array_equal(table.cells.to_numpy(), expected.to_numpy())


def _is_utf8(content):
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=cells(), titles=st.integers(0, 2), index=st.booleans(), other=st.booleans())
def test_a_workbook_reads_back_as_the_same_cells(tmp_path, rows, titles, index, other):
    book = openpyxl.Workbook()
    sheet = book.active
    for title in [["Study of HER2 (2024)"], []][:titles]:
        sheet.append(title)
    sheet.append([*[""] * index, *HEADER])
    for i, row in enumerate(rows):
        sheet.append([*[i] * index, *row])
    if other:
        book.create_sheet("Notes").append(["nothing", "to read"])
    book.save(tmp_path / "a.xlsx")
    table = read_text_table(tmp_path / "a.xlsx", needed=NEEDED)
    assert table.cells.to_numpy().tolist() == rows
    expected = pd.read_excel(
        tmp_path / "a.xlsx", skiprows=titles, dtype=str, keep_default_na=False, na_values=[""]
    ).fillna("")
    np.testing.assert_array_equal(table.cells.to_numpy(), expected[HEADER].to_numpy())


# --- cases of strangers -------------------------------------------------------------------------


def test_case_14_every_dialect_of_a_manifest_is_read_or_named_by_row_and_column(tmp_path):
    read = {
        "states its separator": b"sep=;\npath;score\na.png;=3+\n",
        "UTF-16": "path;score\na.png;+1\n".encode("utf-16"),
        "a title": b"Study of HER2, 2024\n\npath,score\na.png,1 +\n",
        "blank rows": b"path,score\n\n,\na.png,2.0\n",
        "doubled": b"path,Score,score\na.png,2,2\n",
    }
    for content in read.values():
        assert table_of(tmp_path, content).cells["path"].tolist() == ["a.png"]
    with pytest.raises(DataError, match="two columns are named 'Score' and 'score'"):
        table_of(tmp_path, b"path,Score,score\na.png,1,2\n")
    with pytest.raises(DataError, match="row 3 has 3 cells where the header has 2: put cells that"):
        table_of(tmp_path, b"path,score\na.png,1\nb.png,0,25\n")


def test_where_a_cell_stands_is_said_as_the_spreadsheet_counts(tmp_path):
    table = table_of(tmp_path, "title\n\nPath,Label\na,1\n\nb,2\n")
    assert table.line.tolist() == [4, 6]
    assert table.dialect == "commas, UTF-8, header in line 3"
    assert table.where(1, "score") == "a.csv row 6, column 'Label'"
    assert table.notes == [
        "The rows above the header (row 3) are titles, not read.",
        "1 blank row between others is left out.",
        "The column 'Label' is read as score.",
    ]


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (",path,score\n0,a,1\n1,b,2\n", 1),
        ("Unnamed: 0,path,score\n7,a,1\n3,b,2\n", 1),
        ("path,score,index\na,1,0\nb,2,1\n", 3),
        ('"path","score"\n"1","a","1"\n"2","b","2"\n', 1),  # R's write.table
    ],
)
def test_an_index_is_left_out_and_said(tmp_path, text, column):
    table = table_of(tmp_path, text)
    assert table.cells.to_numpy().tolist() == [["a", "1"], ["b", "2"]]
    assert len(table.notes) == 1
    assert f"Column {column} (" in table.notes[0]
    assert "left out as an index" in table.notes[0]


def test_numbers_under_a_name_are_no_index_and_cells_without_one_are_said(tmp_path):
    table = table_of(tmp_path, "x,index,path,score,\n0,5,a,1,hello\n1,7,b,2,\n")
    assert list(table.cells) == ["x", "index", "path", "score", "column 5"]
    assert table.notes == ["Column 5 has no heading: it is not read."]


def test_words_for_a_column_are_known_and_its_own_name_comes_first(tmp_path):
    table = table_of(tmp_path, "Image;CLASS;Case ID;WSI;µm/px;split\na;1;p;s;0,25;train\n")
    assert list(table.cells) == ["path", "score", "patient", "slide", "mpp", "set"]
    table = table_of(tmp_path, "path,file,score,label\na,x,1,9\n")
    assert list(table.cells) == ["path", "file", "score", "label"]
    assert text_tables.meant_column("  Slide-ID: ") == "slide"
    assert text_tables.meant_column("anna") == ""


def test_two_words_for_one_column_are_refused_unless_they_say_the_same(tmp_path):
    with pytest.raises(DataError, match="'filename' and 'image' could each be 'path'"):
        table_of(tmp_path, "filename,image,score\na,b,1\n")
    assert list(table_of(tmp_path, "filename,image,score\na,a,1\n").cells) == [
        "path",
        "image",
        "score",
    ]
    text = "path,score,wsi,slide_id\na,1,s,t\n"
    assert list(table_of(tmp_path, text).cells) == ["path", "score", "wsi", "slide_id"]
    with pytest.raises(DataError, match="'wsi' and 'slide_id' could each be 'slide'"):
        table_of(tmp_path, text, optional=("slide",))


def test_rows_that_end_early_are_refused_unless_only_remarks_are_missing(tmp_path):
    table = table_of(tmp_path, "path,score,remark\na,1\nb,2,x\n")
    assert table.cells["remark"].tolist() == ["", "x"]
    assert table.notes == ["1 row ends before the last column: what is missing reads as empty."]
    # The slide may be missing, and then its patient would stand in its place.
    with pytest.raises(DataError, match="row 2 has 3 cells where the header has 4: give every row"):
        table_of(tmp_path, "path,score,slide,patient\na,1,P1\n")
    assert len(table_of(tmp_path, "path,score,,\na,1,,\nb,2\n,,,,,\n").cells) == 2


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    with pytest.raises(DataError, match="no column 'score', only 'path', 'scor': name it so") as e:
        table_of(tmp_path, "path,scor\na,1\n")
    assert "perhaps 'scor'" in str(e.value)
    with pytest.raises(DataError, match="no column 'patch', only 'anna', 'ben'"):
        table_of(tmp_path, "anna;ben\n1;2\n", needed=(("patch", "path"),))
    table = table_of(tmp_path, "anna;path\n1;x\n", needed=(("patch", "path"),))
    assert list(table.cells) == ["anna", "path"]


def test_the_sheet_with_the_columns_is_read_and_two_such_are_refused(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["who", "when"])
    for title in ("Old", "New"):
        sheet = book.create_sheet(title)
        sheet.append(["path", "score"])
        sheet.append(["a", title])
        book.save(tmp_path / f"{title}.xlsx")
    table = read_text_table(tmp_path / "Old.xlsx", needed=NEEDED)
    assert table.cells["score"].tolist() == ["Old"]
    assert table.dialect == "Excel workbook, sheet 'Old'"
    with pytest.raises(DataError, match="in the sheets 'Old', 'New'"):
        read_text_table(tmp_path / "New.xlsx", needed=NEEDED)


def test_texts_that_spreadsheets_are_told_by_a_formula_are_the_texts(tmp_path):
    table = table_of(tmp_path, 'path,score,slide\na,"=""3+""","=""0012"""\nb,=2+,7\n')
    assert table.cells[["score", "slide"]].to_numpy().tolist() == [["3+", "0012"], ["=2+", "7"]]


def test_names_are_composed_and_blanks_around_them_gone(tmp_path):
    name = unicodedata.normalize("NFD", "größe.png")
    table = table_of(tmp_path, f"\u00a0path ,score\n{name}\u00a0, 1+ \n")
    assert table.cells.to_numpy().tolist() == [[unicodedata.normalize("NFC", name), "1+"]]


def test_without_needed_columns_the_header_is_the_first_row_as_wide_as_most(tmp_path):
    table = table_of(tmp_path, "my table\n\nwho;when\na;1,5\nb;2,5\n", needed=())
    assert list(table.cells) == ["who", "when"]
    assert table.cells["when"].tolist() == ["1,5", "2,5"]


def test_a_table_is_written_back_under_its_headings_titles_and_separator(tmp_path):
    text = "Study 7\nImage;Label;mine\na;1;x, y\n"
    table = table_of(tmp_path, text)
    text_tables.write_text_table(table, table.cells)
    assert table.path.read_text(encoding="utf-8") == text
    text_tables.write_text_table(table, table.cells.assign(score="2+", rater_a="3+"))
    assert table.path.read_text() == "Study 7\nImage;Label;mine;rater_a\na;2+;x, y;3+\n"
    book = openpyxl.Workbook()
    book.active.append(["path", "score"])
    book.active.append(["a", 1])
    book.save(tmp_path / "a.xlsx")
    workbook = read_text_table(tmp_path / "a.xlsx", needed=NEEDED)
    with pytest.raises(DataError, match="is read but not written"):
        text_tables.write_text_table(workbook, workbook.cells)


def test_a_hundred_thousand_rows_take_seconds(tmp_path):
    import time

    rows = [f"p/{i}.png,{i % 4},s{i // 50},P{i // 500},0.25,train" for i in range(100_000)]
    text = "\n".join(["path,score,slide,patient,mpp,set", *rows])
    began = time.process_time()
    table = table_of(tmp_path, text)
    assert time.process_time() - began < 5
    assert table.cells.shape == (100_000, 6)
