"""GeoJSON as QuPath reads and writes it: fields and scores out, annotated regions in.

Coordinates are px of full resolution from the corner of what was scanned, as QuPath shows a slide.
"""

import json
import math
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.files import DataError, write_text
from her2lib.intake.layout_sentences import count_text

# What QuPath shows of a field, as a measurement by its own name.
FIELD_MEASURES = ("tissue", "dab", "sharpness")
SCORE_MEASURES = ("p0", "p1", "p2", "p3", "expected", "distance", "confidence")
# The class of a field that was cut; every other field has its reason for a class.
CUT_CLASS = "tile"
CUT_COLOUR = (17, 136, 51)
SKIPPED_COLOUR = (136, 136, 136)
# A field is sampled in as many rows and columns of points when a fraction of it is asked for:
# against exact areas of 500 random triangles the error is 0.003 (median) and at most 0.03.
SAMPLES = 16
# Regions drawn to the edge may pass it by this fraction of the slide's side.
EDGE = 0.01
# A slide's export of 100,000 cells has 60 MB; beyond this it is no drawing of regions.
MAX_BYTES = 2**28


@dataclass(frozen=True)
class Region:
    """One area: polygons, each a list of rings (V,2), the first its outline, the others holes."""

    polygons: list[list[np.ndarray]]
    region_class: str = ""


@dataclass(frozen=True)
class Regions:
    """The areas of one file, and how many of its objects are none."""

    file: Path
    regions: list[Region]
    left_aside: Mapping[str, int]  # type of geometry -> count
    n_others: int = 0  # regions of classes that were not asked for

    def sentences(self) -> list[str]:
        """list of str, what was read of the file and what was left aside."""
        count = count_text(len(self.regions), "region")
        lines = [f"{self.file.name}: {count}{_class_list(self.regions)}."]
        if self.n_others:
            others = count_text(self.n_others, "region")
            lines.append(f"{self.file.name}: {others} of other classes left aside.")
        if self.left_aside:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.left_aside.items())
            lines.append(f"{self.file.name}: {counts} left aside, enclosing nothing.")
        return lines


# --- out ------------------------------------------------------------------------------------------


def write_fields(
    file: Path | str,
    fields: pd.DataFrame,
    *,
    slide: str,
    step: int,
    origin: tuple[int, int] = (0, 0),
) -> Path:
    """Path of a FeatureCollection of a slide's fields: a square each, its class the reason.

    fields: x, y, reason, and tissue, dab, sharpness as measurements.
    step: side of a field in px of level 0.  origin: the corner of what was scanned.

    Example: write_fields("S0/fields.geojson", fields, slide="S0", step=1024)
    """
    features = []
    for row in fields.to_dict("records"):
        region_class = row["reason"] or CUT_CLASS
        colour = SKIPPED_COLOUR
        if not row["reason"]:
            colour = CUT_COLOUR
        square = _square(row, step, origin)
        name = _field_name(slide, row)
        measures = _measurements(row, FIELD_MEASURES)
        features.append(_feature([[square]], name, region_class, colour, measures))
    return _write_collection(file, features)


def write_scores(
    file: Path | str,
    table: pd.DataFrame,
    *,
    step: int,
    origin: tuple[int, int] = (0, 0),
) -> Path:
    """Path of a FeatureCollection of a slide's scored fields: a square each, its class the score.

    table: slide, x, y, score ("2+"), and p0 … p3, expected … as measurements, of one slide.
    step: side of a field in px of level 0.  origin: the corner of what was scanned.

    Example: write_scores("S0_scores.geojson", table[table.slide == "S0"], step=1024)
    """
    features = []
    for row in table.to_dict("records"):
        colour = _rgb(scores.COLOURS[scores.parse_score(row["score"])])
        square = _square(row, step, origin)
        name = _field_name(row["slide"], row)
        measures = _measurements(row, SCORE_MEASURES)
        features.append(_feature([[square]], name, f"HER2 {row['score']}", colour, measures))
    return _write_collection(file, features)


def write_regions(file: Path | str, regions: Sequence[Region]) -> Path:
    """Path of a FeatureCollection of regions, holes and all, as annotations."""
    features = []
    for number, region in enumerate(regions):
        name = f"region {number + 1}"
        features.append(
            _feature(region.polygons, name, region.region_class, CUT_COLOUR, {}, "annotation")
        )
    return _write_collection(file, features)


# --- in -------------------------------------------------------------------------------------------


