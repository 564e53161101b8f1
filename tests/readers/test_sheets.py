"""Readings: blinded sheets and back, consensus, untrusted CSVs."""

import shutil

import numpy as np
import pandas as pd
import pytest
from examples import picture

from her2lib import cli, files
from her2lib.data import patches as patches_
from her2lib.data.images import DataError
from her2lib.readers import label_doubt, sheets
from her2lib.stats.agreement import kappa
from her2lib.study import cohort, config

PATCHES = [f"{i:05d}_test_{score}.png" for i, score in enumerate(["0", "1+", "2+", "3+"] * 5)]


@pytest.fixture
def table(tmp_path):
    """A manifest of 20 patches with BCI names, which tell the score."""
    for name in PATCHES:
        (tmp_path / name).write_bytes(name.encode())
    return pd.DataFrame({"name": PATCHES, "path": [str(tmp_path / name) for name in PATCHES]})


def test_majority_and_median_by_hand():
    ratings = np.array(
        [[1, 1, 2], [0, 1, 3], [3, 3, -1], [1, 2, -1], [-1, -1, -1], [2, -1, -1], [0, 3, 3]]
    )
    settled, notes = sheets.consensus(ratings)
    assert settled.tolist() == [1, -1, 3, -1, -1, 2, 3]
    assert notes == [
        "1 of 7 patches were read by nobody: they have no consensus.",
        "2 of 7 patches are tied by majority: a joint reading can settle them.",
    ]
    settled, notes = sheets.consensus(ratings, how="median")
    assert settled.tolist() == [1, 1, 3, -1, -1, 2, 3]
    assert "1 of 7 patches are tied by median" in notes[1]
    assert sheets.consensus(ratings[[0, 5]])[1] == []
    with pytest.raises(ValueError, match="majority or median, not 'mean'"):
        sheets.consensus(ratings, how="mean")


def test_leaving_a_rater_out_takes_away_what_was_built_in():
    random = np.random.default_rng(0)
    ratings = random.integers(0, 4, (2000, 3))  # raters who only guess
    with_himself = sheets.consensus(ratings, how="median")[0]
    without = sheets.leave_one_out(ratings, how="median")
    assert without.shape == (2000, 3)
    assert kappa(ratings[:, 0], with_himself, weights="quadratic") > 0.3
    assert abs(kappa(ratings[:, 0], without[:, 0], weights="quadratic")) < 0.1
    with pytest.raises(ValueError, match="needs two raters"):
        sheets.leave_one_out(ratings[:, :1])


def test_both_forms_of_a_rating_csv_give_the_same_readings(tmp_path):
    wide = tmp_path / "wide.csv"
    tidy = tmp_path / "tidy.csv"
    wide.write_text("\ufeffpatch;P1;rater_Dr. Ö\na;1+;2\nb;0;\n", encoding="utf-8")
    tidy.write_text("patch,rater,score\na,P1,1\nb,P1,0\na,Dr. Ö,2+\n", encoding="utf-8")
    ratings = []
    for file in (wide, tidy):
        table, problems = sheets.read_ratings(file, patches=["a", "b", "c"])
        assert problems == []
        ratings.append(table.sort_values(["rater", "patch"], ignore_index=True))
    pd.testing.assert_frame_equal(*ratings)
    matrix, raters, patches = sheets.wide_ratings(ratings[0], patches=["c", "b", "a"])
    assert matrix.tolist() == [[-1, -1], [-1, 0], [2, 1]]
    assert raters == ["Dr. Ö", "P1"]
    assert patches == ["c", "b", "a"]


