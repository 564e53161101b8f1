"""A panel: test patches under every network of a study, their maps, tables of what these say."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from her2lib import stain
from her2lib.data.reading import Cohort
from her2lib.maps import attribution, faithfulness, focus, interventions
from her2lib.networks import checkpoint, models, train
from her2lib.stats.calibration import among_scores
from her2lib.stats.intervals import resampling_groups
from her2lib.study import results
from her2lib.study.claims import Claim, Evidence, Verdict, judge_claim
from her2lib.study.cohort import prepare_cohort
from her2lib.study.config import Study

BY_CHANCE = ", placed by chance"
NO_NETWORK = ("random", "centre", "edges", "dab")  # nulls that look at the patch alone, if at that


@dataclass(frozen=True)
class PanelPatches:
    """B test patches drawn by chance: their rows, pixels, true scores, tissue, what to resample."""

    table: pd.DataFrame
    images: torch.Tensor  # (B,3,H,W) uint8
    mpp: np.ndarray  # (B,) um per pixel of the images, NaN where unknown
    truth: np.ndarray  # (B,) int
    masks: dict[str, torch.Tensor]  # (B,H,W) bool
    synthetic: bool
    groups: pd.Series  # (B,) ids of patients, slides or patches
    sample: str
    warning: str

    @property
    def scale(self) -> float | None:
        """float, um per pixel where it is known of every patch, the median; else None."""
        if np.isfinite(self.mpp).all():
            return float(np.median(self.mpp))
        return None


@dataclass(frozen=True)
class MapPanel:
    """Patches, and by network: what it predicted, its maps, and their values placed by chance."""

    study: Study
    cohort: Cohort
    predictions: pd.DataFrame
    runs: dict[str, str]  # name that people read -> run
    networks: dict[str, models.Net]
    patches: PanelPatches
    predicted: dict[str, torch.Tensor]  # (B,) int
    maps: dict[tuple[str, str], torch.Tensor]  # (name, method) -> (B,h,w)
    by_chance: dict[tuple[str, str], torch.Tensor]

    def input_of(self, name: str) -> torch.Tensor:
        """(B,3,H,W) float32, the patches as this network reads them."""
        return models.normalise(self.patches.images, self.networks[name])

    @property
    def followed(self) -> dict[str, str]:
        """{name: method} the map that a network's kind is known for."""
        return {name: map_methods(net)[-1] for name, net in self.networks.items()}

    @property
    def attentive(self) -> list[str]:
        """list of the networks that have attention."""
        return [name for name, net in self.networks.items() if net.layers]

    @property
    def resampling(self) -> dict:
        """Keyword arguments of bootstrap and of focus.mean_table."""
        resamples = self.study.maps["resamples"]
        return {"groups": self.patches.groups, "resamples": resamples}

    @property
    def stands_on(self) -> str:
        """str, the sentence under every table: how many patches, what its intervals resample."""
        kind = ""
        if self.patches.synthetic:
            kind = "synthetic "
        left_out = ""
        if len(self.runs) < len(results.shown_runs(self.study)):
            left_out = " Networks of other sides are left out."
        return (
            f"n = {len(self.patches.table)} {kind}test patches; brackets: 95 % intervals that "
            f"resample {self.patches.sample}. {self.patches.warning}{left_out}"
        )


# --- making a panel -----------------------------------------------------------------------------


def map_panel(study: Study) -> MapPanel:
    """MapPanel of the study's shown networks of one side; needs their runs to be finished."""
    side_px = study.run()["side_px"]
    cohort = prepare_cohort(study, side_px=side_px)
    patches = draw_patches(study, cohort)
    # maps are compared at one side
    runs = {
        name: run
        for name, run in results.shown_runs(study).items()
        if study.run(run)["side_px"] == side_px
    }
    networks = {name: checkpoint.load_run(study.folder_of(run))[0] for name, run in runs.items()}
    predicted = {
        name: torch.from_numpy(_answers(study, net, patches.images))
        for name, net in networks.items()
    }
    maps = {}
    by_chance = {}
    for name, net in networks.items():
        x = models.normalise(patches.images, net)
        for method in map_methods(net):
            maps[name, method] = attribution.METHODS[method].function(net, x, predicted[name])
            generators = attribution.generators(x, 0)
            by_chance[name, method] = attribution.surrogate(maps[name, method], generators)
    predictions = results.run_tables(study, "predictions")
    return MapPanel(study, cohort, predictions, runs, networks, patches, predicted, maps, by_chance)


