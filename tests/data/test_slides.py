"""Slides: patches read back pixel-equal, fields left out for a reason, killed and resumed, and a sentence for every bad slide."""

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
from PIL import Image
from scipy.ndimage import gaussian_filter

from her2lib import cli
from her2lib.data import patches, slides, tissue_finder
from her2lib.data.images import DataError
from her2lib.phantoms import dataset

MPP = 0.5


def write(file, picture, *, mpp=MPP, levels=3):
    """Path of a pyramidal TIFF; mpp None leaves the resolution out."""
    with tifffile.TiffWriter(file) as tiff:
        for level in range(levels):
            part = np.asarray(Image.fromarray(picture).reduce(2**level))
            told = (
                dict(resolution=(1e4 / mpp / 2**level,) * 2, resolutionunit="CENTIMETER")
                if mpp
                else {}
            )
            tiff.write(
                part,
                tile=(256, 256),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(level > 0),
                **told,
            )
    return file


@pytest.fixture(scope="module")
def picture():
    """(2048,2048,3) uint8: glass, a square of tissue of 1024 px whose upper left quarter is out of focus, a blue stroke."""
    image = np.full((2048, 2048, 3), 236, np.uint8)
    image[512:1536, 512:1536] = dataset.make_patch(3, side_px=1024, mpp=MPP, truth=False).image
    image[512:1024, 512:1024] = gaussian_filter(image[512:1024, 512:1024].astype(float), (5, 5, 0))
    image[1600:1980, 200:1800] = (30, 60, 200)
    return image


@pytest.fixture(scope="module")
def made(picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    slide = write(folder / "one.tif", picture)
    manifest, problems = slides.tile_slides(
        [slide], folder / "out", mpp=MPP, side_px=256, workers=1, progress=False
    )
    return slide, folder / "out", manifest, problems


def test_patches_are_the_pixels_of_the_slide(made, picture):
    _, out, manifest, problems = made
    assert not problems
    assert len(manifest) == 12
    for row in manifest.itertuples():
        assert np.array_equal(
            np.asarray(Image.open(out / row.path)),
            picture[row.y : row.y + 256, row.x : row.x + 256],
        )
    assert not manifest.duplicated(["x", "y"]).any()


def test_every_field_is_cut_or_has_its_reason(made):
    _, out, manifest, _ = made
    skipped = pd.read_csv(out / "skipped.csv")
    assert len(manifest) + len(skipped) == 64
    at = {(row.x, row.y): row.reason for row in skipped.itertuples()}
    assert at[0, 0] == "blank"
    assert {at[x, y] for x in (512, 768) for y in (512, 768)} == {"out of focus"}
    assert {at[x, 1792] for x in range(256, 1792, 256)} == {"pen"}
    facts = pd.read_csv(out / "slides.csv").iloc[0]
    assert (facts.patches, facts["out of focus"]) == (12, 4)


def test_the_kit_reads_the_manifest(made):
    _, out, manifest, _ = made
    table, found = patches.read_table(out / "manifest.csv")
    assert len(table) == len(manifest)
    assert set(found.severity) == {"warning"}
    assert (table.mpp == MPP).all()
    assert set(table.slide) == {"one"}
    assert (table.score == -1).all()


def test_the_overview_shows_the_grid(made):
    _, out, manifest, _ = made
    image, facts = (
        np.asarray(Image.open(out / "one" / "overview.png")),
        pd.read_csv(out / "slides.csv").iloc[0],
    )
    scale, row = (image.shape[0] - 30) / (facts.height / facts.down) / facts.down, manifest.iloc[-1]
    assert tuple(image[round(row.y * scale) + 1, int((row.x + 128) * scale)]) == (17, 136, 51)
    assert tuple(image[round(1600 * scale), int(600 * scale)]) != (17, 136, 51)


def test_dab_is_stains_own(made):
    import torch

    from her2lib import stain

    _, out, manifest, _ = made
    row = manifest.iloc[0]
    image = torch.from_numpy(np.asarray(Image.open(out / row.path)).transpose(2, 0, 1).copy())[None]
    dab = stain.dab(image, white=torch.full((1, 3), 236.0))[0, ::2, ::2]
    assert row.dab == pytest.approx(float((dab > stain.DAB_CUTS[0]).float().mean()), abs=2e-3)


def test_another_magnification_is_resampled_from_the_nearest_finer_level(made, tmp_path):
    with slides.open_slide(made[0]) as slide:
        grid = slides.grid_of(slide, made[0], mpp=1.25, side_px=200, slide_mpp=MPP)
        assert (grid.level, grid.read_px, grid.step) == (1, 250, 500)
        assert grid.mpp == pytest.approx(1.25)
        field = np.asarray(slides.read_field(slide, grid, 500, 500), float)
        whole = (
            slide.read_region((500, 500), 0, (500, 500))
            .convert("RGB")
            .resize((200, 200), Image.Resampling.BOX)
        )
        assert np.abs(field - np.asarray(whole, float)).mean() < 8
        assert (
            slides.grid_of(slide, made[0], mpp=1.0, side_px=200, slide_mpp=MPP).read_px == 200
        )  # the level itself, unresampled


def test_the_same_command_cuts_nothing_twice_and_other_settings_are_refused(made, monkeypatch):
    slide, out, manifest, _ = made
    before = {file: file.stat().st_mtime_ns for file in out.rglob("one_*.png")}
    again, _ = slides.tile_slides([slide], out, mpp=MPP, side_px=256, workers=1, progress=False)
    assert again.equals(manifest)
    monkeypatch.chdir(slide.parent)
    assert slides.tile_slides([slide.name], out, mpp=MPP, side_px=256, workers=1, progress=False)[
        0
    ].equals(manifest)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("one_*.png")} == before
    _, problems = slides.tile_slides([slide], out, mpp=MPP, side_px=128, workers=1, progress=False)
    assert "give another --out" in problems[0]
    assert len(pd.read_csv(out / "manifest.csv")) == 12


