"""The source without a study: label doubt, patches from outside, where images come from."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from her2lib.explorer import source as source_module
from her2lib.explorer.source import Source, read_doubts


@pytest.fixture
def source(monkeypatch):
    """Source of one patch in the store and no network."""
    monkeypatch.setattr(source_module, "shown_runs", lambda study: {})
    table = pd.DataFrame({"name": ["p0"], "path": ["p0.png"], "he": [""]})
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    return Source(SimpleNamespace(name="s"), table, images)


def test_label_doubt_is_read_where_the_review_wrote_it_and_a_foreign_table_is_named(tmp_path):
    study = SimpleNamespace(folder=tmp_path, folder_of=lambda task: tmp_path / "runs" / task)
    assert read_doubts(study) is None
    file = tmp_path / "runs" / "09_label_review" / "doubt.csv"
    file.parent.mkdir(parents=True)
    reviewed = pd.DataFrame({"patch": ["a", "007"], "doubt": [0.9, float("nan")], "kind": "x"})
    reviewed.to_csv(file, index=False)
    table = read_doubts(study)
    assert table["patch"].tolist() == ["a", "007"]
    assert list(table) == ["patch", "doubt"]
    file.write_text("patch,reason\na,b\n")
    with pytest.raises(ValueError, match="has no column doubt"):
        read_doubts(study)


def test_without_a_network_the_second_panel_shows_dab(source):
    state = source.opening_state()
    assert state["network"] == ""
    assert [panel["shows"] for panel in state["panels"]] == ["original", "dab"]
    assert state["selected"] == 1


def test_an_image_comes_from_the_store_and_at_another_side_few_are_kept(source, monkeypatch):
    decoded = []

    def decode(file, side_px):
        decoded.append(side_px)
        return np.zeros((3, side_px, side_px), np.uint8), None

    monkeypatch.setattr(source_module.store, "decode_patch", decode)
    assert source._image(0, 64).shape == (3, 64, 64)
    assert decoded == []
    for side_px in (*range(10, 20), 19):
        source._image(0, side_px)
    assert decoded == list(range(10, 20))
    assert len(source.decoded) == source_module.DECODED


def test_a_file_that_is_no_patch_is_refused_and_not_kept(source):
    with pytest.raises(Exception, match="image"):
        source.add_patch("x.png", b"no image")
    assert source.added_files == []
