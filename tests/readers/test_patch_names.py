"""Patches are found under every name that is clear, and under no other."""

import unicodedata

import pytest

from her2lib.readers.patch_names import PatchNames

NAMES = {
    "a.png": "slide7/a.png",
    "größe.png": "slide7/größe.png",
    "slide7/x.png": "slide7/x.png",
    "slide8/x.png": "slide8/x.png",
    "b.png": "b.png",
    "b.tif": "b.tif",
    "TCGA-01.0B3.png": "TCGA-01.0B3.png",
}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.png", "a.png"),
        ("a", "a.png"),
        ("A.PNG", "a.png"),
        ("slide7/a.png", "a.png"),
        ("/home/me/study/slide7/a.png", "a.png"),
        ("D:\\export\\a.png", "a.png"),
        (unicodedata.normalize("NFD", "größe"), "größe.png"),
        ("slide7\\x", "slide7/x.png"),
        ("any/slide8/x.png", "slide8/x.png"),
        ("b.tif", "b.tif"),
        ("TCGA-01.0B3", "TCGA-01.0B3.png"),
    ],
)
def test_case_12_a_patch_is_found_by_path_and_without_its_ending(text, name):
    assert PatchNames(NAMES).match(text) == (name, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x.png", "could be 'slide7/x.png' or 'slide8/x.png', write which"),
        ("slide9/x", "could be 'slide7/x.png' or 'slide8/x.png'"),
        ("b", "could be 'b.png' or 'b.tif'"),
        ("TCGA-01", "is not in the manifest"),
        ("", "is not in the manifest"),
    ],
)
def test_what_is_unclear_or_not_there_is_a_sentence(text, why):
    name, sentence = PatchNames(NAMES).match(text)
    assert name == ""
    assert why in sentence


def test_one_patch_named_in_two_folders_is_none_of_them():
    matches = PatchNames(["a.png", "b.png"]).match_all(
        ["slide7/a.png", "slide9/a.png", "slide7/b.png", "b.png", "a"]
    )
    assert matches["slide7/b.png"] == matches["b.png"] == ("b.png", "")
    paths = {"a.png": "slide7/a.png"}
    matches_of_paths = PatchNames(paths).match_all(["D:/x/slide7/a.png", "slide9/a.png", "a"])
    assert [matches_of_paths[text][0] for text in ("D:/x/slide7/a.png", "a")] == ["a.png", "a.png"]
    assert matches_of_paths["slide9/a.png"][0] == ""
    for text in ("slide7/a.png", "slide9/a.png"):
        assert matches[text][0] == ""
        assert "one of several that may be 'a.png'" in matches[text][1]
