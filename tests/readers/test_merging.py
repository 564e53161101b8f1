"""Readings into the manifest: the consensus is of all of them, and nothing typed is lost."""

import numpy as np
import openpyxl
import pandas as pd
import pytest
from examples import fill_sheets, picture

from her2lib import cli
from her2lib.data import patches as patches_
from her2lib.files import DataError
from her2lib.readers import merging


@pytest.fixture
def manifest(tmp_path):
    """manifest.csv of eight patches, with a column of the user's own."""
    rows = []
    for i in range(8):
        picture(tmp_path / f"p{i}.png", i, side_px=64)
        rows.append(f"p{i}.png,{i % 4},mine{i}")
    (tmp_path / "manifest.csv").write_text("\n".join(["path,score,stored", *rows]) + "\n")
    return tmp_path / "manifest.csv"


def her2(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out + output.err


def test_from_sheets_to_the_manifest_by_two_commands(capsys, tmp_path, manifest):
    options = ["--readers", "A", "B", "--repeats", "0.25"]
    code, output = her2(capsys, "sheet", manifest, *options, "--into", tmp_path / "out")
    assert code == 0, output
    page = (tmp_path / "out" / "A" / "sheet.html").read_text(encoding="utf-8")
    assert "p0" not in page
    assert page.count("images/") == 10
    assert "http" not in page.replace("http-equiv", "")
    fill_sheets(tmp_path / "out", {f"p{i}.png": "3+" for i in range(8)})
    code, output = her2(capsys, "consensus", tmp_path / "out", "--into", manifest)
    assert code == 0, output
    # twice is once
    assert her2(capsys, "consensus", tmp_path / "out", "--into", manifest)[0] == 0
    table = pd.read_csv(manifest, dtype=str)
    assert table["score"].tolist() == ["3+"] * 8
    assert table["score_given"].tolist() == [str(i % 4) for i in range(8)]
    assert table["stored"].tolist() == [f"mine{i}" for i in range(8)]
    read, problems = patches_.read_table(manifest)
    assert read[["rater_a", "rater_b", "score"]].eq(3).all(axis=None)
    assert problems.empty


def test_bad_readings_are_one_sentence_each_and_the_rest_is_kept(capsys, tmp_path, manifest):
    (tmp_path / "r.csv").write_text(
        "patch,rater,score\np0.png,A,1+\nzz.png,A,1\np0.png,A,2\np1.png,A,5\np2.png,A,2+\n"
    )
    code, output = her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)
    assert code == 1
    sentences = ("'zz.png' is not in the manifest", "scored before", "'5' is not a HER2 score")
    for sentence in sentences:
        assert sum(sentence in line for line in output.splitlines()) == 1
    scores = pd.read_csv(manifest, dtype=str)["score"]
    assert scores.tolist() == ["1+", "1", "2+", *"30123"]


def test_two_readers_with_one_name_and_other_readings_leave_the_manifest_alone(
    capsys, tmp_path, manifest
):
    before = manifest.read_bytes()
    for name in ("r", "s"):
        (tmp_path / f"{name}.csv").write_text("patch,rater,score\np0.png,A,1+\n")
    code, output = her2(
        capsys, "consensus", tmp_path / "r.csv", tmp_path / "s.csv", "--into", manifest
    )
    assert code == 2
    assert "Two readers have one name" in output
    assert manifest.read_bytes() == before
    assert her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)[0] == 0
    before = manifest.read_bytes()
    (tmp_path / "s.csv").write_text("patch,rater,score\np0.png,A,3+\n")
    code, output = her2(capsys, "consensus", tmp_path / "s.csv", "--into", manifest)
    assert code == 2
    assert "other readings by 'A' of 1 patches" in output
    assert manifest.read_bytes() == before


# --- all readings count -------------------------------------------------------------------------


