"""Contact sheet: cases side by side in three planes with their segmentation outlined, as a PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..jobs.writing import beside
from .case import Case
from .geometry import spacing_of, to_closest_ras

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
SIDES = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}
"""What is on the left and on the right of each plane: right, left, anterior, posterior."""
LEGEND_LABELS = 40
"""Names that a legend has room for."""
DPI = 100
"""Pixels an inch of every picture that is written."""
COLUMN_WIDTH, MARGIN, GAP = 1.7, 0.5, 0.05
"""Inches of a column of a contact sheet, of what stands left of it, and between two slices."""
LETTERS, LEGEND_LETTERS, LINE = 15, 19, 0.16
"""Letters of a title and of a label's name an inch, and inches of a line."""


def _middle(labels: np.ndarray | None, shape: Sequence[int]) -> list[int]:
    """Voxel through which the three planes go: the middle of the labels, else of the volume."""
    if labels is None or not labels.any():
        return [side // 2 for side in shape]
    return [round(index) for index in np.argwhere(labels).mean(0)]


def contact_sheet(
    path: Path, rows: Sequence[tuple[str, Sequence[Case]]], title: str = "", headings: Sequence[Sequence[str]] = (),
    around: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Draw groups of cases below each other, each case a column of an axial, a coronal and a sagittal slice.

    Right of the patient is on the left of axial and coronal slices and front on the left of sagittal ones, as
    radiologists and Slicer show them; letters say so. Labels are outlined in their colours, which the foot names.

    :param rows: name and cases of each group; "real" above "synthesized", say.
    :param headings: over the columns of each group; of the first ones where there are fewer than groups.
    :param around: voxels, on the grid of all cases, through whose middle the slices go; when not given, through that
        of each case's labels.
    :raises InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    columns = max(len(cases) for _, cases in rows)
    sample, affine = to_closest_ras(rows[0][1][0].image, rows[0][1][0].affine)
    size = np.array(sample.shape[1:]) * spacing_of(affine)
    width = COLUMN_WIDTH * columns + MARGIN
    scale = COLUMN_WIDTH / max(size[0], size[1])
    heights = [size[1] * scale, size[2] * scale, size[2] * scale] * len(rows)
    title_lines = textwrap.wrap(title, int(LETTERS * width), break_on_hyphens=False)
    table = rows[0][1][0].label_table if rows[0][1][0].labels is not None else ()
    legend = legend_lines([(label.name, label.color) for label in table], width)
    above = 0.1 + LINE * len(title_lines) + 0.05
    below = 0.05 + LINE * len(legend)
    height = sum(heights) + LINE * len(headings) + above + below
    figure = Figure(figsize=(width, height), facecolor="black")
    # One pair of axes in inches for all slices: a pair for each takes half a second to set up.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axis.set_axis_off()
    for block, (name, cases) in enumerate(rows):
        for column, case in enumerate(cases):
            for row, (plane, _normal) in enumerate(PLANES):
                headed = LINE * min(block + 1, len(headings))
                top = height - above - headed - sum(heights[: 3 * block + row])
                left = MARGIN + COLUMN_WIDTH * column
                space = (left, left + COLUMN_WIDTH - GAP, top - heights[3 * block + row] + GAP, top)
                shown = _draw_slice(axis, case, row, space, around)
                if column == 0:
                    words = f"{name}\n{plane}" if row == 0 else plane
                    _name_plane(axis, plane, words, shown, in_inches=True)
                if row == 0 and block < len(headings):
                    middle = (space[0] + space[1]) / 2
                    axis.text(
                        middle, top + 0.03, headings[block][column], color="white", fontsize=7, ha="center", va="bottom"
                    )
    for line, words in enumerate(title_lines):
        axis.text(width / 2, height - 0.1 - LINE * line, words, color="white", fontsize=8, ha="center", va="top")
    draw_legend(figure, legend)
    save_figure(figure, path)


def _draw_slice(
    axis, case: Case, plane: int, space: tuple[float, float, float, float], around: np.ndarray | None
) -> tuple[float, ...]:
    """Draw a plane of :data:`PLANES` of a case into a rectangle (left, right, bottom, top), as large as it fits; the
    rectangle that it fills.

    :param around: see :func:`contact_sheet`.
    """
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    image, affine = to_closest_ras(case.image, case.affine)
    labels = None if case.labels is None else to_closest_ras(case.labels, case.affine)[0]
    normal = PLANES[plane][1]
    across, up = [other for other in range(3) if other != normal]
    middle_of = labels if around is None else to_closest_ras(around, case.affine)[0]
    index = _middle(middle_of, image.shape[1:])[normal]
    low, high = np.percentile(image[0], (0.5, 99.5))
    # The patient's right and front are on the left of a slice.
    picture = np.take(image[0], index, axis=normal).T[:, ::-1]
    size = np.array(picture.shape[::-1]) * spacing_of(affine)[[across, up]]
    left, right, bottom, top = space
    scale = min((right - left) / size[0], (top - bottom) / size[1])
    half, middle = scale * size / 2, ((left + right) / 2, (bottom + top) / 2)
    extent = (middle[0] - half[0], middle[0] + half[0], middle[1] - half[1], middle[1] + half[1])
    axis.imshow(
        picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", extent=extent, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    if labels is None:
        return extent
    flat = np.take(labels, index, axis=normal).T[:, ::-1]
    step = 2 * half / flat.shape[::-1]
    for label in case.label_table:
        # The lines alone: matplotlib's own contours take ten times as long to set up.
        lines = contour_generator(z=(flat == label.index).astype(np.float32)).lines(0.5)
        places = [(line + 0.5) * step + (extent[0], extent[2]) for line in lines]
        axis.add_collection(LineCollection(places, colors=[to_rgb(label.color)], linewidths=0.8), autolim=False)
    return extent


Names = Sequence[tuple[str, Sequence[float]]]
"""Names, and the colours they are written in."""


def legend_lines(names: Names, width: float) -> list[list[tuple[float, str, Sequence[float]]]]:
    """Lines of names: inches from the left, name and colour of each.

    :param width: inches of a line.
    """
    lines: list[list[tuple[float, str, Sequence[float]]]] = []
    left = width
    if len(names) > LEGEND_LABELS:
        names = [*names[:LEGEND_LABELS], (f"and {len(names) - LEGEND_LABELS} more", (0.5, 0.5, 0.5))]
    for name, colour in names:
        needed = len(name) / LEGEND_LETTERS + 0.15
        if left + needed > width:
            lines.append([])
            left = 0.1
        lines[-1].append((left, name, colour))
        left += needed
    return lines


def draw_legend(figure, lines: Sequence[Sequence[tuple[float, str, Sequence[float]]]]) -> None:
    """Write lines of :func:`legend_lines` at the foot of a figure."""
    width, height = figure.get_size_inches()
    for number, entries in enumerate(reversed(lines)):
        for left, name, colour in entries:
            place = left / width, (0.1 + LINE * number) / height
            figure.text(*place, name, color=tuple(colour), fontsize=6, va="center")


def _name_plane(axis, plane: str, words: str, space: Sequence[float] = (0, 1, 0, 1), in_inches: bool = False) -> None:
    """Letters of the patient's sides in a slice, readable on black and on white, and words left of it.

    :param space: left, right, bottom and top of the slice, as shares of the axes or in their inches.
    """
    left, right, bottom, top = space
    where = {} if in_inches else {"transform": axis.transAxes}
    for side, letter in zip((0.02, 0.98), SIDES[plane]):
        axis.text(
            left + side * (right - left), bottom + 0.05 * (top - bottom), letter, color="white", fontsize=7,
            va="bottom", ha="left" if side < 0.5 else "right",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 0.5, "linewidth": 0}, **where,
        )  # fmt: skip
    place = left - 0.03 * (right - left), (bottom + top) / 2
    axis.text(*place, words, color="white", fontsize=7, rotation=90, va="center", ha="right", **where)


def draw_maps(
    path: Path, columns: Sequence[tuple[str, np.ndarray, dict, bool]], affine: np.ndarray, foot: str = ""
) -> None:
    """Draw the middle slices of a volume and its maps as a PNG: a plane a row, a map a column.

    The first column is the volume; its outline is drawn into the others, so that one sees where they show something.

    :param columns: title, array (I, J, K) or (I, J, K, 3) of colours, options of matplotlib's ``imshow`` and whether a
        scale stands beside it.
    :param foot: words below.
    :raises InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    volume = columns[0][1]
    low, high = np.percentile(volume, (0.5, 99.5))
    inside = to_closest_ras((volume > low + OUTLINE_SHARE * (high - low)).astype(np.uint8), affine)[0]
    scales = sum(scaled for *_, scaled in columns)
    figure = Figure(figsize=(1.8 * len(columns) + 0.4 * scales + 0.3, 5.8), facecolor="black", layout="constrained")
    axes = figure.subplots(len(PLANES), len(columns), squeeze=False)
    for column, (name, array, options, scaled) in enumerate(columns):
        shown = _draw_planes(axes[:, column], array, affine, options, name, inside if column else None)
        if scaled:
            bar = figure.colorbar(shown, ax=axes[:, column], location="right", fraction=0.1)
            bar.ax.tick_params(colors="white", labelsize=6)
    for axis, (plane, _normal) in zip(axes[:, 0], PLANES):
        _name_plane(axis, plane, plane)
    if foot:
        figure.supxlabel(foot, color="white", fontsize=8)
    save_figure(figure, path)


OUTLINE_SHARE = 0.25
"""Of a volume's intensity range from its lower end, at which it is outlined."""


def _draw_planes(axes, array: np.ndarray, affine: np.ndarray, look: dict, title: str, inside: np.ndarray | None):
    """Draw the middle slices of a map into three axes below each other, one a plane, and return the last picture.

    :param inside: what is outlined too, 1 or 0, with its axes in the order closest to RAS.
    """
    leading = array if array.ndim == 3 else np.moveaxis(array, -1, 0)
    moved, affine = to_closest_ras(leading, affine)
    spacing = spacing_of(affine)
    for axis, (_plane, normal) in zip(axes, PLANES):
        across, up = [other for other in range(3) if other != normal]
        picture = np.take(moved, moved.shape[-3:][normal] // 2, axis=moved.ndim - 3 + normal)
        picture = picture.T if picture.ndim == 2 else picture.transpose(2, 1, 0)
        shown = axis.imshow(
            picture, origin="lower", aspect=spacing[up] / spacing[across], interpolation="nearest", **look
        )
        if inside is not None:
            flat = np.take(inside, inside.shape[normal] // 2, axis=normal).T
            if 0 < flat.mean() < 1:
                axis.contour(flat, [0.5], colors=["0.55"], linewidths=0.5)
        axis.invert_xaxis()
        axis.set_axis_off()
    axes[0].set_title(title, color="white", fontsize=8)
    return shown


def save_figure(figure, path: Path) -> None:
    """Write a matplotlib figure as PNG, beside first and renamed.

    :raises InputError: the file cannot be written.
    """
    with beside(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png", facecolor=figure.get_facecolor())
