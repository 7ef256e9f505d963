"""The quality report: one page of HTML that needs no network, one JSON beside it."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..jobs.writing import write_bytes
from ..volumes.case import Case
from ..volumes.pictures import contact_sheet
from ..volumes.pipeline import WorkingCase
from .privacy import FLAGGED
from .result import Evaluation

HTML, JSON = "report.html", "report.json"
SHOWN = 6
CLOSEST = 5
COLOURS = {"made": "#c8553d", "real": "#2b6777", "reference": "#2b6777", "compared": "#88a2aa"}
NAMES = {
    "made": "synthesized",
    "real": "real, trained on",
    "reference": "real, compared with",
    "compared": "real, trained on",
}
EXPLAINED = {
    "kernel distance": "how far the features are from those compared with; 0 is no distance, below 0 is chance",
    "precision": "share of cases that lie among real ones",
    "recall": "share of real cases that lie among these",
    "density": "how densely real ones lie around these; about 1 for real",
    "coverage": "share of real cases with one of these near them",
    "diversity": "variance between cases over that of real ones; 0 is collapse",
    "pairwise MS-SSIM": "how alike two cases are on average; compare with real, far above is too much alike",
    "fine power": "share of the finest details over that of real ones; 1 as real, below it is blur",
    "checkerboard": "power of what repeats every second voxel over that of a little coarser details; compare with real",
    "elevation apart": "which way surfaces face, up or sideways: 0 as real, 1 nothing in common",
    "azimuth apart": "which way surfaces face within the axial plane",
    "authenticity": "share of cases farther from the training case nearest to them than that is from its own nearest",
    "linear apart": "how much is surface",
    "planar apart": "how much is tube or edge",
    "spherical apart": "how much is blob or noise",
}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.7rem 0}
td,th{padding:.25rem .8rem;text-align:left;border-bottom:1px solid #e4e4e4}
td.n{text-align:right;font-variant-numeric:tabular-nums}small,.w{color:#666}img{max-width:100%}
.flag{background:#fbe3dd;border-left:5px solid #c8553d;padding:.6rem 1rem}
.note{background:#f4f1e4;border-left:5px solid #c9a227;padding:.4rem 1rem;margin:.4rem 0}
"""