def write_manifest(tmp_path, text, name="manifest.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def cells_after(manifest, ratings, **options):
    """DataFrame of str of a manifest after ratings (patch, rater, score) were written into it."""
    rows = [(patch, rater, 1, score) for patch, rater, score in ratings]
    table = pd.DataFrame(rows, columns=["patch", "rater", "reading", "score"])
    merging.write_to_manifest(manifest, table, **options)
    return pd.read_csv(manifest, dtype=str, keep_default_na=False)


def test_case_10_a_reader_who_comes_later_does_not_replace_the_first_two(capsys, tmp_path):
    manifest = write_manifest(tmp_path, "path,score\np.png,1+\nq.png,\n")
    (tmp_path / "ab.csv").write_text("patch,anna,ben\np.png,0,0\nq.png,0,1+\n")
    (tmp_path / "carl.csv").write_text("patch,carl\np.png,2+\nq.png,2+\n")
    for name in ("ab.csv", "carl.csv"):
        code, output = her2(capsys, "consensus", tmp_path / name, "--into", manifest)
        assert code == 0, output
    assert "the majority of all 3 readers" in output
    assert "anna (2 patches, 0 of them new)" in output
    assert "carl (2 patches, 2 of them new)" in output
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    assert table["score"].tolist() == ["0", ""]
    assert table["score_given"].tolist() == ["1+", ""]
    assert table["rater_carl"].tolist() == ["2+", "2+"]


def test_a_dry_run_says_all_and_writes_nothing(capsys, tmp_path, manifest):
    (tmp_path / "r.csv").write_text("patch,slide,anna\np0,1,1+\np1,2,2+\n")
    before = sorted((file, file.read_bytes()) for file in tmp_path.iterdir())
    options = ["--into", manifest, "--dry-run"]
    code, output = her2(capsys, "consensus", tmp_path / "r.csv", *options)
    assert code == 0
    assert "anna (2 patches, 2 of them new)" in output
    assert "'slide' (a known word)" in output
    assert "nothing was written" in output
    assert sorted((file, file.read_bytes()) for file in tmp_path.iterdir()) == before


def test_readers_and_score_words_on_the_command_line(capsys, tmp_path, manifest):
    (tmp_path / "r.csv").write_text("patch,one,two\np0,1,negative\np1,2,2+\np2,2,low\n")
    command = ["consensus", tmp_path / "r.csv", "--into", manifest]
    code, output = her2(capsys, *command)
    assert code == 2
    assert "the column 'one' holds only 1, 2" in output
    words = ["--score-word", "negative=0", "--score-word", "low=1+"]
    code, output = her2(capsys, *command, "--readers", "one", "two", *words)
    assert code == 0, output
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    assert table["rater_one"].tolist()[:3] == ["1+", "2+", "2+"]
    assert table["rater_two"].tolist()[:3] == ["0", "2+", "1+"]


def test_the_old_manifest_is_kept_beside_and_no_change_writes_nothing(capsys, tmp_path, manifest):
    (tmp_path / "r.csv").write_text("patch,anna\np0,1+\n")
    text = manifest.read_bytes()
    _, output = her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)
    (old,) = tmp_path.glob("manifest.before-*.csv")
    assert old.name in output
    assert old.read_bytes() == text
    written = manifest.read_bytes()
    _, output = her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)
    assert "holds all of this already" in output
    assert (manifest.read_bytes(), old.read_bytes()) == (written, text)


# --- what people typed --------------------------------------------------------------------------


def test_a_new_empty_cell_erases_no_reading_and_other_columns_stay(tmp_path):
    text = "Study 7\nImage;Score;mine;Rater_Anna\na.png;1;x, y;2+\nb.png;2;z;n/a\n"
    manifest = write_manifest(tmp_path, text)
    rows = [("b.png", "anna", 1, 3), ("b.png", "ben", 1, 3)]
    ratings = pd.DataFrame(rows, columns=["patch", "rater", "reading", "score"])
    merging.write_to_manifest(manifest, ratings)
    assert manifest.read_text() == (
        "Study 7\nImage;Score;mine;Rater_Anna;rater_ben;score_given\n"
        "a.png;2+;x, y;2+;;1\nb.png;3+;z;3+;3+;2\n"
    )


def test_another_score_by_the_same_reader_is_refused_with_the_count(tmp_path):
    manifest = write_manifest(tmp_path, "path,score,Rater_Anna\na.png,0,2\nb.png,0,1\nc.png,0,\n")
    before = manifest.read_bytes()
    with pytest.raises(DataError, match="other readings by 'anna' of 2 patches"):
        cells_after(manifest, [("a.png", "anna", 1), ("b.png", "anna", 0), ("c.png", "anna", 0)])
    assert manifest.read_bytes() == before
    after = cells_after(manifest, [("a.png", "ANNA", 2), ("c.png", "ANNA", 0)])
    assert after["Rater_Anna"].tolist() == ["2", "1", "0"]


def test_a_score_that_is_settled_no_longer_goes_back_to_what_it_was(tmp_path):
    manifest = write_manifest(tmp_path, "path,score\na.png,3+\nb.png,\nc.png,2\n")
    after = cells_after(
        manifest, [("a.png", "anna", 0), ("b.png", "anna", 0), ("c.png", "anna", 1)]
    )
    assert after["score"].tolist() == ["0", "0", "1+"]
    after = cells_after(manifest, [("a.png", "ben", 2), ("b.png", "ben", 2), ("c.png", "ben", 1)])
    assert after["score"].tolist() == ["3+", "", "1+"]
    assert after["score_given"].tolist() == ["3+", "", "2"]
    # ben and carl agree, so it is settled again
    after = cells_after(manifest, [("a.png", "carl", 2)])
    assert after["score"].tolist() == ["2+", "", "1+"]


