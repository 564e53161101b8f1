"""Blinded sheets go out, and come back as people save them."""

import shutil

import numpy as np
import pandas as pd
import pytest
from examples import fill_sheets, picture

from her2lib import files
from her2lib.files import DataError
from her2lib.readers import label_doubt, sheets, votes
from her2lib.stats.agreement import kappa
from her2lib.study import cohort, config

PATCHES = [f"{i:05d}_test_{score}.png" for i, score in enumerate(["0", "1+", "2+", "3+"] * 5)]


@pytest.fixture
def table(tmp_path):
    """A manifest of 20 patches with BCI names, which tell the score."""
    for number, name in enumerate(PATCHES):
        picture(tmp_path / name, number, side_px=32)
    return pd.DataFrame({"name": PATCHES, "path": [str(tmp_path / name) for name in PATCHES]})


def test_sheets_are_blind_shuffled_and_repeat_patches(table, tmp_path):
    folder = sheets.write_sheets(
        table, tmp_path / "out", readers=["Dr. A", "B/../C"], repeats=0.25, seed=1
    )
    key = pd.read_csv(folder / "key.csv", dtype=str)
    assert len(key) == 2 * 25
    assert key.code.is_unique
    orders = []
    for name, reader in (("Dr__A", "Dr. A"), ("B____C", "B/../C")):
        key_of_reader = key[key.rater == reader].set_index("code")
        orders.append(check_sheet(folder / name, key_of_reader))
    assert PATCHES not in orders
    assert orders[0] != orders[1]
    with pytest.raises(FileExistsError, match="holds sheets already"):
        sheets.write_sheets(table, folder, readers=["D"])
    with pytest.raises(ValueError, match="Two readers have one name"):
        sheets.write_sheets(table, tmp_path / "two", readers=["P 1", "p_1"])


def check_sheet(folder, key):
    """list of str, the patches of one reader's sheet in order, after checks that it is blind."""
    text = (folder / "sheet.csv").read_text(encoding="utf-8")
    # no name, so no score
    assert "+" not in text
    sheet = pd.read_csv(folder / "sheet.csv", dtype=str, keep_default_na=False)
    assert list(sheet.columns) == ["code", "image", "score", "remark"]
    images = sorted((folder / "images").iterdir())
    assert [image.name for image in images] == sorted(f"{code}.png" for code in sheet.code)
    assert not any(image.is_symlink() for image in images)
    key = key.loc[sheet.code]
    first = key[key.reading == "1"]
    assert first.patch.is_unique
    assert (key.reading == "2").sum() == 5
    for code, patch in key.patch.items():
        original = folder.parent.parent / patch
        assert (folder / "images" / f"{code}.png").read_bytes() == original.read_bytes()
    return first.patch.tolist()


def test_filled_sheets_come_back_into_the_manifest(table, tmp_path):
    folder = sheets.write_sheets(table, tmp_path / "out", readers=["A", "B"], repeats=0.5, seed=2)
    key = pd.read_csv(folder / "key.csv", dtype=str).set_index("code")
    for reader in "AB":
        file = folder / reader / "sheet.csv"
        sheet = pd.read_csv(file, dtype=str, keep_default_na=False)
        names = [key.patch[code].removesuffix(".png") for code in sheet.code]
        sheet["score"] = [name.split("_")[-1] for name in names]
        if reader == "B":
            sheet.loc[0, "score"] = "4+"
            sheet.loc[1, "score"] = "?"
            sheet.loc[len(sheet)] = ["99", "", "1+", "an extra row"]
        sheet.to_csv(file, index=False)
    ratings, problems = sheets.gather_sheets(folder)
    # one that is no score, one that says it was not read
    assert len(ratings) == 2 * 30 - 2
    assert len(problems) == 2
    assert "'99' was not given to B" in problems[0]
    assert "'4+' is not a HER2 score" in problems[1]
    of_rater = ratings[ratings.rater == "A"].set_index("patch")
    first = of_rater[of_rater.reading == 1].score
    again = of_rater[of_rater.reading == 2].score
    # intra-rater
    assert kappa(first[again.index].to_numpy(), again.to_numpy(), weights="quadratic") == 1
    merged, _ = votes.merge_readings(table, ratings)
    truth = np.array([0, 1, 2, 3] * 5)
    assert merged.rater_A.tolist() == merged.consensus.tolist() == truth.tolist()
    merged, notes = votes.merge_readings(table, ratings, settled={PATCHES[0]: 3})
    assert merged.consensus.tolist() == [3] + [-1] * 19
    assert notes == ["The consensus is as given; it lacks 19 of 20 patches."]
    (folder / "A" / "sheet.csv").unlink()
    ratings, problems = sheets.gather_sheets(folder)
    assert set(ratings.rater) == {"B"}
    assert "The sheet of A cannot be read: it is missing, put it back" in problems[0]


