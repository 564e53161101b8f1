"""New patches: images, folders, manifests, slides become one table; every other file is named."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from examples import bci, manifest, picture, tissue_pixels, write_slide
from PIL import Image

from her2lib.files import DataError
from her2lib.intake.choices import Choices
from her2lib.scoring import new_patches


def gathered(*paths, tmp_path, **options):
    return new_patches.gather_patches(paths, tmp_path / "out", progress=False, **options)


def small_slide(file):
    """Path of a pyramidal TIFF of 1024 px, a slide for OpenSlide."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((1024, 1024, 3), 236, np.uint8)
    pixels[256:512, 256:512] = tissue_pixels(1, 256)
    return write_slide(file, pixels)


# --- what becomes a patch -------------------------------------------------------------------------


def test_images_and_folders_become_one_table_without_repeats(tmp_path):
    for number in range(3):
        picture(tmp_path / "new" / "deep" / f"{number}.png", number)
    (tmp_path / "new" / "words.png").write_text("no image")
    new = gathered(tmp_path / "new", tmp_path / "new" / "deep" / "1.png", tmp_path=tmp_path)
    assert list(new.table.columns) == new_patches.COLUMNS
    assert new.table.patch.tolist() == ["0.png", "1.png", "2.png"]
    assert new.table.x.isna().all()
    assert set(new.table.slide) == {""}
    assert len(new.problems) == 1
    assert "words.png is left out" in new.problems[0]
    assert new.notes[0] == "4 files lie there: 3 patches read, 1 refused, 0 left aside."


def test_a_manifest_is_read_with_where_its_patches_lie(tmp_path):
    rows = ("a.png,,S1,0,100,0.2", "b.png,,S1,100,100,0.3")
    folder = manifest(tmp_path / "tiles", *rows, head="path,score,slide,x,y,dab")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.problems == []
    assert new.table[["x", "y", "dab"]].values.tolist() == [[0, 100, 0.2], [100, 100, 0.3]]
    assert set(new.table.slide) == {"S1"}
    by_file = gathered(folder / "manifest.csv", tmp_path=tmp_path)
    pd.testing.assert_frame_equal(by_file.table, new.table)


def test_a_manifest_in_german_excel_gives_the_same_places(tmp_path):
    folder = tmp_path / "tiles"
    for i, name in enumerate("ab"):
        picture(folder / f"{name}.png", i)
    rows = ["path;score;slide;x;y;dab", "a.png;;S1;0;100;0,25", "b.png;;S1;100;100;0,5"]
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table[["x", "y", "dab"]].values.tolist() == [[0, 100, 0.25], [100, 100, 0.5]]


def test_a_known_layout_gives_scores_and_loose_images_none(tmp_path):
    new = gathered(bci(tmp_path / "BCI", train=4, test=0, he=False), tmp_path=tmp_path)
    assert new.table.score_given.tolist() == [0, 1, 2, 3]
    assert any("a BCI folder" in note for note in new.notes)
    assert any("a score of 4" in note for note in new.notes)
    assert any("Looks like BCI" in note and "whole slides" in note for note in new.notes)
    picture(tmp_path / "loose" / "a.png", 9)
    assert gathered(tmp_path / "loose", tmp_path=tmp_path).table.score_given.tolist() == [-1]


def test_scores_that_could_be_read_in_two_ways_are_not_guessed_and_the_patches_stay(tmp_path):
    for patient in ("1", "2"):
        for score in ("1", "2"):
            picture(tmp_path / "two" / patient / score / "x.png", int(patient + score))
    new = gathered(tmp_path / "two", tmp_path=tmp_path)
    assert len(new.table) == 4
    assert set(new.table.score_given) == {-1}
    assert any("--score-from" in note for note in new.notes)
    chosen = gathered(tmp_path / "two", tmp_path=tmp_path, choices=Choices(score_from="folder1"))
    assert chosen.table.score_given.tolist() == [1, 2, 1, 2]


def test_a_score_that_cannot_be_read_keeps_its_patch_and_is_counted(tmp_path):
    folder = manifest(tmp_path / "m", "a.png,2+", "b.png,equivocal")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table.score_given.tolist() == [2, -1]
    assert new.problems == []
    assert any("'equivocal'" in note and "--score-word" in note for note in new.notes)
    stated = gathered(folder, tmp_path=tmp_path, choices=Choices(score_words={"equivocal": "2+"}))
    assert stated.table.score_given.tolist() == [2, 2]


def test_a_table_without_scores_names_patches_all_the_same(tmp_path):
    folder = manifest(tmp_path / "m", "a.png,S1", "b.png,S2", head="path,slide")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table.slide.tolist() == ["S1", "S2"]
    assert set(new.table.score_given) == {-1}
    assert any("compared with no scores" in note and "score" in note for note in new.notes)
    stated = gathered(folder, tmp_path=tmp_path, choices=Choices(score_from="none"))
    assert len(stated.table) == 2
    assert not any("compared with no scores" in note for note in stated.notes)


