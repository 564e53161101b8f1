"""The worked pages: each command of docs/from_glass_to_report.md is executed as it stands."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import fill_sheets, move_results, write_slide
from PIL import Image

from her2lib import cli
from her2lib.phantoms import dataset
from her2lib.scores import SCORES

PAGE = Path(__file__).parents[1] / "docs" / "from_glass_to_report.md"
# The page speaks of whole slides; these are small ones, and networks of few epochs.
SMALLER = {
    "--side 1024": "--side 128",
    "--network vit_tiny": "--network vit_tiny --epochs 2",
}


def commands():
    """list of str, the lines of the page's blocks, without remarks behind them."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def commands_between(first, last):
    """list of str, the commands of the page from one that begins with first to one with last."""
    lines = commands()
    starts = [i for i, line in enumerate(lines) if line.startswith(first)]
    ends = [i for i, line in enumerate(lines) if line.startswith(last)]
    return lines[starts[0] : ends[-1] + 1]


def execute(line):
    """int, the exit status of a command of the page; `a && b` runs b only after a."""
    for part in line.split("&&"):
        for written, smaller in SMALLER.items():
            part = part.replace(written, smaller)
        words = shlex.split(part)
        if words[0] == "cp":
            shutil.copyfile(words[1], words[2])
            continue
        assert words[0] == "her2", f"the page names a program that no test knows: {part}"
        status = cli.main(words[1:])
        if status:
            return status
    return 0


@pytest.fixture
def laboratory(tmp_path, monkeypatch):
    """A folder with slides/, new_slides/, photographs/ and patients.csv; commands run in it."""
    move_results(monkeypatch, tmp_path)
    # notebooks are executed in processes of their own
    monkeypatch.setenv("HER2_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("HER2_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for folder in ("slides", "new_slides", "photographs"):
        (tmp_path / folder).mkdir()
    for score in range(4):
        write_slide(tmp_path / "slides" / f"s{score}.tif", tissue(score, score), mpp=0.25)
    write_slide(tmp_path / "new_slides" / "n2.tif", tissue(9, 2), mpp=0.25)
    Image.fromarray(tissue(8, 3)[:256, :256]).save(tmp_path / "photographs" / "a.png")
    rows = [f"s{score},p{score}" for score in range(4)]
    (tmp_path / "patients.csv").write_text("\n".join(["slide,patient", *rows]) + "\n")
    return tmp_path


def tissue(seed, score):
    """(1024,1024,3) uint8, a phantom of 256 um a side."""
    return dataset.make_patch(seed, score=score, side_px=1024, mpp=0.25, truth=False).image


def read_like_people(folder):
    """Fills the sheets: both readers give each patch the score of score_by_place."""
    key = pd.read_csv(folder / "key.csv", dtype=str)
    fill_sheets(folder, {patch: score_by_place(patch) for patch in key.patch})


def score_by_place(patch):
    """str, a score that the slide and the place of a patch decide.

    Every slide holds every score: of one score a slide, none could be spared for a test set.
    """
    slide, x, y = re.search(r"s(\d)_x(\d+)_y(\d+)", patch).groups()
    return SCORES[(int(slide) + int(x) // 236 + int(y) // 236) % 4]


def test_from_slides_to_scored_patches_and_the_plan_of_a_study(laboratory, capsys):
    for line in commands_between("her2 tile", "her2 sheet"):
        assert execute(line) == 0, capsys.readouterr().err
    read_like_people(laboratory / "sheets")
    before = (laboratory / "tiles" / "manifest.csv").read_bytes()
    for line in commands_between("her2 consensus", "her2 check"):
        if "--dry-run" in line:
            assert execute(line) == 0
            assert (laboratory / "tiles" / "manifest.csv").read_bytes() == before
        else:
            assert execute(line) == 0, capsys.readouterr().err
    manifest = pd.read_csv(laboratory / "tiles" / "manifest.csv", dtype=str)
    number = manifest.slide.str[1].astype(int)
    assert list(manifest.score) == [score_by_place(path) for path in manifest.path]
    assert set(manifest.score) == set(SCORES)
    assert list(manifest.patient) == [f"p{k}" for k in number]
    assert set(np.unique(number)) == {0, 1, 2, 3}
    planned = [line for line in commands() if "--dry-run" in line and "her2 run" in line]
    assert planned
    for line in planned:
        assert execute(line) == 0
    assert not (laboratory / "reports" / "mine").exists()


@pytest.mark.slow
def test_the_whole_page_from_glass_to_scored_photographs(laboratory, capsys):
    (laboratory / "studies").mkdir()
    for line in commands():
        if line.startswith("her2 consensus") and "--dry-run" in line:
            read_like_people(laboratory / "sheets")
        if line.startswith("cp "):
            # the page adds reread by hand, once readers have filled in the sheets of the review
            break
        assert execute(line) == 0, f"{line}: {capsys.readouterr().err}"
    for line in commands_between("her2 score new_slides", "her2 score photographs"):
        assert execute(line) == 0, f"{line}: {capsys.readouterr().err}"
    assert (laboratory / "reports" / "mine" / "report.html").is_file()
    scores = pd.read_csv(laboratory / "scored" / "scores.csv")
    assert set(scores.slide) == {"n2"}
    assert len(pd.read_csv(laboratory / "scored2" / "scores.csv")) == 1
