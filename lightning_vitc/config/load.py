"""From a name and overrides to one typed, checked experiment."""

from collections.abc import Iterable, Mapping
from dataclasses import field, fields, make_dataclass
from typing import Any

from lightning_vitc.config import registry
from lightning_vitc.errors import UserError
from lightning_vitc.schema import MISSING, Experiment, TeacherConfig

from . import checks, typed
from .interpolate import resolve
from .overrides import parse_overrides
from .sources import find_experiment, merge, read_with_bases
from .suggest import Tree, unknown_key, unknown_name

BUDGETS = {"macs", "params", "latency_ms", "drop_blocks"}  # ways to say how much is left
TEACHERS = {key.name for key in fields(TeacherConfig)}


def load_experiment(name_or_path: str, overrides: Iterable[str] = (), *, check_files: bool = True) -> Experiment:
    """The experiment of this name or YAML path with its bases below and `key=value` overrides above it.

    `check_files=False` leaves out what depends on the machine: weights, data, teacher run and output folder.
    """
    path, overrides = find_experiment(name_or_path), [*overrides]
    written = read_with_bases(path, parse_overrides(overrides).get("recipe"))
    return experiment_of({"name": path.stem, **written}, overrides, check_files=check_files)


def experiment_of(written: dict[str, Any], overrides: Iterable[str] = (), *, check_files: bool = True) -> Experiment:
    """The experiment of these keys, as a file would hold them, with `key=value` overrides above them."""
    above = parse_overrides(overrides)
    experiment = _typed(merge(_without_replaced(written, above), above), written)
    checks.check_rules(experiment)
    checks.settle(experiment)
    if check_files:
        checks.check_files(experiment)
    return experiment


def _without_replaced(written: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A budget or a teacher on the command line takes the place of the experiment's, whatever that was given in."""
    budget, teacher = ({} if not isinstance(above.get(key), dict) else above[key] for key in ("budget", "teacher"))
    other_teacher = teacher.get("run") or teacher.get("model") or teacher.get("train") is False
    replaced = {"budget": BUDGETS if BUDGETS & {*budget} else set(), "teacher": TEACHERS if other_teacher else set()}
    return {
        section: {key: value for key, value in values.items() if key not in replaced.get(section, ())}
        if section in replaced and isinstance(values, dict)
        else values
        for section, values in written.items()
    }


def _typed(values: dict[str, Any], written: Mapping[str, Any]) -> Experiment:
    method = _choose_method(values)
    values["callbacks"], chosen = _choose_callbacks(values.get("callbacks", {}))
    schema = _schema(method.arguments, {name: entry.arguments for name, entry in chosen.items()})
    tree = typed.key_tree(schema)
    tree["method"] = {"name": None, **tree["method"]}
    _check_method_change(values["method"], written.get("method"), tree["method"])
    _check_keys(values, tree, (), tree)
    values = resolve(merge(typed.defaults(schema), values))
    experiment = typed.build(schema, values)
    callbacks = {name: getattr(experiment.callbacks, name) for name in chosen}
    own = {key.name: getattr(experiment, key.name) for key in typed.keys(Experiment)}
    return Experiment(**{**own, "callbacks": callbacks, "method_name": method.name})


def _schema(method: type, callbacks: Mapping[str, type]) -> type:
    """`Experiment` with the keys of this method and of these callbacks in their places."""
    chosen = make_dataclass("Callbacks", list(callbacks.items()))
    places = [("method", method, field(default=None)), ("callbacks", chosen, field(default=None))]
    return make_dataclass("Typed", places, bases=(Experiment,))


def schema_of(experiment: Experiment) -> type:
    """`Experiment` with the keys of its method and of its callbacks in their places."""
    known = registry.callbacks()
    arguments = {name: known[name].arguments for name in experiment.callbacks}
    return _schema(registry.methods()[experiment.method_name].arguments, arguments)


def _choose_method(values: Mapping[str, Any]) -> registry.Entry:
    section = values.get("method", {})
    if not isinstance(section, dict):
        raise UserError(_not_a_section("method", section, True))
    known = registry.methods()
    name = section.get("name", MISSING)
    if name == MISSING:
        raise UserError(f"method.name: missing; set it to one of {', '.join(known)}")
    if not isinstance(name, str) or name not in known:
        raise UserError(unknown_name("method.name", "method", str(name), known))
    return known[name]


def _choose_callbacks(section: Any) -> tuple[dict[str, Any], dict[str, registry.Entry]]:
    """The keys of the callbacks in use: `true` stands for the defaults, `false` for one that is left out."""
    if not isinstance(section, dict):
        raise UserError(_not_a_section("callbacks", section, False))
    known = registry.callbacks()
    values = {}
    for name, keys in section.items():
        if name not in known:
            raise UserError(unknown_name(f"callbacks.{name}", "callback", name, known))
        if not isinstance(keys, dict | bool):
            problem = f"{typed.show(keys)} is not a section of keys, true (its defaults) or false (off)"
            raise UserError(f"callbacks.{name}: {problem}")
        if name == "checkpoint" and keys is False:
            raise UserError("callbacks.checkpoint: a run is always saved; leave it out or set every_n_steps")
        if keys is not False:
            values[name] = {} if keys is True else keys
    return values, {name: known[name] for name in values}


def _check_method_change(section: dict[str, Any], written: Any, tree: Tree) -> None:
    """A method chosen on the command line must know the keys that the experiment wrote for its own."""
    before = written.get("name") if isinstance(written, dict) else None
    if before in (None, section["name"]):
        return
    foreign = [key for key in written if key not in tree]
    if foreign:
        raise UserError(
            f"method.{foreign[0]}: the experiment sets {', '.join(foreign)} for '{before}'; "
            f"method '{section['name']}' knows {', '.join(key for key in tree if key != 'name') or 'no keys'}"
        )


def _check_keys(values: Mapping[str, Any], tree: Tree, path: tuple[str, ...], root: Tree) -> None:
    for name in values:
        if name not in tree:
            raise UserError(unknown_key((*path, name), root))
    for name, below in tree.items():
        if below is None or name not in values:
            continue
        if not isinstance(values[name], dict):
            raise UserError(_not_a_section(".".join((*path, name)), values[name], "name" in below))
        _check_keys(values[name], below, (*path, name), root)


def _not_a_section(key: str, value: Any, has_name: bool) -> str:
    hint = f"; did you mean '{key}.name={value}'?" if has_name and isinstance(value, str) else ""
    return f"{key}: {typed.show(value)} is not a section of keys{hint}"
