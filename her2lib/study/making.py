"""A study made for a user's folder or manifest: what it may be called, and its file.

Everything is decided before anything is written: a name that is refused leaves no folder behind.
"""

import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from her2lib import files as files_
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.study.config import NO_STUDIES, Study, check_study, load_study, study_files
from her2lib.study.keys import SECTIONS, StudyError

FORM = "data"
# In bytes: a file system takes 255, and temporary names and endings are added to the name.
LONGEST_NAME = 80
LETTERS = "letters, digits, dots, dashes and underscores"
# TOML has short escapes for these; other control characters are written \uXXXX.
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class MadeStudy:
    """The file of a study as it is to be written, and what a person should be told of it."""

    file: Path
    text: str
    sentences: list[str]

    def study(self) -> Study:
        """Study of this text; the file need not be there yet."""
        return check_study(tomllib.loads(self.text), self.file)

    def write(self) -> Path:
        """Path of the file, written; one that changes is kept beside it under its date."""
        if self.file.is_file():
            if self.file.read_text(encoding="utf-8-sig") == self.text:
                return self.file
            files_.keep_old(self.file)
        return files_.write_text(self.file, self.text)


def make_study(
    path: str | Path,
    *,
    name: str = "",
    networks: Sequence[str] = (),
    skip_bad: bool = False,
    choices: Choices = FIND_OUT,
    **changes,
) -> Path:
    """Path of the written study file of a user's folder or manifest.csv: see prepare_study.

    Example: load_study(make_study("my_patches", epochs=5))
    """
    made = prepare_study(
        path, name=name, networks=networks, skip_bad=skip_bad, choices=choices, **changes
    )
    return made.write()


def prepare_study(
    path: str | Path,
    *,
    name: str = "",
    networks: Sequence[str] = (),
    skip_bad: bool = False,
    choices: Choices = FIND_OUT,
    **changes,
) -> MadeStudy:
    """MadeStudy for a user's folder or manifest.csv, filled into studies/data.toml; not written.

    name: the study's; "" takes the folder's.  networks: () takes the form's.  choices: how the
    patches are to be read.  changes: further keys of a study file, such as weights or epochs.
    Where the study is there already, only what is stated here changes in its file. Raises
    StudyError for a name that cannot be used, for a folder of another study, and for a study of
    that name with other patches. Example: prepare_study("my_patches").study().runs()
    """
    source = Path(os.path.realpath(Path(path).expanduser()))
    if not source.exists():
        raise StudyError(f"There is nothing at {path}: give a folder of patches or a manifest.csv.")
    _check_letters(source)
    sentences = []
    if not name:
        name, sentences = _name_of_source(source)
    check_name(name)
    file = files_.REPORTS / name / f"{name}.toml"
    stated = _stated(networks, skip_bad, choices, changes)
    if file.is_file():
        text, more = _changed_file(file, source, stated)
        return MadeStudy(file, text, [*sentences, *more])
    _check_no_stranger(file)
    form = (files_.ROOT / "studies" / f"{FORM}.toml").read_text(encoding="utf-8")
    text = with_values(form, {"source": str(source), **stated}, file=file.name)
    return MadeStudy(file, text, sentences)


# --- names --------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """None; raises StudyError, before anything is made, for what no study may be called."""
    remedy = f"give another one, such as --name {_name_letters(name) or 'patches'}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise StudyError(f"A study's name has {LETTERS} only, not {name!r}: {remedy}.")
    if name[0] in ".-" or name.lower().endswith(".toml"):
        raise StudyError(
            f"A study's name begins with no dot or dash and ends in no .toml, as {name!r} does: "
            f"{remedy}."
        )
    if len(name.encode()) > LONGEST_NAME:
        raise StudyError(
            f"A study's name has at most {LONGEST_NAME} letters, not {len(name)}: {remedy}."
        )
    if _is_of_the_kit(name):
        raise StudyError(
            f"studies/{name}.toml is a file of the kit, so no other study may be called "
            f"{name!r}: give another name, such as --name {_name_letters(name)}-patches."
        )


def check_folder(study: Study) -> None:
    """None; raises StudyError where the study's folder holds another study of the same name."""
    others = [
        files_.ROOT / "studies" / f"{study.name}.toml",
        study.folder / f"{study.name}.toml",
        *_files_of_receipts(study),
    ]
    for other in others:
        if other.is_file() and not _same_text(other, study.file):
            raise StudyError(
                f"{other} and {study.file} are both called {study.name}, and both would write "
                f"into {study.folder}: rename one of the two files."
            )


def _name_of_source(source):
    """(name, sentences): the name of a study after its folder, and why it is another one."""
    # A manifest is called manifest.csv everywhere: its folder says what it is of.
    stem = source.name
    if source.is_file():
        stem = source.stem
    if source.name == "manifest.csv":
        stem = source.parent.name
    name = _name_letters(stem)
    if not name:
        name = "patches"
        return name, [f"The study is called {name}: {stem!r} has no letter for a name."]
    if _is_of_the_kit(name):
        taken = f"studies/{name}.toml is a file of the kit"
        name = f"{name}-patches"
        return name, [f"The study is called {name}, because {taken}."]
    if name != stem:
        return name, [f"The study is called {name}, after {stem!r}."]
    return name, []


def _name_letters(text):
    """str, what of a text may stand in a name; emoji and blanks become dashes."""
    composed = unicodedata.normalize("NFC", text)
    name = re.sub(r"[^\w.-]+", "-", composed).strip("-.")
    short = name.encode()[: LONGEST_NAME - len("-patches")].decode(errors="ignore")
    return re.sub(r"\.toml$", "", short.strip("-."), flags=re.I)


