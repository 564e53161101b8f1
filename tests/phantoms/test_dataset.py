"""One patch and folders of them: reproducible, BCI-shaped, resumable at any point."""

import hashlib
import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from her2lib.phantoms import dataset, slide
from her2lib.scores import SCORES

REAL = Path(__file__).parents[3] / "shared" / "real"
OFF = dict.fromkeys(slide.ARTEFACTS, False)
SET = {
    "patches": 10,
    "slides": 5,
    "side_px": 48,
    "mpp": 2.0,
    "seed": 3,
    "truth": True,
    "he": True,
    "external": 6,
    "raters": 3,
    "progress": False,
}


def contents(folder):
    """{relative path: SHA-256} of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return dataset.write_phantoms(tmp_path_factory.mktemp("set") / "phantoms", workers=2, **SET)


# --- one patch -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    one, two, other = (dataset.make_patch(seed, score=2, side_px=128) for seed in (8, 8, 9))
    assert (one.image == two.image).all()
    assert one.cells.equals(two.cells)
    assert (one.image != other.image).any()


def test_coarse_pictures_are_averages_of_fine_ones():
    drawn = slide.draw_slide(4, score=3)
    at_um = dataset.find_window(0, drawn, side_um=256, score=3, **OFF)
    coarse = dataset.make_patch(0, slide=drawn, at_um=at_um, side_px=64, mpp=4.0, **OFF)
    fine = dataset.make_patch(0, slide=drawn, at_um=at_um, side_px=256, mpp=1.0, **OFF)
    assert coarse.image.shape == (64, 64, 3)
    assert np.abs(coarse.image.mean((0, 1)) - fine.image.mean((0, 1))).max() < 1
    assert (coarse.masks["tumour"].mean() - fine.masks["tumour"].mean()) < 0.02


@pytest.mark.skipif(not REAL.exists(), reason="the real patches are not beside the project")
def test_real_patches_lie_within_the_phantoms():
    path = Path(__file__).parents[2] / "benchmarks" / "phantom.py"
    spec = importlib.util.spec_from_file_location("phantom_benchmark", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    with bench.joblib.parallel_config(backend="threading"):
        table = bench.coverage(bench.read_real(REAL, fine=4), 72, side_px=256, mpp=2.0, per_slide=1)
    print(table.round(3).to_string())
    assert (table.inside >= 0.9).sum() >= 10


# --- a folder ------------------------------------------------------------------------------------


def test_two_workers_write_the_same_bytes_as_one(folder, tmp_path):
    assert contents(dataset.write_phantoms(tmp_path / "one", workers=1, **SET)) == contents(folder)


def test_the_folder_has_the_shape_of_bci(folder):
    rows = pd.read_csv(folder / "phantom.csv")
    for row in rows[rows.set != "external"].itertuples():
        assert row.name.endswith(f"_{row.set}_{row.score}.png")
        for stain in ("IHC", "HE"):
            assert Image.open(folder / stain / row.set / row.name).size == (48, 48)
    assert len(list(folder.glob("IHC/*/*"))) == len(list(folder.glob("HE/*/*"))) == 10
    assert (rows.cell_score == rows.score)[rows.set != "external"].all()
    assert not set(rows.slide[rows.set == "train"]) & set(rows.slide[rows.set == "test"])
    assert not list(folder.rglob(".*"))


def test_the_external_site_is_another_laboratory_with_raters(folder):
    rows = pd.read_csv(folder / "external" / "manifest.csv")
    raters = ["rater_a", "rater_b", "rater_c"]
    assert list(rows) == ["path", "score", "slide", "patient", "mpp", *raters]
    assert len(rows) == 6
    assert all((folder / "external" / path).exists() for path in rows.path)
    assert set(rows.rater_a.astype(str)) <= set(SCORES)
    everything = pd.read_csv(folder / "phantom.csv")
    assert set(everything.laboratory[everything.set == "external"]) == {1}


def test_truth_lies_beside_the_patches(folder):
    name = next((folder / "IHC" / "train").iterdir()).stem
    with np.load(folder / "truth" / f"{name}.npz") as masks:
        assert masks["tumour"].shape == (48, 48)
    cells = pd.read_csv(folder / "truth" / f"{name}.csv")
    assert {"x", "y", "intensity", "completeness", "deciding"} <= set(cells)


def test_every_second_patch_of_a_slide_touches_the_one_before(folder):
    rows = pd.read_csv(folder / "phantom.csv")
    for _, patches in rows.groupby("slide"):
        pairs = zip(patches.iloc[::2].itertuples(), patches.iloc[1::2].itertuples(), strict=False)
        for first, second in pairs:
            apart = abs(first.x_um - second.x_um) + abs(first.y_um - second.y_um)
            assert apart == pytest.approx(96)


def test_settings_of_a_folder_are_readable(folder):
    settings = json.loads((folder / "phantom.json").read_text())
    assert settings["side_px"] == 48
    assert settings["mpp"] == 2.0


def test_weak_patches_carry_the_score_of_their_slide(tmp_path):
    weak = dataset.write_phantoms(
        tmp_path / "weak",
        patches=12,
        slides=4,
        side_px=48,
        mpp=2.0,
        weak=True,
        progress=False,
        workers=1,
    )
    rows = pd.read_csv(weak / "phantom.csv")
    assert rows.groupby("slide").score.nunique().eq(1).all()
    assert rows.weak.all()
    assert (rows.score != rows.cell_score).any()


def test_a_folder_is_as_large_as_the_published_patches_unless_told_otherwise():
    parameters = inspect.signature(dataset.write_phantoms).parameters
    names = ("patches", "slides", "side_px", "mpp", "seed", "external", "raters", "laboratories")
    assert [parameters[name].default for name in names] == [400, 51, 1024, 0.5, 0, 0, 0, 1]


# --- going on, and refusing ----------------------------------------------------------------------


def test_a_complete_folder_is_left_alone_and_other_settings_are_refused(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert dataset.write_phantoms(folder, workers=2, **SET) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(ValueError, match="made with seed=3, not 4: choose another folder"):
        dataset.write_phantoms(folder, **(SET | {"seed": 4}))


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds files that are no phantoms"):
        dataset.write_phantoms(tmp_path, **SET)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_misspelt_setting_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="pachtes"):
        dataset.write_phantoms(tmp_path / "new", pachtes=3)
    assert not (tmp_path / "new").exists()


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(folder, tmp_path):
    target = tmp_path / "killed"
    code = (
        "from her2lib.phantoms import dataset; "
        f"dataset.write_phantoms({str(target)!r}, workers=1, **{SET!r})"
    )
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        done = len(list(target.glob(".parts/*.json")))
        while child.poll() is None and len(list(target.glob(".parts/*.json"))) < done + 2:
            time.sleep(0.005)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not (target / "phantom.json").exists()
    # what a process killed while writing leaves
    left = target / "IHC" / "train" / ".half.png.1.part"
    left.write_bytes(b"half")
    dataset.write_phantoms(target, workers=1, **SET)
    assert contents(target) == contents(folder)


# --- which patches, and how raters read them -----------------------------------------------------


def test_shares_of_scores_are_those_of_bci_or_balanced():
    settings = {
        "patches": 400,
        "slides": 24,
        "balanced": False,
        "external": 281,
        "laboratories": 1,
    }
    jobs = pd.DataFrame(dataset._jobs(settings))
    shares = jobs.score[jobs.set != "external"].value_counts(normalize=True)
    assert shares.sort_index().tolist() == pytest.approx([0.05, 0.237, 0.44, 0.273], abs=0.005)
    outside = jobs[jobs.set == "external"]
    assert outside.slide.nunique() == 19
    assert outside.score.value_counts().to_dict() == {1: 134, 3: 109, 2: 38}
    even = pd.DataFrame(dataset._jobs(settings | {"balanced": True, "external": 0}))
    assert even.score.value_counts().tolist() == [100] * 4


def test_raters_differ_but_agree_better_than_chance():
    settings = {"raters": 3, "seed": 1}
    scores = np.repeat(range(4), 250)
    read = pd.DataFrame([dataset._rate(score, settings, [5, k]) for k, score in enumerate(scores)])
    assert list(read) == ["rater_a", "rater_b", "rater_c"]
    for name in read:
        assert 0.6 < (read[name] == scores).mean() < 0.98
        assert (abs(read[name] - scores) <= 1).mean() > 0.98
