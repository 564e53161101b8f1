"""The runner: tiny notebooks in a temporary project, executed for real, killed for real."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest
from distributed import LocalCluster
from distributed.security import Security
from examples import TINY_RUN as RUN
from examples import write_notebook, write_tiny_study

from her2lib import files as files_
from her2lib.runner import execute, lease, plan, workers
from her2lib.study import config

WRITE = """
from her2lib.study.config import load_study
folder = load_study(study_name).folder_of(run)
"""
LISTENING = """
import os, time
if os.fork() == 0:
    print("from a fork", flush=True)
    os._exit(0)
os.wait()
time.sleep(0.5)
open_files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
links = {os.readlink(file) for file in open_files if os.path.islink(file)}
inodes = {link for link in links if link.startswith("socket:")}
rows = [line.split() for table in ("tcp", "tcp6") for line in list(open(f"/proc/net/{table}"))[1:]]
listening = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
print("listening", listening, "of", len(inodes))
"""


def loaded(root):
    return config.load_study(str(root / "studies" / "tiny.toml"))


def states(summary):
    return {row["task"].replace(RUN, "s"): row["state"] for row in summary.rows}


class TestExecute:
    def test_runs_skips_and_goes_on_after_a_failure(self, root, capsys):
        fails = """if run.endswith('s1') and not __import__('os').path.exists('mended'):
            raise ValueError('first\\nlast line')"""
        write_tiny_study(root, seeds=(0, 1), training=("x = 1", fails), around=("10_report",))
        first = execute.execute_study(
            loaded(root), retries=5
        )  # the same error twice is enough: the third attempt would only cost time
        assert states(first) == {"s0": "done", "s1": "failed", "10_report": "done"}
        assert {key: first.rows[1][key] for key in ("tries", "cell", "error")} == {
            "tries": 2,
            "cell": 4,
            "error": "ValueError: first\nlast line",
        }
        assert first.exit_code == 1
        assert "cell 4 of failed.ipynb): last line" in str(first)
        folder = loaded(root).folder_of(f"{RUN}1")
        assert (folder / "failed.ipynb").is_file()
        assert not (folder / "notebook.ipynb").exists()
        assert [
            row["task"] for row in json.loads((folder.parent / "failures.json").read_text())
        ] == [f"{RUN}1"]
        printed = capsys.readouterr()
        assert not set("\r\x1b") & set(printed.out + printed.err)
        assert ", is tried again (cell 4 of failed.ipynb): last line" in printed.out

        again = execute.execute_study(loaded(root), retries=0, progress=False)
        assert states(again) == {"s0": "skipped", "s1": "failed", "10_report": "skipped"}
        (root / "notebooks" / "mended").touch()
        mended = execute.execute_study(loaded(root), progress=False)
        assert states(mended) == {"s0": "skipped", "s1": "done", "10_report": "done"}
        assert mended.exit_code == 0
        assert not (folder / "failed.ipynb").exists()
        assert json.loads((folder.parent / "failures.json").read_text()) == []

    def test_a_kernel_that_dies_is_a_failure_with_its_cell_and_blocks_what_hangs_on_it(self, root):
        write_tiny_study(root)
        write_notebook(root, "00_start_here", "import os; os._exit(3)")
        summary = execute.execute_study(loaded(root), retries=0, progress=False)
        blocked = dict.fromkeys(("s0", "06_compare_models", "10_report"), "blocked")
        assert states(summary) == {"00_start_here": "failed", **blocked}
        assert summary.rows[0]["cell"] == 3
        assert "DeadKernelError" in summary.rows[0]["error"]
        assert summary.rows[1]["error"] == "needs 00_start_here"

    @pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
    def test_a_kernel_listens_nowhere_runs_in_notebooks_and_leaves_no_process(self, root):
        write_tiny_study(root)
        child = """
            import subprocess
            child = subprocess.Popen(['sleep', '1000'])
            print('child', child.pid, os.getcwd())"""
        write_notebook(root, "00_start_here", LISTENING, child)
        execute.execute_study(loaded(root), only="00*", progress=False)
        cells = json.loads(
            (loaded(root).folder_of("00_start_here") / "notebook.ipynb").read_text()
        )["cells"]
        printed = " ".join(
            "".join(output["text"]) for cell in cells[3:] for output in cell["outputs"]
        )
        assert "listening [] of" in printed
        assert int(printed.split("of ")[1].split()[0]) >= 5  # the kernel's own sockets were seen
        assert "from a fork" in printed
        assert printed.split()[-1] == str(root / "notebooks")
        assert until(lambda: not living(int(printed.split("child ")[1].split()[0])))

    def test_force_begins_with_an_empty_folder(self, root):
        write_tiny_study(
            root,
            around=(),
            training=(
                WRITE,
                "made = folder / 'made'\nassert not made.exists()\nmade.write_text('x')",
            ),
        )
        assert (
            states(execute.execute_study(loaded(root), only="*s0", progress=False))["s0"] == "done"
        )
        assert (
            states(
                execute.execute_study(
                    loaded(root), only="*s0", force=True, retries=0, progress=False
                )
            )["s0"]
            == "done"
        )

    def test_a_scheduler_without_tls_needs_a_flag(self, root):
        write_tiny_study(root)
        with pytest.raises(plan.RunError, match="Dask runs whatever it is sent"):
            execute.execute_study(loaded(root), scheduler="tcp://somewhere:8786")

    @pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl for a certificate")
    def test_a_scheduler_with_tls_executes_a_study(self, root):
        write_tiny_study(root, around=())
        key, cert = root / "key.pem", root / "cert.pem"
        make = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
            "-subj /CN=her2"
        ).split()
        subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
        names = [f"distributed.comm.tls.{name}" for name in ("scheduler", "worker", "client")]
        files = {
            f"{name}.{kind}": str(file)
            for name in names
            for kind, file in (("cert", cert), ("key", key))
        }
        with (
            dask.config.set({"distributed.comm.tls.ca-file": str(cert), **files}),
            LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                processes=False,
                protocol="tls://",
                host="127.0.0.1",
                security=Security(),
                dashboard_address=None,
            ) as cluster,
        ):
            assert cluster.scheduler_address.startswith("tls://127.0.0.1")
            summary = execute.execute_study(
                loaded(root), scheduler=cluster.scheduler_address, progress=False
            )
        assert states(summary) == {"s0": "done"}

    def test_sharing_a_gpu_says_what_memory_it_costs(self, root, capsys):
        write_tiny_study(root)
        execute.execute_study(loaded(root), per_gpu=3, dry_run=True)
        printed = capsys.readouterr().out
        each = workers.memory_gb("resnet18", side_px=224)
        assert f"3 runs share each GPU: at most {3 * each:.1f} GB" in printed
        assert "estimate" in printed
        execute.execute_study(loaded(root), dry_run=True)
        assert "share each GPU" not in capsys.readouterr().out

    def test_estimate_comes_from_like_runs_and_status_from_files(self, root):
        write_tiny_study(root, seeds=(0, 1))
        files_.write_json(
            loaded(root).folder_of(f"{RUN}0") / "done.json",
            {"seconds": 90, "fingerprint": "another"},
        )
        table = {
            row["task"].replace(RUN, "s"): (row["action"], row["seconds"])
            for row in plan.estimate(loaded(root))
        }
        assert table["s0"] == table["s1"] == ("execute", 90)
        assert table["10_report"] == ("execute", None)
        claim = lease.take(loaded(root).folder_of(f"{RUN}1"))
        claim.refresh(cell=3, cells=9)
        files_.write_json(
            claim.folder / "progress.json",
            {"epoch": 2, "epochs": 5, "kappa": 0.4123, "seconds_left": 130},
        )
        shown = execute.study_status(loaded(root)).set_index("task")
        claim.release()
        assert shown.loc[f"{RUN}0", "state"] == "old"
        assert shown.loc["10_report", "state"] == "waiting"
        assert tuple(shown.loc[f"{RUN}1", ["state", "now"]]) == (
            "running",
            "cell 3 of 9, epoch 2/5, kappa 0.41, 2 min left",
        )


ONE_RUN = (
    WRITE
    + """
