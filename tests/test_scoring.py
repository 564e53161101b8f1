"""New patches under a finished run: the network's own answers, strangers told from kin, slides summed up, bad files named."""

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
def place(tmp_path_factory):
    """Folder with reports, a cohort of 48 patches of 8 slides and one finished run, made as notebook 02 makes it."""
    folder, rng, rows = tmp_path_factory.mktemp("inference"), np.random.default_rng(0), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder / "reports")
        patch.setattr(files, "CACHE", folder / "cache")
        (folder / "data").mkdir()
        for i in range(48):
            Image.fromarray(picture(rng, i % 4)).save(folder / "data" / f"{i}.png")
            rows.append({"path": f"{i}.png", "score": i % 4, "slide": f"S{i // 6}", "mpp": 0.5})
        pd.DataFrame(rows).to_csv(folder / "data" / "manifest.csv", index=False)
        file = config.make_study(
            folder / "data", name="mine", weights="none", side_px=SIDE_PX, epochs=1
        )
        mine = config.load_study(file)
        axes = mine.run()
        data = cohort.prepare_cohort(mine, side_px=SIDE_PX, progress=False)
        part = data.patches.take(np.flatnonzero(data.table["set"] == "train"))
        net = models.create("resnet18", side_px=SIDE_PX, weights="none")
        fit = train.fit(
            net,
            part,
            None,
            seed=0,
            progress=False,
            **recipes.recipe("as_presented", network="resnet18", epochs=1),
        )
        predictions = train.prediction_table(
            train.predict(fit.net, part.images), part, run=axes["run"], subset="train"
        )
        run = checkpoint.save_run(
            mine.folder_of(axes["run"]),
            net=fit.net,
            fit=fit,
            predictions=predictions,
            parameters=axes,
            fingerprints={"data": fingerprints.data_fingerprint(mine)},
        )
        (run / "done.json").write_text(json.dumps({"parameters": {"study_name": str(file)}}))
        yield folder, run, predictions


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
    rng, rows, home = np.random.default_rng(2), [], folder / "T1"
    home.mkdir(parents=True)
    for x in range(side):
        for y in range(side):
            Image.fromarray(picture(rng, 3 * (x >= side / 2))).save(home / f"{x}_{y}.png")
            rows.append(
                dict(
                    path=f"T1/{x}_{y}.png",
                    score="",
                    slide="T1",
                    patient="",
                    x=x * step,
                    y=y * step,
                    mpp=0.5,
                    dab=0.1,
                )
            )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    pd.DataFrame([dict(slide="T1", step=step, down=10.0)]).to_csv(
        folder / "slides.csv", index=False
    )
    Image.new("RGB", (80, 80), "white").save(home / "thumbnail.png")
    return folder


def test_scores_are_the_networks_own(place, tmp_path):
    folder, run, predictions = place
    table, _, _, problems = scoring.score_paths(
        [folder / "data"], run, folder=tmp_path, maps=0, progress=False
    )
    assert not problems
    table = table.set_index("patch").loc[predictions.patch]
    wanted = predictions[["p0", "p1", "p2", "p3"]].to_numpy()
    assert np.allclose(table[["p0", "p1", "p2", "p3"]], wanted, atol=2e-5)
    assert list(table.score) == [("0", "1+", "2+", "3+")[k] for k in wanted.argmax(1)]


