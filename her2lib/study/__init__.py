"""Study: one question with its data, its runs, what these hang on and what they left behind.

keys          what a study file may hold: tables, keys, values; the known networks
config        a study file read and checked; its runs and its folders
fingerprints  patches, code and packages as hashes: what a result stands on
making        a study made for a user's folder: its name, its file
external_set  an external set beside them: no patch in both, no name of both
cohort        its patches read, checked, split and decoded
training      one run from its axes to its folder
results       finished runs as tables; who is compared with whom
claims        sentences on where networks look, and whether numbers bear them out
"""

import lazy_loader

__all__ = [
    "Study",
    "StudyError",
    "load_study",
    "make_study",
    "open_run",
    "prepare_cohort",
    "run_tables",
    "study_files",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cohort": ["prepare_cohort"],
        "config": ["Study", "StudyError", "load_study", "study_files"],
        "making": ["make_study"],
        "results": ["run_tables"],
        "training": ["open_run"],
    },
)
