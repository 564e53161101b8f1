"""Speed as a ratio: both sides run equally often, in turns, and the first time does not count."""

import numpy as np
import pandas as pd
import torch
from finished_runs import finished_study, patch_table

from her2lib.networks import models
from her2lib.pages import speed
from her2lib.report.book import Book


class Clock:
    """Time that passes only in work: each call of a task takes its seconds."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)

    def task(self, name, *seconds):
        """A function of no arguments; its calls take these seconds, the last one ever after."""
        left = list(seconds)

        def work():
            self.calls.append(name)
            self.now += left[0]
            if len(left) > 1:
                left.pop(0)

        return work


def test_each_side_runs_equally_often_in_turns(monkeypatch):
    clock = Clock(monkeypatch)
    ratios = speed.ratio(clock.task("work", 6.0), clock.task("bare", 2.0), turns=4)
    assert ratios == [3.0] * 4
    assert clock.calls == ["work", "bare"] * 5


def test_the_first_time_of_each_side_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    ratios = speed.ratio(
        clock.task("work", 100.0, 1.0, 3.0), clock.task("bare", 50.0, 2.0), turns=2
    )
    assert ratios == [0.5, 1.5]


def test_the_table_shows_the_median_between_the_extremes(tmp_path, monkeypatch):
    book = Book(finished_study(tmp_path, monkeypatch), "91_speed")
    shown = speed.ratio_table(book, {"a over b": [5.0, 1.0, 2.0]}, caption="Median of 3 turns.")
    (row,) = book.rows.values()
    assert (row["value"], row["low"], row["high"], row["n"]) == (2.0, 1.0, 5.0, 3)
    assert (row["question"], row["set"]) == ("speed", "this machine")
    assert "not an interval" in row["note"]
    assert "2.00 (1.00 to 5.00)" in shown
    assert "Median of 3 turns." in shown
    assert pd.read_csv(book.file)["sample"].tolist() == ["turns"]


def test_decoding_reads_every_file_and_every_row_of_the_store(tmp_path, monkeypatch):
    table = patch_table(tmp_path / "images", [0, 1, 2])
    opened = []
    open_image = speed.Image.open

    def keep(path):
        opened.append(path)
        return open_image(path)

    monkeypatch.setattr(speed.Image, "open", keep)
    images = torch.zeros((3, 3, 32, 32), dtype=torch.uint8)
    ratios = speed.decoding_over_store(table["path"], images, 32)
    assert len(ratios) == speed.TURNS
    assert min(ratios) > 0
    assert opened == table["path"].tolist() * (speed.TURNS + 1)


def test_maps_and_the_rule_are_measured_against_inference_on_the_same_patches(monkeypatch):
    predicted = []
    monkeypatch.setattr(speed.train, "predict", lambda net, images, batch: predicted.append(images))
    net = models.create("resnet18", side_px=32, weights="none")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 32, 32), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    for measure in (speed.grad_cam_over_inference, speed.rule_over_inference):
        predicted.clear()
        ratios = measure(net, images)
        assert len(ratios) == speed.TURNS
        assert min(ratios) > 0
        assert len(predicted) == speed.TURNS + 1
        assert all(one is images for one in predicted)


def test_the_machine_is_described_with_its_precision_and_versions():
    facts = speed.machine("cpu")["value"]
    assert facts["device"] == "cpu"
    assert facts["threads"] == torch.get_num_threads()
    assert isinstance(facts["precision"], str)
    assert facts["torch"] == torch.__version__.split("+")[0]
