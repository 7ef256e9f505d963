"""The house itself: who imports whom, what is listed for the package, what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from Tools import house

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "GEDGANLib"
SOURCES = sorted(LIBRARY.rglob("*.py"))


def test_nobody_imports_what_stands_above_and_nothing_runs_in_circles() -> None:
    """The order of the rooms stands in ``Testing/Tools/house.py``."""
    graph = house.imports(LIBRARY)
    assert len(graph) > 80 and any(graph.values())
    assert house.circles(graph) == []
    assert house.upwards(graph) == []


def planted(folder: Path, files: dict[str, str]) -> house.Graph:
    """Imports of a library of these files."""
    for name, text in files.items():
        path = folder / "GEDGANLib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.imports(folder / "GEDGANLib")


def test_a_circle_is_found_inside_functions_too(tmp_path) -> None:
    files = {
        "quality/a.py": "from .b import x",
        "quality/b.py": "def f():\n    from ..quality import c",
        "quality/c.py": "from GEDGANLib.quality.a import y",
        "quality/d.py": "from . import a",
    }
    assert house.circles(planted(tmp_path, files)) == [["quality.a", "quality.b", "quality.c"]]


@pytest.mark.parametrize(
    ("file", "text", "target"),
    [
        ("training/run.py", "def f():\n    from ..synthesis.model_file import save", "synthesis.model_file"),
        ("planning/fitting.py", "from GEDGANLib.training import trainer", "training.trainer"),
        ("volumes/files.py", "from ..structure import field", "structure.field"),
        ("networks/build.py", "from ..volumes.case import Case", "volumes.case"),  # though it stands below
        ("alignment/modes.py", "from ..segmentation import teacher", "segmentation.teacher"),  # rooms still to come
        ("errors.py", "from .jobs import events", "jobs.events"),
        ("attic/old.py", "from ..volumes.case import Case", "volumes.case"),  # a room that nobody knows
    ],
)
def test_an_import_upwards_is_found(tmp_path, file, text, target) -> None:
    graph = planted(tmp_path, {target.replace(".", "/") + ".py": "", file: text})
    assert house.upwards(graph) == [(file.removesuffix(".py").replace("/", "."), target)]


def test_imports_downwards_are_fine(tmp_path) -> None:
    files = {
        "errors.py": "",
        "volumes/case.py": "from ..errors import InputError",
        "alignment/modes.py": "",
        "networks/refiner.py": "from ..alignment import modes",
        "segmentation/teacher.py": "from ..volumes.case import Case\nfrom ..alignment import modes",
        "commands/aligning.py": "from ..segmentation import teacher",
        "__main__.py": "from .commands import aligning",
    }
    graph = planted(tmp_path, files)
    assert graph["commands.aligning"] == {"segmentation.teacher"}
    assert house.upwards(graph) == [] and house.circles(graph) == []


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    text = house.DOCUMENT.read_text(encoding="utf-8")
    drawn = text.split(house.BEGIN)[1].split(house.END)[0]
    assert drawn == house.picture(house.imports(LIBRARY)), "run Testing/Tools/house.py --write"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_slicer_and_qt_stay_where_they_belong(path):
    outside = {name.split(".")[0] for name in house.imported(path, ROOT)}
    if path.relative_to(LIBRARY).parts[0] != "scene":
        assert not outside & {"slicer", "vtk", "trame_slicer"}
    assert not outside & {"qt", "ctk", "PySide6", "pytest"}


def test_the_panel_knows_of_the_library_what_it_may():
    """To a running training it talks through its process alone."""
    allowed = {"errors", "planning", "jobs", "alignment", "segmentation", "synthesis", "scene", "quality"}
    for path in (ROOT / "GEDGAN").rglob("*.py"):
        known = {name.split(".")[1] for name in house.imported(path, ROOT) if name.startswith("GEDGANLib.")}
        assert known <= allowed, path.name


@pytest.mark.parametrize("folder", ["GEDGAN", "GEDGANLib"])
def test_every_file_is_listed_for_the_package(folder):
    module = ROOT / folder
    words = (module / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", folder)
    listed = re.findall(r"^  (\S+\.\S+)$", words, re.MULTILINE)
    there = [path for path in module.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    there = [str(path.relative_to(module)) for path in there if path.name != "CMakeLists.txt"]
    assert sorted(listed) == sorted(there)


def test_what_slicers_ctest_runs_is_there():
    folder = ROOT / "Testing" / "Python"
    listed = set(re.findall(r"SCRIPT (\S+\.py)", (folder / "CMakeLists.txt").read_text(encoding="utf-8")))
    assert listed == {path.name for path in folder.glob("*.py")}


def test_the_module_imports_nothing_heavy_when_slicer_starts():
    tree = ast.parse((ROOT / "GEDGAN" / "GEDGAN.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:  # inside functions they may
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names <= {"importlib", "os", "shutil", "sys", "time", "pathlib", "qt", "slicer"}


def test_requirements_leave_to_slicer_what_is_slicers():
    lines = (ROOT / "GEDGAN" / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("#") or "#" not in line for line in lines)
    names = {re.split(r"[<>=]", line)[0].lower() for line in lines if not line.startswith("#")}
    assert not names & {"torch", "numpy", "scipy", "simpleitk"}


def test_packages_are_installed_with_the_library():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in LIBRARY.rglob("__init__.py"):
        name = ".".join(path.parent.relative_to(ROOT).parts)
        assert f'"{name}"' in declared, name


def test_importing_the_command_line_is_light():
    """Help and mistyped options must answer at once, and Slicer must start without torch."""
    heavy = "{'torch', 'monai', 'SimpleITK', 'matplotlib', 'scipy', 'nibabel', 'slicer', 'vtk'}"
    code = f"import sys, GEDGANLib.commands.main; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_modules_say_what_they_are_and_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


def test_readme_names_commands_that_exist():
    from GEDGANLib.commands.parser import build_parser

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^    gedgan (\w+)", readme, re.MULTILINE))
    known = build_parser()._subparsers._group_actions[0].choices
    assert commands and commands <= set(known)
    for line in re.findall(r"^    (gedgan \w+ .*)$", readme, re.MULTILINE):
        options = set(re.findall(r" (--?[a-z-]+)", line.split("#")[0]))
        known_options = set(known[line.split()[1]]._option_string_actions)
        assert options <= known_options, line
    targets = set(re.findall(r"\bmake (\w+)", readme)) & {"demo", "test", "lint", "setup", "clean"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_command_line_offers_the_methods_of_the_plan():
    from GEDGANLib.commands import options
    from GEDGANLib.planning import words

    assert options.METHODS == words.TRAINED_METHODS
    assert options.MOST_LABELS == words.MOST_LABELS


def test_every_group_of_commands_is_in_the_registry():
    """A module with a function ``add`` is a group; one that is not listed is not there for anybody."""
    from GEDGANLib.commands import parser

    groups = {path.stem for path in (LIBRARY / "commands").glob("*.py") if "\ndef add(" in path.read_text("utf-8")}
    assert groups == {group.__name__.rsplit(".", 1)[1] for group in parser.GROUPS}


def test_every_section_of_the_panel_is_in_the_registry():
    panel = ROOT / "GEDGAN" / "GEDGANPanel"
    classes = set()
    for path in panel.glob("*_section.py"):
        classes |= set(re.findall(r"^class (\w+)\((?:Job)?Section\):", path.read_text(encoding="utf-8"), re.MULTILINE))
    listed = set(re.findall(r'^        "\w+": (\w+),$', (panel / "sections.py").read_text("utf-8"), re.MULTILINE))
    assert classes and classes == listed
