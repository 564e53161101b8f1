"""Scoring: new patches and slides under a finished run.

new_patches     images, folders, manifests and slides that are to be scored, as one table
new_folders     what lies at one such path: rows, slides, and what is neither
paths           patches and slides at some paths -> tables, pictures, sentences
reference       the patches a run was trained on, and how far new ones lie from them
slide_summary   whole slides summed up from their patches
pictures        a patch beside its map, a slide under its scores
"""

import lazy_loader

__all__ = [
    "embed_patches",
    "find_run",
    "held_out_limit",
    "neighbour_distance",
    "score_paths",
    "summarise_slides",
    "training_reference",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "paths": ["find_run", "score_paths"],
        "reference": [
            "embed_patches",
            "held_out_limit",
            "neighbour_distance",
            "training_reference",
        ],
        "slide_summary": ["summarise_slides"],
    },
)
