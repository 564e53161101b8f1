"""Training, validation and test sets that never cut through a patient or slide.

What a split leaves open is said in sentences that belong on page one.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from her2lib import scores
from her2lib.files import DataError

SET_NAMES = {"train": "training", "val": "validation", "test": "test"}
RECOVERED = (
    "No slide is known for {n} patches: they were divided by {g} groups recovered from their "
    "borders and stain. This is a sensitivity analysis, never a patient split."
)
# More groups than this are divided in bundles of whole groups: 100,000 patches take a second.
MANY = 2000
# What it costs to lack a score that exists: in train, in the part after it, in the last.
MISSING_SCORE_COST = np.array([1000, 100, 10])
FEW = 100
TRIES_OF_FEW = 20
PASSES = 5


# --- splitting --------------------------------------------------------------------------------


def split_table(
    table: pd.DataFrame, *, seed: int, val: float = 0.2, test: float = 0.2
) -> tuple[pd.DataFrame, list[str]]:
    """(table with "set" filled, notes): whole patients or slides; notes are sentences for page one.

    table: as read_table returns it. Sets given in it stay; the rest is divided.
    val, test: fractions; the test set is taken first, so val is a fraction of what it leaves.
    seed: equal seeds give equal splits.
    Raises DataError where no patch has a score. Patches without a score are in no set.

    Example: table, notes = split_table(table, seed=0)
    """
    scored = table["score"] >= 0
    if not scored.any():
        raise DataError("No usable patch has a score, so nothing can be split: fill in the scores.")
    given_sets = set(table["set"][scored])
    table = table.copy()
    table.loc[~scored & (table["set"] != "external"), "set"] = ""

    fractions = _fractions_to_draw(given_sets, val, test)
    groups = split_groups(table)
    free = table["set"].isin(["", "train"]) & scored
    counts, group_of_row = _count_scores(groups[free], table["score"][free])
    part_of_group = _divide(counts, np.array(list(fractions.values())), np.random.default_rng(seed))
    names = np.array(list(fractions), object)
    table.loc[free, "set"] = names[part_of_group[group_of_row]]

    notes = [
        *_note_unknown_slides(table),
        *_note_drawn(table, given_sets),
        *unscored_notes(table),
        *_note_cuts(table, groups),
        *_note_missing_scores(table, groups),
    ]
    return table, notes


def split_by_recovered_groups(
    table: pd.DataFrame, recovered: np.ndarray, *, seed: int, val: float = 0.2, test: float = 0.2
) -> tuple[pd.DataFrame, list[str]]:
    """(table with "set" filled, notes): as split_table, and of unknown slides whole groups.

    recovered (N,) str: the group of every patch, as slide_groups.recover_groups tells them apart.
    """
    unknown = ~_origin_known(table).to_numpy()
    stand_in = np.where(unknown, np.asarray(recovered, object), table["slide"])
    drawn, notes = split_table(table.assign(slide=stand_in), seed=seed, val=val, test=test)
    if unknown.any():
        note = RECOVERED.format(n=int(unknown.sum()), g=len(set(stand_in[unknown])))
        notes = [note, *notes]
    return table.assign(set=drawn["set"]), notes


def split_groups(table: pd.DataFrame) -> np.ndarray:
    """(N,) str, what a split may not cut: the patient, else the slide, else the patch itself.

    Rows that share a slide or a patient share a group, so a slide of two patients joins them.
    """
    # A graph of rows, slides and patients: what hangs together is one group.
    n_rows = len(table)
    n_nodes = n_rows
    known_rows = []
    known_nodes = []
    for column in ("slide", "patient"):
        # codes (N,): -1 where nothing is known.
        codes, names = pd.factorize(table[column].mask(table[column] == ""))
        known = np.flatnonzero(codes >= 0)
        known_rows.append(known)
        known_nodes.append(n_nodes + codes[known])
        n_nodes += len(names)
    rows = np.concatenate(known_rows)
    nodes = np.concatenate(known_nodes)
    links = coo_array((np.ones(len(rows)), (rows, nodes)), shape=(n_nodes, n_nodes))
    component = connected_components(links, directed=False)[1][:n_rows]

    name = table["patient"].where(table["patient"] != "", table["slide"])
    name = name.where(name != "", table["name"])
    return name.groupby(component).transform("first").to_numpy(object)


def take_fraction(table: pd.DataFrame, *, fraction: float, seed: int) -> pd.DataFrame:
    """table with this fraction of its training rows, index kept: whole groups, some of each score.

    With one seed a smaller fraction is a part of every larger one.
    """
    train = table[table["set"] == "train"]
    counts, group_of_row = _count_scores(split_groups(train), train["score"])
    order = np.random.default_rng(seed).permutation(len(counts))

    # A group counts towards the rarest score it holds.
    rarity = np.where(counts > 0, counts.sum(0), np.inf)  # (G,4)
    rarest_score = rarity.argmin(1)
    chosen = set()
    for score in set(train["score"]):
        chosen.add(order[counts[order, score] > 0][0])
    for score in set(rarest_score):
        members = order[rarest_score[order] == score]
        sizes = counts[members].sum(1)
        total = sizes.cumsum()
        chosen |= set(members[total - sizes / 2 <= fraction * total[-1]])
    return table.drop(train.index[~np.isin(group_of_row, list(chosen))])


def dependence_notes(table: pd.DataFrame) -> list[str]:
    """list of sentences on why sets of a table may not be independent; empty where they are."""
    return [*_note_unknown_slides(table), *_note_cuts(table, split_groups(table))]


def unscored_notes(table: pd.DataFrame) -> list[str]:
    """list of sentences: how many patches have no score."""
    unscored = int((table["score"] < 0).sum())
    if not unscored:
        return []
    return [f"{unscored} patches have no score: they are neither trained nor tested on."]


# --- dividing groups --------------------------------------------------------------------------


def _fractions_to_draw(given_sets, val, test):
    """dict set -> fraction of the free patches; train first, given sets are not drawn."""
    fractions = {}
    if "val" not in given_sets:
        fractions["val"] = val
    if "test" not in given_sets:
        fractions["test"] = test
    if len(fractions) == 2:
        fractions["val"] *= 1 - test
    return {"train": 1 - sum(fractions.values()), **fractions}


def _count_scores(groups, score):
    """((G,4) patches of each group and score, (N,) the number of every patch's group)."""
    names, group_of_row = np.unique(groups.astype(str), return_inverse=True)
    counts = np.zeros((len(names), 4))
    np.add.at(counts, (group_of_row, score.to_numpy(int)), 1)
    return counts, group_of_row


class _Imbalance:
    """How far parts are from holding their fraction (P,) of every score of counts (G,4)."""

    def __init__(self, counts, fractions):
        self.fractions = fractions
        self.all_patches = max(counts.sum(), 1)
        self.of_score = np.maximum(counts.sum(0), 1)
        self.score_exists = counts.sum(0) > 0
        self.missing_cost = MISSING_SCORE_COST[: len(fractions)]

    def cost(self, held):
        """(...) float of the patches that the parts hold (...,P,4); smaller is better."""
        missing = (held == 0) & self.score_exists
        by_score = held / self.of_score - self.fractions[:, None]
        by_size = held.sum(-1) / self.all_patches - self.fractions
        return (
            missing.sum(-1) @ self.missing_cost + (by_score**2).sum((-1, -2)) + (by_size**2).sum(-1)
        )


def _divide(counts, fractions, rng):
    """(G,) int, the part of every group, so that each score of counts (G,4) divides by fractions.

    fractions (P,): of train first. The best of several greedy divisions, each from another order.
    """
    if len(counts) > MANY:
        return _divide_bundles(counts, fractions, rng)
    imbalance = _Imbalance(counts, fractions)
    tries = 1
    if len(counts) <= FEW:
        tries = TRIES_OF_FEW
    best_cost = np.inf
    best_parts = np.zeros(len(counts), int)
    for _ in range(tries):
        parts, cost = _divide_greedily(counts, imbalance, rng)
        if cost < best_cost:
            best_cost = cost
            best_parts = parts
    return best_parts


def _divide_greedily(counts, imbalance, rng):
    """((G,) int part of every group, its cost): each group in turn goes to where it serves best."""
    n_parts = len(imbalance.fractions)
    parts = np.full(len(counts), -1)
    held = np.zeros((n_parts, 4))
    # adding[p] (P,4) is 1 in row p: what a group adds when it goes to part p.
    adding = np.eye(n_parts)[:, :, None]
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled].sum(1), kind="stable")]
    # First every group is placed, largest first; later passes move whatever is better elsewhere.
    for _ in range(PASSES):
        before = parts.copy()
        for group in order:
            if parts[group] >= 0:
                held[parts[group]] -= counts[group]
            parts[group] = imbalance.cost(held + adding * counts[group]).argmin()  # (P,P,4) -> (P,)
            held[parts[group]] += counts[group]
        if (before == parts).all():
            break
    return parts, imbalance.cost(held)


