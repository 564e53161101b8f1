"""Patches and their scores from BCI folders, score folders or a CSV manifest: every problem listed, split without cutting a slide."""

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import unicodedata
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from her2lib import scores

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # named, so that no rarer (PostScript, PSD) decoder meets a stranger's file
SETS = ("train", "val", "test", "external")
MAX_PX, MIN_SIDE_PX, MAX_BYTES = 8192**2, 32, 2**28
MPP = (0.05, 10.0)  # from oil immersion to a loupe; outside it the unit is wrong (nm, mm)
COLUMNS = ("name", "path", "score", "slide", "patient", "mpp", "set", "he")
PROBLEMS = {  # code: severity, what is wrong, what to do; an error leaves the patch out, a warning does not
    "missing": ("error", "there is no such file", "correct the path in the manifest or bring the file back"),
    "outside": ("error", "the path, or a link on it, leaves the folder", "move the file inside, or say --allow-outside"),
    "special": ("error", "this is a folder or a device, not a file", "name an image file"),
    "locked": ("error", "the file may not be read ({})", "give yourself the right to read it"),
    "empty": ("error", "the file is empty (0 bytes)", "copy it again from its source"),
    "damaged": ("error", "the image is cut short or damaged ({})", "copy it again from its source"),
    "foreign": ("error", "this is no PNG, JPEG, TIFF, BMP or WebP image", "export the patch as PNG"),
    "huge": ("error", "{}: a slide or a decompression bomb, not a patch", "cut it into patches of at most 8192 x 8192 px"),
    "small": ("error", "{}: too small to hold a cell", "export patches of at least 32 px, better 1024"),
    "grey": ("error", "the image is grey ({}): brown and blue cannot be told apart", "export it in colour, 8 bits"),
    "print": ("error", "{} colours depend on a printer's profile, brown would shift", "export it as RGB"),
    "alpha": ("warning", "the image has transparent pixels: they are laid on white", "export without transparency"),
    "palette": ("warning", "the image has a palette of at most 256 colours", "export it in full colour"),
    "16-bit": ("warning", "16 bits a channel: only the upper 8 are kept", "export 8 bits a channel"),
    "turned": ("warning", "turned upright by its EXIF tag", "nothing, unless its HE partner has no such tag"),
    "oblong": ("warning", "{}: not square, the middle square is used", "export square patches"),
    "size": ("warning", "{} where most are {}: with one magnification these differ in mpp", "give mpp or export one size"),
    "score": ("error", "{} is not a HER2 score", "write one of 0, 1+, 2+, 3+"),
    "unscored": ("warning", "no score is given: neither trained nor tested on", "fill in the score"),
    "set": ("error", "{} is not a set", "write train, val, test, external or nothing"),
    "set name": ("warning", "its name says {}, its folder {}: the folder counts", "rename or move the file"),
    "mpp": ("error", "{} is not a pixel size in micrometres (0.05 to 10)", "write it like 0.25, or leave it empty"),
    "rater": ("warning", "{} is not a reading: taken as not read", "write one of 0, 1+, 2+, 3+ or nothing"),
    "column": ("warning", "the column {} is not used", "rename it to {} if that is what it holds"),
    "name": ("error", "the name holds control signs or is not Unicode", "rename the file"),
    "repeat": ("warning", "the same bytes as {}: counted once", "delete one of the two"),
    "leak": ("error", "the same bytes as {}, which is in the {} set", "delete it here, or training sees the test"),
    "torn": ("error", "the same bytes stand with the scores {} ({})", "decide on one score and delete the other file"),
    "partner": ("warning", "its HE partner {}", "bring the HE file back if you need pairs"),
    "stray": ("warning", "{}", "remove it, or bring what is missing"),
    "cut": ("warning", "{} {} stands in {}: these sets are not independent", "give whole slides and patients to one set"),
}


class DataError(ValueError):
    """One sentence about data that cannot be used, with the remedy."""


