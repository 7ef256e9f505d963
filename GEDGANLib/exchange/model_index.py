"""An index of models that a group puts anywhere: one JSON file at an address, and the model files beside it.

.. code-block:: json

    {"format": "GED-GAN models", "format_version": 1,
     "models": [{"name": "knees", "card": "from 80 knees, MR at 1 mm, CC BY 4.0", "file": "knees.safetensors",
                 "size": 4087500, "sha256": "…"}]}

``file`` is relative to the index. Addresses are ``https``, and plain ``http`` on this computer alone, after
redirections too. Not more is read than the index says, what was read has its SHA-256, and it is a model before it takes
its place: nothing of it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from .. import __version__
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..jobs.writing import beside, write_bytes
from ..synthesis.known_models import NAME, SUFFIX, claim_name
from ..synthesis.model_file import read_header, what_it_holds
from ..synthesis.statistical import is_local

FORMAT, FORMAT_VERSION = "GED-GAN models", 1
LARGEST_INDEX, LARGEST_MODEL = 1_000_000, 2_000_000_000
"""Bytes."""
LONGEST_CARD = 4000
"""Characters of a card that are shown."""
SECONDS = 30
"""Without an answer, after which an address counts as not reachable."""
CHUNK = 1 << 20
DIGEST = re.compile(r"[0-9a-f]{64}")
HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Entry:
    """A model of an index.

    :param card: what it is from and for, by whoever offers it.
    :param file: its address.
    :param size: bytes.
    :param sha256: of the file, hexadecimal.
    """

    name: str
    card: str
    file: str
    size: int
    sha256: str


def read_index(address: str) -> list[Entry]:
    """The models that an index offers.

    :raises InputError: it cannot be reached, or is no index.
    """
    with _open(address) as answer:
        content = _read(answer, LARGEST_INDEX + 1, address)
        base = answer.geturl()
    if len(content) > LARGEST_INDEX:
        raise InputError(f"What is at {address} is too large for an index of models.", "Check the address.")
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise ValueError("another format")
        if int(values["format_version"]) > FORMAT_VERSION:
            raise InputError(f"The index at {address} is for a newer GED-GAN.", "Update GED-GAN.")
        found = [_entry(each, base) for each in values["models"]]
        if len({entry.name.casefold() for entry in found}) < len(found):
            raise ValueError("a name twice")
        return found
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"What is at {address} is no index of models of GED-GAN.", "Check the address.") from error


def _entry(values: dict[str, Any], base: str) -> Entry:
    name, file, size, digest = values["name"], values["file"], values["size"], str(values["sha256"]).lower()
    if not NAME.fullmatch(name) or not DIGEST.fullmatch(digest) or type(size) is not int:
        raise ValueError("not as an entry is")
    if not 0 < size <= LARGEST_MODEL:
        raise ValueError("a size that cannot be")
    words = "".join(letter if letter.isprintable() else " " for letter in str(values.get("card", "")))
    address = urljoin(base, str(file))
    if not address.isprintable() or (urlsplit(base).scheme == "https" and urlsplit(address).scheme != "https"):
        raise ValueError("an address that no index names")
    return Entry(name, " ".join(words.split())[:LONGEST_CARD], address, size, digest)


def fetch(entry: Entry, folder: Path | None = None, progress: Progress = quiet) -> Path:
    """Bring a model of an index into the user's own folder; it is there whole, or not at all.

    :param folder: in place of :func:`GEDGANLib.synthesis.known_models.own_folder`.
    :raises InputError: it cannot be reached or written, is not what the index says, or a model has its name.
    """
    path = claim_name(entry.name, folder)
    found, done = hashlib.sha256(), 0
    with beside(path) as partial:
        with _open(entry.file) as answer, open(partial, "wb") as file:
            while chunk := _read(answer, min(CHUNK, entry.size - done + 1), entry.file):
                done += len(chunk)
                if done > entry.size:
                    break
                found.update(chunk)
                file.write(chunk)
                progress(done / entry.size, 1, entry.name)
        if done != entry.size or found.hexdigest() != entry.sha256:
            raise InputError(
                f"{entry.file} is not the file that the index names: its size or its SHA-256 is another.",
                "Nothing of it was kept. Tell whoever keeps the index.",
            )
        try:
            read_header(partial)
        except InputError as error:
            raise InputError(f"{entry.file} is no model of GED-GAN. Nothing of it was kept.", error.hint) from error
    return path


def write_index(folder: Path) -> Path:
    """Write ``index.json`` of the models in a folder, to be put at an address together; what was there is replaced.

    :raises InputError: there is none, one cannot be read or is not for sharing, or it cannot be written.
    """
    entries = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        name = path.name.removesuffix(SUFFIX)
        if not NAME.fullmatch(name):  # a network, or what nobody could ask for
            continue
        plan, about = read_header(path)
        if is_local(about) or "trained_images" in about or what_it_holds(plan, about):
            raise InputError(
                f"{path} tells which scans it is of, or holds them.",
                "Put what gedgan share writes of it there. Models of scans that were not aligned have no such form.",
            )
        words = " ".join((about.get("words") or f"From {plan.description or 'unnamed scans'}.").split())[:LONGEST_CARD]
        content = path.read_bytes()
        entries.append(Entry(name, words, path.name, len(content), hashlib.sha256(content).hexdigest()))
    if not entries:
        raise InputError(f"{folder} holds no model.", f"Put files NAME{SUFFIX} into it.")
    values = {"format": FORMAT, "format_version": FORMAT_VERSION, "models": [asdict(entry) for entry in entries]}
    write_bytes(folder / "index.json", (json.dumps(values, indent=1) + "\n").encode("utf-8"))
    return folder / "index.json"


class _SafeRedirections(HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, address):
        _refuse_unsafe(address)
        if request.type == "https" and urlsplit(address).scheme != "https":
            raise InputError(f"{request.full_url} leads to {address}, which is no https address.", "Do not use it.")
        return super().redirect_request(request, file, code, message, headers, address)


def _refuse_unsafe(address: str) -> None:
    """:raises InputError: an address whose answer anybody on the way could change."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in HERE):
        raise InputError(f"{address} is no https address.", "Models are fetched over https alone.")


def _read(answer: Any, count: int, address: str) -> bytes:
    """:raises InputError: it breaks off."""
    try:
        return answer.read(count)
    except (OSError, HTTPException) as error:
        raise InputError(f"{address} breaks off: {error}.", "Try again.") from error


@contextmanager
def _open(address: str) -> Iterator[Any]:
    """What is at an address.

    :raises InputError: it cannot be reached, or breaks off.
    """
    try:
        _refuse_unsafe(address)
        request = Request(address, headers={"User-Agent": f"GED-GAN/{__version__}"})
        with build_opener(_SafeRedirections).open(request, timeout=SECONDS) as answer:
            yield answer
    except HTTPError as error:
        raise InputError(f"{address} answers {error.code} ({error.reason}).", "Check the address.") from error
    except (URLError, TimeoutError, ConnectionError, SSLError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{address} cannot be reached: {reason}.", "Check the address and the network.") from error
