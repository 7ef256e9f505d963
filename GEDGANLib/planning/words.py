"""The words that a plan may hold, an entry of it each."""

from __future__ import annotations

TRAINED_METHODS = ("ged", "article")
METHODS = (*TRAINED_METHODS, "modes")
ARTICLE_STRIDE = 8
OBJECTIVES = ("relativistic", "bce", "hinge", "wasserstein", "article")
PRECISIONS, VOLUMES = ("float32", "bfloat16", "float16"), ("whole", "parts")
MAPPINGS = ("percentiles", "foreground", "window")
GENERATORS = ("trunk", "refiner")
HEADS, PAIR_SEES = ("shared", "separate"), ("image", "field", "both")
FIELD_KINDS = ("eigen-directional", "tensor", "gradient", "none")
OPTIMIZERS = ("adam", "PRP+", "FR", "HS", "DY", "HZ")
ALIGNMENTS = ("template", "none")
AUGMENTATIONS = ("shift", "scale", "rotation", "intensity", "noise", "cut-out")
MOST_LABELS = 32
"""That are learned at once: each is a channel of its own at every voxel."""
NOTE = "Note: "
"""How a reason begins that is a warning."""
