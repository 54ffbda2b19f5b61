"""Sentences that must stand on every figure and beside every file that this process makes."""

from __future__ import annotations

MEANINGLESS = "random weights: this picture means nothing"

_said: list[str] = []


def say(sentence: str) -> None:
    """Put a sentence on all figures and into all sidecars from now on, until the process ends."""
    if sentence not in _said:
        _said.append(sentence)


def said() -> tuple[str, ...]:
    """Return the sentences, in the order they came up."""
    return tuple(_said)


def forget() -> None:
    """Drop all sentences; for tests, since a result cannot lose its caveat."""
    _said.clear()