def test_a_torn_line_and_a_lost_patch_are_made_good(made, tmp_path):
    slide, out, manifest, _ = made
    log = out / "one" / "fields.jsonl"
    text = log.read_text()
    log.write_text(text[:-20])  # the last line is cut short, as by a kill
    (out / manifest.path[0]).unlink()
    again, _ = slides.tile_slides([slide], out, mpp=MPP, side_px=256, workers=1, progress=False)
    assert again.equals(manifest)
    assert (out / manifest.path[0]).exists()
    names = [json.loads(line).get("name") for line in log.read_text().splitlines()[1:]]
    assert len(set(names)) == 16


@pytest.mark.slow
def test_killed_and_resumed_there_is_no_missing_or_doubled_patch(tmp_path, picture):
    slide = write(tmp_path / "big.tif", np.tile(picture, (2, 2, 1)))
    command = [
        sys.executable,
        "-m",
        "her2lib.cli",
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
    write(tmp_path / "good.tif", picture)
    write(tmp_path / "no_mpp.tif", picture, mpp=None)
    write(tmp_path / "tiny.tif", picture[:300, :300], levels=1)
    write(tmp_path / "glass.tif", np.full((1024, 1024, 3), 240, np.uint8))
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
    said = capsys.readouterr().err
    for sentence in (
        "no_mpp.tif states no mpp: give",
        "--slide-mpp",
        "tiny.tif is too small (300 x 300 px",
        "glass.tif holds no tissue",
        "corrupt.tif is no slide that OpenSlide reads",
        "words.svs is no slide that OpenSlide reads",
    ):
        assert sentence in said
    assert "Traceback" not in said
    assert code == 1
    assert set(pd.read_csv(tmp_path / "out" / "manifest.csv").slide) == {"good"}


def test_a_given_mpp_serves_where_the_slide_has_none(tmp_path, picture):
    slide = write(tmp_path / "plain.tif", picture, mpp=None)
    manifest, problems = slides.tile_slides(
        [slide], tmp_path / "out", mpp=MPP, side_px=512, slide_mpp=MPP, workers=1, progress=False
    )
    assert not problems
    assert len(manifest) >= 2


def test_damage_inside_a_slide_costs_the_fields_that_it_hits(made, tmp_path):
    slide = tmp_path / "hurt.tif"
    slide.write_bytes(made[0].read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        at = tiff.pages[0].dataoffsets[
            3 * 8 + 5
        ]  # the tile of pixels (1280, 768), in the middle of the tissue
    with slide.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 400)
    manifest, problems = slides.tile_slides(
        [slide], tmp_path / "out", mpp=MPP, side_px=256, workers=1, progress=False
    )
    skipped = pd.read_csv(tmp_path / "out" / "skipped.csv")
    assert list(
        skipped[skipped.reason == "unreadable"][["x", "y"]].itertuples(index=False, name=None)
    ) == [(1280, 768)]
    assert len(manifest) == 11
    assert "hurt.tif is damaged: 1 of its fields" in problems[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(paths=["/nowhere.svs"]), "nothing at"),
        (dict(mpp=460.0), "0.05 to 10"),
        (dict(side_px=8), "32 to 8192 px"),
    ],
)
def test_a_mistake_is_one_sentence(made, tmp_path, arguments, says):
    with pytest.raises(DataError, match=says):
        slides.tile_slides(
            **{"paths": [made[0]], "folder": tmp_path / "out", "progress": False, **arguments}
        )


