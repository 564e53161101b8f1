"""A browser, and a study small enough to train on the spot; JupyterLab with its explorer."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from watching import Watched

from her2lib import files
from her2lib.study import config

ROOT = Path(__file__).parents[2]
USERS_FOLDERS = (files.REPORTS, files.CACHE)  # before any test points them elsewhere
EVIL = "<img src=x onerror=alert(1)>_3+.png"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--js-flags=--expose-gc",
    "--enable-precise-memory-info",
]
NETWORKS = ("resnet18", "vit_tiny")
STUDY = """question = "What does a browser show?"
rooms = ["90_explorer"]
[data]
any_field = true
source = {source!r}
[axes]
network = {networks}
weights = ["none"]
side_px = [64]
[train]
epochs = 1
[maps]
patches = {patches}
"""

# Cells that are run before the kernel answers are dropped without a word.
RUN_ALL_CELLS = """async () => {
  const app = window.jupyterapp;
  const panel = app.shell.currentWidget;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  app.shell.collapseLeft();
  app.commands.execute("notebook:run-all-cells");
}"""


@pytest.fixture(scope="session")
def browser():
    """Chromium without a head; CHROMIUM names another one than that on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    on_path = [shutil.which(name) for name in names]
    program = os.environ.get("CHROMIUM") or next(filter(None, on_path), None)
    if not program:
        pytest.skip("there is no Chromium: install it, or name one in the variable CHROMIUM")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


# --- studies -------------------------------------------------------------------------------------


