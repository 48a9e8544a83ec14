"""The command `vitc` in processes of its own, forked from a server that has done the imports.

Those take longer than the tiny trainings of tests and of `kill_resume.py`. What is forked is a process like any other:
it can be killed, and Lightning's ranks can be made of several.
"""

import multiprocessing
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FAMILIES = Path(__file__).parents[1] / "lightning_vitc" / "networks" / "families"
AHEAD = [
    "lightning_vitc.pipeline.train", "lightning_vitc.exporting.exporting", "lightning_vitc.measuring.evaluating",
    "lightning_vitc.measuring.benchmark", "lightning_vitc.reporting.report", "sklearn.datasets", "omegaconf",
    "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "torch.export._trace",
    "onnxscript.function_libs.torch_lib.ops",
    *(f"lightning_vitc.networks.families.{file.parent.name}.network" for file in sorted(FAMILIES.glob("*/network.py"))),
]  # fmt: skip
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(AHEAD)
AS_RANK = """
import multiprocessing, os
from lightning.pytorch.utilities import rank_zero_only
os.chdir(place)
os.environ.update(environment)
rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))  # Lightning looks when it is imported, which is over
multiprocessing.set_start_method("fork", force=True)  # as in a process of its own
"""
_MAIN = f"""{AS_RANK}
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind a shell's `&`, as two others are
signal.signal(signal.SIGHUP, signal.SIG_DFL), signal.signal(signal.SIGQUIT, signal.SIG_DFL)
for number, name in ((1, out), (2, error)):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
from lightning_vitc.cli import main
code = main(arguments)
sys.stdout.flush(), sys.stderr.flush()
sys.exit(code)
"""


def fork(code: str, name: str | None = None, **values: Any) -> BaseProcess:
    """Start a process that runs some code over some global values."""
    process = _FORKS.Process(target=exec, args=(code, values), name=name)
    process.start()
    return process


def environments_of_ranks(count: int) -> list[dict[str, str]]:
    """What makes so many processes the ranks of one training on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = dict(NODE_RANK="0", WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
                  GLOO_SOCKET_IFNAME="lo")  # fmt: skip
    return [common | {"LOCAL_RANK": str(rank)} for rank in range(count)]


def fork_ranks(count: int, code: str, place: Path, **values: Any) -> list[BaseProcess]:
    """Start so many ranks of one training, each of which runs some code over some global values in a directory."""
    ranks: list[dict[str, str]] = [{}] if count == 1 else environments_of_ranks(count)
    return [fork(AS_RANK + code, place=str(place), environment=one, **values) for one in ranks]


@dataclass
class Done:
    """What a process left behind."""

    code: int | None
    out: str
    error: str


class Vitc:
    """The command `vitc`, each time in a process of its own, in one directory."""

    executable = str(Path(sys.executable).with_name("vitc"))  # as a user starts it, with the imports

    def __init__(self, place: Path) -> None:
        self.place, self.count = place, 0

    def __call__(self, *arguments: str, timeout: float = 300, **environment: str) -> Done:
        """Run it to its end, or for so many seconds."""
        process = self.start(*arguments, **environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
        return self.done(process)

    def start(self, *arguments: str, **environment: str) -> BaseProcess:
        """Run it without waiting; `done` reads the end."""
        self.count += 1
        names = {name: str(self.place / f".{name}.{self.count}") for name in ("out", "error")}
        values = dict(arguments=list(arguments), place=str(self.place), environment=environment, **names)
        return fork(_MAIN, str(self.count), **values)

    def start_ranks(self, ranks: int, *arguments: str, **environment: str) -> list[BaseProcess]:
        """Run it as one process, or as so many ranks of one training."""
        if ranks == 1:
            return [self.start(*arguments, **environment)]
        keys = (f"trainer.devices={ranks}", "trainer.strategy=ddp")
        return [self.start(*arguments, *keys, **environment, **own) for own in environments_of_ranks(ranks)]

    def run_ranks(self, ranks: int, *arguments: str, **environment: str) -> list[Done]:
        """Run it as so many ranks, each to its end."""
        return [self.done(process) for process in self.start_ranks(ranks, *arguments, **environment)]

    def done(self, process: BaseProcess) -> Done:
        """Exit code and output of a process that has ended."""
        process.join()
        out, error = (self.place / f".{name}.{process.name}" for name in ("out", "error"))
        return Done(process.exitcode, *(file.read_text() if file.exists() else "" for file in (out, error)))

    def kill_when(self, reached: Callable[[], bool], *arguments: str) -> bool:
        """Start it, and SIGKILL it once a state is reached; whether that was before it ended by itself."""
        process = self.start(*arguments)
        while process.is_alive() and not reached():
            time.sleep(0.001)
        process.kill()
        process.join()
        return process.exitcode == -9
