"""GED-GAN: synthesize volumes with their segmentations, learned from the scans a researcher has.

The library behind the 3D Slicer module of the same name; it runs without Slicer too. Importing it does no work and
loads neither torch nor monai: those are imported where they are used.
"""

__version__ = "0.1.0"
