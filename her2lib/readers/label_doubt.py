"""Labels worth reading again: evidence for people, never a verdict about a label."""

from collections.abc import Sequence

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

# What a score 0, 1, 2, 3 steps off costs, a far one a little more. At 0.5 for one step fewer
# wrong scores came first.
COSTS = np.array([0.0, 0.9, 0.95, 1.0])
# Of the DAB rule: below it a patch shows no stained membrane.
BLANK = stain.CUTS[0]
# The most DAB beyond stain.MOST_LEAK in an unstained patch.
FAINT = 0.065
NEIGHBOURS = 10
# Rounds of weighing the sources of evidence against each other.
ROUNDS = 100
Q = len(scores.SCORES)


# --- what the learner sees of a patch -------------------------------------------------------------


def learner_features(images: torch.Tensor, *, mpp: float | None = None) -> np.ndarray:
    """(N,D) float, the stain measures of uint8 (N,3,H,W) and the log of the DAB rule.

    All that the cheap learner and the nearest neighbours see.
    """
    measures = stain.measures(images, mpp=mpp)
    table = pd.DataFrame({name: column.numpy() for name, column in measures.items()})
    return table.assign(log_rule=np.log(table["rule"] + 1e-3)).to_numpy(float)


def excess_dab(images: torch.Tensor, *, mpp: float | None = None) -> np.ndarray:
    """(N,) float, 99 % quantile of the DAB optical density that haematoxylin does not explain.

    Of uint8 (N,3,H,W), at about 1 um a pixel, beyond what haematoxylin leaks into DAB.
    """
    factor = max(1, round(stain.px(images, 1.0, mpp)))
    planes = torch.nn.functional.avg_pool2d(stain.unmix(images, white="glass"), factor)
    blue, brown = planes.flatten(2).unbind(1)  # (N,2,h,w) -> (N,h*w) each
    return np.quantile((brown - stain.MOST_LEAK * blue).numpy(), 0.99, axis=1)


# --- evidence from other slides -------------------------------------------------------------------


def out_of_fold_probabilities(
    features: np.ndarray,
    score: np.ndarray,
    *,
    groups: np.ndarray,
    folds: int = 5,
    seed: int = 0,
    learner: str = "trees",
) -> np.ndarray:
    """(N,4) probabilities of a cheap learner, fitted without any patch of the same slide or group.

    NaN where the score (N,) is unknown (-1), and where what the learner saw lacks that score.
    learner is "trees" or "logistic". Raises ValueError with fewer than two groups.
    """
    features = np.asarray(features, float)
    score = np.asarray(score)
    groups = np.asarray(groups).astype(str)
    scored = np.flatnonzero(score >= 0)
    folds = min(folds, len(set(groups[scored])))
    if folds < 2:
        raise ValueError(
            "Out-of-fold answers need patches of two slides or groups at least: there is one."
        )
    models = {
        "trees": ExtraTreesClassifier(300, min_samples_leaf=3, random_state=seed),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)),
    }
    probabilities = np.full((len(score), Q), np.nan)
    split = GroupKFold(folds, shuffle=True, random_state=seed)
    for fit, held_out in split.split(features[scored], score[scored], groups[scored]):
        seen = scored[fit]
        unseen = scored[held_out]
        probabilities[unseen] = _fitted_probabilities(
            models[learner], features[seen], score[seen], features[unseen]
        )
        # who never saw a score is no witness against it
        never_seen = ~np.isin(score[unseen], score[seen])
        probabilities[unseen[never_seen]] = np.nan
    return probabilities


def _fitted_probabilities(model, features, score, new_features):
    """(N,4) probabilities of new features, of a model fitted to features (M,D) and score (M,)."""
    probabilities = np.zeros((len(new_features), Q))
    # one score left: nothing can be fitted, and the answer is that score
    if len(set(score)) == 1:
        probabilities[:, score[0]] = 1
        return probabilities
    model = model.fit(features, score)
    probabilities[:, model.classes_] = model.predict_proba(new_features)
    return probabilities


