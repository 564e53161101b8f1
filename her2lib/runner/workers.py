"""Where notebooks run: Dask workers that see one GPU each, kernels that die with their worker."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from her2lib.files import ROOT, skip_address_grammar, usable_cores
from her2lib.runner.lease import Lease
from her2lib.study.keys import NETWORKS

# a socket's path may have 107 characters, of which /her2-12345678/kernel-ipc-5 takes 27
SOCKET_LIMIT = 80
ERROR_LINES = 6  # of a failed cell, in summaries; failed.ipynb has them all
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

CONTEXT_GB = 0.6  # what a process takes on a GPU before it holds anything


def memory_gb(network: str, *, side_px: int, batch: int = 32) -> float:
    """float, GB of GPU memory of one training in float32, estimated, without the patches.

    Weights, their gradients and two moments of the optimizer, and the activations of a batch.
    """
    known = NETWORKS[network]
    activations_gb = known.megabytes / 1e3 * batch * (side_px / 224) ** 2
    return CONTEXT_GB + 16e-3 * known.million_weights + activations_gb


def slots(workers: int | None = None, per_gpu: int = 1) -> list[dict[str, str]]:
    """list of dict, the environment of each worker: its GPU and its part of the cores.

    One per GPU and run that shares it; one in all without a GPU; or as many as asked for.
    """
    gpus = _visible_gpus()
    n = workers or max(1, len(gpus) * per_gpu)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // n))
    environments = []
    for i in range(n):
        environment = dict.fromkeys(THREAD_VARIABLES, threads)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        environments.append(environment)
    return environments


@contextmanager
def cluster(environments: list[dict[str, str]]) -> Iterator[tuple]:
    """(Client, environment for the kernels): of a thread here, or of processes on loopback."""
    import dask
    from distributed import Client, SpecCluster

    if len(environments) == 1:
        parts = _thread_here()
        kernel_environment = environments[0]
    else:
        parts = _processes(environments)
        kernel_environment = {}
    no_pages: dict[str, list] = {
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with (
        dask.config.set(no_pages),
        SpecCluster(**parts, silence_logs=logging.ERROR) as local,
        Client(local) as client,
    ):
        yield client, kernel_environment


def run_notebook(
    name: str, parameters: dict, claim: Lease, *, cells: list[dict], env: dict[str, str]
) -> dict | None:
    """None, or dict (cell, error) of a failure; the notebook is written into claim.folder.

    It is written under a name of the lease and renamed when it is whole: notebook.ipynb, or
    failed.ipynb. A lease that was lost meanwhile writes nothing.
    """
    written = claim.folder / f".notebook-{claim.number}.ipynb"
    failure = _execute_notebook(name, parameters, claim, written, cells=cells, env=env)
    claim.refresh()
    if claim.lost:
        written.unlink(missing_ok=True)
    elif written.exists() and failure:
        os.replace(written, claim.folder / "failed.ipynb")
    elif written.exists():
        os.replace(written, claim.folder / "notebook.ipynb")
    return failure


# --- Dask ---------------------------------------------------------------------------------------


def _thread_here():
    """dict of SpecCluster: a thread of this process saves the 2 to 5 s of starting another."""
    from distributed import Scheduler, Worker

    server = {"protocol": "inproc://", **_no_dashboard()}
    worker = {"cls": Worker, "options": _one_thread(server)}
    return {
        "workers": {0: worker},
        "scheduler": {"cls": Scheduler, "options": {"port": 0, **server}},
    }


def _processes(environments):
    """dict of SpecCluster: a process on loopback for each environment, started anew if killed."""
    from distributed import Nanny, Scheduler

    server = {"host": "127.0.0.1", "protocol": "tcp", **_no_dashboard()}
    workers = {}
    for i, environment in enumerate(environments):
        options = {**_one_thread(server), "silence_logs": logging.ERROR, "env": environment}
        workers[i] = {"cls": Nanny, "options": options}
    return {
        "workers": workers,
        "scheduler": {"cls": Scheduler, "options": {"port": 0, **server}},
    }


def _no_dashboard():
    # without an address the empty server of the dashboard faces the network
    return {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


def _one_thread(server):
    return {"nthreads": 1, "memory_limit": None, **server}


# --- kernels ------------------------------------------------------------------------------------


def _execute_notebook(name, parameters, claim, written, *, cells, env):
    """None, or dict (cell, error) of a failure, after papermill has written the notebook."""
    skip_address_grammar()
    import papermill

    is_tagged = ["parameters" in cell["metadata"].get("tags", ()) for cell in cells]
    tagged = is_tagged.index(True)

    def tell_cell(cell, cell_index):
        claim.refresh(cell=_cell_number(cell_index, tagged), cells=len(cells))

    home = ROOT / "notebooks"
    try:
        with _sockets() as config:
            papermill.execute_notebook(
                home / f"{name}.ipynb",
                written,
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                config=config,
                kernel_manager_class=_kernel_manager(claim, env),
                resources={"metadata": {"path": str(home)}},
                on_cell_start=tell_cell,
            )
    except papermill.PapermillExecutionError as error:
        lines = f"{error.ename}: {error.evalue}".splitlines()[-ERROR_LINES:]
        return {"cell": _cell_number(error.cell_index, tagged), "error": "\n".join(lines)}
    except RuntimeError as error:  # the kernel died (out of memory, killed) or did not start
        log = (claim.folder / "kernel.log").read_text(errors="replace").strip()
        lines = [*log.splitlines()[-ERROR_LINES:], f"{type(error).__name__}: {error}"]
        return {"cell": claim.record.get("cell"), "error": "\n".join(lines)}
    return None


def _cell_number(index, tagged):
    """int, the number of a cell from 1, without the one that papermill adds after the tagged."""
    if index <= tagged:
        return index + 1
    return index


def _kernel_manager(claim, env):
    """Class of kernels: what they say outside cells goes to kernel.log; they end with the lease."""
    from jupyter_client import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments=None):
            command = [sys.executable, "-m", "her2lib.runner.workers", "-f", self.connection_file]
            return [*command, *(extra_arguments or [])]

        async def start_kernel(self, **options):
            with (claim.folder / "kernel.log").open("wb") as log:
                await super().start_kernel(
                    env={**os.environ, **env}, stdout=log, stderr=log, **options
                )
            claim.guard(self.provisioner.pid)

    return Kernel


@contextmanager
def _sockets():
    """traitlets configuration of a kernel on Unix sockets in a private folder.

    There is no TCP port, so no race for one when several notebooks start at once.
    """
    from traitlets.config import Config

    parent = None
    if len(tempfile.gettempdir()) >= SOCKET_LIMIT:
        parent = "/tmp"
    with tempfile.TemporaryDirectory(prefix="her2-", dir=parent) as folder:
        connection = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        yield Config({"KernelManager": connection})


def _serve_kernel(connection_file):
    """None; an IPython kernel that opens no TCP port, not even for what forked processes print.

    transport="ipc" alone leaves one: ipykernel's own IOPubThread opens a port on loopback for the
    output of forked processes. Here that goes through a Unix socket beside the others.
    """
    import zmq
    from ipykernel import kernelapp
    from zmq.eventloop.zmqstream import ZMQStream

    address = f"ipc://{Path(connection_file).parent}/forks"

    class Output(kernelapp.IOPubThread):
        def _setup_pipe_in(self):
            self._pipe_uuid = os.urandom(16)
            pipe = self.socket.context.socket(zmq.PULL)
            pipe.linger = 0
            pipe.bind(address)
            self._pipe_in = ZMQStream(pipe, self.io_loop)
            self._pipe_in.on_recv(self._handle_pipe_msg)

        def _setup_pipe_out(self):
            context = zmq.Context()  # a new one after a fork
            pipe = context.socket(zmq.PUSH)
            pipe.linger = 3000
            pipe.connect(address)
            return context, pipe

    kernelapp.IOPubThread = Output
    kernelapp.launch_new_instance()


# --- GPUs ---------------------------------------------------------------------------------------


def _visible_gpus():
    """list of str, the GPUs this process may use, counted without loading torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return [name for name in names if name not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in run.stdout.splitlines() if line.startswith("GPU ")]  # not their parts
    return [str(i) for i in range(len(gpus))]


if __name__ == "__main__":
    _serve_kernel(sys.argv[sys.argv.index("-f") + 1])
