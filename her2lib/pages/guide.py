"""What 00 shows a newcomer: the machine, the notebooks, the studies, a phantom of each score."""

import json
from collections.abc import Sequence

import pandas as pd
import torch

from her2lib import plots
from her2lib.files import ROOT
from her2lib.networks.recipes import choose_precision
from her2lib.phantoms.dataset import Phantom
from her2lib.report.book import Html
from her2lib.scores import SCORES
from her2lib.study.config import load_study, study_files


def machine_sentence(device: str) -> Html:
    """Html: the device, its threads, and its number format with the reason."""
    threads = torch.get_num_threads()
    reason = choose_precision(device)[1]
    return Html(f"<p><strong>{device}</strong>, {threads} threads; {reason}</p>")


def notebook_list() -> Html:
    """Html list of the titles of all notebooks, in reading order."""
    items = []
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first_cell = json.loads(file.read_text(encoding="utf-8"))["cells"][0]
        title = "".join(first_cell["source"]).splitlines()[0].strip("# ")
        items.append(f"<li>{title}</li>")
    return Html(f"<ul>{''.join(items)}</ul>")


def study_table() -> pd.DataFrame:
    """DataFrame (study, question, runs) of every study file of the project."""
    rows = []
    for file in study_files():
        study = load_study(file)
        row = {"study": file.stem, "question": study.question, "runs": len(study.runs())}
        rows.append(row)
    return pd.DataFrame(rows)


def phantom_gallery(phantoms: Sequence[Phantom], images: torch.Tensor, rule: torch.Tensor):
    """Figure of phantoms with the score that each was made for and the rule's value of it."""
    titles = []
    for phantom, value in zip(phantoms, rule, strict=True):
        titles.append(f"phantom, score {SCORES[phantom.score]}, rule {value:.2f}")
    return plots.gallery(images, titles)
