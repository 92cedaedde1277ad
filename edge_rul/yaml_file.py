"""A YAML file as a typed value, with messages that lead a person to the line.

Owns reading YAML with the line of each key, and the words for what is wrong: file, line, dotted key, what was found and
what was expected. Knows no setting: what the keys mean is said by the type that it is given.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from edge_rul.errors import ConfigError

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

_OPERATION = "read configuration"
_YAML = "tag:yaml.org,2002:"
_TEXT_KEYS = frozenset({f"{_YAML}str", f"{_YAML}merge"})
_NOT_PLAIN = frozenset(_YAML + tag for tag in ("binary", "omap", "pairs", "set"))
# What a scalar may fail to be, by its tag: its own, or the one that YAML gives it for its looks.
_KINDS = {
    f"{_YAML}bool": "true or false",
    f"{_YAML}float": "a number",
    f"{_YAML}int": "a whole number",
    f"{_YAML}timestamp": "a date",
}
_SHOWN = 60  # characters of a value in a message


class Source:
    """A configuration file: its data, the line of each key, and errors that name both."""

    def __init__(self, path: Path, text: str) -> None:
        """Raises ConfigError where this is not YAML, a key stands twice or is not text, or a value is no plain data."""
        self.path = path
        self._lines: dict[KeyPath, int] = {(): 1}
        self._written: dict[KeyPath, str] = {}  # plain scalars as they stand in the file
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is not None:
                self._walk(node, (), loader.construct_object)
            self.data: Any = loader.construct_document(node) if node is not None else None
        except yaml.YAMLError as e:
            raise self._not_yaml(text, e) from None
        except RecursionError:
            problem = "this is nested too deeply, or an alias refers to itself"
            raise ConfigError(_OPERATION, str(path), problem) from None

    def _not_yaml(self, text: str, e: yaml.YAMLError) -> ConfigError:
        if isinstance(e, yaml.reader.ReaderError):
            line = text.count("\n", 0, e.position) + 1
            return ConfigError(_OPERATION, f"{self.path}:{line}", f"control character {ord(text[e.position]):#04x}")
        assert isinstance(e, yaml.MarkedYAMLError)
        mark = e.problem_mark or e.context_mark
        line = mark.line + 1 if mark else 1
        context = e.context
        if context and e.context_mark and e.context_mark.line + 1 != line:
            context += f" that begins on line {e.context_mark.line + 1}"
        problem = ", ".join(part for part in (context, e.problem) if part)
        row = (text.splitlines() or [""])[min(line, len(text.splitlines())) - 1]
        hint = ""
        if "\\t" in problem:
            hint = "indent with spaces, not with tabs"
        elif "{" in row:
            hint = "a text with { } in it needs quotes where it begins with { or stands inside [ ] or { }"
        elif "mapping values" in problem:
            hint = "a text with `: ` in it needs quotes; otherwise look at the indentation"
        return ConfigError(_OPERATION, f"{self.path}:{line}", f"this is not valid YAML: {problem}", hint=hint)

    def _walk(self, node: yaml.Node, path: KeyPath, build: Callable[[yaml.Node], Any]) -> None:
        if node.tag in _NOT_PLAIN:
            raise self.error(path, f"expected keys, a list or a plain value, found {node.tag.replace(_YAML, '!!')}")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(_OPERATION, f"{self.path}:{line}", "expected a name as key, found a list or keys")
                here = (*path, key.value)
                if key.tag not in _TEXT_KEYS:
                    where = f"{self.path}:{line}: {dotted(here)}"
                    problem = f"expected a name as key, found {key.value}, which YAML does not read as text"
                    raise ConfigError(_OPERATION, where, problem, hint="put the key in quotes")
                if here in self._lines:
                    first, self._lines[here] = self._lines[here], line
                    raise self.error(here, f"the key stands twice, first on line {first}", "remove one")
                self._lines[here] = line
                self._walk(value, here, build)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                here = (*path, index)
                self._lines[here] = value.start_mark.line + 1
                self._walk(value, here, build)
        elif isinstance(node, yaml.ScalarNode):
            if node.style is None:
                self._written[path] = node.value
            try:
                str(build(node))  # which Python refuses for a number of thousands of digits
            except (ArithmeticError, AttributeError, LookupError, ValueError):
                problem = f"expected {_KINDS[node.tag]}, as YAML takes it for one, found {_short(node.value)}"
                raise self.error(path, problem, "put it in quotes if it is meant as text") from None

    def error(self, key: KeyPath | str, problem: str, hint: str = "") -> ConfigError:
        """A ConfigError at `key`, dotted or as a tuple; at the nearest parent's line where the key is not there."""
        path = _path(key)
        known = path
        while known not in self._lines:
            known = known[:-1]
        where = f"{self.path}:{self._lines[known]}"
        return ConfigError(_OPERATION, f"{where}: {dotted(path)}" if path else where, problem, hint=hint)

    def has(self, key: KeyPath | str) -> bool:
        """Whether the key stands in the file, and is not left to its default."""
        return _path(key) in self._lines

    def value(self, path: KeyPath) -> Any:
        found = self.data
        for step in path:
            found = found[step]
        return found

    def file(self, key: str, name: str) -> Path:
        """The file or directory that the setting `key` names, relative to the configuration. It must exist."""
        path = self.path.parent / name
        if not path.exists():
            raise self.error(key, f"there is no {path}", "a relative path starts at the configuration file's directory")
        return path

    def found(self, path: KeyPath, *, text: bool) -> str:
        """What stands at `path`, in words. text: whether text was wanted, so that it need not be called so."""
        value = self.value(path)
        words = {type(None): "nothing", dict: "a section of keys", list: "a list" if value else "an empty list"}
        if type(value) in words:
            return words[type(value)]
        if isinstance(value, str):
            shown = repr(_short(value))
            return shown if text else f"the text {shown}"
        written = _short(self._written.get(path, str(value)))
        read_as = "a date" if isinstance(value, date) else str(value).lower()
        return written if written.lower() == read_as else f"{written}, which YAML reads as {read_as}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def dotted(path: KeyPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _path(key: KeyPath | str) -> KeyPath:
    return tuple(key.split(".")) if isinstance(key, str) else key