def draw_patches(study: Study, cohort: Cohort) -> PanelPatches:
    """PanelPatches, as many of the test set as `patches` under [maps] asks for."""
    tested = cohort.table[cohort.table["set"] == "test"]
    count = min(len(tested), study.maps["patches"])
    table = tested.sample(count, random_state=0).sort_index()
    index = np.array(table.index)
    images = cohort.patches.images[index]
    groups, sample, warning = resampling_groups(table["patient"], table["slide"], table["name"])
    synthetic = study.data["source"] == "phantom" and study.phantom.get("truth", False)
    patches = PanelPatches(
        table=table,
        images=images,
        mpp=cohort.patches.mpp[index],
        truth=cohort.patches.score[index],
        masks={},
        synthetic=synthetic,
        groups=groups,
        sample=sample,
        warning=warning,
    )
    patches.masks.update(stain.masks(images, mpp=patches.scale))
    # the stain only guesses the tissue: where patches are synthetic the truth takes its place
    if synthetic:
        folder = study.cohort_path / "truth"
        truth = focus.read_truth(folder, table["name"], side_px=images.shape[-1])
        patches.masks.update(truth)
    return patches


def map_methods(net: models.Net) -> list[str]:
    """list of the methods a panel holds of a network; the last is what its kind is known for."""
    if net.layers:
        return ["grad_cam", "relevance"]
    return ["grad_cam"]


def map_label(name: str, method: str, *, null: bool = False) -> str:
    """str, "ViT-Tiny, grad-cam" or "ViT-Tiny, grad-cam, placed by chance"."""
    label = f"{name}, {method.replace('_', '-')}"
    if null:
        label += BY_CHANCE
    return label


def network_kind(net: models.Net) -> str:
    """str, "resnet18", "densenet201", "vit" or "hybrid": the word that claims use."""
    return net.network.split("_")[0]


# --- where do they look? ------------------------------------------------------------------------


def focus_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per network, method, null and patch: focus.focus of the map or its null."""
    grid = min(min(net.grid) for net in panel.networks.values())
    options = {"mpp": panel.patches.mpp, "grid": grid}
    masks = panel.patches.masks
    tables = []
    for (name, method), maps in panel.maps.items():
        columns = {"name": name, "kind": network_kind(panel.networks[name]), "method": method}
        # the draws hang on the patches, so a patch has the same null in every panel
        generators = attribution.generators(panel.input_of(name), 1)
        looks = focus.focus(maps, masks, **options)
        nulls = focus.focus_by_chance(maps, generators, masks, **options)
        for null, table in ((False, looks), (True, nulls)):
            label = map_label(name, method, null=null)
            numbered = table.assign(**columns, null=null, patch=range(len(maps)), label=label)
            tables.append(numbered)
    return pd.concat(tables, ignore_index=True)


def depth_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per network, method, null, patch and band of depth in tumour: density."""
    tables = []
    for (name, method), looks in panel.maps.items():
        for null, maps in ((False, looks), (True, panel.by_chance[name, method])):
            bands = focus.depth_bands(maps, panel.patches.masks["tumour"], mpp=panel.patches.mpp)
            tables.append(bands.assign(name=name, method=method, null=null))
    table = pd.concat(tables, ignore_index=True)
    # patches of unknown mpp are measured in pixels: the commoner unit is shown, the other left out
    table = table.query("unit == unit.mode()[0]")
    depth = [f"{row.low:g}-{row.high:g}".replace("-inf", "+") for row in table.itertuples()]
    return table.assign(depth=depth)


