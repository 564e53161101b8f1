"""GeoJSON: what QuPath draws is read as drawn, what the kit writes comes back, the rest not."""

import json

import numpy as np
import pandas as pd
import pytest

from her2lib.files import DataError
from her2lib.slides import annotations

OUTLINE = [[0, 0], [40, 0], [40, 40], [0, 40], [0, 0]]
HOLE = [[10, 10], [30, 10], [30, 30], [10, 30], [10, 10]]


def feature(geometry, region_class=""):
    """A feature as QuPath exports it."""
    properties = {"objectType": "annotation"}
    if region_class:
        properties["classification"] = {"name": region_class, "color": [200, 0, 0]}
    return {"type": "Feature", "id": "0", "geometry": geometry, "properties": properties}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def write(tmp_path, whole):
    file = tmp_path / "S0.geojson"
    file.write_text(whole if isinstance(whole, str) else json.dumps(whole))
    return file


def regions_of(tmp_path, whole, **options):
    return annotations.read_regions(write(tmp_path, whole), **options).regions


@pytest.mark.parametrize(
    "whole",
    [
        {"type": "FeatureCollection", "features": [feature(polygon(OUTLINE, HOLE))]},
        [feature(polygon(OUTLINE, HOLE))],
        feature(polygon(OUTLINE, HOLE)),
        polygon(OUTLINE, HOLE),
        {"type": "MultiPolygon", "coordinates": [[OUTLINE, HOLE]]},
    ],
)
def test_every_form_of_the_same_area_is_read_alike(tmp_path, whole):
    (region,) = regions_of(tmp_path, whole)
    ((outline, hole),) = region.polygons
    assert outline.tolist() == OUTLINE
    assert hole.tolist() == HOLE


def test_a_hand_worked_case_of_centres_and_fractions(tmp_path):
    # Fields of 10 px in a square of 40 px with a hole of 20 px in its middle, of a slide of 60 px:
    # 4 x 4 fields lie in the square, of which the middle 2 x 2 lie in its hole.
    (region,) = regions_of(tmp_path, polygon(OUTLINE, HOLE))
    grid = {"left": 0, "top": 0, "step": 10, "columns": 6, "rows": 6}
    expected = np.zeros((6, 6))
    expected[:4, :4] = 1
    expected[1:3, 1:3] = 0
    by_centre = annotations.covered_fraction([region], **grid, samples=1)
    assert by_centre.tolist() == expected.tolist()
    assert annotations.covered_fraction([region], **grid).tolist() == expected.tolist()
    # Moved by a quarter of a field, the first field lies in it by (3/4)², its neighbour by 3/4.
    moved = annotations.covered_fraction([region], **(grid | {"left": -2.5, "top": -2.5}))
    assert moved[0, 0] == 9 / 16
    assert moved[0, 1] == 3 / 4


def test_fractions_of_triangles_are_those_of_exact_areas():
    rng = np.random.default_rng(0)
    grid = {"left": 0, "top": 0, "step": 100, "columns": 1, "rows": 1}
    errors = []
    for _ in range(200):
        corners = rng.uniform(0, 100, (3, 2))
        (ax, ay), (bx, by), (cx, cy) = corners
        area = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2
        ring = np.concatenate([corners, corners[:1]])
        region = annotations.Region([[ring]])
        covered = annotations.covered_fraction([region], **grid)[0, 0]
        errors.append(abs(covered - area / 100**2))
    assert max(errors) <= 0.03


def test_regions_that_overlap_count_once(tmp_path):
    square = annotations.Region([[np.array(OUTLINE, float)]])
    grid = {"left": 0, "top": 0, "step": 40, "columns": 1, "rows": 1}
    assert annotations.covered_fraction([square, square], **grid)[0, 0] == 1


def test_regions_written_are_the_regions_read(tmp_path):
    two_parts = annotations.Region(
        [[np.array(OUTLINE, float), np.array(HOLE, float)], [np.array(OUTLINE, float) + 100.25]],
        "Tumor",
    )
    one_part = annotations.Region([[np.array(HOLE, float)]], "Tumor")
    file = annotations.write_regions(tmp_path / "out.geojson", [two_parts, one_part])
    again = annotations.read_regions(file).regions
    assert [region.region_class for region in again] == ["Tumor", "Tumor"]
    for before, after in zip([two_parts, one_part], again, strict=True):
        for rings, rings_again in zip(before.polygons, after.polygons, strict=True):
            for ring, ring_again in zip(rings, rings_again, strict=True):
                assert ring.tolist() == ring_again.tolist()


