"""What lies at one path: every file is a row, a slide, or left aside with a reason."""

import pytest
from examples import bci, picture

from her2lib.files import DataError
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.scoring.new_folders import OTHER_STAIN, what_lies_at


def test_one_image_is_one_row_whatever_its_ending_says(tmp_path):
    lying = what_lies_at(picture(tmp_path / "a.png", 1), FIND_OUT)
    assert lying.rows["file"].tolist() == ["a.png"]
    assert lying.slides == []
    (tmp_path / "words.doc").write_text("no image")
    assert what_lies_at(tmp_path / "words.doc", FIND_OUT).rows["file"].tolist() == ["words.doc"]


def test_a_file_that_can_be_nothing_but_a_slide_is_one(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"damaged")
    assert what_lies_at(tmp_path / "a.svs", FIND_OUT).slides == [tmp_path / "a.svs"]


def test_he_partners_are_left_aside_with_the_reason(tmp_path):
    lying = what_lies_at(bci(tmp_path / "BCI", train=4, test=0), FIND_OUT)
    assert len(lying.rows) == 4
    assert [why for _, why in lying.aside] == [OTHER_STAIN] * 4


def test_files_whose_folder_and_name_quarrel_are_rows_without_a_score(tmp_path):
    for i, score in enumerate(["0", "1+", "2+", "3+"]):
        picture(tmp_path / "n" / score / f"her2-{score}-score_{i}.png", i)
    picture(tmp_path / "n" / "0" / "her2-3+-score_9.png", 9)
    lying = what_lies_at(tmp_path / "n", FIND_OUT)
    assert len(lying.rows) == 5
    assert lying.rows.set_index("file").score["0/her2-3+-score_9.png"] == ""


def test_stated_layouts_are_followed(tmp_path):
    for i, score in enumerate(["0", "1+"]):
        picture(tmp_path / "n" / score / "x.png", i)
    assert what_lies_at(tmp_path / "n", FIND_OUT).rows["score"].tolist() == ["0", "1+"]
    as_images = what_lies_at(tmp_path / "n", Choices(layout="images"))
    assert set(as_images.rows["score"]) == {""}


def test_nothing_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match="name an image, a folder of them"):
        what_lies_at(tmp_path / "gone", FIND_OUT)
