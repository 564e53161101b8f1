"""Phantoms: synthetic HER2 patches with the truth known to the pixel, and folders of them.

tissue       the anatomy: an endless plane of glands, nests, stroma, fat and vessels
slide        what the patches of a slide share, how its cells stain, and their score
staining     the optical density of every dye, and masks
artefacts    what misleads a reader: blush, edges, folds, dust, pen, lost focus …
scanner      from optical density to a scanned picture
dataset      one patch, and BCI-shaped folders of patches
"""

import lazy_loader

__all__ = [
    "ARTEFACTS",
    "Phantom",
    "Slide",
    "draw_slide",
    "find_window",
    "make_patch",
    "score_of_cells",
    "write_phantoms",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dataset": ["Phantom", "find_window", "make_patch", "write_phantoms"],
        "slide": ["ARTEFACTS", "Slide", "draw_slide", "score_of_cells"],
    },
)
