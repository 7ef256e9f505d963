"""The model file: one ``NAME.safetensors`` that holds everything synthesis needs.

Tensors are the averaged generator's and, for explanations, the discriminator's and what it makes of real cases; these
have names that begin with ``discriminator.`` and ``realness.``, and a file without them is whole too. A local
statistical model has ``population.`` tensors, see :mod:`.statistical`. The header holds
the plan (grid, intensities, labels with names and colours), where the model came from and, once it was judged, the
figures of its last report. There is no code in the file and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InputError
from ..jobs.writing import write_bytes
from ..planning.plan import Networks, Plan
from ..volumes.measures import COLLAPSED

if TYPE_CHECKING:
    from ..networks.discriminator import Critic

SHIPPED = Path(__file__).parent / "resources"
"""Where models lie that come with GED-GAN."""
FORMAT = "GED-GAN model"
FORMAT_VERSION = 1
DISCRIMINATOR, REALNESS, POPULATION = "discriminator.", "realness.", "population."
LONGEST_HEADER = 100_000_000
"""Bytes, as the format has it; a larger number stands where another kind of file has something else."""


@dataclass(frozen=True)
class Model:
    """A model file in memory.

    :param about: training data description, steps, seed, device, library version; plain JSON types.
    :param critic: None where it was not asked for, or the file has none.
    """

    path: Path
    generator: Any
    plan: Plan
    about: dict[str, Any]
    critic: Critic | None = None
    population: dict[str, Any] | None = None
    """Tensors that a local statistical model keeps of its cases, where these were asked for."""

    @cached_property
    def digest(self) -> str:
        """See :func:`digest_of`; of the file as it is when this is asked for the first time."""
        return digest_of(self.path)


def what_it_holds(plan: Plan, about: dict[str, Any]) -> str:
    """What a model that repaints aligned cases gives away, for who passes it on; "" for one that is for that, and for
    any other.

    :param about: of the model, see :class:`Model`.
    """
    if not plan.repaints or (plan.statistical.shared and "trained_images" not in about):
        return ""
    if plan.statistical.shared:
        return (
            "It holds digests of the scans that it learned from, by which who has one of them can tell: pass on what "
            "gedgan share writes of it."
        )
    return (
        f"It holds the mean of its scans and {plan.statistical.modes} directions in which they differ, by which "
        "single scans can be told: pass it on only to whom you would give the scans, or train one for sharing "
        "(gedgan train --for-sharing)."
    )


def statistical_part(model: Model) -> Model:
    """Of a model that repaints aligned cases what it has of their alignment, as a model of that."""
    modes, plan = model.plan.statistical.modes, model.plan
    statistical = replace(plan.statistical, modes=0)
    plan = replace(plan, method="modes", networks=Networks((), (), 1, modes), statistical=statistical)
    return replace(model, generator=model.generator.statistical, plan=plan, critic=None)


def digest_of(path: Path) -> str:
    """A short text that changes with a model file, apart from the report in it."""
    try:
        return _digest(Path(path).read_bytes())
    except OSError:  # moved away meanwhile
        return "unknown"


def _digest(content: bytes) -> str:
    return hashlib.sha256(_with_header(content, report=None)).hexdigest()[:16]


def variety_if_alike(about: dict[str, Any]) -> float | None:
    """How much the cases of a model differ, as a share of what its training cases do, where that is hardly at all.

    :param about: of the model, see :class:`Model`.
    :returns: None where they differ, or where the model does not say.
    """
    variety = about.get("variety")
    return variety if isinstance(variety, (int, float)) and variety < COLLAPSED else None


def save_model(
    path: Path,
    generator,
    plan: Plan,
    about: dict[str, Any],
    critic: Critic | None = None,
    population: dict[str, Any] | None = None,
) -> None:
    """Write a model file, beside first and renamed.

    :param population: tensors beside the generator's, see :class:`Model`.
    :raises InputError: the file cannot be written.
    """
    from safetensors.torch import save

    tensors = dict(generator.kept() if hasattr(generator, "kept") else generator.state_dict())
    if critic is not None:
        weights = critic.discriminator.state_dict()
        tensors |= {DISCRIMINATOR + name: tensor for name, tensor in weights.items()}
        tensors |= {REALNESS + "mean": critic.mean, REALNESS + "deviation": critic.deviation}
        about = {**about, "tau": critic.tau}
    tensors |= {POPULATION + name: tensor for name, tensor in (population or {}).items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "plan": json.dumps(plan.to_dict()),
        "about": json.dumps({**about, "library_version": __version__}),
    }
    write_bytes(path, _with_header(save(tensors, header)))


def refuse_unwritable(path: Path) -> None:
    """:raises InputError: a model file that a report cannot be put into: it or its folder is write-protected, or it
    comes with GED-GAN."""
    path = Path(path).resolve()
    if path.parent == SHIPPED.resolve():
        raise InputError(
            f"{path} comes with GED-GAN, and stays as it is.", "Judge a copy of it to have the report in it."
        )
    try:
        for place, what in ((path, ""), (path.parent, "the folder of ")):
            if not place.stat().st_mode & 0o200 or not os.access(place, os.W_OK):
                raise InputError(f"{what}{path} is write-protected.", "Judge a copy of it to have the report in it.")
    except OSError as error:
        raise InputError(f"The model {path} cannot be read any more: {error.strerror}.", "Check the path.") from error


def keep_report(path: Path, report: dict[str, Any], digest: str) -> None:
    """Put the figures of a report into the header of the model file that it is about.

    Its permissions and times stay as they are.

    :param report: plain JSON types.
    :param digest: of the model that was judged.
    :raises InputError: the file cannot be read or written, or has become another one meanwhile; it is what it was then.
    """
    path = Path(path).resolve()  # what a link leads to, not the link
    refuse_unwritable(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"The model {path} cannot be read any more: {error.strerror}.", "Check the path.") from error
    if _digest(content) != digest:
        raise InputError(f"{path} is not the model any more that the report is about.", "Judge the new one.")
    write_bytes(path, _with_header(content, report=json.dumps(report)), like=path)


def read_report(path: Path) -> dict[str, Any]:
    """What :func:`keep_report` put into a model file; nothing where there is no report.

    :raises InputError: as :func:`read_header`.
    """
    try:
        report = json.loads(_read_entries(Path(path)).get("report", "{}"))
    except (TypeError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _with_header(content: bytes, **changed: str | None) -> bytes:
    """The same safetensors file with the entries of its header sorted: the same model is then the same bytes.

    The format is the header's length (8 bytes, little-endian), the header (JSON, padded by blanks to a multiple of 8)
    and the tensors, whose offsets count from the end of the header.

    :param changed: entries of the metadata, None to leave one out. What is not such a file stays as it is.
    """
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        entries = {**header["__metadata__"], **changed}
    except (KeyError, TypeError, ValueError):
        return content
    header["__metadata__"] = {name: text for name, text in entries.items() if text is not None}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def read_header(path: Path) -> tuple[Plan, dict[str, Any]]:
    """Plan and origin of a model, from the file's header alone: at once, and without PyTorch.

    :raises InputError: as :func:`load_model`, apart from what only the weights tell.
    """
    path = Path(path)
    return _understand(path, _read_entries(path))


def _read_entries(path: Path) -> dict[str, str]:
    """The metadata of the file's header alone."""
    if path.is_dir():
        raise _not_a_file(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if length <= LONGEST_HEADER else b""
    except OSError as error:
        raise InputError(f"The model {path} cannot be read: {error.strerror}.", "Check the path.") from error
    try:
        header = json.loads(content)["__metadata__"]
        if not isinstance(header, dict):
            raise ValueError("not entries with names")
        return header
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a model of GED-GAN.", "Choose the model.safetensors of a run, or copy it again."
        ) from error


