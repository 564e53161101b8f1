"""The plan: what is executed in which order, what makes it old, what it costs."""

import pytest
from examples import TINY_RUN as RUN
from examples import write_notebook, write_tiny_study

from her2lib import files
from her2lib.runner import execute, plan
from her2lib.study import config, fingerprints


def loaded(root):
    return config.load_study(str(root / "studies" / "tiny.toml"))


def states(summary):
    return {row["task"].replace(RUN, "s"): row["state"] for row in summary.rows}


def marks(root):
    return {task.name.replace(RUN, "s"): task.fingerprint for task in plan.plan_tasks(loaded(root))}


def changed(before, after):
    return {name for name in after if before.get(name) != after[name]}


def test_order_parameters_and_needs(root):
    write_tiny_study(root, seeds=(0, 1), extra='extra_notebooks = ["speed"]')
    write_notebook(root, "91_speed", "x = 1")
    write_notebook(root, "92_recipes", "x = 1")
    tasks = plan.plan_tasks(loaded(root))
    names = [task.name.replace(RUN, "s") for task in tasks]
    assert names == ["00_start_here", "s0", "s1", "06_compare_models", "91_speed", "10_report"]
    assert tasks[1].parameters == {"study_name": "tiny", "run": f"{RUN}0"}
    assert tasks[1].needs == ("00_start_here",)
    assert set(tasks[-1].needs) == {task.name for task in tasks[:-1]}


def test_a_study_outside_the_project_is_handed_over_by_its_path(root, tmp_path):
    write_tiny_study(root)
    other = tmp_path / "elsewhere.toml"
    other.write_text((root / "studies" / "tiny.toml").read_text())
    assert plan.plan_tasks(config.load_study(str(other)))[0].parameters == {
        "study_name": str(other)
    }


def test_an_unknown_parameter_is_refused_before_anything_starts(root):
    write_tiny_study(root)
    write_notebook(root, "02_train_resnet18", "x = 1", parameters='study_name = "tiny"\nrum = ""')
    with pytest.raises(plan.RunError, match=r"no parameter 'run'.*Did you mean 'rum'"):
        execute.execute_study(loaded(root), progress=False)
    assert not (root / "reports").exists()


def test_an_unknown_room_is_refused(root):
    write_tiny_study(root, extra='extra_notebooks = ["sped"]')
    write_notebook(root, "91_speed", "x = 1")
    with pytest.raises(plan.RunError, match="sped"):
        plan.plan_tasks(loaded(root))


def test_a_change_makes_old_only_what_depends_on_it(root):
    write_tiny_study(root, seeds=(0, 1))
    before = marks(root)
    assert marks(root) == before
    write_notebook(root, "06_compare_models", "x = 2")
    assert changed(before, marks(root)) == {"06_compare_models", "10_report"}
    write_notebook(root, "06_compare_models", "x = 1")
    write_notebook(root, "02_train_resnet18", "x = 2", parameters='study_name = "tiny"\nrun = ""')
    assert changed(before, marks(root)) == {"s0", "s1", "06_compare_models", "10_report"}


def test_prose_makes_nothing_old_and_data_makes_all(root):
    write_tiny_study(root)
    before = marks(root)
    file = root / "notebooks" / "06_compare_models.ipynb"
    file.write_text(file.read_text().replace("# 06_compare_models", "# Other words"))
    assert marks(root) == before
    (root / "data" / "patch.png").write_bytes(b"new")
    assert changed(before, marks(root)) == set(before)


def test_a_module_that_a_notebook_imports_counts(root, monkeypatch):
    write_tiny_study(root)
    write_notebook(root, "06_compare_models", "from her2lib import scores")
    before, real = marks(root), fingerprints._python_source
    monkeypatch.setattr(
        fingerprints,
        "_python_source",
        lambda file: real(file) + "# changed" * (file.name == "scores.py"),
    )
    assert changed(before, marks(root)) == {"06_compare_models", "10_report"}


