"""Public HER2 sets as downloaded: small imitations of their trees, named and read or refused."""

import pytest
from examples import bci, pictures
from PIL import Image

from her2lib.data.patches import read_source
from her2lib.files import DataError
from her2lib.intake import public_sets
from her2lib.intake.choices import Choices
from her2lib.phantoms import dataset

SCORES = ("0", "1+", "2+", "3+")


def jpegs(root, *files):
    """A folder with a JPEG at each of these paths, no two alike."""
    for file in files:
        png = pictures(root, f"{file}.png") / f"{file}.png"
        Image.open(png).save(root / file, quality=95)
        png.unlink()
        # told apart by what follows the picture's end
        with (root / file).open("ab") as stream:
            stream.write(file.encode()[-20:])
    return root


def her2_ihc_40x(root, *, crossed=True):
    """A tree as of HER2-IHC-40x: 16 patches, the sets in half of the names cross the folders."""
    files = []
    for i in range(16):
        score = SCORES[i % 4]
        folder = ("train", "test")[i // 4 % 2]
        subset = folder
        if crossed and i >= 8:
            subset = ("test", "train")[i // 4 % 2]
        files.append(f"{folder}/class_{score}/her2-{score}-score_{subset}_{i:02d}.png")
    return pictures(root, *files)


def test_case_33_her2_ihc_40x_is_read_and_its_crossing_is_said(tmp_path):
    source = read_source(her2_ihc_40x(tmp_path / "HER2-IHC-40x"))
    assert source.layout.looks_like == "HER2-IHC-40x"
    assert source.table.score.value_counts().to_dict() == {0: 4, 1: 4, 2: 4, 3: 4}
    assert source.table.set.value_counts().to_dict() == {"train": 8, "test": 8}
    assert (source.problems.kind == "set name").sum() == len(source.problems) == 8
    text = " ".join(source.sentences)
    assert "8 of 16 names say another set than their folder" in text
    assert "no split" in text
    assert "--set-from name" in text


def test_case_33_the_sets_of_the_names_are_taken_where_the_user_says(tmp_path):
    root = her2_ihc_40x(tmp_path)
    source = read_source(root, choices=Choices(set_from="name"))
    of_names = [name.split("_")[1] for name in source.table.name]
    assert list(source.table.set) == of_names
    assert source.problems.empty
    without = read_source(root, choices=Choices(set_from="none"))
    assert set(without.table.set) == {""}


def test_the_variant_divided_by_patches_is_another_set(tmp_path):
    source = read_source(her2_ihc_40x(tmp_path / "HER2-IHC-40x-WSI", crossed=False))
    assert source.layout.looks_like == "HER2-IHC-40x-WSI"
    assert "divided by patches" in " ".join(source.sentences)


def test_case_34_her2match_is_pairs_without_scores(tmp_path):
    files = []
    for stain in ("IHC", "HE"):
        files += [
            f"{stain}/{subset}/{i}.jpg" for subset in ("train", "val", "test") for i in (1, 2)
        ]
    source = read_source(jpegs(tmp_path / "HER2match", *files))
    assert (source.layout.name, source.layout.looks_like) == ("pairs", "HER2match")
    assert (source.table.score == -1).all()
    assert (source.table.he != "").all()
    assert source.table.set.value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}
    assert list(source.problems.kind) == ["unscored set"]
    assert "12 files lie there: 6 read, 6 H&E partners" in source.sentences[-1]


def test_case_35_mist_is_pairs_without_scores_and_patients_come_from_the_names(tmp_path):
    files = []
    for subset in ("trainA", "trainB", "valA", "valB"):
        for code in ("67M2100642", "2M2101230"):
            files.append(f"HER2/TrainValAB/{subset}/{code}_15_{len(subset)}.jpg")
    source = read_source(jpegs(tmp_path / "MIST", *files))
    assert (source.layout.name, source.layout.looks_like) == ("pairs", "MIST")
    assert len(source.table) == 4
    assert all("trainB" in path or "valB" in path for path in source.table.path)
    assert all("trainA" in path or "valA" in path for path in source.table.he)
    assert set(source.table.patient) == set(source.table.slide) == {"67M2100642", "2M2101230"}
    # train and val share patients, which is said for each
    assert {"cut", "unscored set"} == set(source.problems.kind)
    assert "share patients" in " ".join(source.sentences)


def test_other_markers_of_mist_are_left_aside(tmp_path):
    files = []
    for marker in ("HER2", "Ki67", "ER"):
        for side in ("trainA", "trainB"):
            files.append(f"{marker}/TrainValAB/{side}/67M2100642_15_18.jpg")
    source = read_source(jpegs(tmp_path, *files))
    assert len(source.table) == 1
    assert source.table.path[0].split("/")[-4] == "HER2"
    assert "6 files lie there: 1 read, 1 H&E partner, 0 refused, 4 left aside." in source.sentences


def test_bci_is_recognised_and_phantoms_of_its_shape_are_not_called_so(tmp_path):
    source = read_source(bci(tmp_path / "BCI"))
    assert source.layout.looks_like == "BCI"
    assert "scores are those of whole slides" in " ".join(source.sentences)
    phantoms = tmp_path / "phantoms"
    dataset.write_phantoms(
        phantoms, patches=4, slides=4, side_px=32, mpp=2, seed=0, workers=1, progress=False
    )
    assert read_source(phantoms, choices=Choices(any_field=True)).layout.looks_like == ""


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["0_HE_train.tif", "0_HER2_train.tif", "1_HER2_val.tif"], "ACROBAT"),
        (["06/06_HER2.ndpi", "06/06_HE.ndpi", "09/09_HER2.ndpi"], "the Warwick HER2 contest"),
    ],
)
def test_sets_of_whole_slides_are_named_with_the_verb_that_cuts_them(tmp_path, files, name):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(DataError, match=f"holds whole slides. Looks like {name}.*her2 tile"):
        read_source(tmp_path)


def test_ihc4bc_has_its_scores_in_a_table_beside_the_images(tmp_path):
    root = pictures(tmp_path / "IHC4BC", "HER2/a.png", "HER2/b.png")
    (root / "HER2.csv").write_text("image,label\nHER2/a.png,0\nHER2/b.png,3+\n")
    with pytest.raises(DataError, match=r"If HER2\.csv holds the scores.*Looks like IHC4BC"):
        read_source(root)
    assert list(read_source(root / "HER2.csv").table.score) == [0, 3]


def test_a_few_files_of_a_set_do_not_make_the_set():
    patch = "IHC/train/00000_train_2+.png"
    assert public_sets.recognise("x", [patch]).name == "BCI"
    assert public_sets.recognise("x", [patch, "a.png", "b.png"]) is None
    assert public_sets.recognise("x", []) is None


def test_every_set_says_what_its_labels_and_its_split_are_worth():
    names = [public_set.name for public_set in public_sets.SETS]
    assert len(set(names)) == len(names) == 8
    for public_set in public_sets.SETS:
        sentence = public_sets.sentence_of(public_set)
        assert sentence.startswith(f"Looks like {public_set.name} (")
        assert public_set.labels.endswith(".")
        assert public_set.split.endswith(".")
