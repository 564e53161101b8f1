"""What every notebook starts from: rows and patches in one order, whatever was left out."""

import numpy as np
import pytest
from PIL import Image

from her2lib import files
from her2lib.data.images import DataError
from her2lib.study import cohort, config, fingerprints


def image(file, seed):
    """Path of a 64 px PNG of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        file
    )
    return file


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Study of 40 patches on 10 slides and 4 external ones."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    rows = []
    for i in range(40):
        image(tmp_path / "own" / f"p{i}.png", i)
        rows.append(f"p{i}.png,{i % 4},slide{i // 4},{'test' if i >= 32 else 'train'}")
    (tmp_path / "own" / "manifest.csv").write_text("\n".join(["path,score,slide,set", *rows]))
    for i in range(4):
        image(tmp_path / "far" / f"{i}" / f"e{i}.png", 100 + i)
    return lambda **more: config.check_study(
        {
            "data": {
                "source": str(tmp_path / "own" / "manifest.csv"),
                "external": str(tmp_path / "far"),
                **more,
            }
        },
        tmp_path / "mine.toml",
    )


def test_row_i_is_patch_i_and_external_patches_come_last(data):
    prepared = cohort.prepare_cohort(data(), side_px=32, progress=False)
    assert list(prepared.table["name"]) == list(prepared.patches.name)
    assert list(prepared.table["set"][-4:]) == ["external"] * 4
    assert prepared.patches.images.shape == (44, 3, 32, 32)
    assert (
        prepared.table.groupby("slide")["set"].nunique()[lambda sets: sets.index != ""] == 1
    ).all()


def test_only_the_scores_asked_for_are_kept_and_the_rest_is_counted(data):
    prepared = cohort.prepare_cohort(data(scores=["1+", "2+", "3+"]), side_px=32, progress=False)
    assert set(prepared.table["score"]) == {1, 2, 3}
    assert len(prepared.table) == len(prepared.patches) < 44
    assert any(f"{44 - len(prepared.table)} patches" in note for note in prepared.notes)
    with pytest.raises(config.StudyError, match=r"not '4\+'"):
        data(scores=["4+"])


def test_a_damaged_patch_stops_the_study_or_is_left_out_and_named(data, tmp_path):
    file = tmp_path / "own" / "p5.png"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"p5\.png"):
        cohort.prepare_cohort(data(), side_px=32, progress=False)
    prepared = cohort.prepare_cohort(data(skip_bad=True), side_px=32, progress=False)
    assert len(prepared.table) == len(prepared.patches) == 43
    assert list(prepared.table["name"]) == list(prepared.patches.name)
    assert any("p5.png" in file for file in prepared.problems["file"])


def test_official_keeps_the_given_test_set_grouped_cuts_no_slide_random_says_so(data):
    splits = ("official", "grouped", "random")
    table = {
        split: cohort.prepare_cohort(data(), side_px=32, split=split, progress=False)
        for split in splits
    }
    official_test = set(table["official"].table.query("set == 'test'")["slide"])
    assert official_test == {"slide8", "slide9"}
    for split, prepared in table.items():
        cohort_rows = prepared.table[prepared.table["set"] != "external"]
        whole = (cohort_rows.groupby("slide")["set"].nunique() == 1).all()
        assert whole == (split != "random")
        assert (cohort.RANDOM in prepared.notes) == (split == "random")
    assert set(table["grouped"].table.query("set == 'test'")["slide"]) != official_test
    assert not any("No slide is known" in note for note in table["random"].notes)


def test_scores_read_again_take_the_place_of_the_given(data, tmp_path):
    again = tmp_path / "again.csv"
    again.write_text("patch,reread\np0.png,3+\n")
    before, table = (
        cohort.prepare_cohort(data(reread=reread), side_px=32, progress=False).table.set_index(
            "name"
        )
        for reread in ("", str(again))
    )
    assert table["score"]["p0.png"] == 3
    assert table["score"]["p1.png"] == 1
    assert (table["set"] == before["set"]).all()
    assert fingerprints.data_fingerprint(data(reread=str(again))) != fingerprints.data_fingerprint(
        data()
    )
    only = cohort.prepare_cohort(
        data(reread=str(again), scores=["0", "1+"]), side_px=32, progress=False
    )
    assert "p0.png" not in set(only.table["name"])
    assert "e0.png" in set(only.table["name"])
    again.write_text("patch,reread\nnobody.png,3+\n")
    with pytest.raises(DataError, match=r"again\.csv .*'nobody\.png' is unknown"):
        cohort.prepare_cohort(data(reread=str(again)), side_px=32, progress=False)


def test_a_grouped_split_without_slides_uses_recovered_groups(data, tmp_path):
    manifest = tmp_path / "own" / "manifest.csv"
    manifest.write_text(
        manifest.read_text().replace("path,score,slide,set", "path,score,other,other2")
    )
    prepared = cohort.prepare_cohort(data(), side_px=32, split="grouped", progress=False)
    assert "sensitivity analysis, never a patient split" in prepared.notes[0]
    group = cohort.recovered_groups(data(), prepared.table, progress=False)
    in_cohort = (prepared.table["set"] != "external").to_numpy()
    assert prepared.table[in_cohort].groupby(group[in_cohort])["set"].nunique().max() == 1
    assert (prepared.table["slide"] == "").all()
