"""Any patch through any network, by hand: one JavaScript source draws a Jupyter widget and a page that needs no kernel."""

import base64
import csv
import hashlib
import inspect
import io
import json
import os
import re
from collections import OrderedDict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anywidget
import ipywidgets as ui
import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image, ImageOps
from torch.nn import functional as F
from tqdm.auto import tqdm
from traitlets import Any

from her2lib import stain, store, train
from her2lib.attribute import METHODS, looking, methods_for, pieces
from her2lib.book import PROBABILITIES, shown_runs, tables
from her2lib.models import normalise
from her2lib.patches import pixels
from her2lib.scores import COLOURS, CUTS, SCORES, parse
from her2lib.study import made, write_text

HERE = Path(__file__).parent
LIMIT_BYTES = 7_500_000  # of answers inside explorer.html; further patches go into sidecars
THUMB_PX, VIEW_PX, PAGE_VIEW_PX, PAGE_MAP_PX, BATCH = 96, 1024, 512, 56, 16
SHOWS = {"original": "IHC, as it is", "he": "HE partner",
         "dab": "DAB (brown)", "haematoxylin": "Haematoxylin (blue)", "map": "Map of a network"}
TARGETS = {"predicted": "the predicted score", **{score: f"score {score}" for score in SCORES}, "expected": "the expected score",
           **{cut: f"cut {cut}" for cut in CUTS}}
UNSIGNED = {"attention", "rollout", "relevance", "centre", "dab", "edges"}  # nothing in their definition goes below 0
KERNEL_ONLY = {"integrated_gradients", "occlusion"}  # 33 and about 170 passes a patch and score: too slow to write down in advance
NOTE = ("time", "reader", "patch", "score", "note")
STATE = {
    "patch": 0, "shows": "original", "network": "", "method": "grad_cam", "layer": 1, "head": 0, "score": "predicted", "place": [],
    "opacity": 0.6, "threshold": 0.0, "smooth": True, "stretch": False, "panels": [], "selected": 0, "extra": [], "search": "",
    "truth": "any", "predicted": "any", "verdict": "any", "sure_from": 0, "sure_to": 100, "disagree": False, "doubt": False,
}
LABELS = dict(pair.split("=") for pair in re.split(r"\|", (
    "search=File name|truth=True|predicted=Predicted|verdict=Verdict|sure_from=Sure from %|sure_to=… to %|disagree=raters disagree|"
    "doubt=label in doubt|selected=Panel|shows=Shows|network=Network|method=Method|score=Explains|smooth=smooth|stretch=stretch|"
    "layer=Layer|head=Head, 0: mean|opacity=Opacity|threshold=Threshold")))
SLID = ("layer", "head", "opacity", "threshold")  # moved without the kernel
Canvas = type("Canvas", (anywidget.AnyWidget,), {
    "__doc__": "The drawing in the notebook; what it shows are its traits.", "_esm": HERE / "explorer.js", "_css": HERE / "explorer.css",
    **{name: Any(value).tag(sync=True) for name, value in {**STATE, "catalogue": {}}.items()},
})


