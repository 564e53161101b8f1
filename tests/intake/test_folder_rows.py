"""From folders to rows: which layout, and what is written where."""

from pathlib import Path

import numpy as np
import pytest
from examples import pictures

from her2lib.files import DataError
from her2lib.intake import folder_roles, folder_rows
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.layouts import read_layout
from her2lib.intake.listing import Listing

NOTHING = Listing(Path("x"), [], [])


def layout_of(files, choices=FIND_OUT, partner_of=()):
    """str, the layout of paths without any file behind them."""
    tree = folder_roles.read_tree(files)
    partners = dict.fromkeys(partner_of, "HE")
    return folder_rows.name_layout(Path("x"), tree, partners, None, choices, NOTHING)[0]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["IHC/train/0_train_2+.png", "IHC/test/picture.png"], "bci"),
        (["IHC/0/a.png", "IHC/3+/b.png"], "folders"),
        (["0/a.png", "3+/b.png"], "folders"),
        (["a_2+.png", "b_0+.png", "c.png"], "names"),
    ],
)
def test_a_layout_is_found_by_its_evidence(files, name):
    assert layout_of(files) == name


def test_pairs_without_scores_are_pairs_only_below_ihc():
    file = "IHC/train/a.jpg"
    assert layout_of([file], partner_of=[file]) == "pairs"
    with pytest.raises(DataError, match="no patches with a score"):
        layout_of([file])


def test_one_name_of_many_that_may_hold_a_score_is_no_layout():
    files = ["a_2+.png", "b.png", "c.png"]
    with pytest.raises(DataError, match=r"1 names may hold a score \(a_2\+\.png\)"):
        layout_of(files)
    assert layout_of(files, Choices(score_from="name")) == "names"
    assert layout_of(files, Choices(layout="images")) == "images"


def test_scores_in_names_do_not_count_where_folders_are_asked_for():
    with pytest.raises(DataError, match="no patches with a score"):
        layout_of(["a_2+.png"], Choices(layout="folders"))


def test_sets_in_names_count_where_every_name_has_one():
    def sets_of(files, choices=FIND_OUT):
        tree = folder_roles.read_tree(files)
        rows, _ = folder_rows.rows_of(Path("x"), tree, {}, "names", None, None, choices)
        return list(rows["set"])

    assert sets_of(["a_train_2+.png", "b_test_0.png"]) == ["train", "test"]
    assert sets_of(["a_test_2+.png", "b_0+.png"]) == ["", ""]
    assert sets_of(["a_test_2+.png", "b_0+.png"], Choices(set_from="name")) == ["test", ""]


def test_names_that_cross_their_folders_are_told_unless_the_user_has_chosen():
    tree = folder_roles.read_tree(["train/a_test_2+.png", "train/b_train_2+.png"])
    crossed, problems = folder_rows.crossed_sets(tree, FIND_OUT)
    np.testing.assert_array_equal(crossed, [True, False])
    assert problems == [("set name", "train/a_test_2+.png", ("test", "train"))]
    assert not folder_rows.crossed_sets(tree, Choices(set_from="folder"))[0].any()


@pytest.mark.parametrize("set_from", ["name", "folder"])
def test_sets_that_are_stated_and_not_there_are_refused(tmp_path, set_from):
    pictures(tmp_path, "0/a.png", "1+/b.png")
    with pytest.raises(DataError, match=f"--set-from {set_from}: no .* train, val or test"):
        read_layout(tmp_path, Choices(set_from=set_from))