@dataclass(frozen=True)
class Patches:
    """images (N,3,H,W) uint8 tensor; score (N,) int, -1 unknown; slide, patient, name (N,) str; mpp (N,) AFTER resizing, of H and W."""

    images: object
    score: np.ndarray
    slide: np.ndarray
    patient: np.ndarray
    name: np.ndarray
    mpp: np.ndarray

    def __len__(self):
        """int, how many patches."""
        return len(self.score)

    def take(self, rows):
        """Patches of these rows (indices, mask or slice); neighbouring rows stay a view of the store, others are copied."""
        rows = np.arange(len(self))[rows]
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            rows = slice(rows[0], rows[0] + len(rows))
        return Patches(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def read(path, *, allow_outside=False, deep=False, cache=None, progress=False):
    """(table, problems): one row per usable patch (COLUMNS, rater_*); one row per problem (severity, file, problem, remedy)."""
    root, rows, found = _layout(Path(path))
    inside = [allow_outside or within for within in _inside(rows.path, root)]
    rows["he"] = rows.he.where(_inside(rows.he, root) if not allow_outside else True, "")
    facts = probe(rows.path.where(inside, ""), cache=cache, deep=deep, progress=progress)
    facts.loc[~np.array(inside), "fault"] = "outside"
    rows = pd.concat([rows, facts], axis=1)
    bad = _judge_words(rows, found) | _judge_files(rows, found)
    bad |= _judge_twins(rows[~bad], found).reindex(rows.index, fill_value=False)
    rows = rows[~bad].reset_index(drop=True)
    _judge_sets(rows, found)
    _judge_partners(rows, found, probe(rows.he, cache=cache, deep=deep, progress=progress))
    raters = [column for column in rows if column.startswith("rater_")]
    return rows[[*COLUMNS, *raters]], _problems(found)


def check(path, *, deep=True, allow_outside=False, cache=None, progress=True):
    """(problems, counts): every problem of the data, each image decoded when deep; usable patches per set and score."""
    table, problems = read(path, deep=deep, allow_outside=allow_outside, cache=cache, progress=progress)
    written = table.score.map(scores.name).rename("score")
    return problems, pd.crosstab(table.set.replace("", "(none)"), written, margins=True, margins_name="all")


def stop_on_errors(problems, *, path):
    """None when no problem is an error; else DataError naming the first file, the count and the remedy."""
    errors = problems[problems.severity == "error"]
    if len(errors):
        first = errors.iloc[0]
        raise DataError(f"{first.file}: {first.problem} ({len(errors)} such errors in all): `her2 check {path}` lists "
                        f"every one with its remedy, --skip-bad goes on without these patches.")


def pixels(source):
    """PIL image, RGB upright: EXIF turns applied, transparency laid on white, 16 bits cut to 8, palettes resolved."""
    with Image.open(source, formats=FORMATS) as image:
        _, fault, detail, _ = _header(image)
        if fault:
            raise DataError(f"{PROBLEMS[fault][1].format(detail)}: {PROBLEMS[fault][2]}.")
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


def probe(paths, *, cache=None, deep=False, progress=False):
    """DataFrame (digest, side_px (w,h), fault, detail, notes) per path from its bytes and header; cache is a folder for the results."""
    paths, known = list(paths), _remembered(cache)
    stamps = [_stamp(path) for path in paths]
    new = [(p, s) for p, s in dict(zip(paths, stamps, strict=True)).items()
           if not isinstance(s, str) and (known.get(p, [None])[0] != s or (deep and not known[p][1]))]
    bar = tqdm(total=len(new), desc="checking files", unit="file", disable=not progress or len(new) < 100)
    fresh = {}
    with bar:
        for (path, stamp), facts in zip(new, ahead(lambda job: _facts(job[0], deep), new), strict=True):
            fresh[path] = [stamp, deep, *facts]
            bar.update()
    _remember(cache, fresh)
    known |= fresh
    rows = [known[p][2:] if not isinstance(s, str) else ["", [0, 0], s, "", []] for p, s in zip(paths, stamps, strict=True)]
    return pd.DataFrame(rows, columns=["digest", "side_px", "fault", "detail", "notes"])


def ahead(work, items, *, workers=None):
    """Generator of work(item) in order, on threads, never more than 4 results a thread waiting: memory stays flat."""
    # Pillow decodes, resizes and inflates outside the interpreter lock: 2 threads and 2 processes both decode 23 patches a
    # second here, and threads leave no orphans after kill -9 and no second torch in memory.
    workers = workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers or os.cpu_count()
    waiting = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def groups(table):
    """(N,) str, what a split may not cut: patients, or slides where no patient is known, or single patches (source: the table)."""
    n = len(table)
    slide, patient = table.slide.to_numpy(str), table.patient.to_numpy(str)
    nodes = {word: n + i for i, word in enumerate(dict.fromkeys([("s", s) for s in slide] + [("p", p) for p in patient]))}
    links = [(i, nodes[kind, word]) for kind, words in (("s", slide), ("p", patient)) for i, word in enumerate(words) if word]
    a, b = np.array(links, int).reshape(-1, 2).T
    _, part = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(n + len(nodes),) * 2), directed=False)
    _, first = np.unique(part[:n], return_index=True)
    words = {part[i]: patient[i] or slide[i] or table.name.iloc[i] for i in first}
    return np.array([words[p] for p in part[:n]], object)


def split(table, *, seed, val=0.2, test=0.2):
    """(table with set filled, notes): given sets kept, the rest shared by whole patients or slides; sentences for page one."""
    table, notes, rng = table.copy(), [], np.random.default_rng(seed)
    free = table.set.isin(["", "train"]) & (table.score >= 0)
    table.loc[(table.score < 0) & (table.set != "external"), "set"] = ""
    made = [part for part in ("val", "test") if not (table.set == part).any()]
    shares = {"test": test if "test" in made else 0.0}
    shares["val"] = val * (1 - shares["test"]) if "val" in made else 0.0
    shares = {"train": 1 - sum(shares.values()), **{part: shares[part] for part in made}}
    group = groups(table)
    names, place = np.unique(group[free], return_inverse=True)
    counts = np.zeros((len(names), 4))
    np.add.at(counts, (place, table.score[free]), 1)
    parts = _share(counts, np.array(list(shares.values())), rng)
    table.loc[free, "set"] = np.array(list(shares))[parts[place]]
    return table, [*_say_groups(table), *_say_cuts(table, group), *_say_scores(table), *notes]


def subset(table, *, fraction, seed):
    """table with only this fraction of its training rows: whole groups, at least one per score; smaller fractions nest in larger."""
    train = table[table.set == "train"]
    group = groups(train)
    keep, rng = set(), np.random.default_rng(seed)
    for score in sorted(set(train.score)):
        sizes = pd.Series(group[train.score == score]).value_counts().sort_index()
        sizes = sizes.iloc[rng.permutation(len(sizes))]
        total = sizes.cumsum()
        keep |= set(sizes.index[: 1 + int(np.argmin(np.abs(total.to_numpy() - fraction * total.iloc[-1])))])
    return table[(table.set != "train") | table.index.isin(train.index[[g in keep for g in group]])].reset_index(drop=True)
