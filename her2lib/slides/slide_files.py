"""Which files of strangers are slides, what each is called, and what is left aside.

One rule for `her2 tile` and `her2 score`: a pyramid or a scanner's own format is a slide, a small
TIFF without a pyramid is a patch.
"""

import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openslide
from PIL import Image, UnidentifiedImageError

from her2lib.files import DataError, fingerprint
from her2lib.intake import listing
from her2lib.intake.layout_sentences import count_text

SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".svslide",
    ".czi",
    ".dcm",
)
# Endings that photographs and patches have too.
ALSO_PATCHES = (".tif", ".tiff")
# OpenSlide takes every tiled TIFF for a slide of this format. Without a pyramid and up to this side
# it is a patch: the largest of public HER2 patches has 3000 px, the smallest of scanned slides
# (a biopsy at 20x) has 8000.
PLAIN_TIFF = "generic-tiff"
PATCH_PX = 4096
# A file system takes 255 bytes, and the corner of a patch and a temporary ending need 40 of them.
MOST_BYTES = 200
TILE_WIDTH = 322  # tag of TIFF
# (0020,000E) SeriesInstanceUID with explicit VR: the files of one slide share it.
DICOM_SERIES = b"\x20\x00\x0e\x00UI"
# MIRAX and Hamamatsu VMS keep a slide's pixels in files beside the one that OpenSlide opens.
COMPANIONS = {".vms": (".opt", ".jpg", ".jpeg"), ".vmu": (".opt", ".ngr")}

# code: why a file is left aside, beside those of listing.REASONS.
REASONS = listing.REASONS | {
    "patch": "small and without a pyramid, so a patch or photograph and no slide",
    "other": "no slide by its name",
    "part": "data of a slide that is opened by another file",
}
# What is no loss among photographs is one where it could be a slide: a sentence with the remedy.
LOST = {
    "dangling": "{} is a link to nothing: bring the slide back.",
    "letters": "{} has a name that is no UTF-8, as old disks write them: rename it.",
    "locked": "{} may not be read: give yourself the right to read it.",
}


@dataclass(frozen=True)
class SlideListing:
    """The slides at some paths; slides, refused and left_aside together are all that lies there."""

    slides: list[Path] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # path -> a sentence with the remedy
    left_aside: list[tuple[str, str]] = field(default_factory=list)  # (path, code in REASONS)

    def sentences(self, n_cut: int | None = None) -> list[str]:
        """list of str: what there is in one count, then what was left aside, a reason a line.

        n_cut: how many of the slides could be cut, where that is known by now.
        """
        n_slides = len(self.slides)
        n_there = n_slides + len(self.refused) + len(self.left_aside)
        if n_cut is None:
            n_cut = n_slides
        lines = [
            f"{count_text(n_there, 'file')} there: {count_text(n_cut, 'slide')} cut, "
            f"{n_there - n_cut - len(self.left_aside)} refused, {len(self.left_aside)} left aside."
        ]
        for code, count in Counter(code for _, code in self.left_aside).items():
            paths = [path for path, its_code in self.left_aside if its_code == code]
            lines.append(f"{count} left aside ({REASONS[code]}): {first_few(paths)}.")
        return lines


# --- which files are slides -----------------------------------------------------------------------


def is_slide(path: Path | str) -> bool:
    """bool, whether a file is a slide to cut; a tiled TIFF patch of 1024 px is none.

    Example: is_slide("S0.svs")
    """
    return slide_format(path) != "" and not is_patch(path)


def slide_format(path: Path | str) -> str:
    """str, OpenSlide's word for a file's format ("aperio", "generic-tiff"); "" for no slide."""
    path = Path(path)
    named_so = path.suffix.lower() in SUFFIXES or _is_dicom(path)
    if not named_so or not path.is_file():
        return ""
    try:
        return openslide.OpenSlide.detect_format(path) or ""
    except openslide.OpenSlideError:
        return ""


