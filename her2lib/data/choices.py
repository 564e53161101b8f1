"""How a user says that data are to be read, where they could be read in two ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Where in a path something stands, counted from the file: the folder it lies in, the one above.
FOLDERS = ("folder1", "folder2", "folder3")
LAYOUTS = ("manifest", "bci", "folders", "names", "pairs", "images")
SCORE_FROM = (*FOLDERS, "name", "none")
PATIENT_FROM = (*FOLDERS, "name", "none")


@dataclass(frozen=True)
class Choices:
    """What a user states about data; every empty field is found out, or refused if it cannot be.

    The flags of the command line carry the same names: --layout, --score-from, --patient-from,
    --allow, --score-word, --mpp, --any-field. A study keeps them under [data] and [scores].
    """

    layout: str = ""  # one of LAYOUTS
    score_from: str = ""  # one of SCORE_FROM
    patient_from: str = ""  # one of PATIENT_FROM
    allow: tuple[str, ...] = ()  # folders outside that links and paths may lead into
    score_words: Mapping[str, str] = field(default_factory=dict)  # {"negative": "0"}
    mpp: float | None = None  # micrometres a pixel of files that do not state it
    any_field: bool = False  # take fields that look like no H-DAB field


FIND_OUT = Choices()
