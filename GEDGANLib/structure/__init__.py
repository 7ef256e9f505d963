"""The eigen-directional field of an image: structure tensor, eigen-system, and what D sees of it."""
