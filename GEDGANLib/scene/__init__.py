"""Cases into a 3D Slicer scene and back. ``slicer`` is imported inside functions: Slicer's own, or slicer-core's."""
