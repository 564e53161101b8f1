"""One line read, one verb called, every refusal a sentence on standard error."""

import os
import sys

from cyclopts import CycloptsError

from her2lib.cli import data_verbs, score_verbs, study_verbs  # noqa: F401 (each adds its verbs)
from her2lib.cli.options import app


def main(arguments: list[str] | None = None) -> int:
    """int exit status: 0 done, 1 finished with failures or findings, 2 refused in a sentence."""
    try:
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        return status or 0
    except KeyboardInterrupt:
        print("her2: stopped. The same command goes on where it stopped.", file=sys.stderr)
        return 130
    except CycloptsError as error:
        print(f"her2: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        if os.environ.get("HER2_DEBUG"):
            raise
        sentence = error.args[0] if isinstance(error, KeyError) else error
        print(f"her2: {sentence}", file=sys.stderr)
        print("      (HER2_DEBUG=1 shows where this came from)", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
