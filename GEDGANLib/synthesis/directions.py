r"""Latent directions: what a slider moves.

Of a statistical model the first are its modes as they are (:mod:`GEDGANLib.alignment.modes`), and those along which
columns of its cases' ``participants.tsv`` change (:func:`of_columns`). Of any model three kinds are found, all on cases
that it makes, no data needed.

*Measured.* A quantity m of a case (volume of a label, brightness of a channel) is regressed on the latent z over many
synthesized cases, :math:`m \approx a + w^Tz`; along :math:`w/|w|` it grows by :math:`|w|` for each standard deviation
of z. (Directions from supervision of any kind in latent space: Shen et al., *Interpreting the latent space of GANs for
semantic face editing*, CVPR 2020, section 3.1, there with a classifier's boundary.) Kept when the regression predicts
cases that it has not seen.

*Of the first maps.* The first maps are :math:`B\odot(Az+b)`, so their energy along a latent direction d is
:math:`d^TA^T\mathrm{diag}(|B_c|^2)A\,d`; its eigenvectors with the largest eigenvalues are the directions that change
the generator's first maps most (Shen and Zhou, *Closed-form factorization of latent semantics in GANs*, CVPR 2021).

*Of the features.* Principal components of a layer's maps over many cases, and for each the latent direction that moves
along it, by regression (Härkönen et al., *GANSpace: Discovering interpretable GAN controls*, NeurIPS 2020).

Unsupervised directions are named by the measured quantity that goes with them most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..jobs.steps import through
from ..jobs.writing import write_bytes
from ..volumes.fingerprint import Progress, quiet
from ..volumes.measures import measure
from .model_file import Model, statistical_part
from .synthesizer import Synthesizer, latent_of

SAMPLES = 256
"""Synthesized cases that directions are found on."""
SEED = 20210619
REACH = 3.0
"""Standard deviations a direction may be followed either way; a normal latent is beyond in one case of 370."""
UNSUPERVISED = 4
"""Directions of each unsupervised kind."""
MODES = 8
"""Of a statistical model's modes, how many have a slider."""
FEWEST_KNOWN = 20
"""Cases of which a column's value must be known."""
PREDICTS = 0.2
"""Share of a quantity's variance that its regression must explain in cases it has not seen."""
SAME = 0.9
"""Cosine above which two directions count as one."""
GOES_WITH = 0.3
"""Correlation from which a quantity names an unsupervised direction."""
FOLDS = 5
LARGEST_OBSERVED = 40**3
"""Voxels of the cases of a statistical model that directions are named on."""
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Direction:
    """A way through latent space.

    :param name: for people; unique in a model.
    :param kind: ``modes``, ``column``, ``measured``, ``maps``, ``features`` or ``class``.
    :param latent: (latent_size,) of length 1, so that a value counts standard deviations; zeros for a class.
    :param low, high: values it may take; 0 is where one starts.
    :param meaning: what happens along it, in words.
    :param class_name: of a class direction: at 1 the case is of that class.
    """

    name: str
    kind: str
    latent: tuple[float, ...]
    low: float = -REACH
    high: float = REACH
    meaning: str = ""
    class_name: str | None = None


def find_directions(model: Model, samples: int = SAMPLES, progress: Progress = quiet) -> list[Direction]:
    """Find the directions of a model, the measured ones first, strongest first.

    :param samples: synthesized cases to find them on, at least 20.
    """
    return through(_finding(model, samples), lambda said: progress(*said, ""))


def finding_directions(model: Model) -> Iterator[tuple[int, int]]:
    """As :func:`directions_of`, for who has something else to do meanwhile: yields samples done and samples in all, and
    returns the directions."""
    digest, path = model.digest, directions_path(model.path)
    found = load_directions(path, digest, model.plan.networks.latent_size)
    if found is None:
        found = yield from _finding(model, SAMPLES)
        with suppress(InputError):  # in a folder of somebody else's they are found anew each time
            save_directions(path, digest, found)
    return found


def _finding(model: Model, samples: int) -> Iterator[tuple[int, int]]:
    if model.plan.repaints:
        # What can be steered is anatomy: texture has no direction.
        found = yield from _finding(statistical_part(model), samples)
        rest = (0.0,) * (model.plan.networks.latent_size - model.plan.statistical.modes)
        return [replace(each, latent=(*each.latent, *rest)) for each in found]
    latents, quantities, features = yield from _observing(model, samples)
    found = _of_modes(model, latents, quantities) + _measured(latents, quantities)
    unsupervised = (("maps", _of_first_maps(model)), ("features", _of_features(latents, features)))
    for kind, candidates in unsupervised if model.plan.method != "modes" else ():
        number = 0
        for latent in candidates:
            if number == UNSUPERVISED:
                break
            if any(abs(np.dot(latent, other.latent)) > SAME for other in found):
                continue
            number += 1
            found.append(_named(kind, number, latent, latents, quantities))
    zeros = (0.0,) * model.plan.networks.latent_size
    for name in model.plan.classes:
        meaning = f"from no class in particular at 0 to {name} at 1"
        found.append(Direction(f"class {name}", "class", zeros, 0.0, 1.0, meaning, name))
    return found


