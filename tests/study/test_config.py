"""Study files: every key checked, every run named once, start and readings of a run."""

import os

import pytest

from her2lib import files
from her2lib.study import config


def write(folder, text, name="x.toml"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_runs_are_the_product_of_the_axes_and_each_is_named_once(tmp_path):
    loaded = config.load_study(
        write(
            tmp_path,
            "[axes]\nseed = [0, 1]\nside_px = [64, 112]\n"
            '[[extra_axes]]\nlabel_shuffle = "shuffled"\n[[extra_axes]]\nseed = 1\n',
        )
    )
    names = [run["run"] for run in loaded.runs()]
    assert len(names) == len(set(names)) == 5
    assert loaded.run(names[1])["seed"] in (0, 1)
    assert sum(name.endswith("-shuffled") for name in names) == 1
    assert loaded.run("") == loaded.runs()[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[dta]\n", "Did you mean 'data'"),
        ("[data]\nsorce = 'x'\n", "Did you mean 'source'"),
        ("[axes]\nnetwork = 'resnet81'\n", "Did you mean 'resnet18'"),
        ("[axes]\nside = 3\n", "side_px"),
        ("[axes]\nside_px = 'big'\n", "whole numbers"),
        ("[axes]\nn_train = 10\n", "share"),
        ("[[also]]\nsede = 1\n", "Did you mean 'seed'"),
        ("[[extra_axes]]\nsede = 1\n", "Did you mean 'seed'"),
        ("data = 3\n", "must be a table"),
        ("[data\n", "not valid TOML at line 1, column 6"),
        ("a = ", "not valid TOML at end of document"),
        ("[data]\nsource = 3\n", "source in [data] is a text, not 3"),
        ("[data]\nskip_bad = 'no'\n", "skip_bad in [data] is true or false"),
        ("[data]\nval = nan\n", "val in [data] is a number, not nan"),
        ("[maps]\npatches = true\n", "patches in [maps] is a whole number"),
        ("[axes]\nn_train = 'all'\n", "share"),
        ("[axes]\nweights = 3\n", "a text in quotes"),
        ("extra_axes = 3\n", "[[extra_axes]]"),
        ("extra_notebooks = [91]\n", "names in quotes"),
    ],
)
def test_a_misspelt_key_gives_the_nearest_right_word(tmp_path, text, says):
    with pytest.raises(config.StudyError) as error:
        config.load_study(write(tmp_path, text))
    assert says in str(error.value)
    assert "x.toml" in str(error.value)


def test_a_study_file_of_the_words_before_is_read_as_one_of_todays(tmp_path):
    text = (
        '{notebooks} = ["91_speed"]\n[axes]\n{shuffle} = ["none"]\n'
        '[[{more}]]\n{shuffle} = "shuffled"\n'
    )
    before = write(tmp_path, text.format(notebooks="rooms", shuffle="twin", more="also"), "a.toml")
    today = write(
        tmp_path,
        text.format(notebooks="extra_notebooks", shuffle="label_shuffle", more="extra_axes"),
        "b.toml",
    )
    old, new = (config.load_study(file) for file in (before, today))
    assert old.runs() == new.runs()
    assert [row["label_shuffle"] for row in old.runs()] == ["none", "shuffled"]
    assert old.runs()[1]["run"].endswith("-s0-shuffled")
    assert old.extra_axes == new.extra_axes == ({"label_shuffle": ["shuffled"]},)
    assert old.extra_notebooks == new.extra_notebooks == ("91_speed",)
    with pytest.raises(config.StudyError, match="Did you mean 'extra_notebooks'"):
        config.load_study(write(tmp_path, 'extra_notebook = ["91_speed"]\n'))


def test_an_unknown_study_or_run_names_what_there_is(tmp_path):
    with pytest.raises(config.StudyError, match="Did you mean 'smoke'"):
        config.load_study("smok")
    with pytest.raises(config.StudyError, match="no run"):
        config.load_study("smoke").run("resnet18-nothing")
    with pytest.raises(config.StudyError, match="letters, digits"):
        config.load_study(write(tmp_path, "", name="a b.toml"))


def test_a_study_file_that_is_no_utf_8_says_so(tmp_path):
    file = tmp_path / "x.toml"
    file.write_bytes("question = 'für wen?'\n".encode("latin-1"))
    with pytest.raises(config.StudyError, match=r"x\.toml is not UTF-8"):
        config.load_study(file)


def test_studies_that_were_made_are_among_those_a_slip_may_have_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    files.write_text(tmp_path / "lymph-nodes" / "lymph-nodes.toml", "")
    files.write_text(tmp_path / "lymph-nodes" / "lymph-nodes.before-2026-01-01.toml", "")
    assert [file.stem for file in config.made_files()] == ["lymph-nodes"]
    with pytest.raises(config.StudyError, match="Did you mean 'lymph-nodes'"):
        config.load_study("lymph-node")


