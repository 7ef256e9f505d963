"""Files are written beside their place and renamed, so that a kill or a full disk never leaves half a file."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError

PROBE_BYTES = 1_000_000
LOCK, PARTIAL = ".lock", ".partial-"
"""Names in a folder: of the file that says who works there, and of what begins files that are not complete."""


def explain_unwritable(path: Path, error: OSError) -> InputError:
    """What to tell a person about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, hint = "the disk is full", "Free some space, or choose a folder on another disk."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason, hint = "the folder is write-protected", "Choose a folder of your own."
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        reason, hint = "a file stands where a folder would have to be", "Choose another folder."
    else:
        reason, hint = error.strerror or str(error), "Choose another folder."
    return InputError(f"{path} could not be written: {reason}.", hint)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give the path of a file to write; when the block ends well it takes the place of ``path``.

    :raises InputError: it could not be written; what was at ``path`` before is still there.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise explain_unwritable(path, error) from error
    finally:
        with suppress(OSError):  # where nothing could be written there is nothing to remove
            partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, like: Path | None = None) -> None:
    """Write a file that is on the disk, not in a cache, when this returns.

    :param like: a file whose permissions and times it gets.
    :raises InputError: it could not be written.
    """
    with beside(path) as partial:
        with open(partial, "wb") as file:
            if like is not None:  # before there is anything in it that others must not read
                shutil.copymode(like, partial)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if like is not None:
            shutil.copystat(like, partial)


def claim_empty_folder(folder: Path, leftovers: Callable[[Path], bool] = lambda path: False) -> None:
    """Make sure that a job may write into ``folder``, and create it.

    :param leftovers: says of a file in it whether it is left of such a job, and may be there.
    :raises InputError: it is a file, holds something already, or cannot be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file.", "Give the name of a new folder.")
        if folder.exists() and not _free(folder, leftovers):
            raise InputError(
                f"{folder} already holds files.", "Give a new folder, so that nothing of yours is overwritten."
            )
        probe(folder)
    except OSError as error:
        raise explain_unwritable(folder, error) from error


def _free(folder: Path, leftovers: Callable[[Path], bool] = lambda path: False) -> bool:
    """Whether there is nothing in a folder but what a job leaves that was ended before it wrote anything of use."""
    return all(path.name == LOCK or path.name.startswith(PARTIAL) or leftovers(path) for path in folder.iterdir())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Claim ``folder`` and give a place to write into; what is there when the block ends well comes into ``folder``.

    Where the block fails, or is interrupted, nothing of it stays.

    :raises InputError: as :func:`claim_empty_folder`; or the folder has files of the same names when the block ends.
    """
    made = _missing(folder)
    claim_empty_folder(folder)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{os.getpid()}-", dir=folder))
        try:
            yield partial
            _bring(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except BaseException as error:
        _remove_empty(made)
        if isinstance(error, OSError):
            raise explain_unwritable(folder, error) from error
        raise


def _bring(partial: Path, folder: Path) -> None:
    """Move everything in ``partial`` to ``folder``.

    :raises InputError: a file there has the name of one of these, or cannot be moved; what is left is kept, and named.
    """
    kept = folder / f"results-{os.getpid()}"
    paths = sorted(partial.iterdir())
    try:
        if any((folder / path.name).exists() for path in paths):
            raise FileExistsError(errno.EEXIST, "something else was written there meanwhile")
        for path in paths:
            os.replace(path, folder / path.name)
    except BaseException as error:
        os.replace(partial, kept)
        if not isinstance(error, OSError):
            raise
        words = f"Not everything could be brought into {folder}: {error.strerror}."
        raise InputError(words, f"What was made is in {kept}.") from error


@contextmanager
def growing_folder(folder: Path, parts: Sequence[str]) -> Iterator[None]:
    """Claim ``folder`` for a block that writes into it bit by bit; what was written stays, whatever happens.

    :param parts: names of the folders that the block makes in it; where it fails, empty ones are removed.
    :raises InputError: as :func:`claim_empty_folder`.
    """
    made = _missing(folder)
    claim_empty_folder(folder)
    try:
        yield
    except BaseException:
        for part in parts:
            _remove_empty([folder / part])
        _remove_empty(made)
        raise


def _missing(folder: Path) -> list[Path]:
    """A folder and those it lies in, as far as they are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, until one that something is in."""
    with suppress(OSError):
        for path in folders:
            path.rmdir()


def claim_new_file(path: Path, suffix: str) -> None:
    """Make sure that a job may write the file ``path``, and create the folder it lies in.

    :param suffix: the ending it must have, with its dot.
    :raises InputError: another ending, it exists, or it cannot be written.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path} does not end in {suffix}.", f"Name it {path.with_suffix(suffix).name}, for example.")
    if path.exists():
        raise InputError(
            f"{path} exists already; it is not overwritten.", "Give another name, or remove it if you can do without."
        )
    try:
        probe(path.parent)
    except OSError as error:
        raise explain_unwritable(path, error) from error


@contextmanager
def sole_owner(folder: Path, alone: bool = True) -> Iterator[None]:
    """Hold ``folder`` for this process as long as the block runs; the system lets go of it when the process dies.

    :param alone: False in a process that works for the one that holds the folder.
    :raises InputError: another process holds it.
    """
    if not alone:
        yield
        return
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            raise InputError(
                f"Another process is working in {folder}.",
                "Wait for it, or stop it by an empty file named STOP in that folder.",
            ) from error
        yield


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def probe(folder: Path) -> None:
    """Create ``folder`` and write a file there for a moment; the folder is removed again if that fails.

    :raises OSError: no permission, no room.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{PARTIAL}{os.getpid()}-probe"
    try:
        file.write_bytes(b"\0" * PROBE_BYTES)
    except OSError:
        file.unlink(missing_ok=True)
        if not existed:
            folder.rmdir()
        raise
    file.unlink()
