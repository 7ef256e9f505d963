"""Cases on disk -> tensors on one working grid, and the exact way back."""