def _of_modes(model: Model, latents: np.ndarray, quantities: dict[str, np.ndarray]) -> list[Direction]:
    """The first modes of a statistical model, and the columns that its cases were described by."""
    if model.plan.method != "modes":
        return []
    units = np.eye(model.plan.networks.latent_size)[:MODES]
    found = [_named("modes", number, unit, latents, quantities) for number, unit in enumerate(units, 1)]
    return found + _kept_columns(model.about.get("columns", ()), model.plan.networks.latent_size)


def _kept_columns(kept: Any, size: int) -> list[Direction]:
    """Directions of columns, as a model file has them; what cannot be one is left out."""
    found = []
    for each in kept if isinstance(kept, (list, tuple)) else ():
        try:
            latent = tuple(float(value) for value in each["latent"])
            if len(latent) == size and np.isfinite(latent).all():
                found.append(Direction(str(each["name"]), "column", latent, meaning=str(each["meaning"])))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def of_columns(
    scores: np.ndarray, strengths: np.ndarray, columns: Mapping[str, Sequence[float | None]]
) -> list[Direction]:
    """Directions along which what is known of the cases changes, strongest first; of columns that scores predict in
    cases that were left out.

    :param scores: of the cases, (N, K), of mean 0 and variance 1.
    :param strengths: how wide each component is beside the widest, (K,).
    :param columns: by name, a value a case, None where it is not known.
    """
    from ..alignment.label_modes import ridge_weights

    def ridge(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return ridge_weights(rows, numbers, strengths)

    found = []
    for name, values in columns.items():
        known = [index for index, value in enumerate(values) if value is not None]
        numbers = np.array([values[index] for index in known], float)
        if len(known) < FEWEST_KNOWN or numbers.std() <= 1e-6 * max(abs(numbers.mean()), 1e-12):
            continue
        share = explained(scores[known] - scores[known].mean(0), numbers, ridge)
        if not share >= PREDICTS:
            continue
        weights = ridge(scores[known], numbers)
        length = float(np.linalg.norm(weights))
        middle = float(numbers.mean() - scores[known].mean(0) @ weights)
        meaning = (
            f"about {_figure(middle)} at 0, {_figure(length)} more with each SD; predicts {share:.0%} "
            f"of it in {len(known)} cases, each when it was left out"
        )
        found.append((share, Direction(name, "column", tuple((weights / length).tolist()), meaning=meaning)))
    return [direction for _, direction in sorted(found, key=lambda each: -each[0])]


def _observing(model: Model, samples: int) -> Iterator[tuple[int, int]]:
    """Returns latents (N, size), quantities by name, each (N,), and pooled maps of the first stage (N, features)."""
    import torch

    model = _coarse_enough(model)
    synthesizer, plan = Synthesizer(model), model.plan
    maps: list[torch.Tensor] = []
    first_stage = _first_stage(model.generator)

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        maps.append(torch.nn.functional.adaptive_avg_pool3d(output, [min(side, 6) for side in output.shape[2:]]).cpu())

    handle = None if first_stage is None else first_stage.register_forward_hook(keep)
    latents, rows, features = [], [], []
    try:
        for index in range(samples):
            latent = latent_of(SEED, index, plan.networks.latent_size)
            maps.clear()
            case = synthesizer.case(latent, f"{index}")
            rows.append(measure(case, with_pieces=False).named())
            latents.append(latent)
            features.append(maps[0].flatten().numpy() if maps else case.image[:, ::4, ::4, ::4].ravel())
            yield index + 1, samples
    finally:
        if handle is not None:
            handle.remove()
    quantities = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return np.stack(latents), quantities, np.stack(features)


def _coarse_enough(model: Model) -> Model:
    """A statistical model on a coarser grid where its own is large: what is measured there is hardly another."""
    if model.plan.method != "modes":
        return model
    from ..alignment.sampling import shape_of_at_most

    grid = model.plan.grid
    shape = shape_of_at_most(LARGEST_OBSERVED, grid.shape, model.plan.extent)
    if shape == tuple(grid.shape):
        return model
    plan = replace(model.plan, grid=grid.at(shape))
    return replace(model, generator=model.generator.coarser(shape), plan=plan)


def _first_stage(generator: Any) -> Any | None:
    """The first stage of the generator, coarsest; None for the article's, which has no stages."""
    stem = getattr(generator, "stem", generator)
    stages = getattr(stem, "stages", None)
    return None if stages is None else stages[0]


def _regress(latents: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Ridge regression of standardised values (N,) on latents (N, size), as heavy a ridge as few samples ask for."""
    size = latents.shape[1]
    ridge = size * np.eye(size) * 0.1
    return np.linalg.solve(latents.T @ latents + ridge, latents.T @ values)


def explained(latents: np.ndarray, values: np.ndarray, regress: Any = _regress) -> float:
    """Share of the variance of ``values`` (N,) that a regression on latents (N, size) explains in unseen cases."""
    folds = np.arange(len(latents)) % FOLDS
    errors = np.zeros(len(values))
    for fold in range(FOLDS):
        known, new = folds != fold, folds == fold
        middle = values[known].mean()
        errors[new] = values[new] - middle - latents[new] @ regress(latents[known], values[known] - middle)
    return 1 - float((errors**2).mean() / max(values.var(), 1e-30))


def _measured(latents: np.ndarray, quantities: dict[str, np.ndarray]) -> list[Direction]:
    found = []
    for name, values in quantities.items():
        if values.std() <= 1e-6 * max(abs(values.mean()), 1e-12):
            continue
        share = explained(latents, values)
        if share < PREDICTS:
            continue
        weights = _regress(latents, values - values.mean())
        length = float(np.linalg.norm(weights))
        unit = " ml" if name.startswith("volume") else " in the units of the scans"
        about, more = _figure(float(values.mean())), _figure(length)
        meaning = f"about {about}{unit} at 0, {more} more with each SD; predicts {share:.0%} of it"
        found.append((share, Direction(name, "measured", tuple((weights / length).tolist()), meaning=meaning)))
    return [direction for _, direction in sorted(found, key=lambda each: -each[0])]


def _figure(value: float) -> str:
    """Three digits, and no powers of ten where whole numbers do."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _of_first_maps(model: Model) -> list[np.ndarray]:
    stem = getattr(model.generator, "stem", model.generator)
    if not hasattr(stem, "latent_to_basis"):
        return []
    size = model.plan.networks.latent_size
    weight = stem.latent_to_basis.weight.detach().cpu().double().numpy()[:, :size]
    energy = stem.basis.detach().cpu().double().flatten(2)[0].square().sum(1).numpy()
    _, vectors = np.linalg.eigh(weight.T @ (energy[:, None] * weight))
    return [_with_sign(vector) for vector in vectors.T[::-1]]


def _of_features(latents: np.ndarray, features: np.ndarray) -> list[np.ndarray]:
    centred = features - features.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found = []
    for index in range(min(4 * UNSUPERVISED, len(values))):
        if values[index] <= 1e-9 * values[0]:
            break
        along = left[:, index] * np.sqrt(len(latents))
        weights = _regress(latents, along)
        if explained(latents, along) > PREDICTS:
            found.append(_with_sign(weights / np.linalg.norm(weights)))
    return found


def _with_sign(vector: np.ndarray) -> np.ndarray:
    """The same direction, not its opposite, on every machine."""
    return vector * np.sign(vector[np.abs(vector).argmax()])


def _named(
    kind: str, number: int, latent: np.ndarray, latents: np.ndarray, quantities: dict[str, np.ndarray]
) -> Direction:
    along = latents @ latent
    found = []
    for name, values in quantities.items():
        if values.std() > 0:
            found.append((float(np.corrcoef(along, values)[0, 1]), name))
    found.sort(key=lambda each: -abs(each[0]))
    words = {"maps": "pattern", "features": "feature", "modes": "mode"}[kind]
    if not found or abs(found[0][0]) < GOES_WITH:
        return Direction(
            f"{words} {number}", kind, tuple(latent.tolist()), meaning="goes with nothing that is measured"
        )
    told = [f"{'more' if r > 0 else 'less'} {name} (r {abs(r):.2f})" for r, name in found[:2] if abs(r) >= GOES_WITH]
    name = f"{words} {number}, {'more' if found[0][0] > 0 else 'less'} {found[0][1]}"
    return Direction(name, kind, tuple(latent.tolist()), meaning="goes with " + ", ".join(told))


def choose(directions: Sequence[Direction], name: str) -> Direction:
    """The direction of that name, or the only one whose name begins so.

    :raises InputError: there is none, or several.
    """
    alike = [d for d in directions if d.name == name] or [
        d for d in directions if d.name.lower().startswith(name.lower())
    ]
    if len(alike) != 1:
        names = ", ".join(f"'{direction.name}'" for direction in (alike or directions))
        raise InputError(
            f"The model has {'no' if not alike else 'more than one'} direction '{name}'.", f"There are: {names}."
        )
    return alike[0]


def directions_path(model_path: Path) -> Path:
    """Where the directions of a model are kept: beside it."""
    return model_path.with_name(f"{model_path.stem}.directions.json")


def save_directions(path: Path, model_digest: str, directions: Sequence[Direction]) -> None:
    """Write directions as JSON.

    :raises InputError: the file cannot be written.
    """
    content = {
        "format": "GED-GAN directions",
        "format_version": FORMAT_VERSION,
        "model_digest": model_digest,
        "directions": [asdict(direction) for direction in directions],
    }
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode("utf-8"))


def load_directions(path: Path, model_digest: str, latent_size: int) -> list[Direction] | None:
    """Read directions; None when there are none of this very model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION or content["model_digest"] != model_digest:
            return None
        found = [Direction(**{**each, "latent": tuple(each["latent"])}) for each in content["directions"]]
        return found if all(len(each.latent) == latent_size for each in found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def directions_of(model: Model, progress: Progress = quiet) -> list[Direction]:
    """The directions kept beside the model, or newly found ones, which are then kept there if that is possible."""
    return through(finding_directions(model), lambda said: progress(*said, ""))
