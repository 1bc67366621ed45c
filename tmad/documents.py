"""Documents: data that a pydantic model describes, with every mistake named at once."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from tmad.errors import Fault, FaultCode

M = TypeVar("M", bound=BaseModel)

Location: TypeAlias = tuple[int | str, ...]


def parse(model: type[M], data: Mapping[str, Any] | BaseModel, *, at: str = "") -> M:
    """Return ``data`` as an instance of ``model``.

    Raise Fault(REJECTED) that names every mistake by its dotted path below ``at``; its
    ``values`` map each path to its mistake. An unknown key comes with the nearest known one.
    """
    if isinstance(data, model):
        return data
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else dict(data)
    try:
        # JSON, because a tuple or an enum in a document is written as its JSON form.
        return model.model_validate_json(json.dumps(plain, default=_isoformat))
    except ValidationError as error:
        raise rejection(dict(_paths(model, error, at))) from None


def rejection(mistakes: Mapping[str, str]) -> Fault:
    """Return the refusal of a document with these mistakes (dotted path -> what is wrong)."""
    return Fault(
        FaultCode.REJECTED,
        "; ".join(f"{path}: {text}" for path, text in mistakes.items()),
        rule="document.invalid",
        values=dict(mistakes),
    )


def canonical(document: BaseModel) -> str:
    """Return the one JSON text of a document, without its defaults: equal text, equal meaning.

    A key that nobody has set does not stand there, so that a process of the version before,
    which does not know it, can still read the document (docs/decisions/0025).
    """
    return json.dumps(
        document.model_dump(mode="json", exclude_defaults=True),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


def plain(document: BaseModel) -> dict[str, Any]:
    """Return what a person would have to write: the document without its defaults."""
    return document.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def difference(old: BaseModel | None, new: BaseModel | None) -> str:
    """Return the lines that turn ``old`` into ``new``: "+ added", "- removed", "~ changed".

    A new document shows what it says beyond the defaults.
    """
    before = {} if old is None else dict(_flat(old.model_dump(mode="json")))
    if new is None:
        return "deleted"
    if old is None:
        return "\n".join(f"+ {path} = {text}" for path, text in _flat(plain(new)))
    after = dict(_flat(new.model_dump(mode="json")))
    lines = []
    for path in sorted(before.keys() | after.keys()):
        was, will = before.get(path), after.get(path)
        if was == will:
            continue
        if was is None:
            lines.append(f"+ {path} = {will}")
        elif will is None:
            lines.append(f"- {path} = {was}")
        else:
            lines.append(f"~ {path} = {was} -> {will}")
    return "\n".join(lines)


def to_toml(tree: Mapping[str, Any]) -> str:
    """Return a tree as TOML with sorted keys: the same tree is always the same text."""
    return tomli_w.dumps(_sorted(tree))


def from_toml(text: str | bytes) -> dict[str, Any]:
    """Read TOML; raise Fault(MALFORMED) that says where it is broken."""
    try:
        return tomllib.loads(text if isinstance(text, str) else text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Fault(FaultCode.MALFORMED, f"not TOML: {error}", rule="document.toml") from None


def nearest(word: str, known: Iterator[str] | list[str]) -> str:
    """Return ', did you mean "…"?' when a known word is close, else an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def mistakes(model: type[BaseModel], error: ValidationError) -> Iterator[tuple[Location, str]]:
    """Yield each mistake that pydantic found: where, and what is wrong in words."""
    for mistake in error.errors(include_url=False, include_input=False):
        location = mistake["loc"]
        if mistake["type"] == "extra_forbidden":
            known = _fields(model, location[:-1])
            yield location, "unknown key" + nearest(str(location[-1]), known)
        else:
            # pydantic prefixes a validator's own words.
            yield location, mistake["msg"].removeprefix("Value error, ")


def _paths(model: type[BaseModel], error: ValidationError, at: str) -> Iterator[tuple[str, str]]:
    for location, text in mistakes(model, error):
        yield ".".join(str(part) for part in ((at,) if at else ()) + location) or "document", text


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that may stand at a place inside a document of this model."""
    found: list[type[BaseModel]] = [model]
    for part in location:
        inside = [
            inner
            for candidate in found
            if isinstance(part, str) and part in candidate.model_fields
            for inner in _models(candidate.model_fields[part].annotation)
        ]
        # List positions, dictionary keys and union tags add nothing to the type.
        found = inside or found
    return [name for candidate in found for name in candidate.model_fields]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, {}):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, sort_keys=True)


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value) if value[key] is not None}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value


def _isoformat(value: Any) -> str:
    # TOML has dates and times of its own; JSON has none.
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"{type(value).__name__} cannot stand in a document")
