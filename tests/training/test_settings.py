"""The training configuration: the shipped one loads, and what cannot be right is refused with its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_rul.core.features import Feature
from edge_rul.errors import ConfigError, DataError
from edge_rul.training import lives
from edge_rul.training.cmapss import COLUMNS
from edge_rul.training.parts import FoldsSplit
from edge_rul.training.settings import TrainingSettings, load_settings, with_fold, with_seed

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("cmapss_fd*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_shipped_configuration_loads(path: Path) -> None:
    settings = load_settings(path)
    assert settings.name == path.stem
    assert (len(settings.seen), settings.window, settings.rul.max) == (14, 30, 125)
    assert {i.name for i in settings.inputs} <= set(COLUMNS)
    assert all(i.unit and i.description for i in settings.inputs)
    assert [(c.name, c.above) for c in settings.classes] == [("healthy", 80), ("degrading", 30), ("critical", None)]


# By domain: inputs that the model sees, window, RUL's unit and cap, classes.
DOMAINS = {
    "ncmapss_ds02": (20, 30, "flights", 60, [("healthy", 40), ("degrading", 15), ("critical", None)]),
    "bearings": (2, 60, "seconds", 3600, [("OK", 3599), ("worn", 900), ("failing", None)]),
    "wind": (12, 144, "days", 60, [("OK", 30), ("wear", 7), ("failure", None)]),
    "batteries": (5, 100, "cycles", 500, [("fresh", 300), ("mid-life", 100), ("end of life", None)]),
    "disks": (16, 30, "days", 60, [("OK", 30), ("pre-fail", 7), ("fail-soon", None)]),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_is_a_configuration(domain: str) -> None:
    settings = load_settings(CONFIGS[0].with_name(f"{domain}.yaml"))
    assert settings.name == domain
    classes = [(c.name, c.above) for c in settings.classes]
    found = (len(settings.seen), settings.window, settings.rul.unit, settings.rul.max, classes)
    assert found == DOMAINS[domain]
    assert all(i.unit and i.description for i in settings.inputs)
    assert settings.dataset.protocol == "all_windows"
    read = {getattr(settings.dataset, "columns", {}).get(i.name, i.name) for i in settings.inputs}
    assert not read & {"hs", "RUL", "ambient"}, "a label is no input"
    # A temperature outside tells the season, and failures cluster in one: it is only taken off the others.
    assert not [f.name for f in settings.seen if f.of == "ambient_c"]


def test_the_settings_of_a_condition_are_not_seen_unless_they_are_features(config: Path) -> None:
    text = config.read_text()
    config.write_text(text + "normaliser: {kind: conditions, by: [P2], count: 2}\n")
    assert load_settings(config).seen == [Feature(name, name) for name in ("T24", "T30", "Ps30")]
    config.write_text(config.read_text() + "features: [P2, {name: rise, of: T30, minus: T24}]\n")
    assert load_settings(config).seen == [Feature("P2", "P2"), Feature("rise", "T30", minus="T24")]


def test_an_input_says_itself_what_becomes_of_missing_values_or_else_the_data_set_does(config: Path) -> None:
    text = (
        config.read_text()
        .replace("{name: T30,", "{name: T30, valid: [0, 900],")
        .replace("{name: Ps30,", "{name: Ps30, missing: hold, max_hold: 2,")
    )
    config.write_text(text)
    assert [(r.missing, r.daemon) for r in load_settings(config).rules] == [
        ("error", "reject"),
        ("reject", "reject"),
        ("hold", "hold"),
        ("error", "reject"),
    ]
    config.write_text(text.replace("subset: FD001", "subset: FD001, rows: {missing: hold}"))
    assert [r.missing for r in load_settings(config).rules] == ["hold"] * 4


def test_the_shipped_configurations_share_one_recipe() -> None:
    """They differ in the data and in how it is normalised, and in nothing that was chosen for one of them."""
    first, *others = [load_settings(path) for path in CONFIGS]
    for other in others:
        conditions = other.dataset.subset in ("FD002", "FD004")
        same = {
            "name": first.name,
            "description": first.description,
            "dataset": first.dataset,
            **({"inputs": first.inputs, "normaliser": first.normaliser} if conditions else {}),
        }
        assert other.inputs[3 * conditions :] == first.inputs
        assert msgspec.structs.replace(other, **same) == first


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("window: 10", "window: 10\nwindw: 3", "windw", "unknown key"),
        ("{name: adamw}", "{name: adamw, momentum: 1}", "recipe.optimiser.momentum", "unknown key"),
        ("{name: onecycle, learning_rate", "{name: onecycle, lr", "recipe.schedule.lr", "unknown key"),
        ("name: fixed", "name: fixde", "loss.name", "fixde"),
        ("window: 10", "window: 0", "window", "0"),
        ("batch: 32", "batch: many", "recipe.batch", "'many'"),
        ("format: cmapss", "format: csv", "dataset.format", "expected one of: "),
        ("num_heads: 2", "num_heads: 3", "model", "num_heads is 3, expected a divisor of 2 * lstm_hidden = 16"),
        ("{name: critical}", "{name: critical, above: 1}", "", "which takes the rest"),
        ("above: 10", "above: 30", "", "expected falling limits"),
        ("above: 25", "above: 45", "", "expected falling limits"),
        ("{name: T30", "{name: T24", "", "inputs name a sensor twice: T24"),
        ("name: degrading", "name: healthy", "", "classes have a name twice: healthy"),
        ("seed: 3", "seed: -1", "calibration.seed", "expected a whole number from 0 to 4294967295, found -1"),
        ("window: 10", "window: 10\nseed: 4294967296", "seed", "expected a whole number from 0 to 4294967295"),
        (
            "window: 10",
            f"window: 10\nseed: {2**70}",
            "seed",
            f"expected a whole number from 0 to 4294967295, found {2**70}",
        ),
        ("window: 10", "window: 10\nvalidation: {seed: -3}", "validation.seed", "found -3"),
        (
            "{format: cmapss, subset: FD001}",
            "{format: table, asset: a, cycle: c, split: {by: share, share: 0.2, seed: -3}}",
            "dataset.split.seed",
            "found -3",
        ),
        (
            "{format: cmapss, subset: FD001}",
            "{format: table, asset: a, cycle: c, split: {by: folds, folds: 4, seed: -3}}",
            "dataset.split.seed",
            "found -3",
        ),
        (
            "{format: cmapss, subset: FD001}",
            "{format: table, asset: a, cycle: c, columns: {T24: t, p24: p}}",
            "",
            "dataset.columns names p24; the inputs are T24, T30, Ps30, P2",
        ),
        ("name: T30,", "name: T30, valid: [3, 2],", "inputs[1]", "valid of T30 is [3.0, 2.0], expected [low, high]"),
        ("name: T30,", "name: T30, max_hold: 3,", "inputs[1]", "expected `missing: hold` with it"),
        (
            "window: 10",
            "window: 10\nfeatures: [T24, T99]",
            "",
            "feature T99 is of T99; the inputs are T24, T30, Ps30, P2",
        ),
        ("window: 10", "window: 10\nfeatures: [T24, {name: T24, of: P2}]", "", "features name one twice: T24"),
        ("window: 10", "window: 10\nfeatures: [{name: x, of: P2, change: week}]", "features[0].change", "'week'"),
        ("window: 10", "window: 10\nfeatures: [{name: x, of: P2, log: log}]", "", "whose valid range is not given"),
        (
            "window: 10",
            "window: 10\nnormaliser: {kind: conditions, by: [alt], count: 6}",
            "",
            "normaliser.by names alt",
        ),
        (
            "window: 10",
            "window: 10\nnormaliser: {kind: conditions, by: [T24, T30, Ps30, P2], count: 2}",
            "",
            "normaliser.by names all inputs, and none is left to see",
        ),
        (
            "window: 10",
            "window: 10\nnormaliser: {kind: conditions, by: [P2], count: 2, loadings: true}",
            "",
            "normaliser.loadings is true, and weighs readings in a line: expected smooth: {kind: line}",
        ),
        (
            "window: 10",
            "window: 10\nnormaliser: {kind: conditions, by: [P2], count: 2, loadings: true}\nsmooth: {kind: line}\n"
            "features: [T24, {name: rate, of: T30, change: cycle}]",
            "",
            "features has changes (rate): expected none",
        ),
        ("window: 10", "window: 10\nnormaliser: {kind: minmax}", "normaliser.kind", "minmax"),
        ("window: 10", "window: 10\nsmooth: {kind: mean}", "smooth.kind", "mean"),
        ("batch: 32", "batch: 32\n  windows_per_epoch: 31", "recipe", "is 31, expected at least batch, which is 32"),
        (
            "epochs: 2\n  batch: 32",
            "epochs: 1\n  batch: 32\n  windows_per_epoch: 63",
            "recipe",
            "windows_per_epoch is 63, expected at least twice batch, 32, in one epoch",
        ),
        ("max: 40", "max: .inf", "", "rul.max is inf, expected a finite number"),
        ("max: 40", "max: .nan", "", "rul.max is nan, expected a finite number"),
        ("class_weight: 1.0", "class_weight: .inf", "", "loss.class_weight is inf, expected a finite number"),
        ("offset: 0.15", "offset: .inf", "", "recipe.augment.offset is inf, expected a finite number"),
        (
            "batch: 32",
            "batch: 32\n  distil: {teachers: [{kind: tree}, {kind: perceptron, noise: .inf}]}",
            "",
            "recipe.distil.teachers[1].noise is inf",
        ),
        (
            "batch: 32",
            "batch: 32\n  distil: {teachers: [{kind: perceptron}, {kind: tree}, {kind: perceptron, weight: 2}]}",
            "recipe.distil",
            "teachers[0] and teachers[2] differ in nothing but weight",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(config: Path, old: str, new: str, key: str, problem: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as e:
        load_settings(config)
    assert e.value.object.startswith(f"{config}:")
    assert e.value.object.endswith(key)
    assert problem in str(e.value)


def test_an_epoch_of_as_few_windows_as_can_work_is_taken(config: Path) -> None:
    """Two batches in all; and a range may be open, which a number that is learnt by may not."""
    for epochs, drawn in ((1, 64), (2, 32)):
        recipe = f"epochs: {epochs}\n  windows_per_epoch: {drawn}"
        text = config.read_text().replace("{name: T30,", "{name: T30, valid: [0, .inf],")
        config.with_name("few.yaml").write_text(text.replace("epochs: 2", recipe))
        assert load_settings(config.with_name("few.yaml")).recipe.windows_per_epoch == drawn


def test_a_single_asset_cannot_be_held_out(tmp_path: Path, config: Path) -> None:
    (tmp_path / "one.csv").write_text("pump,hour,T24,T30,Ps30,P2\n" + "".join(f"A,{c},1,2,3,4\n" for c in range(30)))
    text = config.read_text().replace("{format: cmapss, subset: FD001}", "{format: table, asset: pump, cycle: hour}")
    config.write_text(text)
    with pytest.raises(
        DataError, match=r"split: calibration: 1 of 1 held out \(A\) leave none to learn from\n  hint: wh"
    ):
        lives.read(load_settings(config), tmp_path / "one.csv")
    config.write_text(text.replace("{share: 0.25, seed: 3}", "{fold: 0}"))
    with pytest.raises(
        DataError, match=r"split: calibration\.fold: asset 0 cannot be left out, .*; there are 1\n  hint: "
    ):
        lives.read(load_settings(config), tmp_path / "one.csv")


def test_a_fold_that_there_is_not_is_refused(config: Path) -> None:
    own = "dataset: {format: table, asset: a, cycle: c, split: {by: folds, folds: 4}}"
    config.write_text(config.read_text().replace("dataset: {format: cmapss, subset: FD001}", own))
    settings = load_settings(config)
    chosen = with_fold(settings, 3).dataset.split
    assert isinstance(chosen, FoldsSplit) and chosen.fold == 3
    with pytest.raises(ConfigError, match=r"--fold 7: dataset\.split: fold is 7, expected from 0 to 3, as there are 4"):
        with_fold(settings, 7)


def test_the_cap_of_named_classes_is_above_0(config: Path) -> None:
    """No limit of a class says so where the data set names them."""
    text = config.read_text().replace(", above: 25", "").replace(", above: 10", "").replace("max: 40", "max: 0")
    own = "dataset: {format: table, file: a.csv, asset: a, cycle: c, health: h}"
    config.write_text(text.replace("dataset: {format: cmapss, subset: FD001}", own))
    with pytest.raises(ConfigError, match=r"rul\.max is 0, expected a number above 0"):
        load_settings(config)


def test_a_seed_is_the_network_s_and_draws_the_calibration_assets(settings: TrainingSettings) -> None:
    other = with_seed(settings, settings.seed + 1)
    assert other.seed == other.calibration.seed == settings.seed + 1
    assert msgspec.structs.replace(other, seed=settings.seed, calibration=settings.calibration) == settings
