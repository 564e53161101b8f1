"""Readings of people -> their consensus in the manifest, with all that stood there before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.files import DataError, keep_old
from her2lib.intake.columns import NO_WORDS, parse_written_score, patch_names
from her2lib.intake.layout_sentences import count_text
from her2lib.intake.manifests import manifest_table, path_column_of, rater_headings
from her2lib.intake.text_tables import TextTable, refuse_workbook, write_text_table
from her2lib.readers.readings import Readings, ratings_of_table, together
from her2lib.readers.sheets import gather_sheets, reader_folder
from her2lib.readers.votes import consensus, wide_ratings


@dataclass(frozen=True)
class Merger:
    """A manifest with readings merged into it, before it is written."""

    manifest: TextTable
    cells: pd.DataFrame  # of the manifest, as they are to be
    sentences: list[str]  # who read how much, what was settled and what not

    def changes(self) -> bool:
        """bool, whether the manifest is to be another one than it is."""
        return not self.cells.equals(self.manifest.cells)

    def write(self) -> str:
        """str, where the manifest was written and where the old one is."""
        file = self.manifest.path
        if not self.changes():
            return f"{file} holds all of this already: it was left as it is."
        old = keep_old(file)
        write_text_table(self.manifest, self.cells)
        assert old is not None  # it has just been read
        return f"{file} was written; as it was before, it is {old.name}."


# --- gathering ------------------------------------------------------------------------------------


def collect_readings(
    paths: Iterable[Path | str], *, patches: Iterable[str] | Mapping[str, str]
) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems), as of read_ratings, of folders of write_sheets and tables of readings.

    paths: the folders and tables.  patches: the names in the manifest, or a dict name -> path.
    Raises DataError where a reader stands in two of them.

    ratings, problems = collect_readings(["sheets/", "more.csv"], patches=table["name"])
    """
    readings = gather_readings(paths, patches=patches)
    return readings.ratings, readings.problems


