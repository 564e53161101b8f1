"""Where notebooks run: Dask workers that see their own GPU only, and for each notebook a kernel that dies with its worker."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager

from her2lib.files import ROOT, usable_cores

SOCKET_LIMIT = (
    80  # a socket's path may have 107 characters, of which /her2-12345678/kernel-ipc-5 takes 27
)
ERROR_LINES = 6  # of a failed cell, in summaries; failed.ipynb has them all

# network: (million weights, MB kept for the backward pass by a patch of 224 px in float32), counted
# with torch 2.14
MEMORY = {
    "resnet18": (11.2, 22.2),
    "densenet201": (18.1, 203.9),
    "vit_b16": (85.8, 118.2),
    "vit_tiny": (5.5, 30.0),
    "hybrid": (24.1, 29.0),
}
CONTEXT_GB = 0.6  # what a process takes on a GPU before it holds anything


def memory_gb(network, *, side_px, batch=32):
    """float, estimate of the GPU memory of one training in float32: weights, gradients, two moments, activations; without the patches."""
    millions, megabytes = MEMORY[network]
    return CONTEXT_GB + 16e-3 * millions + megabytes / 1e3 * batch * (side_px / 224) ** 2


def slots(workers=None, per_gpu=1):
    """list of dict, the environment of each worker: its GPU, its share of the cores; one per GPU and share, or one in all."""
    gpus = _gpus()
    n = workers or max(1, len(gpus) * per_gpu)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // n))
    shared = {
        name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    return [
        {**shared, **({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})}
        for i in range(n)
    ]


@contextmanager
def cluster(places, scheduler=None):
    """(Client, environment for the kernels) of an existing scheduler, of a thread here, or of processes on loopback."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster, Worker

    if scheduler:  # certificates are named by Dask's own configuration: distributed.comm.tls
        with Client(scheduler) as client:
            yield client, {}
        return
    alone = len(places) == 1  # a thread of this process saves the 2 to 5 s of starting another
    where = {"protocol": "inproc://"} if alone else {"host": "127.0.0.1", "protocol": "tcp"}
    where |= {
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }  # without an address its empty server faces the network
    common = {"nthreads": 1, "memory_limit": None, **where}
    nanny = {**common, "silence_logs": logging.ERROR}
    spec = {i: {"cls": Nanny, "options": {**nanny, "env": env}} for i, env in enumerate(places)}
    spec = {0: {"cls": Worker, "options": common}} if alone else spec
    head = {"cls": Scheduler, "options": {"port": 0, **where}}
    with (
        dask.config.set(
            {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
        ),
        SpecCluster(spec, scheduler=head, silence_logs=logging.ERROR) as made,
        Client(made) as client,
    ):
        yield client, places[0] if alone else {}


def run_notebook(name, parameters, claim, *, cells, env):
    """None, or dict (cell, error) of a failure; the notebook is executed into claim.folder and renamed when whole."""
    light()
    import papermill

    home = ROOT / "notebooks"
    tagged = next(
        i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", ())
    )
    number = lambda index: index + (index <= tagged)  # noqa: E731  from 1, without the cell that papermill adds after the tagged one
    written, failure = claim.folder / f".notebook-{claim.number}.ipynb", None
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
                kernel_manager_class=_kernel(claim, env),
                resources={"metadata": {"path": str(home)}},
                on_cell_start=lambda cell, cell_index: claim.tell(
                    cell=number(cell_index), cells=len(cells)
                ),
            )
    except papermill.PapermillExecutionError as error:
        lines = f"{error.ename}: {error.evalue}".splitlines()
        failure = {"cell": number(error.cell_index), "error": "\n".join(lines[-ERROR_LINES:])}
    except RuntimeError as error:  # the kernel died (out of memory, killed) or did not start
        said = (
            (claim.folder / "kernel.log")
            .read_text(errors="replace")
            .strip()
            .splitlines()[-ERROR_LINES:]
        )
        failure = {
            "cell": claim.record.get("cell"),
            "error": "\n".join([*said, f"{type(error).__name__}: {error}"]),
        }
    claim.tell()
    if claim.lost:
        written.unlink(missing_ok=True)
    elif written.exists():
        os.replace(written, claim.folder / ("failed.ipynb" if failure else "notebook.ipynb"))
    return failure


def light():
    """None; nbformat is imported from now on without a grammar of web addresses: 0.4 against 1.7 s of CPU in every process."""
    sys.modules.setdefault(
        "rfc3987_syntax", None
    )  # jsonschema goes without it: a format check that notebooks have no use for


def serve(connection_file):
    """None; an IPython kernel that opens no TCP port: ipykernel's own opens one for what forked processes print."""
    import zmq
    from ipykernel import kernelapp
    from zmq.eventloop.zmqstream import ZMQStream

    place = f"ipc://{os.path.dirname(connection_file)}/forks"

    class Output(kernelapp.IOPubThread):
        def _setup_pipe_in(self):
            self._pipe_uuid, pipe = os.urandom(16), self.socket.context.socket(zmq.PULL)
            pipe.linger = 0
            pipe.bind(place)
            self._pipe_in = ZMQStream(pipe, self.io_loop)
            self._pipe_in.on_recv(self._handle_pipe_msg)

        def _setup_pipe_out(self):
            context = zmq.Context()  # a new one after a fork
            pipe = context.socket(zmq.PUSH)
            pipe.linger = 3000
            pipe.connect(place)
            return context, pipe

    kernelapp.IOPubThread = Output
    kernelapp.launch_new_instance()


def _kernel(claim, env):
    """Kernel manager class: what the kernel says outside cells goes to kernel.log, and it is gone when the lease ends."""
    from jupyter_client import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments=None):
            return [
                sys.executable,
                "-m",
                "her2lib.runner.workers",
                "-f",
                self.connection_file,
                *(extra_arguments or []),
            ]

        async def start_kernel(self, **given):
            with (claim.folder / "kernel.log").open("wb") as log:
                await super().start_kernel(
                    env={**os.environ, **env}, stdout=log, stderr=log, **given
                )
            claim.guard(self.provisioner.pid)

    return Kernel


@contextmanager
def _sockets():
    """traitlets configuration of a kernel on Unix sockets in a private folder: no TCP port, so no race for one."""
    from traitlets.config import Config

    short = len(tempfile.gettempdir()) < SOCKET_LIMIT
    with tempfile.TemporaryDirectory(prefix="her2-", dir=None if short else "/tmp") as folder:
        yield Config(
            {"KernelManager": {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}}
        )


def _gpus():
    """list of str, the GPUs this process may use, counted without loading torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [
            name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1")
        ]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    ).stdout
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


if __name__ == "__main__":
    serve(sys.argv[sys.argv.index("-f") + 1])
