"""YAML files with faults, and what must never be executed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_vitc.config import experiments, load_experiment
from lightning_vitc.errors import UserError

Write = Callable[[str, str], Path]

BAD = "experiments/bad.yaml"
FAULTS = {
    "": f"{BAD}: the file is empty; an experiment needs at least 'base' or 'model'",
    "- a\n- b\n": f"{BAD}: a mapping of keys is expected, not a list",
    "seed": f"{BAD}: a mapping of keys is expected, not a str",
    "seed: 1\nmodel: [": f"{BAD}:2: invalid YAML: expected the node content, but found '<stream end>'",
    "seed: 1\n\tmodel: 1": f"{BAD}:2: invalid YAML: found character '\\t' that cannot start any token",
    "seed: 1\nseed: 2": f"{BAD}:2: invalid YAML: duplicate key 'seed'",
    "trainer:\n  1: 2": f"{BAD}:2: invalid YAML: the key 1 is not a string",
    "trainer:\n  [a]: 2": f"{BAD}:2: invalid YAML: the key [...] is not a string",
    "trainer:\n  true: 2": f"{BAD}:2: invalid YAML: the key true is not a string",
    "optimizer.lr: 1": f"{BAD}:1: invalid YAML: 'optimizer.lr': in a file, write 'lr' inside the section 'optimizer'",
    "seed: !!python/object/apply:os.system [touch pwned]": f"{BAD}:1: invalid YAML: the tag "
    "!!python/object/apply:os.system is not allowed",
    "seed: !!python/name:os.system": f"{BAD}:1: invalid YAML: the tag !!python/name:os.system is not allowed",
    "seed: !!timestamp 2024-01-01": f"{BAD}:1: invalid YAML: the tag !!timestamp is not allowed",
    "slurm:\n  setup: &a [*a]": f"{BAD}: the YAML contains itself or is nested too deeply",
    "seed: *a": f"{BAD}:1: invalid YAML: found undefined alias 'a'",
    "a: 1\n---\nb: 1": f"{BAD}:2: invalid YAML: but found another document",
    "base: [nothing]": f"{BAD}: base: unknown base 'nothing'",
    "base: [oks]": f"{BAD}: base: unknown base 'oks'; did you mean 'ok'?",
    "base: 3": f"{BAD}: base: 3 is not a list of names, such as [imagenet, deit_b]",
    "base: [3]": f"{BAD}: base: [3] is not a list of names, such as [imagenet, deit_b]",
    "base: ./no.yaml": f"{BAD}: base: ./no.yaml: no such file",
    "base: bad": f"{BAD}: base: the bases go in a circle: bad.yaml -> bad.yaml",
    "model: {name: x}": "method.name: missing; set it to one of plain, scaled",
}


@pytest.mark.parametrize(("text", "message"), FAULTS.items(), ids=[text[:30] for text in FAULTS])
def test_bad_file_has_exact_message(place: Path, write: Write, text: str, message: str) -> None:
    write("bad.yaml", text)
    with pytest.raises(UserError) as raised:
        load_experiment("bad")
    assert str(raised.value) == message
    assert not (place / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("okk", "okk: unknown experiment; did you mean 'ok'? See 'vitc list'"),
        ("zzz", "zzz: unknown experiment; see 'vitc list', or give the path of a YAML"),
        ("no/file.yaml", "no/file.yaml: no such file"),
        ("./experiments", "./experiments: is a folder; name a YAML file in it"),
    ],
)
def test_unknown_experiment(place: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_experiment(name)
    assert str(raised.value) == message


def test_bytes_that_are_no_text(place: Path) -> None:
    (place / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"^bad.yaml: not a YAML file: it is not UTF-8 text$"):
        load_experiment("bad.yaml")


def test_circle_through_bases(write: Write) -> None:
    write("base/a.yaml", "base: b")
    write("base/b.yaml", "base: a")
    write("bad.yaml", "base: a")
    with pytest.raises(UserError) as raised:
        load_experiment("bad")
    message = "experiments/base/a.yaml: base: the bases go in a circle: a.yaml -> b.yaml -> a.yaml"
    assert str(raised.value) == message


def test_method_of_the_command_line_must_know_the_keys(write: Write) -> None:
    write("sliced.yaml", "base: ok\nmethod: {slice: heads, s: 0.5}")
    with pytest.raises(UserError) as raised:
        load_experiment("sliced", ["method.name=plain"])
    message = "method.slice: the experiment sets slice, s for 'scaled'; method 'plain' knows no keys"
    assert str(raised.value) == message


def test_list_survives_a_broken_file(write: Write) -> None:
    write("bad.yaml", "- a")
    assert experiments() == {"bad": f"(broken: {BAD}: a mapping of keys is expected, not a list)", "ok": "a test"}