def test_each_bad_reading_gets_a_sentence_and_the_rest_is_kept(tmp_path):
    file = tmp_path / "r.csv"
    file.write_text(
        "patch,rater,reading,score\na,P1,1,1+\nz,P1,1,2+\na,P1,1,3+\nb,P1,1,4+\n"
        "b,P2,x,1\nb,P2,1,2\na,P1,2,1\n,P1,1,1\n",
        encoding="utf-8",
    )
    ratings, problems = sheets.read_ratings(file, patches=["a", "b"])
    assert ratings.values.tolist() == [["a", "P1", 1, 1], ["b", "P2", 1, 2], ["a", "P1", 2, 1]]
    assert len(ratings) + len(problems) == 8  # nothing is lost
    for line, sentence in (
        (3, "'z' is not in the manifest"),
        (4, "1+ is kept, this is 3+"),
        (5, "'4+' is not a HER2 score"),
        (6, "'x'"),
        (9, "'' is not in the manifest"),
    ):
        of_line = [problem for problem in problems if f"line {line}," in problem]
        assert sum(sentence in problem for problem in of_line) == 1, sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("patch,P1,p1\na,1,2\n", "two columns are named 'p1'"),
        ("name,P1\na,1\n", "name the column of patch names 'patch'"),
        ("", "not a CSV"),
        ("patch,P1\na,1\nb,1,2,3\n", "not a CSV"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "r.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"r\.csv") as raised:
        sheets.read_ratings(file, patches=["a"])
    assert sentence in str(raised.value)
    file.write_bytes(b"patch,P1\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="UTF-8"):
        sheets.read_ratings(file, patches=["a"])


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
        assert (folder / "images" / f"{code}.png").read_bytes() == patch.encode()
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
            sheet.loc[0, "score"] = "?"
            sheet.loc[len(sheet)] = ["99", "", "1+", "an extra row"]
        sheet.to_csv(file, index=False)
    ratings, problems = sheets.gather_sheets(folder)
    assert len(ratings) == 2 * 30 - 1
    assert len(problems) == 2
    assert "'99' was not given to B" in problems[0]
    assert "'?' is not a HER2 score" in problems[1]
    of_rater = ratings[ratings.rater == "A"].set_index("patch")
    first = of_rater[of_rater.reading == 1].score
    again = of_rater[of_rater.reading == 2].score
    # intra-rater
    assert kappa(first[again.index].to_numpy(), again.to_numpy(), weights="quadratic") == 1
    merged, _ = sheets.merge_readings(table, ratings)
    truth = np.array([0, 1, 2, 3] * 5)
    assert merged.rater_A.tolist() == merged.consensus.tolist() == truth.tolist()
    merged, notes = sheets.merge_readings(table, ratings, settled={PATCHES[0]: 3})
    assert merged.consensus.tolist() == [3] + [-1] * 19
    assert notes == ["The consensus is as given; it lacks 19 of 20 patches."]
    (folder / "A" / "sheet.csv").unlink()
    ratings, problems = sheets.gather_sheets(folder)
    assert set(ratings.rater) == {"B"}
    assert "The sheet of A is missing" in problems[0]


def test_disagreements_for_the_gallery():
    table = sheets.disagreements(
        np.array([[1, 1, 1], [0, 3, -1], [1, 2, 2], [-1, -1, -1], [2, -1, -1]]), list("abcde")
    )
    assert table.patch.tolist() == ["b", "c"]
    assert table.spread.tolist() == [3, 1]
    assert table.scores.tolist() == ["0 3+ ?", "1+ 2+ 2+"]


@pytest.fixture
def manifest(tmp_path):
    """manifest.csv of eight patches, with a column of the user's own."""
    rows = []
    for i in range(8):
        picture(tmp_path / f"p{i}.png", i, side_px=64)
        rows.append(f"p{i}.png,{i % 4},mine{i}")
    (tmp_path / "manifest.csv").write_text("\n".join(["path,score,stored", *rows]) + "\n")
    return tmp_path / "manifest.csv"


def her2(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out + output.err


def fill(folder, scores):
    """Fills every reader's sheet with scores by patch."""
    key = pd.read_csv(folder / "key.csv", dtype=str).set_index("code")
    for sheet in folder.glob("*/sheet.csv"):
        rows = pd.read_csv(sheet, dtype=str, keep_default_na=False)
        rows["score"] = [scores[key.patch[code]] for code in rows.code]
        rows.to_csv(sheet, index=False)


def test_from_sheets_to_the_manifest_by_two_commands(capsys, tmp_path, manifest):
    options = ["--readers", "A", "B", "--repeats", "0.25"]
    code, output = her2(capsys, "sheet", manifest, *options, "--into", tmp_path / "out")
    assert code == 0, output
    page = (tmp_path / "out" / "A" / "sheet.html").read_text(encoding="utf-8")
    assert "p0" not in page
    assert page.count("images/") == 10
    assert "http" not in page.replace("http-equiv", "")
    fill(tmp_path / "out", {f"p{i}.png": "3+" for i in range(8)})
    code, output = her2(capsys, "consensus", tmp_path / "out", "--into", manifest)
    assert code == 0, output
    # twice is once
    assert her2(capsys, "consensus", tmp_path / "out", "--into", manifest)[0] == 0
    table = pd.read_csv(manifest, dtype=str)
    assert table["score"].tolist() == ["3+"] * 8
    assert table["score_given"].tolist() == [str(i % 4) for i in range(8)]
    assert table["stored"].tolist() == [f"mine{i}" for i in range(8)]
    read, problems = patches_.read_table(manifest)
    assert read[["rater_a", "rater_b", "score"]].eq(3).all(axis=None)
    assert problems.empty


def test_bad_readings_are_one_sentence_each_and_the_rest_is_kept(capsys, tmp_path, manifest):
    (tmp_path / "r.csv").write_text(
        "patch,rater,score\np0.png,A,1+\nzz.png,A,1\np0.png,A,2\np1.png,A,5\np2.png,A,2+\n"
    )
    code, output = her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)
    assert code == 1
    sentences = ("'zz.png' is not in the manifest", "scored before", "'5' is not a HER2 score")
    for sentence in sentences:
        assert sum(sentence in line for line in output.splitlines()) == 1
    scores = pd.read_csv(manifest, dtype=str)["score"]
    assert scores.tolist() == ["1+", "1", "2+", *"30123"]


def test_two_readers_with_one_name_and_other_readings_leave_the_manifest_alone(
    capsys, tmp_path, manifest
):
    before = manifest.read_bytes()
    for name in ("r", "s"):
        (tmp_path / f"{name}.csv").write_text("patch,rater,score\np0.png,A,1+\n")
    code, output = her2(
        capsys, "consensus", tmp_path / "r.csv", tmp_path / "s.csv", "--into", manifest
    )
    assert code == 2
    assert "Two readers have one name" in output
    assert manifest.read_bytes() == before
    assert her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)[0] == 0
    before = manifest.read_bytes()
    (tmp_path / "s.csv").write_text("patch,rater,score\np0.png,A,3+\n")
    code, output = her2(capsys, "consensus", tmp_path / "s.csv", "--into", manifest)
    assert code == 2
    assert "other readings by 'A' of 1 patches" in output
    assert manifest.read_bytes() == before


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

    fill(first, {"p00.png": "0", "p01.png": "1+", "p02.png": "2+", "p03.png": "3+"})
    sheet = pd.read_csv(first / "B" / "sheet.csv", dtype=str, keep_default_na=False)
    key = pd.read_csv(first / "key.csv", dtype=str).set_index("code")
    sheet.loc[(key.patch[sheet["code"]] == "p01.png").to_numpy(), "score"] = "2+"
    sheet.to_csv(first / "B" / "sheet.csv", index=False)
    # A and B meet halfway on p01, which keeps its score
    assert kappa_after_reading(doubtful) == pytest.approx(29 / 30)

    second = sheets.write_sheets(table.iloc[1:3], reading / "two", readers=readers, repeats=0)
    fill(second, {"p01.png": "1+", "p02.png": "2+"})
    # the later round settles it, the other patches keep the first
    assert kappa_after_reading(doubtful) == 1


def test_a_sheet_of_another_round_is_named(doubtful):
    table = cohort_table(doubtful)
    reading = doubtful / "reading"
    first = sheets.write_sheets(table.iloc[:4], reading / "one", readers=["A", "B"], repeats=0)
    second = sheets.write_sheets(table.iloc[1:3], reading / "two", readers=["A", "B"], repeats=0)
    fill(second, {"p01.png": "1+", "p02.png": "2+"})
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
