"""Explorer: any patch through any network, by hand, in a notebook or in a page without a kernel.

source     pictures, maps and attention of any patch through any finished network
answers    what may be asked of a network, and maps as uint8 arrays
tangent    a network at one batch: maps of all its scores for one pass
notes      what readers write about patches, one CSV for each reader
widget     the explorer in a notebook, an anywidget
page       the explorer as one HTML page with every answer written down
assets     the JavaScript and the style, joined from the files of this folder

tools, maps, pictures, source, strip, panels, pointer, captions, probabilities, grid, controls,
notes and main .js draw both: the notebook's widget and the page.
"""

import lazy_loader

__all__ = [
    "Canvas",
    "Source",
    "add_note",
    "explore",
    "publish_page",
    "read_doubts",
    "read_notes",
    "write_page",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "notes": ["add_note", "read_notes"],
        "page": ["publish_page", "write_page"],
        "source": ["Source", "read_doubts"],
        "widget": ["Canvas", "explore"],
    },
)
