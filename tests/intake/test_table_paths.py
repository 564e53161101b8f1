"""Where the files of a table lie: as written, or below its folder under another beginning."""

import pytest
from examples import pictures

from her2lib.intake.table_paths import locate_files

SLIDES = ("im/slideA/1.png", "im/slideB/1.png")


@pytest.mark.parametrize(
    ("files", "texts"),
    [
        (SLIDES, ("im/slideA/1", "im/slideB/1")),
        (SLIDES, ("IM/slideA/1.PNG", "im/SLIDEB/1.png")),
        (SLIDES, (r"C:\data\im\slideA\1.png", r"C:\data\im\slideB\1.png")),
        (SLIDES, ("/home/anna/slideA/1.png", "/home/anna/slideB/1.png")),
        (("a.png", "b.png"), ("old/a.png", "old/b.png")),
        (("im/a.png", "more/b.png"), ("a.png", "b")),
        (("im/TCGA.A1.x.png", "im/TCGA.A2.x.png"), ("TCGA.A1.x", "TCGA.A2.x")),
    ],
)
def test_a_path_of_another_machine_leads_to_its_file(tmp_path, files, texts):
    pictures(tmp_path, *files)
    paths, sentences = locate_files(tmp_path, texts, table="list.csv")
    assert paths == [f"{tmp_path}/{file}" for file in files]
    assert "found below its folder" in sentences[0]


@pytest.mark.parametrize("texts", [SLIDES, (r"im\slideA\1.png", "im\\slideB/1.png")])
def test_a_path_as_written_needs_no_word(tmp_path, texts):
    pictures(tmp_path, *SLIDES)
    paths, sentences = locate_files(tmp_path, texts)
    assert paths == [f"{tmp_path}/{file}" for file in SLIDES]
    assert sentences == []


@pytest.mark.parametrize(
    ("files", "texts"),
    [
        # One slide's folder is not another's.
        (("slideB/1.png", "slideB/2.png"), ("slideA/1.png", "slideA/2.png")),
        (("1.png", "2.png"), ("slideA/1.png", "slideB/2.png")),
        # Two files could be meant.
        (("a/1.png", "b/1.png"), ("1.png", "z/2.png")),
        (("a/im/1.png", "b/im/1.png"), ("z/im/1.png",)),
        (("a/1.png", "a/1.tif"), ("a/1",)),
        (("a.png",), ("gone/../a.png",)),
    ],
)
def test_a_file_that_could_be_another_stays_missing(tmp_path, files, texts):
    pictures(tmp_path, *files)
    paths, sentences = locate_files(tmp_path, texts)
    assert paths == [f"{tmp_path}/{text}" for text in texts]
    assert sentences == []


def test_an_empty_text_is_no_path_and_a_few_missing_files_stay_missing(tmp_path):
    pictures(tmp_path, "im/1.png", "im/2.png")
    paths, sentences = locate_files(tmp_path, ["", "D:/im/1.png", "D:/im/2.png", "D:/im/3.png"])
    assert paths[:3] == ["", f"{tmp_path}/im/1.png", f"{tmp_path}/im/2.png"]
    assert paths[3].endswith("D:/im/3.png")
    assert "2 paths" in sentences[0]
