"""The house itself: who imports whom, what is listed for the package, what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "GEDGANLib"
FLOORS = ("volumes", "structure", "networks", "training", "synthesis", "quality", "exchange", "scene")
SOURCES = sorted(LIBRARY.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, inside functions too."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module or "") if part)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def floor_of(path: Path) -> str:
    parts = path.relative_to(LIBRARY).parts
    return parts[0] if len(parts) > 1 else ""


def floors_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("GEDGANLib.")} & set(FLOORS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_walls(path):
    floor, outside = floor_of(path), {name.split(".")[0] for name in imports_of(path)}
    if floor != "scene":
        assert not outside & {"slicer", "vtk", "trame_slicer"}
    assert not outside & {"qt", "ctk", "PySide6", "pytest"}
    above = floors_imported(path) - {floor}
    if floor == "structure":
        assert not above
    if floor == "networks":
        assert above <= {"structure"}
    if floor == "volumes":
        assert not above
    if floor == "training":
        # The model file is what a training ends in; nothing else of the later floors is known there.
        later = {name for name in imports_of(path) if ".synthesis" in name or ".quality" in name}
        assert not above & {"scene", "exchange"}
        assert later <= {"GEDGANLib.synthesis.model_file", "GEDGANLib.synthesis.model_file.save_model"}
    if floor in FLOORS[4:]:
        assert not above & set(FLOORS[FLOORS.index(floor) + 1 :]) - {"exchange"}


def test_the_panel_knows_of_the_library_what_it_may():
    """To a running training it talks through its process alone."""
    allowed = {"errors", "plan", "jobs", "worker", "synthesis", "scene", "quality"}
    for path in (ROOT / "GEDGAN").rglob("*.py"):
        known = {name.split(".")[1] for name in imports_of(path) if name.startswith("GEDGANLib.")}
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
    code = f"import sys, GEDGANLib.cli; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_modules_say_what_they_are_and_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


def test_readme_names_commands_that_exist():
    from GEDGANLib.cli import build_parser

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
    from GEDGANLib import cli, plan

    assert cli.METHODS == plan.METHODS
