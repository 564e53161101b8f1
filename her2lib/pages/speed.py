"""What 91 measures: the cost of a step as a ratio to the bare work that nobody can avoid."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import pandas as pd
import torch
from PIL import Image

from her2lib import stain
from her2lib.maps import attribution
from her2lib.networks import models, train
from her2lib.networks.recipes import choose_precision
from her2lib.report.book import Book, Html
from her2lib.stats.intervals import Estimate
from her2lib.study.fingerprints import environment

TURNS = 5
NOT_AN_INTERVAL = "brackets: lowest and highest turn, not an interval"


def machine(device: str) -> pd.DataFrame:
    """DataFrame (value) of the device, its number format with the reason, threads and versions."""
    facts = {
        "device": device,
        "precision": choose_precision(device)[1],
        "threads": torch.get_num_threads(),
        **environment(),
    }
    return pd.Series(facts, name="value").to_frame()


def decoding_over_store(paths: Sequence, images: torch.Tensor, side_px: int) -> list[float]:
    """list of float, by turn: image files decoded and resized, over rows read from the store."""

    def decode():
        for path in paths:
            np.asarray(Image.open(path).convert("RGB").resize((side_px, side_px)))

    def read():
        for row in range(len(paths)):
            images[row].clone()

    return ratio(decode, read)


def grad_cam_over_inference(net: models.Net, images: torch.Tensor) -> list[float]:
    """list of float, by turn: a Grad-CAM of each patch over plain inference on them."""
    x = models.normalise(images.to(next(net.parameters()).device), net)

    def explain():
        attribution.grad_cam(net, x, 1)

    return ratio(explain, _inference(net, images))


def rule_over_inference(net: models.Net, images: torch.Tensor) -> list[float]:
    """list of float, by turn: the DAB rule over every pixel, over plain inference on them."""

    def measure():
        stain.rule_value(images)

    return ratio(measure, _inference(net, images))


def ratio(work: Callable, bare: Callable, *, turns: int = TURNS) -> list[float]:
    """list of float, seconds of work over seconds of bare, in turns; first each runs unmeasured."""
    # the first time costs more: files come from the disk, kernels are chosen
    work()
    bare()
    ratios = []
    # in turns, so that other work on the machine slows both
    for _ in range(turns):
        seconds = _seconds(work)
        ratios.append(seconds / _seconds(bare))
    return ratios


def ratio_table(book: Book, ratios: dict[str, list[float]], *, caption: str) -> Html:
    """Html table of the median of each ratio, with its lowest and highest turn."""
    estimates = {}
    for name, turns in ratios.items():
        estimates[name] = Estimate(
            median(turns), min(turns), max(turns), len(turns), "turns", NOT_AN_INTERVAL
        )
    ids = book.add(estimates, question="speed", subset="this machine")
    rows = {name: [ids[name]] for name in estimates}
    return book.table(["ratio"], rows=rows, head="what", caption=caption)


def _inference(net, images):
    def infer():
        train.predict(net, images, batch=16)

    return infer


def _seconds(work):
    """float, seconds that a function takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
