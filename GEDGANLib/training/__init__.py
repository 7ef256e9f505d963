"""Objectives, the training loop and its state. Never imports ``scene`` or ``exchange``."""
