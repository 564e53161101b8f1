"""A study made for a user's folder: what it may be called, what is written, what is never lost."""

import os
import tomllib

import pytest

from her2lib import files
from her2lib.intake.choices import Choices
from her2lib.study import config, making


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Path of a folder with reports still to be made; patches/ holds one file."""
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    patches(tmp_path / "patches")
    return tmp_path


def patches(folder):
    """Path of a new folder that holds one file."""
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    return folder


def everything_below(folder):
    """dict path -> bytes of every file below a folder; None for folders."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        contents[path] = None
        if path.is_file():
            contents[path] = path.read_bytes()
    return contents


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My study", "--name My-study"),
        ("../../evil", "--name evil"),
        ("/tmp/evil", "--name tmp-evil"),
        ("..", "no dot or dash"),
        (".hidden", "--name hidden"),
        ("-force", "--name force"),
        ("mine.toml", "--name mine"),
        ("😀", "--name patches"),
        ("a" * 81, "at most 80 letters, not 81"),
        ("ä" * 41, "at most 80 letters"),
        ("demo", "--name demo-patches"),
        ("Demo", "a file of the kit"),
        ("claims", "a file of the kit"),
        ("published", "a file of the kit"),
        ("data", "a file of the kit"),
    ],
)
def test_case_27_a_name_that_cannot_be_is_refused_and_nothing_is_made(project, name, says):
    before = everything_below(project)
    with pytest.raises(config.StudyError) as refusal:
        making.prepare_study(project / "patches", name=name)
    assert says in str(refusal.value)
    assert everything_below(project) == before


def test_case_26_every_study_of_the_kit_keeps_its_name_and_folder(project):
    for file in config.study_files():
        with pytest.raises(config.StudyError, match="a file of the kit"):
            making.make_study(project / "patches", name=file.stem)
    assert not (project / "reports").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("patches", "patches"),
        ("data", "data-patches"),
        ("Demo", "Demo-patches"),
        ("😀", "patches"),
        ("My patches 😀", "My-patches"),
        ("Müller", "Müller"),
        ("TCGA-A1.0B34", "TCGA-A1.0B34"),
        ("x.toml", "x"),
        ("b" * 200, "b" * 72),
    ],
)
def test_a_study_is_called_as_its_folder_as_far_as_that_goes(project, folder, name):
    made = making.prepare_study(patches(project / "there" / folder))
    assert made.study().name == name
    said = " ".join(made.sentences)
    assert (f"is called {name}" in said) == (name != folder)
    made.write()
    assert config.load_study(name).file == made.file


def test_case_40_a_study_of_a_folder_called_data_is_read_by_its_name(project):
    made = making.make_study(patches(project / "data"))
    assert made.stem == "data-patches"
    assert config.load_study("data-patches").cohort_path == project / "data"


# --- whose folder -------------------------------------------------------------------------------


def test_case_25_a_second_folder_of_one_name_is_refused_and_the_first_study_stays(project):
    first = making.make_study(patches(project / "A" / "mine"))
    second = patches(project / "B" / "mine")
    before = everything_below(project)
    with pytest.raises(config.StudyError, match="--name mine-2") as refusal:
        making.make_study(second)
    assert str(second) in str(refusal.value)
    assert str(project / "A" / "mine") in str(refusal.value)
    assert everything_below(project) == before
    other = making.make_study(second, name="mine-2")
    assert config.load_study(first).cohort_path != config.load_study(other).cohort_path


def test_a_folder_that_holds_something_else_is_no_folder_for_a_new_study(project):
    (project / "reports" / "pictures").mkdir(parents=True)
    (project / "reports" / "pictures" / "a.jpg").write_bytes(b"x")
    (project / "reports" / "note").write_text("text")
    with pytest.raises(config.StudyError, match=r"holds a\.jpg and no pictures\.toml"):
        making.prepare_study(project / "patches", name="pictures")
    with pytest.raises(config.StudyError, match="is a file"):
        making.prepare_study(project / "patches", name="note")


def test_a_file_elsewhere_that_is_called_like_a_study_of_the_kit_is_refused_its_folder(project):
    file = project / "demo.toml"
    file.write_text("[data]\nsource = 'phantom'\n")
    with pytest.raises(config.StudyError, match=r"both called demo.*rename one"):
        making.check_folder(config.load_study(file))
    making.check_folder(config.load_study("demo"))


