"""Inputs that several test files share: BCI-shaped folders, manifests, planted faults."""

import functools
import json
import shutil
import sys
import textwrap

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from her2lib import files
from her2lib.phantoms import dataset
from her2lib.scores import SCORES


def picture(path, seed, side_px=48):
    """Path of a PNG of H-DAB tissue, which the field gate lets through; a seed, its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tissue_pixels(seed, side_px)).save(path)
    return path


def pictures(root, *files):
    """A folder with a picture at each of these paths, no two alike."""
    for i, file in enumerate(files):
        picture(root / file, [77, i])
    return root


def tissue_pixels(seed, side_px):
    """(side_px,side_px,3) uint8, a window of one phantom with a grain of its own."""
    rng = np.random.default_rng(seed)
    whole = _phantom_pixels()
    y, x = rng.integers(0, len(whole) - side_px, 2)
    window = whole[y : y + side_px, x : x + side_px].astype(int)
    return (window + rng.integers(-2, 3, window.shape)).clip(0, 255).astype(np.uint8)


@functools.cache
def _phantom_pixels():
    return dataset.make_patch(3, side_px=320, mpp=1.0, truth=False, score=2).image


def phantom_patch(seed, *, score, side_px=64):
    """(side_px,side_px,3) uint8, a small phantom of this score at 1 um a pixel."""
    return dataset.make_patch(seed, side_px=side_px, mpp=1.0, truth=False, score=score).image


def bci(root, *, train=8, test=4, he=True):
    """A sound BCI-shaped folder: scores in turn, HE beside IHC, no two files alike."""
    for k, (subset, n) in enumerate((("train", train), ("test", test))):
        for i in range(n):
            name = f"{i:05d}_{subset}_{SCORES[i % 4]}.png"
            picture(root / "IHC" / subset / name, [k, i])
            if he:
                picture(root / "HE" / subset / name, [k, i, 1])
    return root


def manifest(root, *rows, head="path,score"):
    """A folder with a manifest and the images that its rows name, unless these are outside it."""
    for i, row in enumerate(rows):
        name = row.split(",")[0]
        if name and ".." not in name and not name.startswith("/") and not (root / name).exists():
            picture(root / name, i)
    (root / "manifest.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return root


def fill_sheets(folder, scores):
    """Fills the sheet of every reader in a folder of write_sheets with {patch: written score}."""
    key = pd.read_csv(folder / "key.csv", dtype=str).set_index("code")
    for sheet in folder.glob("*/sheet.csv"):
        rows = pd.read_csv(sheet, dtype=str, keep_default_na=False)
        rows["score"] = [scores[key.patch[code]] for code in rows.code]
        rows.to_csv(sheet, index=False)


def one_problem(problems, text):
    """The only problem whose sentence contains text."""
    hits = problems[problems.problem.str.contains(text, regex=False)]
    assert len(hits) == 1, problems.to_string()
    return hits.iloc[0]


def plant(root):
    """{file: part of its sentence} of 20 faults planted in a BCI-shaped folder."""
    return {
        **_plant_broken_files(root),
        **_plant_odd_images(root),
        **_plant_wrong_names(root),
        **_plant_duplicates(root),
        **_plant_strays(root),
    }


def _train_file(root, i):
    """Path of training patch i, whose score is i % 4."""
    return root / "IHC/train" / f"{i:05d}_train_{SCORES[i % 4]}.png"


def _plant_broken_files(root):
    empty, short, text, bomb = (_train_file(root, i) for i in range(4))
    empty.write_bytes(b"")
    short.write_bytes(short.read_bytes()[:2000])
    text.write_bytes(b"hello")
    Image.new("L", (9000, 9000)).save(bomb)
    sentences = {empty: "0 bytes", short: "cut short", text: "no PNG", bomb: "bomb"}
    return _by_name(root, sentences)


def _plant_odd_images(root):
    files = [_train_file(root, i) for i in range(4, 12)]
    alpha, palette, grey, wide, ink, turned, large, small = files
    opened = {file: Image.open(file).convert("RGB") for file in files}
    opened[alpha].convert("RGBA").save(alpha)
    opened[palette].quantize(256).save(palette)
    opened[grey].convert("L").save(grey)
    sixteen_bits = np.asarray(opened[wide].convert("L")).astype(np.uint16) * 256
    Image.fromarray(sixteen_bits).save(wide)
    opened[ink].convert("CMYK").save(ink, format="JPEG")
    exif = Image.Exif()
    exif[0x0112] = 3
    opened[turned].save(turned, exif=exif)
    picture(large, 1234, side_px=64)
    Image.new("RGB", (16, 16)).save(small)
    sentences = {
        alpha: "transparency",
        palette: "palette",
        grey: "grey",
        wide: "grey (I;16)",
        ink: "CMYK",
        turned: "EXIF",
        large: "64 x 64 px",
        small: "too small",
    }
    return _by_name(root, sentences)


def _plant_wrong_names(root):
    unknown = _train_file(root, 12).rename(root / "IHC/train/00012_train_4+.png")
    unnamed = _train_file(root, 13).rename(root / "IHC/train/00013.png")
    sentences = {unknown: "'4+' is not a HER2 score", unnamed: "no score in the name"}
    return _by_name(root, sentences)


def _plant_duplicates(root):
    """Copies within training, of a test patch, and of a patch with another score."""
    original = _train_file(root, 14)
    repeat = root / f"IHC/train/00030_train_{SCORES[14 % 4]}.png"
    shutil.copy(original, repeat)
    _train_file(root, 15).unlink()
    leak = root / "IHC/train/00015_train_0.png"
    shutil.copy(root / "IHC/test/00000_test_0.png", leak)
    one = _train_file(root, 16)
    other = _train_file(root, 17)
    shutil.copy(one, other)
    sentences = {
        repeat: f"the same bytes as {original.relative_to(root).as_posix()}",
        leak: "in the test set",
        one: "the scores",
        other: "the scores",
    }
    return _by_name(root, sentences)


def _plant_strays(root):
    note = root / "IHC/train/notes.txt"
    note.write_text("left here")
    alone = _train_file(root, 18)
    (root / "HE/train" / alone.name).unlink()
    outside = _train_file(root, 19)
    outside.unlink()
    outside.symlink_to(picture(root.parent / "elsewhere.png", 4321))
    sentences = {
        note: "no image by its name",
        alone: "its HE partner: there is none",
        outside: "leaves the folder",
    }
    return _by_name(root, sentences)


def _by_name(root, sentences):
    return {file.relative_to(root).as_posix(): text for file, text in sentences.items()}


def move_project(monkeypatch, root, *, reports=None):
    """Makes every loaded module of the library take root for the project."""
    _move(monkeypatch, "ROOT", root)
    _move(monkeypatch, "REPORTS", reports or root / "reports")


def move_results(monkeypatch, root):
    """Makes every loaded module write its reports and caches below root; the project stays."""
    _move(monkeypatch, "REPORTS", root / "reports")
    _move(monkeypatch, "CACHE", root / "cache")


def _move(monkeypatch, constant, folder):
    real = vars(files)[constant]
    for name, module in list(sys.modules.items()):
        if name.startswith("her2lib") and vars(module).get(constant) == real:
            monkeypatch.setattr(module, constant, folder)


SLIDE_MPP = 0.5


def write_slide(file, pixels, *, mpp=SLIDE_MPP, levels=3):
    """Path of a pyramidal TIFF of pixels (H,W,3) uint8; mpp None leaves the resolution out."""
    import tifffile

    with tifffile.TiffWriter(file) as tiff:
        for level in range(levels):
            resolution = {}
            if mpp:
                pixels_a_cm = 1e4 / mpp / 2**level
                resolution = {
                    "resolution": (pixels_a_cm, pixels_a_cm),
                    "resolutionunit": "CENTIMETER",
                }
            tiff.write(
                np.asarray(Image.fromarray(pixels).reduce(2**level)),
                tile=(256, 256),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(level > 0),
                **resolution,
            )
    return file


def slide_pixels():
    """(2048,2048,3) uint8: glass, a square of tissue of 1024 px, a stroke of blue ink.

    The upper left quarter of the tissue is out of focus.
    """
    pixels = np.full((2048, 2048, 3), 236, np.uint8)
    tissue = dataset.make_patch(3, side_px=1024, mpp=SLIDE_MPP, truth=False).image
    pixels[512:1536, 512:1536] = tissue
    quarter = pixels[512:1024, 512:1024].astype(float)
    pixels[512:1024, 512:1024] = gaussian_filter(quarter, (5, 5, 0))
    pixels[1600:1980, 200:1800] = (30, 60, 200)
    return pixels


# --- a project of tiny notebooks ----------------------------------------------------------------

TINY_RUN = "resnet18-as_presented-imagenet-224px-n100-s"
TINY_AROUND = ("00_start_here", "06_compare_models", "10_report")


def write_notebook(root, name, *code, parameters='study_name = "tiny"'):
    """Path of a notebook with one prose cell, a parameters cell and these code cells."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": f"# {name}", "id": "prose"}]
    for i, source in enumerate((parameters, *code)):
        cell = {
            "cell_type": "code",
            "metadata": {},
            "source": textwrap.dedent(source),
            "id": f"cell{i}",
            "execution_count": None,
            "outputs": [],
        }
        cells.append(cell)
    cells[1]["metadata"] = {"tags": ["parameters"]}
    file = root / "notebooks" / f"{name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    file.write_text(json.dumps(whole))
    return file


def write_tiny_study(root, *, seeds=(0,), training=("x = 1",), extra="", around=TINY_AROUND):
    """None; a study of a few runs of one notebook, on no data, with its notebooks."""
    training_parameters = 'study_name = "tiny"\nrun = ""'
    for name in around:
        write_notebook(root, name, "x = 1")
    write_notebook(root, "02_train_resnet18", *training, parameters=training_parameters)
    (root / "studies").mkdir(exist_ok=True)
    (root / "data").mkdir(exist_ok=True)
    text = (
        f'question = "?"\n{extra}\n[data]\nsource = "{root / "data"}"\n'
        f"[axes]\nseed = {list(seeds)}\n"
    )
    (root / "studies" / "tiny.toml").write_text(text)


def brownness(phantom):
    """float, how much redder than blue the tumour of a phantom is, in grey levels."""
    red, blue = (phantom.image[..., channel].astype(float) for channel in (0, 2))
    return np.clip(red - blue, 0, None)[phantom.masks["tumour"]].mean()
