"""The door: design's ten lines as a user writes them, and wrong input refused in a sentence."""

import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import her2lib as her2
from her2lib.networks.models import normalise

REAL = Path(__file__).parents[2] / "shared" / "real"
SIDE_PX = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BCI-shaped folder of phantoms of 12 slides."""
    place = tmp_path_factory.mktemp("door") / "my_patches"
    her2.write_phantoms(
        place, patches=48, slides=12, side_px=96, mpp=1.0, seed=5, balanced=True, progress=False
    )
    return place


@pytest.fixture(scope="module")
def cohort(folder):
    return her2.read_patches(folder, side_px=SIDE_PX, cache=folder.parent, progress=False)


@pytest.fixture(scope="module")
def net():
    return her2.create("resnet18", side_px=SIDE_PX, weights="none")


def ten_lines(path, cache):
    """Everything from a folder to maps, as the README shows it; (estimate, maps, figure)."""
    cohort = her2.read_patches(path, side_px=SIDE_PX, cache=cache, progress=False)
    train, val, test = cohort.split(seed=0)
    net = her2.create("resnet18", side_px=SIDE_PX, weights="none")
    fit = her2.train(net, train, val, recipe="tuned", epochs=1, progress=False)
    probabilities = her2.predict(fit.net, test)
    predicted = probabilities.argmax(1)
    estimate = her2.quadratic_kappa(test.score, predicted, groups=test.patient)
    maps = her2.grad_cam(fit.net, test[:8], score=predicted[:8])
    figure = her2.plots.overlays(test[:8], maps)
    return test, probabilities, estimate, maps, figure


def test_the_ten_lines_run_on_phantoms(folder, tmp_path):
    test, probabilities, estimate, maps, figure = ten_lines(folder, tmp_path)
    assert probabilities.shape == (len(test), 4)
    assert len(maps) == min(8, len(test))
    assert "patches of" in str(estimate)
    assert str(estimate) == estimate.text()
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 2 * len(maps)
    her2.plots.close(figure)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real patches are not at hand")
def test_the_ten_lines_run_on_real_patches(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test, probabilities, _, maps, figure = ten_lines(REAL, tmp_path)
    assert len(probabilities) == len(test)
    assert np.isfinite(np.asarray(maps)).all()
    her2.plots.close(figure)


def test_the_import_costs_nothing_and_brings_nothing():
    code = (
        "import sys, her2lib; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy')))"
    )
    start = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert time.perf_counter() - start < 5  # 0.03 s on a quiet machine; a busy one is no failure


def test_patches_keep_their_subset_and_whole_slides_stay_together(cohort):
    train, val, test = cohort.split(seed=0)
    assert set(train.subset) == {"train"}
    assert set(val.subset) == {"val"}
    assert set(test.subset) == {"test"}
    assert not set(train.slide) & set(test.slide)
    assert len(train) + len(val) + len(test) == len(cohort.patches)
    assert test[:3].name.tolist() == test.name[:3].tolist()


class TestWrongInput:
    """Refused in a sentence of its own, never answered, never in torch's words."""

    def test_normalised_floats_for_predict(self, net, cohort):
        x = normalise(cohort.patches.images[:2], net)
        with pytest.raises(ValueError, match="uint8"):
            her2.predict(net, x)

    def test_patches_of_another_side(self, net):
        with pytest.raises(ValueError, match=r"64.*96|96.*64"):
            her2.predict(net, torch.zeros(2, 3, 96, 96, dtype=torch.uint8))

    def test_uint8_for_grad_cam_means_the_patches(self, net, cohort):
        patches = cohort.patches[:2]
        plain = her2.grad_cam(net, normalise(patches.images, net), 1)
        assert torch.equal(her2.grad_cam(net, patches.images, 1), plain)
        assert torch.equal(her2.grad_cam(net, patches, score=1), plain)

    def test_a_recipe_by_name_and_a_misspelt_one(self, net, cohort):
        with pytest.raises(ValueError, match="Did you mean 'tuned'"):
            her2.train(net, cohort.patches, recipe="tunned", epochs=1)

    def test_columns_of_unequal_length(self):
        with pytest.raises(ValueError, match=r"2.*3|3.*2"):
            her2.quadratic_kappa([0, 1], [0, 1, 2], groups=["a", "b"])

    def test_kappa_without_its_weights_names_what_was_called(self):
        from her2lib.stats.agreement import kappa

        with pytest.raises((TypeError, ValueError), match=r"kappa.*quadratic"):
            kappa([0, 1], [0, 1])


def test_every_name_of_the_door_has_a_docstring_and_a_room():
    for name in her2.__all__:
        assert getattr(her2, name).__doc__, name
    assert "data" in her2.__doc__
