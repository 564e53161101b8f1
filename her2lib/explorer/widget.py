"""Any patch through any network, by hand: one JavaScript source draws a Jupyter widget and a page that needs no kernel."""

import base64
import csv
import hashlib
import io
import json
import os
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anywidget
import ipywidgets as ui
import pandas as pd
from filelock import FileLock
from jinja2 import Environment, FileSystemLoader, select_autoescape
from tqdm.auto import tqdm
from traitlets import Any

from her2lib.explorer.source import (
    PAGE_MAP_PX,
    PAGE_VIEW_PX,
    STATE,
    TARGETS,
    Source,
    explains,
    label,
)
from her2lib.files import make_folder, write_text
from her2lib.maps.attribution import methods_for
from her2lib.scores import SCORES, parse_score
from her2lib.study.cohort import prepare_cohort
from her2lib.study.config import REVIEW

HERE = Path(__file__).parent
LIMIT_BYTES = 7_500_000  # of answers inside explorer.html; further patches go into sidecars
BATCH = 16  # patches computed at once for the page
NOTE = ("time", "reader", "patch", "score", "note")
LABELS = dict(
    pair.split("=")
    for pair in re.split(
        r"\|",
        (
            "search=File name|truth=True|predicted=Predicted|verdict=Verdict|sure_from=Sure from %|sure_to=… to %|disagree=raters disagree|"
            "doubt=label in doubt|selected=Panel|shows=Shows|network=Network|method=Method|score=Explains|smooth=smooth|stretch=stretch|"
            "layer=Layer|head=Head, 0 all|opacity=Opacity|threshold=Threshold"
        ),
    )
)
SLID = ("layer", "head", "opacity", "threshold")  # moved without the kernel
WIDE = {"layout": {"width": "270px"}, "style": {"description_width": "90px"}}
Canvas = type(
    "Canvas",
    (anywidget.AnyWidget,),
    {
        "__doc__": "The drawing in the notebook; what it shows are its traits.",
        "_esm": HERE / "explorer.js",
        "_css": HERE / "explorer.css",
        **{name: Any(value).tag(sync=True) for name, value in {**STATE, "catalogue": {}}.items()},
    },
)


def widget(study, data, *, doubt=None):
    """ipywidgets layout over a study's patches (data of cohort.prepared; doubt: table patch, doubt); maps are computed on demand."""
    source = Source(study, data.table, data.patches.images, doubt=doubt)
    canvas = Canvas(
        catalogue=source.catalogue(),
        **_start(source),
        layout=ui.Layout(flex="1 1 auto", min_width="0"),
    )
    canvas.on_msg(partial(_reply, source))
    return ui.HBox([_controls(source, canvas), canvas], layout=ui.Layout(align_items="flex-start"))


def write_page(study, data, *, patches=48, doubt=None, progress=True):
    """Path of reports/<study>/explorer.html: some patches, test set first, with every answer written down; it needs no kernel."""
    rows, folder = (
        _chosen(data.table.reset_index(drop=True), patches),
        study.folder / "explorer_files",
    )
    source = Source(
        study,
        data.table.iloc[rows],
        data.patches.images[rows],
        doubt=doubt,
        view_px=PAGE_VIEW_PX,
        map_px=PAGE_MAP_PX,
    )
    records, sidecars, spent = {}, {}, 0
    for patch, packet in enumerate(_recorded(source, progress)):
        text = json.dumps(packet, separators=(",", ":"))
        if spent + len(text) > LIMIT_BYTES:
            sidecars[patch] = f"{folder.name}/{patch:03}.js"
            packet = {key: packet[key] for key in packet if key.startswith("thumb/")}
            write_text(study.folder / sidecars[patch], f"her2Sidecar({text})")
        spent, records = spent + len(json.dumps(packet)), records | packet
    for file in set(folder.glob("*.js")) - {study.folder / name for name in sidecars.values()}:
        file.unlink()  # of an earlier, larger page
    held = {
        "catalogue": source.catalogue(page=True),
        "state": {**STATE, **_start(source)},
        "records": records,
        "sidecars": sidecars,
    }
    return write_text(study.folder / "explorer.html", _page(study.name, held))


def publish_page(study, *, patches=48, progress=True):
    """Path of reports/<study>/explorer.html of a study's own patches, finished runs and label review."""
    data = prepare_cohort(study, side_px=study.run()["side_px"], progress=progress)
    return write_page(study, data, patches=patches, doubt=read_doubts(study), progress=progress)


