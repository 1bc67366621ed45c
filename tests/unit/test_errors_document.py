"""docs/errors.md names every rule that can refuse something, and none that cannot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "errors.md"
_RULE = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)+")
_ROW = re.compile(r"^\| (`[^|]+`) \|", re.MULTILINE)


def _patterns(node: ast.expr, prefix: str = "") -> Iterator[str]:
    """Yield a rule, or for one that is put together a pattern with * where anything stands."""
    if isinstance(node, ast.IfExp):
        yield from _patterns(node.body, prefix)
        yield from _patterns(node.orelse, prefix)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield prefix + node.value
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "*" for v in node.values]
        yield prefix + "".join(map(str, parts))


class _Code:
    """What the source says about rules."""

    def __init__(self) -> None:
        self.trees = {path: ast.parse(path.read_text()) for path in (ROOT / "tmad").rglob("*.py")}
        # Function name -> (position of its argument `rule`, what it puts in front).
        self.everywhere: dict[str, tuple[int, str]] = {}
        self.here: dict[tuple[Path, str], tuple[int, str]] = {}
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self._note(path, node)

    def _note(self, path: Path, function: ast.FunctionDef) -> None:
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        if "rule" not in names:
            return
        prefix = ""
        for node in ast.walk(function):
            if isinstance(node, ast.keyword) and node.arg == "rule":
                prefix = "".join(_patterns(node.value)).removesuffix("*")
        found = (names.index("rule"), prefix)
        self.here[path, function.name] = found
        # Also private ones, as a method may be handed on to another module.
        self.everywhere[function.name] = found

    def rules(self) -> set[str]:
        """Return every rule and pattern of rules that a Fault can carry."""
        return {rule for path, tree in self.trees.items() for rule in self._rules(path, tree)}

    def _rules(self, path: Path, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "rule":
                yield from self._kept(_patterns(node.value))
            elif isinstance(node, ast.FunctionDef) and (path, node.name) in self.here:
                defaults = node.args.defaults
                for argument, value in zip(
                    reversed(node.args.args), reversed(defaults), strict=False
                ):
                    if argument.arg == "rule":
                        yield from self._kept(_patterns(value))
            elif isinstance(node, ast.Call):
                yield from self._called(path, node)

    def _called(self, path: Path, call: ast.Call) -> Iterator[str]:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        known = self.here.get((path, name)) or self.everywhere.get(name)
        if known is not None and len(call.args) > known[0]:
            yield from self._kept(_patterns(call.args[known[0]], known[1]))

    @staticmethod
    def _kept(found: Iterator[str]) -> Iterator[str]:
        return (rule for rule in found if _RULE.fullmatch(rule.replace("*", "x")))


def _documented() -> set[str]:
    rows = _ROW.findall(DOCUMENT.read_text())
    return {rule for row in rows for rule in re.findall(r"`([^`]+)`", row)}


def _matches(pattern: str, rule: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[a-z0-9.*-]+"), rule) is not None


def test_every_rule_of_the_code_is_documented() -> None:
    documented = _documented()
    missing = {
        rule
        for rule in _Code().rules()
        if not any(_matches(known, rule) or _matches(rule, known) for known in documented)
    }
    assert sorted(missing) == []


def test_every_documented_rule_exists() -> None:
    rules = _Code().rules()
    constants = {
        node.value
        for tree in _Code().trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unknown = {
        rule
        for rule in _documented()
        if rule not in constants
        # "profile.*" alone would allow everything.
        and not any(_matches(each, rule) for each in rules if each.count(".") > 1)
        and rule not in rules
    }
    assert sorted(unknown) == []


def test_a_rule_stands_once() -> None:
    rows = _ROW.findall(DOCUMENT.read_text())
    rules = [rule for row in rows for rule in re.findall(r"`([^`]+)`", row)]
    assert len(rules) == len(set(rules))
    assert len(rules) > 100
