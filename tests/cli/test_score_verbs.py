"""Verbs on scores: what they need is asked for, and nothing is made without it."""

import pytest
from examples import bci, tissue_pixels
from PIL import Image

from her2lib import cli, files


def her2(capsys, *arguments):
    """(exit status, everything printed)."""
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Path of a folder whose reports and cache are still to be made."""
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [
        (["score", "--run", "x"], "Name at least one image"),
        (["consensus", "--into", "manifest.csv"], "Name at least one folder of sheets"),
    ],
)
def test_a_verb_without_its_paths_asks_for_them(capsys, project, arguments, asks):
    code, printed = her2(capsys, *arguments)
    assert code == 2
    assert asks in printed
    assert not list(project.iterdir())


def test_a_run_that_is_not_there_names_what_there_is(capsys, project):
    code, printed = her2(capsys, "score", project, "--run", "smoke/none")
    assert code == 2
    assert "none is finished" in printed


def test_sheets_of_a_folder_are_one_folder_for_each_reader_and_a_key(capsys, project, monkeypatch):
    monkeypatch.chdir(project)
    root = bci(project / "data", train=4, test=4, he=False)
    code, printed = her2(capsys, "sheet", root, "--readers", "anna", "ben", "--repeats", 0)
    assert code == 0
    assert "8 patches for each of 2 readers" in printed
    for reader in ("anna", "ben"):
        (sheet,) = (project / "sheets").rglob(f"{reader}/sheet.csv")
        assert len(sheet.read_text().splitlines()) == 9
    assert list((project / "sheets").rglob("key.csv"))


def test_case_23_a_sheet_of_tiff_patches_shows_png_copies(capsys, project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "data").mkdir()
    rows = ["path,score"]
    for seed in range(3):
        Image.fromarray(tissue_pixels(seed, 48)).save(project / "data" / f"{seed}.tif")
        rows.append(f"{seed}.tif,{seed}+")
    (project / "data" / "manifest.csv").write_text("\n".join(rows).replace("0+", "0"))
    code, printed = her2(capsys, "sheet", project / "data", "--readers", "anna", "--repeats", 0)
    assert code == 0, printed
    images = sorted((project / "sheets" / "anna" / "images").iterdir())
    assert [image.suffix for image in images] == [".png"] * 3
    shown = {Image.open(image).tobytes() for image in images}
    assert shown == {tissue_pixels(seed, 48).tobytes() for seed in range(3)}
    page = (project / "sheets" / "anna" / "sheet.html").read_text(encoding="utf-8")
    assert all(image.name in page for image in images)


def test_a_sheet_says_what_was_read_and_what_is_left_out(capsys, project, monkeypatch):
    monkeypatch.chdir(project)
    root = bci(project / "data", train=4, test=4, he=False)
    (root / "IHC/train/00000_train_0.png").write_text("no image")
    code, printed = her2(capsys, "sheet", root, "--readers", "anna", "--repeats", 0)
    assert code == 1
    assert "7 patches for each of 1 reader" in printed
    assert "a BCI folder" in printed
    assert "00000_train_0.png" in printed
    assert "no PNG, JPEG" in printed


def test_a_sheet_takes_the_scale_that_its_sentence_asks_for(capsys, project):
    data = bci(project / "data", train=4, test=0, he=False)
    options = ["--readers", "a", "--into", project / "sheets", "--mpp", "0.5"]
    code, printed = her2(capsys, "sheet", data, *options)
    assert code == 0
    assert "Scale as stated: 0.5 micrometres a pixel, for 4 patches" in printed
    code, printed = her2(capsys, "sheet", "smoke", *options)
    assert code == 2
    assert "smoke is a study" in printed
    assert "--mpp" in printed
