"""Which class each case belongs to: a column of the table ``participants.tsv`` beside the images, as BIDS has it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from ..errors import InputError
from .volume import in_one_line

TABLES = ("participants.tsv", "participants.csv")
IDENTIFIERS = ("participant_id", "case", "name", "id")
DEFAULT_COLUMN = "class"
UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown"}
MAXIMUM_CLASSES = 16


def _table_of(folder: Path) -> tuple[Path, list[str], str, dict[str, dict[str, str]]] | None:
    """Path, columns, which of them is the identifier, and the row of each case by it; None where there is no table.

    :raises InputError: it cannot be read.
    """
    path = next((folder / name for name in TABLES if (folder / name).exists()), None)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            usual = "\t" if path.suffix == ".tsv" else ","
            # Spreadsheets of many countries separate by semicolons.
            delimiter = usual if usual in first or ";" not in first else ";"
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Save it as UTF-8 text separated by tabs.") from error
    columns = [name for name in rows[0] if name is not None] if rows else []
    identifier = next((name for name in IDENTIFIERS if name in columns), columns[0] if columns else "")
    return path, columns, identifier, {str(row[identifier]).removeprefix("sub-"): row for row in rows}


def read_columns(folder: Path, names: list[str]) -> dict[str, list[str | None]]:
    """What the table says of each case, by the name of the column, None where it says nothing; its identifiers are left
    out. Nothing where there is no table.

    :raises InputError: it cannot be read.
    """
    table = _table_of(folder)
    if table is None:
        return {}
    _, columns, identifier, rows = table
    found: dict[str, list[str | None]] = {}
    for column in columns:
        if column != identifier:
            values = [str(rows.get(name.removeprefix("sub-"), {}).get(column) or "").strip() for name in names]
            found[column] = [None if value.lower() in UNKNOWN else value for value in values]
    return found


def numbers_of(values: list[str | None]) -> list[float | None] | None:
    """The values of a column as numbers, None where one is not known or endless; None where one is no number."""
    try:
        numbers = [None if value is None else float(value) for value in values]
    except ValueError:
        return None
    return [number if number is not None and math.isfinite(number) else None for number in numbers]


def read_classes(folder: Path, names: list[str], column: str | None = None) -> dict[str, str]:
    """Class of each case, by its name; cases of which it is not known are left out.

    :param names: of the cases; a row's identifier may also have BIDS' ``sub-`` before the name.
    :param column: of the table; when not given, ``class`` if the table has it, and else there are no classes.
    :raises InputError: a column was asked for and there is no table, or none of that name; too many classes; no row
        that belongs to a case.
    """
    table = _table_of(folder)
    if table is None:
        if column is not None:
            raise InputError(
                f"{folder} has no {TABLES[0]} that could tell the classes.",
                f"Write one: a line a case, with the columns {IDENTIFIERS[0]} and {column}, separated by tabs.",
            )
        return {}
    path, columns, identifier, rows = table
    wanted = column or DEFAULT_COLUMN
    if wanted not in columns:
        if column is None:
            return {}
        there = ", ".join(str(name) for name in columns) or "none"
        raise InputError(f"{path} has no column called {column}; it has {there}.", "Name one of them.")
    given = {name: in_one_line(row[wanted] or "") for name, row in rows.items()}
    classes = {name: given.get(name.removeprefix("sub-"), "") for name in names}
    known = {name: value for name, value in classes.items() if value.lower() not in UNKNOWN}
    if not known:
        raise InputError(
            f"{path} tells the {wanted} of none of the cases: its {identifier} are called {next(iter(given))} and the "
            f"like, the cases {names[0]} and the like.",
            "Both need the same names.",
        )
    kinds = sorted(set(known.values()))
    if len(kinds) > MAXIMUM_CLASSES:
        raise InputError(
            f"The column {wanted} of {path} has {len(kinds)} different values, {kinds[0]} and {kinds[1]} among them; "
            f"classes can be {MAXIMUM_CLASSES} at most.",
            "Name a column with few values, or sort them into groups first.",
        )
    return known
