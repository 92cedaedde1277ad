"""The published JSON schemas: they are those of the code, and they refuse what must never be published."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import msgspec
import pytest
import schemas
from conftest import ROOT

from edge_rul.core.outgoing import PUBLISHED

EXAMPLES: dict[str, dict[str, Any]] = {
    name: json.loads(text)
    for name, text in re.findall(
        r"<!-- example: (\S+) -->\n```json\n(.*?)```", (ROOT / "docs" / "topics.md").read_text("utf-8"), re.DOTALL
    )
}


def validate(name: str, payload: Any) -> None:
    schema = json.loads((schemas.DIRECTORY / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(payload)


def test_the_files_are_what_the_code_publishes() -> None:
    found = {f.name: f.read_text(encoding="utf-8") for f in schemas.DIRECTORY.iterdir()}
    assert found == schemas.rendered(), "run python tools/schemas.py"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_each_is_a_valid_schema_with_a_description(name: str) -> None:
    schema = json.loads((schemas.DIRECTORY / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    for definition in schema["$defs"].values():
        assert definition["description"]
        assert "  " not in definition["description"]


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"statistics"}))
def test_the_documentations_example_keeps_its_schema(name: str) -> None:
    example = EXAMPLES[name]
    validate(name, example)
    read = msgspec.convert(example, PUBLISHED[name])
    assert json.loads(msgspec.json.encode(read)) == example, "the example has a field that is not published"


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(payload: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            payload = payload[parent]
        if value is ...:
            del payload[last]
        else:
            payload[last] = value

    return apply


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("prediction", "rul", None),  # what NaN becomes in JSON
        ("prediction", "rul", -0.5),
        ("prediction", "rul", "41.7"),
        ("prediction", "rul", ...),
        ("prediction", "cycle", -1),
        ("prediction", "cycle", 12.5),
        ("prediction", "life", ...),
        ("prediction", "schema", "edge-rul/prediction/2"),
        ("prediction", "health.probabilities.healthy", 1.5),
        ("prediction", "health.probabilities.healthy", None),
        ("prediction", "health.class", ...),
        ("prediction", "quality.state", "bad"),
        ("prediction", "quality.held", -1),
        ("prediction", "bundle.sha256", "abc"),
        ("prediction", "engine.precision", ...),
        ("prediction", "ts", 1772357400000),
        ("alarm", "state", "on"),
        ("alarm", "priority", "critical"),
        ("alarm", "value", None),
        ("alarm-event", "event", "active"),
        ("alarm-event", "id", ...),
    ],
)
def test_what_must_not_be_published_is_refused(name: str, path: str, value: Any) -> None:
    payload = copy.deepcopy(EXAMPLES[name])
    change(path, value)(payload)
    with pytest.raises(jsonschema.ValidationError):
        validate(name, payload)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_cannot_pass(number: float) -> None:
    prediction = msgspec.convert(EXAMPLES["prediction"], PUBLISHED["prediction"])
    payload = json.loads(msgspec.json.encode(msgspec.structs.replace(prediction, rul=number)))
    with pytest.raises(jsonschema.ValidationError):
        validate("prediction", payload)


def test_a_time_may_be_unknown_and_a_field_may_be_new() -> None:
    for name in ("prediction", "alarm", "alarm-event"):
        validate(name, {**EXAMPLES[name], "ts": None, "new_in_a_later_version": 1})
