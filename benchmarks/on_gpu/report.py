"""The tables of what was found, as they go into `docs/results/gpu.md`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from on_gpu import report_of_study
from on_gpu.report_parts import Units, good, table, under

GB = 1e9
REFERENCE = {"uvc": "dense, taught", "usdc": "dense, taught", "one_shot": "dense, taught"}
OPEN = ("failed", "unfinished", "skipped")


def markdown_of(document: dict[str, Any]) -> str:
    """All tables of `gpu.json`."""
    units: Units = document["units"]
    parts: list[tuple[str, Callable[[Units], Iterable[str]]]] = [
        ("Check", check), ("Speed", speed), ("Study", report_of_study.study), ("What did not end well", not_good),
    ]  # fmt: skip
    texts = part("Machine", lambda: [machine(document)])
    for title, build in parts:
        bodies = part(title, partial(build, units))
        texts += [f"### {title}", *bodies] if bodies else []
    return "\n\n".join(texts)


def part(title: str, build: Callable[[], Iterable[str]]) -> list[str]:
    """Tables and sentences, up to an error, which gets a line of its own: an odd value costs no other part."""
    bodies: list[str] = []
    try:
        bodies += (body for body in build() if body)
    except Exception as error:
        bodies.append(f"**{title} ends here:** {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return bodies


def machine(document: dict[str, Any]) -> str:
    """Every call: when, on which card, with which versions, from which commit."""
    rows = []
    for number, call in enumerate(document["calls"]):
        count = sum(unit.get("call") == number for unit in document["units"].values())
        card = f"{call['card']}, {call['memory_gb']} GB" if "memory_gb" in call else call["card"]
        versions = ", ".join(f"{name} {value}" for name, value in call["versions"].items())
        sizes = "tiny" if call["tiny"] else "full"
        rows.append([call["date"], card, str(call.get("driver", "none")), str(call["cores"]), versions,
                     str(call["commit"]), f"{call['tiers']} ({sizes} sizes)", str(count)])  # fmt: skip
    return table(["date", "card", "driver", "CPU cores", "versions", "commit", "tiers", "units"], rows)


def check(units: Units) -> Iterable[str]:
    """What passed, with its numbers; then memory."""
    found = under(units, "check/")
    if not found:
        return
    counts = {status: sum(unit["status"] == status for unit in found.values()) for status in ("ok", *OPEN)}
    yield ", ".join(f"{count} {status}" for status, count in counts.items() if count) + "."
    rows = [[name, unit["status"], said(unit), f"{unit['seconds']:.0f}"] for name, unit in found.items()
            if not name.startswith("memory/")]  # fmt: skip
    yield table(["check", "", "found", "seconds"], rows)
    memory = {unit["values"]["method"]: unit["values"] for unit in good(found, "memory/")}
    if "dense" in memory:
        dense, first = memory["dense"]["bytes"], memory["dense"]
        rows = [[name, f"{one['bytes'] / GB:.2f}", f"{one['bytes'] / dense:.2f}"] for name, one in memory.items()]
        yield f"Peak memory of a training step, {first['title']} at {first['batch']} images, {first['precision']}:"
        yield table(["", "GB", "over dense"], rows)


def said(unit: dict[str, Any]) -> str:
    """The values of a check in a line, or its reason."""
    if "reason" in unit:
        return unit["reason"]
    values = unit.get("values", {})
    if "relative" in values:
        errors = values["relative"]
        return f"relative error at most {max(errors.values()) if isinstance(errors, dict) else errors:.1e}"
    if "steps" in values:
        return ", ".join(f"{stage} {count} steps" for stage, count in values["steps"].items())
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items() if not isinstance(value, dict))


def speed(units: Units) -> Iterable[str]:
    """Steps, realized shares, graphs, loaders."""
    steps = [unit["values"] for unit in good(units, "speed/step/")]
    for title, precision in dict.fromkeys((one["title"], one["precision"]) for one in steps):
        chosen = [one for one in steps if (one["title"], one["precision"]) == (title, precision)]
        yield f"A training step, {title}, {precision}, {chosen[0]['batch']} images:"
        yield step_table(chosen)
    shares = [unit["values"] for unit in good(units, "speed/realized/")]
    for title, dtype in dict.fromkeys((one["title"], one["dtype"]) for one in shares):
        chosen = [one for one in shares if (one["title"], one["dtype"]) == (title, dtype)]
        for compiled in (False, True):
            yield from realized(chosen, compiled)
    for unit in good(units, "speed/graphs/"):
        yield f"One image, {unit['values']['dtype']}; speed-up over the eager dense network, eager and by CUDA graphs:"
        yield graphs(unit["values"]["rows"])
        yield "; ".join(f"without {name}: {reason}" for name, reason in unit["values"].get("lost", {}).items())
    for unit in good(units, "speed/loader"):
        values = unit["values"]
        rates = values.get("images_per_second", values)
        what = "images a second, by workers" if "images_per_second" in values else "ms for a batch of CIFAR-10"
        yield table([what, *rates], [["loader", *(f"{value:,.1f}" for value in rates.values())]])


def step_table(chosen: Sequence[dict[str, Any]]) -> str:
    """Of one network and precision: eager and compiled."""
    eager = {one["method"]: one for one in chosen if one["compile"] == "false"}
    compiled = {one["method"]: one for one in chosen if one["compile"] != "false"}
    rows = []
    for method in dict.fromkeys([*eager, *compiled]):
        one, dense = eager.get(method), eager.get(REFERENCE.get(method, "dense"))
        cells = ["", "", "", "", ""]
        if one:
            cells[0], cells[4] = f"{one['ms']:.1f}", f"{one['bytes'] / GB:.1f}"
        if one and dense:
            time, macs = one["ms"] / dense["ms"], one["macs"] / dense["macs"]
            cells[1:4] = f"{time:.2f}", f"{macs:.2f}", f"{time / macs:.2f}"
        two, both = compiled.get(method), compiled.get(REFERENCE.get(method, "dense"))
        cells += [f"{two['ms']:.1f}" if two else "", f"{two['ms'] / both['ms']:.2f}" if two and both else "",
                  f"{one['ms'] / two['ms']:.2f}" if one and two else ""]  # fmt: skip
        rows.append([method, *cells])
    header = ["", "ms", "over dense", "MACs over dense", "time over MACs", "GB", "compiled ms", "over dense, compiled",
              "eager over compiled"]  # fmt: skip
    return table(header, rows)


def realized(found: list[dict[str, Any]], compiled: bool) -> Iterable[str]:
    """Networks by batch size."""
    sizes: dict[int, dict[str, str]] = {}
    for one in found:
        for row in (row for row in one["rows"] if row["compile"] == compiled):
            cell = f"{row['ms']:.2f}, {row['speedup']:.2f}, **{row['realised']:.2f}**"
            sizes.setdefault(one["batch"], {}).setdefault(row["name"], cell)  # the dense one is beside every other
    if not sizes:
        return
    title = f"{found[0]['title']}, {found[0]['dtype']}{', compiled' if compiled else ''}"
    yield f"Half of the MACs, {title}; ms, speed-up, **realized**:"
    columns = sorted(sizes)
    names = dict.fromkeys(name for size in columns for name in sizes[size])
    rows = [[name, *(sizes[size].get(name, "") for size in columns)] for name in names]
    yield table(["", *(f"batch {size}" for size in columns)], rows)


def graphs(rows: list[dict[str, Any]]) -> str:
    """Networks by how they are launched."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    cells = {(row["name"], row["way"]): f"{row['ms']:.2f} ms, {row['over_eager_dense']:.2f}" for row in rows}
    names = dict.fromkeys(row["name"] for row in rows)
    return table(["", *ways], [[name, *(cells.get((name, way), "") for way in ways)] for name in names])


def not_good(units: Units) -> Iterable[str]:
    """Failures first, each with its reason."""
    rows = [[name, unit["status"], str(unit.get("reason", "")).replace("|", "/")] for status in OPEN
            for name, unit in units.items() if unit["status"] == status]  # fmt: skip
    if rows:
        yield table(["unit", "", "reason"], rows)
