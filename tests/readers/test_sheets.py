"""Readings: blinded sheets and back, consensus, untrusted CSVs, the ledger of looks."""

import json
import multiprocessing

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from her2lib import cli, files
from her2lib.data import patches as patches_
from her2lib.data.images import DataError
from her2lib.readers import label_doubt, sheets
from her2lib.stats.agreement import SCORED, kappa
from her2lib.study import cohort, config, results

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
    wide, tidy = tmp_path / "wide.csv", tmp_path / "tidy.csv"
    wide.write_text("\ufeffpatch;P1;rater_Dr. Ö\na;1+;2\nb;0;\n", encoding="utf-8")
    tidy.write_text("patch,rater,score\na,P1,1\nb,P1,0\na,Dr. Ö,2+\n", encoding="utf-8")
    one, two = (sheets.read_ratings(file, patches=["a", "b", "c"]) for file in (wide, tidy))
    assert one[1] == two[1] == []
    pd.testing.assert_frame_equal(
        one[0].sort_values(["rater", "patch"], ignore_index=True),
        two[0].sort_values(["rater", "patch"], ignore_index=True),
    )
    matrix, raters, patches = sheets.wide_ratings(one[0], patches=["c", "b", "a"])
    assert (matrix.tolist(), raters, patches) == (
        [[-1, -1], [-1, 0], [2, 1]],
        ["Dr. Ö", "P1"],
        ["c", "b", "a"],
    )


def test_each_bad_reading_gets_a_sentence_and_the_rest_is_kept(tmp_path):
    file = tmp_path / "r.csv"
    file.write_text(
        "patch,rater,reading,score\na,P1,1,1+\nz,P1,1,2+\na,P1,1,3+\nb,P1,1,4+\nb,P2,x,1\nb,P2,1,2\na,P1,2,1\n,P1,1,1\n",
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
        assert (
            sum(f"line {line}," in problem and sentence in problem for problem in problems) == 1
        ), sentence


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
    for place, reader in (("Dr__A", "Dr. A"), ("B____C", "B/../C")):
        sheet = pd.read_csv(folder / place / "sheet.csv", dtype=str, keep_default_na=False)
        assert list(sheet.columns) == ["code", "image", "score", "remark"]
        assert "+" not in (folder / place / "sheet.csv").read_text(
            encoding="utf-8"
        )  # no name, so no score
        images = sorted((folder / place / "images").iterdir())
        assert [image.name for image in images] == sorted(f"{code}.png" for code in sheet.code)
        assert not any(image.is_symlink() for image in images)
        own = key[key.rater == reader].set_index("code").loc[sheet.code]
        assert own[own.reading == "1"].patch.is_unique
        assert (own.reading == "2").sum() == 5
        for code, patch in own.patch.items():
            assert (folder / place / "images" / f"{code}.png").read_bytes() == patch.encode()
        orders.append(own[own.reading == "1"].patch.tolist())
    assert PATCHES not in orders
    assert orders[0] != orders[1]
    with pytest.raises(FileExistsError, match="holds sheets already"):
        sheets.write_sheets(table, folder, readers=["D"])
    with pytest.raises(ValueError, match="Two readers have one name"):
        sheets.write_sheets(table, tmp_path / "two", readers=["P 1", "p_1"])


def test_filled_sheets_come_back_into_the_manifest(table, tmp_path):
    folder = sheets.write_sheets(table, tmp_path / "out", readers=["A", "B"], repeats=0.5, seed=2)
    key = pd.read_csv(folder / "key.csv", dtype=str).set_index("code")
    for place in "AB":
        sheet = pd.read_csv(folder / place / "sheet.csv", dtype=str, keep_default_na=False)
        sheet["score"] = [
            key.patch[code].removesuffix(".png").split("_")[-1] for code in sheet.code
        ]
        if place == "B":
            sheet.loc[0, "score"] = "?"
            sheet.loc[len(sheet)] = ["99", "", "1+", "an extra row"]
        sheet.to_csv(folder / place / "sheet.csv", index=False)
    ratings, problems = sheets.gather_sheets(folder)
    assert len(ratings) == 2 * 30 - 1
    assert len(problems) == 2
    assert "'99' was not given to B" in problems[0]
    assert "'?' is not a HER2 score" in problems[1]
    first, again = (
        ratings[(ratings.rater == "A") & (ratings.reading == n)].set_index("patch").score
        for n in (1, 2)
    )
    assert (
        kappa(first[again.index].to_numpy(), again.to_numpy(), weights="quadratic") == 1
    )  # intra-rater
    merged, _ = sheets.merge_readings(table, ratings)
    truth = np.array([0, 1, 2, 3] * 5)
    assert merged.rater_A.tolist() == merged.consensus.tolist() == truth.tolist()
    given, notes = sheets.merge_readings(table, ratings, given={PATCHES[0]: 3})
    assert given.consensus.tolist() == [3] + [-1] * 19
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


def test_a_second_look_at_the_external_set_is_called_one(tmp_path):
    ledger = tmp_path / "deep" / "ledger.csv"
    assert results.log_look(ledger, run="net", fingerprint="f1", settings={"b": 1, "a": 2})[0] == 1
    assert (
        results.log_look(ledger, run="net", fingerprint="f1", settings={"a": 2, "b": 1})[0] == 1
    )  # the same look again
    number, sentence = results.log_look(ledger, run="net", fingerprint="f1", settings={"a": 3})
    assert number == 2
    assert sentence.startswith("net: look 2 at the external set (the first on 20")
    assert results.log_look(ledger, run="net", fingerprint="f2", settings={"a": 3})[0] == 3
    assert results.log_look(ledger, run="other", fingerprint="f1") == (
        1,
        "other: first look at the external set.",
    )
    kept = pd.read_csv(ledger)
    assert kept.look.tolist() == [1, 2, 3, 1]
    assert json.loads(kept.settings[0]) == {"a": 2, "b": 1}
    assert sorted(file.name for file in ledger.parent.iterdir()) == [
        ".ledger.csv.lock",
        "ledger.csv",
    ]  # the lock, held by nobody


def _look(ledger, fingerprint):
    results.log_look(ledger, run="net", fingerprint=fingerprint)


def test_looks_from_several_processes_are_all_kept(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_look, [(tmp_path / "ledger.csv", str(i)) for i in range(24)])
    assert sorted(pd.read_csv(tmp_path / "ledger.csv").look) == list(range(1, 25))


@pytest.fixture
def manifest(tmp_path):
    """manifest.csv of eight patches, with a column of the user's own."""
    rows = []
    for i in range(8):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        ).save(tmp_path / f"p{i}.png")
        rows.append(f"p{i}.png,{i % 4},mine{i}")
    (tmp_path / "manifest.csv").write_text("\n".join(["path,score,stored", *rows]) + "\n")
    return tmp_path / "manifest.csv"


