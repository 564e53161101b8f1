"""A file is taken apart into rows of text, or refused in one sentence that names the row."""

import io

import openpyxl
import pytest

from her2lib.files import DataError
from her2lib.intake import table_files


def raw_table_of(path, separator=","):
    """RawTable of the whole file, read with a separator."""
    heads = [raw for raw in table_files.read_raw_tables(path) if raw.separator in ("", separator)]
    return table_files.whole_table(path, heads[0])


def workbook(path, *rows, **sheets):
    """Path of a workbook with these rows in its first sheet, and further sheets by name."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for title, more in sheets.items():
        sheet = book.create_sheet(title)
        for row in more:
            sheet.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("encoding", "dialect"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8 with BOM"),
        ("utf-16", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("cp1252", "Windows-1252 (it is not UTF-8: check names with accents)"),
    ],
)
def test_the_signs_of_a_file_are_known_by_its_first_bytes_and_said(tmp_path, encoding, dialect):
    text = "path,score\ngrösse.png,1+\n"
    if encoding == "utf-16-be":
        text = "\ufeff" + text
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    raw = raw_table_of(tmp_path / "a.csv")
    assert raw.rows == [["path", "score"], ["grösse.png", "1+"]]
    assert raw.dialect == f"commas, {dialect}"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_machine(tmp_path, end):
    text = end.join(["path,score", 'a,"two', 'lines"', "", "b,1"])
    (tmp_path / "a.csv").write_bytes(text.encode())
    rows = raw_table_of(tmp_path / "a.csv").rows
    assert rows == [["path", "score"], ["a", f"two{end}lines"], [], ["b", "1"]]


def test_a_first_line_that_states_the_separator_is_obeyed_and_is_no_row(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\npath;score\na,b;1\n")
    raw_tables = table_files.read_raw_tables(tmp_path / "a.csv")
    assert [raw.rows for raw in raw_tables] == [[["path", "score"], ["a,b", "1"]]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"path,score\na\0b,1\n", "holds NUL signs"),
        ("path,score\na,1\n".encode("utf-16-le"), "holds NUL signs"),
        (b"\xff\xfep", "damaged UTF-16"),
        (b"path,score\n\x81,1\n", "is not UTF-8 text"),
        (b"PK\x03\x04rest", "is an Excel workbook or another archive"),
        (b"\xd0\xcf\x11\xe0rest", "old or locked Excel workbook"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\x1f\x8brest", "is a compressed file"),
        (b'path,score\na,1\nb,"open\nc,2\n', "from row 3 on"),
        (b"path,score\na," + b"x" * 200_000 + b"\n", "from row 2 on"),
        (b'path,score,remark\na,1,"open\nb,2,closed"\nc,1,x\n', "row 2: a cell holds whole rows"),
    ],
)
def test_what_is_no_text_table_is_one_sentence(tmp_path, content, says):
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=says) as raised:
        raw_table_of(file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_a_folder_and_another_kind_are_sentences(tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    for name, says in (("gone.csv", "There is no file"), ("folder.csv", "is a folder")):
        with pytest.raises(DataError, match=says):
            table_files.read_raw_tables(tmp_path / name)
    for suffix in (".xls", ".ods", ".numbers", ".png"):
        (tmp_path / f"a{suffix}").write_bytes(b"x")
        with pytest.raises(DataError, match=r"save the table as \.xlsx or as 'CSV UTF-8'"):
            table_files.read_raw_tables(tmp_path / f"a{suffix}")
    monkeypatch.setattr(table_files, "MAX_BYTES", 3)
    (tmp_path / "a.csv").write_text("path,score\n")
    with pytest.raises(DataError, match="larger than"):
        table_files.read_raw_tables(tmp_path / "a.csv")


# --- workbooks ----------------------------------------------------------------------------------


def test_cells_of_a_workbook_are_what_people_see(tmp_path):
    from datetime import datetime

    row = ["a.png", 2.0, 0.25, 1, True, datetime(2024, 2, 1), "3+", None]
    file = workbook(tmp_path / "a.xlsx", row)
    expected = ["a.png", "2", "0.25", "1", "TRUE", "2024-02-01", "3+"]
    (raw,) = table_files.read_raw_tables(file)
    assert [cell for cell in raw.rows[0] if cell] == expected
    assert raw.dialect == "Excel workbook, sheet 'Sheet'"


def test_every_visible_sheet_that_holds_anything_is_a_grid(tmp_path):
    file = workbook(tmp_path / "a.xlsx", ["path"], more=[["x"]], empty=[], hidden=[["y"]])
    book = openpyxl.load_workbook(file)
    book["hidden"].sheet_state = "hidden"
    book.save(file)
    assert [raw.sheet for raw in table_files.read_raw_tables(file)] == ["Sheet", "more"]


def test_a_merged_cell_counts_for_all_its_rows_and_is_said(tmp_path):
    file = workbook(
        tmp_path / "a.xlsx", ["path", "patient"], ["a", "P1"], ["b"], ["c"], ["d", "P2"]
    )
    book = openpyxl.load_workbook(file)
    book.active.merge_cells("B2:B4")
    book.save(file)
    (raw,) = table_files.read_raw_tables(file)
    assert [row[1] for row in raw.rows] == ["patient", "P1", "P1", "P1", "P2"]
    assert raw.notes == ["Merged cells (1): the value of each is taken for all its rows."]


def test_a_formula_without_its_result_is_a_score_or_a_sentence_never_empty(tmp_path):
    (raw,) = table_files.read_raw_tables(
        workbook(tmp_path / "a.xlsx", ["path", "score"], ["a", "=3+"])
    )
    assert raw.rows[1] == ["a", "=3+"]
    file = workbook(tmp_path / "b.xlsx", ["path", "score"], ["a", "=C2*2", 1])
    with pytest.raises(
        DataError, match=r"row 2, column 2 holds the formula '=C2\*2' and no result"
    ):
        table_files.read_raw_tables(file)


def test_a_broken_workbook_is_one_sentence(tmp_path, monkeypatch):
    whole = workbook(tmp_path / "a.xlsx", ["path", "score"], ["a", 1]).read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], b"\xd0\xcf\x11\xe0"):
        (tmp_path / "b.xlsx").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.xlsx is no \.xlsx workbook, is damaged or locked"):
            table_files.read_raw_tables(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match="is empty"):
        table_files.read_raw_tables(workbook(tmp_path / "c.xlsx"))
    monkeypatch.setattr(table_files, "MAX_BYTES", len(whole))
    with pytest.raises(DataError, match="unpacks to"):
        table_files.read_raw_tables(tmp_path / "a.xlsx")


def test_rows_are_written_in_the_dialect_that_they_came_in(tmp_path):
    for text in ("a;b\n1;2\n", "\ufeffa;b\n1;2\n"):
        (tmp_path / "a.csv").write_bytes(text.encode())
        raw = raw_table_of(tmp_path / "a.csv", ";")
        assert table_files.encode_rows(raw.rows, raw) == text.encode()
    # What others cannot read on any machine becomes UTF-8 with a mark.
    (tmp_path / "a.csv").write_bytes("ä;b\n".encode("cp1252"))
    raw = raw_table_of(tmp_path / "a.csv", ";")
    assert table_files.encode_rows(raw.rows, raw) == "ä;b\n".encode("utf-8-sig")
    assert io.BytesIO(table_files.encode_rows([["a,b"]], raw)).read() == b"\xef\xbb\xbfa,b\n"


def test_rows_of_a_separator_that_only_their_first_line_stated_can_be_read_again(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("sep= \npath score\np0.png 1+\n")
    (raw,) = table_files.read_raw_tables(file)
    file.write_bytes(table_files.encode_rows(raw.rows, raw))
    (again,) = table_files.read_raw_tables(file)
    assert again.rows == raw.rows == [["path", "score"], ["p0.png", "1+"]]


def test_cells_behind_the_last_that_is_filled_in_are_empty_not_lost(tmp_path):
    file = workbook(tmp_path / "a.xlsx", ["path", "score", "patient"], ["a", "2+"], ["b"])
    (raw,) = table_files.read_raw_tables(file)
    assert raw.rows[1:] == [["a", "2+", ""], ["b", "", ""]]
