"""Which level of folders holds the score, the slide, the patient; two readings are refused."""

import unicodedata

import pytest

from her2lib.files import DataError
from her2lib.intake import folder_roles
from her2lib.intake.choices import FIND_OUT, Choices

SCORES = ("0", "1+", "2+", "3+")


def scores_of(files, choices=FIND_OUT):
    """list of str, what is read as the score of every file; None where no level holds one."""
    tree = folder_roles.read_tree(files)
    level = folder_roles.score_level(tree, choices, "here")
    if level is None:
        return None
    return folder_roles.level_texts(tree, level)


def origins_of(files, choices=FIND_OUT):
    """(slides, patients) of every file."""
    tree = folder_roles.read_tree(files)
    level = folder_roles.score_level(tree, choices, "here")
    slides, patients, _ = folder_roles.slides_and_patients(tree, level, choices)
    return slides, patients


@pytest.mark.parametrize(
    ("stem", "score"),
    [
        ("00012_train_2+", "2+"),
        ("00012_train_0", "0"),
        ("her2-2+-score_train_9", "2+"),
        ("her2-0-score_train_4", "0"),
        ("a_3plus", "3+"),
        ("class_1 b", "1"),
        ("patch score=2", "2"),
        ("12+", ""),
        ("a_2+_or_3+", ""),
        ("67M2100642_15_18", ""),
        ("slide_2_tile_3", ""),
        ("score_2.5", ""),
        ("underscore1", ""),
        ("picture", ""),
    ],
)
def test_a_score_in_a_name_is_told_from_numbers_that_are_none(stem, score):
    assert folder_roles.score_of_name(stem) == score


@pytest.mark.parametrize(
    ("stem", "subset"),
    [("00012_train_2+", "train"), ("a-TEST-1", "test"), ("train_test", ""), ("attest_1", "")],
)
def test_a_set_in_a_name_is_a_word_of_its_own(stem, subset):
    assert folder_roles.set_of_name(stem) == subset


def test_a_level_with_a_number_that_is_no_score_holds_patients():
    files = [f"{patient}/{score}/x.png" for patient in (1, 2, 3, 10) for score in SCORES]
    assert scores_of(files) == list(SCORES) * 4
    slides, patients = origins_of(files)
    assert set(patients) == {"1", "2", "3", "10"}
    assert set(slides) == {""}


def test_a_plus_sign_tells_scores_from_bare_numbers_above_and_below():
    above = [f"{score}/{slide}/x.png" for score in SCORES for slide in (1, 2, 3)]
    assert scores_of(above) == [score for score in SCORES for _ in range(3)]
    slides, patients = origins_of(above)
    assert set(slides) == {"1", "2", "3"}
    assert set(patients) == {""}


def test_two_levels_of_bare_numbers_are_refused_with_both_readings():
    files = [f"{a}/{b}/x.png" for a in (1, 2, 3) for b in (0, 1, 2, 3)]
    with pytest.raises(DataError) as error:
        scores_of(files)
    for part in ("1/0/x.png", "'0' by the folder folder1", "--score-from folder1", "folder2"):
        assert part in str(error.value)


def test_bare_numbers_without_a_zero_may_be_patients_and_are_refused():
    with pytest.raises(DataError, match="--score-from none with --patient-from folder1"):
        scores_of(["1/a.png", "2/b.png", "3/c.png"])
    assert scores_of(["0/a.png", "3/b.png"]) == ["0", "3"]


def test_two_levels_that_agree_are_one_score_and_no_slide():
    files = ["class_2+/2/a.png", "class_1+/1/b.png"]
    assert scores_of(files) == ["class_2+", "class_1+"]
    assert origins_of(files) == (["", ""], ["", ""])
    with pytest.raises(DataError, match="two ways"):
        scores_of(["class_2+/score_1/a.png", "class_1+/score_1/b.png"])


def test_files_of_unequal_depth_line_up_from_the_top_or_from_the_file():
    assert scores_of(["2+/a.png", "2+/s7/b.png", "0/c.png"]) == ["2+", "2+", "0"]
    assert scores_of(["A/2+/a.png", "B/batch/2+/b.png", "B/x/0/c.png"]) == ["2+", "2+", "0"]


