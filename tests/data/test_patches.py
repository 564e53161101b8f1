"""Readers of three layouts, and every problem of bad data listed with its remedy, none lost, nothing written."""

import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from examples import bci, manifest, picture, plant
from PIL import Image

from her2lib.data.images import DataError
from her2lib.data.layouts import COLUMNS
from her2lib.data.patches import PROBLEMS, Patches, check_patches, read_table, stop_on_errors

REAL = Path(__file__).parents[3] / "shared" / "real"
SCORES = ("0", "1+", "2+", "3+")


def one(problems, text):
    """The only problem whose words contain text."""
    hits = problems[problems.problem.str.contains(text, regex=False)]
    assert len(hits) == 1, problems.to_string()
    return hits.iloc[0]


class TestLayouts:
    def test_bci(self, tmp_path):
        table, problems = read_table(bci(tmp_path))
        assert problems.empty
        assert list(table) == list(COLUMNS)
        assert table.set.value_counts().to_dict() == {"train": 8, "test": 4}
        assert [SCORES[s] for s in table.score] == [name[:-4].split("_")[2] for name in table.name]
        for row in table.itertuples():
            assert Path(row.he).name == row.name == Path(row.path).name
            assert "HE" in Path(row.he).parts
        assert (table.slide == "").all()
        assert table.mpp.isna().all()

    @pytest.mark.parametrize("within", [".", "BCI_dataset"])
    def test_bci_one_level_down_and_by_its_ihc_folder(self, tmp_path, within):
        bci(tmp_path / within)
        assert len(read_table(tmp_path)[0]) == len(read_table(tmp_path / within / "IHC")[0]) == 12

    def test_two_bci_folders_are_not_guessed_between(self, tmp_path):
        bci(tmp_path / "a", train=1)
        bci(tmp_path / "b", train=1)
        with pytest.raises(DataError, match="several BCI folders"):
            read_table(tmp_path)

    def test_bci_without_he_has_no_pairs_and_no_complaint(self, tmp_path):
        table, problems = read_table(bci(tmp_path, he=False))
        assert (table.he == "").all()
        assert problems.empty

    def test_phantom_csv_supplies_slide_patient_mpp_and_readings(self, tmp_path):
        bci(tmp_path, train=4, test=0)
        (tmp_path / "phantom.csv").write_text(
            "name,slide,patient,mpp,rater_a,other\n00001_train_1+.png,S1,P1,0.5,2+,x\n"
        )
        table, problems = read_table(tmp_path)
        row = table[table.name == "00001_train_1+.png"].iloc[0]
        assert (row.slide, row.patient, row.mpp, row.rater_a) == ("S1", "P1", 0.5, 2)
        assert (table.slide == "").sum() == 3
        assert (table.rater_a == -1).sum() == 3
        assert problems.empty

    @pytest.mark.parametrize("names", [SCORES, ("0", "1", "2", "3")])
    @pytest.mark.parametrize("sets", [("",), ("train", "test"), ("train", "valid", "test")])
    def test_score_folders(self, tmp_path, names, sets):
        for i, part in enumerate(sets):
            for k, name in enumerate(names):
                picture(tmp_path / part / name / f"{k}.png", [i, k])
        table, problems = read_table(tmp_path)
        assert problems.empty
        assert sorted(set(table.set)) == sorted({"valid": "val"}.get(part, part) for part in sets)
        assert table.groupby("set").score.apply(lambda score: sorted(score) == [0, 1, 2, 3]).all()
        assert table.name.is_unique

    def test_manifest_with_every_column(self, tmp_path):
        manifest(
            tmp_path,
            "a.png,0,s1,p1,0.25,train,1+,",
            "b.png,3+,s2,p2,0.5,test,,3",
            head="path,score,slide,patient,mpp,set,rater_x,rater_y",
        )
        table, problems = read_table(tmp_path / "manifest.csv")
        assert problems.empty
        expected = {
            "name": ["a.png", "b.png"],
            "score": [0, 3],
            "slide": ["s1", "s2"],
            "patient": ["p1", "p2"],
            "mpp": [0.25, 0.5],
            "set": ["train", "test"],
            "rater_x": [1, -1],
            "rater_y": [-1, 3],
        }
        assert {column: list(table[column]) for column in expected} == expected

    def test_the_real_patches(self):
        if not REAL.exists():
            pytest.skip("the real patches are not beside this project")
        table, problems = read_table(REAL)
        assert problems.empty
        assert table.score.value_counts().to_dict() == {0: 8, 1: 8, 2: 12, 3: 4}
        assert table.slide.nunique() == 8


