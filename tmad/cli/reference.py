"""docs/configuration.md and the sample settings, written from the models themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_HEAD = """\
# Configuration

Written by `tmad check-config --reference`; a test compares. `tmad check-config` names every
mistake in a settings file with file, line and column.

The settings file is the first of: `--config FILE`, `$TMAD_CONFIG`, `./tmad.toml`,
`/etc/tmad/tmad.toml`. It holds what one machine needs before it can open its database. Everything
else (authorities, profiles, endpoints, grants) is in the database: `tmad export`, `tmad apply`.
No secret stands in it: a setting whose name ends in `_file` points to a file that only its owner
may read. A relative path is relative to the settings file. An unknown key is an error.

`kill -HUP` reads `[log]` and `[limits]` again, all or nothing; the rest needs a restart, which
with several workers refuses no connection.
"""


def reference(root: type[BaseModel], protocols: Mapping[str, type[BaseModel]]) -> str:
    """Return the whole reference as Markdown."""
    parts = [_HEAD]
    for table, model in _tables(root, protocols):
        parts.append(f"\n## [{table}]\n\n{_first_line(model)}\n\n")
        parts.append("| Key | Type | Default | Meaning |\n|---|---|---|---|\n")
        for name, setting in _settings(model):
            row = (f"`{name}`", _type(setting), _default(setting), setting.description or "")
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n")
    return "".join(parts)


def _tables(
    root: type[BaseModel], protocols: Mapping[str, type[BaseModel]]
) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, setting in root.model_fields.items():
        model = _model(setting.annotation)
        if model is not None:
            yield name, model
            for inner, below in model.model_fields.items():
                deeper = _model(below.annotation)
                if deeper is not None:
                    yield f"{name}.{inner}", deeper
    for name, model in sorted(protocols.items()):
        yield f"protocols.{name}", model
        for inner, below in model.model_fields.items():
            deeper = _model(below.annotation)
            if deeper is not None:
                yield f"protocols.{name}.{inner}", deeper


def _settings(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, setting in model.model_fields.items():
        if _model(setting.annotation) is None:
            yield name, setting


def _model(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _type(setting: FieldInfo) -> str:
    return _type_name(setting.annotation)


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}s"
    names = {
        str: "text",
        int: "number",
        float: "number",
        bool: "true or false",
        Path: "path",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(setting: FieldInfo) -> str:
    if setting.is_required():
        return "required"
    default = setting.default
    if default is PydanticUndefined or default is None or default == "":
        return ""
    if isinstance(default, Path):
        default = str(default)
    return f"`{json.dumps(default, default=list)}`"
