"""Training, validation and test sets that never cut through a patient or slide, and what that leaves open, in sentences."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from her2lib import scores
from her2lib.data.images import DataError

WORDED = {"train": "training", "val": "validation", "test": "test"}
RECOVERED = (
    "No slide is known for {n} patches: they were divided by {g} groups recovered from their borders and stain. This is a "
    "sensitivity analysis, never a patient split."
)
# groups above this number are shared out in bundles of whole groups, so that 100,000 patches take a
# second
MANY = 2000


def split_groups(table):
    """(N,) str, what a split may not cut: the patient, else the slide, else the patch; a slide of two patients joins them."""
    slide, patient, n = table.slide.to_numpy(object), table.patient.to_numpy(object), len(table)
    nodes, links = {}, []
    for i, words in enumerate(zip(slide, patient, strict=True)):
        links += [
            (i, nodes.setdefault((kind, word), n + len(nodes)))
            for kind, word in enumerate(words)
            if word
        ]
    rows, ends = np.array(links, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, ends)), shape=(n + len(nodes), n + len(nodes)))
    _, first, place = np.unique(
        connected_components(graph, directed=False)[1][:n], return_index=True, return_inverse=True
    )
    return np.where(
        patient != "", patient, np.where(slide != "", slide, table.name.to_numpy(object))
    )[first][place]


def split_table(table, *, seed, val=0.2, test=0.2):
    """(table with set filled, notes): given sets stay, whole patients or slides share the rest; sentences for page one."""
    if not (table.score >= 0).any():
        raise DataError("No usable patch has a score, so nothing can be split: fill in the scores.")
    table, given = table.copy(), set(table.set[table.score >= 0])
    table.loc[(table.score < 0) & (table.set != "external"), "set"] = ""
    free = table.set.isin(["", "train"]) & (table.score >= 0)
    shares = {part: share for part, share in (("val", val), ("test", test)) if part not in given}
    if len(shares) == 2:
        shares["val"] *= 1 - test
    shares = {"train": 1 - sum(shares.values())} | shares
    group = split_groups(table)
    counts, place = _counts(group[free], table.score[free])
    parts = _share(counts, np.array(list(shares.values())), np.random.default_rng(seed))
    table.loc[free, "set"] = np.array(list(shares), object)[parts[place]]
    return table, [*_say_groups(table, given), *_say_cuts(table, group), *_say_scores(table, group)]


def split_by_recovered_groups(table, recovered, *, seed, val=0.2, test=0.2):
    """(table with set filled, notes): as split, and where no slide or patient is known whole recovered groups (N,) stay together."""
    unknown = ((table.slide == "") & (table.patient == "")).to_numpy()
    stand_in = table.assign(slide=np.where(unknown, np.asarray(recovered, object), table.slide))
    drawn, notes = split_table(stand_in, seed=seed, val=val, test=test)
    if unknown.any():
        notes = [
            RECOVERED.format(n=int(unknown.sum()), g=len(set(stand_in.slide[unknown]))),
            *notes,
        ]
    return table.assign(set=drawn.set), notes


def take_fraction(table, *, fraction, seed):
    """table with this fraction of its training rows, index kept: whole groups, some of each score, small in large."""
    train = table[table.set == "train"]
    counts, place = _counts(split_groups(train), train.score)
    order = np.random.default_rng(seed).permutation(len(counts))
    lead = np.where(counts > 0, counts.sum(0), np.inf).argmin(
        1
    )  # a group counts towards the rarest score it holds
    keep = {order[counts[order, score] > 0][0] for score in set(train.score)}
    for score in set(lead):
        mine = order[lead[order] == score]
        total = counts[mine].sum(1).cumsum()
        keep |= set(mine[total - counts[mine].sum(1) / 2 <= fraction * total[-1]])
    return table.drop(train.index[~np.isin(place, list(keep))])


def _counts(group, score):
    """((G,4) patches of each group and score, (N,) the group's number of each patch)."""
    names, place = np.unique(group.astype(str), return_inverse=True)
    counts = np.zeros((len(names), 4))
    np.add.at(counts, (place, score.to_numpy(int)), 1)
    return counts, place


def _share(counts, shares, rng):
    """(G,) int, the part of each group, so that each score of counts (G,4) divides by shares (P,), of which train is first."""
    if len(counts) > MANY:
        return _bundled(counts, shares, rng)
    total, lack = (
        np.maximum(counts.sum(0), 1),
        np.array([1000, 100, 10])[: len(shares)],
    )  # wanted in train, then val, then test

    def cost(held):  # (..., P, 4) -> (...)
        size = held.sum(-1) / max(counts.sum(), 1) - shares
        missing = ((held == 0) & (counts.sum(0) > 0)).sum(-1) @ lack
        return missing + ((held / total - shares[:, None]) ** 2).sum((-1, -2)) + (size**2).sum(-1)

    best, found, one = np.inf, np.zeros(len(counts), int), np.eye(len(shares))[:, :, None]
    for _ in range(20 if len(counts) <= 100 else 1):
        parts, held = np.full(len(counts), -1), np.zeros((len(shares), 4))
        order = sorted(rng.permutation(len(counts)), key=lambda g: -counts[g].sum())
        for _ in range(
            5
            # first every group, largest first, to where it serves best; then whatever is better
            # elsewhere
        ):
            before = parts.copy()
            for g in order:
                held -= counts[g] * one[parts[g]] if parts[g] >= 0 else 0
                parts[g] = cost(held + one * counts[g]).argmin()
                held += counts[g] * one[parts[g]]
            if (before == parts).all():
                break
        if cost(held) < best:
            best, found = cost(held), parts
    return found


def _bundled(counts, shares, rng):
    """(G,) int as _share, of bundles of whole groups with the same commonest score, drawn by rng."""
    order, lead, bundle = rng.permutation(len(counts)), counts.argmax(1), np.zeros(len(counts), int)
    for score in range(4):
        mine = order[lead[order] == score]
        bundle[mine] = score * (MANY // 4) + np.arange(len(mine)) % (MANY // 4)
    merged = np.zeros((MANY, 4))
    np.add.at(merged, bundle, counts)
    return _share(merged, shares, rng)[bundle]


def _say_groups(table, given):
    """list of sentences: whether slides are known, how the sets came about, what has no score."""
    used = table[table.score >= 0]
    known, notes = (used.slide != "") | (used.patient != ""), []
    if not known.all():
        whom = "these" if not known.any() else f"{(~known).sum()} of the {len(known)}"
        notes.append(
            f"No slide is known for {whom} patches: patches of one slide may stand on both sides of the split, so "
            f"results may look better than they would on new slides."
        )
    if made := [WORDED[part] for part in ("val", "test") if part not in given]:
        how = (
            "patch by patch"
            if not known.any()
            else f"by whole {'patients' if (used.patient != '').any() else 'slides'}"
        )
        sets = " and ".join(made) + (" sets were" if len(made) > 1 else " set was")
        notes.append(
            f"The {sets} drawn {how}, balanced by score as far as that allows"
            f"{'; the test set is the one given' if 'test' in given else ''}."
        )
    if unscored := int((table.score < 0).sum()):
        notes.append(f"{unscored} patches have no score: they are neither trained nor tested on.")
    return notes


def _say_cuts(table, group):
    """list of sentences: groups in more than one set, which only sets as given can bring about."""
    used = pd.DataFrame({"group": group, "set": table.set.to_numpy()})[
        ((table.slide != "") | (table.patient != "")).to_numpy()
    ]
    count = used[used.set != ""].groupby("group").set.nunique()
    cut = [str(word) for word in count.index[count > 1]]
    return (
        [
            f"The sets as given cut through {len(cut)} patients or slides ({', '.join(cut[:3])}{' …' * (len(cut) > 3)}): "
            f"results across these sets are not independent."
        ]
        if cut
        else []
    )


def _say_scores(table, group):
    """list of sentences: scores that a set lacks and that are not estimable there."""
    notes, known = [], ((table.slide != "") | (table.patient != "")).any()
    unit = ("patient" if (table.patient != "").any() else "slide") if known else "patch"
    for score in sorted(set(table.score[table.score >= 0])):
        mine = (table.score == score).to_numpy()
        if lacking := [WORDED[part] for part in WORDED if not (mine & (table.set == part)).any()]:
            count, plural = len(set(group[mine])), "es" if unit == "patch" else "s"
            notes.append(
                f"Score {scores.score_name(score)} is missing from the {' and '.join(lacking)} set (its patches come from "
                f"{count} {unit}{plural if count > 1 else ''}): its figures there are not estimable."
            )
    return notes
