"""Contact sheet: cases side by side in three planes with their segmentation outlined, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .case import Case
from .geometry import spacing_of, to_closest_ras
from .writing import beside

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
SIDES = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}
"""What is on the left and on the right of each plane: right, left, anterior, posterior."""
LEGEND_LABELS = 8


def _middle(case: Case, labels: np.ndarray | None, shape: Sequence[int]) -> list[int]:
    """Voxel through which the three planes go: the middle of the labels, else of the volume."""
    if labels is None or not labels.any():
        return [side // 2 for side in shape]
    return [round(index) for index in np.argwhere(labels).mean(0)]


def contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Case]]], title: str = "") -> None:
    """Draw groups of cases below each other, each case a column of an axial, a coronal and a sagittal slice.

    Right of the patient is on the left of axial and coronal slices and front on the left of sagittal ones, as
    radiologists and Slicer show them; letters say so. Labels are outlined in their colours, which the foot names.

    :param rows: name and cases of each group; "real" above "synthesized", say.
    :raises InputError: the picture cannot be written.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    columns = max(len(cases) for _, cases in rows)
    sample, affine = to_closest_ras(rows[0][1][0].image, rows[0][1][0].affine)
    size = np.array(sample.shape[1:]) * spacing_of(affine)
    heights = [size[1], size[2], size[2]] * len(rows)
    column_width = 1.7
    figure_height = column_width * sum(heights) / max(size[0], size[1]) + 0.5
    figure = Figure(figsize=(column_width * columns + 0.5, figure_height), facecolor="black")
    axes = figure.subplots(3 * len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis in axes.flat:
        axis.set_axis_off()
    for block, (name, cases) in enumerate(rows):
        for column, case in enumerate(cases):
            image, affine = to_closest_ras(case.image, case.affine)
            labels = None if case.labels is None else to_closest_ras(case.labels, case.affine)[0]
            spacing = spacing_of(affine)
            middle = _middle(case, labels, image.shape[1:])
            low, high = np.percentile(image[0], (0.5, 99.5))
            for row, (plane, normal) in enumerate(PLANES):
                axis = axes[3 * block + row, column]
                across, up = [other for other in range(3) if other != normal]
                picture = np.take(image[0], middle[normal], axis=normal).T
                axis.imshow(
                    picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower",
                    aspect=spacing[up] / spacing[across], interpolation="nearest",
                )  # fmt: skip
                axis.invert_xaxis()
                if labels is not None:
                    flat = np.take(labels, middle[normal], axis=normal).T
                    for label in case.label_table:
                        if (flat == label.index).any():
                            axis.contour(flat == label.index, [0.5], colors=[to_rgb(label.color)], linewidths=0.8)
                if column == 0:
                    for side, letter in zip((0.02, 0.98), SIDES[plane]):
                        axis.text(
                            side, 0.05, letter, color="0.75", fontsize=6, va="bottom",
                            ha="left" if side < 0.5 else "right", transform=axis.transAxes,
                        )  # fmt: skip
                    axis.text(
                        -0.03, 0.5, f"{name}\n{plane}" if row == 0 else plane, color="white", fontsize=7,
                        rotation=90, va="center", ha="right", transform=axis.transAxes,
                    )  # fmt: skip
    if title:
        figure.text(0.5, 1 - 0.12 / figure_height, title, color="white", fontsize=8, ha="center", va="top")
    labels = rows[0][1][0].label_table if rows[0][1][0].labels is not None else ()
    for index, label in enumerate(labels[:LEGEND_LABELS]):
        figure.text(
            0.02 + 0.96 * index / min(len(labels), LEGEND_LABELS), 0.1 / figure_height, label.name,
            color=to_rgb(label.color), fontsize=6, va="center",
        )  # fmt: skip
    top, bottom = 1 - 0.4 / figure_height, (0.22 if labels else 0.05) / figure_height
    figure.subplots_adjust(0.5 / (column_width * columns + 0.5), bottom, 0.99, top, wspace=0.03, hspace=0.03)
    save_figure(figure, path)


def draw_planes(axes, array: np.ndarray, affine: np.ndarray, look: dict, title: str, size: float):
    """Draw the middle slices of a map into three axes below each other, one a plane, and return the last picture.

    :param array: (I, J, K), or (I, J, K, 3) of colours.
    :param look: options of matplotlib's ``imshow``.
    :param size: of the title, points.
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
        axis.invert_xaxis()
        axis.set_axis_off()
    axes[0].set_title(title, color="white", fontsize=size)
    return shown


def save_figure(figure, path: Path) -> None:
    """Write a matplotlib figure as PNG, beside first and renamed.

    :raises InputError: the file cannot be written.
    """
    with beside(path) as partial:
        figure.savefig(partial, dpi=100, format="png", facecolor=figure.get_facecolor())