def attention_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per network, weights, patch, layer and head: distances, high-norm tokens."""
    tables = [pd.DataFrame({"name": [], "weights": []}, dtype=str)]
    for name in panel.attentive:
        nets = _before_and_after(panel.networks[name])
        table = focus.attention_by_weights(nets, panel.input_of(name), mpp=panel.patches.mpp)
        layer = (table["layer"] + 1).astype(str)
        label = name + ", " + table["weights"] + ", layer " + layer
        tables.append(table.assign(label=label, name=name))
    if len(tables) == 1:
        return tables[0]
    return pd.concat(tables[1:], ignore_index=True)


def _before_and_after(net):
    """{weights: Net} a network before any training, as its training began, and as it is now."""
    start = {"untrained": "none"}
    if net.config["weights"] != "none":
        start["before fine-tuning"] = net.config["weights"]
    nets = {
        state: models.create(net.network, side_px=net.side_px, weights=weights)
        for state, weights in start.items()
    }
    return {**nets, "trained": net}


# --- do the maps deserve belief? ----------------------------------------------------------------


def faithfulness_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per network, null and patch: deletion, insertion, ROAD of the known map."""
    tables = []
    for name, method in panel.followed.items():
        pairs = ((False, panel.maps[name, method]), (True, panel.by_chance[name, method]))
        for null, maps in pairs:
            table = faithfulness.faithfulness_scores(
                panel.networks[name],
                panel.input_of(name),
                maps=maps,
                score=panel.predicted[name],
            )
            tables.append(table.assign(label=map_label(name, method, null=null)))
    return pd.concat(tables, ignore_index=True)


def similarity_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per network, change and patch: likeness of the known map to the changed."""
    tables = []
    for name, method in panel.followed.items():
        function = attribution.METHODS[method].function
        changed = faithfulness.similarity_under_change(
            panel.networks[name],
            panel.patches.images,
            score=panel.predicted[name],
            method=function,
        )
        others = [
            faithfulness.map_similarity(panel.maps[name, method], maps).assign(change=change)
            for change, maps in _other_maps(panel, name, function).items()
        ]
        tables.append(pd.concat([changed, *others]).assign(label=map_label(name, method)))
    return pd.concat(tables)


def deciding_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per map and patch with deciding cells: mass on them, their area, lift."""
    name, net = next(iter(panel.networks.items()))
    # the nulls look at the patch alone, so any network serves to hand it over
    x = panel.input_of(name)
    maps = {map_label(*key): looks for key, looks in panel.maps.items()}
    nulls = {map_label(*key, null=True): looks for key, looks in panel.by_chance.items()}
    without = {
        f"no network: {null}": attribution.METHODS[null].function(net, x, 0) for null in NO_NETWORK
    }
    table = faithfulness.deciding_mass(maps | nulls | without, panel.patches.masks["deciding"])
    # a patch of score 0 may have no deciding cell
    return table[table["area"] > 0].rename(columns={"map": "label"})


def ablation_table(panel: MapPanel) -> pd.DataFrame:
    """DataFrame, a row per kind of ablation and patch: predicted score of each network, truth."""
    patches = panel.patches
    tables = []
    for kind, images in interventions.ablations(patches.images, mpp=patches.scale).items():
        predicted = {
            name: _answers(panel.study, net, images) for name, net in panel.networks.items()
        }
        names = patches.table["name"].to_numpy()
        table = pd.DataFrame(predicted).assign(kind=kind, patch=names, truth=patches.truth)
        tables.append(table)
    return pd.concat(tables)


def _answers(study, net, images):
    """(N,) int scores that a network gives, among those that the study declares."""
    return among_scores(train.predict(net, images), study.declared_scores).argmax(1)


def _other_maps(panel, name, function):
    """{change: (B,h,w)} maps of another method, another seed, a network taught shuffled scores."""
    net = panel.networks[name]
    x = panel.input_of(name)
    score = panel.predicted[name]
    maps = {"another method": _other_method(net)(net, x, score)}
    # a network retrained by another seed should look the same, one taught nonsense should not
    kin = {"another seed": name, "taught shuffled scores": f"{name}, shuffled scores"}
    for change, wanted in kin.items():
        run = _other_run(panel, name, wanted)
        if run:
            other, *_ = checkpoint.load_run(panel.study.folder_of(run))
            maps[change] = function(other, x, score)
    return maps


