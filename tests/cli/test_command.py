"""`her2`: each mistake is one sentence with the remedy, and leaves nothing behind."""

import errno
import inspect
import os
import re
import subprocess
import sys
from html import unescape

import numpy as np
import pandas as pd
import pytest
from examples import bci, picture, plant
from PIL import Image

from her2lib import cli, files
from her2lib.cli import data_verbs, score_verbs, study_verbs
from her2lib.explorer.page import publish_page
from her2lib.phantoms.dataset import write_phantoms
from her2lib.readers.merging import write_to_manifest
from her2lib.readers.sheets import write_sheets
from her2lib.scoring import score_paths
from her2lib.slides.tiling import tile_slides


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
        picture(tmp_path / "mine" / score / f"a{score[0]}.png", len(score), side_px=64)
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


# --- what reaches a user, whatever happens ------------------------------------------------------


def command(*arguments, **options):
    """CompletedProcess of `her2` in a process of its own, its output as bytes."""
    line = [sys.executable, "-m", "her2lib.cli.command", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, **options)


def a_verb_that_raises(monkeypatch, error):
    """None; `her2 status` raises this error from now on, as from code that is not the kit's."""
    namespace = {}
    exec(compile("def fail(error):\n    raise error", "elsewhere.py", "exec"), namespace)
    monkeypatch.setattr(study_verbs, "_known_study", lambda name: namespace["fail"](error))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("code"),
        StopIteration(),
        ValueError("reindex"),
        *[OSError("cannot identify image file"), TypeError("NoneType"), AttributeError("x")],
    ],
)
def test_a_defect_of_the_kit_is_named_as_one_and_not_blamed_on_the_data(capsys, monkeypatch, error):
    monkeypatch.delenv("HER2_DEBUG", raising=False)
    a_verb_that_raises(monkeypatch, error)
    code, printed = her2(capsys, "status", "demo")
    assert code == 70
    assert "a defect of the kit, not of your data (her2lib/cli/study_verbs.py, line" in printed
    assert len(printed.splitlines()) == 1
    monkeypatch.setenv("HER2_DEBUG", "1")
    with pytest.raises(type(error)):
        her2(capsys, "status", "demo")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOENT, "There is nothing at a.csv"),
        (errno.EACCES, "a.csv may not be read or written: change its permissions"),
        (errno.EISDIR, "a.csv is a folder, and a file is needed"),
        (errno.ENOSPC, "The disk is full: free space"),
        (errno.ENAMETOOLONG, "longer than the file system takes"),
        (errno.ETIMEDOUT, "a.csv cannot be used"),
    ],
)
def test_what_the_operating_system_refuses_is_a_sentence_with_a_remedy(
    capsys, monkeypatch, code, says
):
    a_verb_that_raises(monkeypatch, OSError(code, os.strerror(code), "a.csv"))
    status, printed = her2(capsys, "status", "demo")
    assert status == 2
    assert says in printed
    assert "[Errno" not in printed
    assert os.strerror(code) not in printed


def test_an_interruption_says_that_the_command_goes_on(capsys, monkeypatch):
    a_verb_that_raises(monkeypatch, KeyboardInterrupt())
    code, printed = her2(capsys, "status", "demo")
    assert code == 130
    assert "goes on where it stopped" in printed


def test_case_29_letters_that_a_terminal_lacks_are_replaced(tmp_path):
    for score in ("0", "3+"):
        picture(tmp_path / "mine" / score / f"a\u0301 {score} 😀.png", len(score))
    (tmp_path / "mine" / "0" / "e\u0301.png").write_bytes(b"")
    done = command("check", tmp_path / "mine", env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 1
    assert b"e?.png" in done.stdout
    assert b"codec" not in done.stdout + done.stderr
    assert b"her2:" not in done.stderr


def test_case_30_a_reader_that_goes_away_ends_the_command_in_silence(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "her2lib.cli.command", "run", "smoke", "--dry-run"]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "takes"),
    [
        (["run", "smoke", "--workers", "-1"], "a whole number from 1 to 1,024"),
        (["run", "smoke", "--workers", "1.5"], "a whole number from 1 to 1,024"),
        (["run", "smoke", "--workers", "100000"], "a whole number from 1 to 1,024"),
        (["run", "smoke", "--per-gpu", "0"], "a whole number from 1 to 1,024"),
        (["run", "--data", ".", "--epochs", "0"], "a whole number from 1 to 10,000,000"),
        (["run", "--data", ".", "--epochs", "ten"], "a whole number from 1 to 10,000,000"),
        (["run", "--data", ".", "--side-px", "0"], "a whole number from 16 to 16,384"),
        (["sheet", ".", "--readers", "anna", "--repeats", "1.5"], "a number from 0 to 1"),
        (["sheet", ".", "--readers", "anna", "--repeats", "-0.5"], "a number from 0 to 1"),
        (["sheet", ".", "--readers", "anna", "--repeats", "nan"], "a number from 0 to 1"),
        (["score", ".", "--run", "x", "--maps", "-1"], "a whole number from 0 to 10,000,000"),
        (["phantom", "new", "--patches", "-3"], "a whole number from 1 to 10,000,000"),
        (["phantom", "new", "--patches", "1e99"], "a whole number from 1 to 10,000,000"),
        (["phantom", "new", "--seed", "-1"], "a whole number from 0 to 4,294,967,295"),
        (["phantom", "new", "--mpp", "0.0"], "a number from 0.05 to 10"),
        (["phantom", "new", "--mpp", "inf"], "a number from 0.05 to 10"),
        (["tile", "a.svs", "--out", "new", "--tissue", "2.0"], "a number from 0 to 1"),
        (["explorer", "smoke", "--patches", "0"], "a whole number from 1 to 10,000,000"),
    ],
)
def test_case_31_a_number_out_of_range_is_refused_at_the_door(
    capsys, tmp_path, monkeypatch, arguments, takes
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    code, printed = her2(capsys, *arguments)
    assert code == 2
    assert printed == f"her2: {arguments[-2]} takes {takes}, not '{arguments[-1]}'.\n"
    assert not list(tmp_path.iterdir())


# --- defaults, whole studies --------------------------------------------------------------------


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