class Source:
    """What an explorer may ask for: patches (rows of table, images (N,3,H,W) uint8) and the finished networks of a study."""

    def __init__(self, study, table, images, *, doubt=None, view_px=VIEW_PX, map_px=VIEW_PX):
        self.study, self.table, self.images, self.doubt = study, table.reset_index(drop=True), images, doubt
        self.view_px, self.map_px, self.extra, self.seen = view_px, map_px, [], OrderedDict()
        self.networks = {run: (name, *train.load(study.folder_of(run))) for name, run in reversed(shown_runs(study).items())}
        for _, net, _ in self.networks.values():
            net.to(train.choose_device())

    def answer(self, key):
        """(header dict, bytes) for a key as the JavaScript writes it: thumb/3, picture/3/he, map/3/<run>/grad_cam/2 …"""
        kind, patch, *rest = key.split("/")
        return self.answers(kind, [int(patch)], *rest)[0]

    def answers(self, kind, patches, *rest):
        """list of (header, bytes), one per patch, computed as one batch."""
        if kind in ("thumb", "picture"):
            return [self._picture(patch, kind, *rest) for patch in patches]
        run, *rest = rest
        net = self.networks[run][1]
        x = normalise(torch.stack([self._image(patch, net.side_px) for patch in patches]), net)
        maps = self._map(net, x, *rest) if kind == "map" else self._attention(net, x, *rest)
        return [stack(part) for part in maps]

    def catalogue(self, **more):
        """dict that tells the drawing what there is: patches, networks, methods, colours."""
        inverse = torch.linalg.inv(stain.HDAB)
        return {
            "study": self.study.name, "shows": SHOWS, "targets": TARGETS, "scores": SCORES, "colours": COLOURS, "cuts": CUTS,
            "state": STATE, "patches": self._rows(),
            "stains": {name: {"vector": stain.HDAB[k].tolist(), "inverse": inverse[:, k].tolist()}
                       for k, name in enumerate(stain.STAINS[:2])},
            "methods": {name: {"label": _label(name), "caption": method.caption, "null": method.null, "signed": name not in UNSIGNED,
                               "scored": len(_explained(name)) > 1}
                        for name, method in METHODS.items()},
            "networks": [{**{key: info["parameters"].get(key) for key in ("recipe", "seed", "weights")}, "run": run, "name": name,
                          "side_px": net.side_px, "layers": net.layers, "heads": net.heads, "grid": net.grid,
                          "methods": [key for key in methods_for(net) if not (more.get("page") and key in KERNEL_ONLY)]}
                         for run, (name, net, info) in self.networks.items()], **more,
        }

    def take(self, name, content):
        """dict, the row of a patch that is not in the study, scored by every network; content: the bytes of its file."""
        pixels(io.BytesIO(content))  # a file that is no patch ends here, with the reason
        self.extra.append(content)
        place = len(self.table) + len(self.extra) - 1
        scored = {run: train.predict(net, self._image(place, net.side_px)[None])[0] for run, (_, net, _) in self.networks.items()}
        shares = {run: [round(float(p), 4) for p in row] for run, row in scored.items()}
        return {"name": name, "set": "", "truth": -1, "mpp": None, "he": False, "raters": {}, "doubt": None, "p": shares, "extra": True}

    def _rows(self):
        scored = tables(self.study, "predictions")
        by_run = {run: scored[scored["run"] == run].set_index("patch")[PROBABILITIES].round(4) for run in self.networks}
        given = {run: dict(zip(rows.index, rows.to_numpy().tolist(), strict=True)) for run, rows in by_run.items()}
        doubt = {} if self.doubt is None else dict(zip(self.doubt["patch"], self.doubt["doubt"].astype(float), strict=True))
        raters = [column for column in self.table if column.startswith("rater_")]
        return [{"name": row["name"], "set": row["set"], "truth": int(row["score"]), "mpp": row["mpp"] if row["mpp"] > 0 else None,
                 "he": bool(row["he"]), "raters": {rater[6:]: int(row[rater]) for rater in raters if row[rater] >= 0},
                 "doubt": doubt.get(row["name"]), "p": {run: rows[row["name"]] for run, rows in given.items() if row["name"] in rows}}
                for row in self.table.to_dict("records")]

    def _file(self, patch, which="ihc"):
        if patch >= len(self.table):
            return io.BytesIO(self.extra[patch - len(self.table)])
        return self.table.at[patch, "he" if which == "he" else "path"]

    def _image(self, patch, side_px):
        """(3,side_px,side_px) uint8 as a network saw it in training: from the store where that has this side."""
        if patch < len(self.table) and self.images.shape[-1] == side_px:
            return self.images[patch]
        if (key := (patch, side_px)) not in self.seen:
            self.seen[key] = torch.from_numpy(store.stored(self._file(patch), side_px)[0])
            while len(self.seen) > 8:  # one patch at the sides of all networks; more would grow with every patch looked at
                self.seen.popitem(last=False)
        return self.seen[key]

    def _picture(self, patch, kind, which="ihc"):
        """JPEG of the middle square, not larger than the view; a thumbnail comes from the store, which decodes nothing."""
        if kind == "thumb" and patch < len(self.table):
            image = ImageOps.fit(Image.fromarray(np.asarray(self.images[patch]).transpose(1, 2, 0)), (THUMB_PX, THUMB_PX))
            return {}, _jpeg(image, quality=80)
        image = pixels(self._file(patch, which))
        side_px = min(image.size)
        shown_px = THUMB_PX if kind == "thumb" else min(side_px, self.view_px)
        return {"side_px": side_px}, _jpeg(ImageOps.fit(image, (shown_px, shown_px)), quality=92)

    def _map(self, net, x, method, score):
        """(B,1,h,w) one map a patch, at most map_px across."""
        maps = METHODS[method].function(net, x, int(score) if score.isdigit() else None if score == "-" else score)[:, None].float()
        return F.adaptive_avg_pool2d(maps, self.map_px) if maps.shape[-1] > self.map_px else maps

    def _attention(self, net, x, layer="", head="mean"):
        """(B,layers*heads,h,w) from the token the logits read, or (B,h*w,h,w) from every patch token of one layer."""
        layers, p, found = [int(layer)] if layer else range(net.layers), net.prefix_tokens, []
        for part in pieces(net, x):
            with looking(net, gradients=False):
                seen = net.tap(x[part], attention=layers).attention
            for one in torch.stack([seen[k] for k in layers], 1):  # (L,heads,T,T) of one patch
                if layer:
                    rows = (one[0].mean(0) if head == "mean" else one[0, int(head)])[p:, p:]
                else:
                    rows = one[:, :, 0, p:] if p else one.mean(2)
                found.append(rows.reshape(-1, *net.grid))
        return torch.stack(found)


