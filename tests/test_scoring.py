"""New patches under a finished run: the network's scores, strangers, slides, files left out."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from her2lib import cli, files, scoring
from her2lib.data.images import DataError
from her2lib.networks import checkpoint, models, recipes, train
from her2lib.study import cohort, config, fingerprints

SIDE_PX = 32


def picture(rng, brown, side_px=64):
    """(side,side,3) uint8 of noisy tissue, browner with the score."""
    colour = np.array([200, 190, 215]) - brown * np.array([15, 35, 55])
    return np.clip(colour + rng.normal(0, 12, (side_px, side_px, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """(folder, run, predictions): reports, 48 patches of 8 slides, run as notebook 02 makes it."""
    folder = tmp_path_factory.mktemp("inference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder / "reports")
        patch.setattr(files, "CACHE", folder / "cache")
        write_cohort(folder / "data")
        file = config.make_study(
            folder / "data", name="mine", weights="none", side_px=SIDE_PX, epochs=1
        )
        run, predictions = finish_run(config.load_study(file))
        record = {"parameters": {"study_name": str(file)}}
        (run / "done.json").write_text(json.dumps(record))
        yield folder, run, predictions


def write_cohort(folder):
    """Writes a manifest of 48 patches of 8 slides."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(48):
        Image.fromarray(picture(rng, i % 4)).save(folder / f"{i}.png")
        rows.append({"path": f"{i}.png", "score": i % 4, "slide": f"S{i // 6}", "mpp": 0.5})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)


def finish_run(study):
    """(folder, training predictions) of the first run of a study, trained for one epoch."""
    axes = study.run()
    data = cohort.prepare_cohort(study, side_px=SIDE_PX, progress=False)
    training = data.patches.take(np.flatnonzero(data.table["set"] == "train"))
    net = models.create("resnet18", side_px=SIDE_PX, weights="none")
    recipe = recipes.recipe("as_presented", network="resnet18", epochs=1)
    fit = train.fit(net, training, None, seed=0, progress=False, **recipe)
    probabilities = train.predict(fit.net, training.images)
    predictions = train.prediction_table(probabilities, training, run=axes["run"], subset="train")
    run = checkpoint.save_run(
        study.folder_of(axes["run"]),
        net=fit.net,
        fit=fit,
        predictions=predictions,
        parameters=axes,
        fingerprints={"data": fingerprints.data_fingerprint(study)},
    )
    return run, predictions


@pytest.fixture
def loose(tmp_path):
    """Folder with three sound images, one truncated and one that is none."""
    rng = np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(picture(rng, i, side_px=80)).save(tmp_path / f"new{i}.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "new0.jpg").read_bytes()[:900])
    (tmp_path / "words.png").write_text("no image")
    return tmp_path


def tiled(folder, *, side=8, step=100):
    """Folder as `her2 tile` leaves it: side x side fields, brown in the right half."""
    rng = np.random.default_rng(2)
    home = folder / "T1"
    home.mkdir(parents=True)
    rows = []
    for x, y in itertools.product(range(side), range(side)):
        Image.fromarray(picture(rng, 3 * (x >= side / 2))).save(home / f"{x}_{y}.png")
        row = {"path": f"T1/{x}_{y}.png", "score": "", "slide": "T1", "patient": ""}
        rows.append(row | {"x": x * step, "y": y * step, "mpp": 0.5, "dab": 0.1})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    facts = pd.DataFrame([{"slide": "T1", "step": step, "down": 10.0}])
    facts.to_csv(folder / "slides.csv", index=False)
    Image.new("RGB", (80, 80), "white").save(home / "thumbnail.png")
    return folder


def test_scores_are_the_networks_own(project, tmp_path):
    folder, run, predictions = project
    table, _, _, problems = scoring.score_paths(
        [folder / "data"], run, folder=tmp_path, maps=0, progress=False
    )
    assert not problems
    table = table.set_index("patch").loc[predictions.patch]
    wanted = predictions[["p0", "p1", "p2", "p3"]].to_numpy()
    assert np.allclose(table[["p0", "p1", "p2", "p3"]], wanted, atol=2e-5)
    assert list(table.score) == [("0", "1+", "2+", "3+")[k] for k in wanted.argmax(1)]


def test_bad_images_are_named_and_the_others_scored(project, loose, tmp_path, capsys):
    _, run, _ = project
    code = cli.main(["score", str(loose), "--run", str(run), "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert code == 1
    assert "cut.jpg is left out: the image is cut short or damaged" in output.err
    assert "words.png is left out" in output.err
    assert "not an ASCO/CAP score" in output.out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table.patch) == ["new0.jpg", "new1.jpg", "new2.jpg"]
    assert all((tmp_path / "out" / path).stat().st_size > 10_000 for path in table["map"])


def test_strangers_are_told_from_kin(project, tmp_path):
    folder, run, predictions = project
    rng = np.random.default_rng(3)
    (tmp_path / "odd").mkdir()
    for i in range(4):
        green_noise = (rng.random((64, 64, 3)) > 0.5) * np.array([0, 255, 0], np.uint8)
        Image.fromarray(green_noise).save(tmp_path / "odd" / f"{i}.png")
    odd, _, notes, _ = scoring.score_paths(
        [tmp_path / "odd"], run, folder=tmp_path / "a", maps=0, progress=False
    )
    kin, _, _, _ = scoring.score_paths(
        [folder / "data"], run, folder=tmp_path / "b", maps=0, progress=False
    )
    assert (odd.unlike == "yes").all()
    assert (kin.unlike == "yes").mean() < 0.2
    assert any("nearest of" in note and "99%" in note for note in notes)
    assert len(np.load(run / "embedding.npz")["embedding"]) == len(predictions)


def test_distance_by_hand():
    known = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]])
    assert scoring.neighbour_distance(np.array([[0.0, 2]]), known)[0] == pytest.approx(0, abs=1e-9)
    # itself and four at right angles
    assert scoring.neighbour_distance(np.array([[3.0, 0]]), known)[0] == pytest.approx(0.8)
    slide = ["a", "a", "b", "b"]
    embedding = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    # whole slides are left out: nothing of one's own slide is near
    assert scoring.held_out_limit(embedding, slide) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["gone", "changed"])
