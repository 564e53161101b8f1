"""New patches: images, folders, manifests and tiled folders become one table; faults are named."""

import pandas as pd
import pytest
from examples import manifest, picture

from her2lib.data import new_patches
from her2lib.data.images import DataError


def test_images_and_folders_become_one_table_without_repeats(tmp_path):
    for number in range(3):
        picture(tmp_path / "new" / "deep" / f"{number}.png", number)
    (tmp_path / "new" / "words.png").write_text("no image")
    paths = [tmp_path / "new", tmp_path / "new" / "deep" / "1.png"]
    table, problems = new_patches.gather_patches(paths, tmp_path / "out")
    assert list(table.columns) == new_patches.COLUMNS
    assert table.patch.tolist() == ["0.png", "1.png", "2.png"]
    assert table.x.isna().all()
    assert len(problems) == 1
    assert "words.png is left out" in problems[0]


def test_a_manifest_is_read_with_where_its_patches_lie(tmp_path):
    rows = ("a.png,,S1,0,100,0.2", "b.png,,S1,100,100,0.3")
    folder = manifest(tmp_path / "tiles", *rows, head="path,score,slide,x,y,dab")
    table, problems = new_patches.gather_patches([folder], tmp_path / "out")
    assert problems == []
    assert table[["x", "y", "dab"]].values.tolist() == [[0, 100, 0.2], [100, 100, 0.3]]
    assert set(table.slide) == {"S1"}
    by_file, _ = new_patches.gather_patches([folder / "manifest.csv"], tmp_path / "out")
    pd.testing.assert_frame_equal(by_file, table)


def test_nothing_there_is_a_sentence_and_an_empty_folder_an_empty_table(tmp_path):
    with pytest.raises(DataError, match="There is nothing at"):
        new_patches.gather_patches([tmp_path / "gone.png"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    table, problems = new_patches.gather_patches([tmp_path / "empty"], tmp_path / "out")
    assert table.empty
    assert problems == []
