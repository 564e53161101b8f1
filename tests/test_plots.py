"""Drawings: what the artists hold is what the arrays said; pixels are never compared."""

import numpy as np
import pandas as pd
import pytest

from her2lib import plots


@pytest.fixture
def ax():
    figure, axes = plots.panels()
    yield axes[0]
    plots.close(figure)


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_confusion_says_share_and_count_of_every_cell(ax):
    plots.confusion([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 5, 5], [0, 0, 0, 2]], ax)
    assert words(ax)[:4] == ["75 %", "3", "25 %", "1"]
    assert "0 %" in words(ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0\n(n=4)", "1+\n(n=0)", "2+\n(n=10)", "3+\n(n=2)"]


def test_counts_stack_to_the_total(ax):
    plots.counts(pd.DataFrame({"0": [1], "3+": [9]}, index=["train"]), ax)
    assert sum(bar.get_width() for bar in ax.patches) == 10


def test_curves_show_the_number_before_training(ax):
    history = pd.DataFrame({"epoch": [0, 1], "train_accuracy": [0.2, 0.5], "val_accuracy": [0.25, 0.4]})
    plots.curves(history, ax, null=0.45)
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[0, 1], [0, 1]]
    assert ax.lines[2].get_ydata()[0] == 0.45


def test_forest_draws_value_and_interval_and_greys_the_nulls(ax):
    plots.forest(pd.DataFrame({"name": ["a", "b"], "value": [0.5, 0.2], "low": [0.4, 0.1], "high": [0.6, 0.3], "null": [False, True]}), ax)
    assert list(ax.lines[0].get_xdata()) == [0.4, 0.6]
    assert ax.lines[0].get_color() == plots.INK
    assert ax.lines[2].get_color() == plots.GREY


def test_a_map_is_drawn_by_the_stated_rule():
    heat = np.array([[-4.0, 2.0], [1.0, 0.0]])
    shown = plots.drawn(heat, (2, 2))
    assert shown.tolist() == [[0, 1], [0.5, 0]]
    assert plots.drawn(np.full((2, 2), -1.0), (4, 4)).max() == 0
    assert plots.drawn(heat, (8, 8)).shape == (8, 8)


def test_picture_takes_tensors_and_arrays_alike():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (plots.picture(image.transpose(2, 0, 1)) == image).all()
    assert (plots.picture(image) == image).all()


def test_gallery_colours_right_and_wrong():
    figure = plots.gallery([np.zeros((8, 8, 3), np.uint8)] * 3, ["a", "b", "c"], right=[True, False, True], columns=2)
    assert [ax.title.get_color() for ax in figure.axes[:2]] == ["#00695c", plots.RED]
    plots.close(figure)


def test_figures_are_reproducible_bytes():
    def drawn_once():
        figure, (ax,) = plots.panels()
        plots.confusion(np.eye(4), ax)
        content = [plots.image_bytes(figure, kind=kind)[0] for kind in ("png", "svg")]
        plots.close(figure)
        return content

    assert drawn_once() == drawn_once()