def her2(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def fill(folder, scores):
    """None; every reader's sheet filled with scores by patch."""
    key = pd.read_csv(folder / "key.csv", dtype=str).set_index("code")
    for sheet in folder.glob("*/sheet.csv"):
        rows = pd.read_csv(sheet, dtype=str, keep_default_na=False)
        rows.assign(score=[scores[key.patch[code]] for code in rows.code]).to_csv(
            sheet, index=False
        )


def test_from_sheets_to_the_manifest_by_two_commands(capsys, tmp_path, manifest):
    code, said = her2(
        capsys,
        "sheet",
        manifest,
        "--readers",
        "A",
        "B",
        "--repeats",
        "0.25",
        "--into",
        tmp_path / "out",
    )
    assert code == 0, said
    page = (tmp_path / "out" / "A" / "sheet.html").read_text(encoding="utf-8")
    assert "p0" not in page
    assert page.count("images/") == 10
    assert "http" not in page.replace("http-equiv", "")
    fill(tmp_path / "out", {f"p{i}.png": "3+" for i in range(8)})
    code, said = her2(capsys, "consensus", tmp_path / "out", "--into", manifest)
    assert code == 0, said
    assert her2(capsys, "consensus", tmp_path / "out", "--into", manifest)[0] == 0  # twice is once
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
    code, said = her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)
    assert code == 1
    for word in ("'zz.png' is not in the manifest", "scored before", "'5' is not a HER2 score"):
        assert sum(word in line for line in said.splitlines()) == 1
    assert pd.read_csv(manifest, dtype=str)["score"].tolist() == [
        "1+",
        "1",
        "2+",
        "3",
        "0",
        "1",
        "2",
        "3",
    ]


