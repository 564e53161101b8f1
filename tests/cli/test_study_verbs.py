"""Verbs on a study: a name decides what is read; a study without numbers says so."""

import pytest
from examples import bci, pictures

from her2lib import cli, files
from her2lib.study import config


def her2(capsys, *arguments):
    """(exit status, everything printed)."""
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Path of a folder whose reports and cache are still to be made."""
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize("name", ["../../evil", "My study", "demo", "smoke", ".x", "claims"])
def test_a_study_of_a_folder_under_a_name_that_cannot_be_makes_nothing(capsys, project, name):
    bci(project / "mine", train=4, test=4, he=False)
    before = sorted(project.rglob("*"))
    code, printed = her2(capsys, "run", "--data", project / "mine", "--name", name)
    assert code == 2
    assert "--name" in printed
    assert sorted(project.rglob("*")) == before


def test_a_dry_run_prints_its_plan_and_writes_nothing(capsys, project):
    bci(project / "data", train=4, test=4, he=False)
    before = sorted(project.rglob("*"))
    code, printed = her2(capsys, "run", "--data", project / "data", "--dry-run")
    assert code == 0
    assert "The study is called data-patches" in printed
    assert "execute  00_start_here" in printed
    assert sorted(project.rglob("*")) == before
    assert config.made_files() == []


def test_data_that_cannot_be_used_leave_no_study_behind(capsys, project):
    (project / "empty").mkdir()
    code, _ = her2(capsys, "run", "--data", project / "empty")
    assert code == 2
    assert not (project / "reports").exists()


@pytest.mark.parametrize("verb", ["run", "status", "report", "explorer", "audit"])
def test_case_40_the_empty_form_is_no_study_and_what_was_made_of_it_is_named(capsys, project, verb):
    code, printed = her2(capsys, verb, "data")
    assert code == 2
    assert "studies/data.toml is the empty form" in printed
    files.write_text(project / "reports" / "data-patches" / "data-patches.toml", "")
    code, printed = her2(capsys, verb, "data")
    assert "data-patches" in printed


def test_a_flag_of_data_without_data_is_refused_and_not_left_aside(capsys, project):
    for flag in (["--epochs", "3"], ["--network", "vit_tiny"], ["--skip-bad"], ["--name", "x"]):
        code, printed = her2(capsys, "run", "smoke", *flag, "--dry-run")
        assert code == 2
        assert f"{flag[0]} belongs to --data" in printed


@pytest.mark.parametrize("verb", ["audit", "diff", "report", "explorer"])
def test_case_32_a_study_without_numbers_says_how_to_get_them(capsys, project, verb):
    names = ["smoke"]
    if verb == "diff":
        names = ["smoke", "demo"]
    code, printed = her2(capsys, verb, *names)
    assert code == 2
    assert printed.startswith("her2: Study smoke has no ")
    assert printed.endswith(" yet: her2 run smoke\n")
    assert not (project / "reports").exists()
    code, printed = her2(capsys, "status", "smoke")
    assert code == 0
    assert "waiting" in printed


def test_an_audit_of_figures_that_are_no_numbers_is_a_sentence(capsys, project):
    file = project / "figures.toml"
    file.write_text("[[rate]]\nid = 'a'\nwhat = 'b'\nvalue = nan\n")
    code, printed = her2(capsys, "audit", file)
    assert code == 2
    assert "figures.toml: a needs plain numbers" in printed


def test_an_audit_knows_a_study_by_its_keys(capsys, project):
    file = project / "mine.toml"
    file.write_text("[axes]\nseed = 1\n")
    code, printed = her2(capsys, "audit", file)
    assert code == 2
    assert "Study mine has no numbers yet" in printed


def test_case_43_a_scheduler_with_tls_and_no_certificates_names_the_page(capsys, project):
    import dask
    import distributed  # noqa: F401 (fills in its defaults, which would else go with the block)

    with dask.config.set({"distributed.comm.tls.ca-file": None}):
        code, printed = her2(capsys, "run", "smoke", "--scheduler", "tls://127.0.0.1:9")
    assert code == 2
    assert "docs/cluster.md" in printed
    assert len(printed.splitlines()) == 2  # the study's question, and the sentence


def test_a_scheduler_that_does_not_answer_is_named(capsys, project):
    import dask
    import distributed  # noqa: F401 (fills in its defaults, which would else go with the block)

    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        address = "tcp://127.0.0.1:9"
        code, printed = her2(capsys, "run", "smoke", "--scheduler", address, "--insecure")
    assert code == 2
    assert f"No Dask scheduler answers at {address}" in printed


def test_what_is_stated_of_data_is_kept_in_the_study_and_printed_as_it_was_read(
    capsys, project, monkeypatch
):
    monkeypatch.setattr("her2lib.runner.execute.execute_study", _stop)
    root = pictures(project / "mine", *[f"{a}/{b}/x.png" for a in (1, 2) for b in (0, 1)])
    code, printed = her2(capsys, "run", "--data", root)
    assert code == 2
    assert "two ways" in printed
    assert config.made_files() == []
    stated = ["--score-from", "folder1", "--score-word", "negative=0", "--mpp", 0.5]
    code, printed = her2(capsys, "run", "--data", root, *stated)
    assert "Read as folders named by score (folder1)" in printed
    assert "4 files lie there: 4 read" in printed
    choices = config.load_study("mine").choices
    assert (choices.score_from, choices.mpp) == ("folder1", 0.5)
    assert choices.score_words == {"negative": "0"}


def test_flags_about_data_belong_to_data_that_are_named(capsys, project):
    code, printed = her2(capsys, "run", "smoke", "--score-from", "folder1")
    assert code == 2
    assert "--score-from belongs to --data PATH" in printed


def test_no_study_is_made_of_patches_without_scores(capsys, project):
    root = pictures(project / "mine", "a.png", "b.png")
    code, printed = her2(capsys, "run", "--data", root, "--layout", "images")
    assert code == 2
    assert "`her2 score` reads patches without scores" in printed
    assert config.made_files() == []


def _stop(*_, **__):
    raise config.StudyError("stopped by the test")