def read_regions(file: Path | str, *, classes: Sequence[str] = ()) -> Regions:
    """Regions of a GeoJSON file: polygons and multipolygons, with their holes.

    Takes a FeatureCollection, a list of features, one feature or a bare geometry.
    classes: take regions of these classes alone; without it a file of several is refused.
    Raises DataError where it is no GeoJSON, holds no area, or several classes and none is chosen.

    Example: read_regions("S0.geojson", classes=["Tumor"]).regions
    """
    file = Path(file)
    regions = []
    left_aside: Counter = Counter()
    for number, feature in enumerate(_features(file), 1):
        where = f"object {number} of {file.name}"
        geometry, region_class = _parts_of(feature, where)
        polygons = _polygons(geometry, where)
        if polygons is None:
            left_aside[str(geometry.get("type"))] += 1
        else:
            regions.append(Region(polygons, region_class))
    if not regions:
        others = ", ".join(f"{count} {kind}" for kind, count in left_aside.items()) or "nothing"
        raise DataError(
            f"{file} holds no region ({others}): draw areas and export them as GeoJSON."
        )
    chosen = _of_classes(regions, classes, file)
    return Regions(file, chosen, dict(left_aside), n_others=len(regions) - len(chosen))


def check_inside(regions: Regions, *, slide: str, width: int, height: int) -> None:
    """Raises DataError where a region does not lie on a slide of width x height px."""
    for number, region in enumerate(regions.regions, 1):
        for rings in region.polygons:
            low, high = rings[0].min(0), rings[0].max(0)
            margin = EDGE * np.array([width, height])
            if (low < -margin).any() or (high > np.array([width, height]) + margin).any():
                raise DataError(
                    f"Region {number} of {regions.file.name} reaches from ({low[0]:.0f}, "
                    f"{low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}), outside {slide} ({width} x "
                    f"{height} px): give the regions of this slide, in px of full resolution."
                )


def covered_fraction(
    regions: Sequence[Region],
    *,
    left: float,
    top: float,
    step: float,
    columns: int,
    rows: int,
    samples: int = SAMPLES,
) -> np.ndarray:
    """(rows,columns) float, fraction of each field of a grid that lies in a region.

    The fraction of samples x samples points of a field; samples=1 asks for its centre alone.

    Example: covered_fraction(regions, left=0, top=0, step=1024, columns=9, rows=7, samples=1)
    """
    polygons: list[np.ndarray] = []
    for region in regions:
        polygons += [_edges(rings) for rings in region.polygons]
    x = left + (np.arange(columns * samples) + 0.5) * step / samples
    counts = np.zeros((rows, columns), int)
    for line in range(rows * samples):
        y = top + (line + 0.5) * step / samples
        inside = np.zeros(len(x), bool)
        for edges in polygons:
            inside |= _inside_on_line(edges, x, y)
        counts[line // samples] += inside.reshape(columns, samples).sum(1)
    return counts / samples**2


# --- features -------------------------------------------------------------------------------------


def _square(row, step, origin):
    """(5,2) int, the closed outline of a field."""
    x, y = int(row["x"]) - origin[0], int(row["y"]) - origin[1]
    return np.array([[x, y], [x + step, y], [x + step, y + step], [x, y + step], [x, y]])


def _feature(polygons, name, region_class, colour, measures, object_type="tile"):
    """dict, a GeoJSON feature with the properties that QuPath knows."""
    coordinates = [[ring.tolist() for ring in rings] for rings in polygons]
    geometry = {"type": "MultiPolygon", "coordinates": coordinates}
    if len(coordinates) == 1:
        geometry = {"type": "Polygon", "coordinates": coordinates[0]}
    properties: dict[str, Any] = {"objectType": object_type, "name": name}
    if region_class:
        properties["classification"] = {"name": region_class, "color": list(colour)}
    if measures:
        properties["measurements"] = measures
    # QuPath wants a UUID; made from the name, the same field has the same one in every file
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"her2lib/{object_type}/{name}")),
        "geometry": geometry,
        "properties": properties,
    }


def _measurements(row, names):
    """dict name -> float of those measures of a row that are known."""
    measures = {}
    for name in names:
        value = row.get(name)
        if isinstance(value, (int, float, np.number)) and math.isfinite(value):
            measures[name] = round(float(value), 5)
    return measures


def _field_name(slide, row):
    return f"{slide} x{int(row['x'])} y{int(row['y'])}"


def _rgb(colour):
    """tuple of three int of a colour such as "#4477aa"."""
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def _write_collection(file, features):
    collection = {"type": "FeatureCollection", "features": features}
    return write_text(file, json.dumps(collection, ensure_ascii=False, allow_nan=False) + "\n")