def test_without_the_cohort_the_column_is_empty_and_a_sentence_says_so(
    project, loose, tmp_path, loss, monkeypatch
):
    folder, run, _ = project
    (run / "embedding.npz").unlink(missing_ok=True)
    manifest = folder / "data" / "manifest.csv"
    if loss == "gone":
        (folder / "data").rename(folder / "away")
    else:
        original = manifest.read_text()
        manifest.write_text(original + "\n\n")
    try:
        table, _, notes, _ = scoring.score_paths(
            [loose / "new0.jpg"], run, folder=tmp_path / "o", maps=0, progress=False
        )
    finally:
        if loss == "gone":
            (folder / "away").rename(folder / "data")
        else:
            manifest.write_text(original)
    assert list(table.unlike) == [""]
    assert table.distance.isna().all()
    why = {"gone": "no longer", "changed": "have changed"}[loss]
    assert any("is not known" in note and why in note for note in notes)
    assert not (run / "embedding.npz").exists()


def test_a_slide_is_summed_up_by_blocks(project, tmp_path):
    _, run, _ = project
    table, summed, notes, _ = scoring.score_paths(
        [tiled(tmp_path / "tiles")], run, folder=tmp_path / "out", maps=3, progress=False
    )
    assert len(table) == 64
    assert table.x.max() == 700
    shares = summed[summed.metric.str.startswith("share of")]
    assert shares.value.sum() == pytest.approx(1)
    assert set(shares["sample"]) == {"patches of 4 blocks"}
    assert scoring.RULE in notes
    assert (tmp_path / "out" / "T1_heat.png").stat().st_size > 10_000
    assert len(list((tmp_path / "out" / "maps").glob("*.png"))) == 3


def test_the_rule_of_a_slide_by_hand():
    # 10 % is not more than 10 %
    assert summary_of([0] * 9 + [3]).value["summary score"] == "0"
    summary = summary_of([0] * 8 + [2, 3])
    assert summary.value["summary score"] == "2+"
    assert summary.value["share of 0"] == pytest.approx(0.8)
    assert "too narrow" in summary.note["share of 0"]


def summary_of(scores):
    """DataFrame by metric of a slide whose patches have these scores, nowhere in particular."""
    table = pd.DataFrame(np.eye(4)[scores], columns=["p0", "p1", "p2", "p3"])
    table = table.assign(slide="A", x=np.nan, y=np.nan, expected=scores, unlike="")
    table["patch"] = [str(row) for row in range(len(scores))]
    return scoring.summarise_slides(table).set_index("metric")


def test_one_pass_gives_the_probabilities_of_predict_and_the_embedding():
    net = models.create("hybrid", side_px=64, weights="none")
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    probabilities, embedding = scoring.embed_patches(net, images)
    assert np.allclose(probabilities, train.predict(net, images), atol=1e-5)
    assert embedding.shape == (2, 512)


@pytest.mark.parametrize(
    ("written", "says"),
    [("mine/nothing", "none is finished"), ("nowhere", "not the folder of one finished run")],
)
def test_an_unknown_run_is_a_sentence(project, written, says):
    with pytest.raises(DataError, match=says):
        scoring.find_run(written)


def test_a_run_is_found_by_its_study(project):
    _, run, _ = project
    assert scoring.find_run("mine") == run
    assert scoring.find_run(f"mine/{run.name}") == run


def test_nothing_to_score_is_a_sentence(project, tmp_path):
    _, run, _ = project
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to score"):
        scoring.score_paths([tmp_path / "empty"], run, folder=tmp_path / "out", progress=False)
    with pytest.raises(DataError, match="nothing at"):
        scoring.score_paths([tmp_path / "gone.png"], run, folder=tmp_path / "out", progress=False)


def test_a_slide_is_cut_scored_and_drawn_by_one_command(project, tmp_path, capsys):
    import tifffile

    image = np.full((512, 512, 3), 235, np.uint8)
    image[128:384, 128:384] = np.random.default_rng(4).integers(60, 200, (256, 256, 3))
    tifffile.imwrite(
        tmp_path / "whole.tif",
        image,
        tile=(256, 256),
        photometric="rgb",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )
    command = ["score", str(tmp_path / "whole.tif"), "--run", str(project[1])]
    options = ["--mpp", "0.5", "--side", "128", "--workers", "1", "--maps", "1"]
    code = cli.main([*command, *options, "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert code == 0, output.err
    assert "whole: " in output.out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table[["x", "y"]].values.tolist() == [[128, 128], [256, 128], [128, 256], [256, 256]]
    assert (tmp_path / "out" / "whole_heat.png").exists()
    assert (tmp_path / "out" / "tiles" / "whole" / "overview.png").exists()
