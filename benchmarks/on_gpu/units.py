"""Units of work, run several at a time until the seconds are over; none stops another."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from on_gpu import processes
from on_gpu.children import Child, give_turns, start
from on_gpu.place import Place
from on_gpu.record import Record

NEEDS_CUDA = "needs CUDA"


@dataclass(frozen=True)
class Unit:
    """A check or a measurement.

    Attributes:
        name: by which it is recorded.
        run: what it does, in a process of its own; it returns values for the record.
        limit: seconds that it may take.
        after: units that must have come to a good end before.
        product: a file it leaves for those after it; where it is gone, the unit is run again for them.
        slots: how many of the processes at a time it stands for.
        needs_cuda: whether it makes no sense on a CPU.
    """

    name: str
    run: Callable[[], dict[str, Any] | None]
    limit: float = 60.0
    after: tuple[str, ...] = ()
    product: Path | None = None
    slots: int = 1
    needs_cuda: bool = False


class Tier:
    """Runs the units of a tier, in their order as far as they wait for each other.

    Args:
        units: all of them; those that are recorded are left out.
        place: where.
        record: of what becomes of them.
        seconds: after which whatever still runs is ended, and noted as unfinished.
    """

    def __init__(self, units: Sequence[Unit], place: Place, record: Record, seconds: float):
        self.place, self.record, self.seconds = place, record, seconds
        self.names = [unit.name for unit in units]
        self.pending = _pending(units, record)
        self.running: dict[str, tuple[Unit, Child]] = {}
        self.deadline = time.monotonic() + seconds

    def run(self) -> None:
        """Until nothing is left, or no time; no process is left behind."""
        try:
            self._run()
        finally:
            processes.end_all()

    def _run(self) -> None:
        while (self.pending or self.running) and time.monotonic() < self.deadline:
            self._start_what_can()
            self._listen()
            give_turns([child for _, child in self.running.values()], self.place.tiny)
            self._end_what_takes_too_long()
        for name, (_, child) in list(self.running.items()):
            self._close(name, {"status": "unfinished", "reason": f"the {self.seconds:.0f} s were over"}, child)
        for unit in self.pending:
            if self.record.status(unit.name) != "ok":  # what is only done again for others is not lost
                reason = f"not begun before the {self.seconds:.0f} s were over"
                self._note(unit.name, {"status": "unfinished", "reason": reason}, 0.0)

    def bad(self) -> dict[str, int]:
        """How many of its units have failed and how many are unfinished, where there are any."""
        found = [self.record.status(name) for name in self.names]
        return {status: found.count(status) for status in ("failed", "unfinished") if status in found}

    def _start_what_can(self) -> None:
        for unit in list(self.pending):
            if any(child.alone for _, child in self.running.values()):
                return
            if (outcome := self._hindered(unit)) is not None:
                self.pending.remove(unit)
                self._note(unit.name, outcome, 0.0)
            elif self._left().isdisjoint(unit.after):
                if not self._has_room(unit):
                    return  # smaller ones would overtake it again and again
                self.pending.remove(unit)
                log = self.place.scratch / "logs" / f"{unit.name.replace('/', '-').replace(' ', '_')}.log"
                self.running[unit.name] = unit, start(unit.run, log)

    def _hindered(self, unit: Unit) -> dict[str, str] | None:
        if unit.needs_cuda and self.place.device != "cuda":
            return {"status": "skipped", "reason": NEEDS_CUDA}
        left = self._left()
        for name in unit.after:
            if name not in left and (status := self.record.status(name)) != "ok":
                reason = self.record.units.get(name, {}).get("reason", "")
                return {"status": "skipped", "reason": f"{name} is {status or 'not there'}: {reason}"[:300]}
        return None

    def _left(self) -> set[str]:
        """Those that are not at their end."""
        return {unit.name for unit in self.pending} | self.running.keys()

    def _has_room(self, unit: Unit) -> bool:
        taken = sum(other.slots for other, _ in self.running.values())
        return not self.running or taken + unit.slots <= self.place.jobs

    def _listen(self) -> None:
        """To what children say, for a moment."""
        children = [child for _, child in self.running.values()]
        events = {child.pipe: child for child in children} | {child.process.sentinel: child for child in children}
        heard = {id(events[ready]): events[ready] for ready in connection.wait(events, timeout=0.2)}
        for name, (_, child) in list(self.running.items()):
            if id(child) in heard and (outcome := child.heard()) is not None:
                self._close(name, outcome, child)

    def _end_what_takes_too_long(self) -> None:
        for name, (unit, child) in list(self.running.items()):
            if child.seconds > unit.limit:
                reason = f"did not end within {unit.limit:.0f} s"
                self._close(name, {"status": "failed", "reason": reason, "output": child.output()}, child)

    def _close(self, name: str, outcome: dict[str, Any], child: Child) -> None:
        seconds = child.seconds
        if outcome["status"] == "failed":
            outcome.setdefault("output", child.output())
        child.end()
        del self.running[name]
        self._note(name, outcome, seconds)

    def _note(self, name: str, outcome: dict[str, Any], seconds: float) -> None:
        self.record.add(name, outcome, seconds)
        reason = f": {outcome['reason']}" if "reason" in outcome else ""
        print(f"{name}: {outcome['status']}{reason} ({seconds:.1f} s)", flush=True)


def _pending(units: Sequence[Unit], record: Record) -> list[Unit]:
    """What is not recorded, and what those need that is recorded and lost."""
    left = {unit.name for unit in units if not record.is_settled(unit.name)}
    while True:
        needed = {name for unit in units if unit.name in left for name in unit.after} - left
        lost = {unit.name for unit in units if unit.name in needed and unit.product and not unit.product.exists()}
        if not lost:
            return [unit for unit in units if unit.name in left]
        left |= lost
