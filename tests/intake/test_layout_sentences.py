"""What is said of a layout reads as a sentence and counts right."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import manifest, pictures

from her2lib.files import DataError
from her2lib.intake import columns, layout_sentences
from her2lib.intake.choices import FIND_OUT, LAYOUTS
from her2lib.intake.layouts import read_layout
from her2lib.intake.listing import Listing


def test_counts_are_in_one_and_in_several():
    assert layout_sentences.count_text(1, "file") == "1 file"
    assert layout_sentences.count_text(1200, "patch", "patches") == "1,200 patches"
    assert layout_sentences.count_text(0, "file") == "0 files"


def test_the_example_is_the_first_row_whose_score_can_be_read():
    rows = pd.DataFrame({"file": ["a.png", "b.png"], "score": ["?x", "HER2 2+"], "slide": "S1"})
    example = layout_sentences.example_of(columns.as_raw_table(rows), FIND_OUT)
    assert (example["path"], example["score"], example["slide"]) == ("b.png", "2+", "S1")
    sentence = layout_sentences.read_as("folders", example, detail=" (folder1)")
    assert sentence == (
        "Read as folders named by score (folder1). "
        "For example b.png: score 2+, set none, slide S1, patient none."
    )


def test_every_layout_has_words():
    assert set(layout_sentences.TITLES) == set(LAYOUTS)


def test_what_was_not_read_is_counted_by_kind():
    lying = Listing(Path("x"), ["a.png", "b.png", "c.svs", "d.txt"], [])
    assert layout_sentences.aside_sentences(lying, {"a.png"}) == [
        "Not read: 1 other image (b.png).",
        "Not read: 1 slide, which her2 tile cuts (c.svs).",
        "Not read: 1 file that is no image (d.txt).",
    ]
    assert layout_sentences.aside_sentences(lying, set(lying.files)) == []


def test_what_contradicts_itself_is_counted():
    crossed = np.array([True, True, False])
    undecided = np.array([False, False, True])
    sets, scores = layout_sentences.crossing_sentences(crossed, undecided)
    assert sets.startswith("2 of 3 names say another set")
    assert scores.startswith("1 of 3 names say another score")
    assert layout_sentences.crossing_sentences(~crossed & False, undecided & False) == []


def test_what_declared_words_were_read_as_is_counted():
    texts = pd.Series(["negative", "HER2 negative", "2+", "low"])
    words = {"negative": "0", "equivocal": "2"}
    assert layout_sentences.score_word_sentences(texts, words) == [
        "Read as stated: 'negative' as 0 (2 patches), 'equivocal' as 2+ (0 patches)."
    ]
    assert layout_sentences.score_word_sentences(texts, {}) == []


@pytest.mark.parametrize(
    ("folders", "hint"),
    [
        (("negative", "low"), "are scores, say which each means: --score-word low=SCORE"),
        (("one plus", "two plus"), "--score-word 'one plus=SCORE'"),
        (("1", "2", "3", "4"), "counted from 1: --score-word 1=0 --score-word 2=1+"),
        (("0", "1", "4"), "--score-from folder1"),
    ],
)
def test_folders_that_may_be_scores_get_the_flag_that_says_so(tmp_path, folders, hint):
    pictures(tmp_path, *[f"{folder}/{folder}.png" for folder in folders])
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert hint in str(error.value)


def test_images_that_a_table_does_not_list_are_counted(tmp_path):
    manifest(pictures(tmp_path, "b.png", "c.png", "._d.png"), "a.png,0")
    sentences = read_layout(tmp_path).sentences
    assert "2 images lie beside those of manifest.csv and are not listed in it: b.png." in sentences
