"""Study files: every key checked, every run named once, fingerprints that change when and only when something did."""

import os

import pytest

from her2lib import files
from her2lib.runner import plan
from her2lib.study import config, fingerprints


def write(folder, text, name="x.toml"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_runs_are_the_product_of_the_axes_and_each_is_named_once(tmp_path):
    loaded = config.load_study(
        write(
            tmp_path,
            '[axes]\nseed = [0, 1]\nside_px = [64, 112]\n[[also]]\ntwin = "shuffled"\n[[also]]\nseed = 1\n',
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
        ("data = 3\n", "must be a table"),
        ("[data\n", "not valid TOML"),
    ],
)
def test_a_misspelt_key_gives_the_nearest_right_word(tmp_path, text, says):
    with pytest.raises(config.StudyError) as error:
        config.load_study(write(tmp_path, text))
    assert says in str(error.value)
    assert "x.toml" in str(error.value)


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


def test_nothing_half_written_when_writing_fails(tmp_path, monkeypatch):
    file = files.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_code_fingerprint_follows_imports(tmp_path, monkeypatch):
    assert fingerprints.imported_modules(
        "from her2lib import stain\nimport her2lib.networks.train as t\nfrom her2lib.scores import SCORES\nimport numpy"
    ) == {"stain", "networks.train", "scores"}
    before = fingerprints.code_fingerprint("data.patches")
    real = fingerprints._python_source
    monkeypatch.setattr(
        fingerprints,
        "_python_source",
        lambda file: real(file) + ("\n# changed" if file.stem == "scores" else ""),
    )
    assert fingerprints.code_fingerprint("data.patches") != before
    assert fingerprints.code_fingerprint("stats.intervals") == fingerprints.code_fingerprint(
        "stats.intervals"
    )


def test_data_fingerprint_changes_with_the_files(tmp_path):
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "a_1+.png").write_bytes(b"1")
    loaded = config.load_study(write(tmp_path, f"[data]\nsource = '{tmp_path / 'patches'}'\n"))
    before = fingerprints.data_fingerprint(loaded)
    assert fingerprints.data_fingerprint(loaded) == before
    (tmp_path / "patches" / "b_2+.png").write_bytes(b"2")
    assert fingerprints.data_fingerprint(loaded) != before


def test_a_run_starts_from_a_file_or_from_the_same_network_of_another_study(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    first = write(
        tmp_path,
        '[axes]\nnetwork = ["resnet18", "hybrid"]\nside_px = 64\nseed = [0, 1]\n[[also]]\ntwin = "shuffled"\n',
        "first.toml",
    )
    text = f'[axes]\nnetwork = ["hybrid", "vit_tiny"]\nside_px = 64\nseed = [1, 9]\nweights = ["none", "study:{first}"]\n'
    row = {
        (row["network"], row["seed"], row["weights"]): row
        for row in config.load_study(write(tmp_path, text, "second.toml")).runs()
    }
    word = f"study:{first}"
    assert config.load_study(first).start(row["hybrid", 1, "none"]) == "none"
    with pytest.raises(config.StudyError, match=r"hybrid-as_presented.* run that study first"):
        config.load_study(first).start(row["hybrid", 1, word])
    with pytest.raises(config.StudyError, match=r"vit_tiny-as_presented.* run that study"):
        config.load_study(first).start(row["vit_tiny", 1, word])
    for seed in (0, 1):
        files.write_bytes(
            config.load_study(first).folder_of(f"hybrid-as_presented-imagenet-64px-n100-s{seed}")
            / "model.safetensors",
            b"x",
        )
    assert "-s1/" in config.load_study(first).start(
        row["hybrid", 1, word]
    )  # the same seed where there is one
    assert "-s0/" in config.load_study(first).start(row["hybrid", 9, word])
    with pytest.raises(config.StudyError, match=r"there is no .*gone"):
        config.load_study(first).start(row["hybrid", 1, "none"] | {"weights": "gone.safetensors"})


def test_a_sheet_counts_as_read_once_it_was_saved_after_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    made = config.load_study("smoke")
    assert made.readings == []
    for place in ("round/ann", "round/bob"):
        files.write_text(made.folder / "reading" / place / "sheet.csv", "code,image,score,remark\n")
    key = files.write_text(made.folder / "reading" / "round" / "key.csv", "code,patch\n")
    os.utime(key, ns=(10**18, 10**18))
    for reader, when in (("ann", 10**18 - 1), ("bob", 10**18 + 1)):
        os.utime(made.folder / "reading" / "round" / reader / "sheet.csv", ns=(when, when))
    assert [when for _, _, when in made.readings] == [10**18 + 1]


def test_only_the_label_review_hangs_on_readings(monkeypatch):
    made = config.load_study("smoke")
    before = {task.name: task.fingerprint for task in plan.plan_tasks(made)}
    monkeypatch.setattr(config.Study, "readings", [("sheet.csv", 1, 2)])
    after = {task.name: task.fingerprint for task in plan.plan_tasks(made)}
    assert {name for name in before if before[name] != after[name]} == {config.REVIEW, plan.REPORT}
