"""Tables of cut slides: what people typed stays, whatever is added, in their program's dialect."""

import codecs
import os
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from her2lib.files import DataError
from her2lib.intake import manifests
from her2lib.intake.text_tables import read_text_table
from her2lib.slides import tile_tables

OLD = f"manifest.before-{date.today().isoformat()}.csv"


def cut(slide, n=3, *, skipped=1, enlarged=1.0, mpp=0.46):
    """(facts, fields) of a slide cut into n patches; skipped fields lie behind them."""
    n_all = n + skipped
    fields = pd.DataFrame(
        {
            "x": np.arange(n_all) * 100,
            "y": 0,
            "tissue": 0.5,
            "reason": [""] * n + ["blank"] * skipped,
            "dab": 0.125,
            "sharpness": 0.6,
            "eosin": 0.0,
        }
    )
    facts = dict.fromkeys(tile_tables.FACTS, 0)
    facts |= {"slide": slide, "file": f"slides/{slide}.tif", "mpp": mpp, "enlarged": enlarged}
    return facts | {"patches": n}, fields


def write(folder, *tiled, patients=None):
    """(manifest, sentences) of a call that cut these slides into a folder."""
    earlier = tile_tables.read_earlier(folder)
    patients = patients or {}
    tile_tables.check_patients(earlier, patients)
    return tile_tables.write_tables(earlier, tiled, patients)


def cells(folder, name="manifest"):
    return read_text_table(folder / f"{name}.csv").cells


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def edit(folder, change):
    """Applies change to the manifest as a person would in a plain text editor."""
    file = folder / "manifest.csv"
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    change(table).to_csv(file, index=False)


def test_the_first_call_writes_three_tables_with_numbers(tmp_path):
    manifest, sentences = write(tmp_path, cut("S0"), patients={"S0": "P1"})
    assert sentences == []
    assert list(manifest) == tile_tables.MANIFEST
    assert manifest.path[1] == "S0/S0_x000100_y000000.png"
    assert manifest.x.tolist() == [0, 100, 200]
    assert set(manifest.patient) == {"P1"}
    written = pd.read_csv(tmp_path / "manifest.csv", keep_default_na=False)
    assert written.mpp.tolist() == [0.46] * 3
    skipped = pd.read_csv(tmp_path / "skipped.csv")
    assert skipped.values.tolist()[0][:4] == ["S0", 300, 0, "blank"]
    assert pd.read_csv(tmp_path / "slides.csv").file.tolist() == ["slides/S0.tif"]


def test_the_same_call_again_changes_no_byte(tmp_path):
    write(tmp_path, cut("S0"), cut("S1"))
    before = contents(tmp_path)
    again, sentences = write(tmp_path, cut("S0"), cut("S1"))
    assert contents(tmp_path) == before
    assert sentences == []
    assert len(again) == 6


def test_case_16_what_people_typed_is_kept_when_a_slide_is_added(tmp_path):
    write(tmp_path, cut("S0"))
    typed = {
        "score": ["3+", "", "0"],
        "rater_anna": ["3+", "2+", "0"],
        "remark": ["fold, at the edge", "", "α"],
        "patient": ["P7"] * 3,
    }
    edit(tmp_path, lambda table: table.assign(**typed))
    by_people = (tmp_path / "manifest.csv").read_bytes()
    manifest, sentences = write(tmp_path, cut("S0"), cut("S1", n=2))
    written = cells(tmp_path)
    for column, texts in typed.items():
        assert written[column].tolist() == [*texts, "", ""]
    assert written.slide.tolist() == ["S0"] * 3 + ["S1"] * 2
    assert manifest.remark.tolist() == [*typed["remark"], "", ""]
    assert (tmp_path / OLD).read_bytes() == by_people
    assert sentences[-1].startswith("Added to the 3 rows of")
    assert OLD in sentences[-1]
    # and once more, with the new slide alone
    before = contents(tmp_path)
    write(tmp_path, cut("S1", n=2))
    assert contents(tmp_path)["manifest.csv"] == before["manifest.csv"]