def read_doubts(study):
    """DataFrame (patch, doubt 0..1) as 09_label_review wrote it last, or None before it has run."""
    file = study.folder_of(REVIEW) / "doubt.csv"
    if not file.is_file():
        return None
    table = pd.read_csv(file, dtype={"patch": str})
    if missing := {"patch", "doubt"} - set(table):
        raise ValueError(
            f"{file} has no column {' and '.join(sorted(missing))}: run {REVIEW} again."
        )
    return table[["patch", "doubt"]].drop_duplicates("patch")


def add_note(folder, reader, patch, score, note):
    """Path of the reader's own CSV with one row more, on the disk when this returns; a row cut short by a kill is dropped by the next."""
    words = [re.sub(r"\s*[\r\n]+\s*", " ", str(word)).strip() for word in (reader, patch, note)]
    if not words[0]:
        raise ValueError("Give your name as reader first: every note carries it.")
    row = (
        datetime.now(UTC).isoformat(timespec="seconds"),
        *words[:2],
        SCORES[parse_score(score)] if score else "",
        words[2],
    )
    file = make_folder(folder) / (re.sub(r"[^\w-]+", "_", words[0])[:50] + ".csv")
    with FileLock(file.with_suffix(".lock")), open(file, "a+b", buffering=0) as out:
        whole = out.seek(0) or out.read().rfind(b"\n") + 1
        out.truncate(whole)
        csv.writer(text := io.StringIO(), lineterminator="\n").writerows(
            [row] if whole else [NOTE, row]
        )
        out.write(text.getvalue().encode())
        os.fsync(out.fileno())
    return file


def notes(folder):
    """DataFrame (time, reader, patch, score, note) of every reader's CSV in a folder, whole rows only, oldest first."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.csv"))]
    frames = [
        pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]), dtype=str, keep_default_na=False)
        for text in texts
        if "\n" in text
    ]
    return pd.concat([pd.DataFrame(columns=NOTE), *frames])[list(NOTE)].sort_values(
        "time", kind="stable", ignore_index=True
    )


def _start(source):
    network = next(iter(source.networks), "")
    panel = {
        "shows": "map" if network else "dab",
        "network": network,
        "method": "grad_cam",
        "layer": 1,
        "head": 0,
    }
    return {
        "network": network,
        "shows": panel["shows"],
        "panels": [{**panel, "shows": "original"}, panel],
        "selected": 1,
    }


def _reply(source, canvas, content, buffers):
    """None; answers the drawing, or tells it in a sentence why not: a stranger's file may raise anything."""
    header, data = {}, b""
    try:
        if "take" in content:
            canvas.extra = [*canvas.extra, source.take(str(content["take"]), bytes(buffers[0]))]
            canvas.patch = len(source.table) + len(canvas.extra) - 1
        else:
            header, data = source.answer(content["ask"])
        canvas.send({"id": content["id"], "header": header}, [data])
    except Exception as error:
        canvas.send(
            {
                "id": content["id"],
                "error": f"{content.get('take', 'This map')!s} cannot be shown: {error}",
            }
        )