def test_a_tie_that_people_settled_by_hand_stays_settled(tmp_path):
    manifest = write_manifest(tmp_path, "path,score\na.png,3+\nb.png,0\n")
    cells_after(manifest, [("a.png", "anna", 0), ("a.png", "ben", 1)])
    text = manifest.read_text()
    assert text.splitlines()[1] == "a.png,3+,0,1+"
    after = cells_after(manifest, [("b.png", "anna", 1)])
    assert after["score"].tolist() == ["3+", "1+"]
    typed = "path,score,rater_anna,rater_ben,score_given\na.png,2+,0,1+,3+\nb.png,1+,1+,,0\n"
    write_manifest(tmp_path, typed)
    after = cells_after(manifest, [("b.png", "ben", 1)])
    assert after["score"].tolist() == ["2+", "1+"]
    after = cells_after(manifest, [("a.png", "carl", 0)])
    assert after["score"].tolist() == ["0", "1+"]
    assert after["score_given"].tolist() == ["3+", "0"]


def test_typed_scores_that_give_way_are_counted(tmp_path):
    typed = "path,score,rater_anna,score_given\na.png,2+,0,3+\n"
    manifest = write_manifest(tmp_path, typed)
    ratings = pd.DataFrame([("a.png", "ben", 1, 0)], columns=["patch", "rater", "reading", "score"])
    sentences = merging.write_to_manifest(manifest, ratings)
    assert any("1 scores that were typed after an earlier consensus" in one for one in sentences)


def test_rows_that_came_after_the_first_consensus_keep_their_score_as_given(tmp_path):
    text = "path,score,rater_anna,score_given\na.png,1+,1+,3+\nnew.png,2,,\n"
    after = cells_after(write_manifest(tmp_path, text), [("new.png", "anna", 0)])
    assert after["score"].tolist() == ["1+", "0"]
    assert after["score_given"].tolist() == ["3+", "2"]


def test_cells_of_readers_that_are_no_scores_stay_and_are_counted(tmp_path):
    manifest = write_manifest(tmp_path, "path,score,rater_anna\na.png,0,2+?\nb.png,0,1\n")
    table, _ = merging.open_manifest(manifest)
    nothing = pd.DataFrame(columns=["patch", "rater", "reading", "score"])
    merger = merging.merge_into_manifest(table, nothing)
    assert any(
        "1 cell of the column 'rater_anna' without a score" in one for one in merger.sentences
    )
    assert any("manifest.csv row 2, column 'rater_anna': '2+?'" in one for one in merger.sentences)
    assert merger.cells["rater_anna"].tolist() == ["2+?", "1"]


def test_a_manifest_that_cannot_be_written_is_refused_before_anything(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        merging.open_manifest(tmp_path)
    book = openpyxl.Workbook()
    book.active.append(["path", "score"])
    book.active.append(["a.png", 1])
    book.save(tmp_path / "m.xlsx")
    with pytest.raises(DataError, match="a workbook, which is read but not written"):
        merging.open_manifest(tmp_path / "m.xlsx")


def test_the_median_of_all_by_hand(tmp_path):
    manifest = write_manifest(
        tmp_path, "path,score,rater_anna,rater_ben\na.png,,0,1+\nb.png,,0,3\n"
    )
    after = cells_after(manifest, [("a.png", "carl", 3), ("b.png", "carl", 2)], how="median")
    assert after["score"].tolist() == ["1+", "2+"]
    np.testing.assert_array_equal(after["rater_carl"], ["3+", "2+"])


def test_who_read_alone_and_what_was_read_twice_is_said(tmp_path, manifest):
    (tmp_path / "r.csv").write_text(
        "patch,reader,reading,score\np0,A,1,0\np0,A,2,1+\np0,B,1,0\np1,A,1,2+\n"
    )
    table, names = merging.open_manifest(manifest)
    readings = merging.gather_readings([tmp_path / "r.csv"], patches=names)
    sentences = merging.merge_into_manifest(table, readings.ratings).sentences
    assert "1 patch was read by one reader alone, whose score stands." in sentences
    assert "1 repeated reading is not written: a reader's first reading of a patch counts." in (
        sentences
    )
    assert any("B (1 patch, 1 of them new)" in sentence for sentence in sentences)
