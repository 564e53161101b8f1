"""One line read, one verb called, every refusal a sentence on standard error."""

import dis
import errno
import os
import select
import sys
import traceback
import warnings
from pathlib import Path

from cyclopts import CoercionError, CycloptsError

from her2lib.cli import data_verbs, score_verbs, study_verbs  # noqa: F401 (each adds its verbs)
from her2lib.cli.options import app

LIBRARY = Path(__file__).resolve().parents[1]

# What a shell shows for a command whose reader went away (128 + SIGPIPE).
NO_READER = 141
# "Internal software error" of sysexits.h.
DEFECT = 70

# What the operating system answers -> what that means for a file, and what helps.
OS_SENTENCES = {
    errno.ENOENT: "There is nothing at {file}: correct the path.",
    errno.EACCES: "{file} may not be read or written: change its permissions, or ask its owner.",
    errno.EPERM: "{file} may not be read or written: change its permissions, or ask its owner.",
    errno.EISDIR: "{file} is a folder, and a file is needed: name the file in it.",
    errno.ENOTDIR: "{file} is a file, or lies below one, where a folder is needed: correct it.",
    errno.EEXIST: "{file} is there already: take it away, or choose another name.",
    errno.ENOTEMPTY: "{file} is a folder that is not empty: choose another one.",
    errno.ENAMETOOLONG: "The name {file} is longer than the file system takes: shorten it.",
    errno.ELOOP: "{file} is a link that leads back to itself: take it away.",
    errno.EROFS: "{file} lies on a disk that can only be read: choose another folder.",
    errno.ENOSPC: "The disk is full: free space, then give the same command again.",
    errno.EDQUOT: "Your quota on this disk is used up: free space, then give the command again.",
    errno.EMFILE: "Too many files are open: give fewer --workers, or raise ulimit -n.",
    errno.EPIPE: "A process of this command has ended: give the same command again.",
    errno.ENXIO: "{file} is a device or a socket, not a file: name a file.",
}


def main(arguments: list[str] | None = None) -> int:
    """int exit status: 0 done, 1 finished with failures or findings, 2 refused in a sentence.

    130 is an interruption, 141 a reader that went away, 70 a defect of the kit.
    """
    _print_what_the_terminal_can()
    try:
        with warnings.catch_warnings():
            # "Corrupt EXIF data.  Expecting to read 2 bytes but only got 0": what is wrong with a
            # file, the kit itself says in a sentence.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            status = app(
                arguments, exit_on_error=False, print_error=False, result_action="return_value"
            )
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt:
        return _refuse("stopped. The same command goes on where it stopped.", status=130)
    except CycloptsError as error:
        return _refuse(_line_sentence(error))
    # Everything that a verb can raise ends here: as a sentence, or named as a defect of the kit.
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return _leave_quietly()
        if os.environ.get("HER2_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno:
            return _refuse(os_sentence(error))
        if isinstance(error, MemoryError):
            return _refuse("The memory is full: give fewer --workers, or fewer or smaller images.")
        if _raised_by_hand(error):
            return _refuse(str(error))
        return _refuse(_defect_sentence(error), status=DEFECT)


def os_sentence(error: OSError) -> str:
    """str, what the operating system refused, as a sentence with its remedy.

    Example: os_sentence(OSError(errno.ENOENT, "", "a.csv"))
    """
    file = error.filename2 or error.filename
    if isinstance(file, bytes):
        file = os.fsdecode(file)
    if file is None:
        file = "A file"
    sentence = OS_SENTENCES.get(error.errno or 0)
    if sentence:
        return sentence.format(file=file)
    reason = str(error.strerror).lower()
    return f"{file} cannot be used: the operating system says {reason!r}."


# --- helpers ------------------------------------------------------------------------------------


def _print_what_the_terminal_can():
    """None; letters that a terminal lacks become "?", as in a name with an accent under cp1252."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")


def _refuse(sentence, *, status=2):
    """int, the exit status, after the sentence is printed."""
    print(f"her2: {sentence}", file=sys.stderr)
    return status


def _reader_is_gone():
    """bool, whether nobody reads standard output any more (`| head`), by asking its pipe."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))


def _leave_quietly():
    """int, NO_READER; standard output leads nowhere, or Python would complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return NO_READER


def _line_sentence(error):
    """str, what is wrong with the line as it was typed."""
    takes = str(error.msg or "")
    if isinstance(error, CoercionError) and error.token and takes.startswith("takes "):
        return f"{error.token.keyword} {takes}"
    return " ".join(str(error).split())


def _raised_by_hand(error):
    """bool, whether a raise statement of this library made the error: then its text is a sentence.

    int("x") ends in a frame of this library too, but in no raise statement.
    """
    if type(error).__module__.startswith("her2lib."):
        # DataError, StudyError, RunError; those of another process were raised anew elsewhere.
        return True
    if not isinstance(error, ValueError | OSError | RuntimeError):
        return False
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    code = last.tb_frame.f_code
    instruction = dis.opname[code.co_code[last.tb_lasti]]
    return _is_ours(code.co_filename) and instruction == "RAISE_VARARGS"


def _defect_sentence(error):
    """str, that the kit is at fault, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if _is_ours(frame.filename)][-1]
    source = Path(last.filename).resolve().relative_to(LIBRARY.parent)
    return (
        f"this is a defect of the kit, not of your data ({source}, line {last.lineno}). Nothing "
        "that was finished is lost. HER2_DEBUG=1 before the same command shows where it comes "
        "from: please report what that prints."
    )


def _is_ours(file):
    return Path(file).resolve().is_relative_to(LIBRARY)


if __name__ == "__main__":
    sys.exit(main())
