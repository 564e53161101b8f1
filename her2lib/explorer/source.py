"""What the explorer may ask for: pictures, maps and attention of any patch through any finished network, as uint8 arrays."""

import inspect
import io
from collections import OrderedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from her2lib import stain
from her2lib.data import store
from her2lib.data.images import read_pixels
from her2lib.maps.attribution import METHODS, input_pieces, looking, methods_for
from her2lib.networks import checkpoint, recipes, train
from her2lib.networks.models import Tap, normalise
from her2lib.scores import COLOURS, CUTS, SCORES
from her2lib.study.results import PROBABILITIES, run_tables, shown_runs

THUMB_PX, VIEW_PX, PAGE_VIEW_PX, PAGE_MAP_PX = 88, 1024, 512, 56
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
UNSIGNED = {
    "attention",
    "rollout",
    "relevance",
    "centre",
    "dab",
    "edges",
}  # nothing in their definition goes below 0
KERNEL_ONLY = {
    "integrated_gradients",
    "occlusion",
}  # 33 and about 170 passes a patch and score: too slow to write down in advance
STATE = {
    "patch": 0,
    "shows": "original",
    "network": "",
    "method": "grad_cam",
    "layer": 1,
    "head": 0,
    "score": "predicted",
    "place": [],
    "opacity": 0.6,
    "threshold": 0.0,
    "smooth": True,
    "stretch": False,
    "panels": [],
    "selected": 0,
    "extra": [],
    "search": "",
    "truth": "any",
    "predicted": "any",
    "verdict": "any",
    "sure_from": 0,
    "sure_to": 100,
    "disagree": False,
    "doubt": False,
}


