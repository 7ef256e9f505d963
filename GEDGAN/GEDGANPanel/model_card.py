"""What a model says of itself, in words; read from the file's header, without PyTorch."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from GEDGANLib.errors import InputError
from GEDGANLib.quality.words import WORTH
from GEDGANLib.synthesis.model_file import read_header, read_report, variety_if_alike


@dataclass(frozen=True)
class ModelCard:
    """A model file that can be used."""

    path: Path
    plan: Any
    about: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> ModelCard:
        """:raises InputError: not a model."""
        plan, about = read_header(path)
        return cls(Path(path), plan, about)

    @cached_property
    def learned_from(self) -> Path | None:
        """The folder it learned from, if the run it lies in says so."""
        for name in ("run.json", "align.json"):
            try:
                return Path(json.loads((self.path.parent / name).read_text(encoding="utf-8"))["data"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def training_data(self) -> Path | None:
        """The folder it learned from, if it is known and there."""
        folder = self.learned_from
        return folder if folder is not None and folder.is_dir() else None

    def report(self) -> list[str]:
        """What the last report of this very model came to, a sentence each; nothing where there is none."""
        try:
            return [str(line) for line in read_report(self.path)["summary"]]
        except (InputError, KeyError, TypeError):
            return []

    @cached_property
    def worth(self) -> str:
        """What the report says that its variations are worth for a segmentation of the user's data; "" where it does
        not."""
        return next((line for line in self.report() if line.startswith(WORTH)), "")

    def lines(self) -> list[str]:
        """Plain sentences for people."""
        plan, about = self.plan, self.about
        shape = "×".join(str(side) for side in plan.grid.shape)
        spacing = "×".join(f"{side:.3g}" for side in plan.grid.spacing)
        labels = ", ".join(label.name for label in plan.labels) or _("no segmentation")
        lines = [
            _("Learned from: {source}").format(source=plan.description or _("unnamed scans")),
            _("Makes: {shape} voxels of {spacing} mm, {channels} channel(s); {labels}").format(
                shape=shape, spacing=spacing, channels=len(plan.channels), labels=labels
            ),
        ]
        if plan.classes:
            lines.append(_("Classes: {classes}").format(classes=", ".join(plan.classes)))
        cases, steps = about.get("cases"), about.get("steps")
        if plan.method == "modes":
            lines += self._of_alignment()
        elif cases or steps:
            lines.append(_("Trained on {cases} cases for {steps} steps").format(cases=cases or "?", steps=steps or "?"))
        if about.get("words"):
            lines.append(str(about["words"]))
        if plan.repaints and about.get("card"):
            lines.append(_("What it gives away: {card}").format(card=about["card"]))
            if "trained_images" in about:
                lines.append(_("Pass on what gedgan share writes of it: this file tells who was learned from."))
        elif plan.repaints:
            lines.append(
                _(
                    "It holds {count} directions of its scans, from which single scans can be told: pass it on only to "
                    "whom you would give the scans."
                ).format(count=plan.statistical.modes)
            )
        variety = variety_if_alike(about)
        if variety is not None:
            lines.append(
                _(
                    "Its cases hardly differ ({share:.0%} of the variety of its training cases): train it longer."
                ).format(share=variety)
            )
        return lines

    def _of_alignment(self) -> list[str]:
        """Of a statistical model: what it is of, and who may have it."""
        cases, directions = self.about.get("cases", "?"), self.plan.networks.latent_size
        lines = [
            _("Made of {cases} aligned scans: {directions} directions in which they differ, nothing trained").format(
                cases=cases, directions=directions
            )
        ]
        if self.about.get("kind") == "local":
            lines.append(
                _("It holds the shapes of single scans: keep it on this computer, and share another form of it")
            )
        elif self.about.get("card"):
            lines.append(_("What it gives away: {card}").format(card=self.about["card"]))
        return lines

    def as_html(self) -> str:
        lines = "<br>".join(html.escape(line) for line in self.lines())
        report = self.report()
        if not report:
            return lines + "<br><i>" + html.escape(_("No report yet: see Judge and export.")) + "</i>"
        return (
            lines
            + "<br>"
            + _("Report:")
            + "<ul>"
            + "".join(f"<li>{html.escape(line)}</li>" for line in report)
            + "</ul>"
        )
