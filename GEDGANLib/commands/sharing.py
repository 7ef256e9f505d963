"""What the commands ``share`` and ``models`` do: models that are passed on, and those that are known by a name."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.events import Events
from .options import a_model, a_path

INDEX = "GEDGAN_INDEX"
"""Variable of the environment that names the index of models to look into."""
LONGEST_WORDS = 20_000
"""Bytes of what is said of a model that is shared."""


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    share = kinds.add_parser("share", help="make a model for sharing, and say what it gives away of the cases")
    share.add_argument(
        "model", type=a_model, metavar="MODEL", help="model.safetensors of an alignment, or of a training --for-sharing"
    )
    share.add_argument("-o", "--output", type=a_path, required=True, metavar="FILE", help="new file, .safetensors")
    share.add_argument(
        "--card", type=a_path, metavar="TEXT", help="text file to put into it: where from, licence, what it is not for"
    )
    share.set_defaults(run=run_share)

    models = kinds.add_parser("models", help="models that are known by a name, and those that an index offers")
    models.add_argument("name", nargs="?", metavar="NAME", help="say all that is known of this one")
    models.add_argument(
        "--index",
        metavar="ADDRESS",
        default=os.environ.get(INDEX, ""),
        help=f"of an index of models (default: {INDEX})",
    )
    models.add_argument("--get", action="store_true", help="fetch NAME from the index into your own folder")
    models.add_argument("--add", type=a_path, metavar="FILE", help="put a model into your own folder as NAME")
    models.add_argument("--network", type=a_path, metavar="FILE", help="with --add: the segmentation network beside it")
    models.add_argument("--folder", type=a_path, metavar="FOLDER", help="your own folder, in place of the usual one")
    models.add_argument("--make-index", type=a_path, metavar="FOLDER", help="write the index of the models in a folder")
    models.set_defaults(run=run_models)


def run_share(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import claim_new_file
    from ..synthesis.model_file import load_model
    from ..synthesis.passing_on import pass_on

    claim_new_file(arguments.output, ".safetensors")
    words = "" if arguments.card is None else _text_of(arguments.card)
    model = load_model(arguments.model, "cpu", with_population=True)
    with events.bar("finding what can be shared") as show:
        card = pass_on(model, arguments.output, words, show)
    size = arguments.output.stat().st_size / 1e6
    print(f"{arguments.output} ({size:.1f} MB) is written. What it gives away: {card}")


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()[: LONGEST_WORDS + 1]
        if len(content) > LONGEST_WORDS:
            raise InputError(f"{path} is longer than {LONGEST_WORDS // 1000} kB.", "Say less of the model.")
        return content.decode("utf-8-sig").strip()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text.", "Give a plain text file (UTF-8).") from error


def run_models(arguments: argparse.Namespace, events: Events) -> None:
    if arguments.make_index is not None:
        from ..exchange.model_index import write_index

        print(f"{write_index(arguments.make_index)} is written. Put it at an https address, the models beside it.")
    elif arguments.get or arguments.add is not None or arguments.network is not None:
        _keep(arguments, events)
    elif arguments.name is not None:
        _say_all(arguments)
    else:
        _list(arguments, events)


def _keep(arguments: argparse.Namespace, events: Events) -> None:
    from ..synthesis.known_models import keep_model

    if arguments.name is None or (arguments.get and arguments.add is not None):
        raise InputError("One model is fetched or added at a time, under a name.", "gedgan models NAME --add FILE")
    if arguments.add is not None:
        found = keep_model(arguments.add, arguments.name, arguments.network, arguments.folder)
        print(f"{found.path} is there, and known as {found.name}.")
        return
    if not arguments.get:
        raise InputError("--network belongs to a model that is added.", "gedgan models NAME --add FILE --network FILE")
    from ..exchange.model_index import fetch

    entry = _entry(arguments)
    with events.bar(f"fetching {entry.name}") as show:
        path = fetch(entry, arguments.folder, show)
    print(f"{path} ({entry.size / 1e6:.1f} MB) is there. Try: gedgan synthesize {entry.name} -n 4 -o OUT")


def _entry(arguments: argparse.Namespace) -> Any:
    from ..exchange.model_index import read_index

    if not arguments.index:
        raise InputError("No index is known.", f"Give its address by --index, or set {INDEX}.")
    entries = {entry.name: entry for entry in read_index(arguments.index)}
    if arguments.name not in entries:
        there = ", ".join(entries) or "none"
        raise InputError(f"The index at {arguments.index} has no model {arguments.name}.", f"It has: {there}.")
    return entries[arguments.name]


def _list(arguments: argparse.Namespace, events: Events) -> None:
    from dataclasses import asdict

    from ..synthesis.known_models import known_models, own_folder

    known = known_models(arguments.folder)
    for model in known:
        where = "comes with GED-GAN" if model.comes_along else f"in {(model.path or model.network).parent}"
        print(f"{model.name}: {_shortly(model)} ({where})")
    if not known:
        folder = arguments.folder or own_folder()
        print(f"No model has a name yet. Yours would be in {folder}: gedgan models NAME --add FILE")
    if arguments.index:
        from ..exchange.model_index import read_index

        offered = read_index(arguments.index)
        events.emit("offered", models=[asdict(entry) for entry in offered])
        print(f"At {arguments.index}:")
        for entry in offered:
            print(f"{entry.name}: {textwrap.shorten(entry.card, 120, placeholder=' …')} ({entry.size / 1e6:.1f} MB)")


def _shortly(model: Any) -> str:
    """What a model makes, in a line."""
    from ..synthesis.model_file import read_header

    parts = []
    if model.path is not None:
        try:
            plan, _ = read_header(model.path)
        except InputError as error:
            return error.message
        source = textwrap.shorten(plan.description or "unnamed scans", 80, placeholder=" …")
        spacing = " x ".join(f"{side:.3g}" for side in plan.grid.spacing)
        parts.append(f"{source}; {spacing} mm, {len(plan.labels)} structure(s)")
    if model.network is not None:
        parts.append("with a segmentation network" if parts else "a segmentation network")
    return ", ".join(parts)


def _say_all(arguments: argparse.Namespace) -> None:
    from ..synthesis.known_models import known_models, model_named
    from ..synthesis.model_file import read_header, read_report, what_it_holds

    model = model_named(arguments.name, arguments.folder)
    if model is None and arguments.index:
        entry = _entry(arguments)
        print(f"{entry.name} ({entry.size / 1e6:.1f} MB, at {entry.file}): {entry.card}")
        return
    if model is None:
        names = ", ".join(each.name for each in known_models(arguments.folder)) or "none yet"
        raise InputError(f"No model is called {arguments.name}.", f"There are: {names}. Others: --index ADDRESS.")
    print(f"{model.name}: {_shortly(model)}")
    if model.path is not None:
        print(f"File: {model.path}")
        plan, about = read_header(model.path)
        if plan.labels:
            print(f"Structures: {', '.join(label.name for label in plan.labels)}")
        print(f"Made of {about.get('cases', '?')} scans" + (f", {about['steps']} steps" if "steps" in about else ""))
        for words in (about.get("words"), about.get("card"), what_it_holds(plan, about)):
            if words:
                print(words)
        for line in read_report(model.path).get("summary", ["Not judged yet: gedgan evaluate."]):
            print(f"- {line}")
    if model.network is not None:
        print(f"Segmentation network: {model.network}")
