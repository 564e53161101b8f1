"""Readers: what people read, and which labels they should read again.

sheets          blinded sheets out to readers, and back with what they filled in
readings        tables of readings, of a column for each reader or a row for each reading
reader_columns  which columns of such a table are readers
patch_names     patches as people name them, found in a manifest
votes           several readings of a patch become one score, or are left apart
merging         readings and their consensus into the manifest, with all that stood there
label_doubt     labels ranked by the evidence against them
"""

import lazy_loader

__all__ = [
    "collect_readings",
    "consensus",
    "leave_one_out",
    "out_of_fold_probabilities",
    "rank_doubts",
    "read_ratings",
    "write_sheets",
    "write_to_manifest",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "label_doubt": ["out_of_fold_probabilities", "rank_doubts"],
        "merging": ["collect_readings", "write_to_manifest"],
        "readings": ["read_ratings"],
        "sheets": ["write_sheets"],
        "votes": ["consensus", "leave_one_out"],
    },
)