def test_other_claims_are_judged_again(root):
    write_tiny_study(root)
    write_notebook(root, plan.CLAIMS, "x = 1")
    before = marks(root)
    (root / "studies" / "claims.toml").write_text("# none", encoding="utf-8")
    assert changed(before, marks(root)) == {plan.CLAIMS, plan.REPORT}


def test_another_seed_leaves_the_first_run_as_it_is(root):
    write_tiny_study(root, seeds=(0,))
    before = marks(root)
    write_tiny_study(root, seeds=(0, 1))
    assert changed(before, marks(root)) == {"s1", "06_compare_models", "10_report"}


def test_only_takes_what_is_needed_along_and_dry_run_runs_nothing(root, capsys):
    write_tiny_study(root, seeds=(0, 1))
    summary = execute.execute_study(loaded(root), only="*-s1", dry_run=True)
    assert states(summary) == {"00_start_here": "planned", "s1": "planned"}
    assert "2 to execute (cost unknown" in capsys.readouterr().out
    assert not list((root / "reports").glob("**/*"))
    with pytest.raises(plan.RunError, match="Did you mean"):
        execute.execute_study(loaded(root), only="06_compare_model", dry_run=True)


def test_only_the_label_review_hangs_on_readings(monkeypatch):
    study = config.load_study("smoke")
    before = {task.name: task.fingerprint for task in plan.plan_tasks(study)}
    monkeypatch.setattr(config.Study, "readings", [("sheet.csv", 1, 2)])
    after = {task.name: task.fingerprint for task in plan.plan_tasks(study)}
    assert {name for name in before if before[name] != after[name]} == {config.REVIEW, plan.REPORT}


def old_receipt(task, **facts):
    """None; done.json and notebook.ipynb of a task as a version before the rooms left them."""
    receipt = {
        "task": task.name,
        "state": "done",
        "seconds": 9.838,
        "notebook": task.notebook,
        "fingerprint": "f983fdd292db234a",
        "stands_on": [],
        "ended": "2026-11-25T09:35:35.089552+00:00",
    }
    files.write_json(task.folder / "done.json", {**receipt, **facts})
    files.write_text(task.folder / "notebook.ipynb", "{}")


def test_work_of_an_earlier_version_is_done_again_and_the_plan_says_why(root, capsys):
    write_tiny_study(root, seeds=(0, 1))
    tasks = {task.name.replace(RUN, "s"): task for task in plan.plan_tasks(loaded(root))}
    for name in ("00_start_here", "s0"):
        old_receipt(tasks[name])
    execute.execute_study(loaded(root), dry_run=True)
    printed = capsys.readouterr().out
    assert "5 notebooks: 0 complete, 5 to execute" in printed
    assert printed.splitlines()[-1] == (
        "Made by another version of this kit, whose fingerprints of code cannot be compared with "
        "today's: 2 finished notebooks, to be executed again, with 1 network, to be trained again "
        "from the start."
    )
    assert execute.study_status(loaded(root)).set_index("task")["state"]["00_start_here"] == "old"


def test_work_of_this_version_that_is_only_old_is_not_called_another_versions(root, capsys):
    write_tiny_study(root)
    for task in plan.plan_tasks(loaded(root)):
        old_receipt(task, fingerprint_scheme=fingerprints.VERSION)
    execute.execute_study(loaded(root), dry_run=True)
    printed = capsys.readouterr().out
    assert "4 to execute" in printed
    assert "version" not in printed


def test_an_executed_task_notes_the_scheme_of_its_fingerprint(root):
    write_tiny_study(root, around=())
    execute.execute_study(loaded(root), progress=False)
    (task,) = plan.plan_tasks(loaded(root))
    assert plan.is_complete(task)["fingerprint_scheme"] == fingerprints.VERSION
    assert [row["other_scheme"] for row in plan.estimate(loaded(root))] == [False]