def is_patch(path: Path | str) -> bool:
    """bool, whether a TIFF is a patch or photograph: no pyramid, at most PATCH_PX a side."""
    path = Path(path)
    if path.suffix.lower() not in ALSO_PATCHES:
        return False
    slide_kind = slide_format(path)
    if slide_kind == PLAIN_TIFF:
        try:
            with openslide.OpenSlide(path) as slide:
                return slide.level_count == 1 and max(slide.dimensions) <= PATCH_PX
        except openslide.OpenSlideError:
            return False
    return slide_kind == "" and max(_picture_size(path)) in range(1, PATCH_PX + 1)


def is_picture(path: Path | str) -> bool:
    """bool, whether Pillow knows a file for a TIFF, whatever its size."""
    return _picture_size(path) != (0, 0)


def find_slides(
    paths: Sequence[Path | str],
    *,
    allow: Sequence[Path | str] = (),
    skip: Path | str | None = None,
) -> SlideListing:
    """SlideListing of the slides that are named, and of those in the folders named and below.

    A file that is named is taken for a slide whatever it looks like; in a folder each is judged.
    allow: further folders that links may lead into.  skip: a folder that is not looked into, where
    patches go.
    Raises DataError where nothing lies at a path, or nowhere a slide.

    Example: find_slides(["slides/"]).slides
    """
    whole = SlideListing()
    for path in map(Path, paths):
        if path.is_dir():
            part = _slides_below(path, allow, skip)
            whole.slides.extend(part.slides)
            whole.refused.update(part.refused)
            whole.left_aside.extend(part.left_aside)
        elif path.exists():
            whole.slides.append(path)
        else:
            raise DataError(f"There is nothing at {path}: name a slide or a folder of slides.")
    unique: dict[str, Path] = {}
    for path in whole.slides:
        unique.setdefault(os.path.realpath(path), path)
    whole.slides[:] = unique.values()
    if not whole.slides and not whole.refused:
        aside = " ".join(whole.sentences()[1:])
        raise DataError(
            f"No slide lies in {', '.join(map(str, paths))}: expected files such as "
            f"{', '.join(SUFFIXES[:5])}. {aside}".rstrip()
        )
    return whole


def first_few(paths: Sequence[str], count: int = 3) -> str:
    """str, the first paths of a list, and how many more there are."""
    text = ", ".join(paths[:count])
    if len(paths) > count:
        text += f" and {len(paths) - count} more"
    return text


# --- what each is called --------------------------------------------------------------------------


def name_of(path: Path | str) -> str:
    """str, a slide's name as it stands in names of files and tables: the stem, dots included."""
    return _safe_name(Path(path).stem) or "slide"


def name_slides(
    slides: Sequence[Path], earlier: Mapping[tuple[str, int, int], str] = {}
) -> tuple[dict[Path, str], list[str]]:
    """({slide: name unlike any other}, sentences): two files of one name get their folder's too.

    earlier: {file_identity: name} of slides that were cut before, which keep their names.
    Raises DataError where two files would have the same name even so.

    Example: name_slides([Path("a/S0.svs"), Path("b/S0.svs")])[0]  # a_S0 and b_S0
    """
    plain_names = {path: _plain_name(path, slides) for path in slides}
    counts = Counter(name.lower() for name in plain_names.values())
    names = {}
    renamed = []
    taken = set()
    for path, name in plain_names.items():
        known = earlier.get(file_identity(path), "")
        if known and known not in taken:
            name = known
        elif counts[name.lower()] > 1:
            name = _safe_name(f"{path.resolve().parent.name}_{name}")
            renamed.append(f"{path} is called {name}")
        names[path] = name
        taken.add(name)
    _refuse_twins(names)
    if not renamed:
        return names, []
    return names, [f"Several slides have one name: {first_few(renamed)}."]


@dataclass(frozen=True)
class NameMatches:
    """Which slide each of some texts names, and the texts that name none or several."""

    slide_of: dict[str, str]  # text -> name of the slide
    unclear: dict[str, list[str]]  # text -> names of the slides that it could mean
    unmatched: list[str]