def load_model(path: Path, device: str = "cpu", with_critic: bool = False, with_population: bool = False) -> Model:
    """Read a model file.

    :param device: where it shall compute, as :func:`GEDGANLib.device.choose_device` takes it.
    :param with_critic: read the discriminator too.
    :param with_population: keep what a local statistical model has of its cases.
    :raises InputError: missing, cut off, a pickle, from a newer version, not a model at all; no such device.
    """
    path = Path(path)
    header, tensors = _read(path)
    plan, about = _understand(path, header)

    from ..device import choose_device
    from ..networks.build import build_generator

    if plan.method == "modes" or plan.repaints:
        _refuse_other_grids(plan, tensors, path)
        from ..alignment.job import device_that_aligns

        device = device_that_aligns(device)
    else:
        device = choose_device(device)
    generator = build_generator(plan)
    beside = (DISCRIMINATOR, REALNESS, POPULATION)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(beside)}
    _fill(generator, generator.brought_up_to_date(own) if plan.repaints else own, path)
    critic = _load_critic(path, plan, about, tensors, device) if with_critic and REALNESS + "mean" in tensors else None
    start = len(POPULATION)
    population = {name[start:]: tensor for name, tensor in tensors.items() if name.startswith(POPULATION)}
    return Model(
        path, generator.to(device).eval(), plan, about, critic, population if with_population and population else None
    )


