"""The alignment of prepared cases in a run folder, with its pictures and models: what `align` and `train` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..alignment.runs import MODEL, RESULT, SHARED, STOP
from ..errors import InputError
from ..jobs.events import Events, stop_on_signals
from .aligned_output import SHEET, TABLE, write_sheet, write_table


@dataclass(frozen=True)
class Wanted:
    """What an alignment was asked for.

    :param data: folder of the scans.
    :param asked: what the run's ``align.json`` holds.
    :param template: to bring the cases onto; their own when not given.
    :param beside: another file that stops it, of a job that it is a part of.
    :param model: name of the file of the statistical model.
    """

    data: Path
    asked: dict[str, Any]
    device: str
    template: Any = None
    beside: Path | None = None
    model: str = MODEL


def align_in(run: Path, cases: Sequence[Any], plan: Any, wanted: Wanted, events: Events) -> Any:
    """Align prepared cases in a run folder, or go on there; returns the alignment, which is written last.

    :param run: held by this process, with ``plan.json`` and ``align.json`` in it.
    :raises StoppedOnRequest: all is kept, and it goes on from there.
    """
    from ..alignment.job import Job
    from ..alignment.registration import Settings
    from ..training.request import image_digest
    from ..training.sampling import Draws, split_held_out

    # As a training of seed 0 holds them out.
    held_out = [] if wanted.template is not None else split_held_out(cases, plan.training.held_out, Draws(0))[1]
    stop, bars = run / STOP, Bars(events)
    try:
        with stop_on_signals(lambda: events.emit("warning", message="Stopping as soon as it can.")) as signalled:

            def is_asked() -> bool:
                return signalled() or stop.exists() or (wanted.beside is not None and wanted.beside.exists())

            settings, shape = Settings.of(plan.alignment), tuple(wanted.asked["shape"])
            job = Job(run, settings, wanted.device, is_asked, bars.show, shape)
            aligned = job.align(cases, plan.extent, held_out, len(plan.labels), wanted.template)
            bars.close()
            write_sheet(run / SHEET, cases, aligned, plan, job.watched("drawing"))
            write_table(run / TABLE, aligned)
            if wanted.template is None:
                with_shared = wanted.asked["for_sharing"]
                path, device = run / wanted.model, wanted.device
                words = _write_models(run, path, aligned, cases, plan, wanted.data, device, with_shared, job.watched)
                if words:
                    events.emit("warning", message=words)
                bars.close()
            boxes = tuple(case.affine for case in cases)
            replace(aligned, images=tuple(map(image_digest, cases)), boxes=boxes).save(run / RESULT)
            job.forget()
    finally:
        bars.close()
        stop.unlink(missing_ok=True)
    return aligned


class Bars:
    """One bar after the other, as a job comes from one stage to the next."""

    def __init__(self, events: Events) -> None:
        self.events, self._open = events, None

    def show(self, words: str) -> Callable[[float, int, str], None]:
        self.close()
        self._open = self.events.bar(words)
        return self._open.__enter__()

    def close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def _write_models(
    run: Path,
    path: Path,
    aligned: Any,
    cases: Any,
    plan: Any,
    data: Path,
    device: str,
    with_shared: bool,
    show: Callable[[str], Any],
) -> str:
    """The statistical model of an alignment, what can be steered in it and, where it was asked for, the one for
    sharing; returns what to warn of."""
    from ..synthesis import directions
    from ..synthesis.model_file import Model
    from ..synthesis.statistical import local_model, model_for_sharing, save_statistics
    from ..training.request import image_digest
    from ..volumes.classes import numbers_of, read_columns

    held_out = set(aligned.held_out)
    table = read_columns(data, [case.name for case in cases])
    columns = {name: numbers for name, values in table.items() if (numbers := numbers_of(values)) is not None}
    about = {
        "description": plan.description,
        "device": device,
        "trained_images": [image_digest(case) for case in cases if case.name not in held_out],
    }
    try:
        made = local_model(aligned, cases, plan, about, columns, show)
    except ValueError as error:  # the alignment is worth as much without it
        return f"{path} is not written: {error}."
    save_statistics(path, made)
    model = Model(path, made.generator.to(device), made.plan, made.about)
    found = directions.find_directions(model, directions.SAMPLES, show("finding directions"))
    directions.save_directions(directions.directions_path(path), model.digest, found)
    if with_shared:
        try:
            local = (made.generator.to("cpu"), made.plan, made.about, made.population)
            save_statistics(run / SHARED, model_for_sharing(*local, show("finding what can be shared")))
        except InputError as error:  # the alignment is worth as much without it
            return f"{run / SHARED} is not written: {error.message} {error.hint}"
    return ""
