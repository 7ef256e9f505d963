"""A model for whoever is given it, without what tells single scans of those that it was made of.

Of an alignment that is its form for sharing, see :mod:`.statistical`. A generator that was trained for sharing has such
modes already; what is left out are the digests of the images that it learned from, by which the owner of a scan could
tell whether it was among them, and the discriminator, which knows them best and makes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..jobs.events import Progress, quiet
from .model_file import Model, digest_of, keep_report, read_report, save_model
from .statistical import save_statistics, shared_form

OF_TRAINING = ("trained_images", "data", "population", "tau")
"""What a model says of its training that whoever is given it need not know."""
MEMORISED = "memorised"  # as in ``quality.privacy``; a test compares


def pass_on(model: Model, path: Path, words: str = "", progress: Progress = quiet) -> str:
    """Write the form of a model that is for sharing; returns what it gives away.

    :param model: on the CPU, loaded with its population.
    :param path: a new file.
    :param words: what whoever passes it on says of it: where from, licence, what it is not for.
    :raises InputError: there is no such form of it, its report found copies, or the file cannot be written.
    """
    if not model.plan.repaints:
        made = shared_form(model, progress)
        save_statistics(path, replace(made, about=made.about | _said(words)))
        return made.about["card"]
    if not model.plan.statistical.shared:
        raise InputError(
            f"{model.path} moves along {model.plan.statistical.modes} directions of its scans, by which single ones "
            "can be told.",
            "Train one for sharing: gedgan train DATA -o RUN --for-sharing.",
        )
    report = read_report(model.path)
    verdict = report.get("figures", {}).get("privacy", {}).get("verdict")
    if verdict == MEMORISED:
        raise InputError(
            f"The report on {model.path} found copies of its scans among what it makes.",
            "Do not pass it on; train with more scans, or for less long.",
        )
    judged = "was not judged" if verdict is None else f"was judged: {verdict}"
    card = f"{model.about['card']} What a network learned beside, of {model.about.get('cases', '?')} scans, {judged}."
    about = {name: value for name, value in model.about.items() if name not in OF_TRAINING}
    data = {name: value for name, value in model.plan.data.items() if name != "started_from"}
    plan = replace(model.plan, data=data, reasons=())  # reasons name cases here and there
    save_model(path, model.generator, plan, about | {"card": card} | _said(words))
    if report:
        keep_report(path, report, digest_of(path))
    return card


def _said(words: str) -> dict[str, str]:
    return {"words": words} if words else {}