# --- reading what others drew ---------------------------------------------------------------------


def _features(file):
    """list of the features of a file, whichever of the four forms it has."""
    whole = _read_json(file)
    if isinstance(whole, dict) and whole.get("type") == "FeatureCollection":
        whole = whole.get("features")
    if isinstance(whole, dict):
        whole = [whole]
    if not isinstance(whole, list):
        raise DataError(
            f"{file} holds no GeoJSON features: export the annotations as a FeatureCollection."
        )
    return whole


def _read_json(file):
    """What a JSON file holds; a DataError where it is none."""
    if file.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{file} has over {MAX_BYTES >> 20} MB: export the drawn regions alone, without cells."
        )
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file} is no JSON, or cut short: export the annotations as GeoJSON again."
        ) from error


def _parts_of(feature, where):
    """(geometry, class) of a feature or bare geometry."""
    if not isinstance(feature, dict):
        raise DataError(f"{_sentence_start(where)} is no GeoJSON feature: export the file again.")
    if feature.get("type") != "Feature":
        return feature, ""
    geometry = feature.get("geometry")
    if not isinstance(geometry, dict):
        raise DataError(f"{_sentence_start(where)} has no geometry: draw it again.")
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return geometry, ""
    classification = properties.get("classification")
    if not isinstance(classification, dict):
        return geometry, ""
    # QuPath writes a name, or names where a class has parts
    name = classification.get("name") or ": ".join(map(str, classification.get("names") or []))
    return geometry, str(name)


def _polygons(geometry, where):
    """list of polygons (lists of rings (V,2)) of a geometry; None where it encloses nothing."""
    coordinates = geometry.get("coordinates")
    kind = geometry.get("type")
    if kind == "Polygon":
        coordinates = [coordinates]
    elif kind != "MultiPolygon":
        return None
    if not isinstance(coordinates, list) or not coordinates:
        raise _wrong_ring(where)
    return [_rings(rings, where) for rings in coordinates]


def _rings(rings, where):
    """list of (V,2) float of one polygon, each closed."""
    if not isinstance(rings, list) or not rings:
        raise _wrong_ring(where)
    arrays = []
    for ring in rings:
        try:
            points = np.array([point[:2] for point in ring], float)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise _wrong_ring(where) from error
        if points.ndim != 2 or points.shape[1:] != (2,) or not np.isfinite(points).all():
            raise _wrong_ring(where)
        if (points[0] != points[-1]).any():
            points = np.concatenate([points, points[:1]])
        arrays.append(points)
    if len(arrays[0]) < 4 or _area(arrays[0]) == 0:
        raise DataError(f"{_sentence_start(where)} has no area: draw it again.")
    return arrays


def _wrong_ring(where):
    return DataError(
        f"The coordinates of {where} are no list of points (x, y): export the file again."
    )


def _area(ring):
    """float, area of a closed ring (V,2) in px²."""
    x, y = ring.T
    return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2


def _of_classes(regions, classes, file):
    """list of the regions of the classes asked for; a DataError where that is open or none is."""
    present = Counter(region.region_class for region in regions)
    if not classes:
        if len(present) > 1:
            raise DataError(
                f"{file} holds regions of several classes{_class_list(regions)}: name those to cut "
                "in with --region-class."
            )
        return regions
    wanted = {name.casefold() for name in classes}
    chosen = [region for region in regions if region.region_class.casefold() in wanted]
    if not chosen:
        raise DataError(
            f"{file} holds no region of class {', '.join(classes)}{_class_list(regions)}: name one "
            "of its classes with --region-class."
        )
    return chosen


def _class_list(regions):
    """str, " (3 Tumor, 1 without a class)" of regions."""
    counts = Counter(region.region_class or "without a class" for region in regions)
    return f" ({', '.join(f'{count} {name}' for name, count in counts.items())})"


def _sentence_start(text):
    return text[:1].upper() + text[1:]


# --- points in polygons ---------------------------------------------------------------------------


def _edges(rings):
    """(E,4) float, the edges (x1, y1, x2, y2) of all rings of a polygon."""
    return np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])


def _inside_on_line(edges, x, y):
    """(N,) bool, which points (x, y) of one line lie within edges: an odd number to their left.

    A hole's ring makes the number even, so nothing has to be known of outlines and holes.
    """
    x1, y1, x2, y2 = edges[(edges[:, 1] <= y) != (edges[:, 3] <= y)].T
    crossings = np.sort(x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return np.searchsorted(crossings, x, side="right") % 2 == 1