import os, time
with open(folder / "starts", "a") as file:
    file.write("x")
for step in range(STEPS):
    (folder / "beat").write_text(str(os.getpid()))
    time.sleep(0.1)
(folder / "result").write_text(run[-3:])
"""
)
MAIN = """
import sys
from her2lib.runner.execute import execute_study
from her2lib.study.config import load_study
if __name__ == "__main__":
    print(execute_study(load_study(sys.argv[1]), workers=int(sys.argv[2])), flush=True)
"""


def started(root, *, slots=2):
    """Popen of the same command that a person would give, in a process of its own."""
    (root / "main.py").write_text(MAIN)
    command = [sys.executable, root / "main.py", root / "studies" / "tiny.toml", str(slots)]
    with (root / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def worker_processes(main):
    """list of the processes of Dask workers (not the kernels) under a main process."""
    return [
        child
        for child in psutil.Process(main.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]


def results(root):
    return {
        file.parent.name: file.read_text()
        for file in (root / "reports" / "tiny" / "runs").glob("*/result")
    }


def finished(root):
    return list((root / "reports" / "tiny" / "runs").glob("resnet18*/done.json"))


def ours(root):
    """list of living processes started for this project, kernels and watchers included."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(
            psutil.NoSuchProcess, psutil.AccessDenied
        ):  # a zombie counts as gone
            mine = process.environ().get("HER2_ROOT") == str(root) and process.pid != os.getpid()
            processes += [process] * (mine and process.status() != psutil.STATUS_ZOMBIE)
    return processes


