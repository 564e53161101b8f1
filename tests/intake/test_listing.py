"""One rule for what is no data: nothing is lost without being counted."""

import os
import shutil

import pytest
from examples import picture, pictures

from her2lib.intake.listing import lies_in, list_files, program_file, real_roots


def reasons(listing):
    return dict(listing.left_aside)


def test_what_programs_leave_behind_is_left_aside_and_counted(tmp_path):
    pictures(tmp_path, "0/a.png", "b.png")
    for file in ("._b.png", "Thumbs.db", ".DS_Store", "0/desktop.ini", "~$b.xlsx", ".hidden"):
        (tmp_path / file).write_bytes(b"x")
    pictures(tmp_path, "__MACOSX/0/a.png", "0/.ipynb_checkpoints/a-checkpoint.png")
    listing = list_files(tmp_path)
    assert listing.files == ["0/a.png", "b.png"]
    assert set(reasons(listing).values()) == {"program", "hidden"}
    assert len(listing.left_aside) == 8
    text = " ".join(listing.sentences())
    assert "6 left aside (left by an operating system or program)" in text
    assert "2 left aside (hidden)" in text


@pytest.mark.parametrize("name", ["a (1).png", "a(2).png", "a - Copy.png", "a - Kopie (3).png"])
def test_a_second_copy_is_left_aside_where_its_bytes_are_the_same(tmp_path, name):
    picture(tmp_path / "a.png", 0)
    shutil.copy(tmp_path / "a.png", tmp_path / name)
    assert reasons(list_files(tmp_path)) == {name: "copy"}
    picture(tmp_path / name, 1)
    assert list_files(tmp_path).files == sorted(["a.png", name])


def test_links_are_followed_inside_and_where_it_is_allowed(tmp_path):
    store = pictures(tmp_path / "store", "a.png").resolve()
    root = pictures(tmp_path / "data", "b.png")
    (root / "door").symlink_to(store)
    (root / "back").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "file.png").symlink_to(store / "a.png")
    listing = list_files(root)
    assert listing.files == ["b.png", "file.png"]
    assert reasons(listing) == {"door": "outside", "back": "loop", "gone.png": "dangling"}
    assert "door/a.png" in list_files(root, allow=[store]).files


def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    pictures(tmp_path, "a.png", "shut/b.png")
    os.chmod(tmp_path / "shut", 0)
    try:
        os.scandir(tmp_path / "shut").close()
        pytest.skip("this user may read everything")
    except PermissionError:
        assert reasons(list_files(tmp_path)) == {"shut": "locked"}
    finally:
        os.chmod(tmp_path / "shut", 0o700)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert reasons(list_files(tmp_path)) == {"a.png": "special"}


def test_a_name_that_merely_begins_alike_lies_elsewhere(tmp_path):
    pictures(tmp_path, "data/a.png", "data2/a.png")
    roots = real_roots([tmp_path / "data"])
    assert lies_in(tmp_path / "data/a.png", roots)
    assert not lies_in(tmp_path / "data2/a.png", roots)


def test_a_patch_that_begins_with_an_underline_is_no_leaving_of_a_program():
    assert program_file("_a.png") == program_file("train") == ""
    assert program_file("@eaDir") == "program"


def test_a_name_of_bytes_that_are_no_utf_8_is_left_aside_and_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"y")
    lying = list_files(tmp_path)
    assert lying.files == ["a.png"]
    assert "1 left aside (a name that is no UTF-8" in lying.sentences()[0]
