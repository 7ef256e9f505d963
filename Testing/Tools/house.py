"""Who imports whom: the rooms of the library, their order, circles, and the picture of it in ``Docs/architecture.md``.

    .venv/bin/python Testing/Tools/house.py            # circles and arrows upwards, if there are any
    .venv/bin/python Testing/Tools/house.py --write    # put the picture into Docs/architecture.md

Imports inside functions count as any others.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = "GEDGANLib"
ROOMS = {
    "errors": "sentences for people",
    "device": "where to compute",
    "jobs": "events of a long job, the worker process",
    "volumes": "cases on disk to tensors, and back",
    "structure": "the eigen-directional field",
    "alignment": "registration, modes, variations",
    "networks": "generator and judges",
    "planning": "plan.json: what it holds, how it is made",
    "segmentation": "a U-Net from few labelled cases",
    "training": "objective, step, run",
    "synthesis": "model file, new cases, directions",
    "quality": "figures, report, gate",
    "exchange": "nnU-Net, MONAI bundles, folders",
    "scene": "MRML nodes from cases, and back",
    "commands": "the command line",
}
"""Rooms from the ground up, with what they are for; a room imports those before it alone."""
GROUND = ("errors", "device", "jobs")
"""Rooms, or single modules, that anybody may import."""
APART = ("structure", "alignment", "networks")
"""Rooms that know nothing of ours but the ground and each other in their order."""
ENTRANCE = ("__init__", "__main__")
DOCUMENT, BEGIN, END = ROOT / "Docs" / "architecture.md", "<!-- rooms -->\n", "<!-- end of rooms -->\n"

Graph = dict[str, set[str]]
"""Module -> modules of ours that it imports, by names below the library: ``training.run``, ``errors``."""


def modules(library: Path) -> dict[str, Path]:
    """All modules of a library by their names below it; a package by its own name."""
    found = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imported(path: Path, root: Path) -> set[str]:
    """Absolute names of all modules that a file imports, inside functions too; of things in modules the names as well.

    :param root: folder that the top of the packages lies in.
    """
    package = path.relative_to(root).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module or "") if part)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports(library: Path) -> Graph:
    """Who imports whom."""
    there = modules(library)
    graph: Graph = {}
    for name, path in there.items():
        below = {other.removeprefix(library.name + ".") for other in imported(path, library.parent)}
        graph[name] = (below & there.keys()) - {name}
    return graph


def room_of(module: str) -> str:
    return module.split(".")[0]


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules each of which reaches all others of its group (strongly connected, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def upwards(graph: Graph) -> list[tuple[str, str]]:
    """Imports that the order of the rooms forbids: (who, whom)."""
    order = list(ROOMS)
    found = []
    for name, others in sorted(graph.items()):
        room = room_of(name)
        if room in ENTRANCE:
            continue
        for other in sorted(others):
            target = room_of(other)
            if target in (room, "__init__", *GROUND[: GROUND.index(room) if room in GROUND else None]):
                continue
            known = room in order and target in order
            if not known or order.index(target) > order.index(room) or (room in APART and target not in APART):
                found.append((name, other))
    return found


def picture(graph: Graph) -> str:
    """The rooms and who imports whom, as a Mermaid diagram; the ground, which all stand on, has no arrows."""
    arrows = {
        (room_of(name), room_of(other))
        for name, others in graph.items()
        for other in others
        if room_of(name) in ROOMS and room_of(other) in ROOMS
    }
    there = {room for arrow in arrows for room in arrow}
    lines = ["```mermaid", "flowchart BT"]
    for room, words in ROOMS.items():
        if room in there:
            lines.append(f'    {room}["<b>{room}</b><br/>{words}"]')
    order = list(ROOMS)
    for room, other in sorted(arrows, key=lambda arrow: (order.index(arrow[0]), order.index(arrow[1]))):
        if room != other and other not in GROUND and room not in GROUND:
            lines.append(f"    {room} --> {other}")
    return "\n".join([*lines, "```", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the picture into Docs/architecture.md")
    arguments = parser.parse_args()
    graph = imports(ROOT / LIBRARY)
    if arguments.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        _, after = rest.split(END)
        DOCUMENT.write_text(before + BEGIN + picture(graph) + END + after, encoding="utf-8")
    faults = ["circle: " + ", ".join(group) for group in circles(graph)]
    faults += [f"upwards: {name} imports {other}" for name, other in upwards(graph)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
