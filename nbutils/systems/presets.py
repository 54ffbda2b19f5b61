"""Typed settings with two presets: what the public code does, and what we would defend."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict


class Presets(BaseModel):
    """Settings of a published system; the defaults are those of ``careful``.

    A subclass lists in `differences` the fields in which the public code differs.

    Raises
    ------
    pydantic.ValidationError
        If a name is unknown or a value impossible.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    differences: ClassVar[dict[str, Any]] = {}
    """Field -> value of the public code, where it is not the careful default."""

    @classmethod
    def published(cls, **changes: Any) -> Self:
        """Settings of the public code."""
        return cls(**{**cls.differences, **changes})

    @classmethod
    def careful(cls, **changes: Any) -> Self:
        """Settings that do not depend on the other test items, and draw as little as possible."""
        return cls(**changes)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Preset by name, with changes.

        Raises
        ------
        ValueError
            If there is no such preset.
        """
        if name not in ("published", "careful"):
            raise ValueError(f"preset={name!r}: choose published or careful.")
        return cls.published(**changes) if name == "published" else cls.careful(**changes)

    @classmethod
    def table(cls) -> pd.DataFrame:
        """Every field with its value in both presets and what it means, differences first."""
        published, careful = cls.published(), cls.careful()
        rows = [
            (name, getattr(published, name), getattr(careful, name), field.description)
            for name, field in cls.model_fields.items()
        ]
        table = pd.DataFrame(rows, columns=["field", "published", "careful", "meaning"])
        same = table["published"] == table["careful"]
        return table.loc[same.sort_values(kind="stable").index].set_index("field")