def _is_of_the_kit(name):
    """bool, whether studies/ has a file of this name; a Mac knows no capital letters in names."""
    names = [*NO_STUDIES, *(file.stem for file in study_files())]
    return name.casefold() in [known.casefold() for known in names]


def _check_letters(path):
    """None; raises for a path whose bytes are no UTF-8, which no file of text can name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise StudyError(
            f"The path {str(path)!r} has letters that are no UTF-8, as old disks write them: "
            "rename that folder or file."
        ) from error


def _stated(networks, skip_bad, choices, changes):
    """dict key -> value, or table -> dict of such: what a user states, and no default."""
    about_data = choices.stated()
    words = about_data.pop("score_words", {})
    if skip_bad:
        about_data["skip_bad"] = True
    stated = {**changes, "data": about_data, "scores": words}
    if networks:
        stated["network"] = list(networks)
    return stated


# --- whose folder -------------------------------------------------------------------------------


def _check_no_stranger(file):
    """None; raises where the study's folder to be holds something already."""
    folder = file.parent
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder} is a file: give another --name.")
    visible = []
    if folder.is_dir():
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if visible:
        raise StudyError(
            f"{folder} holds {visible[0].name} and no {file.name}, so it is another study's: give "
            "another --name."
        )


def _files_of_receipts(study):
    """list of Path, the study files that executions in the study's folder were started with."""
    names = set()
    for receipt in study.folder.glob("runs/*/done.json"):
        parameters = files_.read_json(receipt).get("parameters") or {}
        names.add(str(parameters.get("study_name", "")))
    return [Path(name) for name in sorted(names) if name.endswith(".toml")]


def _same_text(file, other):
    """bool, whether two paths are one file, or hold the same text."""
    return file.resolve() == other.resolve() or file.read_bytes() == other.read_bytes()


def _changed_file(file, source, stated):
    """(text, sentences) of a study file that is there, with what is stated now and all else kept.

    Raises StudyError where it is a study of other patches.
    """
    before = load_study(file)
    if os.path.realpath(before.cohort_path) != str(source):
        raise StudyError(
            f"The study {before.name} is of {before.cohort_path}, and these patches are at "
            f"{source}: give this study another name, such as --name {before.name}-2."
        )
    text = file.read_text(encoding="utf-8-sig")
    changed = with_values(text, stated, file=file.name)
    if changed == text:
        return text, [f"Goes on with {file} as it stands."]
    return changed, [f"{file} is changed as stated here; the old file is kept beside it."]


# --- the text of a study file -------------------------------------------------------------------


def with_values(text: str, values: Mapping, *, file: str) -> str:
    """str, the text of a study file with these keys set in their tables, all else as it was.

    values: key -> value, or table -> dict of such.  file: its name, for sentences.
    Raises StudyError where a line cannot be changed without touching others.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            for inner, one in value.items():
                text = _with_value(text, key, inner, one, file=file)
        else:
            text = _with_value(text, _table_of(key), key, value, file=file)
    return text


def toml_value(value: object) -> str:
    """str, a value as TOML writes it: text in quotes, true, numbers, lists of these.

    JSON is no substitute: it writes an emoji as two halves, which TOML refuses.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, str):
        _check_letters(value)
        return f'"{"".join(_toml_letter(letter) for letter in value)}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(toml_value(one) for one in value)}]"
    raise StudyError(f"A study file holds texts, numbers and lists of them, not {value!r}.")


def _toml_letter(letter):
    """str, one character as it stands between the quotes of TOML."""
    if letter in ESCAPES:
        return ESCAPES[letter]
    if unicodedata.category(letter) == "Cc":
        return f"\\u{ord(letter):04X}"
    return letter


def _table_of(key):
    """str, the table of a study file that a key stands in; what no table names is of training."""
    for table, defaults in SECTIONS.items():
        if defaults and key in defaults:
            return table
    return "train"


def _with_value(text, table, key, value, *, file):
    """str, the text with one key set; the line it had is replaced, or one is added to its table."""
    if isinstance(value, tuple):
        value = list(value)
    wanted = tomllib.loads(text)
    if wanted.get(table, {}).get(key) == value:
        return text
    wanted.setdefault(table, {})[key] = value
    lines = text.rstrip("\n").split("\n")
    line = f"{_toml_key(key)} = {toml_value(value)}"
    start, end = _lines_of_table(lines, table)
    if start is None:
        lines += ["", f"[{table}]", line]
    else:
        at = [i for i in range(start, end) if re.match(rf'\s*"?{re.escape(key)}"?\s*=', lines[i])]
        if at:
            lines[at[0]] = line
        else:
            lines.insert(start, line)
    changed = "\n".join(lines) + "\n"
    if not _says(changed, wanted):
        raise StudyError(
            f"{file}: {key} in [{table}] cannot be changed from here: set it to "
            f"{toml_value(value)} in that file, then give the command without it."
        )
    return changed


def _toml_key(key):
    if re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return key
    return toml_value(key)


def _lines_of_table(lines, table):
    """(first, one past the last) line within a table; (None, None) where there is none."""
    heads = [i for i, line in enumerate(lines) if re.match(r"\s*\[", line)]
    for i in heads:
        if re.match(rf"\s*\[\s*{re.escape(table)}\s*\]", lines[i]):
            after = [other for other in heads if other > i]
            return i + 1, (after or [len(lines)])[0]
    return None, None


def _says(text, wanted):
    """bool, whether a text is TOML and says what is wanted, in other words nothing else changed."""
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False