def test_every_shipped_study_loads():
    assert {"smoke", "demo", "bci", "data"} <= {file.stem for file in config.study_files()}
    for file in config.study_files():
        assert config.load_study(file.stem).runs()


def test_a_run_starts_from_a_file_or_from_the_same_network_of_another_study(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    first = write(
        tmp_path,
        '[axes]\nnetwork = ["resnet18", "hybrid"]\nside_px = 64\nseed = [0, 1]\n'
        '[[extra_axes]]\nlabel_shuffle = "shuffled"\n',
        "first.toml",
    )
    text = (
        '[axes]\nnetwork = ["hybrid", "vit_tiny"]\nside_px = 64\nseed = [1, 9]\n'
        f'weights = ["none", "study:{first}"]\n'
    )
    row = {
        (row["network"], row["seed"], row["weights"]): row
        for row in config.load_study(write(tmp_path, text, "second.toml")).runs()
    }
    start_of_study = f"study:{first}"
    assert config.load_study(first).start(row["hybrid", 1, "none"]) == "none"
    with pytest.raises(config.StudyError, match=r"hybrid-as_presented.* run that study first"):
        config.load_study(first).start(row["hybrid", 1, start_of_study])
    with pytest.raises(config.StudyError, match=r"vit_tiny-as_presented.* run that study"):
        config.load_study(first).start(row["vit_tiny", 1, start_of_study])
    for seed in (0, 1):
        files.write_bytes(
            config.load_study(first).folder_of(f"hybrid-as_presented-imagenet-64px-n100-s{seed}")
            / "model.safetensors",
            b"x",
        )
    assert "-s1/" in config.load_study(first).start(
        row["hybrid", 1, start_of_study]
    )  # the same seed where there is one
    assert "-s0/" in config.load_study(first).start(row["hybrid", 9, start_of_study])
    with pytest.raises(config.StudyError, match=r"there is no .*gone"):
        config.load_study(first).start(row["hybrid", 1, "none"] | {"weights": "gone.safetensors"})


def test_a_sheet_counts_as_read_once_it_was_saved_after_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    study = config.load_study("smoke")
    assert study.readings == []
    for folder in ("round/ann", "round/bob"):
        files.write_text(
            study.folder / "reading" / folder / "sheet.csv", "code,image,score,remark\n"
        )
    key = files.write_text(study.folder / "reading" / "round" / "key.csv", "code,patch\n")
    os.utime(key, ns=(10**18, 10**18))
    for reader, when in (("ann", 10**18 - 1), ("bob", 10**18 + 1)):
        os.utime(study.folder / "reading" / "round" / reader / "sheet.csv", ns=(when, when))
    assert [when for _, _, when in study.readings] == [10**18 + 1]


def test_the_scores_of_a_study_are_positions_in_their_order_and_all_four_where_none_is_named(
    tmp_path,
):
    for scores, declared in (
        ("[]", (0, 1, 2, 3)),
        ('["3+", "1+", "2+", "1+"]', (1, 2, 3)),
        ("[0, '2+', '3+']", (0, 2, 3)),
    ):
        study = config.load_study(write(tmp_path, f"[data]\nscores = {scores}\n"))
        assert study.declared_scores == declared
    with pytest.raises(config.StudyError, match=r"names 1\+ alone, .*: name two or more, or none"):
        config.load_study(write(tmp_path, '[data]\nscores = ["1+", "1+"]\n'))


def test_how_patches_are_read_stands_in_the_study_file(tmp_path):
    study = config.load_study(
        write(
            tmp_path,
            '[data]\nscore_from = "folder1"\nallow = ["/store"]\nmpp = 0.5\nany_field = true\n'
            '[scores]\nNegative = "0"\nlow = 1\n',
        )
    )
    choices = study.choices
    assert (choices.score_from, choices.allow, choices.mpp) == ("folder1", ("/store",), 0.5)
    assert choices.score_words == {"negative": "0", "low": "1"}
    assert choices.any_field
    assert config.load_study(write(tmp_path, "")).choices.stated() == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[data]\nlayout = "bic"\n', "Did you mean 'bci'"),
        ('[data]\nscore_from = "folder"\n', "Did you mean 'folder"),
        ("[data]\nallow = [3]\n", "allow in .data. is a list of folders"),
        ("[data]\nmpp = 250\n", "mpp is micrometres a pixel, 0.05 to 10"),
        ('[scores]\nnegative = "none"\n', "'none' is not a HER2 score"),
    ],
)
def test_a_way_of_reading_that_there_is_none_of_is_refused(tmp_path, text, says):
    with pytest.raises(config.StudyError, match=says):
        config.load_study(write(tmp_path, text))