def _controls(source, canvas):
    """VBox of ipywidgets: sliders are linked in the browser, so they move without the kernel; the rest goes through it."""
    scores, shows, box = ["any", *SCORES, "?"], canvas.catalogue["shows"], {}
    names = [(name, run) for run, (name, _, _) in source.networks.items()] or [
        ("none has finished", "")
    ]
    options = {
        "truth": scores,
        "predicted": scores,
        "verdict": ["any", "right", "wrong"],
        "network": names,
        "method": [],
        "selected": [],
        **{
            key: [(word, value) for value, word in words.items()]
            for key, words in (("shows", shows), ("score", TARGETS))
        },
    }
    for key, text in LABELS.items():
        kind = {
            bool: ui.Checkbox,
            float: ui.FloatSlider,
            str: ui.Text,
            int: ui.IntSlider if key in SLID else ui.BoundedIntText,
        }
        more = (
            {"options": options[key]}
            if key in options
            else {"step": 0.01, "max": 1}
            if isinstance(STATE[key], float)
            else {}
        )
        box[key] = (ui.Dropdown if key in options else kind[type(STATE[key])])(
            description=text, **WIDE, **more
        )
    many = ui.Dropdown(options=[2, 3, 4], description="Panels", **WIDE)

    def follow(*_):
        with canvas.hold_trait_notifications():
            canvas.panels = [*canvas.panels, *[canvas.panels[-1]] * 2][: many.value]
            canvas.selected = min(canvas.selected, many.value - 1)
        net = source.networks[canvas.network][1] if canvas.network else None
        methods = (
            [(label(name), name) for name in methods_for(net)] if net else [("none", "grad_cam")]
        )
        for key, choice in (
            ("selected", [(str(k + 1), k) for k in range(many.value)]),
            ("method", methods),
        ):
            if box[key].options != tuple(choice):
                kept, box[key].options = getattr(canvas, key), choice
                box[key].value = kept if kept in [value for _, value in choice] else choice[0][1]
        box["layer"].min, box["layer"].max, box["head"].max = (
            1,
            max(1, net.layers if net else 1),
            net.heads if net else 0,
        )
        drawn, attends = net and canvas.shows == "map", canvas.method == "attention"
        for key, acts in (
            ("method", True),
            ("score", len(explains(canvas.method)) > 1),
            ("layer", attends),
            ("head", attends),
        ):
            box[key].disabled = not (drawn and acts)

    follow()
    canvas.observe(follow, ["network", "method", "shows"])
    many.observe(follow, "value")
    for key, control in box.items():
        control.value = getattr(canvas, key)  # a browser link begins with the control's value
        (ui.jslink if key in SLID else ui.link)((control, "value"), (canvas, key))
    heading, rows = (
        [ui.HTML(f"<b>{text}</b>") for text in ("Patches", "Selected panel", "Note on this patch")],
        list(box.values()),
    )
    parts = [
        heading[0],
        *rows[:8],
        heading[1],
        many,
        *rows[8:],
        heading[2],
        *_noting(source, canvas),
    ]
    return ui.VBox(parts, layout=ui.Layout(flex="0 0 285px"))


def _noting(source, canvas):
    """list of ipywidgets that write a reader's note on the patch in sight to the study's folder at once."""
    reader, proposed = (
        ui.Text(description="Reader", **WIDE),
        [("none", ""), *zip(SCORES, SCORES, strict=True)],
    )
    score = ui.Dropdown(options=proposed, description="Proposed", **WIDE)
    note, save, told = (
        ui.Textarea(description="Note", rows=2, **WIDE),
        ui.Button(description="Save note"),
        ui.Label(),
    )

    def keep(_):
        names = [*source.table["name"], *(row["name"] for row in canvas.extra)]
        try:
            file = add_note(
                source.study.folder / "notes",
                reader.value,
                names[canvas.patch],
                score.value,
                note.value,
            )
            told.value, note.value, score.value = (
                f"Kept in {file.name}: {names[canvas.patch]}",
                "",
                "",
            )
        except (ValueError, OSError) as error:
            told.value = str(error)

    save.on_click(keep)
    return [reader, score, note, save, told]


def _chosen(table, many):
    """list of rows for the page: test, external, validation, training, and within a set the scores in turn."""
    rank = table["set"].map({"test": 0, "external": 1, "val": 2}).fillna(3)
    turn = table.groupby([rank, table["score"]]).cumcount()
    return list(
        table.assign(rank=rank, turn=turn)
        .sort_values(["rank", "turn", "score"], kind="stable")
        .index[:many]
    )


def _recorded(source, progress):
    """list of {key: [header, base64]}, one per patch: all that the page may ask for."""
    parts = [
        list(source.table.index[start : start + BATCH])
        for start in range(0, len(source.table), BATCH)
    ]
    packets = [
        packet
        for part in tqdm(parts, desc="explorer.html", disable=not progress)
        for packet in source.record(part)
    ]
    return [
        {key: [header, base64.b64encode(data).decode()] for key, (header, data) in packet.items()}
        for packet in packets
    ]


def _page(name, held):
    """str, the page; what it may load and run is fixed by hash, and '<' in the data is written so that nothing can end the script."""
    texts = {
        kind: (HERE / f"explorer.{kind}").read_text(encoding="utf-8") for kind in ("js", "css")
    }
    marks = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in texts.items()
    }
    template = Environment(
        loader=FileSystemLoader([HERE, HERE.parent]), autoescape=select_autoescape()
    ).get_template("explorer.html")
    data = json.dumps(held, separators=(",", ":")).replace("<", "\\u003c")
    return template.render(
        study=name,
        data=data,
        script=texts["js"],
        style=texts["css"],
        script_hash=marks["js"],
        style_hash=marks["css"],
    )