def _divide_bundles(counts, fractions, rng):
    """(G,) int as _divide, of bundles of whole groups that share their commonest score."""
    order = rng.permutation(len(counts))
    commonest_score = counts.argmax(1)
    bundles_per_score = MANY // 4
    bundle = np.zeros(len(counts), int)
    for score in range(4):
        members = order[commonest_score[order] == score]
        within_score = np.arange(len(members)) % bundles_per_score
        bundle[members] = score * bundles_per_score + within_score
    merged = np.zeros((MANY, 4))
    np.add.at(merged, bundle, counts)
    return _divide(merged, fractions, rng)[bundle]


# --- sentences for page one -------------------------------------------------------------------


def _origin_known(table):
    """(N,) bool Series, whether the slide or the patient of a patch is known."""
    return (table["slide"] != "") | (table["patient"] != "")


def _note_unknown_slides(table):
    """list of sentences: of how many scored patches no slide is known, and what that means."""
    known = _origin_known(table[table["score"] >= 0])
    if known.all():
        return []
    which = "these"
    if known.any():
        which = f"{(~known).sum()} of the {len(known)}"
    return [
        f"No slide is known for {which} patches: patches of one slide may stand on both sides of "
        f"the split, so results may look better than they would on new slides."
    ]


def _note_drawn(table, given_sets):
    """list of sentences: which sets were drawn, and by what."""
    drawn = [SET_NAMES[name] for name in ("val", "test") if name not in given_sets]
    if not drawn:
        return []
    scored = table[table["score"] >= 0]
    if not _origin_known(scored).any():
        how = "patch by patch"
    elif (scored["patient"] != "").any():
        how = "by whole patients"
    else:
        how = "by whole slides"
    sets = " and ".join(drawn)
    verb = "set was"
    if len(drawn) > 1:
        verb = "sets were"
    rest = ""
    if "test" in given_sets:
        rest = "; the test set is the one given"
    return [f"The {sets} {verb} drawn {how}, balanced by score as far as that allows{rest}."]


