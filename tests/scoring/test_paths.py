"""New patches under a finished run: the network's scores, strangers, slides, files left out."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import manifest, phantom_patch, picture, tissue_pixels, write_slide
from odd_colours import ADOBE, deep, matrix_profile
from PIL import Image

from her2lib import cli
from her2lib.files import DataError
from her2lib.intake.choices import Choices
from her2lib.scoring import paths, slide_summary

ANY_FIELD = Choices(any_field=True)


def tiled(folder, *, side=8, step=100):
    """Folder as `her2 tile` leaves it: side x side fields."""
    home = folder / "T1"
    home.mkdir(parents=True)
    rows = []
    for x, y in itertools.product(range(side), range(side)):
        picture(home / f"{x}_{y}.png", [x, y], side_px=64)
        row = {"path": f"T1/{x}_{y}.png", "score": "", "slide": "T1", "patient": ""}
        rows.append(row | {"x": x * step, "y": y * step, "mpp": 1.0, "dab": 0.1})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    facts = pd.DataFrame([{"slide": "T1", "step": step, "down": 10.0, "left": 0, "top": 0}])
    facts.to_csv(folder / "slides.csv", index=False)
    Image.new("RGB", (80, 80), "white").save(home / "thumbnail.png")
    return folder


def small_slide(file):
    """Path of a pyramidal TIFF of 1024 px: glass, and a square of tissue of 512 px."""
    pixels = np.full((1024, 1024, 3), 236, np.uint8)
    pixels[256:768, 256:768] = phantom_patch(5, score=3, side_px=512)
    file.parent.mkdir(parents=True, exist_ok=True)
    return write_slide(file, pixels)


# --- what a network says --------------------------------------------------------------------------


def test_scores_are_the_networks_own(project, tmp_path):
    folder, run, predictions = project
    table, _, _, problems = paths.score_paths(
        [folder / "data"], run, folder=tmp_path, maps=0, progress=False
    )
    assert not problems
    table = table.set_index("patch").loc[predictions.patch]
    wanted = predictions[["p0", "p1", "p2", "p3"]].to_numpy()
    assert np.allclose(table[["p0", "p1", "p2", "p3"]], wanted, atol=2e-5)
    assert list(table.score) == [("0", "1+", "2+", "3+")[k] for k in wanted.argmax(1)]


def test_a_run_of_a_study_of_three_scores_gives_these_alone_and_says_so(project, tmp_path):
    folder, run, predictions = project
    of_three = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((of_three / "run.json").read_text())
    (of_three / "run.json").write_text(json.dumps({**record, "scores": ["1+", "2+", "3+"]}))
    table, summary, notes, _ = paths.score_paths(
        [folder / "data"], of_three, folder=tmp_path / "out", maps=0, progress=False
    )
    assert any("asks for the scores 1+, 2+, 3+ only" in note for note in notes)
    assert set(table["score"]) <= {"1+", "2+", "3+"}
    assert (table["p0"] == 0).all()
    table = table.set_index("patch").loc[predictions.patch]
    answered = predictions[["p1", "p2", "p3"]].to_numpy()
    shares = answered / answered.sum(1, keepdims=True)
    assert np.allclose(table[["p1", "p2", "p3"]], shares, atol=2e-5)
    assert "share of 1+" in set(summary["metric"])
    assert "share of 0" not in set(summary["metric"])


def test_bad_images_are_named_and_the_others_scored(project, loose, tmp_path, capsys):
    _, run, _ = project
    code = cli.main(["score", str(loose), "--run", str(run), "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert code == 1
    assert "cut.jpg is left out: the image is cut short or damaged" in output.err
    assert "words.png is left out" in output.err
    assert "5 files lie there: 3 patches read, 2 refused, 0 left aside." in output.out
    assert "not an ASCO/CAP score" in output.out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table.patch) == ["new0.jpg", "new1.jpg", "new2.jpg"]
    assert all((tmp_path / "out" / path).stat().st_size > 10_000 for path in table["map"])
    left_out = pd.read_csv(tmp_path / "out" / "left_out.csv")
    assert sorted(left_out.file) == ["cut.jpg", "words.png"]


def test_strangers_are_told_from_kin(project, tmp_path):
    folder, run, predictions = project
    rng = np.random.default_rng(3)
    (tmp_path / "odd").mkdir()
    for i in range(4):
        green_noise = (rng.random((64, 64, 3)) > 0.5) * np.array([0, 255, 0], np.uint8)
        Image.fromarray(green_noise).save(tmp_path / "odd" / f"{i}.png")
    odd, _, notes, _ = paths.score_paths(
        [tmp_path / "odd"],
        run,
        folder=tmp_path / "a",
        maps=0,
        progress=False,
        choices=ANY_FIELD,
    )
    kin, _, _, _ = paths.score_paths(
        [folder / "data"], run, folder=tmp_path / "b", maps=0, progress=False
    )
    assert (odd.unlike == "yes").all()
    assert (kin.unlike == "yes").mean() < 0.2
    assert any("nearest of" in note and "99%" in note for note in notes)
    assert len(np.load(run / "embedding.npz")["embedding"]) == len(predictions)


def test_what_is_no_field_is_named_and_scored_only_if_asked_for(project, loose, tmp_path):
    _, run, _ = project
    Image.new("RGB", (64, 64), "white").save(loose / "white.png")
    table, _, _, problems = paths.score_paths(
        [loose], run, folder=tmp_path / "a", maps=0, progress=False
    )
    assert "white.png" not in set(table.patch)
    assert any("white.png is left out: no H-DAB field" in problem for problem in problems)
    table, _, _, _ = paths.score_paths(
        [loose], run, folder=tmp_path / "b", maps=0, progress=False, choices=ANY_FIELD
    )
    assert "white.png" in set(table.patch)


# --- the scale ------------------------------------------------------------------------------------


def test_patches_are_brought_to_the_field_of_training(project, tmp_path):
    _, run, _ = project
    wide = phantom_patch(7, score=2, side_px=128)
    (tmp_path / "new").mkdir()
    Image.fromarray(wide).save(tmp_path / "new" / "wide.png")
    Image.fromarray(wide[32:96, 32:96]).save(tmp_path / "new" / "middle.png")
    table, _, notes, _ = paths.score_paths(
        [tmp_path / "new"],
        run,
        folder=tmp_path / "out",
        maps=0,
        progress=False,
        choices=Choices(mpp=1.0),
    )
    probabilities = table.set_index("patch")[["p0", "p1", "p2", "p3"]].astype(float)
    # the square is the same but for the pixels that antialiasing takes from beyond its edge
    assert np.allclose(probabilities.loc["wide.png"], probabilities.loc["middle.png"], atol=0.002)
    assert any("fields of 64 micrometres a side: shown by their middle" in note for note in notes)


def test_an_unknown_scale_is_said_with_the_flag(project, loose, tmp_path):
    _, run, _ = project
    _, _, notes, _ = paths.score_paths(
        [loose / "new0.jpg"], run, folder=tmp_path / "o", maps=0, progress=False
    )
    sentence = next(note for note in notes if "No scale is stated for 1 patch" in note)
    assert "--patch-mpp" in sentence
    assert any("taken whole: 1 patch (first: new0.jpg)" in note for note in notes)


# --- agreement with what is known -----------------------------------------------------------------


def test_agreement_with_given_scores_is_printed_with_a_caution(project, tmp_path):
    folder, run, _ = project
    table, _, notes, _ = paths.score_paths(
        [folder / "data"], run, folder=tmp_path, maps=0, progress=False
    )
    sentence = next(note for note in notes if note.startswith("Agreement"))
    assert "48 patches of 8 slides" in sentence
    assert "not a validation" in sentence
    assert list(table.score_given) == [i % 4 for i in range(48)]
    written = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    assert list(written.score_given[:4]) == ["0", "1+", "2+", "3+"]


def test_agreement_by_hand():
    table = pd.DataFrame({"score": ["0", "1+", "2+", "3+", "3+"]})
    table = table.assign(score_given=[0, 1, 2, 3, -1], slide="", patient="")
    (sentence,) = paths.agreement_notes(table)
    assert "with the 4 scores that the data hold: quadratic-weighted kappa 1.00" in sentence
    assert paths.agreement_notes(table.assign(score_given=-1)) == []


# --- slides ---------------------------------------------------------------------------------------


def test_a_slide_is_summed_up_by_blocks(project, tmp_path):
    _, run, _ = project
    table, summed, notes, _ = paths.score_paths(
        [tiled(tmp_path / "tiles")], run, folder=tmp_path / "out", maps=3, progress=False
    )
    assert len(table) == 64
    assert table.x.max() == 700
    shares = summed[summed.metric.str.startswith("share of")]
    assert shares.value.sum() == pytest.approx(1)
    assert set(shares["sample"]) == {"patches of 4 blocks"}
    assert slide_summary.RULE in notes
    assert (tmp_path / "out" / "T1_heat.png").stat().st_size > 10_000
    assert len(list((tmp_path / "out" / "maps").glob("*.png"))) == 3


def test_a_slide_is_cut_scored_and_drawn_by_one_command(project, tmp_path, capsys):
    slide = small_slide(tmp_path / "whole.tif")
    command = ["score", str(slide), "--run", str(project[1])]
    options = ["--mpp", "0.5", "--side", "256", "--workers", "1", "--maps", "1"]
    code = cli.main([*command, *options, "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert code == 0, output.err
    assert "whole: " in output.out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table[["x", "y"]].values.tolist() == [[256, 256], [512, 256], [256, 512], [512, 512]]
    assert (tmp_path / "out" / "whole_heat.png").exists()
    assert (tmp_path / "out" / "tiles" / "whole" / "overview.png").exists()
    squares = json.loads((tmp_path / "out" / "whole_scores.geojson").read_text())["features"]
    assert len(squares) == 4
    classes = [square["properties"]["classification"]["name"] for square in squares]
    assert classes == [f"HER2 {score}" for score in table.score]


def test_case_20_slides_and_photographs_of_one_folder_are_both_scored(project, tmp_path):
    small_slide(tmp_path / "new" / "S0.tif")
    for i in range(24):
        picture(tmp_path / "new" / f"{i}.png", i, side_px=64)
    table, _, notes, problems = paths.score_paths(
        [tmp_path / "new"],
        project[1],
        folder=tmp_path / "out",
        maps=0,
        progress=False,
        mpp=0.5,
        side_px=256,
        workers=1,
    )
    assert problems == []
    assert (table.slide == "S0").sum() == 4
    assert (table.slide == "").sum() == 24
    assert "25 files lie there: 24 patches and 1 slide, cut into 4 patches, read" in notes[0] + str(
        notes[1]
    )


# --- names of files -------------------------------------------------------------------------------


def test_case_38_a_name_of_245_characters_is_scored_and_its_map_has_a_shorter_one(
    project, tmp_path
):
    long_name = "x" * 241 + ".png"
    assert len(long_name) == 245
    picture(tmp_path / "new" / long_name, 1, side_px=64)
    table, _, _, problems = paths.score_paths(
        [tmp_path / "new"], project[1], folder=tmp_path / "out", maps=1, progress=False
    )
    assert problems == []
    assert list(table.patch) == [long_name]
    assert len(table["map"][0]) < 170
    assert (tmp_path / "out" / table["map"][0]).is_file()


def test_patches_of_one_name_and_odd_names_get_maps_of_their_own(project, tmp_path):
    names = ["a/same.png", "b/same.png", "Größe 細胞 😀.png", "$a$ {b}.png", "SAME.png"]
    for i, name in enumerate(names):
        picture(tmp_path / "new" / name, i, side_px=64)
    table, _, _, problems = paths.score_paths(
        [tmp_path / "new"], project[1], folder=tmp_path / "out", maps=9, progress=False
    )
    assert problems == []
    assert sorted(table.patch) == sorted(names)
    maps = [name.casefold() for name in table["map"]]
    assert len(set(maps)) == 5
    assert all((tmp_path / "out" / name).is_file() for name in table["map"])


def test_scores_of_an_earlier_call_are_kept_beside(project, tmp_path):
    picture(tmp_path / "a" / "1.png", 1, side_px=64)
    picture(tmp_path / "b" / "2.png", 2, side_px=64)
    options = {"folder": tmp_path / "out", "maps": 0, "progress": False}
    paths.score_paths([tmp_path / "a"], project[1], **options)
    first = (tmp_path / "out" / "scores.csv").read_text()
    _, _, notes, _ = paths.score_paths([tmp_path / "a"], project[1], **options)
    assert not any("earlier call" in note for note in notes)
    _, _, notes, _ = paths.score_paths([tmp_path / "b"], project[1], **options)
    assert any("earlier call" in note for note in notes)
    (kept,) = (tmp_path / "out").glob("scores.before-*.csv")
    assert kept.read_text() == first


# --- pixels that lie ------------------------------------------------------------------------------


def test_12_bits_and_profiles_are_scored_as_the_pixels_that_they_mean(project, tmp_path):
    import tifffile

    pixels = tissue_pixels(3, 64)
    (tmp_path / "new").mkdir()
    Image.fromarray(pixels).save(tmp_path / "new" / "plain.png")
    tifffile.imwrite(tmp_path / "new" / "deep.tif", deep(pixels, 12), photometric="rgb")
    profile = matrix_profile(ADOBE, 2.2)
    Image.fromarray(pixels).save(tmp_path / "new" / "adobe.png", icc_profile=profile)
    table, _, notes, _ = paths.score_paths(
        [tmp_path / "new"], project[1], folder=tmp_path / "out", maps=3, progress=False
    )
    expected = table.set_index("patch").expected
    assert expected["deep.tif"] == pytest.approx(expected["plain.png"], abs=0.01)
    assert any("deep.tif: it has 16 bits a channel" in note for note in notes)
    assert any("adobe.png: its colours follow a profile" in note for note in notes)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "says"),
    [("mine/nothing", "none is finished"), ("nowhere", "not the folder of one finished run")],
)
def test_an_unknown_run_is_a_sentence(project, written, says):
    with pytest.raises(DataError, match=says):
        paths.find_run(written)


def test_a_run_is_found_by_its_study(project):
    _, run, _ = project
    assert paths.find_run("mine") == run
    assert paths.find_run(f"mine/{run.name}") == run


def test_nothing_to_score_is_a_sentence(project, tmp_path):
    _, run, _ = project
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to score"):
        paths.score_paths([tmp_path / "empty"], run, folder=tmp_path / "out", progress=False)
    with pytest.raises(DataError, match="nothing at"):
        paths.score_paths([tmp_path / "gone.png"], run, folder=tmp_path / "out", progress=False)


def test_a_manifest_made_by_hand_with_places_but_no_thumbnail_is_scored_without_a_picture(
    project, tmp_path
):
    rows = ("a.png,,S1,0,100,0.2", "b.png,,S1,100,100,0.3")
    folder = manifest(tmp_path / "tiles", *rows, head="path,score,slide,x,y,dab")
    table, _, notes, problems = paths.score_paths(
        [folder], project[1], folder=tmp_path / "out", maps=0, progress=False
    )
    assert len(table) == 2
    assert problems == []
    assert any("No heat map of slide S1" in note for note in notes)
    shutil.rmtree(folder)
