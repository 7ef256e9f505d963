"""The parts of the panel: what is missing, parameters, states, jobs, and one module a section.

Only here and in ``GEDGAN.py`` are Qt and Slicer's application used. Names of the scene are looked up when they are
needed, and everything that takes long happens in a worker process or in small steps between which Slicer goes on.
"""
