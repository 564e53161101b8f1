"""Maps: which parts of a patch moved a network, where they lie, and whether to believe them.

attribution    network and score -> maps (B,h,w), and the nulls that stand beside them
inside         what is explained; looking into a network and leaving it as it was
focus          on which tissue a map lies, how deep in the tumour, how far attention looks
faithfulness   deletion, insertion, ROAD; likeness of maps under change
imputation     hidden pixels as their neighbours' mean, for ROAD
interventions  patches with one kind of evidence left or taken away
"""

import lazy_loader

__all__ = [
    "attention",
    "faithfulness_scores",
    "grad_cam",
    "map_similarity",
    "mass_fraction",
    "methods_for",
    "relevance",
    "rollout",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attribution": ["attention", "grad_cam", "methods_for", "relevance", "rollout"],
        "faithfulness": ["faithfulness_scores", "map_similarity"],
        "focus": ["mass_fraction"],
    },
)