def test_fields_are_squares_with_their_reason_and_measures(tmp_path):
    fields = pd.DataFrame(
        {
            "x": [0, 110],
            "y": [0, 20],
            "reason": ["", "blank"],
            "tissue": [0.5, 0.01],
            "dab": [0.25, np.nan],
            "sharpness": [0.6, np.nan],
        }
    )
    file = annotations.write_fields(
        tmp_path / "f.geojson", fields, slide="S0", step=100, origin=(0, 20)
    )
    whole = json.loads(file.read_text())
    assert whole["type"] == "FeatureCollection"
    cut, blank = whole["features"]
    assert cut["geometry"]["coordinates"] == [[[0, -20], [100, -20], [100, 80], [0, 80], [0, -20]]]
    assert cut["properties"]["objectType"] == "tile"
    assert cut["properties"]["classification"]["name"] == "tile"
    assert cut["properties"]["measurements"] == {"tissue": 0.5, "dab": 0.25, "sharpness": 0.6}
    assert blank["properties"]["classification"]["name"] == "blank"
    assert blank["properties"]["measurements"] == {"tissue": 0.01}
    # The same fields have the same names in the next file, so QuPath replaces them.
    assert len({one["id"] for one in whole["features"]}) == 2
    again = annotations.read_regions(file, classes=["tile"]).regions
    assert again[0].polygons[0][0].tolist() == cut["geometry"]["coordinates"][0]


def test_scores_carry_class_colour_and_probabilities(tmp_path):
    table = pd.DataFrame(
        {"slide": "S0", "x": [0], "y": [0], "score": ["3+"], "p0": [0.1], "p3": [0.7]}
    ).assign(expected=[2.1], unlike="yes")
    file = annotations.write_scores(tmp_path / "s.geojson", table, step=512)
    properties = json.loads(file.read_text())["features"][0]["properties"]
    assert properties["classification"] == {"name": "HER2 3+", "color": [170, 51, 119]}
    assert properties["measurements"] == {"p0": 0.1, "p3": 0.7, "expected": 2.1}


def test_what_encloses_nothing_is_counted_and_named(tmp_path):
    point = {"type": "Point", "coordinates": [1, 2]}
    line = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}
    whole = [feature(polygon(OUTLINE)), feature(point), feature(point), feature(line)]
    sentences = annotations.read_regions(write(tmp_path, whole)).sentences()
    assert sentences == [
        "S0.geojson: 1 region (1 without a class).",
        "S0.geojson: 2 Point, 1 LineString left aside, enclosing nothing.",
    ]


def test_regions_of_several_classes_ask_which(tmp_path):
    whole = [feature(polygon(OUTLINE), "Tumor"), feature(polygon(HOLE), "Ignore*")]
    with pytest.raises(DataError, match=r"1 Tumor, 1 Ignore\*.*--region-class"):
        regions_of(tmp_path, whole)
    (region,) = regions_of(tmp_path, whole, classes=["tumor"])
    assert region.polygons[0][0].tolist() == OUTLINE
    with pytest.raises(DataError, match="no region of class Stroma"):
        regions_of(tmp_path, whole, classes=["Stroma"])


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ("no json", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("", "is no JSON"),
        ("7", "holds no GeoJSON features"),
        ({"type": "FeatureCollection"}, "holds no GeoJSON features"),
        ({"type": "FeatureCollection", "features": []}, r"holds no region \(nothing\)"),
        ([3], "Object 1 of S0.geojson is no GeoJSON feature"),
        (feature(None), "Object 1 of S0.geojson has no geometry"),
        (feature({"type": "Point", "coordinates": [1, 1]}), r"holds no region \(1 Point\)"),
        (polygon("abc"), "no list of points"),
        (polygon([[0, 0], [1, "x"], [1, 1], [0, 0]]), "no list of points"),
        (polygon([{"x": 1}]), "no list of points"),
        ('{"type": "Polygon", "coordinates": [[[0, NaN], [1, 0], [1, 1]]]}', "no list of points"),
        ('{"type": "Polygon", "coordinates": [[[0, 1e999], [1, 0], [1, 1]]]}', "no list of points"),
        (f'{{"type": "Polygon", "coordinates": [[[{10**400}, 0], [1, 0], [1, 1]]]}}', "no list"),
        ({"type": "Polygon"}, "no list of points"),
        ({"type": "MultiPolygon", "coordinates": []}, "no list of points"),
        (polygon([[0, 0], [5, 5], [9, 9], [0, 0]]), "has no area"),
        (polygon([[0, 0], [5, 5]]), "has no area"),
    ],
)
def test_what_is_no_drawing_of_regions_is_refused_in_a_sentence(tmp_path, whole, says):
    with pytest.raises(DataError, match=says):
        regions_of(tmp_path, whole)


def test_regions_of_another_slide_are_refused(tmp_path):
    drawn = annotations.read_regions(write(tmp_path, polygon([[0, 0], [500, 0], [500, 400]])))
    annotations.check_inside(drawn, slide="S0", width=498, height=400)
    with pytest.raises(DataError, match=r"reaches from \(0, 0\) to \(500, 400\), outside S0"):
        annotations.check_inside(drawn, slide="S0", width=400, height=400)
