"""What the explorer may ask for: pictures, maps and attention of any patch through any network."""

import io
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from her2lib import stain
from her2lib.data import store
from her2lib.data.images import read_pixels
from her2lib.explorer.answers import (
    KERNEL_ONLY,
    UNSIGNED,
    compute_maps,
    method_label,
    page_requests,
    quantise,
    targets_of,
)
from her2lib.explorer.tangent import Tangent
from her2lib.maps.attribution import METHODS, methods_for
from her2lib.maps.inside import input_pieces
from her2lib.networks import checkpoint, recipes, train
from her2lib.networks.models import Net, normalise
from her2lib.scores import COLOURS, CUTS, SCORES
from her2lib.stats.calibration import among_scores
from her2lib.study.config import REVIEW, Study
from her2lib.study.results import PROBABILITIES, run_tables, shown_runs

THUMB_PX = 88
VIEW_PX = 1024
PAGE_VIEW_PX = 512
PAGE_MAP_PX = 56
DECODED = 8  # images kept: one patch at the sides of all networks

SHOWS = {
    "original": "IHC, as it is",
    "he": "HE partner",
    "dab": "DAB (brown)",
    "haematoxylin": "Haematoxylin (blue)",
    "map": "Map of a network",
}
TARGETS = {
    "predicted": "the predicted score",
    **{score: f"score {score}" for score in SCORES},
    "expected": "the expected score",
    **{cut: f"cut {cut}" for cut in CUTS},
}


def read_doubts(study: Study) -> pd.DataFrame | None:
    """DataFrame (patch, doubt 0..1) as 09_label_review wrote it last, or None before it has run.

    Raises ValueError where the file is not that table. `read_doubts(load_study("demo"))`.
    """
    file = study.folder_of(REVIEW) / "doubt.csv"
    if not file.is_file():
        return None
    table = pd.read_csv(file, dtype={"patch": str})
    missing = {"patch", "doubt"} - set(table)
    if missing:
        columns = " and ".join(sorted(missing))
        raise ValueError(f"{file} has no column {columns}: run {REVIEW} again.")
    return table[["patch", "doubt"]].drop_duplicates("patch")


@dataclass(frozen=True)
class LoadedNetwork:
    """A finished run's network, on the device, with the name people read and its run.json."""

    name: str
    net: Net
    record: dict


