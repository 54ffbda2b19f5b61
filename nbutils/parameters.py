"""Types of parameters, and what is wrong with one, said in one sentence with its remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from nbutils.world import World, find_world


def _as_world(value: Any) -> Any:
    if isinstance(value, World):
        return value
    if not isinstance(value, str):
        raise ValueError(f"world={value!r}: must be a name")
    return find_world(value)


WorldField = Annotated[
    World, BeforeValidator(_as_world), PlainSerializer(lambda world: world.name, return_type=str)
]
PathField = Annotated[
    Path, Field(strict=False), PlainSerializer(lambda path: path.as_posix(), return_type=str)
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ParameterError(ValueError):
    """A parameter that does not exist, has the wrong type, or cannot have this value."""


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "string_type": "text",
    "list_type": "a list",
    "path_type": "a path",
}


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """Turn pydantic's report into one sentence for each thing that is wrong.

    Parameters
    ----------
    error : ValidationError
        What pydantic raised.
    known : iterable of str
        All names there are, from which the nearest to an unknown one is suggested.
    """
    names = list(known)
    return "; ".join(_explain_one(detail, names) for detail in error.errors(include_url=False))


def _explain_one(detail: Any, known: list[str]) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    name = ".".join(str(part) for part in detail["loc"] if isinstance(part, str))
    name = name or "the parameters"
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "known: " + ", ".join(known)
        return f"{name}: no such parameter; {hint}"
    said = f"{name}={detail['input']!r}"
    if detail["type"] in _KINDS:
        return f"{said}: must be {_KINDS[detail['type']]}"
    bounds = {"greater_than_equal": "at least", "less_than_equal": "at most"}
    bounds |= {"greater_than": "more than", "less_than": "less than"}
    if detail["type"] in bounds:
        return f"{said}: must be {bounds[detail['type']]} {next(iter(detail['ctx'].values())):g}"
    if detail["type"] == "literal_error":
        return f"{said}: must be {detail['ctx']['expected']}"
    return f"{said}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