def save_as(folder, reader, name, sheet, **options):
    """Writes a filled sheet as a program would save it, in place of the sheet.csv handed out."""
    (folder / reader / "sheet.csv").unlink()
    file = folder / reader / name
    if file.suffix == ".xlsx":
        sheet.to_excel(file, index=False)
    else:
        file.write_bytes(sheet.to_csv(index=False, sep=options["sep"]).encode(options["encoding"]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sheet.csv", {"sep": ";", "encoding": "utf-8-sig"}),
        ("sheet.csv", {"sep": ",", "encoding": "utf-8"}),
        ("sheet.txt", {"sep": "\t", "encoding": "utf-16"}),
        ("sheet.xlsx", {}),
    ],
)
def test_case_11_a_sheet_comes_back_from_any_program_with_empty_cells(
    table, tmp_path, name, options
):
    folder = sheets.write_sheets(table, tmp_path / "out", readers=["A"], repeats=0)
    sheet = pd.read_csv(folder / "A" / "sheet.csv", dtype=str, keep_default_na=False)
    sheet.loc[:4, "score"] = ["2+", "1 +", "=3+", "0", "n/a"]
    sheet.loc[0, "remark"] = "half of it is blurred, 1+?"
    sheet = sheet.set_axis(["Code", "Image", "Score", "Remark"], axis=1)
    # Excel and pandas make numbers of codes.
    sheet["Code"] = sheet["Code"] + ".0"
    save_as(folder, "A", name, sheet, **options)
    ratings, problems = sheets.gather_sheets(folder)
    assert problems == []
    assert ratings["score"].tolist() == [2, 1, 3, 0]


def test_of_two_saved_sheets_the_filled_one_counts_and_two_filled_are_a_sentence(table, tmp_path):
    folder = sheets.write_sheets(table, tmp_path / "out", readers=["A"], repeats=0)
    sheet = pd.read_csv(folder / "A" / "sheet.csv", dtype=str, keep_default_na=False)
    sheet["score"] = "1+"
    sheet.to_excel(folder / "A" / "sheet.xlsx", index=False)
    ratings, problems = sheets.gather_sheets(folder)
    assert (len(ratings), problems) == (20, [])
    sheet.to_csv(folder / "A" / "sheet.csv", index=False)
    ratings, problems = sheets.gather_sheets(folder)
    assert ratings.empty
    assert problems == [
        "The sheet of A cannot be read: sheet.csv and sheet.xlsx are both filled in, leave the "
        "right one."
    ]


def test_a_sheet_that_cannot_be_read_is_named_and_the_others_count(table, tmp_path):
    folder = sheets.write_sheets(table, tmp_path / "out", readers=["A", "B"], repeats=0)
    names = dict.fromkeys(table.name, "negative")
    fill_sheets(folder, names)
    (folder / "A" / "sheet.csv").write_text("codes,scores\n1,2+\n")
    ratings, problems = sheets.gather_sheets(folder, score_words={"negative": "0"})
    assert set(ratings["rater"]) == {"B"}
    assert (ratings["score"] == 0).all()
    assert len(problems) == 1
    assert "The sheet of A cannot be read" in problems[0]
    assert "no column 'code' and no column 'score', only 'codes', 'scores'" in problems[0]
    with pytest.raises(DataError, match=r"holds no key\.csv: name the folder that"):
        sheets.gather_sheets(folder / "B")


