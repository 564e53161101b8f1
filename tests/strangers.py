"""Folders, tables and study files as strangers might bring them: sound ones, and what befalls them.

Every mutation takes a folder and a random.Random, and changes the folder in place.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from examples import SLIDE_MPP, picture, tissue_pixels, write_slide
from PIL import Image

IMAGES = (".png", ".jpg", ".tif")
SCORES = ("0", "1+", "2+", "3+")
NAMES = (
    "a (1).png",
    "a - Copy.png",
    "-rf.png",
    "two\nlines.png",
    'quo"te,comma.png',
    "e\u0301\U0001f600.PNG",
    "x" * 240 + ".png",
    "4+.png",
    "noname",
    "a.b.c.3+.png",
    "PATH.jpeg",
    "\u202e3+.png",
    " lead.png ",
)
JUNK = (
    ".DS_Store",
    "Thumbs.db",
    "._a.png",
    "__MACOSX/IHC/train/._0.png",
    ".ipynb_checkpoints/a-checkpoint.png",
    "~$manifest.xlsx",
    "desktop.ini",
    "notes.txt",
    "README",
    "new/DICOMDIR",
)
CELLS = (
    "negative",
    "n/a",
    "1.0",
    "1,0",
    "=3+",
    "+1",
    "1 +",
    "7",
    "1-2",
    "",
    "   ",
    "nan",
    '"',
    "a;b",
    "1e999",
    "\x00",
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "\U0001f600",
    "2+ (equivocal)",
    "3+ (equivocal)",
    "True",
    "-1",
)


# --- sound inputs -------------------------------------------------------------------------------


def patch(path, seed):
    """Path of a PNG of H-DAB tissue; no two seeds give the same bytes."""
    return picture(path, [5, seed])


def bci_folder(root):
    """A BCI-shaped folder of 8 patches."""
    for i in range(8):
        subset = ("train", "test")[i % 2]
        patch(root / "IHC" / subset / f"{i:05d}_{subset}_{SCORES[i // 2]}.png", i)


def score_folders(root):
    """Folders 0, 1+, 2+ and 3+ of two patches each."""
    for i in range(8):
        patch(root / SCORES[i // 2] / f"p{i}.png", i)


def manifest_folder(root):
    """A manifest of 8 patches with slides, patients, a scale and a reader."""
    rows = ["path,score,slide,patient,mpp,rater_a"]
    for i in range(8):
        patch(root / f"p{i}.png", i)
        rows.append(f"p{i}.png,{SCORES[i // 2]},S{i // 4},P{i // 4},0.5,{SCORES[i // 2]}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def ratings_folder(root):
    """A manifest, and beside it two readers' scores of its patches."""
    manifest_folder(root)
    rows = ["patch,anna,ben"]
    rows += [f"p{i}.png,{SCORES[i // 2]},{SCORES[(i + 1) // 3]}" for i in range(8)]
    (root / "ratings.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def slide_folder(root):
    """Two small slides of tissue, and a table of their patients."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("S0", "S1")):
        pixels = np.full((512, 512, 3), 240, np.uint8)
        pixels[128:384, 128:384] = tissue_pixels(seed, 256)
        write_slide(root / f"{name}.tif", pixels, mpp=SLIDE_MPP, levels=2)
    (root / "patients.csv").write_text("slide,patient\nS0,P0\nS1,P1\n", encoding="utf-8")


def study_folder(root):
    """A study file, and a file of reported figures."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "asked.toml").write_text(
        'question = "q?"\n[data]\nsource = "phantom"\nval = 0.2\n[axes]\nseed = [0, 1]\n'
        'network = "resnet18"\nn_train = 1.0\n[[extra_axes]]\nseed = 2\n[train]\nepochs = 1\n'
    )
    (root / "figures.toml").write_text(
        '[[count]]\nid = "c"\nwhat = "patches"\nvalue = 10\nparts = {"0" = 4, "1+" = 6}\n'
        '[[rate]]\nid = "r"\nwhat = "accuracy"\nvalue = 40.0\nright = 4\nn = 10\n'
        'per_score = {"0" = [1, 4], "1+" = [3, 6]}\nof = "c"\n'
        '[[kappa]]\nid = "k"\nwhat = "kappa"\nvalue = 0.1\nrate = "r"\n'
        '[[matrix]]\nid = "m"\nwhat = "raters"\nraters = ["a", "b"]\n'
        "values = [[1, 0.5], [0.5, 1]]\n"
    )


