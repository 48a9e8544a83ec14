"""The script for a GPU, on the CPU: all of it at tiny sizes, and what holds it together."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import pytest
import timm
import torch
from fake_cuda import FakeCuda  # of tests/cuda/
from on_gpu import machine, networks, pretend, report, steps, tiers, trainings
from on_gpu.children import Failed, Skip, outcome_of, start_vitc, turn
from on_gpu.clock import Clock, MeasuredEnough
from on_gpu.identity import OtherResultsError, code, identity_of, scratch_of
from on_gpu.place import Place
from on_gpu.record import Record
from on_gpu.units import NEEDS_CUDA, Tier, Unit
from on_gpu.wheels import MissingPackageError, put_in_place

from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec

SCRIPT = Path(gpu.__file__)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("cpu", True, tmp_path / "out", tmp_path / "scratch", None, 4)


def run(place: Place, *units: Unit, seconds: float = 60) -> dict[str, dict[str, Any]]:
    Tier(units, place, record := Record(place.out), seconds).run()
    return json.loads(record.path.read_text())["units"]


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_everything_runs_at_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--seconds", "900,900,900", "--out", str(tmp_path / "out"),
               "--scratch", str(tmp_path / "scratch")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    document = json.loads((tmp_path / "out" / "gpu.json").read_text())
    bad = {name: unit for name, unit in document["units"].items()
           if unit["status"] != "ok" and unit.get("reason") != NEEDS_CUDA}  # fmt: skip
    assert not bad
    assert done.returncode == 0, done.stderr
    wanted = {unit.name for tier in gpu.TIERS for unit in units_of(tier, tmp_path)}
    assert set(document["units"]) == wanted
    assert {"check", "speed", "study"} <= {name.split("/")[0] for name in wanted}
    taught = document["units"]["speed/step/DeiT-S/bf16/eager/dense, taught"]["values"]
    dense = document["units"]["speed/step/DeiT-S/bf16/eager/dense"]["values"]
    teacher = ArchSpec.of(timm.create_model("deit_small_patch16_224", img_size=32))
    assert taught["macs"] - dense["macs"] == taught["batch"] * costs.macs(teacher)  # a forward pass of it, once
    tables = (tmp_path / "out" / "gpu.md").read_text()
    assert all(title in tables for title in ("### Check", "### Speed", "### Study"))


def units_of(tier: str, folder: Path) -> list[Unit]:
    scratch = folder / "scratch"
    plain = Place("cpu", True, folder / "out", scratch, scratch / "pretended", 2)
    assert plain.data == pretend.pretended(plain)
    return tiers.units_of(tier, plain, 100)


def leave(path: Path, text: str) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return {"text": text}


def fail() -> None:
    raise Failed("it is not right")


def skip() -> None:
    raise Skip("there is no such thing here")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(600)


def test_nothing_stops_the_others(place: Place) -> None:
    units = [Unit("bad", fail), Unit("gone", crash), Unit("slow", hang, limit=0.5), Unit("none", skip),
             Unit("typo", partial(int, "x")), Unit("cuda", fail, needs_cuda=True), Unit("after", fail, after=("bad",)),
             Unit("good", partial(leave, place.scratch / "a", "a"))]  # fmt: skip
    found = run(place, *units)
    assert {name: (unit["status"], unit.get("reason")) for name, unit in found.items()} == {
        "bad": ("failed", "it is not right"),
        "gone": ("failed", "the process was killed by SIGKILL"),
        "slow": ("failed", "did not end within 0 s"),
        "none": ("skipped", "there is no such thing here"),
        "typo": ("failed", "ValueError: invalid literal for int() with base 10: 'x'"),
        "cuda": ("skipped", NEEDS_CUDA),
        "after": ("skipped", "bad is failed: it is not right"),
        "good": ("ok", None),
    }
    assert "invalid literal" in found["typo"]["traceback"]


def test_what_is_recorded_is_not_done_again(place: Place) -> None:
    note = place.scratch / "a"
    again = Unit("one", partial(leave, note, "a"))
    run(place, again)
    run(place, again)
    assert note.read_text() == "a"
    product = place.scratch / "product"
    made = Unit("made", partial(leave, product, "p"), product=product)
    run(place, made)
    product.unlink()
    run(place, made, Unit("later", partial(leave, note, "b"), after=("made",)))  # needs it
    assert (product.read_text(), note.read_text()) == ("p", "ab")


CARD = {"device": "cuda", "card": "H200"}


def kept(place: Place, *differently: Any) -> bool:
    """Whether a unit recorded by a call is still there for another one."""
    (record := Record(place.out)).claim(identity_of(CARD, False, "a"))
    record.add("one", {"status": "ok"}, 1)
    (record := Record(place.out)).claim(identity_of(*differently))
    return record.is_settled("one")


def test_only_what_the_same_code_has_found_is_continued(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(place, CARD, False, "a")
    assert not kept(place, CARD, False, "b")
    assert [path.name for path in place.out.glob("gpu-*.json")] == [f"gpu-a-{code()}.json"]  # nothing is lost
    monkeypatch.setattr("on_gpu.identity.code", iter("xy").__next__)  # of the same commit, with a change
    assert not kept(place, CARD, False, "a")


@pytest.mark.parametrize("other", [(CARD, True, "a"), (CARD | {"card": "A100"}, False, "a"),
                                   ({"device": "cpu", "card": "H200"}, False, "a")])  # fmt: skip
def test_results_of_another_device_or_size_are_refused(place: Place, other: tuple[Any, ...]) -> None:
    with pytest.raises(OtherResultsError, match=r"^--out: .* holds results of full sizes on cuda, H200, .* folder$"):
        kept(place, *other)
    assert Record(place.out).is_settled("one")


def test_results_without_an_identity_are_set_aside(place: Place) -> None:
    Record(place.out).add("one", {"status": "ok"}, 1)
    (record := Record(place.out)).claim(identity_of(CARD, False, "a"))
    assert not record.units
    assert (place.out / "gpu-earlier.json").exists()


@pytest.fixture
def call(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The script from where torch is there, with units of its own."""

    def called(*units: Unit, seconds: float = 60, **options: Any) -> int:
        monkeypatch.setattr(gpu, "AHEAD", ())
        monkeypatch.setattr("on_gpu.machine.found", lambda _: CARD)
        monkeypatch.setattr("on_gpu.tiers.units_of", lambda *_: units)
        given = {"tiny": True, "data": None, "again": False, "commit": "a", "tier": "check", **options}
        args = Namespace(tiers=["check"], seconds={"check": seconds}, **given)
        return gpu.run(args, "cpu", place.out, place.scratch, {"wheels": [], "began": time.monotonic()})

    monkeypatch.setenv("XDG_CACHE_HOME", "")  # restored at the end
    return called


