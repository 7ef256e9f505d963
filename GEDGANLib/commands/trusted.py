"""How far made segmentations can be trusted, as a table and as a sheet of pictures, the least first."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..jobs.writing import write_bytes

SHOWN, COLUMNS, TOLD = 24, 6, 5


class Shown:
    """Keeps the cases that are to be trusted least."""

    def __init__(self) -> None:
        self.cases: list[Any] = []

    def add(self, case: Any) -> None:
        """Take a case whose ``provenance`` tells its trust."""
        self.cases = sorted([*self.cases, case], key=lambda each: (each.provenance["trust"], each.name))[:SHOWN]

    def words(self) -> str:
        """The least to be trusted, by name."""
        return ", ".join(f"{case.name} ({case.provenance['trust']:.2f})" for case in self.cases[:TOLD])

    def write(self, path: Path, title: str) -> None:
        """A sheet of pictures of them."""
        from ..volumes.pictures import contact_sheet

        groups = [self.cases[start : start + COLUMNS] for start in range(0, len(self.cases), COLUMNS)]
        headings = [[f"{case.name[-18:]} {case.provenance['trust']:.2f}" for case in group] for group in groups]
        contact_sheet(path, [("", group) for group in groups], title, headings)


def write_trust(
    path: Path, provenance: Mapping[str, dict], labels: Sequence[Any], column: str, of: Callable[[dict], str]
) -> None:
    """A table of how far each case can be trusted, the least first; drawn ones, which tell no trust, are left out.

    :param column: heading of the last one.
    :param of: what stands in it, from what is told of a case.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    names = [label.name for label in labels]
    writer.writerow(["case", "trust", *(f"trust of {name}" for name in names), column])
    made = {name: origin for name, origin in provenance.items() if "trust" in origin}
    for name, origin in sorted(made.items(), key=lambda item: (item[1]["trust"], item[0])):
        writer.writerow([name, origin["trust"], *(origin[f"trust of {label}"] for label in names), of(origin)])
    write_bytes(path, text.getvalue().encode("utf-8"))


def write_shares(folder: Path, made: Any) -> None:
    """The soft segmentation: a volume a label, on the scan's own voxels; ``shares/CASE_02`` of the second label.

    :param made: has ``case`` and ``share_of``.
    """
    from ..volumes.files import write_volume

    place = folder / "shares"
    place.mkdir(exist_ok=True)
    for number, label in enumerate(made.case.label_table, 1):
        path = place / f"{made.case.name}_{number:02d}.nii.gz"
        write_volume(path, made.share_of(number), made.case.affine, f"share of {label.name}")


def tell_made(
    words: str, shown: Shown, is_written: bool, whole: bool, shard: Any, table: Path, sheet: Path, title: str
) -> None:
    """Say what came of a command that makes segmentations; where it made all of them, with a sheet.

    :param words: of what it made.
    :param is_written: its shard was there before.
    :param whole: the data set is.
    """
    print(f"Shard {shard.number} of {shard.count} was there already." if is_written else words)
    if not whole:
        print(f"That was shard {shard.number} of {shard.count}; the data set is whole when all of them are done.")
    elif shown.cases and shard.count == 1:
        shown.write(sheet, title)
        print(f"The least to be trusted: {shown.words()}. All of them: {table}; {sheet}")
