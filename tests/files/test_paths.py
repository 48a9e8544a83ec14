"""`~` is a home directory in every key and argument that takes a path, and what is no path is refused."""

import argparse
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lightning_vitc.commands import COMMANDS
from lightning_vitc.config import load_experiment, registry, typed
from lightning_vitc.config.load import _schema
from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import expanded

# Texts that are no path, nor a model that may lie at one. A key or an argument that takes a text stands here, or is
# marked as a path.
NO_PATHS = {
    "name", "label", "description", "run_name", "optimizer.name", "data.auto_augment", "trainer.max_time",
    "trainer.devices", "budget.macs", "budget.params", "budget.static", "budget.latency_ms", "slurm.time",
    "slurm.account", "slurm.partition", "slurm.constraint", "slurm.mem", "slurm.setup", "slurm.qos",
    "slurm.reservation", "slurm.exclude", "slurm.mail_user", "slurm.mail_type", "slurm.extra",
}  # fmt: skip
NO_PATH_ARGUMENTS = {
    "experiment",  # `find_experiment` expands it
    "overrides", "arguments", "batch_sizes", "device", "dtypes", "format", "formats", "width", "variant", "license",
    "split", "time", "budget", "partition", "array",
}  # fmt: skip
SCHEMAS = {name: _schema(entry.arguments, {}) for name, entry in registry.methods().items()} | {
    name: _schema(registry.NoKeys, {name: entry.arguments}) for name, entry in registry.callbacks().items()
}


def text_fields(schema: Any, prefix: str = ""):
    """The keys of a schema that take a text, with whether they are marked as paths."""
    types = get_type_hints(schema)
    for field in typed.keys(schema):
        kind = types[field.name]
        if is_dataclass(kind):
            yield from text_fields(kind, f"{prefix}{field.name}.")
        elif str in (kind, *get_args(kind)) or list[str] in (kind, *get_args(kind)):
            yield prefix + field.name, bool(field.metadata.get("path"))


TEXTS = {key: is_path for schema in SCHEMAS.values() for key, is_path in text_fields(schema)}
PATHS = sorted(key for key, is_path in TEXTS.items() if is_path)


def test_every_text_is_a_path_or_known_to_be_none() -> None:
    assert {key for key, is_path in TEXTS.items() if not is_path} == NO_PATHS
    assert PATHS == ["data.classes", "data.root", "data.unlabeled", "method.trials_of", "model.name",
                     "model.pretrained", "output_dir", "teacher.model", "teacher.pretrained",
                     "teacher.run"]  # fmt: skip


def built(key: str, value: str, method: str = "dcvit") -> Any:
    """The value of a path key after reading, with whatever else it needs to be read."""
    schema = SCHEMAS[method]
    values = typed.defaults(schema) | {"name": "n", "callbacks": {}}
    for needed in ("model.name", "data.name", "optimizer.lr"):
        section, name = needed.split(".")
        values[section][name] = {"model.name": "m", "data.name": "digits", "optimizer.lr": 1.0}[needed]
    *section, name = key.split(".")
    (values[section[0]] if section else values)[name] = value
    experiment = typed.build(schema, values)
    return getattr(getattr(experiment, section[0]) if section else experiment, name)


