"""No patch stands in a study and in its external set, and no name in both."""

import shutil

import pytest
from examples import manifest, pictures

from her2lib.data.patches import read_source
from her2lib.files import DataError
from her2lib.study.external_set import keep_apart


@pytest.fixture
def folders(tmp_path):
    """Two folders whose patches are called alike, one of them the same file in both."""
    pictures(tmp_path / "own", "0/1.png", "1+/2.png", "2+/3.png")
    manifest(tmp_path / "other", "1.png,0", "9.png,2+")
    shutil.copy(tmp_path / "own/2+/3.png", tmp_path / "other/9.png")
    return tmp_path / "own", tmp_path / "other"


def test_a_patch_of_both_is_refused_by_name(folders):
    cohort, external = map(read_source, folders)
    with pytest.raises(DataError, match="1 patch of the study stands in its external set") as e:
        keep_apart(cohort, external)
    assert "3.png there 9.png" in str(e.value)


def test_bad_files_left_out_the_external_set_keeps_the_patch(folders):
    cohort, external = keep_apart(*map(read_source, folders), skip_bad=True)
    assert sorted(cohort.table["name"]) == ["1.png", "2.png"]
    assert len(external.table) == 2
    assert list(cohort.problems["kind"]) == ["leak"]
    assert "1 patch of the study stands" in cohort.sentences[-1]


def test_names_of_both_are_told_apart(folders):
    _, external = keep_apart(*map(read_source, folders), skip_bad=True)
    assert sorted(external.table["name"]) == ["9.png", "external/1.png"]
    assert "1 name stands in the study as well" in external.sentences[-1]


def test_paths_alone_tell_one_folder_given_twice(folders):
    cohort = read_source(folders[0], open_images=False)
    with pytest.raises(DataError, match="3 patches of the study stand"):
        keep_apart(cohort, cohort, open_images=False)