def test_the_stated_scale_fills_what_no_file_states(tmp_path):
    folder = manifest(tmp_path / "m", "a.png,0,0.5", "b.png,0,", head="path,score,mpp")
    new = gathered(folder, tmp_path=tmp_path, choices=Choices(mpp=0.25))
    assert new.table.mpp.tolist() == [0.5, 0.25]
    assert "Scale as stated: 0.25 micrometres a pixel, for 1 patch." in new.notes


# --- slides ---------------------------------------------------------------------------------------


def test_slides_and_photographs_of_one_folder_are_both_read(tmp_path):
    small_slide(tmp_path / "new" / "S0.tif")
    small_slide(tmp_path / "new" / "deep" / "S1.tif")
    for number in range(3):
        picture(tmp_path / "new" / f"{number}.png", number)
    new = gathered(tmp_path / "new", tmp_path=tmp_path, mpp=0.5, side_px=256, workers=1)
    assert new.problems == []
    assert new.table.slide.tolist() == ["", "", "", "S0", "S1"]
    assert new.table.x.notna().tolist() == [False, False, False, True, True]
    wanted = "5 files lie there: 3 patches and 2 slides, cut into 2 patches, read, 0 refused"
    assert new.notes[0].startswith(wanted)


def test_results_of_an_earlier_call_in_the_same_folder_are_no_patches(tmp_path):
    picture(tmp_path / "new" / "a.png", 1)
    picture(tmp_path / "new" / "scored" / "maps" / "a.png", 2)
    results = tmp_path / "new" / "scored"
    new = new_patches.gather_patches([tmp_path / "new"], results, progress=False)
    assert new.table.patch.tolist() == ["a.png"]
    assert "1 patch read, 0 refused, 1 left aside" in new.notes[0]
    assert any("results of an earlier" in note for note in new.notes)


def test_case_22_tiled_tiff_patches_are_patches(tmp_path):
    (tmp_path / "new").mkdir()
    for number in range(2):
        tifffile.imwrite(
            tmp_path / "new" / f"{number}.tif",
            tissue_pixels(number, 256),
            tile=(128, 128),
            photometric="rgb",
        )
    new = gathered(tmp_path / "new", tmp_path=tmp_path)
    assert new.problems == []
    assert new.table.patch.tolist() == ["0.tif", "1.tif"]
    one = gathered(tmp_path / "new" / "0.tif", tmp_path=tmp_path)
    assert one.table.patch.tolist() == ["0.tif"]


def test_a_slide_that_cannot_be_read_leaves_the_others_done(tmp_path):
    small_slide(tmp_path / "new" / "S0.tif")
    (tmp_path / "new" / "S1.svs").write_bytes(b"no slide")
    picture(tmp_path / "new" / "a.png", 1)
    new = gathered(tmp_path / "new", tmp_path=tmp_path, mpp=0.5, side_px=256, workers=1)
    assert new.table.slide.tolist() == ["", "S0"]
    assert len(new.problems) == 1
    assert "S1.svs" in new.problems[0]
    assert "1 refused, 0 left aside" in new.notes[0]
    assert new.left_out.fate.tolist() == ["of a slide"]
    assert "S1.svs" in new.left_out.problem[0]


# --- what is left aside, refused, counted ---------------------------------------------------------


def test_case_21_checkpoints_and_junk_are_left_aside_and_named(tmp_path):
    folder = tmp_path / "new"
    source = picture(folder / "a.png", 1)
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(source, folder / ".ipynb_checkpoints" / "a-checkpoint.png")
    shutil.copy(source, folder / "a (1).png")
    (folder / "._a.png").write_bytes(b"mac")
    (folder / "Thumbs.db").write_bytes(b"windows")
    (folder / "notes.txt").write_text("words")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table.patch.tolist() == ["a.png"]
    assert new.problems == []
    assert new.notes[0] == "6 files lie there: 1 patch read, 0 refused, 5 left aside."
    for name in (".ipynb_checkpoints", "a (1).png", "._a.png", "Thumbs.db", "notes.txt"):
        assert new.left_out.file.str.endswith(name).sum() == 1
        assert any(name in note for note in new.notes)


def test_the_same_bytes_are_scored_once_and_a_quarrel_about_their_score_is_told(tmp_path):
    folder = tmp_path / "new"
    source = picture(folder / "a.png", 1)
    shutil.copy(source, folder / "other.png")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table.patch.tolist() == ["a.png"]
    assert "1 patch read, 0 refused, 1 left aside" in new.notes[0]
    assert any("the same bytes as" in note for note in new.notes)
    (folder / "manifest.csv").write_text("path,score\na.png,0\nother.png,3+\n")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table.score_given.tolist() == [-1]
    assert any("different scores" in note for note in new.notes)


