"""Slides as people have them: nested, linked, in DICOM, in H&E; tables and regions beside them."""

import io
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import SLIDE_MPP as MPP
from examples import slide_pixels, write_slide
from PIL import Image

from her2lib import cli
from her2lib.data import patches
from her2lib.files import DataError
from her2lib.slides import annotations, field_cutter, tiling

SHARED = Path(__file__).parents[3] / "shared" / "slides"


@pytest.fixture
def threads(monkeypatch):
    """Threads instead of processes, which take seconds to start."""
    monkeypatch.setattr(field_cutter, "open_pool", lambda workers=None: ThreadPoolExecutor(1))


@pytest.fixture(scope="module")
def small():
    """(512,512,3) pixels of tissue in focus."""
    return slide_pixels()[1024:1536, 1024:1536]


def tile(capsys, *arguments, side=256, mpp=MPP):
    """(exit status, standard output, standard error) of `her2 tile`."""
    capsys.readouterr()
    line = ["tile", *map(str, arguments), "--side", str(side), "--mpp", str(mpp), "--workers", "1"]
    code = cli.main(line)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, printed.out, printed.err


def read_manifest(folder):
    return pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)


def test_case_17_junk_and_dangling_links_end_no_tiling(tmp_path, small, capsys, threads):
    folder = tmp_path / "in"
    folder.mkdir()
    write_slide(folder / "S0.tif", small)
    (folder / "._S0.tif").write_bytes(b"junk")
    (folder / "S9.svs").symlink_to(folder / "gone.svs")
    (folder / "B.tif").mkdir()
    code, out, err = tile(capsys, folder, "--out", tmp_path / "out")
    assert code == 1
    assert "S9.svs is a link to nothing: bring the slide back." in err
    assert "[Errno" not in err
    assert "3 files there: 1 slide cut, 1 refused, 1 left aside." in out
    assert "1 left aside (left by an operating system or program): ._S0.tif." in out
    assert set(read_manifest(tmp_path / "out").slide) == {"S0"}


