"""The field gate: fields pass; other stains and pictures without tissue are named."""

import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from her2lib import files, stain
from her2lib.data import field
from her2lib.data.patches import read_table
from her2lib.files import DataError
from her2lib.phantoms import dataset

REAL = files.ROOT.parent / "shared" / "real" / "patches"
SLIDE = files.ROOT.parent / "shared" / "slides" / "cmu_small_region.svs"
MPP = 0.5


@pytest.fixture(scope="module")
def fields():
    """Four phantoms (128,128,3) uint8 at 0.5 um, one of each score."""
    return [phantom(score) for score in range(4)]


def phantom(score, **options):
    made = dataset.make_patch(score + 20, side_px=128, mpp=MPP, score=score, truth=False, **options)
    return made.he if options.get("he") else made.image


def reason_of(picture, *, mpp=None):
    return field.name_reason(field.measure_field(Image.fromarray(picture), mpp=mpp))


def with_dye(picture, amount, vector):
    through = 10 ** -(np.asarray(amount)[..., None] * np.asarray(vector))
    return (picture * through).round().astype(np.uint8)


def save(folder, name, picture):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name)
    return str(folder / name)


# --- fields pass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [MPP, None])
def test_phantoms_of_every_score_are_fields(fields, mpp):
    assert [reason_of(picture, mpp=mpp) for picture in fields] == [""] * 4


@pytest.mark.skipif(not REAL.exists(), reason="the real patches are not beside the project")
def test_no_real_patch_is_refused():
    for file in sorted(REAL.iterdir()):
        assert reason_of(np.asarray(Image.open(file).convert("RGB"))) == "", file.name


def test_glass_with_a_little_tissue_is_a_field_and_bare_glass_is_none(fields):
    glass = np.full((1024, 1024, 3), 240, np.uint8)
    glass[:64, :64] = fields[0][:64, :64]
    assert reason_of(glass, mpp=MPP) == ""
    glass[:64, :64] = 240
    assert reason_of(glass, mpp=MPP) == "blank"


def test_grey_glass_and_a_yellow_cast_leave_a_field_a_field(fields):
    for cast in ((0.85, 0.85, 0.85), (0.98, 0.96, 0.9)):
        darker = (fields[2] * np.array(cast)).astype(np.uint8)
        assert reason_of(darker, mpp=MPP) == ""


# --- no fields are named --------------------------------------------------------------------------


def flat(level, spread=1.0):
    noise = np.random.default_rng(0).normal(0, spread, (96, 96, 3))
    return np.clip(np.array(level) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "reasons"),
    [
        (flat(250), {"blank"}),
        (flat(255, 0), {"blank"}),
        (flat(3), {"dark"}),
        (flat(200, 40), {"noise"}),
        (np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8), {"noise"}),
        (flat((60, 160, 70)), {"dark"}),
        (flat((235, 165, 195), 8), {"noise", "H&E"}),
    ],
    ids=["white", "pure white", "black", "grainy", "uniform noise", "green", "H&E-pink"],
)
def test_case_37_white_black_noise_pink_and_green_are_named(picture, reasons):
    assert reason_of(picture) in reasons


def test_case_37_check_names_what_is_no_field(tmp_path, fields):
    save(tmp_path / "0", "field.png", fields[0])
    save(tmp_path / "0", "white.png", flat(255, 0))
    save(tmp_path / "3+", "black.png", flat(3))
    table, problems = read_table(tmp_path)
    assert list(table.name) == ["field.png"]
    refused = problems[problems.problem.str.startswith("no H-DAB field")].set_index("file")
    assert "blank" in refused.problem["0/white.png"]
    assert "black" in refused.problem["3+/black.png"]
    assert refused.remedy.str.contains("--any-field", regex=False).all()


@pytest.mark.parametrize("score", range(4))
def test_the_partner_in_haematoxylin_and_eosin_is_named(score):
    assert reason_of(phantom(score, he=True), mpp=MPP) == "H&E"


@pytest.mark.skipif(not SLIDE.exists(), reason="the slides are not beside the project")
def test_a_tile_of_an_he_slide_is_named():
    openslide = pytest.importorskip("openslide")
    tile = openslide.OpenSlide(str(SLIDE)).read_region((600, 1200), 0, (512, 512)).convert("RGB")
    assert reason_of(np.asarray(tile), mpp=0.499) == "H&E"


def test_grey_inverted_blurred_and_inked_fields_are_named(fields):
    for picture in fields[1:]:
        grey = np.repeat(picture.mean(2, keepdims=True).astype(np.uint8), 3, 2)
        blurred = ndimage.gaussian_filter(picture.astype(float), (16, 16, 0)).astype(np.uint8)
        everywhere = np.full(picture.shape[:2], 0.8)
        assert reason_of(grey, mpp=MPP) == "grey"
        assert reason_of(255 - picture, mpp=MPP) == "dark"
        assert reason_of(blurred, mpp=MPP) == "focus"
        assert reason_of(with_dye(picture, everywhere, (0.9, 0.6, 0.1)), mpp=MPP) in ("ink", "dark")


def test_a_photograph_and_a_page_of_text_are_named():
    data = pytest.importorskip("skimage.data")
    assert reason_of(data.coffee()) in ("dark", "colour")
    assert reason_of(np.repeat(data.page()[..., None], 3, 2)) in ("dark", "grey", "drawn")