def test_case_15_a_german_excel_keeps_its_dialect_and_its_columns(tmp_path):
    write(tmp_path, cut("S0"))
    table = cells(tmp_path).assign(score="2+", Bemerkung="gut; sicher")
    for column in ("mpp", "tissue", "dab", "sharpness"):
        table[column] = table[column].str.replace(".", ",")
    text = table.to_csv(index=False, sep=";", lineterminator="\r\n")
    (tmp_path / "manifest.csv").write_bytes(codecs.BOM_UTF8 + text.encode())
    before = contents(tmp_path)
    write(tmp_path, cut("S0"))
    assert contents(tmp_path) == before
    manifest, _ = write(tmp_path, cut("S0"), cut("S1"))
    raw = (tmp_path / "manifest.csv").read_bytes()
    assert raw.startswith(codecs.BOM_UTF8 + b"path;score;")
    assert b"0.46" not in raw
    written = cells(tmp_path)
    assert written["Bemerkung"].tolist() == ["gut; sicher"] * 3 + [""] * 3
    assert written.score.tolist() == ["2+"] * 3 + [""] * 3
    assert written.mpp.tolist() == ["0,46"] * 6
    assert manifest.mpp.tolist() == [0.46] * 6
    assert manifest.dab.tolist() == [0.125] * 6


def test_measures_are_put_right_and_a_typed_mpp_stays(tmp_path):
    write(tmp_path, cut("S0"))
    edit(tmp_path, lambda table: table.assign(dab=["01. Mai", "", "0.125"], mpp="0.5"))
    manifest, _ = write(tmp_path, cut("S0"))
    assert manifest.dab.tolist() == [0.125] * 3
    assert set(manifest.mpp) == {0.5}


@pytest.mark.parametrize("form", ["backslashes", "absolute", "dotted"])
def test_a_path_written_otherwise_is_the_same_patch(tmp_path, form):
    write(tmp_path, cut("S0"))
    forms = {
        "backslashes": lambda path: path.replace("/", "\\"),
        "absolute": lambda path: os.path.join(os.path.abspath(tmp_path), path),
        "dotted": lambda path: f"./{path}",
    }
    edit(tmp_path, lambda table: table.assign(path=table.path.map(forms[form]), score="1+"))
    write(tmp_path, cut("S0"), cut("S1"))
    assert cells(tmp_path).score.tolist() == ["1+"] * 3 + [""] * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.assign(path=t.path.str.replace("x0001", "x9991")), "1 row of .* row 3, S0/"),
        (lambda t: pd.concat([t, t.head(1)]), "Rows 2 and 5 of .* name the same patch"),
        (lambda t: t.rename(columns={"path": "Pfad"}), "has no column 'path'"),
    ],
)
def test_rows_that_match_no_more_are_refused_and_the_table_stays(tmp_path, change, says):
    write(tmp_path, cut("S0"))
    edit(tmp_path, change)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=says):
        write(tmp_path, cut("S0"), cut("S1"))
    assert contents(tmp_path) == before


def test_columns_that_people_renamed_are_the_same_columns(tmp_path):
    write(tmp_path, cut("S0"))
    heading = {"path": "Image", "slide": "Slide ID", "score": "HER2 score"}
    edit(tmp_path, lambda table: table.assign(score="1+").rename(columns=heading))
    write(tmp_path, cut("S0"), cut("S1"))
    assert (tmp_path / "manifest.csv").read_text().startswith("Image,HER2 score,Slide ID,patient,")
    assert cells(tmp_path).score.tolist() == ["1+"] * 3 + [""] * 3


def test_rows_that_people_deleted_stay_away_and_a_whole_slide_comes_back(tmp_path):
    write(tmp_path, cut("S0"), cut("S1"))
    edit(tmp_path, lambda table: table[table.slide == "S0"].tail(2))
    manifest, sentences = write(tmp_path, cut("S0"), cut("S1"))
    assert manifest.groupby("slide").size().to_dict() == {"S0": 2, "S1": 3}
    assert sentences[0].startswith(
        "Rows that were deleted from the manifest stay out of it, of 1 patch"
    )
    assert "S0/S0_x000000_y000000.png" in sentences[0]


def test_a_field_that_was_left_out_before_comes_in_when_it_is_cut(tmp_path):
    write(tmp_path, cut("S0", n=2, skipped=2))
    manifest, sentences = write(tmp_path, cut("S0", n=3, skipped=1))
    assert len(manifest) == 3
    assert "Added to the 2 rows of" in sentences[0]
    assert len(cells(tmp_path, "skipped")) == 1


