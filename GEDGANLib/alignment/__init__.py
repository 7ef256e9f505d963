"""Scans brought to a common template: affine transformations and velocities, registration, what is the same in all."""
