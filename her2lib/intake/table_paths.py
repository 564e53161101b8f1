"""Where the files of a table lie: as written, or below its folder under another beginning.

Tables travel: a path begins with the folder of another machine, or a name has lost its ending or
its folder. One rule is found for the whole table and said; a file that it does not find is missing.
"""

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from her2lib.intake.columns import SUFFIXES
from her2lib.intake.layout_sentences import count_text
from her2lib.intake.listing import list_files


def locate_files(
    folder: Path, texts: Sequence[str], *, allow: Sequence[str] = (), table: str = "the table"
) -> tuple[list[str], list[str]]:
    """(paths (N,), sentences) of the files that a table in folder names; "" for an empty text.

    A path that is not there as written is looked for below folder: without its ending, in other
    capitals or another Unicode form; else with another beginning, where one beginning fits at
    least half of the table; else, of a name without a folder, wherever one file alone is so called.
    allow: folders outside that links may lead into.  table: its name, for sentences.

    Example: locate_files(Path("data"), ["C:\\\\old\\\\im\\\\a.png"]) finds data/im/a.png
    """
    paths = [_as_written(folder, text) for text in texts]
    missing = [i for i, path in enumerate(paths) if path and not os.path.lexists(path)]
    if not missing:
        return paths, []
    known = _KnownFiles(list_files(folder, allow=allow).files)
    # A way up in the middle of a path leads where nobody can tell.
    keys = {i: _path_key(texts[i]) for i in missing if "/../" not in texts[i].replace("\\", "/")}
    file_of, sentences = _nearly_as_written(known, texts, keys, table)
    if 2 * len(_without(keys, file_of)) >= len(texts):
        more, sentence = _under_another_beginning(known, texts, _without(keys, file_of), table)
        file_of |= more
        sentences += sentence
    more, sentence = _by_name(known, texts, _without(keys, file_of), table)
    file_of |= more
    for i, file in file_of.items():
        paths[i] = os.path.join(folder, file)
    return paths, [*sentences, *sentence]


class _KnownFiles:
    """Images below a folder, looked up by path, by path without ending, by name."""

    def __init__(self, files: Sequence[str]) -> None:
        self.by_key: dict[str, set[str]] = {}
        self.by_name: dict[str, set[str]] = {}
        for file in files:
            key = _path_key(file)
            if not key.endswith(SUFFIXES):
                continue
            for one in (key, posixpath.splitext(key)[0]):
                self.by_key.setdefault(one, set()).add(file)
                self.by_name.setdefault(posixpath.basename(one), set()).add(file)

    def at(self, key: str) -> str:
        """str, the one file at a path, with or without its ending; "" for none, or for several."""
        return _only(self.by_key.get(key, set()))

    def called(self, key: str) -> str:
        """str, the one file of a name in any folder; "" for none, or for several."""
        return _only(self.by_name.get(key, set()))


# --- helpers ------------------------------------------------------------------------------------


def _as_written(folder, text):
    """str, the path of a text, also with backslashes or in the other Unicode form."""
    if not text:
        return ""
    path = os.path.join(folder, text)
    if os.path.lexists(path):
        return path
    slashes = text.replace("\\", "/")
    for form in ("NFC", "NFD"):
        other = os.path.join(folder, unicodedata.normalize(form, slashes))
        if os.path.lexists(other):
            return other
    return path


def _path_key(text):
    """str, a path with forward slashes, in one Unicode form and in lower case."""
    path = unicodedata.normalize("NFC", text).replace("\\", "/").casefold()
    return posixpath.normpath(path)


def _only(files):
    if len(files) != 1:
        return ""
    return next(iter(files))


def _without(keys, file_of):
    return {i: key for i, key in keys.items() if i not in file_of}


def _nearly_as_written(known, texts, keys, table):
    """({row: file}, sentences) of paths that lack an ending, or differ in capitals."""
    candidates = {i: known.at(key) for i, key in keys.items()}
    file_of = {i: file for i, file in candidates.items() if file}
    return file_of, _found_sentences(table, texts, file_of, "with another ending or other capitals")


def _under_another_beginning(known, texts, keys, table):
    """({row: file}, sentences) of paths below folders of another machine.

    One beginning is taken from all paths and one folder put before what is left: only so do
    slideA/1.png and slideB/1.png stay two files.
    """
    counts: Counter = Counter()
    for key in keys.values():
        counts.update(_beginnings(known, key))
    changes = [change for change in counts if all(x.startswith(change[0]) for x in keys.values())]
    if not changes:
        return {}, []
    most = max(counts[change] for change in changes)
    best = [change for change in changes if counts[change] == most]
    # The shortest beginning that is taken away leaves the most to tell a file by.
    cut, put = min(best, key=_length_of_cut)
    rivals = [change for change in best if change[0] == cut]
    if 2 * most < len(texts) or len(rivals) > 1:
        return {}, []
    candidates = {i: known.at(put + key.removeprefix(cut)) for i, key in keys.items()}
    file_of = {i: file for i, file in candidates.items() if file}
    return file_of, _found_sentences(table, texts, file_of, "under another beginning")


def _beginnings(known, key):
    """set of ((beginning to take away, folder to put there)) that lead from a path to a file."""
    changes = set()
    folders = key.split("/")
    for file in known.by_name.get(folders[-1], ()):
        path = _path_key(file)
        if posixpath.splitext(path)[0].endswith(folders[-1]):
            path = posixpath.splitext(path)[0]
        for start in range(1, len(folders)):
            rest = "/".join(folders[start:])
            # A name alone is looked for beside the table only: any slide may have a 1.png.
            if path == rest or ("/" in rest and path.endswith(f"/{rest}")):
                changes.add((key.removesuffix(rest), path.removesuffix(rest)))
    return changes


def _length_of_cut(change):
    return len(change[0])


def _by_name(known, texts, keys, table):
    """({row: file}, sentences) of names without a folder that one file alone has."""
    names = {i: key for i, key in keys.items() if "/" not in key}
    candidates = {i: known.called(name) for i, name in names.items()}
    file_of = {i: file for i, file in candidates.items() if file}
    return file_of, _found_sentences(table, texts, file_of, "without a folder")


def _found_sentences(table, texts, file_of, why):
    """list of a sentence on paths that were found elsewhere than written; empty for none."""
    if not file_of:
        return []
    i, file = next(iter(file_of.items()))
    count = count_text(len(file_of), "path")
    return [f"{table}: {count} {why}: found below its folder, {texts[i]} as {file}."]