def neighbour_votes(features: np.ndarray, score: np.ndarray, *, groups: np.ndarray) -> np.ndarray:
    """(N,4) votes of the nearest patches of other slides or groups, the nearest weighing most.

    NaN where no other slide is there, or where one slide alone shows the patch's score.
    """
    score = np.asarray(score)
    points = StandardScaler().fit_transform(np.asarray(features, float))  # (N,D)
    groups = np.asarray(groups).astype(str)
    scored = np.flatnonzero(score >= 0)
    votes = np.full((len(points), Q), np.nan)
    if not len(scored):
        return votes
    scored_groups = pd.Series(groups[scored])
    slides_of_score = scored_groups.groupby(score[scored]).nunique()
    # so many are looked up that NEIGHBOURS are left without those of the patch's slide
    largest_group = int(scored_groups.value_counts().max())
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS + largest_group, len(scored)))
    nearest = search.fit(points[scored]).kneighbors(points, return_distance=False)
    for row, order in enumerate(scored[nearest]):
        others = order[groups[order] != groups[row]][:NEIGHBOURS]
        shown_elsewhere = score[row] < 0 or slides_of_score[score[row]] > 1
        if len(others) and shown_elsewhere:
            weights = 1 / np.arange(2, len(others) + 2)
            votes[row] = np.bincount(score[others], weights=weights, minlength=Q)
    return votes / votes.sum(1, keepdims=True)


# --- the ranking ----------------------------------------------------------------------------------


def rank_doubts(
    score: np.ndarray,
    *,
    patch: Sequence,
    predictions: Sequence[np.ndarray] = (),
    learner: np.ndarray | None = None,
    rule: np.ndarray | None = None,
    features: np.ndarray | None = None,
    ratings: np.ndarray | None = None,
    groups: Sequence | np.ndarray | None = None,
    excess: np.ndarray | None = None,
) -> pd.DataFrame:
    """DataFrame (patch, score, suggested, doubt 0..1, kind, reasons), the most doubted patch first.

    Of the patches with a score (N,), -1 where there is none. Any of these may speak:
    predictions: (N,4) probabilities, one per network; learner: (N,4), of out_of_fold_probabilities;
    rule: (N,) values of stain.rule_value; features: (N,D), of learner_features, for the
    neighbours; ratings: (N,R) of people, -1 not read.
    groups (N,): slides or groups, of which nothing is learnt about their own patches.
    excess (N,), of excess_dab, where scores are weak: a patch may not show its slide's score.

    Raises ValueError where nothing speaks, or predictions are not (N,4).

    rank_doubts([0, 3], patch=["a", "b"], predictions=[probabilities], groups=["S1", "S2"])
    """
    score = np.asarray(score, int)
    if groups is None:
        groups = patch
    groups = np.asarray(groups).astype(str)
    sources = _gather_sources(score, groups, predictions, learner, rule, features, ratings)
    probabilities = _pool_sources(sources, score)
    # patches without a score are left out at the end; 0 stands in for theirs until then
    written = np.where(score >= 0, score, 0)
    suggested = np.nan_to_num(probabilities, nan=-1).argmax(1)
    suggested = np.where(np.isnan(probabilities).any(1), written, suggested)
    steps = np.abs(np.arange(Q) - written[:, None])  # (N,4)
    doubt = np.nansum(probabilities * COSTS[steps], axis=1)
    kind = np.where(suggested != written, "in doubt", "").astype(object)
    if excess is not None:
        unstained = (np.asarray(rule) < BLANK) & (np.asarray(excess) < FAINT)
        hidden = _not_visible(written, suggested, unstained, groups)
        kind[hidden] = "not visible here"
        # seldom wrong, so after the others
        doubt = np.where(hidden, doubt / 2, doubt)
    reasons = [_reasons(sources, row, written[row], kind[row]) for row in range(len(written))]
    table = pd.DataFrame(
        {
            "patch": list(patch),
            "score": written,
            "suggested": suggested,
            "doubt": doubt,
            "kind": kind,
            "reasons": reasons,
        }
    )
    table = table[score >= 0]
    return table.sort_values(["doubt", "patch"], ascending=[False, True], ignore_index=True)


def reread_effect(table: pd.DataFrame, ratings: pd.DataFrame) -> pd.DataFrame:
    """DataFrame (patch, score, reread) of the patches of a table that ratings settle anew.

    ratings: patch, rater, reading, score; first readings count, and their median settles.
    """
    first = ratings[ratings["reading"] == 1]
    middle = first.groupby("patch")["score"].median()
    # readers who meet halfway between two scores settle nothing
    settled = middle[middle % 1 == 0].astype(int)
    rows = table[table["name"].isin(settled.index)][["name", "score"]]
    reread = settled.reindex(rows["name"]).to_numpy()
    return rows.assign(reread=reread).rename(columns={"name": "patch"})


# --- sources of evidence --------------------------------------------------------------------------


