"""Files are written whole or not at all; fingerprints are equal where contents are."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from her2lib import files


def test_nothing_half_written_when_writing_fails(tmp_path, monkeypatch):
    file = files.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_every_writer_returns_its_file_and_makes_its_folder(tmp_path):
    table = pd.DataFrame({"patch": ["a", "b"], "score": [0, 3]})
    record = {"name": "Größe", "path": Path("x")}
    text = files.write_text(tmp_path / "deep" / "er" / "a.txt", "µ")
    csv = files.write_table(str(tmp_path / "table" / "a.csv"), table)
    written = files.write_json(tmp_path / "a.json", record)
    assert text.read_text(encoding="utf-8") == "µ"
    pd.testing.assert_frame_equal(pd.read_csv(csv), table)
    assert files.read_json(written) == {"name": "Größe", "path": "x"}
    assert "Größe" in written.read_text(encoding="utf-8")


def test_a_file_that_is_not_there_is_an_empty_record(tmp_path):
    assert files.read_json(tmp_path / "none.json") == {}
    (tmp_path / "half.json").write_text('{"a": 1')
    with pytest.raises(ValueError, match=r"half\.json is damaged"):
        files.read_json(tmp_path / "half.json")


def test_a_damaged_record_is_named(tmp_path):
    for content in (b'{"a": ', b"\xff\xfe", b""):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.json is damaged.*take it away"):
            files.read_json(tmp_path / "run.json")


def test_a_name_of_bytes_that_are_no_utf_8_is_kept_in_json_and_refused_in_a_table(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    file = files.write_json(tmp_path / "a.json", {name: "ä😀"})
    assert files.read_json(file) == {name: "ä😀"}
    with pytest.raises(ValueError, match=r"a\.csv cannot hold 'caf.*Rename"):
        files.write_text(tmp_path / "a.csv", f"path\n{name},1\nb.png\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def test_the_old_file_is_kept_beside_what_changes_it(tmp_path):
    file = files.write_text(tmp_path / "mine.v1.toml", "old")
    old = files.keep_old(file)
    files.write_text(file, "new")
    assert old.read_text() == "old"
    assert old.name.startswith("mine.v1.before-20")
    assert old.suffix == ".toml"
    assert files.keep_old(tmp_path / "absent.csv") is None


def test_an_old_file_is_kept_once_a_day_beside_the_new(tmp_path):
    assert files.keep_old(tmp_path / "manifest.csv") is None
    file = files.write_text(tmp_path / "manifest.csv", "typed")
    old = files.keep_old(file)
    assert old.name.startswith("manifest.before-")
    assert old.suffix == ".csv"
    assert old.read_text() == file.read_text() == "typed"
    written = old.stat().st_mtime_ns
    assert files.keep_old(file) == old
    assert old.stat().st_mtime_ns == written
    files.write_text(file, "typed more")
    assert files.keep_old(file).read_text() == "typed more"
    assert sorted(tmp_path.iterdir()) == [old, file]


def test_paths_of_study_files_are_relative_to_the_project(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert files.resolve_path("data/BCI") == tmp_path / "data" / "BCI"
    assert files.resolve_path(tmp_path / "far") == tmp_path / "far"
    assert files.resolve_path("~/mine") == Path.home() / "mine"


def test_equal_values_have_equal_fingerprints():
    one = files.fingerprint({"a": 1, "b": [2, 3]}, "x")
    assert files.fingerprint({"b": [2, 3], "a": 1}, "x") == one
    assert files.fingerprint({"a": 1, "b": [3, 2]}, "x") != one
    assert len(one) == 16
    assert int(one, 16) >= 0


def test_a_name_leads_to_the_source_of_a_module_a_room_and_a_notebook(monkeypatch, tmp_path):
    library = Path(files.__file__).parent
    assert files.source_file("files") == library / "files.py"
    assert files.source_file("data.patches") == library / "data" / "patches.py"
    assert files.source_file("data") == library / "data" / "__init__.py"
    assert files.source_file("") == library / "__init__.py"
    monkeypatch.setattr(files, "ROOT", tmp_path)
    notebook = files.write_text(tmp_path / "notebooks" / "06_compare_models.ipynb", "{}")
    assert files.source_file("06_compare_models") == notebook


def test_the_fingerprint_of_source_changes_with_the_source(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    before = files.source_fingerprint("scores", "files")
    assert files.source_fingerprint("scores", "files") == before
    assert files.source_fingerprint("files") != before
    notebook = files.write_text(tmp_path / "notebooks" / "a.ipynb", "1")
    first = files.source_fingerprint("a")
    files.write_text(notebook, "2")
    assert files.source_fingerprint("a") != first


def test_facts_of_a_folder_name_every_file_below_it(tmp_path):
    files.write_text(tmp_path / "top" / "b.txt", "12345")
    files.write_text(tmp_path / "top" / "sub" / "a.txt", "1")
    names_and_sizes = [fact[:2] for fact in files.file_facts(tmp_path / "top")]
    assert names_and_sizes == [("top/b.txt", 5), ("top/sub/a.txt", 1)]
    assert files.file_facts(tmp_path / "top" / "b.txt")[0][0] == "b.txt"
    assert files.file_facts(tmp_path / "none") == []


def test_a_close_word_is_offered_else_all_are_listed():
    known = ["resnet18", "hybrid", 3]
    assert files.did_you_mean("resnet19", known) == " Did you mean 'resnet18'?"
    assert files.did_you_mean("vgg", known) == " Known: resnet18, hybrid, 3."


def test_cores_are_counted():
    assert files.usable_cores() >= 1


def test_importing_it_brings_neither_torch_nor_pandas():
    code = "import sys, her2lib.files; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_notebooks_are_read_without_parsing_a_grammar_and_still_validated():
    code = """
import sys
from her2lib import files
files.skip_address_grammar()
import nbformat, papermill
assert "rfc3987_syntax.syntax_helpers" not in sys.modules
nbformat.validate(nbformat.v4.new_notebook())
try:
    nbformat.validate({"cells": [], "metadata": 1, "nbformat": 4, "nbformat_minor": 5})
except nbformat.ValidationError:
    print("refused")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "refused"
