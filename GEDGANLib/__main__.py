"""``python -m GEDGANLib`` is the command line; the panel starts its worker processes this way."""

from .commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
