"""Slides: patches equal to the pixel, fields left out for a reason, killed and resumed, damaged."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from examples import SLIDE_MPP as MPP
from examples import slide_pixels, write_slide
from PIL import Image

from her2lib import cli
from her2lib.data import patches
from her2lib.files import DataError
from her2lib.slides import annotations, field_cutter, slide_grid, tiling


@pytest.fixture(scope="module")
def picture():
    return slide_pixels()


@pytest.fixture(scope="module")
def tiled(picture, tmp_path_factory):
    """(slide, folder, manifest, problems) of one slide cut into patches of 256 px."""
    folder = tmp_path_factory.mktemp("slides")
    slide = write_slide(folder / "one.tif", picture)
    manifest, problems = tiling.tile_slides(
        [slide], folder / "out", mpp=MPP, side_px=256, workers=1, progress=False
    )
    return slide, folder / "out", manifest, problems


def test_patches_are_the_pixels_of_the_slide(tiled, picture):
    _, out, manifest, problems = tiled
    assert not problems
    assert len(manifest) == 12
    for row in manifest.itertuples():
        assert np.array_equal(
            np.asarray(Image.open(out / row.path)),
            picture[row.y : row.y + 256, row.x : row.x + 256],
        )
    assert not manifest.duplicated(["x", "y"]).any()


def test_every_field_is_cut_or_has_its_reason(tiled):
    _, out, manifest, _ = tiled
    skipped = pd.read_csv(out / "skipped.csv")
    assert len(manifest) + len(skipped) == 64
    at = {(row.x, row.y): row.reason for row in skipped.itertuples()}
    assert at[0, 0] == "blank"
    corners = itertools.product((512, 768), (512, 768))
    assert {at[corner] for corner in corners} == {"out of focus"}
    assert {at[x, 1792] for x in range(256, 1792, 256)} == {"pen"}
    facts = pd.read_csv(out / "slides.csv").iloc[0]
    assert (facts.patches, facts["out of focus"]) == (12, 4)


def test_the_kit_reads_the_manifest(tiled):
    _, out, manifest, _ = tiled
    table, problems = patches.read_table(out / "manifest.csv")
    assert len(table) == len(manifest)
    assert set(problems.severity) == {"warning"}
    assert (table.mpp == MPP).all()
    assert set(table.slide) == {"one"}
    assert (table.score == -1).all()


def test_the_overview_shows_the_grid(tiled):
    _, out, manifest, _ = tiled
    image = np.asarray(Image.open(out / "one" / "overview.png"))
    facts = pd.read_csv(out / "slides.csv").iloc[0]
    # 30 px below the overview are its legend
    scale = (image.shape[0] - 30) / (facts.height / facts.down) / facts.down
    row = manifest.iloc[-1]
    assert tuple(image[round(row.y * scale) + 1, int((row.x + 128) * scale)]) == (17, 136, 51)
    assert tuple(image[round(1600 * scale), int(600 * scale)]) != (17, 136, 51)


def test_dab_is_stains_own(tiled):
    import torch

    from her2lib import stain

    _, out, manifest, _ = tiled
    row = manifest.iloc[0]
    image = torch.from_numpy(np.asarray(Image.open(out / row.path)).transpose(2, 0, 1).copy())[None]
    dab = stain.dab(image, white=torch.full((1, 3), 236.0))[0, ::2, ::2]
    assert row.dab == pytest.approx(float((dab > stain.DAB_CUTS[0]).float().mean()), abs=2e-3)


def test_the_same_command_cuts_nothing_twice_and_other_settings_are_refused(tiled, monkeypatch):
    slide, out, manifest, _ = tiled
    before = {file: file.stat().st_mtime_ns for file in out.rglob("one_*.png")}
    again, _ = tiling.tile_slides([slide], out, mpp=MPP, side_px=256, workers=1, progress=False)
    assert again.equals(manifest)
    monkeypatch.chdir(slide.parent)
    by_name, _ = tiling.tile_slides(
        [slide.name], out, mpp=MPP, side_px=256, workers=1, progress=False
    )
    assert by_name.equals(manifest)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("one_*.png")} == before
    _, problems = tiling.tile_slides([slide], out, mpp=MPP, side_px=128, workers=1, progress=False)
    assert "give another --out" in problems[0]
    assert len(pd.read_csv(out / "manifest.csv")) == 12


def test_a_torn_line_and_a_lost_patch_are_made_good(tiled, tmp_path):
    slide, out, manifest, _ = tiled
    log = out / "one" / "fields.jsonl"
    text = log.read_text()
    log.write_text(text[:-20])  # the last line is cut short, as by a kill
    (out / manifest.path[0]).unlink()
    again, _ = tiling.tile_slides([slide], out, mpp=MPP, side_px=256, workers=1, progress=False)
    assert again.equals(manifest)
    assert (out / manifest.path[0]).exists()
    names = [json.loads(line).get("name") for line in log.read_text().splitlines()[1:]]
    assert len(set(names)) == 16


@pytest.mark.slow
def test_killed_and_resumed_there_is_no_missing_or_doubled_patch(tmp_path, picture):
    slide = write_slide(tmp_path / "big.tif", np.tile(picture, (2, 2, 1)))
    command = [
        sys.executable,
        "-m",
        "her2lib.cli.command",
        "tile",
        str(slide),
        "--mpp",
        str(MPP),
        "--side",
        "128",
        "--workers",
        "2",
        "--out",
    ]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for wanted in (5, 60):
        running = subprocess.Popen(
            [*command, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while running.poll() is None and len(list((tmp_path / "out").rglob("big_*.png"))) < wanted:
            time.sleep(0.05)
        assert running.poll() is None
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    whole, resumed = (pd.read_csv(tmp_path / name / "manifest.csv") for name in ("whole", "out"))
    assert resumed.equals(whole)
    assert len(list((tmp_path / "out").rglob("big_*.png"))) == len(whole)
    for path in whole.path[::20]:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    assert not list((tmp_path / "out").rglob("*.part"))


def test_bad_slides_are_a_sentence_each_and_the_others_go_on(
    tmp_path, picture, capsys, monkeypatch
):
    monkeypatch.delenv("HER2_DEBUG", raising=False)
    write_slide(tmp_path / "good.tif", picture)
    write_slide(tmp_path / "no_mpp.tif", picture, mpp=None)
    write_slide(tmp_path / "tiny.tif", picture[:300, :300], levels=1)
    write_slide(tmp_path / "glass.tif", np.full((1024, 1024, 3), 240, np.uint8))
    (tmp_path / "corrupt.tif").write_bytes((tmp_path / "good.tif").read_bytes()[:3000])
    (tmp_path / "words.svs").write_text("no slide")
    code = cli.main(
        [
            "tile",
            str(tmp_path),
            "--mpp",
            str(MPP),
            "--side",
            "512",
            "--workers",
            "1",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    printed, messages = capsys.readouterr()
    assert "6 files there: 2 slides cut, 3 refused, 1 left aside." in printed
    assert "a patch or photograph and no slide): tiny.tif." in printed
    for sentence in (
        "no_mpp.tif states no mpp: give",
        "--slide-mpp",
        "glass.tif holds no tissue",
        "corrupt.tif is no slide that OpenSlide reads",
        "words.svs is no slide that OpenSlide reads",
    ):
        assert sentence in messages
    assert "Traceback" not in messages
    assert code == 1
    assert set(pd.read_csv(tmp_path / "out" / "manifest.csv").slide) == {"good"}


def test_a_given_mpp_serves_where_the_slide_has_none(tmp_path, picture):
    slide = write_slide(tmp_path / "plain.tif", picture, mpp=None)
    manifest, problems = tiling.tile_slides(
        [slide], tmp_path / "out", mpp=MPP, side_px=512, slide_mpp=MPP, workers=1, progress=False
    )
    assert not problems
    assert len(manifest) >= 2


def test_damage_inside_a_slide_costs_the_fields_that_it_hits(tiled, tmp_path):
    slide = tmp_path / "hurt.tif"
    slide.write_bytes(tiled[0].read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        # the tile of pixels (1280, 768), in the middle of the tissue
        at = tiff.pages[0].dataoffsets[3 * 8 + 5]
    with slide.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 400)
    manifest, problems = tiling.tile_slides(
        [slide], tmp_path / "out", mpp=MPP, side_px=256, workers=1, progress=False
    )
    skipped = pd.read_csv(tmp_path / "out" / "skipped.csv")
    unreadable = skipped[skipped.reason == "unreadable"]
    assert unreadable[["x", "y"]].to_numpy().tolist() == [[1280, 768]]
    assert len(manifest) == 11
    assert "hurt.tif is damaged: 1 of its fields" in problems[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"paths": ["/nowhere.svs"]}, "nothing at"),
        ({"mpp": 460.0}, "0.05 to 10"),
        ({"side_px": 8}, "32 to 8192 px"),
    ],
)
def test_a_mistake_is_one_sentence(tiled, tmp_path, arguments, says):
    usual = {"paths": [tiled[0]], "folder": tmp_path / "out", "progress": False}
    with pytest.raises(DataError, match=says):
        tiling.tile_slides(**(usual | arguments))


def test_checks_cost_little_beside_reading_and_encoding(tmp_path, picture):
    slide = write_slide(tmp_path / "one.tif", picture)
    corners = list(itertools.product((512, 768), (1024, 1280))) * 2
    with slide_grid.open_slide(slide) as handle:
        grid = slide_grid.grid_of(handle, slide, mpp=MPP, side_px=512, slide_mpp=MPP)
    white = np.full(3, 236.0)

    def with_checks():
        for number, (x, y) in enumerate(corners):
            field_cutter.cut_field(grid, tmp_path / f"checked{number}.png", x, y, white)

    def without():
        with openslide.OpenSlide(slide) as handle:
            for number, corner in enumerate(corners):
                region = handle.read_region(corner, 0, (512, 512)).convert("RGB")
                file = tmp_path / f"bare{number}.png"
                region.save(file, "PNG", compress_level=field_cutter.PNG_LEVEL)

    def seconds(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    with_checks()
    without()
    ratios = [seconds(without) / seconds(with_checks) for _ in range(5)]
    assert np.median(ratios) > 0.7


def test_fields_come_out_for_qupath(tiled):
    _, out, manifest, _ = tiled
    whole = json.loads((out / "one" / "fields.geojson").read_text())
    assert len(whole["features"]) == 64
    classes = [one["properties"]["classification"]["name"] for one in whole["features"]]
    assert classes.count("tile") == len(manifest)
    drawn = annotations.read_regions(out / "one" / "fields.geojson", classes=["tile"])
    covered = annotations.covered_fraction(
        drawn.regions, left=0, top=0, step=256, columns=8, rows=8
    )
    rows, columns = np.nonzero(covered == 1)
    corners = np.stack([columns, rows], 1) * 256
    assert corners.tolist() == manifest[["x", "y"]].values.tolist()