class Source:
    """What an explorer may ask for: patches (rows of table, images (N,3,H,W) uint8) and the finished networks of a study."""

    def __init__(self, study, table, images, *, doubt=None, view_px=VIEW_PX, map_px=VIEW_PX):
        self.study, self.table, self.images, self.doubt = (
            study,
            table.reset_index(drop=True),
            images,
            doubt,
        )
        self.view_px, self.map_px, self.extra, self.seen = view_px, map_px, [], OrderedDict()
        self.networks = {}
        for name, run in reversed(shown_runs(study).items()):
            net, info = checkpoint.load_run(study.folder_of(run))
            self.networks[run] = (
                name + " (COLLAPSED)" * bool(info["verdict"]),
                net.to(recipes.choose_device()),
                info,
            )

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
        return [stack(maps) for maps in self._seen(kind, net, self._input(net, patches), *rest)]

    def record(self, patches):
        """list of {key: (header, bytes)}, one per patch: all that a page without a kernel may ask for."""
        packets = [
            {
                f"thumb/{patch}": self._picture(patch, "thumb"),
                f"picture/{patch}/ihc": self._picture(patch, "picture"),
            }
            | (
                {f"picture/{patch}/he": self._picture(patch, "picture", "he")}
                if self.table.at[patch, "he"]
                else {}
            )
            for patch in patches
        ]
        for run, (_, net, _) in self.networks.items():
            x = self._input(net, patches)
            for part in input_pieces(net, x) if net.layers else [slice(None)]:
                near = Tangent(net, x[part])
                for kind, *rest in asks(net):
                    for packet, patch, maps in zip(
                        packets[part],
                        patches[part],
                        self._seen(kind, near, x[part], *rest),
                        strict=True,
                    ):
                        packet["/".join([kind, str(patch), run, *rest])] = stack(maps)
        return packets

    def catalogue(self, **more):
        """dict that tells the drawing what there is: patches, networks, methods, colours."""
        inverse = torch.linalg.inv(stain.HDAB)
        return {
            "study": self.study.name,
            "targets": TARGETS,
            "scores": SCORES,
            "colours": COLOURS,
            "cuts": CUTS,
            "state": STATE,
            "shows": {
                word: text for word, text in SHOWS.items() if word != "he" or self.table["he"].any()
            },
            "patches": self._rows(),
            "stains": {
                name: {"vector": stain.HDAB[k].tolist(), "inverse": inverse[:, k].tolist()}
                for k, name in enumerate(stain.STAINS[:2])
            },
            "methods": {
                name: {
                    "label": label(name),
                    "caption": method.caption,
                    "null": method.null,
                    "signed": name not in UNSIGNED,
                    "scored": len(explains(name)) > 1,
                }
                for name, method in METHODS.items()
            },
            "networks": [
                {
                    **{key: info["parameters"].get(key) for key in ("recipe", "seed", "weights")},
                    "run": run,
                    "name": name,
                    "verdict": info["verdict"],
                    "side_px": net.side_px,
                    "layers": net.layers,
                    "heads": net.heads,
                    "grid": net.grid,
                    "methods": [
                        key
                        for key in methods_for(net)
                        if not (more.get("page") and key in KERNEL_ONLY)
                    ],
                }
                for run, (name, net, info) in self.networks.items()
            ],
            **more,
        }

    def take(self, name, content):
        """dict, the row of a patch that is not in the study, scored by every network; content: the bytes of its file."""
        read_pixels(io.BytesIO(content))  # a file that is no patch ends here, with the reason
        self.extra.append(content)
        place = len(self.table) + len(self.extra) - 1
        scored = {
            run: train.predict(net, self._image(place, net.side_px)[None])[0]
            for run, (_, net, _) in self.networks.items()
        }
        shares = {run: [round(float(p), 4) for p in row] for run, row in scored.items()}
        return {
            "name": name,
            "set": "",
            "truth": -1,
            "mpp": None,
            "he": False,
            "raters": {},
            "doubt": None,
            "p": shares,
            "extra": True,
        }

    def _input(self, net, patches):
        """(B,3,side_px,side_px) what the network is given for these patches."""
        images = torch.stack([self._image(patch, net.side_px) for patch in patches])
        return normalise(images.to(next(net.parameters()).device), net)

    def _seen(self, kind, net, x, *rest):
        return self._map(net, x, *rest) if kind == "map" else self._attention(net, x, *rest)

    def _rows(self):
        scored = run_tables(self.study, "predictions")
        by_run = {
            run: scored[scored["run"] == run].set_index("patch")[PROBABILITIES].round(4)
            for run in self.networks
        }
        given = {
            run: dict(zip(rows.index, rows.to_numpy().tolist(), strict=True))
            for run, rows in by_run.items()
        }
        doubt = (
            {}
            if self.doubt is None
            else self.doubt.dropna(subset="doubt").set_index("patch")["doubt"].round(4).to_dict()
        )
        raters = [column for column in self.table if column.startswith("rater_")]
        return [
            {
                "name": row["name"],
                "set": row["set"],
                "truth": int(row["score"]),
                "mpp": row["mpp"] if row["mpp"] > 0 else None,
                "he": bool(row["he"]),
                "raters": {rater[6:]: int(row[rater]) for rater in raters if row[rater] >= 0},
                "doubt": doubt.get(row["name"]),
                "p": {run: rows[row["name"]] for run, rows in given.items() if row["name"] in rows},
            }
            for row in self.table.to_dict("records")
        ]

    def _file(self, patch, which="ihc"):
        if patch >= len(self.table):
            return io.BytesIO(self.extra[patch - len(self.table)])
        return self.table.at[patch, "he" if which == "he" else "path"]

    def _image(self, patch, side_px):
        """(3,side_px,side_px) uint8 as a network saw it in training: from the store where that has this side."""
        if patch < len(self.table) and self.images.shape[-1] == side_px:
            return self.images[patch]
        if (key := (patch, side_px)) not in self.seen:
            self.seen[key] = torch.from_numpy(store.decode_patch(self._file(patch), side_px)[0])
            while (
                len(self.seen) > 8
            ):  # one patch at the sides of all networks; more would grow with every patch looked at
                self.seen.popitem(last=False)
        return self.seen[key]

    def _picture(self, patch, kind, which="ihc"):
        """JPEG of the middle square, not larger than the view; a thumbnail comes from the store, which decodes nothing."""
        if kind == "thumb" and patch < len(self.table):
            image = ImageOps.fit(
                Image.fromarray(np.asarray(self.images[patch]).transpose(1, 2, 0)),
                (THUMB_PX, THUMB_PX),
            )
            return {}, _jpeg(image, quality=80)
        image = read_pixels(self._file(patch, which))
        side_px = min(image.size)
        shown_px = THUMB_PX if kind == "thumb" else min(side_px, self.view_px)
        return {"side_px": side_px}, _jpeg(ImageOps.fit(image, (shown_px, shown_px)), quality=92)

    def _map(self, net, x, method, score):
        """(B,1,h,w) one map a patch, at most map_px across."""
        maps = (
            METHODS[method]
            .function(net, x, int(score) if score.isdigit() else None if score == "-" else score)[
                :, None
            ]
            .float()
        )
        return F.adaptive_avg_pool2d(maps, self.map_px) if maps.shape[-1] > self.map_px else maps

    def _attention(self, net, x, layer="", head="mean"):
        """(B,layers*heads,h,w) from the token the logits read, or (B,h*w,h,w) from every patch token of one layer."""
        layers, p, found = [int(layer)] if layer else range(net.layers), net.prefix_tokens, []
        for part in input_pieces(net, x):
            with looking(net, gradients=False):
                seen = net.tap(x[part], attention=layers).attention
            for one in torch.stack([seen[k] for k in layers], 1):  # (L,heads,T,T) of one patch
                if layer:
                    rows = (one[0].mean(0) if head == "mean" else one[0, int(head)])[p:, p:]
                else:
                    rows = one[:, :, 0, p:] if p else one.mean(2)
                found.append(rows.reshape(-1, *net.grid))
        return torch.stack(found)