def gather_readings(
    paths: Iterable[Path | str],
    *,
    patches: Iterable[str] | Mapping[str, str],
    readers: Sequence[str] = (),
    score_words: Mapping[str, str] = NO_WORDS,
) -> Readings:
    """Readings of folders of write_sheets and tables of readings together.

    paths: the folders and tables.  patches: the names in the manifest, or a dict name -> path.
    readers: those that count, where the user names them.
    score_words: texts that a study declares as scores.
    Raises DataError where a reader stands in two of them.

    gather_readings(["sheets/", "more.xlsx"], patches=names, readers=["anna"]).sentences
    """
    parts = []
    problems: list[str] = []
    sentences: list[str] = []
    source_of: dict[str, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            part = _readings_of_sheets(path, set(patches), readers, score_words)
        else:
            part = ratings_of_table(path, patches=patches, readers=readers, score_words=score_words)
        for reader in part.ratings["rater"].unique():
            other = source_of.setdefault(reader_folder(reader).casefold(), path)
            if other != path:
                raise DataError(
                    f"Two readers have one name: {reader!r} stands in {other.name} and in "
                    f"{path.name}; give each a name of their own, or one reader one file."
                )
        parts.append(part.ratings)
        problems += part.problems
        sentences += part.sentences
    return Readings(together(parts), problems, sentences)


def _readings_of_sheets(folder, names, readers, score_words):
    """Readings of a folder of sheets, of patches in the manifest by readers who count."""
    ratings, problems = gather_sheets(folder, score_words=score_words)
    unknown = ~ratings["patch"].isin(names)
    for name in ratings["patch"][unknown].unique():
        problems.append(
            f"{folder.name}: the patch {name!r} is not in the manifest, correct its name."
        )
    ratings = ratings[~unknown]
    sentences = []
    if readers:
        wanted = {reader.casefold() for reader in readers}
        others = ratings["rater"][~ratings["rater"].map(str.casefold).isin(wanted)].unique()
        if len(others):
            shown = ", ".join(others)
            sentences.append(f"{folder.name}: left out, as not named under --readers: {shown}.")
        ratings = ratings[~ratings["rater"].isin(others)]
    return Readings(ratings, problems, sentences)


# --- into the manifest ----------------------------------------------------------------------------


def open_manifest(manifest: Path | str) -> tuple[TextTable, dict[str, str]]:
    """(table, {name of a patch: path as written}) of a manifest; no image is opened.

    manifest: the file, or the folder that its manifest.csv lies in.
    Raises DataError where there is none, or where it is a workbook, which is never written.
    """
    file = Path(manifest)
    if file.is_dir():
        file = file / "manifest.csv"
    table = manifest_table(file)
    refuse_workbook(table)
    paths = table.cells[path_column_of(table)]
    return table, dict(zip(patch_names(paths), paths, strict=True))


def write_to_manifest(
    manifest: Path | str, ratings: pd.DataFrame, *, how: str = "majority"
) -> list[str]:
    """list of str, what was settled and what not, after writing readings into a manifest.csv.

    It gets a column rater_<name> for each reader; score becomes the consensus of all readings in
    it, and the scores that stood there first stay as score_given. The old file is kept beside.

    manifest: the file, or the folder that it stands in.
    ratings: patch, rater, reading, score, as collect_readings gives them; first readings count.
    how: "majority" or "median", as of consensus.

    Raises DataError where the manifest holds other readings by one of these readers.

    write_to_manifest("patches/manifest.csv", ratings)
    """
    merger = merge_into_manifest(open_manifest(manifest)[0], ratings, how=how)
    return [*merger.sentences, merger.write()]


def merge_into_manifest(
    manifest: TextTable,
    ratings: pd.DataFrame,
    *,
    how: str = "majority",
    score_words: Mapping[str, str] = NO_WORDS,
) -> Merger:
    """Merger of a manifest and readings: what is to be written; nothing is.

    manifest: of open_manifest.  ratings: as of write_to_manifest; an empty one settles what the
    manifest's readings settle.  score_words: what a study declares as scores.

    Raises DataError where the manifest holds other readings by one of these readers.
    """
    cells = manifest.cells.copy()
    before = _readings_in(cells, score_words)
    headings = rater_headings(manifest)
    names = patch_names(cells[path_column_of(manifest)])
    for rater, new in _new_readings(ratings, names):
        heading = headings.setdefault(f"rater_{rater}".lower(), f"rater_{rater}")
        _refuse_clash(before.get(heading), new, rater, manifest.path.name)
        cells[heading] = _filled_cells(cells.get(heading), new)

    after = _readings_in(cells, score_words)
    settled, notes = _consensus_of(after, len(cells), how)
    settled_before = [_consensus_of(before, len(cells), way)[0] for way in ("majority", "median")]
    n_typed = _settle(cells, settled, settled_before, score_words)
    # So that equal cells are equal tables: pandas makes a type of its own of assigned text.
    cells = cells.astype(object)
    sentences = [
        _readers_sentence(before, after, manifest.path.name),
        *_unreadable(manifest, cells, after),
        *notes,
        *_settled_sentences(after, settled, how, manifest.path.name),
    ]
    n_repeats = int((ratings["reading"] > 1).sum())
    if n_repeats:
        count = count_text(n_repeats, "repeated reading is", "repeated readings are")
        sentences.append(f"{count} not written: a reader's first reading of a patch counts.")
    if n_typed:
        sentences.append(
            f"{n_typed} scores that were typed after an earlier consensus give way to this one."
        )
    return Merger(manifest, cells, sentences)


# --- helpers --------------------------------------------------------------------------------------


def _new_readings(ratings, names):
    """list of (rater, (N,) scores, -1 not read) of first readings, in the rows of names."""
    patches = list(dict.fromkeys(names))
    matrix, raters, _ = wide_ratings(ratings, patches=patches)
    row_of = {patch: row for row, patch in enumerate(patches)}
    rows = [row_of[name] for name in names]
    return [(rater, matrix[rows, number]) for number, rater in enumerate(raters)]


def _readings_in(cells, score_words):
    """dict column -> (N,) int of the readings in a manifest: -1 not read, -2 no score."""
    readings = {}
    for column in cells:
        if column.strip().lower().startswith("rater_"):
            readings[column] = _parsed(cells[column], score_words)
    return readings


def _parsed(cells, score_words):
    """(N,) int, the scores in a column; -1 for nothing written, -2 for no score."""
    meaning = {text: parse_written_score(text, score_words) for text in set(cells)}
    return cells.map(meaning).to_numpy(int)


def _refuse_clash(before, new, rater, file):
    """Raises DataError where a rater's new scores (N,) are not those that stood there."""
    if before is None:
        return
    clashes = int(((before >= 0) & (new >= 0) & (before != new)).sum())
    if clashes:
        raise DataError(
            f"{file} holds other readings by {rater!r} of {clashes} patches: rename the reader, or "
            "clear that column."
        )


def _filled_cells(cells, new):
    """(N,) str, a rater's cells with new scores where nothing stood; what stands is kept."""
    written = np.array(["", *scores.SCORES], object)[new + 1]
    if cells is None:
        return written
    empty = cells.map(scores.is_missing).to_numpy(bool) & (new >= 0)
    return np.where(empty, written, cells.to_numpy(object))


def _consensus_of(readings, n, how):
    """((N,) scores, -1 unsettled; sentences) of a dict of readings."""
    if not readings:
        return np.full(n, -1), []
    return consensus(np.stack(list(readings.values()), axis=1).clip(-1), how=how)


def _settle(cells, settled, settled_before, score_words):
    """int, how many typed scores gave way; writes the consensus to score, the rest to score_given.

    A score that an earlier consensus wrote, and that is settled no longer, goes back to what it
    was before: two readers' agreement must not outlive a third who makes it a tie.
    """
    if "score_given" not in cells:
        if not (settled >= 0).any():
            return 0
        cells["score_given"] = cells["score"]
    score = _parsed(cells["score"], score_words)
    no_consensus_yet = np.all([earlier < 0 for earlier in settled_before], axis=0)
    fresh = (cells["score_given"] == "").to_numpy() & no_consensus_yet
    cells["score_given"] = cells["score_given"].where(~fresh, cells["score"])
    original = _parsed(cells["score_given"], score_words)
    by_consensus = (score >= 0) & np.any([score == earlier for earlier in settled_before], axis=0)

    typed = (settled >= 0) & (score >= 0) & (score != settled) & (score != original)
    undone = (settled < 0) & by_consensus
    written = np.array(["", *scores.SCORES], object)[settled + 1]
    cells["score"] = np.where(settled >= 0, written, cells["score"].to_numpy(object))
    cells["score"] = np.where(undone, cells["score_given"].to_numpy(object), cells["score"])
    return int((typed & ~by_consensus).sum())


def _readers_sentence(before, after, file):
    """str, who has read how many patches, and who is new in the manifest."""
    parts = []
    for column, readings in after.items():
        added = (readings >= 0).sum()
        if column in before:
            added -= (before[column] >= 0).sum()
        name = column.strip()[len("rater_") :]
        count = count_text(int((readings >= 0).sum()), "patch", "patches")
        parts.append(f"{name} ({count}, {added} of them new)")
    return f"Readers in {file}: {', '.join(parts) or 'none'}."


def _settled_sentences(readings, settled, how, file):
    """list of str: how many scores became the consensus, and how many are one reader's alone."""
    if not readings:
        return [f"Nothing was settled: {file} holds no readings, and none could be used."]
    what = f"the {how} of all {len(readings)} readers"
    if len(readings) == 1:
        what = "the readings of its only reader"
    sentences = []
    n_read = np.sum([scores_ >= 0 for scores_ in readings.values()], axis=0)
    n_alone = int((n_read == 1).sum())
    if len(readings) > 1 and n_alone:
        count = count_text(n_alone, "patch was", "patches were")
        sentences.append(f"{count} read by one reader alone, whose score stands.")
    return [
        *sentences,
        f"{(settled >= 0).sum()} of {len(settled)} scores in {file} are {what}; score_given keeps "
        "the scores of before.",
    ]


def _unreadable(manifest, cells, readings):
    """list of str, one for each rater's column of the manifest with cells that are no score."""
    sentences = []
    for column, values in readings.items():
        rows = np.flatnonzero(values == -2)
        if len(rows):
            sentences.append(
                f"{count_text(len(rows), 'cell')} of the column {column!r} without a score that "
                "can be read: not read, "
                f"first {manifest.where(rows[0], column)}: {cells[column].iloc[rows[0]]!r}."
            )
    return sentences