def test_two_slides_of_one_name_are_refused(made, tmp_path):
    (tmp_path / "one.svs").write_bytes(b"x")
    with pytest.raises(DataError, match="same name"):
        slides.tile_slides([made[0], tmp_path / "one.svs"], tmp_path / "out", progress=False)


def test_patients_come_from_a_table(made, tmp_path):
    (tmp_path / "p.csv").write_text("slide,patient\none,P7\n")
    assert slides.read_patients(tmp_path / "p.csv") == {"one": "P7"}
    (tmp_path / "p.csv").write_text("slide,patient\none,P7\none,P8\n")
    with pytest.raises(DataError, match="one row for each slide"):
        slides.read_patients(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("colour", "ink"),
    [
        ((30, 60, 200), True),
        ((20, 150, 60), True),
        ((210, 30, 40), True),
        ((25, 25, 28), True),  # blue, green, red, black
        ((120, 80, 60), False),
        ((90, 50, 30), False),
        ((110, 110, 160), False),
        ((236, 236, 236), False),  # DAB, strong DAB, nuclei, glass
    ],
)
def test_ink_is_told_from_stain_by_its_hue(colour, ink):
    image = np.full((60, 60, 3), 236, np.uint8)
    image[20:40, 20:40] = colour
    _, pen, white = tissue_finder.find_tissue(image, np.ones((60, 60), bool))
    assert np.allclose(white, 236)
    assert pen[30, 30] == ink


def test_filler_that_was_never_scanned_is_neither_glass_nor_tissue():
    image, scanned = np.full((100, 100, 3), 255, np.uint8), np.zeros((100, 100), bool)
    scanned[20:80, 20:80] = True
    image[20:80, 20:80] = 225
    image[40:60, 40:60] = (150, 120, 110)
    tissue, _, white = tissue_finder.find_tissue(image, scanned)
    assert np.allclose(white, 225)
    assert tissue[50, 50]
    assert not tissue[30, 30]
    assert not tissue[5, 5]


def test_sharpness_falls_with_blur_and_not_with_brightness():
    image = dataset.make_patch(5, side_px=512, mpp=MPP, truth=False).image
    sharp = tissue_finder.sharpness(Image.fromarray(image))
    blurred = [
        tissue_finder.sharpness(Image.fromarray(gaussian_filter(image, (s, s, 0))))
        for s in (1, 2, 4)
    ]
    assert sharp > blurred[0] > blurred[1] > blurred[2]
    assert blurred[2] < tissue_finder.SHARP < sharp
    assert tissue_finder.sharpness(Image.fromarray(image // 2)) == pytest.approx(sharp, rel=0.05)


def test_openslide_agrees_on_the_pixel_size(made):
    with slides.open_slide(made[0]) as slide:
        assert slides.pixel_size(slide, "one") == pytest.approx(MPP)
        with pytest.raises(DataError, match="leave the option out"):
            slides.pixel_size(slide, "one", 0.25)
        assert isinstance(slide, openslide.OpenSlide)


def test_checks_cost_little_beside_reading_and_encoding(tmp_path, picture):
    slide = write(tmp_path / "one.tif", picture)
    jobs = [(x, y) for x in (512, 768) for y in (1024, 1280)] * 2
    with slides.open_slide(slide) as open_:
        grid = slides.grid_of(open_, slide, mpp=MPP, side_px=512, slide_mpp=MPP)
    tables = tissue_finder.dab_tables(np.full(3, 236.0))

    def own():
        return [
            slides._cut(grid, tmp_path / f"own{i}.png", x, y, tables)
            for i, (x, y) in enumerate(jobs)
        ]

    def bare():
        with openslide.OpenSlide(slide) as open_:
            for i, (x, y) in enumerate(jobs):
                region = open_.read_region((x, y), 0, (512, 512)).convert("RGB")
                region.save(tmp_path / f"bare{i}.png", "PNG", compress_level=slides.PNG_LEVEL)

    def seconds(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    own(), bare()
    ratios = [seconds(bare) / seconds(own) for _ in range(5)]
    assert np.median(ratios) > 0.7
