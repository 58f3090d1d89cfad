"""How long work reports where it is. Renderers live in the command line; the default says nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about phases and steps of long work; must return quickly and never raise."""

    def phase(self, name: str, index: int, total: int) -> None:
        """A phase begins: ``index`` of ``total``, counted from 1."""
        ...

    def step(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` steps of the current phase are finished."""
        ...

    def best(self, text: str) -> None:
        """The best result so far, in words."""
        ...


class Silent:
    """Progress that nobody watches."""

    def phase(self, name: str, index: int, total: int) -> None:
        del name, index, total

    def step(self, done: int, total: int, note: str = "") -> None:
        del done, total, note

    def best(self, text: str) -> None:
        del text