def write_report(folder: Path, result: Evaluation, plan: Any) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder and return the page.

    :raises InputError: they cannot be written.
    """
    write_bytes(folder / JSON, (json.dumps(figures_of(result), indent=1) + "\n").encode("utf-8"))
    page = folder / HTML
    write_bytes(page, _page(result, plan).encode("utf-8"))
    return page


def figures_of(result: Evaluation, with_names: bool = True) -> dict[str, Any]:
    """All figures, as JSON has them.

    :param with_names: say which cases are the most suspicious pairs; real ones may be named like patients.
    """
    content = _plain(result.to_dict())
    privacy = content["figures"].get("privacy", {})
    if "closest" in privacy:
        privacy["closest"] = privacy["closest"][:CLOSEST] if with_names else []
    return content


def _plain(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _page(result: Evaluation, plan: Any) -> str:
    about = result.about
    flagged = result.privacy is not None and result.privacy.verdict == FLAGGED
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(about['model'])}: quality report</title>"
        f"<style>{STYLE}</style><h1>Quality report of {_text(about['model'])}</h1>",
        f"<p class=w>Learned from: {_text(about['description'] or 'unnamed scans')}. {about['synthesized_cases']} "
        f"cases were synthesized (seed {about['seed']}); of the real cases {about['unseen_cases']} are new to the "
        f"model and {about['training_cases']} are such that it was trained on. Features: {_text(about['features'])}. "
        f"GED-GAN {_text(about['library_version'])}.</p>",
        *(f"<p{' class=flag' if flagged and s.startswith('Privacy') else ''}>{_text(s)}</p>" for s in result.summary),
        *(f"<p class=note>{_text(note)}</p>" for note in result.notes),
        "<h2>Cases</h2>",
        _cases(result, plan),
    ]
    for name, section in result.figures.items():
        parts.append(f"<h2>{_text(name.capitalize())}</h2>")
        if name == "privacy":
            parts.append(_privacy(result, plan))
        elif name == "worth":
            parts.append(_worth(section))
        elif name == "utility":
            parts.append(_utility(section, plan))
        elif name == "volumes and intensities":
            parts += [_measures(section), _distributions(result)]
        else:
            parts.append(_table(section))
            parts.append(_structure_plots(result) if name == "structure" else "")
    parts.append(
        "<h2>How to read this</h2><p>Each figure of synthesized cases stands beside that of real training cases, both "
        f"compared with {_text(result.reference)}: equal figures mean as good as real, by that figure. No figure says "
        "that a case is anatomically right, or that it holds nothing of a patient. Intervals are of 95 %.</p></html>"
    )
    return "\n".join(parts)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "not known"
    if isinstance(value, dict):
        return f"{value['value']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
    if isinstance(value, (list, tuple)):
        return f"{value[1]:.4g} ({value[0]:.4g} to {value[2]:.4g})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _rows(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(word)}</th>" for word in heading)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _table(section: dict[str, Any]) -> str:
    rows = [
        [
            f"{_text(name)}<br><small>{_text(EXPLAINED.get(name, ''))}</small>",
            _number(each["made"]),
            _number(each["real"]),
        ]
        for name, each in section.items()
    ]
    return _rows(["", "synthesized", "real, trained on"], rows)


def _measures(section: dict[str, Any]) -> str:
    rows = []
    for name, each in section.items():
        if name.startswith(("pieces", "missing")):
            usual = " to ".join(map(str, sorted(set(each.get("usual", ())))))
            hint = f"as many as training cases usually have: {usual}" if usual else "share of cases without it"
            shares = [_percent(each.get(key)) for key in ("made", "real", "new")]
            rows.append([f"{_text(name)}<br><small>{hint}</small>", *shares, "", ""])
        else:
            unit = _unit(name)
            numbers = [_number(each[key]) if key in each else "" for key in ("made", "real", "new")]
            aparts = [f"{each[key]:.2f}" if key in each else "" for key in ("apart", "new apart")]
            rows.append([f"{_text(name)}, {unit}", *numbers, *aparts])
    heading = [
        "median (quartiles)",
        "synthesized",
        "trained on",
        "new",
        "synthesized apart from trained on",
        "new apart",
    ]
    return _rows(heading, rows) + "<p><small>Apart: 0 the same distribution, 1 disjoint.</small></p>"


def _unit(name: str) -> str:
    """Of a measure of cases."""
    return "ml" if name.startswith("volume") else "on the typical scale of the data"


def _privacy(result: Evaluation, plan: Any) -> str:
    found = result.privacy
    name = f"authenticity<br><small>{EXPLAINED['authenticity']}</small>"
    shares = f"{found.authenticity:.0%}", _percent(found.held_out_authenticity)
    rows = [["nearest training case, median distance", _number(found.distance), _number(found.held_out_distance), ""]]
    rows.append([name, *shares, ""])
    share, real, p = found.copies
    rows.append(
        ["far nearer to one training case than to others", f"{share:.0%}", f"{real:.0%} of all real", f"p {p:.2g}"]
    )
    if found.near_training is not None:
        share, expected, p = found.near_training
        rows.append(["nearest real case was trained on", f"{share:.0%}", f"{expected:.0%} expected", f"p {p:.2g}"])
    heading = ["after rigid alignment", "synthesized", "real, new", "p value (small: not by chance)"]
    table = _rows(heading, rows)
    closest = found.closest[:CLOSEST]
    made = [_case(result.made[i], plan) for i, _, _ in closest]
    training = [_case(result.training[j], plan) for _, j, _ in closest]
    pairs = "; ".join(
        f"{result.made[i].name} and {result.training[j].name} ({distance:.2f})" for i, j, distance in closest
    )
    sheet = _sheet([("synthesized", made), ("its nearest training case", training)], plan)
    words = (
        f"The {len(closest)} most suspicious pairs, first those that are far nearer to one training case than to all "
        f"others, with their distances (0 the same, 1.4 nothing in common): {_text(pairs)}."
    )
    return f"{table}<p>{words}</p>{sheet}"


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.0%}"


def _worth(section: dict[str, Any]) -> str:
    """What variations are worth for a segmentation of these data."""
    if "dice" not in section:
        return f"<p>{_text(section['verdict'].capitalize())}: {section['cases']}.</p>"
    ends = [f"{100 * value:+.1f}" if math.isfinite(value) else "unknown" for value in section["interval"]]
    rows = [[_text(arm), f"{value:.3f}"] for arm, value in section["dice"].items()]
    words = (
        f"{section['verdict'].capitalize()}: {100 * section['difference']:+.1f} points of Dice ({ends[0]} to "
        f"{ends[1]}) over {section['baseline']}, on {section['cases']} labelled cases in {section['folds']} "
        f"folds; {section['updates']} updates each. Modes were made without the images of a fold."
    )
    return f"<p>{_text(words)}</p>" + _rows(["U-Nets that learned from labelled cases", "mean Dice"], rows)


def _utility(section: dict[str, Any], plan: Any) -> str:
    arms = [name for name in section if isinstance(section[name], dict) and "dice" in section[name]]
    names = [label.name for label in plan.labels]
    rows = []
    for arm in arms:
        found = section[arm]
        low, high = found["interval"]
        mean = f"{found['mean dice']:.3f} ({low:.3f} to {high:.3f})"
        rows.append([_text(arm), str(found["pairs"]), mean, *map(_number, found["dice"])])
    words = f"Tested on {section['tested on']} real cases that are new to all; {section['updates']} updates each."
    if max(section["block"]) > 1:
        words += f" The U-Nets saw blocks of {' x '.join(map(str, section['block']))} voxels as one voxel."
    return f"<p>{words}</p>" + _rows(["trained on", "pairs", "mean Dice", *names], rows)


def _case(working: WorkingCase, plan: Any) -> Case:
    names = tuple(channel.name for channel in plan.channels)
    return Case(working.name, np.asarray(working.image), working.labels, plan.grid.affine, tuple(plan.labels), names)


def _cases(result: Evaluation, plan: Any) -> str:
    groups = [("trained on", result.training), ("real, new", result.unseen), ("synthesized", result.made)]
    rows = [(name, [_case(case, plan) for case in cases[:SHOWN]]) for name, cases in groups if cases]
    return _sheet(rows, plan)


def _sheet(rows: Sequence[tuple[str, Sequence[Case]]], plan: Any) -> str:
    if plan.spatial_dims != 3:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        contact_sheet(path, rows)
        return _image(path.read_bytes(), "cases")


def _image(content: bytes, words: str) -> str:
    return f'<img alt="{_text(words)}" src="data:image/png;base64,{base64.b64encode(content).decode("ascii")}">'


def _figure(figure: Any, words: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    return _image(stream.getvalue(), words)


def _new_figure(columns: int, rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * columns, 2.5 * rows), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).flat)


def _distributions(result: Evaluation) -> str:
    curves = result.curves.get("measures", {})
    if not curves:
        return ""
    from matplotlib.ticker import PercentFormatter

    columns = min(len(curves), 3)
    figure, axes = _new_figure(columns, math.ceil(len(curves) / columns))
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes, curves.items()):
        low = min(each.min() for each in values.values())
        high = max(each.max() for each in values.values())
        bins = np.linspace(low, high if high > low else low + 1, 16)
        for key, each in values.items():
            axis.hist(
                each, bins, weights=np.full(len(each), 1 / len(each)), color=COLOURS[key], alpha=0.55, label=NAMES[key]
            )
        axis.set_title(name, fontsize=8)
        axis.set_xlabel(_unit(name), fontsize=7)
        axis.tick_params(labelsize=7)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes[::columns]:
        axis.set_ylabel("share of cases", fontsize=7)
    axes[0].legend(fontsize=7)
    return _figure(figure, "distributions of volumes and intensities")


def _structure_plots(result: Evaluation) -> str:
    spectrum, orientation = result.curves.get("spectrum"), result.curves.get("orientation")
    histograms = ("elevation", "azimuth", "linear") if orientation else ()
    figure, axes = _new_figure(1 + len(histograms))
    for key, power in spectrum.items():
        axes[0].semilogy(np.linspace(0, 0.5, len(power)), power, color=COLOURS[key], label=NAMES[key])
    axes[0].set_title("power of details", fontsize=8)
    axes[0].set_xlabel("cycles a voxel", fontsize=7)
    axes[0].legend(fontsize=7)
    words = {"elevation": "surfaces face: level to up", "azimuth": "surfaces face: right, front, left",
             "linear": "how much a surface: 0 to 1"}  # fmt: skip
    for axis, name in zip(axes[1:], histograms):
        for key, statistics in orientation.items():
            values = getattr(statistics, name)
            axis.step(np.linspace(0, 1, len(values)), values, where="mid", color=COLOURS[key])
        axis.set_title(words[name], fontsize=8)
        axis.set_ylabel("share of structure", fontsize=7)
        axis.set_ylim(bottom=0)
    for axis in axes:
        axis.tick_params(labelsize=7)
    return _figure(figure, "power spectrum and orientation of structure")
