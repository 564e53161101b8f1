"""Ratings of several people -> one score: consensus, leave-one-out, disagreements."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.stats.coefficients import rating_counts

# --- consensus ------------------------------------------------------------------------------------


def consensus(ratings: np.ndarray, *, how: str = "majority") -> tuple[np.ndarray, list[str]]:
    """((N,) scores, -1 where nothing is settled; sentences) of ratings (N,R; -1 missing).

    how: the "majority" or the "median" of the ratings; a tie settles nothing. Raises ValueError
    for another word.

    consensus(np.array([[1, 1, 2], [0, 3, -1]]))  # scores [1, -1]
    """
    if how not in ("majority", "median"):
        raise ValueError(
            f"A consensus is made by majority or median, not {how!r}; one made elsewhere goes to "
            "merge_readings(settled=…)."
        )
    votes = rating_counts(ratings)  # (N,4)
    if how == "majority":
        most = votes == votes.max(1, keepdims=True)
        settled = np.where(most.sum(1) == 1, most.argmax(1), -1)
    else:
        middle = np.ma.median(np.ma.masked_less(ratings, 0), axis=1).filled(-1)
        settled = np.where(middle % 1 == 0, middle, -1).astype(int)
    was_read = votes.any(1)
    n_unread = (~was_read).sum()
    n_tied = int((was_read & (settled < 0)).sum())
    notes = []
    if n_unread:
        notes.append(
            f"{n_unread} of {len(votes)} patches were read by nobody: they have no consensus."
        )
    if n_tied:
        notes.append(
            f"{n_tied} of {len(votes)} patches are tied by {how}: a joint reading can settle them."
        )
    return settled, notes


def leave_one_out(ratings: np.ndarray, *, how: str = "majority") -> np.ndarray:
    """(N,R) for each rater of ratings (N,R; -1 missing) the consensus of all the others.

    So nobody is compared with himself. how is that of consensus. Raises ValueError for one rater.

    leave_one_out(np.array([[1, 1, 2]]))  # [[-1, -1, 1]]
    """
    n_raters = np.shape(ratings)[1]
    if n_raters < 2:
        raise ValueError("Leaving one rater out needs two raters: there is one.")
    columns = []
    for rater in range(n_raters):
        settled, _ = consensus(np.delete(ratings, rater, axis=1), how=how)
        columns.append(settled)
    return np.stack(columns, axis=1)


# --- tables ---------------------------------------------------------------------------------------


def wide_ratings(
    ratings: pd.DataFrame, *, reading: int = 1, patches: Iterable[str] | None = None
) -> tuple[np.ndarray, list[str], list[str]]:
    """((N,R) scores, -1 missing; raters; patches) of one reading of tidy ratings.

    The patches stand in the order given; without one, by name.
    """
    rows = ratings[ratings.reading == reading]
    table = rows.pivot(index="patch", columns="rater", values="score")
    if patches is not None:
        table = table.reindex(list(patches))
    table = table.fillna(-1).astype(int)
    return table.to_numpy(), list(table.columns), list(table.index)


def disagreements(ratings: np.ndarray, patches: Sequence[str]) -> pd.DataFrame:
    """DataFrame (patch, lowest, highest, spread, scores) of patches on which raters split.

    Of ratings (N,R; -1 missing), the widest split first.
    """
    ratings = np.asarray(ratings)
    # nobody read anything
    if not ratings.size:
        ratings = np.full((len(patches), 1), -1)
    known = np.ma.masked_less(ratings, 0)
    lowest = known.min(1).filled(-1)
    highest = known.max(1).filled(-1)
    table = pd.DataFrame({"patch": list(patches), "lowest": lowest, "highest": highest})
    table["spread"] = table.highest - table.lowest
    table["scores"] = [" ".join(map(scores.score_name, row)) for row in ratings]
    table = table[table.spread > 0]
    return table.sort_values(["spread", "patch"], ascending=[False, True], ignore_index=True)


def merge_readings(
    table: pd.DataFrame,
    ratings: pd.DataFrame,
    *,
    how: str = "majority",
    settled: Mapping[str, int] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """(table with a column rater_<name> for each reader and one consensus, -1 missing; sentences).

    settled {patch: score} is a consensus made elsewhere.
    """
    matrix, raters, _ = wide_ratings(ratings, patches=table.name)
    scores_of_patches, notes = consensus(matrix, how=how)
    if settled is not None:
        scores_of_patches = table.name.map(settled).fillna(-1).astype(int).to_numpy()
        n_missing = (scores_of_patches < 0).sum()
        notes = [f"The consensus is as given; it lacks {n_missing} of {len(table)} patches."]
    columns = {f"rater_{rater}": matrix[:, column] for column, rater in enumerate(raters)}
    return table.assign(**columns, consensus=scores_of_patches), notes