def listening(processes):
    """set of the addresses on which these processes listen."""
    addresses = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a kernel that has just ended
            addresses |= {
                end.laddr.ip
                for end in process.net_connections("tcp")
                if end.status == psutil.CONN_LISTEN
            }
    return addresses


@pytest.mark.parametrize(("n", "kills"), [(5, 1), pytest.param(20, 2, marks=pytest.mark.slow)])
def test_killed_workers_and_a_killed_main_process_cost_only_what_was_running(root, n, kills):
    write_tiny_study(root, seeds=range(n), training=(ONE_RUN.replace("STEPS", "12"),), around=())
    main = started(root)
    for kill in range(kills):
        assert until(lambda: len(finished(root)) > 2 * kill, 120)  # noqa: B023
        assert until(lambda: any(map(lease.holder, (root / "reports" / "tiny" / "runs").iterdir())))
        assert listening(ours(root)) == {"127.0.0.1"}
        worker_processes(main)[0].kill()
    before = len(finished(root))
    assert until(lambda: len(finished(root)) > before, 120)
    main.kill()
    main.wait()
    assert until(lambda: not ours(root)), ours(root)

    beats = {file: file.read_text() for file in (root / "reports").glob("**/beat")}
    receipts = {file: file.stat().st_mtime_ns for file in finished(root)}
    time.sleep(0.3)
    assert beats == {
        file: file.read_text() for file in (root / "reports").glob("**/beat")
    }  # nobody goes on writing
    assert 0 < len(receipts) < n
    mains = [started(root, slots=1) for _ in range(kills)]  # with two, as from two machines at once
    assert {main.wait() for main in mains} == {0}
    assert len(finished(root)) == n
    assert receipts == {file: file.stat().st_mtime_ns for file in receipts}
    assert results(root) == {
        f"{RUN}{seed}": f"{RUN}{seed}"[-3:] for seed in range(n)
    }  # as of an undisturbed study
    starts = [len(file.read_text()) for file in (root / "reports").glob("**/starts")]
    assert (
        sum(starts) <= n + kills + 2
    )  # each kill interrupted at most one notebook, the main process at most two
    assert until(lambda: not ours(root)), ours(root)


@pytest.mark.slow
def test_two_workers_take_at_most_six_tenths_of_the_time_of_one(root):
    seconds = {}
    for slots in (1, 2):
        write_tiny_study(root, seeds=range(20), around=(), training=("import time\ntime.sleep(6)",))
        begun = time.monotonic()
        assert started(root, slots=slots).wait() == 0
        seconds[slots] = time.monotonic() - begun
        (root / "reports").rename(root / f"reports{slots}")
    assert seconds[2] <= 0.6 * seconds[1], seconds


def living(pid):
    """bool; a zombie that nobody has collected yet is dead."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition, seconds=20):
    """bool, whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met
