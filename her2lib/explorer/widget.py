"""The explorer in a notebook: any patch through any network, drawn by the page's JavaScript."""

from typing import Any

import anywidget
import pandas as pd
from ipywidgets import Layout
from traitlets import Bool, Dict, Float, Int, List, Unicode

from her2lib.explorer import assets
from her2lib.explorer.notes import add_note
from her2lib.explorer.source import Source
from her2lib.study.cohort import Cohort
from her2lib.study.config import Study


def explore(study: Study, data: Cohort, *, doubt: pd.DataFrame | None = None) -> "Canvas":
    """Canvas over the patches and the finished networks of a study; maps are computed on demand.

    data: of `prepare_cohort`; doubt: DataFrame (patch, doubt), of `read_doubts`.
    `explore(study, prepare_cohort(study, side_px=224))` as the last line of a cell shows it.
    """
    return Canvas(Source(study, data.table, data.patches.images, doubt=doubt))


class Canvas(anywidget.AnyWidget):
    """The explorer in a notebook. What it shows are its traits, to be read, set, observed, linked.

    What is in sight
        patch       index of the patch, patches from outside behind those of the study
        panels      list of two to four dicts of shows, network, method, layer, head
        selected    index of the selected panel; the next five traits are that panel's
        shows       "original", "he", "dab", "haematoxylin" or "map"
        network     run of the network
        method      map method, a key of her2lib.maps.attribution.METHODS
        layer       layer of attention, from 1
        head        head of attention, from 1; 0 is the mean of all heads
        token       [x, y] in 0..1 of the patch, whose token attention starts from; [] for CLS
        target      what maps explain: "predicted", a score ("2+"), "expected" or a cut ("1+|2+")
        added       rows of the patches from outside
    How maps are drawn
        opacity     0..1
        threshold   0..1 of a map's largest value; what lies below is left out
        smooth      bilinear, or in blocks as computed
        stretch     unsigned maps from their smallest value, not from 0
    Which patches the strip lists
        search      a part of the file name
        truth, predicted        a score, "?" or "any"
        verdict     "right", "wrong" or "any"
        sure_from, sure_to      per cent, probability of the predicted score
        disagree    raters disagree
        doubt       label review doubts the score

    Example: `ipywidgets.jslink((slider, "value"), (canvas, "opacity"))`.
    """

    _esm = assets.read_script()
    _css = assets.read_style()

    catalogue: Dict = Dict().tag(sync=True)

    # What is in sight; state=True marks what the page without a kernel holds too.
    patch = Int(0).tag(sync=True, state=True)
    panels: List = List().tag(sync=True, state=True)
    selected = Int(0).tag(sync=True, state=True)
    shows = Unicode("original").tag(sync=True, state=True)
    network = Unicode("").tag(sync=True, state=True)
    method = Unicode("grad_cam").tag(sync=True, state=True)
    layer = Int(1).tag(sync=True, state=True)
    head = Int(0).tag(sync=True, state=True)
    token: List = List().tag(sync=True, state=True)
    target = Unicode("predicted").tag(sync=True, state=True)
    added: List = List().tag(sync=True, state=True)

    # How maps are drawn.
    opacity = Float(0.6).tag(sync=True, state=True)
    threshold = Float(0.0).tag(sync=True, state=True)
    smooth = Bool(True).tag(sync=True, state=True)
    stretch = Bool(False).tag(sync=True, state=True)

    # Which patches the strip lists. Per cent may be typed with a fraction, so they are floats.
    search = Unicode("").tag(sync=True, state=True)
    truth = Unicode("any").tag(sync=True, state=True)
    predicted = Unicode("any").tag(sync=True, state=True)
    verdict = Unicode("any").tag(sync=True, state=True)
    sure_from = Float(0).tag(sync=True, state=True)
    sure_to = Float(100).tag(sync=True, state=True)
    disagree = Bool(False).tag(sync=True, state=True)
    doubt = Bool(False).tag(sync=True, state=True)

    def __init__(self, source: Source, **traits: Any):
        layout = Layout(width="100%", min_width="0")
        state = {"catalogue": source.catalogue(), **source.opening_state(), "layout": layout}
        super().__init__(**{**state, **traits})
        self.source = source
        self.on_msg(self._reply)

    @classmethod
    def default_state(cls) -> dict:
        """dict trait -> value that an explorer starts with: the page's state too."""
        traits = cls.class_traits(state=True)
        return {name: trait.default() for name, trait in traits.items()}

    def add_patch(self, name: str, content: bytes) -> None:
        """Scores and shows a patch from outside the study, which is not kept; content: its file."""
        self.added = [*self.added, self.source.add_patch(name, content)]
        self.patch = len(self.source.table) + len(self.added) - 1

    def add_uploads(self, change: dict) -> None:
        """Scores and shows the files of an ipywidgets.FileUpload, whose value this observes.

        `upload.observe(canvas.add_uploads, "value")`. What cannot be read is named below the
        panels, in a sentence.
        """
        for upload in change["new"]:
            name = upload["name"]
            try:
                self.add_patch(name, bytes(upload["content"]))
            except Exception as error:  # a stranger's file may raise anything
                self.send({"status": f"{name} cannot be shown: {error}"})
            else:
                self.send({"status": f"{name} was read and scored; it is not kept."})

    # --- requests of the drawing -----------------------------------------------------------------

    def _reply(self, _, request, buffers):
        """Answers a request of the drawing, or tells it in a sentence why not."""
        try:
            header, content = self._answer(request, buffers)
        except Exception as error:
            # A stranger's file may raise anything, and an unanswered drawing would wait for ever.
            self.send({"id": request["id"], "error": _reason(request, error)})
        else:
            self.send({"id": request["id"], "header": header}, [content])

    def _answer(self, request, buffers):
        """(header, bytes) of a request to take a file, to write a note, or for a picture or map."""
        if "take" in request:
            self.add_patch(str(request["take"]), bytes(buffers[0]))
            return {}, b""
        if "note" in request:
            note = request["note"]
            folder = self.source.study.folder / "notes"
            file = add_note(folder, note["reader"], note["patch"], note["score"], note["note"])
            return {"sentence": f"Kept in {file.name}: {note['patch']}"}, b""
        return self.source.answer(request["ask"])


def _reason(request, error):
    """str, why a request of the drawing failed."""
    if "note" in request:
        return str(error)
    return f"{request.get('take', 'This map')} cannot be shown: {error}"
