"""What every notebook starts from: rows and patches in one order, whatever was left out."""

import pytest
from examples import picture, pictures

from her2lib import files
from her2lib.files import DataError
from her2lib.scores import SCORES
from her2lib.study import cohort, config, fingerprints


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Study of 40 patches on 10 slides and 4 external ones."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    rows = []
    for i in range(40):
        picture(tmp_path / "own" / f"p{i}.png", i, side_px=64)
        rows.append(f"p{i}.png,{i % 4},slide{i // 4},{'test' if i >= 32 else 'train'}")
    (tmp_path / "own" / "manifest.csv").write_text("\n".join(["path,score,slide,set", *rows]))
    for i in range(4):
        picture(tmp_path / "far" / SCORES[i] / f"e{i}.png", 100 + i, side_px=64)
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


def test_page_one_says_as_what_each_folder_was_read_and_what_was_left_aside(data, tmp_path):
    (tmp_path / "far" / "Thumbs.db").write_bytes(b"x")
    notes = cohort.prepare_cohort(data(), side_px=32, progress=False).notes
    assert any(note.startswith("Read as a table of patches (manifest.csv)") for note in notes)
    assert "40 rows are written: 40 read, 0 refused, 0 left aside." in notes
    assert any(note.startswith("External set: Read as folders named by score") for note in notes)
    assert "External set: 5 files lie there: 4 read, 0 refused, 1 left aside." in notes


def test_what_is_stated_of_the_cohort_is_not_forced_on_the_external_set(data):
    stated = data(layout="manifest", mpp=0.5)
    own, external = cohort.read_sources(stated, progress=False)
    assert (own.layout.name, external.layout.name) == ("manifest", "folders")
    assert (own.table["mpp"] == 0.5).all()
    assert external.table["mpp"].isna().all()


def test_the_same_files_read_in_another_way_are_other_data(data):
    assert fingerprints.data_fingerprint(data()) != fingerprints.data_fingerprint(data(mpp=0.5))


def test_what_can_be_read_in_two_ways_stops_the_study_until_its_file_says(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    folders = [f"{a}/{b}/x.png" for a in (1, 2) for b in (0, 1)]
    pictures(tmp_path / "numbers", *folders)

    def study(**more):
        tables = {"data": {"source": str(tmp_path / "numbers"), **more}}
        return config.check_study(tables, tmp_path / "mine.toml")

    with pytest.raises(DataError, match="two ways"):
        cohort.read_sources(study(), progress=False)
    (source,) = cohort.read_sources(study(score_from="folder1"), progress=False)
    assert list(source.table["score"]) == [0, 1, 0, 1]


def test_a_reread_score_that_is_none_is_named_by_its_cell(data, tmp_path):
    again = tmp_path / "again.csv"
    again.write_text("patch,reread\np0.png,4+\n")
    with pytest.raises(DataError, match=r"again\.csv row 2, column 'reread': '4\+' is not"):
        cohort.prepare_cohort(data(reread=str(again)), side_px=32, progress=False)
    again.write_text("patch,reread\np0.png,n/a\np1.png,HER2 3+\n")
    table = cohort.prepare_cohort(data(reread=str(again)), side_px=32, progress=False).table
    scores = table.set_index("name")["score"]
    assert (scores["p0.png"], scores["p1.png"]) == (0, 3)


def test_what_the_external_set_lacks_is_said_with_a_remedy_that_works(data, tmp_path):
    for file in (tmp_path / "far").rglob("*.png"):
        file.rename(tmp_path / "far" / file.name)
    with pytest.raises(DataError, match=r"no flag speaks of: bring it as a manifest\.csv"):
        cohort.read_sources(data(), progress=False)
    rows = [f"e{i}.png," for i in range(4)]
    (tmp_path / "far" / "manifest.csv").write_text("\n".join(["path,score", *rows]))
    study = data()
    notes = cohort.reading_notes(study, cohort.read_sources(study, progress=False))
    assert notes[-1] == "External set: no patch has a score, so nothing is tested on it."


def test_a_study_is_never_trained_on_its_external_set(data, tmp_path):
    study = data(external=str(tmp_path / "own" / "manifest.csv"))
    with pytest.raises(DataError, match="40 patches of the study stand in its external set"):
        cohort.read_sources(study, progress=False)


def test_reread_patches_may_stand_under_image_and_a_wrong_name_gets_the_right_one(data, tmp_path):
    (tmp_path / "again.csv").write_text("image,reread\np0.png,3+\n")
    study = data(reread=str(tmp_path / "again.csv"))
    table = cohort.prepare_cohort(study, side_px=32, progress=False).table
    assert table.set_index("name")["score"]["p0.png"] == 3
    (tmp_path / "again.csv").write_text("image,reread\np0,3+\n")
    with pytest.raises(DataError, match=r"Perhaps 'p0\.png' is meant"):
        cohort.prepare_cohort(study, side_px=32, progress=False)