def stack(maps):
    """(header, bytes) of (n,h,w) maps as uint8 between each map's own lowest and highest value, which stand in the header."""
    maps = np.asarray(maps.cpu(), np.float32)
    low, high = maps.min((1, 2)), maps.max((1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    quantised = np.rint((maps - low[:, None, None]) / span * 255).astype(np.uint8)
    written = {name: [float(f"{value:.5g}") for value in ends] for name, ends in (("low", low), ("high", high))}
    return {"shape": list(maps.shape), **written}, quantised.tobytes()


def widget(study, data, *, doubt=None):
    """ipywidgets layout over a study's patches (data of cohort.prepared; doubt: table patch, doubt); maps are computed on demand."""
    source = Source(study, data.table, data.patches.images, doubt=doubt)
    canvas = Canvas(catalogue=source.catalogue(), **_start(source), layout=ui.Layout(flex="1 1 auto", min_width="0"))
    canvas.on_msg(partial(_reply, source))
    return ui.HBox([_controls(source, canvas), canvas], layout=ui.Layout(align_items="flex-start"))


def render(study, data, *, patches=48, doubt=None, progress=True):
    """Path of reports/<study>/explorer.html: some patches, test set first, with every answer written down; it needs no kernel."""
    rows, folder = _chosen(data.table.reset_index(drop=True), patches), study.folder / "explorer_files"
    source = Source(study, data.table.iloc[rows], data.patches.images[rows], doubt=doubt, view_px=PAGE_VIEW_PX, map_px=PAGE_MAP_PX)
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
    held = {"catalogue": source.catalogue(page=True), "state": {**STATE, **_start(source)}, "records": records, "sidecars": sidecars}
    return write_text(study.folder / "explorer.html", _page(study.name, held))


def add_note(folder, reader, patch, score, note):
    """Path of the reader's own CSV with one row more, on the disk when this returns; a row cut short by a kill is dropped by the next."""
    words = [re.sub(r"\s*[\r\n]+\s*", " ", str(word)).strip() for word in (reader, patch, note)]
    if not words[0]:
        raise ValueError("Give your name as reader first: every note carries it.")
    row = (datetime.now(UTC).isoformat(timespec="seconds"), *words[:2], SCORES[parse(score)] if score else "", words[2])
    file = made(folder) / (re.sub(r"[^\w-]+", "_", words[0])[:50] + ".csv")
    with FileLock(file.with_suffix(".lock")), open(file, "a+b", buffering=0) as out:
        whole = out.seek(0) or out.read().rfind(b"\n") + 1
        out.truncate(whole)
        csv.writer(text := io.StringIO(), lineterminator="\n").writerows([row] if whole else [NOTE, row])
        out.write(text.getvalue().encode())
        os.fsync(out.fileno())
    return file


def notes(folder):
    """DataFrame (time, reader, patch, score, note) of every reader's CSV in a folder, whole rows only, oldest first."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.csv"))]
    frames = [pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]), dtype=str, keep_default_na=False) for text in texts if "\n" in text]
    return pd.concat([pd.DataFrame(columns=NOTE), *frames])[list(NOTE)].sort_values("time", kind="stable", ignore_index=True)


def _start(source):
    network = next(iter(source.networks), "")
    panel = {"shows": "map" if network else "dab", "network": network, "method": "grad_cam", "layer": 1, "head": 0}
    return {"network": network, "shows": panel["shows"], "panels": [{**panel, "shows": "original"}, panel], "selected": 1}


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
        canvas.send({"id": content["id"], "error": f"{content.get('take', 'This map')!s} cannot be shown: {error}"})


def _controls(source, canvas):
    """VBox of ipywidgets: sliders are linked in the browser, so they move without the kernel; the rest goes through it."""
    scores, names = ["any", *SCORES, "?"], [(name, run) for run, (name, _, _) in source.networks.items()]
    options = {"truth": scores, "predicted": scores, "verdict": ["any", "right", "wrong"], "network": names, "method": [], "selected": [],
               **{key: [(word, value) for value, word in words.items()] for key, words in (("shows", SHOWS), ("score", TARGETS))}}
    box, wide = {}, {"layout": {"width": "270px"}, "style": {"description_width": "90px"}}
    for key, text in LABELS.items():
        kind = {bool: ui.Checkbox, float: ui.FloatSlider, str: ui.Text, int: ui.IntSlider if key in SLID else ui.BoundedIntText}
        more = {"options": options[key]} if key in options else {"step": 0.01, "max": 1} if isinstance(STATE[key], float) else {}
        box[key] = (ui.Dropdown if key in options else kind[type(STATE[key])])(description=text, **wide, **more)
    many = ui.Dropdown(options=[2, 3, 4], description="Panels", **wide)

    def follow(*_):
        with canvas.hold_trait_notifications():
            canvas.panels = [*canvas.panels, *[canvas.panels[-1]] * 2][: many.value]
            canvas.selected = min(canvas.selected, many.value - 1)
        net = source.networks[canvas.network][1] if canvas.network else None
        methods = [(_label(name), name) for name in methods_for(net)] if net else [("none", "grad_cam")]
        for key, choice in (("selected", [(str(k + 1), k) for k in range(many.value)]), ("method", methods)):
            if box[key].options != tuple(choice):
                kept, box[key].options = getattr(canvas, key), choice
                box[key].value = kept if kept in [value for _, value in choice] else choice[0][1]
        box["layer"].min, box["layer"].max, box["head"].max = 1, max(1, net.layers if net else 1), net.heads if net else 0

    follow()
    canvas.observe(follow, "network")
    many.observe(follow, "value")
    for key, control in box.items():
        control.value = getattr(canvas, key)  # a browser link begins with the control's value
        (ui.jslink if key in SLID else ui.link)((control, "value"), (canvas, key))
    heading, rows = [ui.HTML(f"<b>{text}</b>") for text in ("Patches", "Selected panel", "Note on this patch")], list(box.values())
    parts = [heading[0], *rows[:8], heading[1], many, *rows[8:], heading[2], *_noting(source, canvas)]
    return ui.VBox(parts, layout=ui.Layout(flex="0 0 285px"))


def _noting(source, canvas):
    """list of ipywidgets that write a reader's note on the patch in sight to the study's folder at once."""
    wide = {"layout": {"width": "270px"}, "style": {"description_width": "90px"}}
    scores = {"none": "", **{score: score for score in SCORES}}.items()
    reader, score = ui.Text(description="Reader", **wide), ui.Dropdown(options=list(scores), description="Proposed", **wide)
    note, save, told = ui.Textarea(description="Note", rows=2, **wide), ui.Button(description="Save note"), ui.Label()

    def keep(_):
        names = [*source.table["name"], *(row["name"] for row in canvas.extra)]
        try:
            file = add_note(source.study.folder / "notes", reader.value, names[canvas.patch], score.value, note.value)
            told.value, note.value, score.value = f"Kept in {file.name}: {names[canvas.patch]}", "", ""
        except (ValueError, OSError) as error:
            told.value = str(error)
    save.on_click(keep)
    return [reader, score, note, save, told]


def _chosen(table, many):
    """list of rows for the page: test, external, validation, training, and within a set the scores in turn."""
    rank = table["set"].map({"test": 0, "external": 1, "val": 2}).fillna(3)
    turn = table.groupby([rank, table["score"]]).cumcount()
    return list(table.assign(rank=rank, turn=turn).sort_values(["rank", "turn", "score"], kind="stable").index[:many])


def _recorded(source, progress):
    """list of {key: [header, base64]}, one per patch: all that the page may ask for."""
    asks = [("thumb",), ("picture", "ihc"), ("picture", "he")]
    for run, (_, net, _) in source.networks.items():
        methods = [name for name in methods_for(net) if name not in KERNEL_ONLY | {"attention"}]
        asks += [("map", run, name, score) for name in methods for score in (_explained(name))]
        asks += [("attention", run), *(("tokens", run, str(layer), "mean") for layer in range(net.layers))] if net.layers else []
    packets = [{} for _ in source.table.index]
    for kind, *rest in tqdm(asks, desc="explorer.html", disable=not progress):
        patches = [patch for patch in source.table.index if rest != ["he"] or source.table.at[patch, "he"]]
        for part in (patches[start : start + BATCH] for start in range(0, len(patches), BATCH)):
            for patch, (header, data) in zip(part, source.answers(kind, part, *rest), strict=True):
                packets[patch]["/".join([kind, str(patch), *rest])] = [header, base64.b64encode(data).decode()]
    return packets


def _page(name, held):
    """str, the page; what it may load and run is fixed by hash, and '<' in the data is written so that nothing can end the script."""
    texts = {kind: (HERE / f"explorer.{kind}").read_text(encoding="utf-8") for kind in ("js", "css")}
    marks = {kind: "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for kind, text in texts.items()}
    template = Environment(loader=FileSystemLoader(HERE), autoescape=select_autoescape()).get_template("explorer.html")
    data = json.dumps(held, separators=(",", ":")).replace("<", "\\u003c")
    return template.render(study=name, data=data, script=texts["js"], style=texts["css"], script_hash=marks["js"], style_hash=marks["css"])


def _explained(name):
    """tuple of the words for what a map may explain; one dash for a method that knows no score."""
    unknown = inspect.signature(METHODS[name].function).parameters["score"].default is None
    return ("-",) if unknown else (*map(str, range(len(SCORES))), "expected", *CUTS)


def _label(name):
    """str, what a menu says for a method."""
    method = METHODS[name]
    if method.null:
        return f"{name.replace('_', ' ')} (null)"
    return method.caption.split(":")[0] if ":" in method.caption else name.replace("_", " ").capitalize()


def _jpeg(image, *, quality):
    """bytes; colours at full resolution (4:4:4), because the stains are separated from them in the browser."""
    image.save(buffer := io.BytesIO(), "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
