"""Labels worth reading again: evidence for people, never a verdict about a label."""

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from her2lib import scores, stain

COSTS = np.array(
    [0.0, 0.9, 0.95, 1.0]
)  # of 0, 1, 2, 3 steps, a far one a little more; at 0.5 for one step fewer wrong ones came first
BLANK = stain.CUTS[0]  # of the DAB rule: below it a patch shows no stained membrane
FAINT = 0.065  # the most DAB beyond stain.MOST_LEAK in an unstained patch
NEIGHBOURS = 10
ROUNDS = 100  # of mixing the voices


def learner_features(images, *, mpp=None):
    """(N,D) float, stain measures of uint8 (N,3,H,W), all that the cheap learner and its neighbours see."""
    table = pd.DataFrame(
        {name: column.numpy() for name, column in stain.measures(images, mpp=mpp).items()}
    )
    return table.assign(log_rule=np.log(table["rule"] + 1e-3)).to_numpy(float)


def excess_dab(images, *, mpp=None):
    """(N,) float, the 99 % quantile of DAB optical density beyond what haematoxylin leaks into it, at about 1 um, of (N,3,H,W)."""
    small = torch.nn.functional.avg_pool2d(
        stain.unmix(images, white="glass"), max(1, round(stain.px(images, 1.0, mpp)))
    )
    blue, brown = small.flatten(2).unbind(1)
    return np.quantile((brown - stain.MOST_LEAK * blue).numpy(), 0.99, axis=1)


def out_of_fold_probabilities(features, score, *, groups, folds=5, seed=0, learner="trees"):
    """(N,4) probabilities of a cheap learner, fitted without any patch of the unit; NaN where what it saw lacks the patch's score."""
    features, score, groups = (
        np.asarray(features, float),
        np.asarray(score),
        np.asarray(groups).astype(str),
    )
    known, found = score >= 0, np.full((len(score), len(scores.SCORES)), np.nan)
    folds = min(folds, len(set(groups[known])))
    if folds < 2:
        raise ValueError(
            "Out-of-fold answers need patches of two slides or groups at least: there is one."
        )
    made = {
        "trees": ExtraTreesClassifier(300, min_samples_leaf=3, random_state=seed),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)),
    }
    parts = GroupKFold(folds, shuffle=True, random_state=seed)
    for fit, held in parts.split(features[known], score[known], groups[known]):
        rows, away = np.flatnonzero(known)[fit], np.flatnonzero(known)[held]
        found[away] = 0
        if (
            len(set(score[rows])) == 1
        ):  # one score left: nothing can be fitted, and its answer is that score
            found[away, score[rows][0]] = 1
        else:
            model = made[learner].fit(features[rows], score[rows])
            found[np.ix_(away, model.classes_)] = model.predict_proba(features[away])
        found[away[~np.isin(score[away], score[rows])]] = (
            np.nan
        )  # who never saw a score is no witness against it
    return found


def rank_doubts(
    score,
    *,
    patch,
    predictions=(),
    learner=None,
    rule=None,
    features=None,
    ratings=None,
    groups=None,
    excess=None,
):
    """DataFrame (patch, score, suggested, doubt 0..1, kind, reasons), of patches with a score (N,); weak scores where excess is given."""
    score, groups = (
        np.asarray(score, int),
        np.asarray(patch if groups is None else groups).astype(str),
    )
    voices = {"networks": _together(predictions, len(score)), "learner": learner}
    if rule is not None:
        voices["rule"] = out_of_fold_probabilities(
            np.log(np.asarray(rule, float)[:, None] + 1e-3),
            score,
            groups=groups,
            learner="logistic",
        )
    if features is not None:
        voices["neighbours"] = neighbour_votes(features, score, groups=groups)
    if ratings is not None:
        voices["raters"] = _votes(ratings)
    voices = {name: voice for name, voice in voices.items() if voice is not None}
    pooled = _pooled(voices, score)
    given, suggested = np.where(score >= 0, score, 0), np.nan_to_num(pooled, nan=-1).argmax(1)
    steps = np.abs(np.arange(pooled.shape[1]) - given[:, None])  # (N,4)
    found = np.nansum(pooled * COSTS[steps], axis=1)
    suggested = np.where(np.isnan(pooled).any(1), given, suggested)
    kind = np.where(suggested != given, "in doubt", "").astype(object)
    if excess is not None:
        hidden = _hidden(
            given, suggested, (np.asarray(rule) < BLANK) & (np.asarray(excess) < FAINT), groups
        )
        kind[hidden], found = (
            "not visible here",
            np.where(hidden, found / 2, found),
        )  # seldom wrong, so after the others
    said = [_reasons(voices, row, given[row], kind[row]) for row in range(len(given))]
    table = pd.DataFrame(
        {
            "patch": list(patch),
            "score": given,
            "suggested": suggested,
            "doubt": found,
            "kind": kind,
            "reasons": said,
        }
    )
    return table[score >= 0].sort_values(
        ["doubt", "patch"], ascending=[False, True], ignore_index=True
    )