def test_case_18_slides_in_folders_of_their_own_are_all_cut(tmp_path, small, capsys, threads):
    paths = ("S2.tif", "aaaa/S0.tif", "bbbb/S0.tif")
    for number, path in enumerate(paths):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        write_slide(tmp_path / "in" / path, np.roll(small, number, axis=0))
    code, out, _ = tile(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0
    assert set(read_manifest(tmp_path / "out").slide) == {"S2", "aaaa_S0", "bbbb_S0"}
    assert "bbbb/S0.tif is called bbbb_S0" in out
    # a slide keeps its name when a namesake comes later
    alone = tmp_path / "alone"
    assert tile(capsys, tmp_path / "in/aaaa", "--out", alone)[0] == 0
    assert tile(capsys, tmp_path / "in", "--out", alone)[0] == 0
    assert set(read_manifest(alone).slide) == {"S2", "S0", "bbbb_S0"}


def test_case_16_typed_scores_stay_when_the_command_is_given_with_one_slide_more(
    tmp_path, small, capsys, threads
):
    out = tmp_path / "out"
    first = write_slide(tmp_path / "S0.tif", small)
    tile(capsys, first, "--out", out)
    typed = {"score": "3+", "rater_anna": "3+", "remark": "fold", "patient": "P1"}
    table = read_manifest(out).assign(**typed)
    table.to_csv(out / "manifest.csv", index=False)
    code, printed, _ = tile(capsys, first, write_slide(tmp_path / "S1.tif", small), "--out", out)
    assert code == 0
    again = read_manifest(out)
    pd.testing.assert_frame_equal(again[again.slide == "S0"], table)
    assert set(again.slide) == {"S0", "S1"}
    assert "What was typed there stays" in printed
    assert len(list(out.glob("manifest.before-*.csv"))) == 1


def test_case_15_a_manifest_saved_by_a_german_excel_takes_another_slide(
    tmp_path, small, capsys, threads
):
    out = tmp_path / "out"
    tile(capsys, write_slide(tmp_path / "S0.tif", small), "--out", out)
    table = read_manifest(out).assign(score="2+")
    for column in ("mpp", "tissue", "dab", "sharpness"):
        table[column] = table[column].str.replace(".", ",")
    table.to_csv(out / "manifest.csv", index=False, sep=";", encoding="utf-8-sig")
    # no two patches alike, which reading the manifest would refuse
    other = write_slide(tmp_path / "S1.tif", np.roll(small, 31, axis=1))
    code, _, err = tile(capsys, other, "--out", out)
    assert code == 0
    assert "her2:" not in err
    read, _ = patches.read_table(out / "manifest.csv")
    assert set(read.slide) == {"S0", "S1"}
    assert (read.score[read.slide == "S0"] == 2).all()
    assert (read.mpp == MPP).all()


def test_a_refused_manifest_is_refused_before_a_slide_is_cut(tmp_path, small, capsys, threads):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.csv").write_text("path,score\nS0/a.png,1+\nS0/a.png,2+\n")
    code, _, err = tile(capsys, write_slide(tmp_path / "S0.tif", small), "--out", out)
    assert code == 2
    assert "name the same patch" in err
    assert not (out / "S0").exists()


def test_case_39_slides_of_tcga_find_their_patients(tmp_path, small, capsys, threads):
    name = "TCGA-A1-0001-01Z-00-DX1.0B34C267-0000"
    write_slide(tmp_path / f"{name}.tif", small)
    write_slide(tmp_path / "S1.tif", small)
    (tmp_path / "patients.csv").write_text(
        "slide,patient\nTCGA-A1-0001-01Z-00-DX1,P1\nTCGA-A1-0002-01Z-00-DX1,P2\n"
    )
    options = ("--patients", tmp_path / "patients.csv", "--out", tmp_path / "out")
    code, out, _ = tile(capsys, tmp_path, *options)
    assert code == 0
    patient = read_manifest(tmp_path / "out").drop_duplicates("slide").set_index("slide").patient
    assert patient.to_dict() == {name: "P1", "S1": ""}
    assert "The patient is known of 1 of 2 slides. Without one: 1 (S1)." in out
    assert "No slide here is named by 1 of 2 rows of the table of patients: TCGA-A1-0002" in out


def test_case_19_enlarging_is_refused_or_said_as_the_user_chose(tmp_path, small, capsys, threads):
    slide = write_slide(tmp_path / "coarse.tif", small, mpp=0.9)
    options = {"side": 256, "mpp": 0.46}
    code, _, err = tile(capsys, slide, "--out", tmp_path / "out", **options)
    assert code == 1
    assert "--mpp 0.9, or --enlarge" in err
    code, out, _ = tile(capsys, slide, "--out", tmp_path / "out", "--enlarge", **options)
    assert code == 0
    assert "enlarged 1.95 times to 0.461 without finer detail" in out
    table = read_manifest(tmp_path / "out")
    assert table.enlarged.astype(float).tolist() == pytest.approx([1.95] * len(table), rel=0.01)
    said = " ".join(patches.read_source(tmp_path / "out" / "manifest.csv").sentences)
    assert "were enlarged up to 1.95 times" in said


def test_a_slide_that_is_a_link_is_cut_where_allow_says_so(tmp_path, small, capsys, threads):
    (tmp_path / "store").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "S0.tif").symlink_to(write_slide(tmp_path / "store" / "S0.tif", small))
    code, _, err = tile(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1
    remedy = f"--allow {tmp_path / 'store'}"
    assert remedy in err
    code, _, err = tile(capsys, tmp_path / "in", "--out", tmp_path / "out", *remedy.split())
    assert code == 0
    assert "her2:" not in err


def test_names_that_are_no_utf8_or_too_long_are_cut_and_written(tmp_path, small, capsys, threads):
    folder = tmp_path / "in"
    folder.mkdir()
    write_slide(tmp_path / "S0.tif", small).rename(folder / f"{'x' * 250}.tif")
    odd = os.path.join(os.fsencode(folder), b"M\xfcller.tif")
    os.rename(write_slide(tmp_path / "S1.tif", np.roll(small, 5, axis=0)), odd)
    code, out, err = tile(capsys, folder, "--out", tmp_path / "out")
    assert code == 1
    assert "2 files there: 1 slide cut, 1 refused" in out
    assert "has a name that is no UTF-8, as old disks write them: rename it." in err
    assert set(read_manifest(tmp_path / "out").slide.map(len)) == {200}
    # named on the line it is cut all the same
    assert tile(capsys, folder, os.fsdecode(odd), "--out", tmp_path / "out")[0] == 1
    assert "M_ller" in set(read_manifest(tmp_path / "out").slide)


# --- a slide in DICOM, written tag by tag ---------------------------------------------------------

WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG_BASELINE = b"1.2.840.10008.1.2.4.50"
LONG = (b"OB", b"SQ")


def element(group, number, kind, value):
    """bytes of one DICOM element with explicit kind; value is bytes or a list of items."""
    if isinstance(value, list):
        items = [struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value]
        value = b"".join(items)
    padding = b"\0" if kind in (b"UI", b"OB") else b" "
    value += padding * (len(value) % 2)
    head = struct.pack("<HH", group, number) + kind
    if kind in LONG:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def jpeg_frames(pixels, side_px):
    """list of bytes, the tiles of an image as JPEG in RGB."""
    frames = []
    for y in range(0, len(pixels), side_px):
        for x in range(0, len(pixels), side_px):
            tile_image = Image.fromarray(pixels[y : y + side_px, x : x + side_px])
            buffer = io.BytesIO()
            tile_image.save(buffer, "JPEG", quality=95, subsampling=0, keep_rgb=True)
            frames.append(buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2))
    return frames