class Source:
    """What an explorer may ask for: patches of a study, and the networks that have finished.

    table: one row a patch; images: (N,3,side,side) uint8 in the same order; doubt: DataFrame
    (patch, doubt) or None; view_px, map_px: the largest picture and map that are handed out.
    `Source(study, data.table, data.patches.images).answer("picture/3/ihc")`.
    """

    def __init__(
        self,
        study: Study,
        table: pd.DataFrame,
        images: torch.Tensor,
        *,
        doubt: pd.DataFrame | None = None,
        view_px: int = VIEW_PX,
        map_px: int = VIEW_PX,
    ):
        self.study = study
        self.table = table.reset_index(drop=True)
        self.images = images
        self.doubt = doubt
        self.view_px = view_px
        self.map_px = map_px
        self.added_files: list[bytes] = []
        self.decoded: OrderedDict = OrderedDict()
        self.networks = _load_networks(study)

    # --- answers ---------------------------------------------------------------------------------

    def answer(self, key):
        """(header dict, bytes) for a key as the JavaScript writes it.

        Keys: thumb/3, picture/3/he, map/3/<run>/grad_cam/2, attention/3/<run>,
        tokens/3/<run>/<layer>/<head>.
        """
        kind, patch, *details = key.split("/")
        patch = int(patch)
        if kind in ("thumb", "picture"):
            return self._picture(patch, kind, *details)
        run, *details = details
        net = self.networks[run].net
        x = self._network_input(net, [patch])
        return quantise(compute_maps(net, x, kind, *details, map_px=self.map_px)[0])

    def record(self, patches):
        """list of {key: (header, bytes)}, one per patch: all that a page without a kernel asks."""
        packets = [self._recorded_pictures(patch) for patch in patches]
        for run, network in self.networks.items():
            self._record_maps(packets, patches, run, network.net)
        return packets

    def opening_state(self):
        """dict of the traits that depend on what has finished: two panels, the second selected."""
        network = next(iter(self.networks), "")
        shows = "map" if network else "dab"
        panel = {"shows": shows, "network": network, "method": "grad_cam", "layer": 1, "head": 0}
        return {
            "network": network,
            "shows": shows,
            "panels": [{**panel, "shows": "original"}, panel],
            "selected": 1,
        }

    def add_patch(self, name, content):
        """dict, the row of a patch from outside, scored by every network; content: its file."""
        # A file that is no patch ends here, with the reason.
        read_pixels(io.BytesIO(content))
        self.added_files.append(content)
        patch = len(self.table) + len(self.added_files) - 1
        probabilities = {}
        for run, network in self.networks.items():
            image = self._image(patch, network.net.side_px)
            answers = train.predict(network.net, image[None])
            row = among_scores(answers, self.study.declared_scores)[0]
            probabilities[run] = [round(float(value), 4) for value in row]
        return {
            "name": name,
            "set": "",
            "truth": -1,
            "mpp": None,
            "he": False,
            "raters": {},
            "doubt": None,
            "probabilities": probabilities,
            "added": True,
        }

    # --- the catalogue: what there is ------------------------------------------------------------

    def catalogue(self, *, page=False):
        """dict that tells the drawing what there is: patches, networks, methods, stains, colours.

        page: for a page without a kernel, which holds no map that is slow to compute.
        """
        shows = dict(SHOWS)
        if not self.table["he"].any():
            del shows["he"]
        return {
            "page": page,
            "study": self.study.name,
            "scores": SCORES,
            "colours": COLOURS,
            "targets": TARGETS,
            "shows": shows,
            "patches": self._patch_rows(),
            "stains": _stain_rows(),
            "methods": {method: _method_row(method) for method in METHODS},
            "networks": [
                _network_row(run, network, page=page) for run, network in self.networks.items()
            ],
        }

    def _patch_rows(self):
        """list of dicts, one per patch: name, set, scores of all kinds, doubt, probabilities."""
        by_run = self._probabilities_by_run()
        doubts = {}
        if self.doubt is not None:
            known = self.doubt.dropna(subset="doubt")
            doubts = known.set_index("patch")["doubt"].round(4).to_dict()
        rater_columns = [column for column in self.table if column.startswith("rater_")]
        rows = []
        for row in self.table.to_dict("records"):
            raters = {}
            for column in rater_columns:
                if row[column] >= 0:
                    raters[column.removeprefix("rater_")] = int(row[column])
            probabilities = {}
            for run, by_patch in by_run.items():
                if row["name"] in by_patch:
                    probabilities[run] = by_patch[row["name"]]
            rows.append(
                {
                    "name": row["name"],
                    "set": row["set"],
                    "truth": int(row["score"]),
                    "mpp": row["mpp"] if row["mpp"] > 0 else None,
                    "he": bool(row["he"]),
                    "raters": raters,
                    "doubt": doubts.get(row["name"]),
                    "probabilities": probabilities,
                }
            )
        return rows

    def _probabilities_by_run(self):
        """dict run -> dict patch name -> [p0, p1, p2, p3], to four digits."""
        predictions = run_tables(self.study, "predictions")
        by_run = {}
        for run in self.networks:
            rows = predictions[predictions["run"] == run].set_index("patch")
            values = rows[PROBABILITIES].round(4).to_numpy().tolist()
            by_run[run] = dict(zip(rows.index, values, strict=True))
        return by_run

    # --- maps ------------------------------------------------------------------------------------

    def _record_maps(self, packets, patches, run, net):
        """Adds to each patch's packet all maps of one network that a page holds."""
        x = self._network_input(net, patches)
        # A CNN has no attention to keep, so its whole batch is one piece.
        pieces = [slice(None)]
        if net.layers:
            pieces = input_pieces(net, x)
        for piece in pieces:
            tangent = Tangent(net, x[piece])
            for kind, *details in page_requests(net):
                maps = compute_maps(tangent, x[piece], kind, *details, map_px=self.map_px)
                for packet, patch, of_patch in zip(
                    packets[piece], patches[piece], maps, strict=True
                ):
                    key = "/".join([kind, str(patch), run, *details])
                    packet[key] = quantise(of_patch)

    def _network_input(self, net, patches):
        """(B,3,side_px,side_px) normalised, on the network's device."""
        images = torch.stack([self._image(patch, net.side_px) for patch in patches])
        return normalise(images.to(next(net.parameters()).device), net)

    def _image(self, patch, side_px):
        """(3,side_px,side_px) uint8 as a network saw it in training, from the store if it can."""
        if patch < len(self.table) and self.images.shape[-1] == side_px:
            return self.images[patch]
        key = (patch, side_px)
        if key not in self.decoded:
            image = store.decode_patch(self._file(patch), side_px)[0]
            self.decoded[key] = torch.from_numpy(image)
            # More would grow with every patch that is looked at.
            while len(self.decoded) > DECODED:
                self.decoded.popitem(last=False)
        return self.decoded[key]

    # --- pictures --------------------------------------------------------------------------------

    def _recorded_pictures(self, patch):
        """dict key -> (header, JPEG): thumbnail, the patch, and its HE partner where it has one."""
        packet = {
            f"thumb/{patch}": self._picture(patch, "thumb"),
            f"picture/{patch}/ihc": self._picture(patch, "picture"),
        }
        if self.table.at[patch, "he"]:
            packet[f"picture/{patch}/he"] = self._picture(patch, "picture", "he")
        return packet

    def _picture(self, patch, kind, which="ihc"):
        """(header, JPEG) of the patch's middle square, at most view_px across."""
        if kind == "thumb" and patch < len(self.table):
            # From the store, which decodes nothing.
            pixels = np.asarray(self.images[patch]).transpose(1, 2, 0)
            image = ImageOps.fit(Image.fromarray(pixels), (THUMB_PX, THUMB_PX))
            return {}, _jpeg_bytes(image, quality=80)
        image = read_pixels(self._file(patch, which))
        side_px = min(image.size)
        shown_px = THUMB_PX if kind == "thumb" else min(side_px, self.view_px)
        return {"side_px": side_px}, _jpeg_bytes(
            ImageOps.fit(image, (shown_px, shown_px)), quality=92
        )

    def _file(self, patch, which="ihc"):
        """Path | str | BytesIO of a patch or of its HE partner."""
        if patch >= len(self.table):
            return io.BytesIO(self.added_files[patch - len(self.table)])
        column = "he" if which == "he" else "path"
        return self.table.at[patch, column]


