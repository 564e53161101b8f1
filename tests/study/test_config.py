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
        ("[data\n", "not valid TOML"),
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


def test_every_shipped_study_loads():
    assert {"smoke", "demo", "bci", "data"} <= {file.stem for file in config.study_files()}
    for file in config.study_files():
        assert config.load_study(file.stem).runs()


def test_from_data_fills_the_form(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    (tmp_path / 'odd "name"').mkdir()
    file = config.make_study(
        tmp_path / 'odd "name"', networks=["resnet18"], weights="none", epochs=3, skip_bad=True
    )
    loaded = config.load_study(file)
    assert loaded.cohort_path == (tmp_path / 'odd "name"').resolve()
    assert loaded.data["skip_bad"] is True
    assert loaded.train["epochs"] == 3
    assert loaded.axes["weights"] == ["none"]
    assert config.load_study(loaded.name).file == file  # by name from now on
    with pytest.raises(config.StudyError, match="nothing at"):
        config.make_study(tmp_path / "absent")


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