def _note_cuts(table, groups):
    """list of sentences: groups in more than one set, which only sets as given can bring about."""
    by_patch = pd.DataFrame({"group": groups, "set": table["set"].to_numpy()})
    used = by_patch[_origin_known(table).to_numpy() & (by_patch["set"] != "")]
    sets_per_group = used.groupby("group")["set"].nunique()
    cut = [str(group) for group in sets_per_group.index[sets_per_group > 1]]
    if not cut:
        return []
    examples = ", ".join(cut[:3])
    if len(cut) > 3:
        examples += " …"
    return [
        f"The sets as given cut through {len(cut)} patients or slides ({examples}): "
        f"results across these sets are not independent."
    ]


def _note_missing_scores(table, groups):
    """list of sentences: scores that a set lacks and that are not estimable there."""
    notes = []
    for score in sorted(set(table["score"][table["score"] >= 0])):
        of_score = (table["score"] == score).to_numpy()
        sets = set(table["set"][of_score])
        lacking = [SET_NAMES[name] for name in SET_NAMES if name not in sets]
        if lacking:
            origin = _count_origin(table, len(set(groups[of_score])))
            notes.append(
                f"Score {scores.score_name(score)} is missing from the {' and '.join(lacking)} set "
                f"(its patches come from {origin}): its figures there are not estimable."
            )
    return notes


def _count_origin(table, count):
    """str such as "1 patient", "3 slides" or "2 patches", whatever is known of the table."""
    unit = "patch"
    plural = "patches"
    if (table["patient"] != "").any():
        unit = "patient"
        plural = "patients"
    elif (table["slide"] != "").any():
        unit = "slide"
        plural = "slides"
    if count > 1:
        unit = plural
    return f"{count} {unit}"