# --- what befalls files -------------------------------------------------------------------------


def rename(folder, random):
    """Another name: a copy's, two lines, emoji, 240 letters."""
    file = any_file(folder, random)
    if file:
        move(file, file.with_name(random.choice(NAMES)))


def rename_to_latin_1(folder, random):
    """A name of bytes that are no UTF-8."""
    file = any_file(folder, random)
    if file:
        move(file, file.with_name(os.fsdecode(b"caf\xe9") + file.suffix))


def rename_folder(folder, random):
    """A folder gets another name, which may be a score or a set."""
    folders = [path for path in sorted(folder.rglob("*")) if path.is_dir()]
    if folders:
        chosen = random.choice(folders)
        name = random.choice(["1", "10", "Training", "HER2 3+", "negative", "a b", "\u00fc", "IHC"])
        move(chosen, chosen.with_name(name))


def nest(folder, random):
    """Everything lies one folder deeper."""
    deeper = folder / random.choice(["data", "1", "train", "2+"])
    paths = list(folder.iterdir())
    deeper.mkdir(exist_ok=True)
    for path in paths:
        if path != deeper:
            move(path, deeper / path.name)


def truncate(folder, random):
    """A file ends somewhere in its middle."""
    file = any_file(folder, random)
    if file:
        content = file.read_bytes()
        file.write_bytes(content[: random.randrange(len(content) + 1)])


def overwrite(folder, random):
    """A file holds text, nothing or noise."""
    file = any_file(folder, random)
    if file:
        file.write_bytes(random.choice([b"", b"hello", b"\x00" * 64, random.randbytes(512)]))


def add_junk(folder, random):
    """What programs leave behind."""
    path = folder / random.choice(JUNK)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.choice([b"", b"junk"]))


def copy_file(folder, random):
    """A second copy, under a file manager's name or any other."""
    file = any_file(folder, random)
    if file:
        name = random.choice([f"{file.stem} (1)", f"{file.stem} - Copy", f"other_{file.stem}"])
        shutil.copy(file, file.with_name(name + file.suffix))


def remove(folder, random):
    """A file is gone, or all are."""
    files = all_files(folder)
    for file in random.choice([files[:1], files[-1:], files]):
        file.unlink()


def link(folder, random):
    """A link: to nothing, to a file outside, to the folder itself, to a file beside."""
    outside = folder.parent / "outside.png"
    if not outside.exists():
        patch(outside, 99)
    beside = any_file(folder, random) or outside
    target = random.choice([folder / "nothing.png", outside, folder, beside, folder.parent])
    name = random.choice(["link.png", "3+", "link.tif", "manifest.csv"])
    if not os.path.lexists(folder / name):
        (folder / name).symlink_to(target)


def folder_for_file(folder, random):
    """A folder with a file's name."""
    file = any_file(folder, random)
    if file:
        file.unlink()
        file.mkdir()


def pipe(folder, random):
    """A named pipe, which would be read for ever."""
    name = random.choice(["p.png", "S9.tif", "notes"])
    if not os.path.lexists(folder / name):
        os.mkfifo(folder / name)


def lock(folder, random):
    """A file that nobody may read (root may)."""
    file = any_file(folder, random)
    if file:
        file.chmod(0)


