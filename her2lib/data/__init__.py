"""Data: folders, tables and slides of strangers become checked, split and decoded patches.

reading         a folder or manifest -> Cohort: table, patches, notes, problems, in one call
choices         what a user states where data could be read in two ways
listing         what lies in a folder, and what programs left there: one rule for every door
layouts         as what a folder or table is read, by layout_sentences in words with an example
folder_roles    which level of folders holds stain, set, score, slide, patient, by evidence
folder_rows     the layout of a folder and its rows as they are written
public_sets     public HER2 sets as downloaded, and what their labels are worth
columns         what is written about a patch: columns, words for sets and scores
manifests       a table of patches -> rows as written, what was taken for which column
tables          one reader for every table that people bring, in any dialect, .xlsx too
table_files     files that hold a table taken apart into rows of text
images          is an image file whole, what does it hold, its pixels as plain RGB
field           is a picture a field in haematoxylin and DAB, or H&E, a nuclear stain, blank …
colours         what the numbers of a file mean: 16 bits a channel, profiles other than sRGB
browser_copies  copies of patches that every browser shows, without their metadata
judging         what is wrong with rows and files, sentence by sentence, each with its remedy
patches         a path -> everything read, refused and left aside; Patches, which all else takes
splits          training, validation and test sets that cut through no patient or slide
store           every patch decoded once into one memory-mapped uint8 file
slides          whole slides cut into patches, with tissue_finder, slide_grid and field_cutter
slide_files     which files are slides, what each is called, which one a written name means
tile_tables     the tables of cut slides, merged with what people typed into them
annotations     GeoJSON of QuPath: fields and scores out, drawn regions in
new_patches     images, folders, manifests and slides that are to be scored, as one table
new_folders     what lies at one such path: rows, slides, and what is neither
slide_groups    patches without slide ids grouped by borders, stain and texture
scale           micrometres a pixel, estimated from nuclei and membranes, by blob_filters
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