def read(path: Path, type: type[T]) -> tuple[T, Source]:
    """The file's content as `type`, with its source for later errors. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(_OPERATION, str(path), "there is no such file") from None
    except OSError as e:
        raise ConfigError(_OPERATION, str(path), f"cannot be read: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise ConfigError(_OPERATION, str(path), f"is not UTF-8 text: {e.reason} at byte {e.start}") from None
    source = Source(path, text)
    try:
        return msgspec.convert(source.data, type), source
    except msgspec.ValidationError as e:
        raise _explain(source, type, str(e)) from None


def load_yaml(path: Path, type: type[T]) -> T:
    """The file's content as `type`. Raises ConfigError with file, line, dotted key, found and expected."""
    return read(path, type)[0]


def _explain(source: Source, type: Any, text: str) -> ConfigError:
    """msgspec's message in a person's words, with the line. It writes `[...]` for a key of a mapping of the user's."""
    problem, _, where = text.partition(" - at `$")
    path: KeyPath = ()
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", where):
        if index == "...":
            path = (*path, _offender(source, path, type, text))
        else:
            path = (*path, name or int(index))
    if match := re.match(r"Object contains unknown field `([^`]*)`", problem):
        known = _keys(_at(source, type, path))
        close = difflib.get_close_matches(match[1], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else ""
        return source.error((*path, match[1]), f"unknown key; expected one of: {', '.join(known)}", hint)
    if match := re.match(r"Object missing required field `([^`]*)`", problem):
        path = (*path, match[1])
        return source.error(path, f"is missing; expected {_describe(_at(source, type, path))}")
    if problem.startswith(("Expected ", "Invalid ", "Number out of range")):
        infos = _at(source, type, path)
        wants_text = any(isinstance(i, inspect.StrType | inspect.LiteralType) for i in infos)
        if not path and source.data is None:
            return source.error(path, f"the file is empty; expected {_describe(infos)}")
        hint, value = "", source.value(path)
        if value is None and _keys(infos):
            hint = "write its keys below it, indented"
        elif not isinstance(value, str | list | dict | None) and any(isinstance(i, inspect.StrType) for i in infos):
            hint = "put it in quotes"
        return source.error(path, f"expected {_describe(infos)}, found {source.found(path, text=wants_text)}", hint)
    return source.error(path, problem)  # a type's own check, in its own words


def _offender(source: Source, path: KeyPath, type: Any, text: str) -> str | int:
    """Which key of the mapping at `path` makes the error: the one that makes it alone."""
    mapping: dict[str, Any] = source.value(path)
    kept = dict(mapping)
    try:
        for key, value in kept.items():
            mapping.clear()
            mapping[key] = value
            try:
                msgspec.convert(source.data, type)
            except msgspec.ValidationError as e:
                if str(e) == text:
                    return key
    finally:
        mapping.clear()
        mapping.update(kept)
    return "..."


def _at(source: Source, type: Any, path: KeyPath) -> list[Any]:
    """msgspec's description of what may stand at `path` of `type`: the alternatives that the file's tags leave.

    A pattern with a description in words is described by these.
    """
    found, data = _alternatives([inspect.type_info(type)], source.data), source.data
    for step in path:
        following = []
        for info in found:
            if isinstance(info, inspect.StructType):
                following += [f.type for f in info.fields if f.encode_name == step]
                if info.tag_field == step:
                    following.append(inspect.LiteralType((info.tag,)))
            elif isinstance(info, inspect.DictType):
                following.append(info.value_type)
            elif isinstance(info, inspect.ListType):
                following.append(info.item_type)
        there = isinstance(step, int) or (isinstance(data, dict) and step in data)
        data = data[step] if there else None
        found = _alternatives(following, data)
    return found


def _alternatives(infos: list[Any], data: Any) -> list[Any]:
    flat: list[Any] = []
    for info in infos:
        if isinstance(info, inspect.UnionType):
            flat += _alternatives(list(info.types), data)
        elif isinstance(info, inspect.Metadata):
            words = (info.extra_json_schema or {}).get("description")
            described = words and isinstance(info.type, inspect.StrType)
            flat.append(msgspec.structs.replace(info.type, pattern=words) if described else info.type)
        else:
            flat.append(info)
    if not isinstance(data, dict):
        return flat
    named = [i for i in flat if isinstance(i, inspect.StructType) and i.tag_field and i.tag == data.get(i.tag_field)]
    return named or flat


def _keys(infos: list[Any]) -> list[str]:
    """The keys of the sections among the alternatives, in their order."""
    keys: dict[str, None] = {}
    for info in infos:
        if isinstance(info, inspect.StructType):
            keys |= {info.tag_field: None} if info.tag_field else {}
            keys |= dict.fromkeys(f.encode_name for f in info.fields)
    return list(keys)


def describe(type: Any) -> str:
    """What a value of the type, or of msgspec's description of one, may be; in a person's words."""
    info = type if isinstance(type, inspect.Type) else inspect.type_info(type)
    return _describe(_alternatives([info], None))


def _describe(infos: list[Any]) -> str:
    """What the alternatives want, in a person's words."""
    words: dict[str, None] = {}
    if keys := _keys(infos):
        words[f"a section of keys: {', '.join(keys)}"] = None
    if values := [str(v) for i in infos if isinstance(i, inspect.LiteralType) for v in i.values]:
        words[f"one of: {', '.join(values)}"] = None
    for info in infos:
        if isinstance(info, inspect.IntType | inspect.FloatType):
            kind = "a whole number" if isinstance(info, inspect.IntType) else "a number"
            words[f"{kind}{_range(info)}"] = None
        elif isinstance(info, inspect.StrType):
            words[_text(info)] = None
        elif isinstance(info, inspect.ListType):
            words["a list" + (f" of at least {info.min_length}" if info.min_length else "")] = None
        elif isinstance(info, inspect.DictType):
            words["a section of keys of your own"] = None
        elif isinstance(info, inspect.BoolType):
            words["true or false"] = None
    return " or ".join(words) or "nothing"


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge} to {info.le}"
    bounds = (("of at least", info.ge), ("above", info.gt), ("of at most", info.le), ("below", info.lt))
    return "".join(
        f"{',' if index else ''} {word} {bound}"
        for index, (word, bound) in enumerate((w, b) for w, b in bounds if b is not None)
    )


def _text(info: inspect.StrType) -> str:
    if info.pattern is not None:
        return f"text of the form {info.pattern}"
    if info.max_length is not None:
        return f"text of {info.min_length or 0} to {info.max_length} characters"
    return "text that is not empty" if info.min_length else "text"
