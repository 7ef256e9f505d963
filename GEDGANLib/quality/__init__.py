"""How good synthesized cases are: features, distances in them, what a segmentation network learns from them."""
