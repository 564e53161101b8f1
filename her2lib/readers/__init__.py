"""Readers: what people read, and which labels they should read again.

sheets          blinded sheets out, readings in, their consensus into the manifest
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
        "sheets": [
            "collect_readings",
            "consensus",
            "leave_one_out",
            "read_ratings",
            "write_sheets",
            "write_to_manifest",
        ],
    },
)