# --- nuclear stain against membranes --------------------------------------------------------------


def cells(side_px=160, spacing=20):
    """(H,W) distance to the nearest of a grid of cell centres, in pixels of 0.5 um."""
    rows, columns = np.mgrid[:side_px, :side_px]
    return np.hypot((rows % spacing) - spacing / 2, (columns % spacing) - spacing / 2)


def painted(brown):
    """(H,W,3) uint8 of blue nuclei of 5 um radius on pale tissue, and so much brown on them."""
    rng = np.random.default_rng(0)
    grain = ndimage.gaussian_filter(rng.normal(0, 0.05, brown.shape), 1)
    picture = np.full((*brown.shape, 3), 240.0)
    soft = ndimage.gaussian_filter((cells() < 5).astype(float), 1)
    picture = with_dye(picture, 0.04 + 0.25 * soft + np.abs(grain), stain.HDAB[0].numpy())
    return with_dye(picture, ndimage.gaussian_filter(brown.astype(float), 1), field.HDAB[1])


def test_brown_nuclei_are_a_nuclear_stain_and_brown_membranes_are_not():
    assert reason_of(painted(0.5 * (cells() < 5)), mpp=MPP) == "nuclear"
    assert reason_of(painted(0.5 * (cells() > 9)), mpp=MPP) == ""
    assert reason_of(painted(0.0 * cells()), mpp=MPP) == ""


def test_bulges_and_hollows_count_the_opposite_way():
    rows, columns = np.mgrid[-20:21, -20:21]
    dome = np.exp(-(rows**2 + columns**2) / 50)
    assert field._bulge(dome, sigma_px=1.5) > 0.9
    assert field._bulge(1 - dome, sigma_px=1.5) < 0.1


def test_spots_are_round_and_as_large_as_nuclei():
    mask = np.zeros((64, 64), bool)
    mask[2:10, 2:10] = True  # 8 um: a nucleus
    mask[20:22, 2:4] = True  # 2 um: a grain
    mask[30:32, :60] = True  # a line
    mask[40:62, 2:30] = True  # 28 um: a patch of cytoplasm
    assert field._count_spots(mask, 1.0) == 1


# --- the doors ------------------------------------------------------------------------------------


def test_the_stain_vectors_are_those_of_the_library():
    np.testing.assert_array_equal(field.HDAB, stain.HDAB.numpy())
    assert field.FIELD_UM == stain.FIELD_UM


def test_a_batch_gives_a_row_an_image_and_the_same_reasons(fields):
    batch = torch.from_numpy(np.stack([fields[3], fields[3] * 0 + 250])).permute(0, 3, 1, 2)
    table = field.judge_fields(batch, mpp=MPP)
    assert list(table.reason) == ["", "blank"]
    assert list(table.columns) == ["reason", *field.MEASURES]
    assert table.tissue[1] == 0
    with pytest.raises(ValueError, match="uint8"):
        field.judge_fields(batch.float())


def test_files_are_judged_and_a_second_call_opens_none(tmp_path, fields, monkeypatch):
    paths = [
        save(tmp_path, "field.png", fields[1]),
        save(tmp_path, "white.png", flat(255, 0)),
        str(tmp_path / "missing.png"),
    ]
    (tmp_path / "text.png").write_text("no image")
    paths.append(str(tmp_path / "text.png"))
    expected = ["", field.REASONS["blank"], "", ""]
    assert field.judge_files(paths, cache=tmp_path / "cache") == expected

    def refuse(path):
        raise AssertionError(f"{path} was opened again")

    monkeypatch.setattr(field, "read_pixels", refuse)
    assert field.judge_files(paths, cache=tmp_path / "cache") == expected


def test_a_changed_file_and_another_mpp_are_looked_at_again(tmp_path, fields):
    path = save(tmp_path, "a.png", flat(255, 0))
    cache = tmp_path / "cache"
    assert field.judge_files([path], cache=cache) == [field.REASONS["blank"]]
    save(tmp_path, "a.png", fields[2])
    assert field.judge_files([path], mpp=[math.nan], cache=cache) == [""]
    assert field.judge_files([path], mpp=[MPP], cache=cache) == [""]
    stored = json.loads((cache / f"fields_{field.RULES}.json").read_text())
    assert stored[path][0][-1] == MPP


def test_what_was_read_before_an_interruption_is_kept(tmp_path, fields, monkeypatch):
    paths = [save(tmp_path, f"{k}.png", fields[k]) for k in range(4)]
    read = field.read_pixels

    def interrupt(path):
        if path == paths[3]:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(field, "read_pixels", interrupt)
    with pytest.raises(KeyboardInterrupt):
        field.judge_files(paths, cache=tmp_path / "cache")
    stored = json.loads((tmp_path / "cache" / f"fields_{field.RULES}.json").read_text())
    assert set(stored) == set(paths[:3])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_locked_cache_warns_and_the_reasons_are_given(tmp_path, fields):
    path = save(tmp_path, "a.png", fields[0])
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.warns(UserWarning, match="not kept"):
        assert field.judge_files([path], cache=locked) == [""]


def test_reasons_are_sentences_for_the_list_of_problems():
    for sentence in field.REASONS.values():
        assert sentence[0].islower() or sentence.startswith("a ")
        assert "{" not in sentence
    assert issubclass(DataError, ValueError)
