"""Long jobs: their events, and the process that does them."""
