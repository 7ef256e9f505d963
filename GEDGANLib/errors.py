"""The errors a person is meant to read."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used; nothing was written and nothing is lost.

    ``message`` says which file and what is wrong, ``hint`` what to do about it. The command line prints both
    and ends with status 2; the panel shows them in a message box; the worker sends them as a ``failed`` event.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class StoppedOnRequest(Exception):
    """The user asked a running job to stop; what it had done so far is saved."""
