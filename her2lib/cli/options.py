"""The command, and what a number, a list or a flag on its line may be."""

import sys
from collections.abc import Iterable
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

RESEARCH_USE = "Research use only: a patch-level surrogate is not an ASCO/CAP score."

app = App(
    name="her2",
    help=f"HER2 study kit: from patches to a report. {RESEARCH_USE}",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    help_format="plaintext",
)

# What a number on the command line may be; anything else is refused before a verb starts.
Count = Annotated[int, Parameter(validator=Number(gte=1))]
CountOrNone = Annotated[int, Parameter(validator=Number(gte=0))]
Fraction = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0))]
SidePx = Annotated[int, Parameter(validator=Number(gte=16))]
Mpp = Annotated[float, Parameter(validator=Number(gt=0))]
Flag = Annotated[bool, Parameter(show_default=False)]
Names = Annotated[list[str], Parameter(consume_multiple=True)]


def print_problems(problems: Iterable[str]) -> int:
    """int exit status, 1 when there are problems; each is printed as a sentence."""
    for problem in problems:
        print(f"her2: {problem}", file=sys.stderr)
    return int(bool(problems))
