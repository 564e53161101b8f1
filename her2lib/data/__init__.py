"""Data: what was read becomes checked, split and decoded patches.

reading         a folder or manifest -> Cohort: table, patches, notes, problems, in one call
patches         a path -> everything read, refused and left aside; Patches, which all else takes
judging         what is wrong with rows and files, sentence by sentence, each with its remedy
images          is an image file whole, what does it hold, its pixels as plain RGB
colours         what the numbers of a file mean: 16 bits a channel, profiles other than sRGB
browser_copies  copies of patches that every browser shows, without their metadata
field           is a picture a field in haematoxylin and DAB, or H&E, a nuclear stain, blank …
scale           micrometres a pixel, estimated from nuclei and membranes, by blob_filters
known_scale     the scale of patches that state none, one estimate for each size of picture
common_field    one length of tissue a side for all patches of a cohort
splits          training, validation and test sets that cut through no patient or slide
store           every patch decoded once into one memory-mapped uint8 file
slide_groups    patches without slide ids grouped by borders, stain and texture
"""

import lazy_loader

__all__ = [
    "Cohort",
    "Patches",
    "check_patches",
    "open_store",
    "read_patches",
    "read_source",
    "read_table",
    "split_table",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "patches": ["Patches", "check_patches", "read_source", "read_table"],
        "reading": ["Cohort", "read_patches"],
        "splits": ["split_table"],
        "store": ["open_store"],
    },
)
