"""A data set that one process writes, or several of a job array: case by case, each file whole, described in the end.

A process that writes the second of eight shards keeps what it wrote in ``.shards/2-of-8``; whoever finds all of them
done describes the data set as a whole. One that was killed is started again, and writes its cases anew. What all of
them were asked for stands in ``.shards/about.json``, and who was asked for something else is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.writing import PARTIAL, claim_empty_folder, explain_unwritable, growing_folder, sole_owner, write_bytes
from ..volumes.case import Case, labels_digest
from . import folder as plain
from . import nnunet

SHARDS, ABOUT, RECORD = ".shards", "about.json", "written.json"
DESCRIBED = {"nnunet": "dataset.json", "folder": "provenance.json"}
"""What makes a data set of files, and is written last."""
PARTS = {"nnunet": ("imagesTr", "labelsTr"), "folder": ("images", "labels")}


@dataclass(frozen=True)
class Shard:
    """The i-th of n parts of a job.

    :param number: from 1 on.
    """

    number: int = 1
    count: int = 1

    def of(self, things: Sequence[Any]) -> list[Any]:
        """Every n-th of them."""
        return list(things[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Description:
    """What a data set is.

    :param labels: name and number of each.
    :param channel_names: as ``dataset.json`` has them.
    """

    words: str
    labels: dict[str, int]
    channel_names: tuple[str, ...]


class GrowingDataset:
    """See the module's text.

    :param kind: ``nnunet`` or ``folder``.
    """

    def __init__(self, folder: Path, kind: str, description: Description) -> None:
        self.folder, self.kind, self.description = folder, kind, description
        self.provenance: dict[str, dict] = {}

    def add(self, case: Case, ending: str = ".nii.gz") -> None:
        """Write all files of a case, or none of them.

        :param ending: of the files, in a plain folder.
        :raises InputError: the disk is full.
        """
        try:
            for part in PARTS[self.kind]:
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            if self.kind == "nnunet":
                nnunet.write_case(self.folder, case, "")
            else:
                plain.write_case(self.folder, case, "", ending)
        except OSError as error:
            raise explain_unwritable(self.folder, error) from error
        self.provenance[case.name] = case.provenance
        if "trust" in case.provenance:  # nobody drew it: who is given the file later can tell whether anybody has since
            self.provenance[case.name] = {**case.provenance, "labels_digest": labels_digest(case.labels)}

    def describe(self, provenance: dict[str, dict]) -> None:
        """Make a data set of the files.

        :param provenance: of all cases, by name; nothing is described where there are none.
        :raises InputError: the disk is full.
        """
        if not provenance:
            return
        provenance = dict(sorted(provenance.items()))
        try:
            if self.kind == "folder":
                made = {name: origin for name, origin in provenance.items() if origin}
                plain.describe(self.folder, self.description.labels, self.description.words, made)
            else:
                words = self.description
                nnunet.describe(
                    self.folder, words.labels, words.channel_names, len(provenance), words.words, provenance
                )
        except OSError as error:
            raise explain_unwritable(self.folder, error) from error

    def close(self, shard: Shard, finish: Callable[[dict[str, dict]], Any]) -> bool:
        """Keep what was written; where all shards are done, describe the data set.

        :param finish: writes what else belongs to it, from the provenance of all cases, before it is described.
        :returns: whether all shards are done.
        :raises InputError: the disk is full.
        """
        if shard.count == 1:
            finish(self.provenance)
            self.describe(self.provenance)
            return True
        place = self.folder / SHARDS
        own = place / str(shard) / RECORD
        if not own.exists():
            write_bytes(own, json.dumps(self.provenance).encode("utf-8"))
        records = [place / str(Shard(number + 1, shard.count)) / RECORD for number in range(shard.count)]
        if not all(record.exists() for record in records):
            return False
        with ExitStack() as stack:
            try:
                stack.enter_context(sole_owner(place))
            except InputError:  # another one does it
                return True
            provenance: dict[str, dict] = {}
            for record in records:
                provenance |= json.loads(record.read_text("utf-8"))
            for part in PARTS[self.kind]:
                for half in (self.folder / part).glob(f"{PARTIAL}*"):  # of a process that was killed
                    half.unlink(missing_ok=True)
            finish(provenance)
            self.describe(provenance)
        return True


@contextmanager
def shard_folder(folder: Path, kind: str, shard: Shard, asked: dict[str, Any]) -> Iterator[bool]:
    """Claim a folder for a process that writes a shard into it; what it wrote stays, whatever happens.

    :param kind: see :class:`GrowingDataset`; where nothing came, the empty folders of its parts are removed.
    :param asked: what all shards are asked for alike, as JSON has it.
    :returns: whether the shard was written before, and only the data set is not described yet.
    :raises InputError: it holds other files or the shard already, another process writes that, or the others were asked
        for something else.
    """
    parts = PARTS[kind]
    if shard.count == 1:
        with growing_folder(folder, parts):
            yield False
        return
    place = folder / SHARDS
    if not (place / ABOUT).exists():
        claim_empty_folder(folder, lambda path: path.name in (SHARDS, *parts))
    own = place / str(shard)
    try:
        own.mkdir(parents=True, exist_ok=True)
        _agree(place, asked)
    except OSError as error:
        raise explain_unwritable(folder, error) from error
    before, now = json.loads((place / ABOUT).read_text("utf-8")), json.loads(json.dumps(asked))
    if before != now:
        other = [name for name in now if before.get(name) != now[name]]
        raise InputError(
            f"The other shards in {folder} were asked for something else: {', '.join(other) or 'other options'}.",
            "Give all shards the same options, and n the same number.",
        )
    written = (own / RECORD).exists()
    if written and (folder / DESCRIBED[kind]).exists():
        raise InputError(f"Shard {shard.number} of {shard.count} is in {folder} already.", "Leave it as it is.")
    with sole_owner(own):
        yield written


def _agree(place: Path, asked: dict[str, Any]) -> None:
    """Write down what all shards are asked for, unless one that began earlier has; of several that begin at once, one.

    :raises OSError: it cannot be written.
    """
    with tempfile.NamedTemporaryFile("w", dir=place, prefix=PARTIAL, delete=False, encoding="utf-8") as file:
        json.dump(asked, file, sort_keys=True)
    try:
        if not (place / ABOUT).exists():
            os.link(file.name, place / ABOUT)  # fails where it is there by now, other than a renaming
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not (place / ABOUT).exists():
            os.replace(file.name, place / ABOUT)
    finally:
        Path(file.name).unlink(missing_ok=True)