class TestManifestText:
    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            ("path,score\na.png,1+\n", "utf-8-sig"),
            ("path;score;mpp\na.png;1+;0,25\n", "utf-8"),
            ("path\tscore\na.png\t1+\n", "utf-8"),
            ("path,score\r\na.png,1+\r\n", "utf-8"),
            ('"path","score"\n"a.png","1+"\n', "utf-8"),
            (" Path , SCORE \n a.png , 1+ \n", "utf-8"),
            ('path,score,remark\na.png,1+,"two\nlines, one comma"\n', "utf-8"),
            ("path,score\na.png,1+", "utf-8"),
        ],
    )
    def test_every_way_of_writing_it(self, tmp_path, text, encoding):
        picture(tmp_path / "a.png", 0)
        (tmp_path / "manifest.csv").write_bytes(text.encode(encoding))
        table, problems = read_table(tmp_path)
        assert problems.empty, problems.to_string()
        assert (table.name[0], table.score[0]) == ("a.png", 1)
        assert "mpp" not in text or table.mpp[0] == 0.25

    @pytest.mark.parametrize(
        "name",
        ["two words.png", "größe µ.png", "組織.png", "#1 & 100%.png", "sub folder/é.png", "NA.png"],
    )
    def test_spaces_and_unicode_in_names(self, tmp_path, name):
        table, problems = read_table(manifest(tmp_path, f"{name},2+"))
        assert problems.empty
        assert table.name[0] == Path(name).name

    def test_the_other_unicode_form_and_backslashes_find_the_file(self, tmp_path):
        picture(tmp_path / "sub" / unicodedata.normalize("NFC", "é.png"), 0)
        (tmp_path / "manifest.csv").write_text(
            f"path,score\nsub\\{unicodedata.normalize('NFD', 'é.png')},0\n", encoding="utf-8"
        )
        assert len(read_table(tmp_path)[0]) == 1

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"path,score\ngr\xf6sse.png,1+\n", "UTF-8"),
            (b"", "no table"),
            (b"path,score\n", "lists no patches"),
            (b"path,label\na.png,1+\n", "no column 'score'"),
            (b'path,score\na.png,1+,s,t,u\nb.png,1+\n"open', "no table"),
        ],
    )
    def test_what_is_no_manifest_is_one_sentence(self, tmp_path, data, says):
        (tmp_path / "manifest.csv").write_bytes(data)
        with pytest.raises(DataError, match=says) as error:
            read_table(tmp_path)
        assert "manifest.csv" in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("column", "meant"),
        [("slide_id", "slide"), ("case", "patient"), ("rater1", "rater_"), ("split", "set")],
    )
    def test_a_column_that_nearly_is_one_is_told(self, tmp_path, column, meant):
        _, problems = read_table(manifest(tmp_path, "a.png,0,x", head=f"path,score,{column}"))
        assert meant in one(problems, repr(column)).remedy

    def test_a_hundred_thousand_rows(self, tmp_path):
        for i in range(20):
            picture(tmp_path / f"{i}.png", i)
        rows = [f"{i}.png,{SCORES[i % 4]},s{i // 50}" for i in range(100_000)]
        (tmp_path / "manifest.csv").write_text("\n".join(["path,score,slide", *rows]))
        began = time.process_time()
        table, problems = read_table(tmp_path)
        assert len(table) == 20
        assert (problems.problem == PROBLEMS["missing"][1]).sum() == len(problems) == 99_980
        assert time.process_time() - began < 20


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
            ("a.png,0,train,nan", "no pixel size"),
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
        found = one(problems, says)
        assert found.severity == "error"
        assert found.remedy

    def test_an_empty_score_is_kept_as_unknown_with_a_warning(self, tmp_path):
        table, problems = read_table(manifest(tmp_path, "a.png,", "b.png,1+"))
        assert list(table.score) == [-1, 1]
        assert one(problems, "no score").severity == "warning"

    def test_a_bad_reading_is_a_warning_and_counts_as_not_read(self, tmp_path):
        table, problems = read_table(manifest(tmp_path, "a.png,0,4+", head="path,score,rater_a"))
        assert list(table.rater_a) == [-1]
        assert one(problems, "'4+' by rater_a").severity == "warning"

    @pytest.mark.parametrize(
        "name", ["00007_train.png", "00007_train_4+.png", "picture.png", "00007_train_.png"]
    )
    def test_names_without_a_score(self, tmp_path, name):
        picture(bci(tmp_path) / "IHC" / "train" / name, 99)
        table, problems = read_table(tmp_path)
        assert len(table) == 12
        assert one(problems, "not a HER2 score").file == f"IHC/train/{name}"

    def test_the_folder_counts_where_the_name_says_another_set(self, tmp_path):
        bci(tmp_path, he=False)
        (tmp_path / "IHC/test/00000_test_0.png").rename(tmp_path / "IHC/train/00000_test_0.png")
        table, problems = read_table(tmp_path)
        assert table.set.value_counts().to_dict() == {"train": 9, "test": 3}
        assert one(problems, "the folder counts").severity == "warning"

    def test_the_same_bytes_in_one_set_count_once(self, tmp_path):
        picture(tmp_path / "a.png", 0)
        shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
        table, problems = read_table(manifest(tmp_path, "a.png,1+", "b.png,1+", "c.png,1+"))
        assert list(table.name) == ["a.png", "c.png"]
        assert one(problems, "the same bytes as a.png").severity == "warning"

    def test_the_same_bytes_in_train_and_test_leave_training(self, tmp_path):
        bci(tmp_path, he=False)
        shutil.copy(
            tmp_path / "IHC/test/00001_test_1+.png", tmp_path / "IHC/train/00001_train_1+.png"
        )
        table, problems = read_table(tmp_path)
        assert table.set.value_counts().to_dict() == {"train": 7, "test": 4}
        found = one(problems, "which is in the test set")
        assert (found.severity, found.file) == ("error", "IHC/train/00001_train_1+.png")

    def test_the_same_bytes_with_two_scores_are_both_left_out(self, tmp_path):
        bci(tmp_path, he=False)
        shutil.copy(
            tmp_path / "IHC/train/00001_train_1+.png", tmp_path / "IHC/train/00002_train_2+.png"
        )
        table, problems = read_table(tmp_path)
        assert len(table) == 10
        torn = problems[problems.problem.str.contains("with the scores 1\\+ and 2\\+")]
        assert sorted(torn.file) == ["IHC/train/00001_train_1+.png", "IHC/train/00002_train_2+.png"]
        assert (torn.severity == "error").all()

    def test_the_same_row_twice(self, tmp_path):
        table, problems = read_table(manifest(tmp_path, "a.png,1+", "a.png,1+"))
        assert len(table) == 1
        assert len(problems) == 1

    @pytest.mark.parametrize("way", ["dots", "absolute", "link", "folder link"])
    def test_paths_and_links_that_leave_the_folder(self, tmp_path, way):
        outside, root = picture(tmp_path / "out" / "secret.png", 0), tmp_path / "data"
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
        assert one(problems, "leaves the folder").severity == "error"
        assert len(read_table(root, allow_outside=True)[0]) == 1

    def test_links_in_folder_layouts(self, tmp_path):
        outside, root = picture(tmp_path / "out" / "x.png", 100), bci(tmp_path / "data", he=False)
        (root / "IHC/train/00099_train_0.png").symlink_to(outside)
        (root / "IHC/more").symlink_to(outside.parent)
        table, problems = read_table(root)
        assert len(table) == 12
        one(problems, "leaves the folder")
        one(problems, "link to a folder")

    def test_a_link_that_stays_inside_is_welcome(self, tmp_path):
        picture(tmp_path / "store" / "a.png", 0)
        (tmp_path / "b.png").symlink_to(tmp_path / "store" / "a.png")
        table, problems = read_table(manifest(tmp_path, "b.png,0"))
        assert len(table) == 1
        assert problems.empty

    def test_mixed_and_oblong_sizes(self, tmp_path):
        picture(tmp_path / "c.png", 7, side_px=64)
        Image.new("RGB", (48, 60), "pink").save(tmp_path / "d.png")
        table, problems = read_table(
            manifest(tmp_path, "a.png,0", "b.png,1+", "c.png,2+", "d.png,3+")
        )
        assert len(table) == 4
        assert one(problems, "64 x 64 px where most are 48 x 48 px").severity == "warning"
        assert one(problems, "middle square").file == "d.png"

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
        assert "test and train" in one(problems, "slide s1 stands in").problem

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
        assert one(problems, "not Unicode").file == "0/\\udcff.png"

    @pytest.mark.parametrize(
        "make",
        [
            lambda root: None,
            lambda root: (root / "IHC" / "train").mkdir(parents=True),
            lambda root: picture(root / "a.png", 0),
        ],
    )
    def test_a_folder_without_patches_is_one_sentence_that_shows_the_layouts(self, tmp_path, make):
        make(tmp_path)
        with pytest.raises(DataError, match=r"holds no patches: expected a manifest\.csv"):
            read_table(tmp_path)

    def test_a_path_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match=r"neither a folder nor a \.csv"):
            read_table(tmp_path / "gone")


