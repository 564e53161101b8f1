"""Verbs on data: what they need is asked for, and what they wrote is said."""

import pandas as pd
from examples import manifest, pictures
from PIL import Image

from her2lib import cli


def her2(capsys, *arguments):
    """(exit status, everything printed)."""
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_tiling_without_a_slide_asks_for_one(capsys, tmp_path):
    code, printed = her2(capsys, "tile", "--out", tmp_path / "new")
    assert code == 2
    assert "Name at least one slide" in printed
    assert not (tmp_path / "new").exists()


def test_phantoms_are_written_and_counted_and_the_same_command_goes_on(capsys, tmp_path):
    line = ["phantom", tmp_path / "ph", "--patches", 4, "--slides", 4, "--side-px", 32]
    for _ in range(2):
        code, printed = her2(capsys, *line, "--mpp", 2, "--workers", 1)
        assert code == 0
        assert str(tmp_path / "ph") in printed
        assert len(list((tmp_path / "ph" / "IHC").rglob("*.png"))) == 4


def test_a_check_says_as_what_the_data_were_read_and_counts_them(capsys, tmp_path):
    files = [f"{patient}/{score}/x.png" for patient in (1, 10) for score in ("0", "2+")]
    code, printed = her2(capsys, "check", pictures(tmp_path, *files))
    assert code == 0
    assert "Read as folders named by score (folder1). For example 1/0/x.png: score 0" in printed
    assert "patient 1." in printed
    assert "4 files lie there: 4 read, 0 refused, 0 left aside." in printed


def test_a_check_takes_what_the_user_states(capsys, tmp_path):
    store = pictures(tmp_path / "store", "a.png").resolve()
    root = pictures(tmp_path / "data", "0/b.png", "3+/c.png", "negative/d.png")
    (root / "0" / "b.png").unlink()
    (root / "0" / "b.png").symlink_to(store / "a.png")
    code, printed = her2(capsys, "check", root)
    assert code == 1
    assert f"Remedy: move the file inside, or read it where it lies: --allow {store}" in printed
    assert "--score-word negative=SCORE" in printed
    code, printed = her2(
        capsys, "check", root, "--allow", store, "--score-word", "negative=0", "--mpp", 0.5
    )
    assert code == 0
    assert "Scale as stated: 0.5 micrometres a pixel, for 3 patches without one." in printed


def test_a_check_of_two_readings_is_one_sentence(capsys, tmp_path):
    root = pictures(tmp_path, *[f"{a}/{b}/x.png" for a in (1, 2) for b in (0, 1)])
    code, printed = her2(capsys, "check", root)
    assert code == 2
    assert "two ways" in printed
    code, printed = her2(capsys, "check", root, "--score-from", "folder1")
    assert code == 0


def test_tables_alone_are_checked_without_opening_an_image(capsys, tmp_path):
    root = manifest(tmp_path, "a.png,0", "b.png,3+")
    (root / "a.png").write_bytes(b"no image")
    (root / "b.png").unlink()
    code, printed = her2(capsys, "check", root, "--tables-only", "--csv", tmp_path / "p.csv")
    assert code == 1
    assert "there is no such file" in printed
    assert "1 read, 1 refused" in printed
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table.kind) == ["missing"]


def test_fields_that_show_no_tissue_are_refused_unless_any_field_will_do(capsys, tmp_path):
    root = pictures(tmp_path, "0/a.png", "3+/b.png")
    Image.new("RGB", (64, 64), "white").save(root / "0" / "white.png")
    code, printed = her2(capsys, "check", root)
    assert code == 1
    assert "no H-DAB field" in printed
    assert her2(capsys, "check", root, "--any-field")[0] == 0
