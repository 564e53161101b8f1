"""The rules of the house: rooms, doors, who imports whom, notebooks that read like a paper."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from her2lib.study.config import study_files

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "her2lib"

# A place imports only what stands to its left; the places of one group below see no study.
ORDER = (
    "scores files stain intake "
    "data phantoms stats networks plots "
    "slides study readers maps "
    "runner report pages explorer scoring "
    "cli"
).split()
VALUES_ONLY = (
    "intake",
    "data",
    "slides",
    "phantoms",
    "stats",
    "networks",
    "plots",
    "stain",
    "scores",
    "files",
    "maps",
)
ALONE = ("data", "phantoms", "stats", "networks", "plots")  # they know each other through values
NO_TORCH = ("her2lib", "her2lib.cli", "her2lib.study.config", "her2lib.runner.execute")

MODULES = sorted(file for file in LIBRARY.rglob("*.py") if file.name != "__init__.py")
DOORS = sorted(LIBRARY.rglob("__init__.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def name_of(file):
    """str, "data/patches" of her2lib/data/patches.py."""
    return str(file.relative_to(LIBRARY).with_suffix(""))


def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(file):
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef)]


def imported_places(file):
    """set of str, the rooms and single modules of her2lib that a file imports anywhere."""
    places = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("her2lib"):
            inside = node.module.split(".")[1:]
            places.update(inside[:1] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            places.update(name[1] for name in names if name[0] == "her2lib" and len(name) > 1)
    return places


def imported_siblings(file):
    """set of str, the modules of its own room that a file imports anywhere."""
    room = f"her2lib.{file.parent.name}"
    siblings = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and node.module == room:
            siblings.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(room + "."):
            siblings.add(node.module.removeprefix(room + "."))
    return siblings


def cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def code_of(notebook):
    return [source(cell) for cell in cells(notebook) if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


# --- rooms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_place_imports_only_what_stands_to_its_left(file):
    place = name_of(file).split("/")[0]
    assert place in ORDER, f"{place} has no place in the order of rooms"
    others = imported_places(file) - {place}
    later = [other for other in others if ORDER.index(other) > ORDER.index(place)]
    assert not later, f"{name_of(file)} imports {later}, which stand to its right"
    if place in ALONE:
        assert not others & set(ALONE), f"{name_of(file)} imports {others & set(ALONE)}"


@pytest.mark.parametrize("door", DOORS, ids=name_of)
def test_modules_of_a_room_import_each_other_in_no_circle(door):
    waiting = {}
    for file in door.parent.glob("*.py"):
        if file.name != "__init__.py":
            waiting[file.stem] = imported_siblings(file)
    while waiting:
        free = [module for module, needs in waiting.items() if not needs & waiting.keys()]
        assert free, f"a circle in {door.parent.name}: {waiting}"
        for module in free:
            del waiting[module]


def test_only_plots_imports_matplotlib():
    drawing = []
    for file in MODULES:
        if re.search(r"^\s*(import|from) matplotlib", file.read_text(encoding="utf-8"), re.M):
            drawing.append(name_of(file))
    assert drawing == ["plots"]


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_rooms_of_values_take_no_study(file):
    if name_of(file).split("/")[0] in VALUES_ONLY:
        takes = [f.name for f in functions(file) if any(a.arg == "study" for a in f.args.args)]
        assert not takes, f"{name_of(file)}: {takes} take a study"


@pytest.mark.parametrize("name", NO_TORCH)
def test_the_door_planning_and_help_import_no_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- doors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS, ids=name_of)
def test_a_door_says_what_its_room_is_for_and_hands_on_few_names(door):
    module = import_module(".".join(door.relative_to(ROOT).parent.parts))
    most = 15 if door.parent == LIBRARY else 8
    assert module.__doc__
    assert 1 <= len(module.__all__) <= most
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{name} has no docstring"
    if door.parent != LIBRARY:
        for file in door.parent.glob("*.py"):
            if file.name != "__init__.py":
                assert file.stem in module.__doc__, f"{module.__name__} does not name {file.stem}"


def test_the_typed_door_has_the_names_of_the_door():
    import her2lib

    stub = ast.parse((LIBRARY / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    typed = [alias.asname for node in imports for alias in node.names]
    assert sorted(typed) == sorted(her2lib.__all__)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_public_functions_say_what_comes_back(file):
    missing = []
    for node in tree(file).body:
        public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
        if public and ast.get_docstring(node) is None:
            missing.append(node.name)
    assert not missing, f"{name_of(file)}: {missing} have no docstring"


# --- lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_exception_is_swallowed(file):
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ExceptHandler):
            assert not all(isinstance(line, ast.Pass) for line in node.body), node.lineno
            assert node.type is not None, f"{name_of(file)}:{node.lineno} catches everything"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_conditional_expression_hides_in_another_or_in_a_comprehension(file):
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp)
    for node in ast.walk(tree(file)):
        if isinstance(node, comprehensions):
            inside = [n for n in ast.walk(node) if isinstance(n, ast.IfExp) and n is not node]
            assert not inside, f"{name_of(file)}:{node.lineno}"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_has_a_test_file_of_its_own(file):
    inside = file.relative_to(LIBRARY)
    assert (ROOT / "tests" / inside.parent / f"test_{file.stem}.py").is_file()


# --- notebooks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
class TestNotebook:
    def test_defines_nothing_and_stores_nothing(self, notebook):
        for cell in cells(notebook):
            if cell["cell_type"] == "code":
                assert not re.search(r"^\s*(def|class) ", source(cell), re.M)
                assert not cell["outputs"]
                assert cell["execution_count"] is None

    def test_is_short_and_half_prose(self, notebook):
        code = code_of(notebook)
        assert len(cells(notebook)) <= 30
        assert len(cells(notebook)) - len(code) >= len(code)

    def test_a_code_cell_is_one_step(self, notebook):
        # Lines count as the formatter sets them: `ruff format --check` runs over notebooks too.
        for code in code_of(notebook):
            assert len(code.strip().splitlines()) <= 12, code
            loops = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.For)]
            for loop in loops:
                inner = [n for n in ast.walk(loop) if isinstance(n, ast.For) and n is not loop]
                assert not inner, code

    def test_begins_with_its_question(self, notebook):
        first = source(cells(notebook)[0])
        for word in ("**Question.**", "**Reads**", "**Writes**", "**Takes**"):
            assert word in first
        assert first.startswith(f"# {notebook.stem[:2]} ")

    def test_has_one_parameters_cell_whose_default_is_the_smoke_study(self, notebook):
        tagged = []
        for cell in cells(notebook):
            if "parameters" in cell["metadata"].get("tags", []):
                tagged.append(cell)
        assert len(tagged) == 1
        lines = ast.parse(source(tagged[0])).body
        names = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
        expected = {"study_name": "smoke"}
        if "_train_" in notebook.stem:
            expected["run"] = ""
        assert names == expected

    def test_is_in_the_readme(self, notebook):
        assert notebook.stem in (ROOT / "README.md").read_text(encoding="utf-8")

    def test_asserts_an_invariant(self, notebook):
        assert any(re.search(r"^assert ", code, re.M) for code in code_of(notebook))


# --- what stands beside the library -------------------------------------------------------------


def test_every_room_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for place in ORDER:
        assert f"`{place}`" in text, f"README does not name {place}"


@pytest.mark.parametrize("file", study_files(), ids=lambda file: file.stem)
def test_a_study_file_states_command_cost_and_expectation(file):
    head = file.read_text(encoding="utf-8").splitlines()[:3]
    assert head[0].startswith("# her2 run")
    assert head[1].startswith("# cost:")
    assert head[2].startswith("# expect:")


def test_the_lock_pins_everything_once_and_conda_uses_the_same():
    lock = (ROOT / "requirements.lock").read_text()
    assert "//" not in lock, "the lock names a host"
    assert "- -r requirements.lock" in (ROOT / "environment.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {re.split(r"[=;\[ ]", line)[0] for line in lock.splitlines()}
    assert {re.split(r"[>=\[]", name)[0] for name in project["dependencies"]} <= locked
