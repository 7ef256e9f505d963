"""A folder of files at an address of this computer, for tests of what is fetched."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from pathlib import Path

from GEDGANLib.synthesis.model_file import load_model, save_model


def passed_on(source: Path, path: Path) -> None:
    """Write a model without what tells who taught it."""
    model = load_model(source)
    about = {name: value for name, value in model.about.items() if name != "trained_images"}
    save_model(path, model.generator, model.plan, about)


@contextmanager
def served(folder: Path, moved: str = ""):
    """The address of a folder on this computer; ``/moved`` there leads elsewhere."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", moved)
                self.end_headers()
                return
            super().do_GET()

        def log_message(self, *words) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
