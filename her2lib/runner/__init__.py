"""Runner: a study's notebooks executed, here or on a cluster, each once and only if it is old.

plan       what there is to do: tasks, what each reads, whether it is done, its cost
execute    tasks driven to their end: retries, failures, one row each
workers    where notebooks run: Dask workers, GPUs, kernels without a TCP port
lease      one writer per folder, also between two machines
progress   what is being done, as bars or as lines of a log file
"""

import lazy_loader

__all__ = ["RunError", "Summary", "execute_study", "plan_tasks", "study_status"]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "execute": ["Summary", "execute_study", "study_status"],
        "plan": ["RunError", "plan_tasks"],
    },
)
