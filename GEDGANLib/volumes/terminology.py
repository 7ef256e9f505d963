"""SNOMED CT codes of common structures, in the form that Slicer stores with a segment."""

from __future__ import annotations

CONTEXT = "Segmentation category and type - DICOM master list"
ANATOMY = ("123037004", "Anatomical Structure")
TISSUE = ("85756007", "Tissue")
ALTERED = ("49755003", "Morphologically Altered Structure")

# Name in lower case -> category and type (code, meaning), from the DICOM master list.
CODES = {
    "brain": (ANATOMY, ("12738006", "Brain")),
    "grey matter": (ANATOMY, ("389081007", "Gray Matter")),
    "white matter": (ANATOMY, ("389080008", "White Matter")),
    "cerebral white matter": (ANATOMY, ("68523003", "Cerebral White Matter")),
    "cortical grey matter": (ANATOMY, ("40146001", "Cerebral cortex")),
    "cerebral cortex": (ANATOMY, ("40146001", "Cerebral cortex")),
    "ventricles": (ANATOMY, ("35764002", "Brain ventricle")),
    "ventricle": (ANATOMY, ("35764002", "Brain ventricle")),
    "cerebellum": (ANATOMY, ("113305005", "Cerebellum")),
    "brainstem": (ANATOMY, ("119238007", "Brain stem")),
    "brain stem": (ANATOMY, ("119238007", "Brain stem")),
    "hippocampus": (ANATOMY, ("5366008", "Hippocampus")),
    "liver": (ANATOMY, ("10200004", "Liver")),
    "spleen": (ANATOMY, ("78961009", "Spleen")),
    "kidney": (ANATOMY, ("64033007", "Kidney")),
    "pancreas": (ANATOMY, ("15776009", "Pancreas")),
    "heart": (ANATOMY, ("80891009", "Heart")),
    "lung": (ANATOMY, ("39607008", "Lung")),
    "prostate": (ANATOMY, ("41216001", "Prostate")),
    "bone": (TISSUE, ("272673000", "Bone")),
    "artery": (TISSUE, ("51114001", "Artery")),
    "vein": (TISSUE, ("29092000", "Vein")),
    "vessel": (TISSUE, ("59820001", "Blood vessel")),
    "tumor": (ALTERED, ("4147007", "Mass")),
    "tumour": (ALTERED, ("4147007", "Mass")),
    "mass": (ALTERED, ("4147007", "Mass")),
    "cyst": (ALTERED, ("367643001", "Cyst")),
    "edema": (ALTERED, ("79654002", "Edema")),
}


def terminology_of(name: str) -> str:
    """Slicer's serialised terminology entry for a label's name, "" where the name is not a known one."""
    key = name.strip().lower().replace("_", " ").replace("gray", "grey")
    key = key if key in CODES else key.removesuffix("s")
    if key not in CODES:
        return ""
    category, kind = (("SCT", *code) for code in CODES[key])
    return serialised(category, kind)


def serialised(
    category: tuple[str, str, str], kind: tuple[str, str, str], modifier: tuple[str, str, str] | None = None
) -> str:
    """Slicer's serialised entry of coded entries, each (scheme, value, meaning)."""
    parts = ["^".join(code) for code in (category, kind, modifier or ("", "", ""))]
    return "~".join([CONTEXT, *parts, "Anatomic codes - DICOM master list", "^^", "^^"])
