"""Pages: what each notebook shows, as functions with names, one file a notebook.

guide          00  the machine, the notebooks, the studies
exploration    01  problems, counts, pictures, what brown alone knows
comparisons    06  networks and nulls side by side
raters         07  people and networks as raters; patches from elsewhere
map_panel      08, 11  patches, networks and maps, and the tables made of them
map_pictures   08, 11  the panel's figures and numbers
label_review   09  groups, the gap between splits, doubts, re-reading
speed          91  ratios to the bare work that nobody can avoid
recipe_sweep   92  one axis a figure
transfer       93  networks that saw only phantoms, on the external patches

A function takes the book in which numbers are kept and gives the piece of the report that the cell
shows. Notebooks 02 to 05 share study/training.
"""

import lazy_loader

__all__ = ["MapPanel", "run_grid", "split_tests"]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "label_review": ["split_tests"],
        "map_panel": ["MapPanel"],
        "recipe_sweep": ["run_grid"],
    },
)