def write_dicom_level(file, pixels, mpp, *, series, level, side_px=128):
    """Path of one level of a slide in DICOM, as a scanner's archive keeps it."""
    short = struct.Struct("<H").pack
    number = struct.Struct("<I").pack
    frames = jpeg_frames(pixels, side_px)
    spacing = f"{mpp / 1000}\\{mpp / 1000}".encode()
    kind = b"ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    if level:
        kind = b"DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    instance = series + b".%d" % (level + 1)
    meta = b"".join(
        [
            element(2, 2, b"UI", WHOLE_SLIDE),
            element(2, 3, b"UI", instance),
            element(2, 0x10, b"UI", JPEG_BASELINE),
        ]
    )
    measures = element(0x28, 0x9110, b"SQ", [element(0x28, 0x30, b"DS", spacing)])
    body = [
        element(8, 8, b"CS", kind),
        element(8, 0x16, b"UI", WHOLE_SLIDE),
        element(8, 0x18, b"UI", instance),
        element(8, 0x60, b"CS", b"SM"),
        element(0x20, 0x0D, b"UI", b"1.2.3"),
        element(0x20, 0x0E, b"UI", series),
        element(0x20, 0x52, b"UI", b"1.2.9"),
        element(0x20, 0x9311, b"CS", b"TILED_FULL"),
        element(0x28, 2, b"US", short(3)),
        element(0x28, 4, b"CS", b"RGB"),
        element(0x28, 6, b"US", short(0)),
        element(0x28, 8, b"IS", b"%d" % len(frames)),
        element(0x28, 0x10, b"US", short(side_px)),
        element(0x28, 0x11, b"US", short(side_px)),
        element(0x28, 0x100, b"US", short(8)),
        element(0x28, 0x101, b"US", short(8)),
        element(0x28, 0x102, b"US", short(7)),
        element(0x28, 0x103, b"US", short(0)),
        element(0x48, 6, b"UL", number(len(pixels))),
        element(0x48, 7, b"UL", number(len(pixels))),
        element(0x48, 0x105, b"SQ", [element(0x48, 0x106, b"SH", b"1")]),
        element(0x5200, 0x9229, b"SQ", [measures]),
    ]
    # pixel data of unknown length: an empty table of offsets, a frame an item, a mark of the end
    items = [struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame for frame in [b"", *frames]]
    pixel_data = struct.pack("<HH", 0x7FE0, 0x10) + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    head = bytes(128) + b"DICM" + element(2, 0, b"UL", number(len(meta))) + meta
    file.write_bytes(head + b"".join(body) + pixel_data + b"".join(items) + end)
    return file


def test_a_folder_of_dicom_files_is_one_slide(tmp_path, small, capsys, threads):
    folder = tmp_path / "in" / "case 7"
    folder.mkdir(parents=True)
    for level in (0, 1):
        pixels = np.ascontiguousarray(small[:: level + 1, :: level + 1])
        mpp = MPP * (level + 1)
        write_dicom_level(
            folder / f"1.2.{level}.dcm", pixels, mpp, series=b"1.2.826.7", level=level
        )
    code, out, err = tile(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0, err
    assert "1 left aside (data of a slide that is opened by another file)" in out
    table = read_manifest(tmp_path / "out")
    assert table.slide.tolist() == ["case_7"] * 4
    image = np.asarray(Image.open(tmp_path / "out" / table.path[3]), float)
    assert np.abs(image - small[256:, 256:]).mean() < 4


# --- regions --------------------------------------------------------------------------------------


def draw(file, *boxes, region_class=""):
    """GeoJSON of boxes (x0, y0, x1, y1)."""
    regions = []
    for x0, y0, x1, y1 in boxes:
        ring = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], float)
        regions.append(annotations.Region([[ring]], region_class))
    return annotations.write_regions(file, regions)