def test_links_are_read_where_the_user_lets_them_lead(tmp_path):
    store = picture(tmp_path / "store" / "a.png", 1).parent
    (tmp_path / "new").mkdir()
    picture(tmp_path / "new" / "b.png", 2)
    (tmp_path / "new" / "a.png").symlink_to(store / "a.png")
    new = gathered(tmp_path / "new", tmp_path=tmp_path)
    assert new.table.patch.tolist() == ["b.png"]
    assert f"--allow {store}" in new.problems[0]
    allowed = gathered(tmp_path / "new", tmp_path=tmp_path, choices=Choices(allow=(str(store),)))
    assert sorted(allowed.table.patch) == ["a.png", "b.png"]
    assert allowed.problems == []


def test_what_a_manifest_does_not_list_is_left_aside_and_what_it_misses_refused(tmp_path):
    folder = manifest(tmp_path / "m", "a.png,0", "b.png,1+")
    (folder / "b.png").unlink()
    picture(folder / "c.png", 7)
    new = gathered(folder, tmp_path=tmp_path)
    assert new.table.patch.tolist() == ["a.png"]
    assert new.notes[0] == "3 files lie there: 1 patch read, 1 refused, 1 left aside."
    assert any("not listed in manifest.csv" in note and "c.png" in note for note in new.notes)
    assert "b.png is left out: there is no such file" in new.problems[0]


def test_counts_add_up_where_a_row_has_several_faults(tmp_path):
    folder = manifest(tmp_path / "m", "a.png,0,0.5", "b.png,9,800", head="path,score,mpp")
    (folder / "b.png").write_bytes(b"")
    new = gathered(folder, tmp_path=tmp_path)
    assert new.notes[0] == "2 files lie there: 1 patch read, 1 refused, 0 left aside."
    assert len(new.left_out) == 1


def test_fields_that_are_none_are_refused_by_what_they_are_unless_the_user_wants_them(tmp_path):
    picture(tmp_path / "new" / "a.png", 1)
    for i, colour in enumerate(["white", "black"]):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "new" / f"{i}.png")
    new = gathered(tmp_path / "new", tmp_path=tmp_path)
    assert new.table.patch.tolist() == ["a.png"]
    assert len(new.problems) == 2
    assert all("no H-DAB field" in problem and "--any-field" in problem for problem in new.problems)
    wanted = gathered(tmp_path / "new", tmp_path=tmp_path, choices=Choices(any_field=True))
    assert len(wanted.table) == 3


def test_sides_that_are_cut_off_are_told(tmp_path):
    (tmp_path / "new").mkdir()
    Image.fromarray(tissue_pixels(1, 64)[:36]).save(tmp_path / "new" / "wide.png")
    picture(tmp_path / "new" / "a.png", 2)
    new = gathered(tmp_path / "new", tmp_path=tmp_path, choices=Choices(any_field=True))
    sentence = next(note for note in new.notes if "Not square" in note)
    assert "1 of 2 images" in sentence
    # 36 of 64 columns are scored
    assert "44%" in sentence
    assert "wide.png: 64 x 36 px" in sentence


def test_two_files_of_one_name_keep_their_folders(tmp_path):
    for seed, name in enumerate(["one/a", "one/sub/a", "two/a", "two/sub/a"]):
        picture(tmp_path / f"{name}.png", seed)
    new = gathered(tmp_path / "one", tmp_path / "two", tmp_path=tmp_path)
    assert new.table.patch.is_unique
    assert len(new.table) == 4


def test_names_that_act_on_a_terminal_are_refused_and_printed_harmlessly(tmp_path):
    picture(tmp_path / "new" / "a.png", 1)
    picture(tmp_path / "new" / "b\x1b[31m.png", 2)
    new = gathered(tmp_path / "new", tmp_path=tmp_path)
    assert new.table.patch.tolist() == ["a.png"]
    assert "\x1b" not in "".join([*new.notes, *new.problems])


def test_nothing_there_is_a_sentence_and_an_empty_folder_an_empty_table(tmp_path):
    with pytest.raises(DataError, match="There is nothing at"):
        gathered(tmp_path / "gone.png", tmp_path=tmp_path)
    (tmp_path / "empty").mkdir()
    new = gathered(tmp_path / "empty", tmp_path=tmp_path)
    assert new.table.empty
    assert new.problems == []
    assert new.notes == ["0 files lie there: 0 patches read, 0 refused, 0 left aside."]


def test_given_scores_of_another_scale_are_compared_with_nothing(tmp_path):
    root = manifest(tmp_path / "data", *[f"{i}.png,{i + 1}" for i in range(4)])
    patches = gathered(root, tmp_path=tmp_path)
    assert any("numbers from 1 to 4" in note for note in patches.notes)
    assert set(patches.table["score_given"]) == {-1}