@pytest.fixture
def doubtful(tmp_path, monkeypatch):
    """Folder with manifest.csv of 12 patches, two scores written wrong, 3 and 1 steps off."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    rows = []
    for i, score in enumerate([3, 2, 2, 3, *[0, 1, 2, 3] * 2]):
        picture(tmp_path / f"p{i:02}.png", i, side_px=64)
        rows.append(f"p{i:02}.png,{score}")
    (tmp_path / "manifest.csv").write_text("\n".join(["path,score", *rows]) + "\n")
    return tmp_path


def cohort_table(folder, **settings):
    """DataFrame of the cohort of a study of folder's manifest."""
    data = {"source": str(folder / "manifest.csv"), **settings}
    study = config.check_study({"data": data}, folder / "mine.toml")
    return cohort.prepare_cohort(study, side_px=32, progress=False).table


def kappa_with_truth(table):
    """float, quadratic kappa of the scores of 12 patches with 0, 1, 2, 3, 0, 1 …"""
    return kappa(table["score"].to_numpy(), np.array([0, 1, 2, 3] * 3), weights="quadratic")


def kappa_after_reading(folder):
    """float, kappa_with_truth when what the sheets below reading/ settled counts."""
    ratings, _ = sheets.rounds(folder / "reading")
    settled = label_doubt.reread_effect(cohort_table(folder), ratings)
    settled[["patch", "reread"]].to_csv(folder / "reread.csv", index=False)
    return kappa_with_truth(cohort_table(folder, reread=str(folder / "reread.csv")))


def test_what_is_read_again_moves_kappa_as_worked_out_by_hand(doubtful):
    reading = doubtful / "reading"
    table = cohort_table(doubtful)
    assert sheets.rounds(reading)[0].empty
    # sum of squared steps over what chance expects, 12 patches and 3 of each score: (9 + 1) / 30,
    # then 1 / 30, then none
    assert kappa_with_truth(table) == pytest.approx(2 / 3)
    readers = ["A", "B"]
    first = sheets.write_sheets(table.iloc[:4], reading / "one", readers=readers, repeats=0)
    # nothing is filled in yet
    assert kappa_after_reading(doubtful) == pytest.approx(2 / 3)

    fill_sheets(first, {"p00.png": "0", "p01.png": "1+", "p02.png": "2+", "p03.png": "3+"})
    sheet = pd.read_csv(first / "B" / "sheet.csv", dtype=str, keep_default_na=False)
    key = pd.read_csv(first / "key.csv", dtype=str).set_index("code")
    sheet.loc[(key.patch[sheet["code"]] == "p01.png").to_numpy(), "score"] = "2+"
    sheet.to_csv(first / "B" / "sheet.csv", index=False)
    # A and B meet halfway on p01, which keeps its score
    assert kappa_after_reading(doubtful) == pytest.approx(29 / 30)

    second = sheets.write_sheets(table.iloc[1:3], reading / "two", readers=readers, repeats=0)
    fill_sheets(second, {"p01.png": "1+", "p02.png": "2+"})
    # the later round settles it, the other patches keep the first
    assert kappa_after_reading(doubtful) == 1


def test_a_sheet_of_another_round_is_named(doubtful):
    table = cohort_table(doubtful)
    reading = doubtful / "reading"
    first = sheets.write_sheets(table.iloc[:4], reading / "one", readers=["A", "B"], repeats=0)
    second = sheets.write_sheets(table.iloc[1:3], reading / "two", readers=["A", "B"], repeats=0)
    fill_sheets(second, {"p01.png": "1+", "p02.png": "2+"})
    shutil.copy(second / "A" / "sheet.csv", first / "A" / "sheet.csv")
    _, problems = sheets.rounds(reading)
    assert len(problems) == 2
    for problem in problems:
        assert problem.startswith("one: A/sheet.csv line ")
        assert "was not given to A" in problem


def test_a_re_read_patch_that_is_not_there_is_a_sentence(doubtful):
    (doubtful / "reread.csv").write_text("patch,reread\np99.png,1+\n")
    with pytest.raises(DataError, match=r"reread\.csv .*p99\.png"):
        cohort_table(doubtful, reread=str(doubtful / "reread.csv"))
