"""`her2`: each mistake is one sentence with the remedy, and leaves nothing behind."""

import inspect
import os
import re
import subprocess
import sys
from html import unescape

import numpy as np
import pandas as pd
import pytest
from examples import bci, plant
from PIL import Image

from her2lib import cli, files
from her2lib.cli import data_verbs, score_verbs, study_verbs
from her2lib.data.slides import tile_slides
from her2lib.explorer.page import publish_page
from her2lib.phantoms.dataset import write_phantoms
from her2lib.readers.sheets import write_sheets, write_to_manifest
from her2lib.scoring import score_paths


def her2(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "smok"], "Did you mean 'smoke'"),
        (["run"], "Name a study"),
        (["run", "smoke", "--data", "."], "not both"),
        (["run", "--data", "/nowhere"], "nothing at /nowhere"),
        (["run", "bci"], "put the patches there"),
        (["status", "dem"], "Did you mean 'demo'"),
        (["diff", "smoke", "demo"], "Study smoke has no numbers yet: her2 run smoke"),
        (["check", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, arguments, says, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    code, said = her2(capsys, *arguments)
    assert code == 2
    assert says in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_in_a_study_file_names_the_right_word(capsys, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[data]\nsorce = 'x'\n")
    code, said = her2(capsys, "run", file)
    assert code == 2
    assert "Did you mean 'source'" in said


def test_an_empty_folder_and_an_unreadable_image_are_named(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    code, said = her2(capsys, "check", tmp_path / "empty")
    assert code == 2
    assert "empty" in said
    folder = tmp_path / "mine"
    for score in ("0", "3+"):
        (folder / score).mkdir(parents=True)
        Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(
            folder / score / f"a{score[0]}.png"
        )
    (folder / "3+" / "broken.png").write_bytes(b"not an image")
    code, said = her2(capsys, "check", folder)
    assert code == 1
    assert "broken.png" in said
    assert "Remedy:" in said


def test_a_run_on_faulty_data_stops_before_any_notebook(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    code, said = her2(capsys, "run", "--data", tmp_path / "empty")
    assert code == 2
    assert "holds no patches" in said
    for score in ("0", "3+"):
        (tmp_path / "mine" / score).mkdir(parents=True)
        Image.fromarray(np.full((64, 64, 3), 200 + len(score), np.uint8)).save(
            tmp_path / "mine" / score / f"a{score[0]}.png"
        )
    (tmp_path / "mine" / "3+" / "broken.png").write_bytes(b"not an image")
    code, said = her2(capsys, "run", "--data", tmp_path / "mine")
    assert code == 2
    assert "broken.png" in said
    assert "--skip-bad" in said
    assert not list(tmp_path.rglob("*.ipynb"))


def test_help_is_instant_and_complete():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "her2lib.cli.command", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for verb in ("run", "status", "check", "phantom", "report", "audit"):
        assert verb in done.stdout
    assert "torch" not in done.stderr
    assert "Research use only" in done.stdout


def test_the_plan_is_printed_and_nothing_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    code, said = her2(capsys, "run", "smoke", "--dry-run")
    assert code == 0
    assert "resnet18-as_presented-none-64px-n100-s0" in said
    assert not list(tmp_path.rglob("*.csv"))


def test_phantoms_take_every_setting_and_name_a_misspelt_artefact(capsys, tmp_path):
    wanted = [
        "phantom",
        tmp_path / "a",
        "--patches",
        4,
        "--slides",
        4,
        "--side-px",
        48,
        "--mpp",
        2,
        "--workers",
        1,
        "--balanced",
        "--he",
    ]
    code, _ = her2(
        capsys,
        *wanted,
        "--laboratories",
        2,
        "--external",
        2,
        "--raters",
        2,
        "--without",
        "blush",
        "--with",
        "dust",
    )
    rows = pd.read_csv(tmp_path / "a" / "phantom.csv")
    assert code == 0
    assert sorted(rows.query("set != 'external'").score) == ["0", "1+", "2+", "3+"]
    assert len(list((tmp_path / "a" / "HE").rglob("*.png"))) == 4
    assert set(rows.laboratory) == {0, 1, 2}
    assert rows.loc[rows.set == "external", ["rater_a", "rater_b"]].notna().all(axis=None)
    assert (rows.blush == 0).all()
    assert (rows.dust > 0).all()
    code, said = her2(capsys, "phantom", tmp_path / "b", "--with", "dustt")
    assert code == 2
    assert "dust" in said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "smoke", "--workers", "-1"],
        ["run", "smoke", "--per-gpu", "0"],
        ["run", "--data", ".", "--epochs", "0"],
        ["run", "--data", ".", "--side-px", "0"],
        ["sheet", ".", "--readers", "anna", "--repeats", "1.5"],
        ["sheet", ".", "--readers", "anna", "--repeats", "-0.5"],
        ["score", ".", "--run", "x", "--maps", "-1"],
        ["phantom", "new", "--patches", "-3"],
        ["phantom", "new", "--mpp", "0.0"],
        ["tile", "a.svs", "--out", "new", "--tissue", "2.0"],
        ["explorer", "smoke", "--patches", "0"],
    ],
)
def test_a_number_out_of_range_is_refused_in_a_sentence(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    code, printed = her2(capsys, *arguments)
    assert code == 2
    assert f'Invalid value "{arguments[-1]}" for {arguments[-2]}' in printed
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        (data_verbs.phantom, write_phantoms),
        (data_verbs.tile, tile_slides),
        (score_verbs.score, score_paths),
        (score_verbs.sheet, write_sheets),
        (score_verbs.consensus, write_to_manifest),
        (study_verbs.explorer, publish_page),
    ],
)
def test_defaults_of_the_command_line_are_those_of_the_library(verb, function):
    of_verb = inspect.signature(verb).parameters
    of_function = inspect.signature(function).parameters
    shared = 0
    for name in of_verb.keys() & of_function.keys():
        default = of_function[name].default
        if default is not inspect.Parameter.empty and of_verb[name].default is not None:
            assert of_verb[name].default == default, name
            shared += 1
    assert shared, f"{verb.__name__} and {function.__name__} share no default"


@pytest.mark.slow  # a whole study of one small network
def test_twenty_faults_are_left_out_and_named_in_the_report(tmp_path):
    root = bci(tmp_path / "data", train=40, test=16)
    planted = plant(root)
    environment = {
        **os.environ,
        "HER2_REPORTS": str(tmp_path / "reports"),
        "HER2_CACHE": str(tmp_path / "cache"),
    }
    command = [
        sys.executable,
        "-m",
        "her2lib.cli.command",
        "run",
        "--data",
        root,
        "--name",
        "faulty",
        "--skip-bad",
        "--side-px",
        64,
        "--epochs",
        1,
    ]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = unescape((tmp_path / "reports" / "faulty" / "report.html").read_text(encoding="utf-8"))
    text = re.sub(r"<[^>]+>", " ", page)
    for file, words in planted.items():
        assert file in text, f"{file} ({words}) is not named"
        assert words in text


@pytest.mark.slow  # a whole study with four trainings
def test_a_study_of_three_splits_and_uneven_seeds_runs_to_its_report(tmp_path):
    file = tmp_path / "three.toml"
    file.write_text(
        """
[data]
source = "phantom"

[phantom]
patches = 80
slides = 16
side_px = 64
mpp = 1.0
raters = 1
balanced = true

[axes]
network = ["resnet18"]
side_px = [32]
weights = ["none"]
seed = [0, 1, 2]

[[extra_axes]]
split = ["random", "grouped"]
seed = [0]

[[extra_axes]]
network = "hybrid"
seed = [0, 1]

[train]
epochs = 1

[maps]
patches = 4
resamples = 50
"""
    )
    environment = {
        **os.environ,
        "HER2_REPORTS": str(tmp_path / "reports"),
        "HER2_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "her2lib.cli.command"]
    done = subprocess.run(
        [*command, "run", str(file)], capture_output=True, text=True, env=environment, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = pd.read_csv(tmp_path / "reports" / "three" / "numbers.csv", keep_default_na=False)
    assert numbers["metric"].str.endswith(" gap").sum() >= 6  # three splits, by accuracy and kappa
    assert (
        not numbers[numbers["id"].str.startswith("06/")]["run"].str.contains("random|grouped").any()
    )
    told = subprocess.run(
        [*command, "audit", str(file)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert told.returncode == 0, told.stdout
    assert "contradiction" not in told.stdout
