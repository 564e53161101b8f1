"""Every verb is fed what strangers might bring: it reads, or refuses in a sentence, and counts.

What is fed lies in tests/strangers.py. Hypothesis draws the mutations, always the same ones.
"""

import io
import random
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import strangers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trained_runs import trained_study

from her2lib import cli, files
from her2lib.data.patches import read_source
from her2lib.files import DataError
from her2lib.intake.text_tables import read_text_table
from her2lib.runner import plan
from her2lib.scores import SCORES
from her2lib.slides import field_cutter

# What exceptions say of themselves, and no sentence of the kit does.
NEVER = (
    "Traceback",
    "[Errno",
    "KeyError",
    "StopIteration",
    "NoneType",
    "cannot reindex",
    "codec can't",
    "invalid literal",
    "could not convert",
    "Error tokenizing",
    "list index",
    "a defect of the kit",
)
COUNTS = re.compile(
    r"^([\d,]+) (files lie there|rows are written): ([\d,]+) read,(?: ([\d,]+) H&E partners,)? "
    r"([\d,]+) refused, ([\d,]+) left aside\.$",
    re.M,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Path of a folder with reports and cache of its own, for every input of this file."""
    folder = tmp_path_factory.mktemp("strangers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder / "reports")
        patch.setattr(files, "CACHE", folder / "cache")
        # The same for every input, and 2 s of reading the kit's own source for each.
        patch.setattr(plan, "code_fingerprint", lambda *names: "same")
        # Starting a process takes longer than cutting these slides.
        patch.setattr(field_cutter, "open_pool", lambda workers: ThreadPoolExecutor(1))
        yield folder


@pytest.fixture(scope="module")
def run(project):
    """Path of a finished run of a study of the project."""
    return trained_study(project)[0]


def inputs(sounds, mutations):
    """Strategy of (sound input, one to three mutations, seed of what they choose)."""
    some = st.lists(st.sampled_from(mutations), min_size=1, max_size=3)
    return st.tuples(st.sampled_from(sounds), some, st.integers(0, 2**32 - 1))


def feed(door, project, sounds, mutations, n):
    """None; calls a door with n inputs, always the same ones; the first that fails is shrunk."""

    @settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(brought=inputs(sounds, mutations))
    def ask(brought):
        door(project, brought)

    ask()


def bring(project, brought):
    """Path of an input, in a new folder of its own."""
    sound, mutations, seed = brought
    folder = Path(tempfile.mkdtemp(dir=project)) / "brought"
    strangers.make(folder, sound, mutations, random.Random(seed))
    return folder


def her2(*arguments):
    """(exit status, everything printed)."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = cli.main([str(argument) for argument in arguments])
    return code, printed.getvalue()


def answer(folder, *arguments, may_change=()):
    """(exit status, everything printed), once it is sure that these are sentences and no harm.

    may_change: names of files that the verb is there to change.
    """
    before = strangers.contents(folder.parent)
    code, printed = her2(*arguments)
    after = strangers.contents(folder.parent)
    assert code in (0, 1, 2), printed
    assert printed.strip()
    for text in NEVER:
        assert text not in printed, printed
    changed = {path.name for path in before if before[path] != after.get(path)}
    assert changed <= set(may_change), printed
    return code, printed


def check_counts(printed):
    """None; what was read, refused and left aside is all that is there."""
    there, _, read, partners, refused, left_aside = COUNTS.search(printed).groups(default="0")
    parts = [read, partners, refused, left_aside]
    assert int(there.replace(",", "")) == sum(int(part.replace(",", "")) for part in parts), printed


FOLDERS = (strangers.bci_folder, strangers.score_folders, strangers.manifest_folder)
TABLES = (strangers.manifest_folder, strangers.ratings_folder)
ANY = strangers.FILE_MUTATIONS + strangers.TABLE_MUTATIONS


# --- one test a verb ----------------------------------------------------------------------------


def check_a_folder(project, brought):
    """Exit status of `her2 check` of an input, whose counts add up where it could be read."""
    folder = bring(project, brought)
    code, printed = answer(folder, "check", folder)
    if code < 2:
        check_counts(printed)
    return code


def check_a_manifest(project, brought):
    """Exit status of `her2 check` of the first table of an input."""
    folder = bring(project, brought)
    table = next(iter(sorted(folder.rglob("manifest*"))), folder / "manifest.csv")
    code, printed = answer(folder, "check", table)
    if code < 2:
        check_counts(printed)
    return code


def plan_a_study(project, brought):
    """Exit status of a dry run of a study of an input, which writes nothing anywhere."""
    folder = bring(project, brought)
    before = strangers.contents(files.REPORTS)
    code, _ = answer(folder, "run", "--data", folder, "--dry-run")
    assert strangers.contents(files.REPORTS) == before
    return code


def cut_slides(project, brought):
    """Exit status of `her2 tile` of an input into a new folder."""
    folder = bring(project, brought)
    out = Path(tempfile.mkdtemp(dir=project)) / "tiles"
    line = ["tile", folder, "--out", out, "--side-px", 128, "--mpp", 0.5, "--workers", 1]
    patients = folder / "patients.csv"
    if patients.exists():
        line += ["--patients", patients]
    code, _ = answer(folder, *line)
    return code


def score_patches(project, brought):
    """Exit status of `her2 score` of an input under a finished run, into a new folder."""
    folder = bring(project, brought)
    out = Path(tempfile.mkdtemp(dir=project)) / "scored"
    line = ["score", folder, "--run", "mine", "--out", out, "--maps", 0, "--side-px", 128]
    code, _ = answer(folder, *line, "--workers", 1)
    return code


def write_sheets(project, brought):
    """Exit status of `her2 sheet` of an input into a new folder."""
    folder = bring(project, brought)
    out = Path(tempfile.mkdtemp(dir=project)) / "sheets"
    code, _ = answer(folder, "sheet", folder, "--readers", "anna", "ben", "--into", out)
    return code


def find_a_consensus(project, brought):
    """Exit status of `her2 consensus` of an input's readings into its manifest."""
    folder = bring(project, brought)
    manifest = folder / "manifest.csv"
    before = strangers.contents(folder)
    readings = sorted(folder.glob("ratings*")) or [folder / "ratings.csv"]
    line = ["consensus", *readings, "--into", manifest]
    answer(folder, *line, "--dry-run")
    assert strangers.contents(folder) == before
    code, printed = answer(folder, *line, may_change=["manifest.csv"])
    after = strangers.contents(folder)
    if after.get(manifest) != before.get(manifest):
        assert before[manifest] in [after[path] for path in folder.glob("manifest.before-*.csv")]
    else:
        assert code or "nothing" in printed or "0 of" in printed, printed
    return code


def audit_figures(project, brought):
    """Exit status of `her2 audit` of an input's reported figures."""
    folder = bring(project, brought)
    code, _ = answer(folder, "audit", folder / "figures.toml")
    return code


def show_a_study(project, brought):
    """Exit status of `her2 status` of an input's study file."""
    folder = bring(project, brought)
    code, _ = answer(folder, "status", folder / "asked.toml")
    return code


def read_what_was_typed(project, brought):
    """None; the scores of patches that a harmless mutation left readable are those of before."""
    folder = bring(project, brought)
    try:
        table = read_source(folder).table
    except DataError:
        return
    for path, score in zip(table["path"], table["score"], strict=True):
        number = re.search(r"(?:p|0000)(\d)(?:\.|_)", Path(path).name)
        if number:
            assert score == int(number.group(1)) // 2, path


def merge_what_was_typed(project, brought):
    """None; a harmless mutation of readings leaves each reader's scores as they are, or unread."""
    folder = bring(project, brought)
    manifest = folder / "manifest.csv"
    readings = sorted(folder.glob("ratings*")) or [folder / "ratings.csv"]
    code, _ = her2("consensus", *readings, "--into", manifest)
    if code == 2:
        return
    table = read_text_table(manifest).cells
    truth = {f"p{i}.png": (SCORES[i // 2], SCORES[(i + 1) // 3]) for i in range(8)}
    for row in table.to_dict("records"):
        # What was swapped in both tables, below their headings, is wrong alike in both.
        if row["path"] not in truth:
            continue
        typed = truth[row["path"]]
        for reader, score in zip(("rater_anna", "rater_ben"), typed, strict=True):
            assert row.get(reader, "") in ("", score), row


# What is fed to a door: sound inputs, what befalls them, how many of them.
DOORS = {
    check_a_folder: (FOLDERS, strangers.FILE_MUTATIONS, 40),
    check_a_manifest: (TABLES, ANY, 40),
    plan_a_study: (FOLDERS, ANY, 15),
    cut_slides: ((strangers.slide_folder,), ANY, 15),
    score_patches: ((*FOLDERS, strangers.slide_folder), ANY, 15),
    write_sheets: (FOLDERS, ANY, 15),
    find_a_consensus: ((strangers.ratings_folder,), ANY, 40),
    audit_figures: ((strangers.study_folder,), strangers.TOML_MUTATIONS, 20),
    read_what_was_typed: (FOLDERS, strangers.HARMLESS, 25),
    merge_what_was_typed: ((strangers.ratings_folder,), strangers.HARMLESS, 15),
    show_a_study: ((strangers.study_folder,), strangers.TOML_MUTATIONS, 10),
}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_verb_answers_what_strangers_bring(project, run, door):
    sounds, mutations, n = DOORS[door]
    feed(door, project, sounds, mutations, n)


@pytest.mark.slow  # 200 inputs for every verb
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_verb_answers_200_inputs_of_strangers(project, run, door):
    sounds, mutations, _ = DOORS[door]
    feed(door, project, sounds, mutations, 200)