class Tangent(torch.nn.Module):
    """A network at one batch: its insides and the slopes of its logits there, so that maps of all scores cost one pass, not one each."""

    def __init__(self, net, x):
        super().__init__()
        for name in ("network", "layers", "heads", "grid", "prefix_tokens", "mean", "std"):
            setattr(self, name, getattr(net, name))
        with looking(net, gradients=True):
            tap = net.tap(x.detach().clone().requires_grad_(), attention=range(net.layers))
            inside = {"features": tap.features, **tap.attention} | (
                {"stem": tap.stem} if tap.stem is not None else {}
            )
            slopes = [
                torch.autograd.grad(logit.sum(), list(inside.values()), retain_graph=True)
                for logit in tap.logits.T
            ]
        self.logits, self.inside = (
            tap.logits.detach(),
            {key: value.detach() for key, value in inside.items()},
        )
        self.slopes = {
            key: torch.stack(parts)
            for key, parts in zip(inside, zip(*slopes, strict=True), strict=True)
        }  # (4,B,...)

    def tap(self, x, attention=()):
        """Tap with the network's own insides; whatever hangs on its logits has there exactly the network's gradients."""
        keys, grad = (
            [key for key in ("features", "stem", *attention) if key in self.inside],
            torch.is_grad_enabled(),
        )
        leaves = {key: self.inside[key].clone().requires_grad_(grad) for key in keys}
        return Tap(
            self._at(leaves),
            None,
            leaves["features"],
            leaves.get("stem"),
            {layer: leaves[layer] for layer in attention},
        )

    def after(self, features):
        """(B,4) logits of a CNN's features, as Net.after."""
        return self._at({"features": features})

    def _at(self, leaves):
        """(B,4) logits, straight lines through the network's own."""
        return self.logits + sum(
            torch.einsum(
                "kbn,bn->bk", self.slopes[key].flatten(2), (leaf - self.inside[key]).flatten(1)
            )
            for key, leaf in leaves.items()
        )


def asks(net):
    """list of (kind, words …) of the maps that a page holds of one network."""
    methods = [name for name in methods_for(net) if name not in KERNEL_ONLY | {"attention"}]
    maps = [("map", name, score) for name in methods for score in explains(name)]
    return maps + (
        [("attention",), *(("tokens", str(layer), "mean") for layer in range(net.layers))]
        if net.layers
        else []
    )


def explains(name):
    """tuple of the words for what a map may explain; one dash for a method that knows no score."""
    unknown = inspect.signature(METHODS[name].function).parameters["score"].default is None
    return ("-",) if unknown else (*map(str, range(len(SCORES))), "expected", *CUTS)


def label(name):
    """str, what a menu says for a method."""
    method = METHODS[name]
    if method.null:
        return f"{name.replace('_', ' ')} (null)"
    return (
        method.caption.split(":")[0]
        if ":" in method.caption
        else name.replace("_", " ").capitalize()
    )


def stack(maps):
    """(header, bytes) of (n,h,w) maps as uint8 between each map's own lowest and highest value, which stand in the header."""
    maps = np.asarray(maps.cpu(), np.float32)
    low, high = maps.min((1, 2)), maps.max((1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    quantised = np.rint((maps - low[:, None, None]) / span * 255).astype(np.uint8)
    written = {
        name: [float(f"{value:.5g}") for value in ends]
        for name, ends in (("low", low), ("high", high))
    }
    return {"shape": list(maps.shape), **written}, quantised.tobytes()


def _jpeg(image, *, quality):
    """bytes; colours at full resolution (4:4:4), because the stains are separated from them in the browser."""
    image.save(buffer := io.BytesIO(), "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
