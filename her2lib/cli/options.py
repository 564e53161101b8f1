"""The command, and what a number, a list or a flag on its line may be."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from her2lib.intake.choices import Choices, read_score_words

RESEARCH_USE = "Research use only: a patch-level surrogate is not an ASCO/CAP score."

app = App(
    name="her2",
    help=f"HER2 study kit: from patches to a report. {RESEARCH_USE}",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    help_format="plaintext",
    # Else cyclopts ends an interrupted command itself, without a word on how to go on.
    suppress_keyboard_interrupt=False,
)


@dataclass(frozen=True)
class Between:
    """Reads a number of the command line; its error says what the option takes instead.

    Cyclopts itself reads "1.5" as the whole number 1, and no lower bound refuses inf.
    """

    low: float
    high: float
    whole: bool = False

    def __call__(self, type_: type, tokens: tuple) -> float:
        """int or float of one word of the line; raises ValueError with the range."""
        text = tokens[0].value.strip()
        try:
            number = self._number(text)
        except (ValueError, OverflowError):
            number = math.nan
        # False for nan
        if not self.low <= number <= self.high:
            raise ValueError(f"takes {self.range_text()}, not {text!r}.")
        return number

    def _number(self, text):
        """int where only whole numbers will do ("2.0" is none), else float."""
        if self.whole:
            return int(text)
        return float(text)

    def range_text(self) -> str:
        """str, "a whole number from 1 to 1,024"."""
        noun = "a number"
        if self.whole:
            noun = "a whole number"
        return f"{noun} from {self.low:,} to {self.high:,}"


def whole_numbers(low: int, high: int) -> Parameter:
    """Parameter of an option that takes a whole number from low to high."""
    return Parameter(converter=Between(low, high, whole=True))


def numbers(low: float, high: float) -> Parameter:
    """Parameter of an option that takes a number from low to high."""
    return Parameter(converter=Between(low, high))


# What a number on the command line may be; anything else is refused before a verb starts. The
# upper ends lie beyond all use: they stop a slip of the keyboard from filling a disk.
Count = Annotated[int, whole_numbers(1, 10_000_000)]
CountOrNone = Annotated[int, whole_numbers(0, 10_000_000)]
# More processes than this no machine has cores for.
Workers = Annotated[int, whole_numbers(1, 1024)]
Fraction = Annotated[float, numbers(0, 1)]
# numpy's generators take no more than 32 bits from every caller.
Seed = Annotated[int, whole_numbers(0, 2**32 - 1)]
SidePx = Annotated[int, whole_numbers(16, 16_384)]
# From oil immersion to a loupe, as in tables of patches (intake/columns.py).
Mpp = Annotated[float, numbers(0.05, 10)]
Flag = Annotated[bool, Parameter(show_default=False)]
Names = Annotated[list[str], Parameter(consume_multiple=True)]


# --- how data are read --------------------------------------------------------------------------

Folder = Literal["folder1", "folder2", "folder3", "folder4", "name", "none"]


def flag_help(text: str) -> Parameter:
    """Parameter of a flag that says nothing of its default: what is not stated is found out."""
    return Parameter(help=text, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True)
class DataFlags:
    """What a user states about data, the same flags at every verb; see intake/choices.py."""

    layout: Annotated[
        Literal["manifest", "bci", "folders", "names", "pairs", "images"] | None,
        flag_help("How the patches lie, where it could be several things."),
    ] = None
    score_from: Annotated[
        Folder | None, flag_help("What holds the score; folder1 is the folder a file lies in.")
    ] = None
    patient_from: Annotated[
        Folder | None, flag_help("What holds the patient; of a name, what precedes the first _.")
    ] = None
    set_from: Annotated[
        Literal["folder", "name", "none"] | None, flag_help("What holds train, val or test.")
    ] = None
    allow: Annotated[
        tuple[Path, ...], flag_help("Folder outside that links and paths may lead into.")
    ] = ()
    score_word: Annotated[
        tuple[str, ...], flag_help("What a word means as a score: negative=0; may be repeated.")
    ] = ()
    any_field: Annotated[bool, flag_help("Take fields that look like no H-DAB field as well.")] = (
        False
    )

    def choices(self, mpp: float | None = None) -> Choices:
        """Choices of these flags, folders as absolute paths."""
        return Choices(
            layout=self.layout or "",
            score_from=self.score_from or "",
            patient_from=self.patient_from or "",
            set_from=self.set_from or "",
            allow=tuple(str(folder.expanduser().absolute()) for folder in self.allow),
            score_words=read_score_words(self.score_word),
            mpp=mpp,
            any_field=self.any_field,
        )


FIND_OUT_FLAGS = DataFlags()


def print_problems(problems: Iterable[str]) -> int:
    """int exit status, 1 when there are problems; each is printed as a sentence."""
    for problem in problems:
        print(f"her2: {problem}", file=sys.stderr)
    return int(bool(problems))