def _other_method(net) -> Callable:
    """The second map of a network: Grad-CAM beside relevance, LayerCAM beside Grad-CAM."""
    if net.layers:
        return attribution.grad_cam
    return attribution.layer_cam


def _other_run(panel, name, wanted):
    """str, the first finished run of that display name that the panel does not show, or ""."""
    for run, display_name in results.display_names(panel.study).items():
        shown = run == panel.runs[name]
        if display_name == wanted and not shown and results.is_finished(panel.study, run):
            return run
    return ""


# --- what becomes of the claims? ----------------------------------------------------------------


def judge(
    panel: MapPanel,
    claims: list[Claim],
    *,
    focused: pd.DataFrame,
    attention: pd.DataFrame,
    ablations: pd.DataFrame,
) -> list[Verdict]:
    """[Verdict] of every claim on every recipe of the panel, from the rows of its three tables."""
    farther = _farther_than_untrained(attention)
    lost = _lost_without_position(panel, ablations)
    collapsed = [
        name for name, run in panel.runs.items() if results.run_record(panel.study, run)["verdict"]
    ]
    verdicts = []
    for recipe, names in _names_by_recipe(panel).items():
        evidence = {
            kind: _evidence(panel, name, focused, farther, lost) for kind, name in names.items()
        }
        for claim in claims:
            verdict = judge_claim(
                claim,
                evidence,
                recipe=recipe,
                broken=_why_not_heard(claim, names, collapsed),
                **panel.resampling,
            )
            verdicts.append(verdict)
    return verdicts


def _names_by_recipe(panel):
    """{recipe: {kind: name}}; of "ViT-Tiny, tuned" the recipe is what follows the network."""
    by_recipe = {}
    for name, net in panel.networks.items():
        recipe = name.partition(", ")[2]
        by_recipe.setdefault(recipe, {})[network_kind(net)] = name
    return by_recipe


def _evidence(panel, name, focused, farther, lost):
    """Evidence of one network: every column of its focus, and what attention and position gave."""
    measures = {("lost_without_position", ""): lost[name]}
    if name in farther:
        measures["attention_farther", ""] = farther[name]
    nulls = {}
    of_network = focused[focused["name"] == name].sort_values("patch")
    for (method, null), rows in of_network.groupby(["method", "null"]):
        goal = measures
        if null:
            goal = nulls
        for column in rows.select_dtypes("number"):
            goal[column, method] = rows[column].to_numpy()
    right = panel.predicted[name].numpy() == panel.patches.truth
    return Evidence(right, measures, nulls)


def _farther_than_untrained(attention):
    """{name: (B,)} px by which the first layer looks farther than untrained, mean of its heads."""
    farther = {}
    for name, table in attention.groupby("name", sort=False):
        first_layer = table[table["layer"] == 0]
        by_weights = first_layer.pivot_table("distance_px", "patch", "weights")
        farther[name] = (by_weights["trained"] - by_weights["untrained"]).to_numpy()
    return farther


def _lost_without_position(panel, ablations):
    """{name: (B,)} 1 where shuffled tiles cost the right score, -1 where they brought it."""
    intact = ablations[ablations["kind"] == "intact"]
    shuffled = ablations[ablations["kind"] == "tiles_shuffled"]
    lost = {}
    for name in panel.networks:
        right = (intact[name] == intact["truth"]).to_numpy(float)
        lost[name] = right - (shuffled[name] == shuffled["truth"]).to_numpy(float)
    return lost


def _why_not_heard(claim, names, collapsed):
    """str, which networks of a claim cannot testify, and why; "" where all can."""
    absent = [f"this study trained no {kind}" for kind in claim.networks if kind not in names]
    trained = [names[kind] for kind in claim.networks if kind in names]
    broken = [f"{name} collapsed" for name in trained if name in collapsed]
    return ", ".join(absent + broken)
