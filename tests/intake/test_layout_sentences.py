"""What is said of a layout reads as a sentence and counts right."""

from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.intake import columns, layout_sentences
from her2lib.intake.choices import FIND_OUT, LAYOUTS
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
