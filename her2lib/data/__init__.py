"""Data: folders, tables and slides of strangers become checked, split and decoded patches.

reading         a folder or manifest -> Cohort: table, patches, notes, problems, in one call
layouts         where patches lie and what is written about them: BCI, score folders, manifests
images          is an image file whole, what does it hold, its pixels as plain RGB
patches         what is wrong with the files, sentence by sentence; Patches, which all else takes
splits          training, validation and test sets that cut through no patient or slide
store           every patch decoded once into one memory-mapped uint8 file
slides          whole slides cut into patches, with tissue_finder and slide_grid
new_patches     images, folders, manifests and slides that are to be scored, as one table
slide_groups    patches without slide ids grouped by borders, stain and texture
"""

import lazy_loader

__all__ = [
    "Cohort",
    "Patches",
    "check_patches",
    "open_store",
    "read_patches",
    "read_table",
    "split_table",
    "tile_slides",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "patches": ["Patches", "check_patches", "read_table"],
        "reading": ["Cohort", "read_patches"],
        "slides": ["tile_slides"],
        "splits": ["split_table"],
        "store": ["open_store"],
    },
)