def test_patches_are_cut_where_regions_were_drawn(tmp_path, small, capsys, threads):
    slide = write_slide(tmp_path / "S0.tif", small)
    out = tmp_path / "out"
    # the centre of the first field of 128 px, and of its neighbour an edge without the centre
    drawn = draw(tmp_path / "any.geojson", (0, 0, 100, 100), (200, 0, 256, 128))
    code, printed, _ = tile(capsys, slide, "--regions", drawn, "--out", out, side=128)
    assert code == 0
    assert "any.geojson: 2 regions" in printed
    assert read_manifest(out)[["x", "y"]].values.tolist() == [["0", "0"]]
    skipped = pd.read_csv(out / "skipped.csv")
    assert set(skipped.reason) == {"outside regions"}
    assert len(skipped) == 15
    table = read_manifest(out).assign(score="1+")
    table.to_csv(out / "manifest.csv", index=False)
    # drawn larger, the same command goes on and keeps what was typed
    draw(drawn, (0, 0, 256, 128))
    assert tile(capsys, slide, "--regions", drawn, "--out", out, side=128)[0] == 0
    assert read_manifest(out).score.tolist() == ["1+", ""]
    # the regions that were cut in lie beside the fields, and come back as they were drawn
    again = annotations.read_regions(out / "S0" / "regions.geojson").regions
    assert again[0].polygons[0][0].tolist()[2] == [256, 128]


def test_a_fraction_of_a_field_may_be_asked_for(tmp_path, small, threads):
    slide = write_slide(tmp_path / "S0.tif", small)
    drawn = draw(tmp_path / "any.geojson", (0, 0, 224, 128))
    counts = []
    for fraction in (None, 0.5, 0.9):
        manifest, _ = tiling.tile_slides(
            [slide],
            tmp_path / f"out{fraction}",
            mpp=MPP,
            side_px=128,
            regions=drawn,
            region_fraction=fraction,
            progress=False,
        )
        counts.append(len(manifest))
    assert counts == [2, 2, 1]


def test_regions_of_several_slides_are_told_apart_by_name(tmp_path, small, capsys, threads):
    (tmp_path / "in").mkdir()
    for name in ("S0", "S1", "S2"):
        write_slide(tmp_path / "in" / f"{name}.tif", small)
    folder = tmp_path / "drawn"
    folder.mkdir()
    draw(folder / "S0.tif.geojson", (0, 0, 128, 128))
    draw(folder / "S1.geojson", (0, 0, 9000, 9000))
    draw(folder / "S7.geojson", (0, 0, 128, 128))
    code, out, err = tile(
        capsys, tmp_path / "in", "--regions", folder, "--out", tmp_path / "out", side=128
    )
    assert code == 1
    assert set(read_manifest(tmp_path / "out").slide) == {"S0"}
    assert "left aside, named after no one slide here: S7.geojson" in out
    assert "Region 1 of S1.geojson reaches" in err
    assert "S2.tif has no GeoJSON of its own" in err
    code, _, err = tile(
        capsys, tmp_path / "in", "--regions", folder / "S7.geojson", "--out", tmp_path / "out"
    )
    assert code == 2
    assert "is named after a slide: call it <slide>.geojson" in err


def test_a_worker_that_is_ended_from_outside_is_a_sentence(tmp_path, small, monkeypatch):
    def broken(*_, **__):
        raise tiling.BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(field_cutter, "cut_fields", broken)
    with pytest.raises(DataError, match="for want of memory"):
        tiling.tile_slides(
            [write_slide(tmp_path / "S0.tif", small)],
            tmp_path / "out",
            mpp=MPP,
            side_px=256,
            progress=False,
        )


def test_tiling_brings_no_torch(tmp_path, small):
    slide = write_slide(tmp_path / "S0.tif", small)
    line = ["tile", str(slide), "--out", str(tmp_path / "out"), "--side", "256", "--mpp", "0.5"]
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from her2lib import cli
from her2lib.slides import field_cutter
field_cutter.open_pool = lambda workers=None: ThreadPoolExecutor(1)
assert cli.main({line}) == 0
sys.exit(3 if "torch" in sys.modules else 0)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert len(read_manifest(tmp_path / "out")) == 4


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real slides are not here")
def test_a_real_slide_in_eosin_is_called_so_and_one_without_mpp_is_refused(
    tmp_path, capsys, threads
):
    code, _, err = tile(capsys, SHARED, "--out", tmp_path / "out", mpp=0.499, side=512)
    assert code == 1
    assert "tcga-cr-7395-01a-01-ts1.svs states no mpp: give" in err
    assert "--slide-mpp" in err
    assert "cmu_small_region.svs is no H-DAB slide: 15 of 15 fields look like H&E" in err
    assert set(read_manifest(tmp_path / "out").slide) == {"cmu_small_region"}
    code, _, err = tile(
        capsys,
        SHARED / "tcga-cr-7395-01a-01-ts1.svs",
        "--slide-mpp",
        "0.5",
        "--out",
        tmp_path / "out",
        side=512,
    )
    assert code == 1
    assert "is no H-DAB slide" in err
    facts = pd.read_csv(tmp_path / "out" / "slides.csv").set_index("slide")
    frozen = facts.loc["tcga-cr-7395-01a-01-ts1"]
    # eosin is not taken for red ink
    assert frozen.pen == 0
    assert frozen.h_and_e == frozen.patches > 30
