"""Models by their names: those that come with GED-GAN, and those in the user's own folder.

A model NAME is a file ``NAME.safetensors``, with ``NAME.segmentation.safetensors`` beside it where a network that
segments such scans belongs to it. Wherever a command or the panel takes the path of a model, it takes the name too.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..jobs.writing import beside
from .model_file import SHIPPED, read_header

FOLDER = "GEDGAN_MODELS"
"""Variable of the environment that names the user's own folder; see :func:`own_folder` without it."""
SUFFIX, NETWORK = ".safetensors", ".segmentation"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class KnownModel:
    """A model that has a name.

    :param path: of the generator; None where there is a network alone.
    :param network: of the segmentation network that belongs to it, if there is one.
    :param comes_along: it is part of GED-GAN.
    """

    name: str
    path: Path | None
    network: Path | None
    comes_along: bool


def own_folder(usual: Path | None = None) -> Path:
    """The user's own folder of models; it need not be there.

    :param usual: where the environment names none; in the user's documents when not given.
    """
    if given := os.environ.get(FOLDER, "").strip():
        return Path(given).expanduser()
    return usual or Path.home() / "Documents" / "GEDGAN" / "models"


def known_models(folder: Path | None = None) -> list[KnownModel]:
    """All of them, those that come along first, then by name.

    :param folder: the user's own, in place of :func:`own_folder`.
    """
    shipped = _models_in(SHIPPED, True)
    names = {model.name for model in shipped}
    own = _models_in(own_folder() if folder is None else folder, False)
    return [*shipped, *(model for model in own if model.name not in names)]


def _models_in(folder: Path, comes_along: bool) -> list[KnownModel]:
    try:
        files = {path.name.removesuffix(SUFFIX): path for path in folder.iterdir() if path.suffix == SUFFIX}
    except OSError:  # not there, or not for us
        return []
    names = sorted({name.removesuffix(NETWORK) for name in files})
    return [
        KnownModel(name, files.get(name), files.get(name + NETWORK), comes_along)
        for name in names
        if NAME.fullmatch(name)
    ]


def model_named(name: str, folder: Path | None = None) -> KnownModel | None:
    """The model of a name; None where there is none. Parameters as for :func:`known_models`."""
    return next((model for model in known_models(folder) if model.name == name), None)


def claim_name(name: str, folder: Path | None = None) -> Path:
    """The path in the user's own folder, which is made, for a model of a new name.

    :raises InputError: it is no name, a model has it, or the folder cannot be made.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a model.", "Use letters, digits, - and _, 64 at most.")
    there = next((each for each in known_models(folder) if each.name.casefold() == name.casefold()), None)
    if there is not None:  # where case does not tell files apart it would be written over
        where = "comes with GED-GAN" if there.comes_along else f"is in {(there.path or there.network).parent}"
        raise InputError(f"A model {there.name} {where}.", "Choose another name.")
    folder = own_folder() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made: {error.strerror}.", f"Set {FOLDER} to a folder of yours."
        ) from error
    return folder / f"{name}{SUFFIX}"


def keep_model(source: Path, name: str, network: Path | None = None, folder: Path | None = None) -> KnownModel:
    """Copy a model, and the segmentation network that belongs to it, into the user's own folder under a name.

    :param source: a model file; it is read first, so that nothing else gets there.
    :raises InputError: it is none, the name cannot be used, or it cannot be written.
    """
    read_header(source)
    if network is not None:
        from ..segmentation.network_file import load_network

        load_network(network, "cpu")
    path = claim_name(name, folder)
    beside_it = path.with_name(f"{name}{NETWORK}{SUFFIX}")
    for origin, place in ((source, path), (network, beside_it)):
        if origin is not None:
            with beside(place) as partial:
                shutil.copyfile(origin, partial)
    return KnownModel(name, path, beside_it if network is not None else None, False)
