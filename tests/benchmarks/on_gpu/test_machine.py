"""The card is named."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import FakeCuda
from on_gpu import machine, report
from on_gpu.place import Place


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