def _gather_sources(score, groups, predictions, learner, rule, features, ratings):
    """dict name -> (N,4) probabilities of everything that speaks about the scores."""
    sources = {}
    networks = _mean_prediction(predictions, len(score))
    if networks is not None:
        sources["networks"] = networks
    if learner is not None:
        sources["learner"] = learner
    if rule is not None:
        log_rule = np.log(np.asarray(rule, float)[:, None] + 1e-3)  # (N,1)
        sources["rule"] = out_of_fold_probabilities(
            log_rule, score, groups=groups, learner="logistic"
        )
    if features is not None:
        sources["neighbours"] = neighbour_votes(features, score, groups=groups)
    if ratings is not None:
        sources["raters"] = _rater_votes(ratings)
    return sources


def _mean_prediction(predictions, n):
    """(N,4) mean of networks' probabilities; None without networks.

    A network that is silent on a patch (NaN) is left out there.
    """
    if isinstance(predictions, np.ndarray) and predictions.ndim == 2:
        predictions = [predictions]
    predictions = list(predictions)
    if not predictions:
        return None
    stack = np.stack([np.asarray(one, float) for one in predictions])  # (R,N,4)
    if stack.shape[1:] != (n, Q):
        raise ValueError(
            f"Predictions must be probabilities ({n}, {Q}), not {stack.shape[1:]}: one row for "
            "each patch."
        )
    speaks = ~np.isnan(stack).any(2, keepdims=True)  # (R,N,1)
    total = np.where(speaks, stack, 0).sum(0)
    return np.where(speaks.any(0), total / np.maximum(speaks.sum(0), 1), np.nan)


def _rater_votes(ratings):
    """(N,4) fraction of the raters who gave each score, of (N,R; -1 not read); NaN without any."""
    ratings = np.asarray(ratings, int)
    counts = np.stack([(ratings == score).sum(1) for score in range(Q)], 1).astype(float)
    n_read = counts.sum(1, keepdims=True)
    return np.where(n_read > 0, counts / np.maximum(n_read, 1), np.nan)


def _pool_sources(sources, score):
    """(N,4) mean of the sources (N,4), each weighing as much as it foretells the scores (EM).

    Raters stand beside the others as one half. NaN where no source speaks.
    """
    if not sources:
        raise ValueError(
            "Nothing speaks about the scores: give predictions, learner, rule, features or ratings."
        )
    stack = np.stack(list(sources.values()))  # (V,N,4)
    is_people = np.array([[name == "raters"] for name in sources])  # (V,1)
    speaks = ~np.isnan(stack).any(2)  # (V,N)
    column = np.maximum(score, 0)[None, :, None]
    of_score = np.nan_to_num(np.take_along_axis(stack, column, 2)[..., 0])  # (V,N)
    fits = of_score * (score >= 0) + 1e-3
    weight = np.ones((len(stack), 1))
    for _ in range(ROUNDS):
        merit = weight * fits * speaks * ~is_people
        fraction = merit / np.maximum(merit.sum(0), 1e-9)
        n_patches = np.maximum(speaks.sum(1, keepdims=True), 1)
        weight = fraction.sum(1, keepdims=True) / n_patches + 1e-6
    weight = np.where(is_people, 1, weight / weight.sum()) * speaks  # (V,N)
    total = weight.sum(0)[:, None]
    pooled = (weight[..., None] * np.nan_to_num(stack)).sum(0) / np.maximum(total, 1e-9)
    return np.where(total > 0, pooled, np.nan)


# --- what is said of a patch ----------------------------------------------------------------------


def _not_visible(score, suggested, unstained, groups):
    """(N,) bool, unstained patches of a 2+ or 3+ slide whose group shows that score elsewhere."""
    # a faint 1+ cannot be told from none: precision fell from 0.94 to 0.75
    blank = unstained & (score > 1)
    shown = ~blank & (suggested >= score)
    table = pd.DataFrame({"group": groups, "score": score, "shown": shown})
    elsewhere = table.groupby(["group", "score"])["shown"].transform("any")
    return (blank & elsewhere).to_numpy()


def _reasons(sources, row, score, kind):
    """str, which sources speak for another score and how surely; or why nothing can be seen."""
    reasons = []
    if kind == "not visible here":
        reasons.append("no stained membrane in this patch, but elsewhere on its slide")
    speaking = {
        name: source[row] for name, source in sources.items() if not np.isnan(source[row]).any()
    }
    if not speaking:
        reasons.append(
            "no evidence: nothing that was asked knows this patch or, from another slide, its score"
        )
    for name, probabilities in speaking.items():
        best = int(probabilities.argmax())
        if best != score:
            reasons.append(f"{name}: {scores.score_name(best)} ({100 * probabilities[best]:.0f} %)")
    return "; ".join(reasons)