def neighbour_votes(features, score, *, groups):
    """(N,4) shares of the scores of the nearest patches of other slides or groups, nearest weighing most; NaN as out_of_fold."""
    z, known = (
        StandardScaler().fit_transform(np.asarray(features, float)),
        np.flatnonzero(np.asarray(score) >= 0),
    )
    found, groups = np.full((len(z), len(scores.SCORES)), np.nan), np.asarray(groups).astype(str)
    most = int(pd.Series(groups[known]).value_counts().max()) if len(known) else 0
    if not len(known):
        return found
    shown = pd.Series(groups[known]).groupby(score[known]).nunique()  # slides that show a score
    near = (
        NearestNeighbors(n_neighbors=min(NEIGHBOURS + most, len(known)))
        .fit(z[known])
        .kneighbors(z, return_distance=False)
    )
    for row, order in enumerate(known[near]):
        mine = order[groups[order] != groups[row]][:NEIGHBOURS]
        if len(mine) and (score[row] < 0 or shown[score[row]] > 1):
            found[row] = np.bincount(
                score[mine], weights=1 / np.arange(2, len(mine) + 2), minlength=len(scores.SCORES)
            )
    return found / found.sum(1, keepdims=True)


def reread_effect(table, ratings):
    """DataFrame (patch, score, reread) of the patches of table that ratings settle anew: patch, rater, reading, score."""
    first = ratings[ratings["reading"] == 1]
    middle = first.groupby("patch")[
        "score"
    ].median()  # readers who meet halfway between two scores settle nothing
    settled = middle[middle % 1 == 0].astype(int)
    rows = table[table["name"].isin(settled.index)][["name", "score"]]
    return rows.assign(reread=settled.reindex(rows["name"]).to_numpy()).rename(
        columns={"name": "patch"}
    )


def _together(predictions, n):
    """(N,4) mean of networks' probabilities, a network that is silent on a patch (NaN) left out; None without networks."""
    predictions = (
        [predictions]
        if isinstance(predictions, np.ndarray) and predictions.ndim == 2
        else list(predictions)
    )
    if not predictions:
        return None
    stack = np.stack([np.asarray(one, float) for one in predictions])  # (R,N,4)
    if stack.shape[1:] != (n, len(scores.SCORES)):
        raise ValueError(
            f"Predictions must be probabilities ({n}, {len(scores.SCORES)}), not {stack.shape[1:]}: one row for each patch."
        )
    heard = ~np.isnan(stack).any(2, keepdims=True)
    return np.where(
        heard.any(0), np.where(heard, stack, 0).sum(0) / np.maximum(heard.sum(0), 1), np.nan
    )


def _votes(ratings):
    ratings = np.asarray(ratings, int)
    counts = np.stack([(ratings == score).sum(1) for score in range(len(scores.SCORES))], 1).astype(
        float
    )
    return np.where(
        counts.sum(1, keepdims=True) > 0,
        counts / np.maximum(counts.sum(1, keepdims=True), 1),
        np.nan,
    )


def _pooled(voices, given):
    """(N,4) voices mixed by how well they foretell the scores as given (EM), raters beside them as half; NaN where none speaks."""
    if not voices:
        raise ValueError(
            "Nothing speaks about the scores: give predictions, learner, rule, features or ratings."
        )
    stack, people = (
        np.stack(list(voices.values())),
        np.array([[name == "raters"] for name in voices]),
    )  # (V,N,4), (V,1)
    heard, weight = ~np.isnan(stack).any(2), np.ones((len(stack), 1))
    fits = (
        np.nan_to_num(np.take_along_axis(stack, np.maximum(given, 0)[None, :, None], 2)[..., 0])
        * (given >= 0)
        + 1e-3
    )  # (V,N)
    for _ in range(ROUNDS):
        said = weight * fits * heard * ~people
        weight = (said / np.maximum(said.sum(0), 1e-9)).sum(1, keepdims=True) / np.maximum(
            heard.sum(1, keepdims=True), 1
        ) + 1e-6
    weight = np.where(people, 1, weight / weight.sum()) * heard
    total = weight.sum(0)[:, None]
    return np.where(
        total > 0,
        (weight[..., None] * np.nan_to_num(stack)).sum(0) / np.maximum(total, 1e-9),
        np.nan,
    )


def _hidden(score, suggested, unstained, groups):
    """(N,) bool, unstained patches of a 2+ or 3+ slide whose group shows that score elsewhere."""
    blank = unstained & (
        score > 1
    )  # a faint 1+ cannot be told from none: precision fell from 0.94 to 0.75
    table = pd.DataFrame({"unit": groups, "score": score, "shown": ~blank & (suggested >= score)})
    elsewhere = table.groupby(["unit", "score"])["shown"].transform("any")
    return (blank & elsewhere).to_numpy()


def _reasons(voices, row, score, kind):
    """str, which voices speak for another score, with its share of the voice; or why nothing can be seen."""
    said = (
        ["no stained membrane in this patch, but elsewhere on its slide"]
        if kind == "not visible here"
        else []
    )
    said += [
        "no evidence: nothing that was asked knows this patch or, from another slide, its score"
    ] * all(np.isnan(voice[row]).any() for voice in voices.values())
    for name, voice in voices.items():
        best = int(np.nan_to_num(voice[row]).argmax())
        if not np.isnan(voice[row]).any() and best != score:
            said.append(f"{name}: {scores.score_name(best)} ({100 * voice[row, best]:.0f} %)")
    return "; ".join(said)