def test_twenty_planted_faults_are_all_listed_and_nothing_is_written(tmp_path):
    root = bci(tmp_path / "data", train=24, test=4)
    planted = plant(root)
    assert len(planted) >= 20
    before = sorted(str(p) for p in root.rglob("*"))
    problems, counts = check_patches(root, progress=False)
    for file, words in planted.items():
        hits = problems[(problems.file == file) & problems.problem.str.contains(words, regex=False)]
        assert len(hits) == 1, f"{file}: {words}\n{problems.to_string()}"
        assert hits.iloc[0].remedy
    known = {
        *planted,
        "IHC/train/00012_train_4+.png",
        "IHC/train/00013.png",
        "IHC/train/00015_train_0.png",
    }
    extra = problems[~problems.file.isin(known) & ~problems.problem.str.contains("HE p")]
    assert extra.empty, extra.to_string()  # no false alarm
    assert sorted(str(p) for p in root.rglob("*")) == before
    assert counts.loc["test", "all"] == 4
    assert (
        counts.loc["train", "all"] == 24 - 14
    )  # planted: 14 errors among them, 5 warnings that leave the patch in


def test_stop_on_errors_names_the_first_file_the_count_and_the_remedy(tmp_path):
    _, problems = read_table(manifest(tmp_path, "a.png,4+", "b.png,5", "c.png,0"))
    with pytest.raises(DataError) as error:
        stop_on_errors(problems, path="data")
    for words in ("a.png", "2 errors", "`her2 check data`", "--skip-bad"):
        assert words in str(error.value)
    stop_on_errors(problems[problems.severity == "warning"], path="data")


def test_patches_take():
    images = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    words = np.array(list("abcde"), object)
    cohort = Patches(
        images=images,
        score=np.arange(5) % 4,
        slide=words,
        patient=words,
        name=words,
        mpp=np.arange(5) / 4,
    )
    for rows in (
        np.array([3, 1]),
        np.array([False, True, False, True, False]),
        slice(1, 4),
        [4],
        [],
    ):
        part = cohort.take(rows)
        place = np.arange(5)[rows]
        assert len(part) == len(place)
        assert torch.equal(part.images, images[place.astype(int)])
        assert list(part.name) == list(words[place.astype(int)])
    assert cohort.take([1, 2, 3]).images.data_ptr() == images[1].data_ptr()  # a view
    with pytest.raises(AttributeError):
        cohort.score = None


def test_problem_texts_are_whole_sentences_with_one_word_per_thing():
    texts = pd.DataFrame(PROBLEMS.values(), columns=["severity", "problem", "remedy"])
    assert set(texts.severity) == {"error", "warning"}
    assert not texts.problem.str.contains("label|class |target").any()