def test_a_photograph_listed_beside_the_tiles_stays(tmp_path):
    write(tmp_path, cut("S0"))
    (tmp_path / "photo.png").write_bytes(b"x")
    photo = {"path": "photo.png", "score": "3+"}
    edit(tmp_path, lambda t: pd.concat([t, pd.DataFrame([photo])]).fillna(""))
    manifest, _ = write(tmp_path, cut("S0"), cut("S1"))
    assert len(manifest) == 6
    assert cells(tmp_path).path.tolist().count("photo.png") == 1


def test_columns_added_to_slides_stay_too(tmp_path):
    write(tmp_path, cut("S0"))
    file = tmp_path / "slides.csv"
    table = pd.read_csv(file).assign(scanner="GT450")
    table.to_csv(file, index=False, sep=";")
    write(tmp_path, cut("S0"), cut("S1"))
    written = pd.read_csv(file, keep_default_na=False)
    assert written.scanner.tolist() == ["GT450", ""]
    assert written.file.tolist() == ["slides/S0.tif", "slides/S1.tif"]


# --- patients -------------------------------------------------------------------------------------


def test_patients_come_from_a_table_of_any_dialect(tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_bytes("Slide ID;Patient\r\none;P7\r\ntwo.svs;Pä\r\n;\r\n".encode("utf-16"))
    assert tile_tables.read_patients(csv) == {"one": "P7", "two.svs": "Pä"}
    assert tile_tables.read_patients(None) == {}
    csv.write_text("slide,patient\none,P7\none,P7\n")
    assert tile_tables.read_patients(csv) == {"one": "P7"}
    csv.write_text("slide,patient\none,P7\none,P8\n")
    with pytest.raises(DataError, match="one row for each slide"):
        tile_tables.read_patients(csv)
    csv.write_text("slide,age\none,7\n")
    with pytest.raises(DataError, match="no column 'patient'"):
        tile_tables.read_patients(csv)


NAMES = {Path("a/TCGA-1.0B.svs"): "TCGA-1.0B", Path("S1.tif"): "S1", Path("S2.tif"): "S2"}


def test_case_39_slides_without_a_patient_and_rows_without_a_slide_are_named():
    patients = {"TCGA-1": "P1", "S1.tif": "P2", "S9": "P9"}
    patient_of, notes, problems = tile_tables.match_patients(patients, NAMES)
    assert patient_of == {"TCGA-1.0B": "P1", "S1": "P2"}
    assert notes == [
        "The patient is known of 2 of 3 slides. Without one: 1 (S2).",
        "No slide here is named by 1 of 3 rows of the table of patients: S9.",
    ]
    assert problems == []


def test_patients_that_cannot_be_matched_are_a_sentence():
    says = r"No slide in the table of patients \(1 row\) .* names X, there are S1, S2"
    with pytest.raises(DataError, match=says):
        tile_tables.match_patients({"X": "P1"}, NAMES)
    with pytest.raises(DataError, match="mean slide S1, with the patients P1 and P2"):
        tile_tables.match_patients({"S1": "P1", "S1.tif": "P2"}, NAMES)
    names = {Path("a/S0.tif"): "a_S0", Path("b/S0.tif"): "b_S0"}
    _, _, problems = tile_tables.match_patients({"S0": "P1"}, names)
    assert problems[0].startswith("'S0' in the table of patients could mean a_S0 or b_S0")


def test_a_typed_patient_is_filled_in_and_never_overwritten(tmp_path):
    write(tmp_path, cut("S0"), cut("S1"))
    edit(tmp_path, lambda table: table.assign(patient=["P1"] * 3 + [""] * 3))
    write(tmp_path, cut("S1"), patients={"S0": "P1", "S1": "P2"})
    assert cells(tmp_path).patient.tolist() == ["P1"] * 3 + ["P2"] * 3
    with pytest.raises(DataError, match=r"Slide S1 has patient P2 in .* \(row 5\) and P3"):
        write(tmp_path, cut("S1"), patients={"S1": "P3"})


# --- enlarged -------------------------------------------------------------------------------------


def test_case_19_enlarged_patches_are_marked_and_a_note_counts_them(tmp_path):
    write(tmp_path, cut("S0"))
    assert "enlarged" not in cells(tmp_path)
    assert manifests.read_manifest(tmp_path / "manifest.csv")[3] == []
    write(tmp_path, cut("S0"), cut("S1", n=2, enlarged=1.957))
    assert cells(tmp_path).enlarged.tolist() == ["", "", "", "1.957", "1.957"]
    notes = manifests.read_manifest(tmp_path / "manifest.csv")[3]
    assert notes[0].startswith("2 of 5 patches were enlarged up to 1.96 times")