def other_pixels(folder, random):
    """An image in grey, with transparency, of one pixel, in another format or 16 bits."""
    images = [file for file in all_files(folder) if file.suffix in IMAGES]
    if not images:
        return
    file = random.choice(images)
    kind = random.choice(["L", "RGBA", "P", "tiny", "white", "jpeg", "16 bits"])
    image = Image.new("RGB", (48, 48), (90, 60, 40))
    if kind in ("L", "RGBA", "P"):
        image = image.convert(kind)
    elif kind == "tiny":
        image = Image.new("RGB", (1, 1))
    elif kind == "white":
        image = Image.new("RGB", (48, 48), "white")
    elif kind == "16 bits":
        image = Image.fromarray(np.full((48, 48), 3000, np.uint16))
    form = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}[file.suffix]
    if kind == "jpeg":
        form = "JPEG"
    if form == "JPEG":
        image = image.convert("RGB")
    image.save(file, format=form)


# --- what befalls tables ------------------------------------------------------------------------


def encode(folder, random):
    """Another encoding, with or without a mark at its beginning."""
    file = any_table(folder, random)
    if file:
        text = text_of(file).replace("P0", "P\u00e4")
        code = random.choice(["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "cp1252", "utf-32"])
        file.write_bytes(text.encode(code, errors="replace"))


def separate(folder, random):
    """Another separator, with or without Excel's first line that says so."""
    file = any_table(folder, random)
    if file:
        sign = random.choice([";", "\t", "|", " ", ";;"])
        text = text_of(file).replace(",", sign).replace("0.5", "0,5")
        first = random.choice(["", f"sep={sign}\n"])
        file.write_text(first + text, encoding="utf-8")


def retype_cell(folder, random):
    """One cell, heading or not, holds something else."""

    def change(cells):
        row = random.choice(cells)
        if row:
            row[random.randrange(len(row))] = random.choice(CELLS)

    change_cells(folder, random, change)


def retype_column(folder, random):
    """A whole column holds something else."""

    def change(cells):
        column = random.randrange(max(len(cells[0]), 1))
        for row in cells[1:]:
            if column < len(row):
                row[column] = random.choice(CELLS)

    change_cells(folder, random, change)


def swap_columns(folder, random):
    """Two columns change places below their headings, or with them."""

    def change(cells):
        first_row = random.choice([0, 1])
        for row in cells[first_row:]:
            if len(row) > 1:
                row[0], row[1] = row[1], row[0]

    change_cells(folder, random, change)


def add_column(folder, random):
    """An index, numbers of slides, comments, or a heading that is there already."""
    heading = random.choice(
        ["", "Unnamed: 0", "slide", "batch", "comment", "Score", "path", "carl"]
    )
    at_front = random.choice([True, False])

    def change(cells):
        for number, row in enumerate(cells):
            cell = str(number)
            if number == 0:
                cell = heading
            row.insert(0 if at_front else len(row), cell)

    change_cells(folder, random, change)


def drop_column(folder, random):
    """A column is gone, or its heading is."""

    def change(cells):
        column = random.randrange(max(len(cells[0]), 1))
        if random.choice([True, False]):
            cells[0][column : column + 1] = [""]
        else:
            for row in cells:
                del row[column : column + 1]

    change_cells(folder, random, change)


def add_rows(folder, random):
    """A title, blank rows, doubled rows, too many or too few cells."""
    rows = [
        ["Readings of 2026"],
        [],
        ["", "", ""],
        ["p0.png"],
        ["p1.png", "1+", "x", "y", "z", "?"],
    ]

    def change(cells):
        row = random.choice([*rows, list(cells[-1])])
        cells.insert(random.randrange(len(cells) + 1), list(row))

    change_cells(folder, random, change)


def retype_heading(folder, random):
    """A heading in capitals, in other words, or among them twice."""
    words = [
        "PATH",
        " Path ",
        "image",
        "filename",
        "label",
        "class",
        "Score ",
        "case",
        "wsi",
        "score",
    ]

    def change(cells):
        if cells[0]:
            cells[0][random.randrange(len(cells[0]))] = random.choice(words)

    change_cells(folder, random, change)


def excel(folder, random):
    """The table saved as .xlsx, beside it or in its stead."""
    file = any_table(folder, random)
    if not file:
        return
    rows = [line.split(",") for line in text_of(file).splitlines()]
    frame = pd.DataFrame([pd.Series(row, dtype=object) for row in rows]).map(clean_cell)
    frame.to_excel(file.with_suffix(".xlsx"), index=False, header=False)
    if random.choice([True, False]):
        file.unlink()


def clean_cell(cell):
    """A cell without the signs that no .xlsx can hold."""
    if isinstance(cell, str):
        return "".join(sign for sign in cell if sign.isprintable())
    return cell


# --- what befalls TOML --------------------------------------------------------------------------


def retype_value(folder, random):
    """A value of a TOML file is of another kind, or out of all bounds."""
    values = [
        "nan",
        "inf",
        "-1",
        "true",
        '"x"',
        "[]",
        "[[1]]",
        "{}",
        "10e400",
        "1979-05-27",
        "\u00e4",
    ]
    file = any_file(folder, random, ".toml")
    if not file:
        return
    lines = text_of(file).split("\n")
    with_value = [i for i, line in enumerate(lines) if "=" in line]
    if with_value:
        i = random.choice(with_value)
        lines[i] = f"{lines[i].split('=')[0]}= {random.choice(values)}"
    file.write_text("\n".join(lines), encoding="utf-8")


def shuffle_lines(folder, random):
    """A line of a TOML file is gone, stands twice, or elsewhere."""
    file = any_file(folder, random, ".toml")
    if not file:
        return
    lines = text_of(file).split("\n")
    line = lines.pop(random.randrange(len(lines)))
    for _ in range(random.choice([0, 1, 2])):
        lines.insert(random.randrange(len(lines) + 1), line)
    file.write_text("\n".join(lines), encoding="utf-8")


FILE_MUTATIONS = (
    rename,
    rename_to_latin_1,
    rename_folder,
    nest,
    truncate,
    overwrite,
    add_junk,
    copy_file,
    remove,
    link,
    folder_for_file,
    pipe,
    lock,
    other_pixels,
)
TABLE_MUTATIONS = (
    encode,
    separate,
    retype_cell,
    retype_column,
    swap_columns,
    add_column,
    drop_column,
    add_rows,
    retype_heading,
    excel,
)
# What changes how a table is written, or what lies beside, and no score of a patch.
HARMLESS = (
    encode,
    separate,
    swap_columns,
    add_column,
    add_rows,
    excel,
    add_junk,
    copy_file,
    link,
    nest,
    pipe,
)
TOML_MUTATIONS = (retype_value, shuffle_lines, truncate, overwrite)


# --- helpers ------------------------------------------------------------------------------------


def all_files(folder):
    """list of Path, the plain files below a folder, in order."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


def any_file(folder, random, *suffixes):
    """Path of a plain file below a folder, of one of these endings; None without one."""
    files = [file for file in all_files(folder) if not suffixes or file.suffix in suffixes]
    if not files:
        return None
    return random.choice(files)


def any_table(folder, random):
    """Path of a table below a folder, or None."""
    return any_file(folder, random, ".csv")


def text_of(file):
    """str of a file that another mutation may have left in any encoding."""
    return file.read_bytes().decode("utf-8", errors="replace")


def move(path, target):
    """None; gives a path another name where there is room for it."""
    if not os.path.lexists(target):
        path.rename(target)


def change_cells(folder, random, change):
    """None; a table's cells, split at commas alone, after a function has changed them."""
    file = any_table(folder, random)
    if not file:
        return
    cells = [line.split(",") for line in text_of(file).splitlines()] or [[]]
    change(cells)
    text = "\n".join(",".join(row) for row in cells) + "\n"
    file.write_bytes(text.encode("utf-8", errors="replace"))


def contents(folder):
    """dict path -> bytes, a link's target, or None: all that lies below a folder."""
    lying = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            lying[path] = os.readlink(path)
        elif path.is_file():
            lying[path] = path.read_bytes()
        else:
            lying[path] = None
    return lying


def make(folder: Path, sound, mutations, random):
    """None; a sound input in a new folder, then its mutations in turn."""
    folder.mkdir(parents=True)
    sound(folder)
    for mutation in mutations:
        mutation(folder, random)