@pytest.mark.parametrize("key", PATHS)
def test_every_path_key_is_expanded_and_checked(key: str, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert built(key, "~/x.pth") == "/home/somebody/x.pth"
    assert built(key, "./~/x.pth") == "./~/x.pth"  # a folder of that name
    assert built(key, "a~/x.pth") == "a~/x.pth"
    for wrong in ("~nobody-of-this-name/x.pth", "a\x1b[31m/x.pth", "a\udce9/x.pth", "x" * 9_999 + ".pth"):
        with pytest.raises(UserError, match=rf"^{key}: "):
            built(key, wrong)


@pytest.mark.parametrize("key", ["model.name", "teacher.model"])
def test_a_directory_of_timm_is_expanded_too(key: str, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert built(key, "local-dir:~/x") == "local-dir:/home/somebody/x"
    assert expanded("local-dir:~/x") == "local-dir:/home/somebody/x"


def arguments_of(command: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    import_module(f"lightning_vitc.commands.{command}").add_arguments(parser)
    return [action for action in parser._actions if action.nargs != 0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_that_takes_a_path_expands_it(command: str, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for action in arguments_of(command):
        if action.type is None and action.choices is None:
            assert action.dest in NO_PATH_ARGUMENTS
        elif action.type is not int and action.choices is None:
            assert action.type("~/x") == "/home/somebody/x"  # type: ignore[operator]
            with pytest.raises(argparse.ArgumentTypeError):
                action.type("~nobody-of-this-name")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "k: '' is no path: it is blank"),
        (" \t", "k: ' \\t' is no path: it is blank"),
        ("a\nb", "k: 'a\\nb' is no path: it holds control characters"),
        ("a\x00", "k: 'a\\x00' is no path: it holds control characters"),
        ("\ud800", "k: '\\ud800' is no path: it is not UTF-8 text"),
        ("~nobody-of-this-name/x", "k: '~nobody-of-this-name/x' begins with the home directory of nobody; for a folder "
         "called '~nobody-of-this-name' write './~nobody-of-this-name/x'"),
        ("é" * 128, f"k: '{'é' * 128}' is no path: a name in it has 256 bytes; 255 are possible"),
        ("a/" * 2_000, f"k: '{'a/' * 2_000}' is no path: it has 4,000 bytes; 3,400 are possible"),
    ],
)  # fmt: skip
def test_what_is_no_path(path: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        expanded(path, "k")
    assert str(raised.value) == message


@pytest.mark.parametrize("path", ["/", ".", "..", "a b", "データ/画像", "é" * 127, "👩\u200d🔬", "a/" * 1_700, "x~"])
def test_what_is_a_path(path: str) -> None:
    assert expanded(path) == path


def test_an_experiment_and_its_base_by_a_path_from_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shipped = Path(__file__).parents[2] / "experiments" / "scala_digits.yaml"
    (tmp_path / "below.yaml").write_text(f"base: [{shipped}]\nseed: 7\n")
    (tmp_path / "mine.yaml").write_text("base: [~/below.yaml]\n")
    assert load_experiment("~/mine.yaml").seed == 7
    (tmp_path / "mine.yaml").write_text("base: ['~nobody-of-this-name/below.yaml']\n")
    with pytest.raises(UserError, match=r"mine\.yaml: base: '~nobody-of-this-name/below\.yaml' begins with"):
        load_experiment("~/mine.yaml")


@pytest.mark.slow
def test_a_whole_run_below_home(vitc, tiny, tmp_path) -> None:
    """Trained, continued, exported and reported by paths with `~`; nothing is written anywhere else."""
    home = tmp_path / "home"
    home.mkdir()
    here = set(tmp_path.iterdir())
    run = "~/runs/dense_digits/default"
    for arguments in (
        ["train", "dense_digits", *tiny[:5], "trainer.max_epochs=1", "optimizer.warmup_epochs=0", "output_dir=~/runs"],
        ["evaluate", run],
        ["export", run, "--out", "~/small"],
        ["cost", "~/small"],
        ["benchmark", "~/small", "--repeats", "1", "--warmup", "0"],
        ["report", run, "~/small", "--out", "~/page", "--repeats", "1"],
        ["plan", "dcvit_transfer_glyphs", "model.name=~/small"],
    ):
        done = vitc(*arguments, HOME=str(home))
        assert done.code == 0, (arguments, done.error)
    assert {path.name for path in home.iterdir()} >= {"runs", "small", "page"}
    assert {path for path in tmp_path.iterdir() if not path.name.startswith(".")} == here