def test_a_call_continues_one_alike(place: Place, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    note = place.scratch / "a"
    unit = Unit("check/one", partial(leave, note, "a"))
    assert [call(unit), call(unit), note.read_text()] == [0, 0, "a"]
    (own,) = (path for path in place.scratch.iterdir() if path.is_dir())
    (run := own / "runs" / "finished").mkdir(parents=True)
    assert [call(unit, commit="b"), note.read_text()] == [0, "aa"]
    assert run.exists()
    assert [call(unit), note.read_text(), run.exists()] == [0, "aaa", False]  # its runs count no more than its record
    assert call(unit, tiny=False) == 2
    assert capsys.readouterr().err.startswith("error: --out: ")
    assert note.read_text() == "aaa"


def test_an_incomplete_tier_is_not_green(place: Place, call: Callable[..., int], capsys: Any) -> None:
    good = Unit("check/good", partial(leave, place.scratch / "a", "a"))
    units = [good, Unit("check/slow", hang), Unit("check/after", fail, after=("check/slow",))]
    assert call(*units, seconds=1) == gpu.INCOMPLETE
    assert "incomplete: 2 unfinished" in capsys.readouterr().err
    found = Record(place.out).units
    assert {name: unit["status"] for name, unit in found.items()} == {
        "check/good": "ok", "check/slow": "unfinished", "check/after": "unfinished",
    }  # fmt: skip
    assert found["check/after"]["reason"] == "not begun before the 1 s were over"
    assert "| after | unfinished | not begun" in (place.out / "gpu.md").read_text()
    assert call(good, Unit("check/bad", fail)) == gpu.INCOMPLETE
    assert call(good, Unit("check/none", skip)) == 0  # of this tier, nothing is left to do


def test_what_was_skipped_is_tried_again(place: Place, call: Callable[..., int]) -> None:
    note = place.scratch / "a"
    units = partial(leave, note, "a"), partial(leave, note, "b")
    call(Unit("check/none", skip), Unit("check/after", fail, after=("check/none",)))
    assert call(Unit("check/none", units[0]), Unit("check/after", units[1], after=("check/none",))) == 0
    assert note.read_text() == "ab"


def test_what_waits_for_a_failure_is_freed_with_it(place: Place, call: Callable[..., int]) -> None:
    after = Unit("check/after", partial(leave, place.scratch / "a", "a"), after=("check/bad",))
    call(Unit("check/bad", fail), after)
    mended = Unit("check/bad", partial(leave, place.scratch / "b", "b"))
    assert call(mended, after) == gpu.INCOMPLETE  # a failure stays one
    assert Record(place.out).status("check/after") == "skipped"
    assert call(mended, after, again=True) == 0
    assert (place.scratch / "a").read_text() == "a"


def odd() -> dict[str, Any]:
    return {"method": "dense", "path": Path("a")}  # no bytes, no title, and nothing that JSON knows


def test_values_that_fit_no_table_cost_nothing_else(place: Place, call: Callable[..., int]) -> None:
    note = place.scratch / "a"
    units = Unit("check/memory/dense", odd), Unit("speed/loader", partial(leave, note, "a"), after=("bad",))
    assert call(*units, Unit("bad", fail), Unit("good", partial(leave, note, "a"))) == gpu.INCOMPLETE
    assert {name: unit["status"] for name, unit in Record(place.out).units.items()} == {
        "check/memory/dense": "ok", "bad": "failed", "good": "ok", "speed/loader": "skipped",
    }  # fmt: skip
    tables = (place.out / "gpu.md").read_text()
    assert "### Check\n\n1 ok." in tables
    assert "\n\n**Check ends here:** KeyError: 'bytes'\n\n" in tables
    assert "| bad | failed | it is not right |" in tables


def test_a_document_that_cannot_be_written_costs_no_unit(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.out / "gpu.md").mkdir(parents=True)
    assert run(place, Unit("one", odd))["one"]["status"] == "ok"
    assert capsys.readouterr().out.count("gpu.md is not written: IsADirectoryError") == 1


def test_runs_are_apart_where_records_are(tmp_path: Path) -> None:
    folders = {scratch_of(tmp_path, tmp_path / out, identity_of(CARD, tiny, commit))
               for out in "ab" for tiny in (False, True) for commit in "ab"}  # fmt: skip
    assert len(folders) == 8


def test_the_code_is_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (file := tmp_path / "benchmarks" / "a.py").write_text("a = 1")
    before = code(tmp_path)
    assert code(tmp_path) == before
    file.write_text("a = 2")
    assert code(tmp_path) != before


def test_failures_are_done_again_when_that_is_asked_for(place: Place) -> None:
    run(place, Unit("one", fail))
    assert run(place, Unit("one", partial(leave, place.scratch / "a", "a")))["one"]["status"] == "failed"
    record = Record(place.out)
    record.forget_failures()
    record.write()
    assert run(place, Unit("one", partial(leave, place.scratch / "a", "a")))["one"]["status"] == "ok"


def test_a_tier_ends_by_itself_and_can_be_continued(place: Place) -> None:
    began = time.monotonic()
    found = run(place, Unit("slow", hang), Unit("other", hang), seconds=1)
    assert time.monotonic() - began < 10
    assert {unit["status"] for unit in found.values()} == {"unfinished"}
    assert run(place, Unit("slow", partial(leave, place.scratch / "a", "a")))["slow"]["status"] == "ok"


def measured(note: Path, name: str) -> None:
    time.sleep(0.3)
    turn()
    leave(note, f"<{name}")
    time.sleep(0.3)
    leave(note, ">")


def busy(note: Path) -> None:
    leave(note, "(")
    time.sleep(0.6)
    leave(note, ")")


def test_what_is_measured_is_alone(place: Place) -> None:
    note = place.scratch / "a"
    run(replace(place, cores=6, tiny=False), Unit("busy", partial(busy, note)), Unit("1", partial(measured, note, "1")),
        Unit("2", partial(measured, note, "2")), Unit("later", partial(busy, note)))  # fmt: skip
    noted = note.read_text()
    assert sorted(noted) == sorted("()()<1><2>")
    for one in ("<1>", "<2>"):
        before, found, _ = noted.partition(one)
        assert found, noted  # nothing came between its beginning and its end ...
        assert before.count("(") == before.count(")"), noted  # ... and nothing else was on its way


def meeting(own: Path, other: Path) -> None:
    turn()
    leave(own, "here")
    end = time.monotonic() + 30
    while not other.exists():
        if time.monotonic() > end:
            raise Failed("nobody came")
        time.sleep(0.01)


def test_at_tiny_sizes_nobody_waits_to_be_alone(place: Place) -> None:
    one, other = place.scratch / "1", place.scratch / "2"
    found = run(place, Unit("1", partial(meeting, one, other)), Unit("2", partial(meeting, other, one)))
    assert {unit["status"] for unit in found.values()} == {"ok"}


@pytest.mark.parametrize("alone", [True, False])
def test_memory_is_measured_beside_others(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[None] = []
    monkeypatch.setattr("on_gpu.clock.turn", lambda: waited.append(None))
    clock = Clock("cpu", 2, 1, counted=False, alone=alone)
    for _ in range(4):
        clock.on_train_batch_end()
    with pytest.raises(MeasuredEnough):
        clock.on_train_batch_end()
    assert (len(waited), len(clock.seconds), clock.bytes > 0) == (int(alone), 3, True)


def test_wrong_logits_fail() -> None:
    right = torch.ones(4, 10)
    nearly, wrong, lost = right * (1 + 1e-5), right + torch.eye(4, 10) / 20, right * torch.nan
    assert networks.judged({"one": networks.relative(nearly, right)})["relative"]["one"] < 1e-4
    for name, found in {"wrong": wrong, "lost": lost}.items():
        with pytest.raises(Failed, match=f"^relative errors of more than 0.001: .*{name}"):
            networks.judged({"one": 0.0, name: networks.relative(found, right)})


@pytest.mark.parametrize("check", [
    networks.same_logits, networks.masked_is_compact, networks.sliced_is_compact, networks.skipping_is_masked,
])  # fmt: skip
def test_checks_of_networks_fail_with_one_that_computes_otherwise(check: Any, place: Place, monkeypatch: Any) -> None:
    assert max(check(place)["relative"].values()) < 1e-4
    spoilt = spoil(monkeypatch, moving=check is networks.same_logits)
    with pytest.raises(Failed, match=r"^relative errors of more than 0.001: "):
        check(place)
    assert spoilt


def spoil(monkeypatch: pytest.MonkeyPatch, moving: bool) -> list[str]:
    """Make what the checks compare wrong by 1 %: compacted networks, and those that have gates and do not mask."""
    spoilt: list[str] = []

    def wrong(network: Any, name: str) -> Any:
        spoilt.append(name)
        network.head.register_forward_hook(lambda _, __, out: out * 1.01)
        return network

    def compacted(*given: Any) -> Any:
        made = compact(*given)
        made.to = lambda *_: wrong(made, "moved")  # what `same_logits` compares: before and after
        return made if moving else wrong(made, "compact")

    def gating(network: Any, mode: str) -> None:
        set_gating(network, mode)
        if mode != "masked":
            wrong(network, mode)

    compact, set_gating = networks.compact, networks.set_gating
    monkeypatch.setattr(networks, "compact", compacted)
    monkeypatch.setattr(networks, "set_gating", gating)
    return spoilt


def test_too_few_steps_fail() -> None:
    trainings.all_taken({"dense": 2, "search": 6, "finetune": 7}, "uvc", 6)
    trainings.all_taken({"dense": 6}, "dense", 6)
    for taken, method in (({"search": 6, "finetune": 5}, "uvc"), ({"dense": 6}, "uvc"), ({"dense": 5}, "dense")):
        with pytest.raises(Failed, match=r"^stages took \{.*\} steps, not 6: it ended"):
            trainings.all_taken(taken, method, 6, "it ended")


def test_a_run_that_resumed_otherwise_fails(tmp_path: Path) -> None:
    for name, loss in (("whole", 1.0), ("killed", 1.0), ("other", 1.0000001)):
        leave(tmp_path / name / "metrics.jsonl", json.dumps({"step": 1, "loss": loss}) + "\n")
    assert trainings.same(tmp_path / "whole", tmp_path / "killed") == {"differences": 0}
    with pytest.raises(Failed, match=r"^1 differences: .*metrics.jsonl"):
        trainings.same(tmp_path / "whole", tmp_path / "other")


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("short", "alone"), [(True, False), (False, True)])
def test_only_steps_that_are_timed_are_alone(short: bool, alone: bool, place: Place, monkeypatch: Any) -> None:
    clocks = []
    monkeypatch.setattr(steps, "probe_of", lambda *_: SimpleNamespace(clock=None))
    monkeypatch.setattr(steps, "Clock", lambda *given, **named: clocks.append(named["alone"]) or stop())
    with pytest.raises(Stopped):
        steps.step(place, "DeiT-S", "dense", "bf16", short=short)
    assert clocks == [alone]


def stop() -> None:
    raise Stopped


def grandchild(place: Place) -> None:
    process, _ = start_vitc(place, "--version")
    process.join()
    assert process.exitcode == 0
    hang()


def test_all_that_a_unit_has_started_ends_with_it(place: Place) -> None:
    run(place, Unit("one", partial(grandchild, place), limit=5))
    assert not [line for line in os.popen("ps -eo pid,stat,args") if str(place.scratch) in line]
    assert any(path.read_text().startswith("vitc ") for path in (place.scratch / "commands").glob("*.out"))


def test_outcomes() -> None:
    assert outcome_of(lambda: {"a": 1}) == {"status": "ok", "values": {"a": 1}}
    assert outcome_of(lambda: None) == {"status": "ok", "values": {}}


@pytest.mark.parametrize(("text", "expected"), [
    (None, {"check": 100, "study": 240}), ("34", {"check": 10, "study": 24}), ("5,7", {"check": 5, "study": 7}),
])  # fmt: skip
def test_seconds(text: str | None, expected: dict[str, float]) -> None:
    assert gpu.seconds_of(["check", "study"], text) == expected


@pytest.mark.parametrize("text", ["0", "-3,4", "1,2,3", "soon"])
def test_other_seconds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        gpu.seconds_of(["check", "study"], text)


def wheel(folder: Path, name: str, needs: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "here = True\n")
        lines = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        archive.writestr(f"{name}-1.0.dist-info/METADATA", lines + (f"Requires-Dist: {needs}\n" if needs else ""))
    return path


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


@pytest.mark.usefixtures("_restored")
def test_missing_packages_come_from_wheels(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_there", "of-its-own>=1.0; python_version > '3'")
    wheel(tmp_path / "wheels", "of_its_own")
    needed = {"not_there": "not-there", "json": "json"}
    used = put_in_place(tmp_path / "wheels", tmp_path / "site", needed)
    assert used == ["not_there-1.0-py3-none-any.whl", "of_its_own-1.0-py3-none-any.whl"]
    assert (sys.path[0], sys.path[-1]) == (str(SCRIPT.parents[1]), str(tmp_path / "site"))
    code = "import not_there, of_its_own, lightning_vitc; print(lightning_vitc.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(SCRIPT.parents[1] / "lightning_vitc" / "__init__.py")


@pytest.mark.usefixtures("_restored")
def test_all_packages_without_a_wheel_are_named(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_there", "of-its-own")
    needed = {name.replace("-", "_"): name for name in ("not-there", "nor-this", "nor-that")}
    with pytest.raises(MissingPackageError, match=r"^neither installed nor among .* of-its-own") as error:
        put_in_place(tmp_path / "wheels", tmp_path / "site", needed)
    assert str(error.value).endswith("pip download --no-deps -d wheels nor-that nor-this of-its-own")


@pytest.mark.usefixtures("_restored")
def test_what_is_needed_elsewhere_is_not_missing_here(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_there", "of-its-own; python_version < '3.10'")
    assert put_in_place(tmp_path / "wheels", tmp_path / "site", {"not_there": "not-there"}) == [
        "not_there-1.0-py3-none-any.whl"
    ]


def test_nothing_that_may_be_missing_is_imported_before() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu, runpy; "
        "print([name for name in ('omegaconf', 'torch', 'lightning_vitc', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("arguments", "said"), [
    (("--tier", "speeed"), "--tier: 'speeed' is not one of check, speed, study"),
    (("--seconds", "soon"), "--seconds: 'soon' is neither one number > 0 nor one for each of check,speed,study"),
    (("--data", "nowhere"), "--data: nowhere is no folder"),
])  # fmt: skip
def test_bad_arguments(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=tmp_path,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"gpu.py: error: {said}")


class Card(SimpleNamespace):
    name, total_memory, multi_processor_count = "NVIDIA H200", 141e9, 132


def test_card_and_driver_are_named(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$*" = "--query-gpu=driver_version --format=csv,noheader" ] && echo 580.65.06\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with FakeCuda(answer=512):  # of a product of ones
        found = machine.describe(replace(place, device="cuda"))
    assert found.items() >= {"device": "cuda", "card": "NVIDIA H200", "memory_gb": 141.0, "driver": "580.65.06",
                             "multiprocessors": 132, "cards": 1}.items()  # fmt: skip
    call = found | {"date": "2027-01-01", "cores": 16, "versions": {"torch": "2.11.0"}, "commit": "abc", "tiny": False,
                    "tiers": "check"}  # fmt: skip
    row = "| 2027-01-01 | NVIDIA H200, 141.0 GB | 580.65.06 | 16 | torch 2.11.0 | abc | check (full sizes) | 0 |"
    assert row in report.machine({"calls": [call], "units": {}})


@pytest.mark.parametrize("answer", ["", "exit 9"])
def test_a_driver_that_says_nothing(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.driver() == "unknown"


def test_a_card_that_multiplies_otherwise_is_refused(place: Place) -> None:
    with FakeCuda(answer=511), pytest.raises(RuntimeError, match=r"^cuda cannot multiply$"):
        machine.describe(replace(place, device="cuda"))


@pytest.mark.parametrize("tiny", [False, True])
def test_what_is_resumed_and_exported_was_trained_in_full_precision(tiny: bool, place: Place) -> None:
    units = {unit.name: unit for unit in tiers.units_of("check", replace(place, tiny=tiny), 100)}
    later = [unit for name, unit in units.items() if name.startswith(("check/resume/", "check/export/"))]
    methods = trainings.FEWER if tiny else trainings.METHODS
    assert len(later) == len(methods) + len({*methods} - {*trainings.BY_TIME})
    assert all(units[name].product for unit in later for name in unit.after)


def test_realized_shares_have_a_table_by_network_and_precision() -> None:
    def unit(title: str, batch: int, compiled: bool) -> dict[str, Any]:
        rows = [{"name": "UVC", "ms": 1.0, "speedup": 2.0, "realised": batch / 8, "compile": way}
                for way in {False, compiled}]  # fmt: skip
        return {"status": "ok", "values": {"title": title, "batch": batch, "dtype": "bf16", "rows": rows}}

    units = {f"speed/realized/{number}": unit(*case) for number, case in enumerate(
        [("DeiT-S", 1, False), ("DeiT-S", 4, False), ("DeiT-B", 1, False), ("DeiT-S", 4, True)])}  # fmt: skip
    texts = "\n\n".join(report.speed(units))
    assert texts.count("Half of the MACs, ") == 3
    assert ("Half of the MACs, DeiT-S, bf16; ms, speed-up, **realized**:\n\n|  | batch 1 | batch 4 |") in texts
    assert "Half of the MACs, DeiT-B, bf16; ms" in texts
    assert "Half of the MACs, DeiT-S, bf16, compiled; ms, speed-up, **realized**:\n\n|  | batch 4 |" in texts
