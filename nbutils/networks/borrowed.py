"""A network lent to an object that outlives a stage of the memory plan."""

from __future__ import annotations

from typing import Any


class Borrowed:
    """Stands for a network; every use asks `Networks` for it, which may fill it anew."""

    def __init__(self, networks: Any, name: str) -> None:
        self._networks, self._name = networks, name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._networks, self._name), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the network's forward pass."""
        return getattr(self._networks, self._name)(*args, **options)
