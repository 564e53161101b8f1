"""Readers of three layouts and of every way in which people write a manifest."""

import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import bci, manifest, one_problem, picture

from her2lib.data import layouts
from her2lib.data.images import DataError
from her2lib.data.layouts import COLUMNS
from her2lib.data.patches import PROBLEMS, read_table
from her2lib.scores import SCORES

REAL = Path(__file__).parents[3] / "shared" / "real"


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
        assert meant in one_problem(problems, repr(column)).remedy

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


class TestWhatIsWritten:
    def test_a_score_is_told_from_nothing_and_from_what_is_none(self):
        texts = ["2+", "0", "", "4+", "train"]
        assert list(map(layouts.parse_written_score, texts)) == [
            2,
            0,
            layouts.NOT_WRITTEN,
            layouts.NOT_A_SCORE,
            layouts.NOT_A_SCORE,
        ]

    def test_only_columns_that_begin_with_rater_hold_readings(self):
        frame = pd.DataFrame(columns=["path", "rater_b", "rater", "score", "rater_a"])
        assert layouts.rater_columns(frame) == ["rater_b", "rater_a"]

    def test_columns_named_like_the_readers_own_do_not_stop_it(self, tmp_path):
        table, problems = read_table(
            manifest(tmp_path, "a.png,1+,x,y", head="path,score,file,name")
        )
        assert (table.name[0], table.score[0]) == ("a.png", 1)
        assert one_problem(problems, "'file'").severity == "warning"

    def test_inside_follows_links_of_files_and_of_folders(self, tmp_path):
        outside = picture(tmp_path / "out" / "a.png", 0)
        root = tmp_path / "root"
        inside = picture(root / "b.png", 1)
        (root / "link.png").symlink_to(outside)
        (root / "door").symlink_to(outside.parent)
        (root / "again.png").symlink_to(inside)
        paths = ["b.png", "again.png", "gone.png", "link.png", "door/a.png", "../out/a.png", ".."]
        judged = layouts.paths_inside(["", *(str(root / path) for path in paths)], root)
        np.testing.assert_array_equal(judged, [True] * 4 + [False] * 4)