def test_bad_images_are_named_and_the_others_scored(place, loose, tmp_path, capsys):
    _, run, _ = place
    code = cli.main(["score", str(loose), "--run", str(run), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert code == 1
    assert "cut.jpg is left out: the image is cut short or damaged" in said.err
    assert "words.png is left out" in said.err
    assert "not an ASCO/CAP score" in said.out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table.patch) == ["new0.jpg", "new1.jpg", "new2.jpg"]
    assert all((tmp_path / "out" / path).stat().st_size > 10_000 for path in table["map"])


def test_strangers_are_told_from_kin(place, tmp_path):
    folder, run, predictions = place
    rng = np.random.default_rng(3)
    (tmp_path / "odd").mkdir()
    for i in range(4):
        Image.fromarray(
            (rng.random((64, 64, 3)) > 0.5).astype(np.uint8) * np.array([0, 255, 0], np.uint8)
        ).save(tmp_path / "odd" / f"{i}.png")
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
    assert scoring.neighbour_distance(np.array([[3.0, 0]]), known)[0] == pytest.approx(
        0.8
    )  # itself and four at right angles
    slide = ["a", "a", "b", "b"]
    far = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert scoring.held_out_limit(far, slide) == pytest.approx(
        1.0
    )  # whole slides are left out: nothing of one's own slide is near


@pytest.mark.parametrize("loss", ["gone", "changed"])
def test_without_the_cohort_the_column_is_empty_and_a_sentence_says_so(
    place, loose, tmp_path, loss, monkeypatch
):
    folder, run, _ = place
    (run / "embedding.npz").unlink(missing_ok=True)
    manifest = folder / "data" / "manifest.csv"
    if loss == "gone":
        (folder / "data").rename(folder / "away")
    else:
        kept = manifest.read_text()
        manifest.write_text(kept + "\n\n")
    try:
        table, _, notes, _ = scoring.score_paths(
            [loose / "new0.jpg"], run, folder=tmp_path / "o", maps=0, progress=False
        )
    finally:
        if loss == "gone":
            (folder / "away").rename(folder / "data")
        else:
            manifest.write_text(kept)
    assert list(table.unlike) == [""]
    assert table.distance.isna().all()
    assert any(
        "is not known" in note and ("no longer" in note or "have changed" in note) for note in notes
    )
    assert not (run / "embedding.npz").exists()


def test_a_slide_is_summed_up_by_blocks(place, tmp_path):
    _, run, _ = place
    table, summed, notes, _ = scoring.score_paths(
        [tiled(tmp_path / "tiles")], run, folder=tmp_path / "out", maps=3, progress=False
    )
    assert len(table) == 64
    assert table.x.max() == 700
    shares = summed[summed.metric.str.startswith("share of")]
    assert shares.value.sum() == pytest.approx(1)
    assert set(shares.groups) == {"patches of 4 blocks"}
    assert scoring.RULE in notes
    assert (tmp_path / "out" / "T1_heat.png").stat().st_size > 10_000
    assert len(list((tmp_path / "out" / "maps").glob("*.png"))) == 3


def test_the_rule_of_a_slide_by_hand():
    def one(*scores):
        probabilities = np.eye(4)[list(scores)]
        table = pd.DataFrame({f"p{k}": probabilities[:, k] for k in range(4)}).assign(
            slide="A",
            patch=[f"{i}" for i in range(len(scores))],
            x=np.nan,
            y=np.nan,
            expected=scores,
            unlike="",
        )
        return scoring.summarise_slides(table).set_index("metric")

    assert one(*[0] * 9, 3).value["summary score"] == "0"  # 10 % is not more than 10 %
    found = one(*[0] * 8, 2, 3)
    assert found.value["summary score"] == "2+"
    assert found.value["share of 0"] == pytest.approx(0.8)
    assert "too narrow" in found.note["share of 0"]


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
def test_an_unknown_run_is_a_sentence(place, written, says):
    with pytest.raises(DataError, match=says):
        scoring.find_run(written)


def test_a_run_is_found_by_its_study(place):
    _, run, _ = place
    assert scoring.find_run("mine") == run
    assert scoring.find_run(f"mine/{run.name}") == run


def test_nothing_to_score_is_a_sentence(place, tmp_path):
    _, run, _ = place
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to score"):
        scoring.score_paths([tmp_path / "empty"], run, folder=tmp_path / "out", progress=False)
    with pytest.raises(DataError, match="nothing at"):
        scoring.score_paths([tmp_path / "gone.png"], run, folder=tmp_path / "out", progress=False)


def test_a_slide_is_cut_scored_and_drawn_by_one_command(place, tmp_path, capsys):
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
    code = cli.main(
        [
            "score",
            str(tmp_path / "whole.tif"),
            "--run",
            str(place[1]),
            "--mpp",
            "0.5",
            "--side",
            "128",
            "--workers",
            "1",
            "--maps",
            "1",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "whole: " in said.out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(zip(table.x, table.y, strict=True)) == [
        (128, 128),
        (256, 128),
        (128, 256),
        (256, 256),
    ]
    assert (tmp_path / "out" / "whole_heat.png").exists()
    assert (tmp_path / "out" / "tiles" / "whole" / "overview.png").exists()