# --- helpers -------------------------------------------------------------------------------------


def _load_networks(study):
    """dict run -> LoadedNetwork of the runs that are shown; the last of the study comes first."""
    networks = {}
    for name, run in reversed(shown_runs(study).items()):
        net, record = checkpoint.load_run(study.folder_of(run))
        if record["verdict"]:
            name = f"{name} (COLLAPSED)"
        networks[run] = LoadedNetwork(name, net.to(recipes.choose_device()), record)
    return networks


def _stain_rows():
    """dict stain -> its optical density vector, and the column of the inverse that separates it."""
    inverse = torch.linalg.inv(stain.HDAB)
    rows = {}
    for k, name in enumerate(stain.STAINS[:2]):
        rows[name] = {"vector": stain.HDAB[k].tolist(), "inverse": inverse[:, k].tolist()}
    return rows


def _method_row(method):
    """dict, what the drawing must know of a map method."""
    return {
        "label": method_label(method),
        "caption": METHODS[method].caption,
        "null": METHODS[method].null,
        "signed": method not in UNSIGNED,
        "scored": len(targets_of(method)) > 1,
    }


def _network_row(run, network, *, page):
    """dict, what the drawing must know of a network; a page leaves out the slow methods."""
    net = network.net
    methods = methods_for(net)
    if page:
        methods = [method for method in methods if method not in KERNEL_ONLY]
    parameters = network.record["parameters"]
    return {
        "run": run,
        "name": network.name,
        "recipe": parameters.get("recipe"),
        "seed": parameters.get("seed"),
        "weights": parameters.get("weights"),
        "verdict": network.record["verdict"],
        "side_px": net.side_px,
        "layers": net.layers,
        "heads": net.heads,
        "grid": net.grid,
        "methods": list(methods),
    }


def _jpeg_bytes(image, *, quality):
    """bytes; colours at full resolution (4:4:4): the browser separates the stains from them."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