def patches(folder, many, *, side_px=96):
    """Path of a manifest of images whose tissue is drawn by chance: brown where scores are high.

    The first has a hostile name, the second no HE partner; the raters disagree on every third.
    """
    rng = np.random.default_rng(5)
    (folder / "he").mkdir(exist_ok=True)
    rows = []
    for k in range(many):
        score = (3, 1, 2, 0)[k % 4]
        name = EVIL if k == 0 else f"{k:05}_{score}+.png"
        coarse = Image.fromarray((255 * rng.random((8, 8))).astype(np.uint8))
        coarse = coarse.resize((side_px, side_px), Image.Resampling.BICUBIC)
        brown = np.asarray(coarse)[..., None] / 255 > 1 - (score + 1) / 6
        noise = rng.integers(-20, 20, (side_px, side_px, 3))
        image = np.where(brown, (150, 100, 60), (225, 222, 232)) + noise
        save_image(folder / name, image)
        he = f"he/{k:05}.png" if k != 1 else ""
        if he:
            save_image(folder / he, 255 - image // 2)
        subset = "train"
        if k < many // 2:
            subset = "test"
        elif k < many // 2 + 2:
            subset = "val"
        rows.append(
            {
                "path": name,
                "score": f"{score}+" if score else "0",
                "slide": f"s{k}",
                "patient": f"p{k}",
                "mpp": 0.5,
                "he": he,
                "set": subset,
                "rater_a": score,
                "rater_b": score if k % 3 else 0,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def save_image(file, values):
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(file)


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """(study, data, file, folder): twelve patches and two trained networks.

    HER2_REPORTS and HER2_CACHE lie in the folder.
    """
    import torch

    from her2lib.study import cohort

    folder = tmp_path_factory.mktemp("browser")
    (folder / "data").mkdir()
    manifest = patches(folder / "data", 12)
    file = folder / "strangers.toml"
    text = STUDY.format(source=str(manifest), networks=list(NETWORKS), patches=12)
    file.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder / "reports")
        patch.setattr(files, "CACHE", folder / "cache")
        study = config.load_study(str(file))
        data = cohort.prepare_cohort(study, side_px=64, progress=False)
        torch.set_num_threads(2)
        train_all(study, data)
        yield study, data, file, folder


def train_all(study, data):
    from her2lib.networks import checkpoint, models, recipes, train

    subsets = {}
    for name in ("train", "val", "test"):
        subsets[name] = data.patches.take(np.flatnonzero(data.table["set"] == name))
    for axes in study.runs():
        net = models.create(axes["network"], side_px=64, weights="none", seed=0)
        recipe = recipes.recipe(axes["recipe"], network=axes["network"], **study.train)
        fit = train.fit(net, subsets["train"], subsets["val"], seed=0, progress=False, **recipe)
        rows = []
        for name, subset in subsets.items():
            probabilities = train.predict(fit.net, subset.images)
            rows.append(train.prediction_table(probabilities, subset, run=axes["run"], subset=name))
        checkpoint.save_run(
            study.folder_of(axes["run"]),
            net=fit.net,
            fit=fit,
            predictions=pd.concat(rows),
            parameters=axes,
        )


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """(study, data, folder) of the finished demo study.

    The folder holds its runs by links, so that notes and pages of a test lie elsewhere.
    """
    from her2lib.study import cohort, results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", USERS_FOLDERS[0])
        patch.setattr(files, "CACHE", USERS_FOLDERS[1])
        study = config.load_study("demo")
        runs = [run["run"] for run in study.runs()]
        missing = [run for run in runs if not results.is_finished(study, run)]
        if missing:
            pytest.skip(f"the demo study lacks {len(missing)} of its runs: make demo")
        folder = tmp_path_factory.mktemp("demo")
        (folder / "demo").mkdir()
        written = {"notes", "explorer.html", "explorer_files"}
        for path in study.folder.resolve().iterdir():
            if path.name not in written:
                (folder / "demo" / path.name).symlink_to(path)
        data = cohort.prepare_cohort(study, side_px=study.run()["side_px"], progress=False)
        return study, data, folder


# --- pages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def page_file(small_study):
    """Path of that study's explorer.html, with label doubt for three patches."""
    from her2lib.explorer import page

    study, data, *_ = small_study
    rank = data.table.index
    doubt = pd.DataFrame(
        {"patch": data.table["name"], "doubt": np.where(rank < 3, 0.9 - 0.1 * rank, 0.01)}
    )
    return page.write_page(study, data, patches=12, doubt=doubt, progress=False)


@pytest.fixture(scope="session")
def demo_page(demo):
    """Path of explorer.html of the demo study, 48 patches, written afresh."""
    from her2lib.explorer import page, source

    study, data, folder = demo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder)
        return page.write_page(study, data, doubt=source.read_doubts(study), progress=False)


# --- JupyterLab ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["small", "demo"])
def shown(request):
    """(study, table of patches, folder of reports): the small study, and a finished demo."""
    if request.param == "small":
        study, data, _, home = request.getfixturevalue("small_study")
        return study, data.table, home / "reports"
    study, data, folder = request.getfixturevalue("demo")
    return study, data.table, folder


@pytest.fixture(scope="module")
def lab(shown, tmp_path_factory, request):
    """(address, token) of JupyterLab on loopback, with 90_explorer set to that study."""
    study, _, reports = shown
    root = tmp_path_factory.mktemp("lab")
    name = "demo"
    cache = USERS_FOLDERS[1]
    if study.name != "demo":
        _, _, file, home = request.getfixturevalue("small_study")
        name = str(file)
        cache = home / "cache"
    write_notebooks(root / "notebooks", name)
    write_settings(root / "settings")
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(root / "CONFIG_DIR"),
        "JUPYTER_DATA_DIR": str(root / "DATA_DIR"),
        "JUPYTER_RUNTIME_DIR": str(root / "RUNTIME_DIR"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
        "HER2_REPORTS": str(reports),
        "HER2_CACHE": str(cache),
    }
    port = free_port()
    token = secrets.token_hex(16)
    command = lab_command(root, port, token)
    with open(root / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_server(server, f"{address}/api?token={token}", root / "log")
        yield address, token
    finally:
        server.terminate()
        server.wait(30)


def write_notebooks(folder, study_name):
    """Writes 90_explorer for a study, and memory.ipynb: the same up to the explorer."""
    notebook = json.loads((ROOT / "notebooks" / "90_explorer.ipynb").read_text(encoding="utf-8"))
    last = 0
    for k, cell in enumerate(notebook["cells"]):
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = [f"study_name = {study_name!r}"]
        if "explorer.explore(" in "".join(cell["source"]):
            last = k
    assert last, "90_explorer shows no explorer"
    short = {**notebook, "cells": notebook["cells"][: last + 1]}
    folder.mkdir()
    (folder / "90_explorer.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    (folder / "memory.ipynb").write_text(json.dumps(short), encoding="utf-8")


def write_settings(folder):
    """Writes settings under which JupyterLab asks no server for news."""
    file = folder / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    file.parent.mkdir(parents=True)
    file.write_text('{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def lab_command(root, port, token):
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=None",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


def wait_for_server(server, url, log):
    end = time.monotonic() + 90
    while True:
        try:
            urlopen(url, timeout=5).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, "JupyterLab did not start in 90 s"
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="module")
def widget(browser, lab):
    """Watched 90_explorer in JupyterLab after all its cells have run."""
    address, token = lab
    context = browser.new_context(viewport={"width": 1500, "height": 1300}, accept_downloads=True)
    watched = Watched(context.new_page(), ".her2")
    # With ?reset it loads twice and drops what was run between.
    watched.page.goto(f"{address}/lab/tree/notebooks/90_explorer.ipynb?token={token}")
    watched.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    watched.page.evaluate(RUN_ALL_CELLS)
    try:
        watched.page.wait_for_selector(
            ".her2 .panel canvas.view", timeout=120_000, state="attached"
        )
    finally:
        watched.shot("a0_lab")
    watched.page.evaluate("document.querySelector('.her2').scrollIntoView({ block: 'start' })")
    # The kernel writes explorer.html first.
    watched.page.wait_for_function(
        """() => document.querySelector(".her2").explorer.panels.views
          .every((view) => view.picture)""",
        timeout=240_000,
    )
    yield watched
    context.close()
