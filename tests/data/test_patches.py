"""Every problem of bad data listed with its remedy, none lost, nothing written."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from examples import bci, manifest, one_problem, picture, plant, tissue_pixels
from PIL import Image

from her2lib.data.patches import (
    PROBLEMS,
    Patches,
    check_patches,
    read_source,
    read_table,
    stop_on_errors,
)
from her2lib.files import DataError
from her2lib.intake.choices import Choices


class TestProblems:
    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ("a.png,4+", "'4+' is not a HER2 score"),
            ("a.png,x", "'x' is not a HER2 score"),
            ("a.png,-1", "not a HER2 score"),
            ("gone/../a.png,0", "no such file"),
            (",0", "no such file"),
            ("a.png,0,lunch", "'lunch' is not a set"),
            ("a.png,0,train,250", "no pixel size"),
            ("a.png,0,train,-0.25", "no pixel size"),
            ("a.png,0,train,inf", "no pixel size"),
            ("a.png,0,train,wide", "no pixel size"),
        ],
    )
    def test_a_bad_row_is_an_error_and_the_good_one_stays(self, tmp_path, row, says):
        picture(tmp_path / "a.png", 9)
        table, problems = read_table(
            manifest(
                tmp_path,
                "good.png,1+,,",
                row + "," * (3 - row.count(",")),
                head="path,score,set,mpp",
            )
        )
        assert list(table.name) == ["good.png"]
        problem = one_problem(problems, says)
        assert problem.severity == "error"
        assert problem.remedy

    def test_an_empty_score_is_kept_as_unknown_with_a_warning(self, tmp_path):
        table, problems = read_table(manifest(tmp_path, "a.png,", "b.png,1+"))
        assert list(table.score) == [-1, 1]
        assert one_problem(problems, "no score").severity == "warning"

    def test_a_bad_reading_is_a_warning_and_counts_as_not_read(self, tmp_path):
        table, problems = read_table(manifest(tmp_path, "a.png,0,4+", head="path,score,rater_a"))
        assert list(table.rater_a) == [-1]
        assert one_problem(problems, "'4+' by rater_a").severity == "warning"

    @pytest.mark.parametrize(
        "name", ["00007_train.png", "00007_train_4+.png", "picture.png", "00007_train_.png"]
    )
    def test_names_without_a_score(self, tmp_path, name):
        picture(bci(tmp_path) / "IHC" / "train" / name, 99)
        table, problems = read_table(tmp_path)
        assert len(table) == 12
        assert one_problem(problems, "not a HER2 score").file == f"IHC/train/{name}"

    def test_the_folder_counts_where_the_name_says_another_set(self, tmp_path):
        bci(tmp_path, he=False)
        (tmp_path / "IHC/test/00000_test_0.png").rename(tmp_path / "IHC/train/00000_test_0.png")
        table, problems = read_table(tmp_path)
        assert table.set.value_counts().to_dict() == {"train": 9, "test": 3}
        assert one_problem(problems, "the folder counts").severity == "warning"

    def test_the_same_bytes_in_one_set_count_once(self, tmp_path):
        picture(tmp_path / "a.png", 0)
        shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
        table, problems = read_table(manifest(tmp_path, "a.png,1+", "b.png,1+", "c.png,1+"))
        assert list(table.name) == ["a.png", "c.png"]
        assert one_problem(problems, "the same bytes as a.png").severity == "warning"

    def test_the_same_bytes_in_train_and_test_leave_training(self, tmp_path):
        bci(tmp_path, he=False)
        shutil.copy(
            tmp_path / "IHC/test/00001_test_1+.png", tmp_path / "IHC/train/00001_train_1+.png"
        )
        table, problems = read_table(tmp_path)
        assert table.set.value_counts().to_dict() == {"train": 7, "test": 4}
        problem = one_problem(problems, "which is in the test set")
        assert (problem.severity, problem.file) == ("error", "IHC/train/00001_train_1+.png")

    def test_the_same_bytes_with_two_scores_are_both_left_out(self, tmp_path):
        bci(tmp_path, he=False)
        shutil.copy(
            tmp_path / "IHC/train/00001_train_1+.png", tmp_path / "IHC/train/00002_train_2+.png"
        )
        table, problems = read_table(tmp_path)
        assert len(table) == 10
        both = problems[problems.problem.str.contains("with the scores 1\\+ and 2\\+")]
        assert sorted(both.file) == ["IHC/train/00001_train_1+.png", "IHC/train/00002_train_2+.png"]
        assert (both.severity == "error").all()

    def test_the_same_row_twice(self, tmp_path):
        table, problems = read_table(manifest(tmp_path, "a.png,1+", "a.png,1+"))
        assert len(table) == 1
        assert len(problems) == 1

    @pytest.mark.parametrize("way", ["dots", "absolute", "link", "folder link"])
    def test_paths_and_links_that_leave_the_folder(self, tmp_path, way):
        outside = picture(tmp_path / "out" / "secret.png", 0)
        root = tmp_path / "data"
        root.mkdir()
        (root / "link.png").symlink_to(outside)
        (root / "door").symlink_to(outside.parent)
        path = {
            "dots": "../out/secret.png",
            "absolute": str(outside),
            "link": "link.png",
            "folder link": "door/secret.png",
        }[way]
        table, problems = read_table(manifest(root, f"{path},0"))
        assert table.empty
        assert one_problem(problems, "leaves the folder").severity == "error"
        assert str(outside.parent) in problems.remedy[0]
        allowed = Choices(allow=(str(outside.parent),))
        assert len(read_table(root, choices=allowed)[0]) == 1

    def test_links_in_folder_layouts(self, tmp_path):
        outside = picture(tmp_path / "out" / "x.png", 100)
        root = bci(tmp_path / "data", he=False)
        (root / "IHC/train/00099_train_0.png").symlink_to(outside)
        (root / "IHC/more").symlink_to(outside.parent)
        table, problems = read_table(root)
        assert len(table) == 12
        one_problem(problems, "leaves the folder")
        one_problem(problems, "link to a folder")

    def test_a_link_that_stays_inside_is_welcome(self, tmp_path):
        picture(tmp_path / "store" / "a.png", 0)
        (tmp_path / "b.png").symlink_to(tmp_path / "store" / "a.png")
        table, problems = read_table(manifest(tmp_path, "b.png,0"))
        assert len(table) == 1
        assert problems.empty

    def test_mixed_and_oblong_sizes(self, tmp_path):
        picture(tmp_path / "c.png", 7, side_px=64)
        tissue = Image.fromarray(tissue_pixels(8, 60))
        tissue.crop((0, 0, 48, 60)).save(tmp_path / "d.png")
        table, problems = read_table(
            manifest(tmp_path, "a.png,0", "b.png,1+", "c.png,2+", "d.png,3+")
        )
        assert len(table) == 4
        assert one_problem(problems, "64 x 64 px where most are 48 x 48 px").severity == "warning"
        assert one_problem(problems, "middle square").file == "d.png"

    def test_he_partners_missing_damaged_or_alone(self, tmp_path):
        bci(tmp_path)
        (tmp_path / "HE/train/00000_train_0.png").unlink()
        (tmp_path / "HE/train/00001_train_1+.png").write_bytes(b"")
        picture(tmp_path / "HE/train/00002_train_2+.png", 3, side_px=64)
        picture(tmp_path / "HE/test/00077_test_0.png", 77)
        table, problems = read_table(tmp_path)
        assert len(table) == 12
        assert (table.he == "").sum() == 2
        assert len(problems) == 4
        assert (problems.severity == "warning").all()

    def test_given_sets_that_cut_a_slide_are_told(self, tmp_path):
        _, problems = read_table(
            manifest(tmp_path, "a.png,0,s1,train", "b.png,0,s1,test", head="path,score,slide,set")
        )
        assert "test and train" in one_problem(problems, "slide s1 stands in").problem

    def test_control_signs_in_a_name_cannot_reach_the_terminal(self, tmp_path):
        picture(tmp_path / "0" / "a\x1b[31m.png", 0)
        picture(tmp_path / "0" / "b.png", 1)
        table, problems = read_table(tmp_path)
        assert list(table.name) == ["b.png"]
        assert "\x1b" not in problems.to_csv()

    def test_a_name_that_is_not_unicode(self, tmp_path):
        picture(tmp_path / "0" / "b.png", 1)
        try:
            shutil.copy(tmp_path / "0" / "b.png", bytes(tmp_path / "0") + b"/\xff.png")
        except OSError:
            pytest.skip("this file system takes Unicode names only")
        table, problems = read_table(tmp_path)
        assert list(table.name) == ["b.png"]
        assert problems.to_csv().encode()
        assert one_problem(problems, "not Unicode").file == "0/\\udcff.png"


def test_twenty_planted_faults_are_all_listed_and_nothing_is_written(tmp_path):
    root = bci(tmp_path / "data", train=24, test=4)
    planted = plant(root)
    assert len(planted) >= 20
    before = sorted(str(p) for p in root.rglob("*"))
    # a picture of 48 px with a palette looks drawn to the field gate, which has its own tests
    taken = Choices(any_field=True)
    problems, counts = check_patches(root, choices=taken, progress=False)
    for file, sentence in planted.items():
        of_file = problems[problems.file == file]
        assert one_problem(of_file, sentence).remedy, file
    false_alarms = problems[
        ~problems.file.isin(planted.keys()) & ~problems.problem.str.contains("HE p")
    ]
    assert false_alarms.empty, false_alarms.to_string()
    assert sorted(str(p) for p in root.rglob("*")) == before
    assert counts.loc["test", "all"] == 4
    # 14 of what is planted are errors; a warning leaves the patch in.
    assert counts.loc["train", "all"] == 24 - 14


class TestSource:
    def test_read_refused_and_left_aside_are_all_rows_that_are_written(self, tmp_path):
        root = manifest(tmp_path, "a.png,0", "b.png,4+", "a.png,0", "gone/../x.png,1+", "c.png,2+")
        source = read_source(root)
        assert source.sentences[-1] == ("5 rows are written: 2 read, 3 refused, 0 left aside.")
        assert list(source.table.score) == [0, 2]

    def test_the_scale_that_is_stated_fills_what_is_unknown_alone(self, tmp_path):
        root = manifest(tmp_path, "a.png,0,0.25", "b.png,1+,", head="path,score,mpp")
        source = read_source(root, choices=Choices(mpp=0.5))
        assert list(source.table.mpp) == [0.25, 0.5]
        assert "for 1 patch without one" in " ".join(source.sentences)

    def test_tables_alone_open_no_image_and_tell_what_is_missing(self, tmp_path):
        root = manifest(tmp_path, "a.png,0", "b.png,1+", "a.png,0")
        (root / "a.png").write_bytes(b"no image at all")
        (root / "b.png").unlink()
        source = read_source(root, open_images=False)
        assert list(source.table.score) == [0]
        assert sorted(source.problems.kind) == ["missing", "row repeat"]

    def test_a_field_that_shows_no_tissue_is_an_error_until_any_field_will_do(self, tmp_path):
        root = manifest(tmp_path, "a.png,0", "white.png,1+")
        Image.new("RGB", (64, 64), "white").save(root / "white.png")
        source = read_source(root)
        assert list(source.table.score) == [0]
        assert one_problem(source.problems, "no H-DAB field").severity == "error"
        assert "--any-field" in source.problems.remedy[0]
        taken = read_source(root, choices=Choices(any_field=True))
        assert len(taken.table) == 2

    def test_partners_outside_are_no_partners_until_they_are_allowed(self, tmp_path):
        partner = picture(tmp_path / "out" / "he.png", 5)
        root = tmp_path / "data"
        root.mkdir()
        manifest(root, f"a.png,0,{partner}", head="path,score,he")
        source = read_source(root)
        assert source.table.he[0] == ""
        assert "leaves the folder" in one_problem(source.problems, "HE partner").problem
        allowed = read_source(root, choices=Choices(allow=(str(partner.parent),)))
        assert allowed.table.he[0] == str(partner)


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds_and_less_than_a_gigabyte(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import tables

    for write in (tables.write_manifest, tables.write_folders):
        (tmp_path / write.__name__).mkdir()
        path = write(tmp_path / write.__name__, tables.ROWS)
        _, processor, megabytes, counts = tables.measure(path)
        assert "100,000 read, 0 refused, 0 left aside" in counts
        assert processor < tables.MOST_SECONDS
        assert megabytes < tables.MOST_MB


def test_stop_on_errors_names_the_first_file_the_count_and_the_remedy(tmp_path):
    _, problems = read_table(manifest(tmp_path, "a.png,4+", "b.png,5", "c.png,0"))
    with pytest.raises(DataError) as error:
        stop_on_errors(problems, path="data")
    for part in ("a.png", "2 errors", "`her2 check data`", "--skip-bad"):
        assert part in str(error.value)
    stop_on_errors(problems[problems.severity == "warning"], path="data")


def five_patches(**more):
    images = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    names = np.array(list("abcde"), object)
    return Patches(
        images=images,
        score=np.arange(5) % 4,
        slide=names,
        patient=names,
        name=names,
        mpp=np.arange(5) / 4,
        **more,
    )


SUBSETS = np.array(["train", "train", "val", "test", ""], object)


class TestPatches:
    @pytest.mark.parametrize(
        "rows",
        [
            np.array([3, 1]),
            np.array([False, True, False, True, False]),
            slice(1, 4),
            slice(None, None, -1),
            [4],
            [-1, 0],
            [],
        ],
    )
    def test_rows_are_taken_by_slice_mask_or_indices(self, rows):
        whole = five_patches(subset=SUBSETS)
        part = whole[rows]
        indices = np.arange(5)[rows].astype(int)
        assert isinstance(part, Patches)
        assert len(part) == len(indices)
        assert torch.equal(part.images, whole.images[torch.from_numpy(indices.copy())])
        for column in ("score", "slide", "patient", "name", "mpp", "subset"):
            assert list(getattr(part, column)) == list(getattr(whole, column)[indices])
        taken = whole.take(rows)
        assert torch.equal(taken.images, part.images)
        assert list(taken.name) == list(part.name)

    def test_neighbours_are_a_view_and_others_a_copy(self):
        whole = five_patches()
        assert whole[[1, 2, 3]].images.data_ptr() == whole.images[1].data_ptr()
        assert whole[[1, 3]].images.data_ptr() != whole.images[1].data_ptr()

    def test_the_set_is_a_mask(self):
        whole = five_patches(subset=SUBSETS)
        assert list(whole[whole.subset == "train"].name) == ["a", "b"]

    def test_no_set_is_known_unless_given(self):
        assert list(five_patches().subset) == [""] * 5
        assert list(five_patches()[:2].subset) == ["", ""]

    def test_one_patch_is_a_slice(self):
        with pytest.raises(TypeError, match=r"one patch is patches\[3:4\]"):
            five_patches()[3]

    def test_nothing_is_put_in_its_place(self):
        with pytest.raises(AttributeError):
            five_patches().score = None


def test_problem_texts_are_whole_sentences_with_one_word_per_thing():
    texts = pd.DataFrame(PROBLEMS.values(), columns=["severity", "problem", "remedy"])
    assert set(texts.severity) == {"error", "warning"}
    assert not texts.problem.str.contains("label|class |target").any()
