"""How a user says that data are to be read, where they could be read in two ways."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from os import PathLike, fspath
from typing import Any

from her2lib import scores
from her2lib.files import did_you_mean

# Where in a path something stands, counted from the file: the folder it lies in, the one above.
FOLDERS = ("folder1", "folder2", "folder3", "folder4")
LAYOUTS = ("manifest", "bci", "folders", "names", "pairs", "images")
SCORE_FROM = (*FOLDERS, "name", "none")
PATIENT_FROM = (*FOLDERS, "name", "none")
SET_FROM = ("folder", "name", "none")
_ONE_OF = {
    "layout": LAYOUTS,
    "score_from": SCORE_FROM,
    "patient_from": PATIENT_FROM,
    "set_from": SET_FROM,
}


@dataclass(frozen=True)
class Choices:
    """What a user states about data; every empty field is found out, or refused if it cannot be.

    The flags of the command line carry the same names: --layout, --score-from, --patient-from,
    --set-from, --allow, --score-word, --mpp, --any-field. A study keeps them under [data] and
    [scores]. Raises ValueError for a value that a field cannot have.
    """

    layout: str = ""  # one of LAYOUTS
    score_from: str = ""  # one of SCORE_FROM
    patient_from: str = ""  # one of PATIENT_FROM
    set_from: str = ""  # one of SET_FROM
    allow: tuple[str, ...] = ()  # folders outside that links and paths may lead into
    score_words: Mapping[str, str] = field(default_factory=dict)  # {"negative": "0"}
    mpp: float | None = None  # micrometres a pixel of files that do not state it
    any_field: bool = False  # take fields that look like no H-DAB field

    def __post_init__(self) -> None:
        for name, known in _ONE_OF.items():
            value = getattr(self, name)
            if value and value not in known:
                raise ValueError(f"{name} cannot be {value!r}.{did_you_mean(value, known)}")
        for score_word, score in self.score_words.items():
            _check_score_word(score_word, score)
        # False for nan
        if self.mpp is not None and not 0.05 <= self.mpp <= 10:
            raise ValueError(f"mpp is micrometres a pixel, 0.05 to 10, not {self.mpp!r}.")

    def stated(self) -> dict[str, Any]:
        """dict field -> value of what was stated; empty where everything is to be found out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if value not in ("", (), {}, None) and value is not False
        }


FIND_OUT = Choices()


def state_choices(**stated: Any) -> Choices:
    """Choices of what a user states by name; lists and paths are taken as well.

    Raises ValueError for a name that there is none of. Example: state_choices(allow=["/store"])
    """
    known = [field.name for field in fields(Choices)]
    for name in stated:
        if name not in known:
            raise ValueError(f"Nothing about data is called {name!r}.{did_you_mean(name, known)}")
    allow = stated.get("allow", ())
    if isinstance(allow, str | PathLike):
        allow = [allow]
    return Choices(**{**stated, "allow": tuple(fspath(folder) for folder in allow)})


def read_score_words(texts: Iterable[str]) -> dict[str, str]:
    """dict word in lower case -> written score, of texts such as "negative=0".

    Raises ValueError for a text that is none. Example: read_score_words(["negative=0"])
    """
    words = {}
    for text in texts:
        word, equals, score = text.partition("=")
        if not (word.strip() and equals and score.strip()):
            raise ValueError(f"{text!r} is no score word: write it as negative=0.")
        words[word.strip().lower()] = score.strip()
    return words


def _check_score_word(score_word, score):
    """Raises ValueError where a word is declared to be what is no score: negative=zero."""
    try:
        scores.parse_score(score)
    except ValueError as error:
        raise ValueError(f"The score word {score_word!r}: {error}") from error
