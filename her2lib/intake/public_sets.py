"""Public HER2 sets as they are downloaded: how their trees are told, what their labels are worth.

A row of SETS is one set. What is not known for certain is left out, or given as its authors' word.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_FRACTION = 0.9  # of the files that must lie and be called as in the set

NO_SCORES = "It has no HER2 scores: `her2 score` reads it, no study can be made of it."


@dataclass(frozen=True)
class PublicSet:
    """One public set; patterns are searched in "<folder>/<path below it>", in any case."""

    name: str
    pattern: str  # of nearly every image and slide; groups slide and patient are read from it
    labels: str  # a sentence: what its scores are worth
    split: str  # a sentence: what its sets are worth
    source: str
    needs: tuple[str, ...] = ()  # each must be there at least once
    holds: str = "patches"  # or slides, which are cut first


_PHOTO = r"\.(?:png|jpe?g|tiff?)$"
SETS = (
    PublicSet(
        name="BCI",
        pattern=r"/(?:IHC|HE)/(?:train|test)/\d+_(?:train|test)_[0-3]\+?"
        + _PHOTO
        + r"|/(?:train|test)/(?:IHC|HE)/\d+_(?:train|test)_[0-3]\+?"
        + _PHOTO,
        needs=(r"/IHC/",),
        labels="Its scores are those of whole slides: a patch of a 3+ slide may hold no tumour.",
        split="No slide or patient is named, so nobody can say whether train and test share one.",
        source="Liu et al. 2022, 1024 px patches with H&E partners",
    ),
    PublicSet(
        name="HER2-IHC-40x-WSI",
        pattern=r"40x[-_ ]?wsi/.*class_[0-3]\+?/[^/]+" + _PHOTO,
        labels="Its scores are given by folder; a score may be that of the slide.",
        split="Its sets were divided by patches: patches of one slide may stand on both sides.",
        source="Zenodo, a variant of HER2-IHC-40x",
    ),
    PublicSet(
        name="HER2-IHC-40x",
        pattern=r"/(?:train|test)/class_[0-3]\+?/her2-[0-3]\+?-score_(?:train|test)_\d+" + _PHOTO,
        labels="Its scores are given by folder and name; a score may be that of the slide.",
        split=(
            "Its folders train and test are a later packing, no split: the sets in the names cross "
            "them, and no slide is named. --set-from name takes the sets of the names."
        ),
        source="Zenodo 15179608, 107 slides, 1024 px patches",
    ),
    PublicSet(
        name="MIST",
        pattern=r"/TrainValAB/(?:train|val)[AB]/(?P<slide>[^/_]+)_\d+_\d+" + _PHOTO,
        needs=(r"/trainB/",),
        labels=NO_SCORES,
        split="Its train and val share patients: they are no independent sets.",
        source="Li et al. 2023, pairs of H&E (A) and immunohistochemistry (B)",
    ),
    PublicSet(
        name="HER2match",
        pattern=r"/(?:IHC|HE)/(?:train|val|test)/[^/]+\.jpe?g$",
        needs=(r"/IHC/train/", r"/HE/train/"),
        labels=NO_SCORES,
        split="Slides and patients are not named in the tree.",
        source="registered pairs of H&E and HER2",
    ),
    PublicSet(
        name="ACROBAT",
        pattern=r"/(?P<patient>\d+)_(?:HE|HER2|ER|PGR|KI67)_(?:train|val|test)\.tiff?$",
        needs=(r"_HER2_",),
        labels=NO_SCORES,
        split="Its number in front of a name is the case; its sets were made for registration.",
        source="Weitz et al. 2023, whole slides of several stains a case",
        holds="slides",
    ),
    PublicSet(
        name="the Warwick HER2 contest",
        pattern=r"/(?P<patient>\d+)_(?:HER2|HE)\.(?:ndpi|svs|tiff?)$",
        needs=(r"_HER2\.",),
        labels="A score is the whole case's, in a sheet beside the slides, by experts' consensus.",
        split="A case is one patient: name it in the table of `her2 tile --patients`.",
        source="Qaiser et al. 2018, whole slides",
        holds="slides",
    ),
    PublicSet(
        name="IHC4BC",
        pattern=r"IHC4BC.*" + _PHOTO,
        labels="Its scores stand in tables beside the images, as described by its authors.",
        split="The patient stands in the name, as described by its authors: give it in the table.",
        source="Akbarnejad et al. 2023, H&E and four stains",
    ),
)


def recognise(folder: str, files: Sequence[str]) -> PublicSet | None:
    """PublicSet that images and slides below a folder lie and are called like; None for no such.

    folder: its name.  files: paths below it, with forward slashes.

    Example: recognise("BCI", ["IHC/train/00000_train_2+.png"]).name is "BCI"
    """
    paths = [f"/{folder}/{file}" for file in files]
    for public_set in SETS:
        pattern = re.compile(public_set.pattern, re.IGNORECASE)
        matching = sum(1 for path in paths if pattern.search(path))
        enough = matching and matching >= LEAST_FRACTION * len(paths)
        if enough and all(_occurs(need, paths) for need in public_set.needs):
            return public_set
    return None


def facts_of_name(public_set: PublicSet | None, file: str) -> dict[str, str]:
    """dict slide, patient -> what the set's pattern reads from a path; empty where it reads none.

    Where a set names one of the two, it stands for both: what must not be cut is the same.
    """
    if not public_set:
        return {}
    match = re.search(public_set.pattern, f"/{file}", re.IGNORECASE)
    if not match:
        return {}
    code = "".join(text or "" for text in match.groupdict().values())
    if not code:
        return {}
    return {"slide": code, "patient": code}


def sentence_of(public_set: PublicSet) -> str:
    """str for `her2 check` and page one: what it looks like and what its labels are worth."""
    return (
        f"Looks like {public_set.name} ({public_set.source}). {public_set.labels} "
        f"{public_set.split}"
    )


def _occurs(pattern, paths):
    return any(re.search(pattern, path, re.IGNORECASE) for path in paths)
