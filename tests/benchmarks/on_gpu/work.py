"""What units of the tests do, in processes of their own."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from on_gpu.children import Failed, Skip
from on_gpu.place import Place
from on_gpu.record import Record
from on_gpu.units import Tier, Unit


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


def odd() -> dict[str, Any]:
    return {"method": "dense", "path": Path("a")}  # no bytes, no title, and nothing that JSON knows


def hang() -> None:
    time.sleep(600)


def run(place: Place, *units: Unit, seconds: float = 60) -> dict[str, dict[str, Any]]:
    Tier(units, place, record := Record(place.out), seconds).run()
    return json.loads(record.path.read_text())["units"]


def counted(note: Path) -> int:
    leave(note, "<3")
    time.sleep(0.2)
    leave(note, ">")
    return 3