def match_names(texts: Iterable[str], names: Mapping[Path, str]) -> NameMatches:
    """NameMatches of texts that people wrote for slides: file name, stem, or up to its first dot.

    TCGA's names go on after a dot that people leave out; so a text is matched to the part before
    it, where one slide alone begins so and none has just that name.
    names: {slide: its name}, as name_slides gives them.

    Example: match_names(["S0.svs"], {Path("a/S0.svs"): "S0"}).slide_of  # {"S0.svs": "S0"}
    """
    by_name = defaultdict(set)
    by_beginning = defaultdict(set)
    for path, name in names.items():
        for text in (name, path.name, _stem(path.name), name_of(path)):
            by_name[_key(text)].add(name)
        # below a folder of one's own: aaaa/S0.svs
        by_name[_key(f"{path.parent.name}/{path.name}")].add(name)
        by_name[_key(f"{path.parent.name}/{_stem(path.name)}")].add(name)
        by_name[_key(str(path))].add(name)
        by_beginning[_key(path.name.split(".")[0])].add(name)
    matches = NameMatches({}, {}, [])
    for text in texts:
        candidates = _slides_meant(text, by_name, by_beginning)
        if len(candidates) == 1:
            matches.slide_of[text] = candidates[0]
        elif candidates:
            matches.unclear[text] = candidates
        else:
            matches.unmatched.append(text)
    return matches


def file_identity(path: Path) -> tuple[str, int, int]:
    """(name, bytes, time in ns) of a file: the same file, wherever it lies; -1 where it is gone."""
    try:
        facts = path.stat()
    except OSError:
        return path.name, -1, -1
    return path.name, facts.st_size, facts.st_mtime_ns


# --- helpers --------------------------------------------------------------------------------------


def _slides_below(folder, allow, skip):
    """SlideListing of a folder and the folders below it, without the folder to skip."""
    there = _without_folder(listing.list_files(folder, allow=allow), skip)
    roots = listing.real_roots([folder, *allow])
    part = SlideListing()
    for file, code in there.left_aside:
        is_slide_name = Path(file).suffix.lower() in SUFFIXES
        if code == "locked" or (code in LOST and is_slide_name):
            part.refused[file] = LOST[code].format(folder / file)
        else:
            part.left_aside.append((file, code))
    companions = _companions(there.files) | _further_dicom_files(folder, there.files)
    for file in there.files:
        path = folder / file
        code = _code_of(path, file in companions)
        if code:
            part.left_aside.append((file, code))
        elif not listing.lies_in(path, roots):
            target = Path(os.path.realpath(path)).parent
            part.refused[file] = (
                f"{path} is a link that leaves the folder: --allow {target} lets it in."
            )
        else:
            part.slides.append(path)
    return part


def _without_folder(there, skip):
    """listing.Listing without what lies in the folder to skip, when that lies below its root."""
    if skip is None or not listing.lies_in(skip, listing.real_roots([there.root])):
        return there
    start = os.path.relpath(os.path.realpath(skip), os.path.realpath(there.root)) + os.sep
    start = start.replace(os.sep, "/")
    files = [file for file in there.files if not file.startswith(start)]
    aside = [(file, code) for file, code in there.left_aside if not file.startswith(start)]
    return listing.Listing(there.root, files, aside)


def _code_of(path, is_companion):
    """str, the code in REASONS of a file that is no slide; "" for a slide, sound or damaged."""
    if is_companion:
        return "part"
    if path.suffix.lower() not in SUFFIXES and not _is_dicom(path):
        return "other"
    if is_patch(path):
        return "patch"
    return ""


