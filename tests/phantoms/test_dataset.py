"""Phantoms: truth that holds pixel by pixel, the ASCO/CAP rule twice, misleaders that switch, folders that survive anything."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from her2lib.phantoms import dataset, slide, tissue
from her2lib.scores import SCORES

REAL = Path(__file__).parents[3] / "shared" / "real"
OFF = dict.fromkeys(slide.MISLEADERS, False)
SMALL = dict(side_px=256, mpp=0.5)
SET = dict(
    patches=10,
    slides=5,
    side_px=48,
    mpp=2.0,
    seed=3,
    truth=True,
    he=True,
    external=6,
    raters=3,
    progress=False,
)


@pytest.fixture(scope="module")
def strong():
    return dataset.make_patch(5, score=3, side_px=512, **OFF)


def by_hand(cells):
    """The rule once more, cell by cell, as a pathologist would count it."""
    count = {"strong": 0, "moderate": 0, "faint": 0, "all": 0}
    for cell in cells.itertuples():
        if not cell.invasive:
            continue
        count["all"] += 1
        if cell.completeness >= 0.85 and cell.intensity >= 0.55:
            count["strong"] += 1
        elif cell.completeness >= 0.85 and cell.intensity >= 0.18:
            count["moderate"] += 1
        elif cell.completeness > 0 and cell.intensity >= 0.04:
            count["faint"] += 1
    above = 0.1 * count["all"]
    if count["strong"] > above:
        return 3
    if count["strong"] + count["moderate"] > above:
        return 2
    return 1 if count["strong"] + count["moderate"] + count["faint"] > above else 0


def unpainted(seed, *, side_px, mpp=0.5, score=None, **switches):
    """(score, cell table) of phantom.patch(seed, ...), without the time that its picture takes."""
    plan, _, rng = slide.set_up(seed, score, None, switches)
    window, *_, cells = slide.find(plan, rng, side_px * mpp, score)
    return slide.decide(cells, window, mpp)


def table(*rows):
    return pd.DataFrame(rows, columns=["intensity", "completeness", "invasive"])


@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(200, 1000), marks=pytest.mark.slow)]
)
def test_the_score_of_a_thousand_phantoms_is_the_same_by_a_second_implementation(seeds):
    found = []
    for seed in seeds:
        score, cells = unpainted(seed, side_px=48, mpp=2.0)
        assert score == by_hand(cells)
        found.append(score)
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("stained", "intensity", "completeness", "score"),
    [
        (10, 0.9, 1, 0),
        (11, 0.9, 1, 3),
        (11, 0.4, 1, 2),
        (11, 0.9, 0.6, 1),
        (11, 0.1, 0.3, 1),
        (11, 0.02, 1, 0),
        (0, 0, 0, 0),
    ],
)
def test_more_than_ten_percent_of_the_cells_decide(stained, intensity, completeness, score):
    cells = table(
        *[(intensity, completeness, True)] * stained, *[(0.0, 0.0, True)] * (100 - stained)
    )
    assert slide.score_of_cells(cells) == by_hand(cells) == score


def test_cells_in_situ_do_not_count():
    assert slide.score_of_cells(table(*[(0.9, 1.0, False)] * 50, *[(0.0, 0.0, True)] * 50)) == 0
    assert slide.score_of_cells(table()) == 0


@pytest.mark.parametrize("score", range(4))
def test_the_score_asked_for_is_the_score_shown(score):
    made = dataset.make_patch(40 + score, score=score, **SMALL)
    assert made.score == score == by_hand(made.cells)
    assert made.image.shape == (256, 256, 3)
    assert made.image.dtype == np.uint8


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    one, two, other = (dataset.make_patch(seed, score=2, side_px=128) for seed in (8, 8, 9))
    assert (one.image == two.image).all()
    assert one.cells.equals(two.cells)
    assert (one.image != other.image).any()


def test_painting_does_not_change_the_cells():
    made, (score, cells) = (
        call(8, score=2, side_px=128) for call in (dataset.make_patch, unpainted)
    )
    assert made.cells.equals(cells)
    assert made.score == score


def test_masks_have_the_patch_shape_and_lie_where_they_should(strong):
    masks = strong.masks
    assert set(masks) == {"tumour", "membrane", "nucleus", "stroma", "artefact", "deciding"}
    assert all(mask.shape == (512, 512) and mask.dtype == bool for mask in masks.values())
    assert not (masks["membrane"] & ~masks["tumour"]).any()
    assert not (masks["deciding"] & ~masks["tumour"]).any()
    assert not (masks["tumour"] & masks["stroma"]).any()
    assert not masks["artefact"].any()


def test_dab_lies_on_the_membranes_and_haematoxylin_in_the_nuclei(strong):
    red, blue = (strong.image[..., c].astype(float) for c in (0, 2))
    membrane, inner = (
        strong.masks["membrane"],
        strong.masks["tumour"] & ~strong.masks["membrane"] & ~strong.masks["nucleus"],
    )
    assert (red - blue)[membrane].mean() > (red - blue)[inner].mean() + 15
    nucleus = strong.masks["nucleus"] & strong.masks["stroma"]
    assert red[nucleus].mean() < red[strong.masks["stroma"] & ~nucleus].mean() - 5


def test_cells_lie_in_the_picture_on_the_tumour(strong):
    cells = strong.cells[strong.cells.invasive]
    x, y = cells.x.astype(int), cells.y.astype(int)
    assert x.between(0, 511).all()
    assert y.between(0, 511).all()
    assert strong.masks["tumour"][y, x].mean() > 0.8


def test_deciding_cells_are_those_that_reach_the_score(strong):
    cells = strong.cells
    reach = (cells.completeness >= 0.85) & (cells.intensity >= 0.55) & cells.invasive
    assert (cells.deciding == reach).all()
    inside = strong.masks["deciding"][cells.y.astype(int), cells.x.astype(int)]
    assert inside[cells.deciding].mean() > 0.8
    assert inside[~cells.deciding].mean() < 0.2


def test_in_a_score_0_patch_every_invasive_cell_decides():
    made = dataset.make_patch(41, score=0, **SMALL, **OFF)
    assert made.cells.deciding[made.cells.invasive].all()
    assert made.masks["deciding"].sum() > 0.9 * made.masks["tumour"].sum()


def test_stain_grows_with_the_score():
    brown = [
        np.mean(
            [_brown(dataset.make_patch(seed, score=score, **SMALL, **OFF)) for seed in range(5)]
        )
        for score in range(4)
    ]
    assert brown == sorted(brown)
    assert brown[3] > 3 * brown[1]


def _brown(made):
    red, blue = (made.image[..., c].astype(float) for c in (0, 2))
    return np.clip(red - blue, 0, None)[made.masks["tumour"]].mean()


@pytest.mark.parametrize(
    "name", [n for n in slide.MISLEADERS if n not in ("clones", "in_situ", "edge")]
)
def test_a_misleader_can_be_switched_on_is_recorded_and_shows(name):
    drawn = slide.slide(2, score=1)
    at = dataset.find_window(0, drawn, side_um=256, score=1, **OFF)
    plain, misled = (
        dataset.make_patch(0, slide=drawn, at_um=at, side_px=256, mpp=1.0, **(OFF | more))
        for more in ({}, {name: True})
    )
    assert not any(plain.misleaders.values())
    if not misled.misleaders[name]:
        assert name in (
            "necrosis",
            "haemosiderin",
            "folds",
            "crushed",
        )  # these need their tissue, which a window may lack
        assert (plain.image == misled.image).all()
    else:
        assert (plain.image != misled.image).any()
        assert misled.score == plain.score or name == "necrosis"


def test_edge_stain_needs_an_edge():
    drawn = slide.slide(2, score=0)
    how = dict(
        slide=replace(drawn, core_um=100.0, core_at=(0.0, 0.0)),
        at_um=(-128, -128),
        side_px=256,
        mpp=1.0,
    )
    plain, misled = (
        dataset.make_patch(0, **how, **(OFF | {"edge": edge})) for edge in (False, True)
    )
    rim, middle = np.zeros((2, 256, 256), bool)
    far = np.hypot(*(np.indices((256, 256)) - 127.5))
    rim[(far > 70) & (far < 95)], middle[far < 20] = True, True
    change = plain.image[..., 2].astype(int) - misled.image[..., 2]
    assert change[rim].mean() > 5 * max(change[middle].mean(), 0.5)


def test_blush_in_a_score_0_patch_browns_the_tumour_without_changing_the_score():
    plain, misled = (
        dataset.make_patch(41, score=0, **SMALL, **(OFF | {"blush": level}))
        for level in (False, True)
    )
    assert plain.score == misled.score == 0
    assert _brown(misled) > _brown(plain) + 5


def test_two_clones_stain_differently():
    made = next(
        p
        for p in (unpainted(s, score=3, side_px=512, clones=True)[1] for s in range(40))
        if p.clone.nunique() == 2
    )
    means = made[made.invasive].groupby("clone").intensity.mean()
    assert abs(means[0] - means[1]) > 0.1


def test_a_misspelt_misleader_is_named():
    with pytest.raises(ValueError, match=r"blussh.*Did you mean 'blush'"):
        dataset.make_patch(0, blussh=True)


def test_windows_that_overlap_show_the_same_tissue():
    drawn = slide.slide(4, score=2)
    x, y = dataset.find_window(0, drawn, side_um=192, score=2, **OFF)
    one, two = (
        dataset.make_patch(0, slide=drawn, at_um=(x + dx, y), side_px=384, **OFF) for dx in (0, 96)
    )
    left, right = np.s_[40:-40, 192 + 40 : -40], np.s_[40:-40, 40 : 192 - 40]
    for name in ("tumour", "stroma", "nucleus"):
        same = (one.masks[name][left] == two.masks[name][right]).mean()
        assert same > 0.97, name


def test_coarse_pictures_are_averages_of_fine_ones():
    drawn = slide.slide(4, score=3)
    at = dataset.find_window(0, drawn, side_um=256, score=3, **OFF)
    made = dataset.make_patch(0, slide=drawn, at_um=at, side_px=64, mpp=4.0, **OFF)
    fine = dataset.make_patch(0, slide=drawn, at_um=at, side_px=256, mpp=1.0, **OFF)
    assert made.image.shape == (64, 64, 3)
    assert np.abs(made.image.mean((0, 1)) - fine.image.mean((0, 1))).max() < 1
    assert (made.masks["tumour"].mean() - fine.masks["tumour"].mean()) < 0.02


def test_a_slide_without_the_score_says_so():
    bare = replace(slide.slide(4, score=0), clone=(0.0, 0.0, 0.0))
    with pytest.raises(LookupError, match=r"shows the score 3\+"):
        dataset.make_patch(0, slide=bare, score=3, side_px=64, mpp=1.0)


def test_noise_is_the_same_wherever_a_window_lies():
    a = tissue.noise(1, 2, np.arange(0, 100.0), np.arange(0, 80.0), 12.0)
    b = tissue.noise(1, 2, np.arange(30, 100.0), np.arange(20, 80.0), 12.0)
    assert np.allclose(a[20:, 30:], b, atol=1e-4)
    assert tissue.noise(1, 2, np.arange(4000.0), np.arange(500.0), 12.0).std() == pytest.approx(
        1, abs=0.15
    )


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return dataset.write_phantoms(tmp_path_factory.mktemp("set") / "phantoms", workers=2, **SET)


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
    assert not [p for p in folder.rglob(".*")]


def test_the_external_site_is_another_laboratory_with_raters(folder):
    rows = pd.read_csv(folder / "external" / "manifest.csv")
    assert list(rows) == [
        "path",
        "score",
        "slide",
        "patient",
        "mpp",
        "rater_a",
        "rater_b",
        "rater_c",
    ]
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
    for _, mine in rows.groupby("slide"):
        for first, second in zip(
            mine.iloc[::2].itertuples(), mine.iloc[1::2].itertuples(), strict=False
        ):
            assert abs(first.x_um - second.x_um) + abs(first.y_um - second.y_um) == pytest.approx(
                96
            )


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
    code = f"from her2lib.phantoms import dataset; dataset.write_phantoms({str(target)!r}, workers=1, **{SET!r})"
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        done = len(list(target.glob(".parts/*.json")))
        while child.poll() is None and len(list(target.glob(".parts/*.json"))) < done + 2:
            time.sleep(0.005)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not (target / "phantom.json").exists()
    left = (
        target / "IHC" / "train" / ".half.png.1.part"
    )  # what a process killed while writing leaves
    left.write_bytes(b"half")
    dataset.write_phantoms(target, workers=1, **SET)
    assert contents(target) == contents(folder)


def test_weak_patches_carry_the_score_of_their_slide(tmp_path):
    made = dataset.write_phantoms(
        tmp_path / "weak",
        patches=12,
        slides=4,
        side_px=48,
        mpp=2.0,
        weak=True,
        progress=False,
        workers=1,
    )
    rows = pd.read_csv(made / "phantom.csv")
    assert rows.groupby("slide").score.nunique().eq(1).all()
    assert rows.weak.all()
    assert (rows.score != rows.cell_score).any()


def test_shares_of_scores_are_those_of_bci_or_balanced():
    settings = dict(patches=400, slides=24, balanced=False, external=281, laboratories=1)
    wanted = pd.Series(
        [job["score"] for job in dataset._jobs(settings) if job["set"] != "external"]
    ).value_counts(normalize=True)
    assert wanted.sort_index().tolist() == pytest.approx([0.05, 0.237, 0.44, 0.273], abs=0.005)
    outside = [job for job in dataset._jobs(settings) if job["set"] == "external"]
    assert len({job["slide"] for job in outside}) == 19
    assert pd.Series([job["score"] for job in outside]).value_counts().to_dict() == {
        1: 134,
        3: 109,
        2: 38,
    }
    even = pd.Series(
        [job["score"] for job in dataset._jobs(settings | {"balanced": True, "external": 0})]
    ).value_counts()
    assert even.tolist() == [100] * 4


def test_raters_differ_but_agree_better_than_chance():
    settings = dict(raters=3, seed=1)
    given = np.repeat(range(4), 250)
    read = pd.DataFrame([dataset._rate(score, settings, [5, k]) for k, score in enumerate(given)])
    assert list(read) == ["rater_a", "rater_b", "rater_c"]
    for name in read:
        assert 0.6 < (read[name] == given).mean() < 0.98
        assert (abs(read[name] - given) <= 1).mean() > 0.98


@pytest.mark.skipif(not REAL.exists(), reason="the real patches are not beside the project")
def test_real_patches_lie_within_the_phantoms():
    place = Path(__file__).parents[2] / "benchmarks" / "phantom.py"
    spec = importlib.util.spec_from_file_location("phantom_benchmark", place)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    with bench.joblib.parallel_config(backend="threading"):
        found = bench.coverage(bench.read_real(REAL, fine=4), 72, side_px=256, mpp=2.0, a_slide=1)
    print(found.round(3).to_string())
    assert (found.inside >= 0.9).sum() >= 10


def test_settings_of_a_folder_are_readable(folder):
    held = json.loads((folder / "phantom.json").read_text())
    assert held["side_px"] == 48
    assert held["mpp"] == 2.0
