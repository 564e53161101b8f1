"""Intake: as what a stranger's folder or table is read, or why it is refused. Opens no image.

choices           what a user states where data could be read in two ways
listing           what lies in a folder, and what programs left there: one rule for every door
layouts           as what a folder or table is read, with an example and everything counted
folder_roles      which level of folders holds stain, set, score, slide, patient, by evidence
folder_rows       the layout of a folder and its rows as they are written
layout_sentences  what was read as what, and what was left aside, in words
public_sets       public HER2 sets as downloaded, and what their labels are worth
columns           what is written about a patch: columns, words for sets and scores
manifests         a table of patches -> rows as written, what was taken for which column
text_tables       one reader for every table that people bring, in any dialect, .xlsx too
table_paths       where the files of a table lie, also where its paths come from elsewhere
table_files       files that hold a table taken apart into rows of text
"""

import lazy_loader

__all__ = ["Choices", "Layout", "list_files", "read_layout", "read_text_table"]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "choices": ["Choices"],
        "layouts": ["Layout", "read_layout"],
        "listing": ["list_files"],
        "text_tables": ["read_text_table"],
    },
)