def test_two_readers_with_one_name_and_other_readings_leave_the_manifest_alone(
    capsys, tmp_path, manifest
):
    before = manifest.read_bytes()
    for name in ("r", "s"):
        (tmp_path / f"{name}.csv").write_text("patch,rater,score\np0.png,A,1+\n")
    code, said = her2(
        capsys, "consensus", tmp_path / "r.csv", tmp_path / "s.csv", "--into", manifest
    )
    assert code == 2
    assert "Two readers have one name" in said
    assert manifest.read_bytes() == before
    assert her2(capsys, "consensus", tmp_path / "r.csv", "--into", manifest)[0] == 0
    before = manifest.read_bytes()
    (tmp_path / "s.csv").write_text("patch,rater,score\np0.png,A,3+\n")
    code, said = her2(capsys, "consensus", tmp_path / "s.csv", "--into", manifest)
    assert code == 2
    assert "other readings by 'A' of 1 patches" in said
    assert manifest.read_bytes() == before


def test_what_is_read_again_moves_kappa_as_worked_out_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    answers, given = (
        np.array([0, 1, 2, 3] * 3),
        [3, 2, *[2, 3], *[0, 1, 2, 3] * 2],
    )  # two scores given wrong, 3 and 1 steps off
    for i in range(12):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        ).save(tmp_path / f"p{i:02}.png")
    rows = [f"p{i:02}.png,{score}" for i, score in enumerate(given)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,score", *rows]) + "\n")

    def scored(**more):
        own = config.check_study(
            {"data": {"source": str(tmp_path / "manifest.csv"), **more}}, tmp_path / "mine.toml"
        )
        return cohort.prepare_cohort(own, side_px=32, progress=False).table

    def reread():
        settled = label_doubt.reread_effect(table, sheets.rounds(tmp_path / "reading")[0])
        settled[["patch", "reread"]].to_csv(tmp_path / "reread.csv", index=False)
        return SCORED["kappa quadratic"](
            scored(reread=str(tmp_path / "reread.csv"))["score"].to_numpy(), answers
        )

    table = scored()
    assert sheets.rounds(tmp_path / "reading")[0].empty
    # sum of squared steps over what chance expects, 12 patches and answers 3 of each: (9 + 1) / 30,
    # then 1 / 30, then none
    assert SCORED["kappa quadratic"](table["score"].to_numpy(), answers) == pytest.approx(2 / 3)
    first = sheets.write_sheets(
        table.iloc[:4], tmp_path / "reading" / "one", readers=["A", "B"], repeats=0
    )
    assert reread() == pytest.approx(2 / 3)  # nothing is filled in yet
    fill(first, {"p00.png": "0", "p01.png": "1+", "p02.png": "2+", "p03.png": "3+"})
    sheet = pd.read_csv(first / "B" / "sheet.csv", dtype=str, keep_default_na=False)
    own = (
        pd.read_csv(first / "key.csv", dtype=str)
        .set_index("code")["patch"]
        .reindex(sheet["code"])
        .to_numpy()
    )
    sheet.assign(score=np.where(own == "p01.png", "2+", sheet["score"])).to_csv(
        first / "B" / "sheet.csv", index=False
    )
    assert reread() == pytest.approx(29 / 30)  # A and B meet halfway on p01, which keeps its score
    second = sheets.write_sheets(
        table.iloc[1:3], tmp_path / "reading" / "two", readers=["A", "B"], repeats=0
    )
    fill(second, {"p01.png": "1+", "p02.png": "2+"})
    assert reread() == 1  # the later round settles it, the other patches keep the first
    sheet = pd.read_csv(second / "A" / "sheet.csv", dtype=str, keep_default_na=False)
    sheet.to_csv(first / "A" / "sheet.csv", index=False)
    problems = sheets.rounds(tmp_path / "reading")[1]
    assert len(problems) == 2
    assert all(
        problem.startswith("one: A/sheet.csv line ") and "was not given to A" in problem
        for problem in problems
    )
    (tmp_path / "reread.csv").write_text("patch,reread\np99.png,1+\n")
    with pytest.raises(DataError, match=r"reread\.csv .*p99\.png"):
        scored(reread=str(tmp_path / "reread.csv"))
