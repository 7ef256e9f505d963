"""What GED-GAN needs of Slicer's Python, whether it is there, and how it gets there when the user says so.

PyTorch comes through the extension PyTorch, which knows the graphics card; the other packages through Slicer's own
``slicer.packaging``. Nothing is imported to find out, and numpy, SciPy, SimpleITK and torch are held at the versions
that are there while the others are installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from GEDGANLib.errors import InputError

TORCH_SUITABLE = ">=2.4"
TORCH_TO_INSTALL = ">=2.4,<2.13"
"""PyTorch 2.13 cannot be installed under the long paths of Slicer on Windows."""
HELD = ("torch", "torchvision", "numpy", "scipy", "SimpleITK")
"""Packages that no installation of ours may change: Slicer, or the extension PyTorch, chose their versions."""
PENDING = "GEDGAN/setUpPending"


@dataclass(frozen=True)
class SetUp:
    """What is there.

    :param extension: the extension PyTorch is installed.
    :param torch: version of PyTorch, "" where it is missing or too old.
    :param missing: other packages that are missing.
    """

    extension: bool
    torch: str
    missing: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return bool(self.torch) and not self.missing

    def words(self, devices: str = "") -> str:
        """One line for the panel.

        :param devices: what can compute, in words; "" where that is not known yet.
        """
        if self.ready:
            return _("Ready: PyTorch {version}. {devices}").format(version=self.torch, devices=devices).strip()
        lacking = [] if self.torch or self.extension else [_("the extension PyTorch")]
        lacking += [] if self.torch else [_("PyTorch itself (a download of 0.2 to 3 GB)")]
        lacking += [_("the packages {names}").format(names=", ".join(self.missing))] if self.missing else []
        return _("Missing: {parts}. Press Set up; you are asked before anything is installed.").format(
            parts=", ".join(lacking)
        )


def requirements_of(path: Path) -> list[str]:
    """The lines of a requirements file that name packages."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _satisfied(requirement: str) -> bool:
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    try:
        return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def look(requirements: Path) -> SetUp:
    """What is there now; quick, and imports nothing.

    :param requirements: file of the packages beside PyTorch.
    """
    torch = importlib.metadata.version("torch") if _satisfied(f"torch{TORCH_SUITABLE}") else ""
    missing = tuple(each for each in requirements_of(requirements) if not _satisfied(each))
    return SetUp(importlib.util.find_spec("PyTorchUtils") is not None, torch, missing)


def set_up(requirements: Path) -> str:
    """Install what is missing, asking first, and return what to tell the user. Main thread only.

    :raises InputError: the user declined, the extension cannot be had, or an installation failed.
    """
    state = look(requirements)
    if not state.torch:
        if not state.extension:
            return _install_extension()
        _install_torch()
    if state.missing:
        _install_packages(state.missing)
    importlib.invalidate_caches()
    state = look(requirements)
    if not state.ready:
        raise InputError(
            _("Something is still missing."),
            _("Restart Slicer and press Set up again; the Python console has details."),
        )
    return _("Everything is there.")


def _install_extension() -> str:
    from . import places

    model = slicer.app.extensionsManagerModel()
    if model is not None and model.isExtensionInstalled("PyTorch"):
        return _("The extension PyTorch is installed. Restart Slicer, and press Set up once more.")
    question = _(
        "GED-GAN needs the extension PyTorch. Install it now? Restart Slicer afterwards, and press Set up once more."
    )
    if model is None or not slicer.util.confirmOkCancelDisplay(question):
        raise InputError(
            _("The extension PyTorch is not installed."),
            _("Install it from the Extensions Manager, restart Slicer, and press Set up again."),
        )
    asked, model.interactive = model.interactive, False
    try:
        # Without a restart: it would close Slicer, and a scene that is not saved would be lost.
        installed = model.installExtensionFromServer("PyTorch", False)
    finally:
        model.interactive = asked
    if not installed:
        raise InputError(
            _("The extension PyTorch could not be installed."),
            _("Check the network, or install it from the Extensions Manager."),
        )
    places.keep_setting(PENDING, "true")
    return _("The extension PyTorch is installed. Save your scene, restart Slicer, and press Set up once more.")


def _install_torch() -> None:
    import PyTorchUtils

    question = _("Install PyTorch now? It is a download of 0.2 to 3 GB; Slicer does not answer for some minutes.")
    if not slicer.util.confirmOkCancelDisplay(question):
        raise InputError(_("PyTorch was not installed."), _("Press Set up when you want it."))
    try:
        with slicer.util.WaitCursor():
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=False, torchVersionRequirement=TORCH_TO_INSTALL
            )
    except Exception as error:  # pip's, the loader's and the extension's own kinds
        raise InputError(
            _("PyTorch could not be installed: {reason}.").format(reason=_first_line(error)),
            _("Check the network and the disk, restart Slicer, and press Set up again."),
        ) from error
    if torch is None:
        raise InputError(_("PyTorch was not installed."), _("Press Set up when you want it."))


def _install_packages(missing: Sequence[str]) -> None:
    """:raises InputError: declined or failed."""
    with tempfile.TemporaryDirectory(prefix="gedgan-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(_held_versions()) + "\n", encoding="utf-8")
        try:
            if importlib.util.find_spec("slicer.packaging") is not None:
                import slicer.packaging

                slicer.packaging.pip_ensure(list(missing), constraints=constraints, requester="GEDGAN")
            else:  # Slicer 5.10
                question = _("GED-GAN needs these packages: {names}. Install them now?")
                if not slicer.util.confirmOkCancelDisplay(question.format(names=", ".join(missing))):
                    raise RuntimeError(_("declined"))
                slicer.util.pip_install([*missing, "--constraint", str(constraints)])
        except Exception as error:  # RuntimeError where the user declines, CalledProcessError where pip fails
            raise InputError(
                _("The packages were not installed: {reason}.").format(reason=_first_line(error)),
                _("Check the network, and press Set up again."),
            ) from error


def _held_versions() -> list[str]:
    lines = []
    for name in HELD:
        try:
            # The part after + says for which processor it was built; package indexes do not know it.
            lines.append(f"{name}=={importlib.metadata.version(name).split('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return lines


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
