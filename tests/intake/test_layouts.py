"""Readers of three layouts and of every way in which people write a manifest."""

import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import bci, manifest, one_problem, picture, pictures

from her2lib.data.patches import PROBLEMS, read_source, read_table
from her2lib.files import DataError
from her2lib.intake import columns, layouts
from her2lib.intake.choices import Choices
from her2lib.intake.columns import COLUMNS
from her2lib.scores import SCORES

REAL = Path(__file__).parents[3] / "shared" / "real"


class TestLayouts:
    def test_bci(self, tmp_path):
        table, problems = read_table(bci(tmp_path))
        assert problems.empty
        assert list(table) == [*COLUMNS, "mpp_from"]
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
        with pytest.raises(DataError, match=r"holds no patches.*: expected a manifest\.csv"):
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
            (b"path,score\ngr\x81sse.png,1+\n", "UTF-8"),
            (b"", "no table"),
            (b"path,score\n", "lists no patches"),
            (b"path,lbl\na.png,1+\n", "no column 'score'"),
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
        [("slides", "slide"), ("patiant", "patient"), ("rater1", "rater_"), ("fold", "set")],
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
        assert list(map(columns.parse_written_score, texts)) == [
            2,
            0,
            columns.NOT_WRITTEN,
            columns.NOT_A_SCORE,
            columns.NOT_A_SCORE,
        ]

    def test_only_columns_that_begin_with_rater_hold_readings(self):
        frame = pd.DataFrame(columns=["path", "rater_b", "rater", "score", "rater_a"])
        assert columns.rater_columns(frame) == ["rater_b", "rater_a"]

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


class TestRealFolders:
    """Inputs that people really have, numbered as they were collected."""

    def test_case_01_numbered_patients_above_score_folders(self, tmp_path):
        files = [f"{p}/{score}/x.png" for p in (1, 2, 3, 10) for score in SCORES]
        source = read_source(pictures(tmp_path, *files))
        assert [SCORES[score] for score in source.table.score] == [
            Path(path).parent.name for path in source.table.path
        ]
        assert set(source.table.patient) == {"1", "2", "3", "10"}
        assert source.problems.empty
        assert "1/0/x.png: score 0, set none, slide none, patient 1" in source.sentences[0]

    def test_case_01_what_cannot_be_decided_is_refused_until_the_user_says(self, tmp_path):
        files = [f"{p}/{score}/x.png" for p in (1, 2, 3) for score in range(4)]
        pictures(tmp_path, *files)
        with pytest.raises(DataError, match="--score-from folder1 or --score-from folder2"):
            read_source(tmp_path)
        inner = read_source(tmp_path, choices=Choices(score_from="folder1")).table
        outer = read_source(tmp_path, choices=Choices(score_from="folder2")).table
        assert list(inner.score) == [0, 1, 2, 3] * 3
        assert list(outer.score) == [1] * 4 + [2] * 4 + [3] * 4
        assert set(inner.patient) == {"1", "2", "3"}

    @pytest.mark.parametrize("train", ["train_set", "Training", "TRAIN", "train data"])
    def test_case_02_sets_in_other_words(self, tmp_path, train):
        files = [f"{subset}/{score}/x.png" for subset in (train, "test_set") for score in SCORES]
        table = read_source(pictures(tmp_path, *files)).table
        assert table.set.value_counts().to_dict() == {"train": 4, "test": 4}

    def test_case_03_bci_the_other_way_round(self, tmp_path):
        bci(tmp_path / "usual")
        for file in sorted((tmp_path / "usual").rglob("*.png")):
            stain, subset, name = file.relative_to(tmp_path / "usual").parts
            (tmp_path / "turned" / subset / stain).mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / "turned" / subset / stain / name)
        source = read_source(tmp_path / "turned")
        assert source.layout.name == "bci"
        assert source.layout.looks_like == "BCI"
        assert source.table.set.value_counts().to_dict() == {"train": 8, "test": 4}
        assert (source.table.he != "").all()
        assert source.problems.empty

    def test_case_04_junk_beside_and_within_bci(self, tmp_path):
        bci(tmp_path / "BCI")
        junk = ["__MACOSX/IHC/train/._0.png", "BCI/.DS_Store", "BCI/IHC/Thumbs.db"]
        junk += ["BCI/IHC/train/.ipynb_checkpoints/a-checkpoint.png", "BCI/HE/desktop.ini"]
        for file in junk:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"x")
        source = read_source(tmp_path)
        assert len(source.table) == 12
        assert source.problems.empty
        assert source.sentences[-1] == (
            "29 files lie there: 12 read, 12 H&E partners, 0 refused, 5 left aside."
        )
        assert any("5 left aside" in sentence for sentence in source.sentences[:-1])

    @pytest.mark.parametrize(
        "names",
        [
            ("score_0", "score_1", "score_2", "score_3"),
            ("HER2 0", "HER2 1+", "HER2 2+", "HER2 3+"),
            ("0", "1 +", "2 +", "3 +"),
            ("0", "1plus", "2plus", "3plus"),
            ("class_0", "class_1+", "class_2+", "class_3+"),
        ],
    )
    def test_case_05_score_folders_as_people_write_them(self, tmp_path, names):
        source = read_source(pictures(tmp_path, *[f"{name}/a.png" for name in names]))
        assert sorted(source.table.score) == [0, 1, 2, 3]
        assert source.problems.empty

    def test_case_05_a_word_is_refused_with_the_flag_that_says_what_it_means(self, tmp_path):
        pictures(tmp_path, "0/a.png", "3+/b.png", "Negative/c.png", "Negative/d.png")
        source = read_source(tmp_path)
        assert len(source.table) == 2
        assert set(source.problems.remedy) == {
            "write one of 0, 1+, 2+, 3+, or say which it means: --score-word negative=SCORE"
        }
        assert "2 read, 2 refused" in source.sentences[-1]
        stated = Choices(score_words={"negative": "0"})
        assert sorted(read_source(tmp_path, choices=stated).table.score) == [0, 0, 0, 3]

    def test_case_06_links_to_a_store_elsewhere(self, tmp_path):
        store = pictures(tmp_path / "store", "a.png", "deep/b.png").resolve()
        for score, file in (("0", "a.png"), ("3+", "deep/b.png")):
            (tmp_path / "data" / score).mkdir(parents=True)
            (tmp_path / "data" / score / "x.png").symlink_to(store / file)
        source = read_source(tmp_path / "data")
        assert source.table.empty
        # one root for both, which then is enough
        assert set(source.problems.remedy) == {
            f"move the file inside, or read it where it lies: --allow {store}"
        }
        allowed = read_source(tmp_path / "data", choices=Choices(allow=(str(store),)))
        assert sorted(allowed.table.score) == [0, 3]
        assert allowed.problems.empty

    def test_case_06_a_link_to_a_folder_elsewhere_is_an_error_and_no_silence(self, tmp_path):
        store = pictures(tmp_path / "store", "a.png").resolve()
        picture(tmp_path / "data" / "0" / "b.png", 0)
        (tmp_path / "data" / "3+").symlink_to(store)
        problem = one_problem(read_source(tmp_path / "data").problems, "leads out of the folder")
        assert (problem.severity, problem.file) == ("error", "3+")
        assert f"--allow {store}" in problem.remedy
        allowed = read_source(tmp_path / "data", choices=Choices(allow=(str(store),)))
        assert sorted(allowed.table.score) == [0, 3]

    def test_case_07_a_manifest_with_absolute_paths(self, tmp_path):
        store = pictures(tmp_path / "store", "a.png", "b.png").resolve()
        (tmp_path / "m.csv").write_text(f"path,score\n{store}/a.png,0\n{store}/b.png,3+\n")
        (tmp_path / "tables").mkdir()
        csv = (tmp_path / "m.csv").rename(tmp_path / "tables" / "m.csv")
        source = read_source(csv)
        assert source.table.empty
        assert all(f"--allow {store}" in remedy for remedy in source.problems.remedy)
        allowed = read_source(csv, choices=Choices(allow=(str(store),)))
        assert list(allowed.table.score) == [0, 3]


