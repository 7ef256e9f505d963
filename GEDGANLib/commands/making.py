"""What commands that make cases share: their form, the gate, the folder they go to, what is said of them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from .scans import find_for


@contextmanager
def cases_folder(folder: Path, total: int) -> Iterator[Callable[[Iterable], Iterator]]:
    """A new folder for cases that are written one by one; who interrupts that is told how many are complete.

    :returns: a function that counts the cases of an iterable as they are taken from it and written.
    """
    from ..jobs.writing import growing_folder

    done = 0

    def counted(cases: Iterable) -> Iterator:
        nonlocal done
        for case in cases:
            yield case
            done += 1

    with growing_folder(folder, ("imagesTr", "labelsTr", "images", "labels")):
        try:
            yield counted
        except KeyboardInterrupt as interrupt:
            left = f"; the first {done} of {total} cases are complete in {folder} and can be used" if done else ""
            raise StoppedOnRequest(f"Stopped{left}.") from interrupt


def say_variety(model, events: Events) -> None:
    """Tell that the cases of a model hardly differ, if its training ended so."""
    from ..synthesis.model_file import variety_if_alike

    variety = variety_if_alike(model.about)
    if variety is not None:
        events.emit(
            "warning",
            message=f"Cases of this model hardly differ from each other ({variety:.0%} of the variety of its training "
            f"cases). It was trained for {model.about.get('steps', '?')} steps; train it longer, or anew.",
        )


def check_class(arguments: argparse.Namespace, model) -> None:
    """:raises InputError: a class is asked for that the model does not know."""
    classes = model.plan.classes
    if arguments.class_name is not None and arguments.class_name not in classes:
        there = f"it knows {', '.join(classes)}" if classes else "it was trained without classes"
        raise InputError(f"{arguments.model} knows no class {arguments.class_name}; {there}.", "Leave --class out.")


def screened(arguments: argparse.Namespace, synthesizer, rejected: Counter[str], events: Events):
    """The cases that pass the gate, one after the other; None where there is no gate."""
    if arguments.screen is None:
        return None
    from ..quality.screening import Screen
    from ..synthesis.membership import membership
    from ..volumes.pipeline import load_working_cases

    plan = synthesizer.model.plan
    with events.bar("reading real cases") as show:
        cases = list(load_working_cases(find_for(synthesizer.model, arguments.screen), plan, show))
    trained = [cases[index] for index in membership(synthesizer.model.about, cases).trained]
    if not trained:
        print(
            f"Note: none of the cases in {arguments.screen} taught the model; copies of those that did are not found."
        )
    with events.bar("measuring real cases") as show:
        # Without any that it was trained on, plausible is what these are like; nothing of them can have been copied.
        screen = Screen(trained or cases, plan, show, class_name=arguments.class_name)

    def draw(index: int):
        return synthesizer.draw(arguments.seed, index, arguments.class_name)

    return screen.passing(draw, arguments.number, rejected)


TOLD_BEYOND = 0.05
"""Share of a case beyond what was learned from which it is told."""


def form_of(arguments: argparse.Namespace, model: Any, events: Events) -> Any:
    """The form of the cases that the options ask for; what of it was not learned is told.

    :raises InputError: options that exclude each other, or do not fit the model.
    """
    from ..synthesis.output import grid_of_spacing, original_grid, refuse_huge, share_beyond
    from ..synthesis.synthesizer import Form

    grid = None
    if arguments.original and arguments.spacing is not None:
        raise InputError("--original and --spacing exclude each other.", "Leave one of them out.")
    if arguments.original:
        grid = original_grid(model.plan)
    elif arguments.spacing is not None:
        grid = grid_of_spacing(model.plan, arguments.spacing)
    if grid is not None:
        refuse_huge(grid, model.plan)
        if (share := share_beyond(model.plan, grid)) > TOLD_BEYOND:
            events.emit(
                "warning",
                message=f"{share:.0%} of each case lies beyond the grid that the model learned on, and is air, or as "
                "dark as it.",
            )
    return Form(grid, arguments.labels, arguments.truncation)


def say_rejected(rejected: Counter[str]) -> None:
    """Tell how many cases the gate drew again, and why."""
    reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common())
    print(f"Drawn again: {sum(rejected.values())} case(s){': ' if reasons else ''}{reasons}.")


def claim_scene(path: Path | None) -> None:
    """Make sure, before anything is written, that a scene can be made at ``path``."""
    from ..jobs.writing import claim_new_file

    if path is not None:
        from ..scene.headless import check_installed

        check_installed()
        claim_new_file(path, ".mrb")
