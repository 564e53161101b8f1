"""Distance to the training data: by hand, and what is said where it cannot be had."""

import numpy as np
import pytest
import torch

from her2lib.networks import models, train
from her2lib.scoring import paths, reference


def test_distance_by_hand():
    known = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]])
    nearest = reference.neighbour_distance(np.array([[0.0, 2]]), known)
    assert nearest[0] == pytest.approx(0, abs=1e-9)
    # itself and four at right angles
    assert reference.neighbour_distance(np.array([[3.0, 0]]), known)[0] == pytest.approx(0.8)
    slide = ["a", "a", "b", "b"]
    embedding = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    # whole slides are left out: nothing of one's own slide is near
    assert reference.held_out_limit(embedding, slide) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["gone", "changed"])
def test_without_the_cohort_the_column_is_empty_and_a_sentence_says_so(
    project, loose, tmp_path, loss
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
        table, _, notes, _ = paths.score_paths(
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


def test_one_pass_gives_the_probabilities_of_predict_and_the_embedding():
    net = models.create("hybrid", side_px=64, weights="none")
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    probabilities, embedding = reference.embed_patches(net, images)
    assert np.allclose(probabilities, train.predict(net, images), atol=1e-5)
    assert embedding.shape == (2, 512)