def test_a_folder_with_results_of_another_file_of_the_same_name_is_refused(project):
    texts = {"a": "[axes]\nseed = 1\n", "b": "[axes]\nseed = 2\n"}
    for folder, text in texts.items():
        files.write_text(project / folder / "mine.toml", text)
    first = config.load_study(project / "a" / "mine.toml")
    receipt = {"parameters": {"study_name": str(first.file)}}
    files.write_json(first.folder_of("00_start_here") / "done.json", receipt)
    making.check_folder(first)
    second = config.load_study(project / "b" / "mine.toml")
    with pytest.raises(config.StudyError, match="both called mine"):
        making.check_folder(second)
    # A study that was moved with its text is the same study.
    second.file.write_text(texts["a"])
    making.check_folder(config.load_study(second.file))


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["😀", 'a "b"', "c\\d", "tab\tnew\nline", "ä\u0301", "\x7f"])
def test_case_28_a_path_of_any_letters_is_written_as_toml_reads_it(project, folder):
    data = patches(project / folder)
    file = making.make_study(data, name="mine")
    assert config.load_study(file).cohort_path == data


def test_case_28_a_path_of_latin_1_bytes_is_refused_in_a_sentence(project):
    folder = os.fsdecode(os.fsencode(project) + b"/caf\xe9")
    os.mkdir(folder)
    with pytest.raises(config.StudyError, match=r"no UTF-8.*rename"):
        making.make_study(folder)
    assert not (project / "reports").exists()


def test_the_form_is_filled_and_what_is_not_stated_stays(project):
    (project / 'odd "name"').mkdir()
    file = making.make_study(
        project / 'odd "name"', networks=["resnet18"], weights="none", epochs=3, skip_bad=True
    )
    loaded = config.load_study(file)
    assert loaded.cohort_path == project / 'odd "name"'
    assert loaded.data["skip_bad"] is True
    assert loaded.train["epochs"] == 3
    assert loaded.axes["weights"] == ["none"]
    assert config.load_study(loaded.name).file == file  # by name from now on
    with pytest.raises(config.StudyError, match="nothing at"):
        making.make_study(project / "absent")


def test_how_patches_are_to_be_read_stands_in_the_study_file(project):
    choices = Choices(
        layout="folders", allow=("/archive/ä",), score_words={"negative": "0", "2 +": "2+"}
    )
    made = making.prepare_study(project / "patches", choices=choices)
    tables = tomllib.loads(made.text)
    assert tables["data"]["layout"] == "folders"
    assert tables["data"]["allow"] == ["/archive/ä"]
    assert tables["scores"] == {"negative": "0", "2 +": "2+"}


def test_what_a_person_typed_into_a_study_file_outlives_the_command_given_again(project):
    file = making.make_study(project / "patches", epochs=3)
    typed = file.read_text().replace("seed = [0]", "seed = [0, 1]  # two, for the poster")
    typed = typed.replace('question = "On', 'question = "Whose? On')
    file.write_text(typed)
    again = making.prepare_study(project / "patches")
    assert again.text == typed
    assert "as it stands" in again.sentences[0]

    changed = making.prepare_study(project / "patches", epochs=7, networks=["vit_tiny"])
    assert file.read_text() == typed  # nothing is written yet
    changed.write()
    loaded = config.load_study(file)
    assert loaded.train["epochs"] == 7
    assert loaded.axes["network"] == ["vit_tiny"]
    assert loaded.axes["seed"] == [0, 1]
    assert loaded.question.startswith("Whose?")
    assert "# two, for the poster" in file.read_text()
    (old,) = file.parent.glob("patches.before-*.toml")
    assert old.read_text() == typed


def test_a_line_that_cannot_be_changed_alone_is_left_to_the_person(project):
    file = making.make_study(project / "patches")
    typed = file.read_text().replace('network = ["resnet18"]', 'network = [\n  "resnet18",\n]')
    file.write_text(typed)
    with pytest.raises(config.StudyError, match=r"set it to \[\"vit_tiny\"\] in that file"):
        making.make_study(project / "patches", networks=["vit_tiny"])
    assert file.read_text() == typed


def test_values_are_written_as_tomllib_reads_them_back():
    values = ["a", "😀", '"\\', "\x00\x1f\x7f\n\t\r", True, 0, -3, 1.5, 1e-9, ["x", [1, 2.0]], []]
    for value in values:
        assert tomllib.loads(f"x = {making.toml_value(value)}")["x"] == value
    with pytest.raises(config.StudyError, match="not nan"):
        making.toml_value(float("nan"))
