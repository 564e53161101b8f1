"""Inputs that several test files share: BCI-shaped folders, manifests, planted faults."""

import shutil
import sys

import numpy as np
from PIL import Image

from her2lib import files
from her2lib.scores import SCORES


def picture(path, seed, side_px=48):
    array = np.random.default_rng(seed).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def bci(root, *, train=8, test=4, he=True):
    """A sound BCI-shaped folder: scores in turn, HE beside IHC, no two files alike."""
    for k, (part, n) in enumerate((("train", train), ("test", test))):
        for i in range(n):
            name = f"{i:05d}_{part}_{SCORES[i % 4]}.png"
            picture(root / "IHC" / part / name, [k, i])
            if he:
                picture(root / "HE" / part / name, [k, i, 1])
    return root


def manifest(root, *rows, head="path,score"):
    """A manifest with the images that its rows name, unless these are there or the path leaves the folder."""
    for i, row in enumerate(rows):
        name = row.split(",")[0]
        if name and ".." not in name and not name.startswith("/") and not (root / name).exists():
            picture(root / name, i)
    (root / "manifest.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return root


def plant(root):
    """{file: words} of 20 faults planted in a BCI-shaped folder, one or two for every reader's check."""
    train, test, he = root / "IHC/train", root / "IHC/test", root / "HE/train"
    names = sorted(p.name for p in train.iterdir())
    sound = [Image.open(train / name).convert("RGB") for name in names]
    planted = {}

    def bad(i, words):
        planted[f"IHC/train/{names[i]}"] = words
        return train / names[i]

    bad(0, "0 bytes").write_bytes(b"")
    path = bad(1, "cut short")
    path.write_bytes(path.read_bytes()[:2000])
    bad(2, "no PNG").write_bytes(b"hello")
    Image.new("L", (9000, 9000)).save(bad(3, "bomb"))
    sound[4].convert("RGBA").save(bad(4, "transparency"))
    sound[5].quantize(16).save(bad(5, "palette"))
    sound[6].convert("L").save(bad(6, "grey"))
    Image.fromarray(np.asarray(sound[7].convert("L")).astype(np.uint16) * 256).save(
        bad(7, "grey (I;16)")
    )
    sound[8].convert("CMYK").save(bad(8, "CMYK"), format="JPEG")
    exif = Image.Exif()
    exif[0x0112] = 3
    sound[9].save(bad(9, "EXIF"), exif=exif)
    picture(bad(10, "64 x 64 px"), 1234, side_px=64)
    Image.new("RGB", (16, 16)).save(bad(11, "too small"))
    (train / names[12]).rename(train / "00012_train_4+.png")
    planted["IHC/train/00012_train_4+.png"] = "'4+' is not a HER2 score"
    (train / names[13]).rename(train / "00013.png")
    planted["IHC/train/00013.png"] = "no score in the name"
    shutil.copy(train / names[14], train / f"00030_train_{names[14].rsplit('_')[-1]}")
    planted[f"IHC/train/00030_train_{names[14].rsplit('_')[-1]}"] = (
        f"the same bytes as IHC/train/{names[14]}"
    )
    shutil.copy(
        test / "00000_test_0.png", bad(15, "in the test set").with_name("00015_train_0.png")
    )
    planted["IHC/train/00015_train_0.png"] = planted.pop(f"IHC/train/{names[15]}")
    (train / names[15]).unlink()
    shutil.copy(train / names[16], bad(17, "the scores"))
    planted[f"IHC/train/{names[16]}"] = "the scores"
    (train / "notes.txt").write_text("left here")
    planted["IHC/train/notes.txt"] = "no image by its name"
    bad(18, "its HE partner: there is none")
    (he / names[18]).unlink()
    path = bad(19, "leaves the folder")
    path.unlink()
    path.symlink_to(picture(root.parent / "elsewhere.png", 4321))
    return planted


def move_project(monkeypatch, root, *, reports=None):
    """None; every loaded module of the library takes root for the project, and reports for its reports."""
    places = {"ROOT": (files.ROOT, root), "REPORTS": (files.REPORTS, reports or root / "reports")}
    for name, module in list(sys.modules.items()):
        for constant, (real, instead) in places.items():
            if name.startswith("her2lib") and vars(module).get(constant) == real:
                monkeypatch.setattr(module, constant, instead)
