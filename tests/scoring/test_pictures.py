"""Names of maps: short enough for every disk, and no two alike."""

import pandas as pd
import pytest

from her2lib.scoring import pictures


def names_of(*paths):
    patches = [path.rpartition("/")[2] for path in paths]
    return list(pictures.map_names(pd.DataFrame({"patch": patches, "path": paths})).values())


def test_a_plain_name_stays_and_twins_get_a_hash_of_their_path():
    assert names_of("d/a.png", "d/b.png") == ["a", "b"]
    one, other, third = names_of("d/a.png", "e/a.png", "f/A.tif")
    assert len({one.lower(), other.lower(), third.lower()}) == 3
    assert one.startswith("a_")
    # the same paths have the same names at every call
    assert names_of("d/a.png", "e/a.png", "f/A.tif") == [one, other, third]


@pytest.mark.parametrize("letter", ["x", "ö", "細", "😀"])
def test_long_names_are_cut_between_letters_and_differ(letter):
    long_name = letter * 200
    one, other = names_of(f"d/{long_name}1.png", f"d/{long_name}2.png")
    assert one != other
    for name in (one, other):
        assert len(name.encode()) <= pictures.LONGEST_NAME
        assert "\ufffd" not in name


def test_a_name_of_signs_only_is_a_name_all_the_same():
    assert names_of("d/$$$.png")[0] in ("_", "slide")
