"""The explorer as one page that needs no kernel: some patches, with every answer written down."""

import base64
import hashlib
import json
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape
from tqdm.auto import tqdm

from her2lib.explorer import assets
from her2lib.explorer.source import PAGE_MAP_PX, PAGE_VIEW_PX, Source, read_doubts
from her2lib.explorer.widget import Canvas
from her2lib.files import write_text
from her2lib.study.cohort import Cohort, prepare_cohort
from her2lib.study.config import Study

LIMIT_BYTES = 7_500_000  # of answers inside explorer.html; further patches go into sidecars
BATCH = 16  # patches computed at once
SET_ORDER = {"test": 0, "external": 1, "val": 2}  # then what a network was trained on


def publish_page(study: Study, *, patches: int = 48, progress: bool = True) -> Path:
    """Path of reports/<study>/explorer.html of a study's patches, finished runs and label review.

    patches: how many, the test set first. Raises what reading the study's data raises.
    `publish_page(load_study("demo"))`.
    """
    data = prepare_cohort(study, side_px=study.run()["side_px"], progress=progress)
    return write_page(study, data, patches=patches, doubt=read_doubts(study), progress=progress)


def write_page(
    study: Study,
    data: Cohort,
    *,
    patches: int = 48,
    doubt: pd.DataFrame | None = None,
    progress: bool = True,
) -> Path:
    """Path of reports/<study>/explorer.html: some patches, every answer on them written down.

    data: of `prepare_cohort`; patches: how many, the test set first; doubt: DataFrame (patch,
    doubt). `write_page(study, data, patches=12)`.
    """
    rows = _choose_patches(data.table.reset_index(drop=True), patches)
    source = Source(
        study,
        data.table.iloc[rows],
        data.patches.images[rows],
        doubt=doubt,
        view_px=PAGE_VIEW_PX,
        map_px=PAGE_MAP_PX,
    )
    records, sidecars = _share_out(study.folder, _recorded_packets(source, progress))
    content = {
        "catalogue": source.catalogue(page=True),
        "state": {**Canvas.default_state(), **source.opening_state()},
        "records": records,
        "sidecars": sidecars,
    }
    return write_text(study.folder / "explorer.html", _render_page(study.name, content))


# --- what the page holds --------------------------------------------------------------------------


def _choose_patches(table, n_patches):
    """list of rows: test, external, validation, training; within a set the scores in turn."""
    rank = table["set"].map(SET_ORDER).fillna(len(SET_ORDER))
    # Within a set: the first patch of every score, then the second of every score, and so on.
    turn = table.groupby([rank, table["score"]]).cumcount()
    order = table.assign(rank=rank, turn=turn)
    order = order.sort_values(["rank", "turn", "score"], kind="stable")
    return list(order.index[:n_patches])


def _recorded_packets(source, progress):
    """list of {key: [header, base64]}, one per patch: all that the page may ask for."""
    rows = list(source.table.index)
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    packets = []
    for batch in tqdm(batches, desc="explorer.html", disable=not progress):
        packets += [_as_text(packet) for packet in source.record(batch)]
    return packets


def _as_text(packet):
    """dict key -> [header, base64] of a dict key -> (header, bytes)."""
    return {
        key: [header, base64.b64encode(content).decode()]
        for key, (header, content) in packet.items()
    }


def _share_out(folder, packets):
    """(records inside the page, dict patch -> file beside it): what passes the limit lies beside.

    Files of an earlier, larger page are removed.
    """
    files = folder / "explorer_files"
    records = {}
    sidecars = {}
    bytes_inside = 0
    for patch, packet in enumerate(packets):
        text = json.dumps(packet, separators=(",", ":"))
        if bytes_inside + len(text) > LIMIT_BYTES:
            sidecars[patch] = f"{files.name}/{patch:03}.js"
            write_text(folder / sidecars[patch], f"her2Sidecar({text})")
            # The strip shows every patch, so thumbnails stay inside.
            packet = {key: packet[key] for key in packet if key.startswith("thumb/")}
        bytes_inside += len(json.dumps(packet))
        records.update(packet)
    current = {folder / name for name in sidecars.values()}
    for file in set(files.glob("*.js")) - current:
        file.unlink()
    return records, sidecars


# --- the page itself -----------------------------------------------------------------------------


def _render_page(study_name, content):
    """str, the page; its one script and style are named by hash, so that it runs nothing else."""
    # Written so, no "<" in the data can end the script that holds them.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    script = assets.read_script()
    style = assets.read_style()
    folders = [assets.FOLDER, assets.FOLDER.parent]
    environment = Environment(loader=FileSystemLoader(folders), autoescape=select_autoescape())
    return environment.get_template("explorer.html").render(
        study=study_name,
        data=data,
        script=script,
        style=style,
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
    )


def _csp_hash(text):
    """str, a text's hash as a content security policy writes it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