def test_a_word_beside_scores_stays_and_is_no_reason_to_drop_the_level():
    assert scores_of(["0/a.png", "1+/b.png", "Negative/c.png"]) == ["0", "1+", "Negative"]
    assert scores_of(["slide1/a.png", "slide2/b.png"]) is None


def test_of_two_folders_above_the_score_the_outer_is_the_patient():
    files = ["A/1/2+/x.png", "A/2/0/x.png", "B/1/3+/x.png"]
    slides, patients = origins_of(files)
    assert patients == ["A", "A", "B"]
    # slide 1 of A is not slide 1 of B
    assert slides == ["A/1", "2", "B/1"]


def test_the_patient_is_taken_where_the_user_says():
    files = ["A/1/2+/x_1.png", "A/2/0/y_1.png", "B/3/3+/z_1.png"]
    assert origins_of(files, Choices(patient_from="folder2"))[1] == ["1", "2", "3"]
    assert origins_of(files, Choices(patient_from="name"))[1] == ["x", "y", "z"]
    slides, patients = origins_of(files, Choices(patient_from="none"))
    assert patients == [""] * 3
    assert slides == ["A/1", "A/2", "B/3"]


def test_a_folder_that_all_share_is_nobodys_name():
    assert origins_of(["any/2+/patches/a.png", "any/0/patches/b.png"]) == (["", ""], ["", ""])


def test_stains_are_told_by_folders_and_by_the_sides_of_paired_sets():
    tree = folder_roles.read_tree(["IHC/a.png", "H&E/a.png", "Ki67/a.png", "x/a.png"])
    assert list(tree["stain"]) == ["her2", "he", "other", ""]
    paired = folder_roles.read_tree(["trainA/a.png", "trainB/a.png"])
    assert list(paired["stain"]) == ["he", "her2"]
    assert list(paired["set"]) == ["train", "train"]
    alone = folder_roles.read_tree(["valA/a.png"])
    assert (alone["stain"][0], alone["set"][0]) == ("", "val")


def test_a_path_in_two_sets_is_in_none():
    tree = folder_roles.read_tree(["train/test/a.png"])
    assert tree["set"][0] == "train and test"


CLASSES = [f"{name}/{i}.png" for name in "1234" for i in range(2)]
COUNTED_FROM_ONE = {"1": "0", "2": "1+", "3": "2+", "4": "3+"}


def test_numbers_that_the_user_declares_are_scores():
    tree = folder_roles.read_tree(CLASSES)
    choices = Choices(score_words=COUNTED_FROM_ONE)
    level = folder_roles.score_level(tree, choices, "here")
    assert level.is_marked
    assert level.has_zero
    assert scores_of(CLASSES) is None


def test_folds_are_neither_sets_nor_patients_and_said():
    files = [f"fold{fold}/{score}/{fold}.png" for fold in range(5) for score in SCORES]
    assert set(origins_of(files)[1]) == {""}
    assert folder_roles.fold_sentences(folder_roles.read_tree(files))[0].startswith(
        "The folders fold0, fold1"
    )
    assert folder_roles.fold_sentences(folder_roles.read_tree(["2+/a.png"])) == []
    files = [f"CV-1/P{i}/{SCORES[i]}/a.png" for i in range(4)]
    assert origins_of(files)[1] == ["P0", "P1", "P2", "P3"]


def test_a_patient_written_in_two_unicode_forms_is_one():
    names = [unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")]
    files = [f"{name}/{score}/a.png" for name in [*names, "B"] for score in SCORES]
    assert len(set(origins_of(files)[1])) == 2


def test_a_folder_that_is_stated_and_not_there_is_refused():
    files = [f"{score}/a.png" for score in SCORES]
    tree = folder_roles.read_tree(files)
    with pytest.raises(DataError, match="--score-from folder2: no image lies in so many folders"):
        folder_roles.stated_level(tree, "folder2", {})
    with pytest.raises(DataError, match="--patient-from folder3: no image"):
        origins_of(files, Choices(patient_from="folder3"))
