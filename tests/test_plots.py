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
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "0\n(n=4)",
        "1+\n(n=0)",
        "2+\n(n=10)",
        "3+\n(n=2)",
    ]


def test_a_study_of_fewer_scores_has_no_row_bar_or_column_of_the_others(ax):
    plots.confusion([[3, 1, 0], [0, 0, 0], [0, 0, 5]], ax, scores=(1, 2, 3))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["1+\n(n=4)", "2+\n(n=0)", "3+\n(n=5)"]
    plots.strips([0.1, 0.2], [1, 3], ax, ylabel="value", scores=(1, 2, 3))
    assert ax.get_xticks().tolist() == [1, 2, 3]
    plots.counts(pd.DataFrame({"1+": [1], "3+": [9]}, index=["train"]), ax, scores=(1, 2, 3))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1+", "2+", "3+"]


def test_counts_stack_to_the_total(ax):
    plots.counts(pd.DataFrame({"0": [1], "3+": [9]}, index=["train"]), ax)
    assert sum(bar.get_width() for bar in ax.patches) == 10


def test_curves_show_the_number_before_training(ax):
    history = pd.DataFrame(
        {"epoch": [0, 1], "train_accuracy": [0.2, 0.5], "val_accuracy": [0.25, 0.4]}
    )
    plots.curves(history, ax, null=0.45)
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[0, 1], [0, 1]]
    assert ax.lines[2].get_ydata()[0] == 0.45


def test_forest_draws_value_and_interval_and_greys_the_nulls(ax):
    plots.forest(
        pd.DataFrame(
            {
                "name": ["a", "b"],
                "value": [0.5, 0.2],
                "low": [0.4, 0.1],
                "high": [0.6, 0.3],
                "null": [False, True],
            }
        ),
        ax,
    )
    assert list(ax.lines[0].get_xdata()) == [0.4, 0.6]
    assert ax.lines[0].get_color() == plots.INK
    assert ax.lines[2].get_color() == plots.GREY


def test_a_map_is_drawn_by_the_stated_rule():
    heat = np.array([[-4.0, 2.0], [1.0, 0.0]])
    shown = plots.upsample(heat, (2, 2))
    assert shown.tolist() == [[0, 1], [0.5, 0]]
    assert plots.upsample(np.full((2, 2), -1.0), (4, 4)).max() == 0
    assert plots.upsample(heat, (8, 8)).shape == (8, 8)


def test_maps_share_one_colour_scale_that_stands_beside_the_last():
    figure, axes = plots.panels(1, 2)
    image, heats = np.zeros((3, 8, 8), np.uint8), {"a": np.ones((2, 2)), "b": np.zeros((2, 2))}
    plots.maps(image, heats, axes)
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    assert [ax.images[1].get_clim() for ax in axes] == [(0, 1), (0, 1)]
    assert len(figure.axes) == 3
    plots.maps(image, heats, axes, bar=False)
    assert len(figure.axes) == 3
    plots.close(figure)


def test_bands_draw_the_map_black_and_chance_grey(ax):
    table = pd.DataFrame(
        {
            "band": [0, 1, 0, 1],
            "depth": ["0-15", "15+"] * 2,
            "null": [False, False, True, True],
            "value": [1.2, 0.8, 1.0, 1.0],
            "low": [1.1, 0.7, 0.9, 0.9],
            "high": [1.3, 0.9, 1.1, 1.1],
        }
    )
    plots.bands(table, ax, title="a", unit="um")
    dots = [container.lines[0] for container in ax.containers]
    assert [line.get_ydata().tolist() for line in dots] == [[1.2, 0.8], [1.0, 1.0]]
    assert [line.get_color() for line in dots] == [plots.INK, plots.GREY]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0-15", "15+"]
    assert ax.get_xlabel() == "depth in the tumour, um"


def test_heads_draw_every_head_and_the_mean_of_each_layer(ax):
    table = pd.DataFrame(
        {
            "weights": ["untrained"] * 4,
            "layer": [0, 0, 1, 1],
            "head": [0, 1] * 2,
            "value": [2.0, 4.0, 6.0, 8.0],
        }
    )
    plots.heads(
        table.assign(low=table["value"] - 1, high=table["value"] + 1), ax, even=5.0, mpp=0.5
    )
    assert ax.containers[0].lines[0].get_ydata().tolist() == [2, 4, 6, 8]
    means = next(line for line in ax.lines if line.get_label() == "untrained")
    assert means.get_xdata().tolist() == [1, 2]
    assert means.get_ydata().tolist() == [3, 7]
    assert ax.child_axes[0].get_ylabel() == "micrometres"
    assert any(
        line.get_label() == "even attention" and line.get_ydata()[0] == 5 for line in ax.lines
    )


def test_heads_of_one_slide_have_no_interval_and_are_drawn(ax):
    table = pd.DataFrame(
        {
            "weights": ["trained"] * 2,
            "layer": [0, 1],
            "head": [0, 0],
            "value": [2.0, 4.0],
            "low": np.nan,
            "high": np.nan,
        }
    )
    plots.heads(table, ax, mpp=np.nan)
    assert ax.get_ylim() == pytest.approx((0, 4.6))
    assert ax.containers[0].lines[0].get_ydata().tolist() == [2, 4]


def test_picture_takes_tensors_and_arrays_alike():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (plots.picture(image.transpose(2, 0, 1)) == image).all()
    assert (plots.picture(image) == image).all()


def test_gallery_colours_right_and_wrong():
    figure = plots.gallery(
        [np.zeros((8, 8, 3), np.uint8)] * 3, ["a", "b", "c"], right=[True, False, True], columns=2
    )
    assert [ax.title.get_color() for ax in figure.axes[:2]] == ["#00695c", plots.RED]
    plots.close(figure)


def test_figures_are_reproducible_bytes():
    def drawn_once():
        figure, (ax,) = plots.panels()
        plots.confusion(np.eye(4), ax)
        content = [plots.image_bytes(figure, kind=kind) for kind in ("png", "svg")]
        plots.close(figure)
        return content

    assert drawn_once() == drawn_once()