def _companions(files):
    """set of the files that hold pixels of a slide which another file opens."""
    data_of = set()
    for file in files:
        stem, suffix = os.path.splitext(file)
        folder = os.path.dirname(file)
        if suffix.lower() == ".mrxs":
            data_of.update(other for other in files if other.startswith(stem + "/"))
        endings = COMPANIONS.get(suffix.lower())
        if endings:
            data_of.update(
                other
                for other in files
                if os.path.dirname(other) == folder and other.lower().endswith(endings)
            )
    return data_of


def _further_dicom_files(folder, files):
    """set of the DICOM files whose slide an earlier file of the same folder and series opens."""
    series = defaultdict(list)
    for file in files:
        if _is_dicom(folder / file):
            series[os.path.dirname(file), _dicom_series(folder / file)].append(file)
    further = set()
    for same_series in series.values():
        further.update(same_series[1:])
    return further


def _is_dicom(path):
    """bool, whether a file has DICOM's mark, under .dcm or no ending at all."""
    if path.suffix.lower() not in ("", ".dcm") and not _ends_in_number(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _ends_in_number(path):
    """bool, whether a name ends as the instance numbers of DICOM files do (1.2.840.1)."""
    return path.suffix[1:].isdigit()


def _dicom_series(path):
    """str, the series that a DICOM file says to belong to; "" where it says nothing."""
    with open(path, "rb") as file:
        head = file.read(2**16)
    start = head.find(DICOM_SERIES) + len(DICOM_SERIES)
    if start < len(DICOM_SERIES):
        return ""
    length = int.from_bytes(head[start : start + 2], "little")
    return head[start + 2 : start + 2 + length].decode("ascii", "replace").strip("\0 ")


def _picture_size(path):
    """(width, height) in px of a TIFF that OpenSlide does not know; (0, 0) for no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("TIFF",)) as image:
                # OpenSlide knows every sound tiled TIFF: one that it does not know is cut short
                if TILE_WIDTH in image.tag_v2:
                    return 0, 0
                return image.size
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return 0, 0
    except Image.DecompressionBombError:
        return PATCH_PX + 1, PATCH_PX + 1


def _plain_name(path, slides):
    """str, the stem; for the only DICOM slide of its folder the folder's name."""
    if _is_dicom(path):
        beside = [other for other in slides if other.parent == path.parent]
        if len(beside) == 1:
            return _safe_name(path.resolve().parent.name) or "slide"
        # Instance numbers are names with dots and no ending.
        if path.suffix.lower() != ".dcm":
            return _safe_name(path.name) or "slide"
    return name_of(path)


def _safe_name(text):
    """str, letters, digits, dots, plus and minus signs of a text; never beginning with a sign.

    What is too long for the name of a file ends in eight digits that no other long name has.
    """
    name = re.sub(r"[^\w.+-]+", "_", text).lstrip(".=+-")
    content = name.encode()
    if len(content) <= MOST_BYTES:
        return name
    return content[: MOST_BYTES - 9].decode(errors="ignore") + "_" + fingerprint(name)[:8]


def _slides_meant(text, by_name, by_beginning):
    """list of str, the slides that a text may mean; those named so exactly come first."""
    parts = text.replace("\\", "/").split("/")
    tries = ["/".join(parts), "/".join(parts[-2:]), parts[-1], _stem(parts[-1])]
    for part in tries:
        if by_name.get(_key(part)):
            return sorted(by_name[_key(part)])
    return sorted(by_beginning.get(_key(_stem(parts[-1])), ()))


def _stem(name):
    """str, a file name without its ending, if that is a slide's; dots within a name stay."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in SUFFIXES:
        return stem
    return name


def _key(text):
    """str, by which names are compared: capitals and the forms of Unicode are no difference."""
    return unicodedata.normalize("NFC", text).casefold()


def _refuse_twins(names):
    """Raises DataError where two slides have one name, in whatever case."""
    first_of = {}
    for path, name in names.items():
        other = first_of.setdefault(name.lower(), path)
        if other != path:
            raise DataError(
                f"{other} and {path} would both be called {name}: rename one, or tile them apart "
                "with another --out."
            )