class TestWhatIsSaid:
    def test_two_manifests_in_one_folder_are_refused(self, tmp_path):
        manifest(tmp_path, "a.png,0")
        (tmp_path / "manifest.tsv").write_text("path\tscore\na.png\t3+\n")
        with pytest.raises(DataError, match=r"manifest\.csv and manifest\.tsv"):
            read_source(tmp_path)

    def test_a_folder_of_slides_names_the_verb_that_cuts_them(self, tmp_path):
        (tmp_path / "a.svs").write_bytes(b"x")
        with pytest.raises(DataError, match=r"1 slide \(a\.svs …\) and no patches.*her2 tile"):
            read_source(tmp_path)

    def test_images_without_scores_show_what_would_read_them(self, tmp_path):
        pictures(tmp_path, "a.png", "b.png")
        (tmp_path / "labels.csv").write_text("image,label\na.png,0\nb.png,3+\n")
        with pytest.raises(DataError, match=r"If labels\.csv holds the scores, name that table"):
            read_source(tmp_path)
        assert list(read_source(tmp_path / "labels.csv").table.score) == [0, 3]
        unscored = read_source(tmp_path, choices=Choices(layout="images"))
        assert list(unscored.table.score) == [-1, -1]
        # once for the set, not once a file
        assert list(unscored.problems.kind) == ["unscored set", "stray"]

    def test_numbered_folders_that_are_no_scores_are_named_in_the_refusal(self, tmp_path):
        pictures(tmp_path, "1/a.png", "2/b.png", "10/c.png")
        with pytest.raises(DataError, match="folders 1, 10, 2 are no scores, as not all are"):
            read_source(tmp_path)

    def test_names_that_hold_scores_are_a_layout(self, tmp_path):
        source = read_source(pictures(tmp_path, "x_2+.png", "y_0+.png", "z_score1.png", "w.png"))
        assert source.layout.name == "names"
        assert list(source.table.score) == [2, 0, 1]
        assert "no score in the name" in source.problems.problem[0]

    def test_where_folder_and_name_disagree_on_the_score_the_file_is_refused(self, tmp_path):
        pictures(tmp_path, "2+/a_2+.png", "0/b_1+.png", "3+/c.png")
        source = read_source(tmp_path)
        assert list(source.table.score) == [2, 3]
        assert source.problems.kind[0] == "two scores"
        assert "2 read, 1 refused" in source.sentences[-1]
        by_folder = read_source(tmp_path, choices=Choices(score_from="folder1"))
        by_name = read_source(tmp_path, choices=Choices(score_from="name"))
        assert sorted(by_folder.table.score) == [0, 2, 3]
        assert sorted(by_name.table.score) == [1, 2]

    def test_what_lies_there_is_read_refused_or_left_aside(self, tmp_path):
        bci(tmp_path / "BCI", train=6, test=2)
        extra = ["BCI/IHC/train/notes.txt", "BCI/readme.md", "BCI/IHC/train/x_4+.png"]
        for file in extra:
            (tmp_path / file).write_bytes(b"x")
        pictures(tmp_path, "other/a.png", "BCI/HE/test/alone.png")
        source = read_source(tmp_path)
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert source.layout.n_there == len(files) == 21
        assert source.sentences[-1] == (
            "21 files lie there: 8 read, 8 H&E partners, 1 refused, 4 left aside."
        )

    def test_images_of_other_stains_alone_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="images of other stains only"):
            read_source(pictures(tmp_path, "HE/0/a.png", "HE/1+/b.png"))

    def test_other_stains_beside_are_left_aside(self, tmp_path):
        pictures(tmp_path, "HER2/0/a.png", "HER2/3+/b.png", "Ki67/0/c.png", "ER/3+/d.png")
        source = read_source(tmp_path)
        assert list(source.table.score) == [0, 3]
        assert any("2 other images" in sentence for sentence in source.sentences)

    def test_no_root_is_offered_that_would_open_a_whole_disk(self):
        folders = layouts.roots_to_allow(["/mnt/a/x.png", "/home/b/y.png"])
        assert folders == ["/mnt/a", "/home/b"]
        assert layouts.roots_to_allow(["/mnt/a/x/1.png", "/mnt/a/y/2.png"]) == ["/mnt/a"] * 2
        assert layouts.roots_to_allow([]) == []

    def test_a_table_below_whose_scores_the_folders_would_outvote_is_named(self, tmp_path):
        pictures(tmp_path, "2+/a.png", "2+/b.png")
        (tmp_path / "2+" / "manifest.csv").write_text("path,score\na.png,0\nb.png,3+\n")
        with pytest.raises(DataError, match=r"two ways.*2\+/manifest\.csv.*--layout folders"):
            read_source(tmp_path)
        assert list(read_source(tmp_path / "2+").table.score) == [0, 3]
        by_folders = read_source(tmp_path, choices=Choices(layout="folders"))
        assert list(by_folders.table.score) == [2, 2]

    def test_what_is_stated_of_folders_says_nothing_of_a_table_and_that_is_said(self, tmp_path):
        root = manifest(tmp_path, "a.png,0")
        source = read_source(root, choices=Choices(score_from="folder1"))
        assert (
            "Of a table its columns count: --score-from changes nothing here." in source.sentences
        )
        with pytest.raises(DataError, match="is a table, not of the layout 'folders'"):
            read_source(root / "manifest.csv", choices=Choices(layout="folders"))

    def test_the_folder_one_stands_in_has_a_name_too(self, tmp_path, monkeypatch):
        bci(tmp_path / "BCI")
        monkeypatch.chdir(tmp_path / "BCI" / "IHC")
        source = read_source(Path("."))
        assert (source.table.he != "").all()
        assert source.layout.looks_like == "BCI"

    def test_a_manifest_deeper_down_is_a_second_reading_where_its_images_are_read(self, tmp_path):
        pictures(tmp_path, "set/a_2+.png", "set/b_0+.png")
        (tmp_path / "set" / "manifest.csv").write_text("path,score\na_2+.png,0\nb_0+.png,0\n")
        with pytest.raises(DataError, match=r"two ways.*set/manifest\.csv in it"):
            read_source(tmp_path)
        by_name = read_source(tmp_path, choices=Choices(layout="names"))
        assert list(by_name.table.score) == [2, 0]

    def test_the_external_set_of_phantoms_is_left_aside_with_its_manifest(self, tmp_path):
        bci(tmp_path, train=4, test=0)
        pictures(tmp_path, "external/x_0+.png")
        (tmp_path / "external" / "manifest.csv").write_text("path,score\nx_0+.png,0\n")
        source = read_source(tmp_path)
        assert len(source.table) == 4
        assert "2 left aside" in source.sentences[-1]
