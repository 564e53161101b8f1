"""Plan and execute a study's notebooks: papermill over Dask, leases, skip what is done. No torch here: planning is instant."""

from dataclasses import dataclass

SHOWN_PROBLEMS = 5  # in an error; all of them are in Data.problems when the study says skip_bad


class RunError(RuntimeError):
    """A study that cannot be executed as asked; the sentence names the remedy."""


@dataclass(frozen=True)
class Data:
    """A study's patches, read, checked, split and decoded: what every notebook starts from."""

    table: object
    patches: object
    notes: list
    problems: list


def prepared(study, *, side_px, progress=True):
    """Data of a study at one side length in pixels; phantoms are written first when the study asks for them."""
    import pandas as pd

    from her2lib import patches, phantom, store

    if study.data["source"] == "phantom":
        phantom.write(study.cohort_path, **study.phantom)
    table, problems = patches.read(study.cohort_path)
    table, notes = patches.split(table, seed=study.data["split_seed"], val=study.data["val"], test=study.data["test"])
    if study.external_path:
        external, more = patches.read(study.external_path)
        table = pd.concat([table, external.assign(set="external")], ignore_index=True)
        problems = [*problems, *more]
    if problems and not study.data["skip_bad"]:
        shown = "; ".join(str(problem) for problem in problems[:SHOWN_PROBLEMS])
        raise RunError(f"{len(problems)} patches cannot be used: {shown}. Mend them, or set skip_bad = true under [data].")
    images = store.open_store(table, side_px=side_px, folder=study.store, progress=progress)
    return Data(table, images, list(notes), list(problems))