def _refuse_other_grids(plan: Plan, tensors: dict[str, Any], path: Path) -> None:
    """:raises InputError: the plan of a statistical model asks for other grids than its file has, before room for them
    is made."""
    grids = {"template": plan.statistical.template, "velocities": plan.statistical.velocity}
    grids |= {"looks": plan.statistical.look, "labels": plan.statistical.labels}
    inside = "statistical." if plan.repaints else ""
    for name, shape in ((inside + name, shape) for name, shape in grids.items()):
        there = tuple(tensors[name].shape[-len(shape) :]) if name in tensors and shape else ()
        if there != tuple(shape):
            raise InputError(
                f"The weights in {path} do not fit its own plan.", "Copy the file again from where it came from."
            )


def _not_a_file(path: Path) -> InputError:
    inside = path / "model.safetensors"
    hint = f"Did you mean {inside}?" if inside.is_file() else "Choose the model.safetensors of a run."
    return InputError(f"{path} is a folder, not a model file.", hint)


def _understand(path: Path, header: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """Plan and origin out of a header."""
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a model of GED-GAN, though it is a safetensors file.",
            "Choose the model.safetensors of a run.",
        )
    try:
        version = int(header["format_version"])
    except (KeyError, ValueError):
        version = 0
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} was written by a newer GED-GAN (model version {version}, this one reads {FORMAT_VERSION}).",
            "Update GED-GAN.",
        )
    try:
        plan_values, about = json.loads(header["plan"]), json.loads(header["about"])
        if not isinstance(plan_values, dict) or not isinstance(about, dict):
            raise ValueError("not entries with names")
    except (KeyError, ValueError) as error:
        raise InputError(f"The header of {path} is damaged.", "Copy the file again from where it came from.") from error
    return Plan.from_dict(plan_values, str(path)), about


def _load_critic(path: Path, plan: Plan, about: dict[str, Any], tensors: dict, device: str) -> Critic:
    from ..networks.build import build_discriminator, plan_of_critic
    from ..networks.discriminator import Critic

    discriminator = build_discriminator(plan_of_critic(plan))
    start = len(DISCRIMINATOR)
    _fill(discriminator, {name[start:]: t for name, t in tensors.items() if name.startswith(DISCRIMINATOR)}, path)
    mean, deviation = (tensors[REALNESS + name].to(device) for name in ("mean", "deviation"))
    return Critic(discriminator.to(device).eval(), float(about["tau"]), mean, deviation)


def _fill(network, tensors: dict, path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise InputError(
            f"The weights in {path} do not fit its own plan.", "Copy the file again from where it came from."
        )
    network.load_state_dict(tensors)


def _read(path: Path) -> tuple[dict[str, str], dict]:
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise _not_a_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"The model {path} cannot be read: {error.strerror}.", "Check the path.") from error
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and start[8:9] != b"{":
            raise InputError(
                f"{path} is a pickle, which can run any program when it is opened; it was not opened.",
                "Choose a model.safetensors that GED-GAN wrote.",
            ) from error
        length = int.from_bytes(start[:8], "little")
        cut_off = start[8:9] == b"{" and ("incomplete" in str(error).lower() or path.stat().st_size < length + 8)
        if cut_off or not start:
            text = f"{path} is cut off: the end of the file is missing."
            raise InputError(text, "Copy it again from where it came from.") from error
        raise InputError(
            f"{path} is not a model of GED-GAN.", "Choose the model.safetensors of a run, or copy it again."
        ) from error
