"""The day a GPU is there: is it right (check), how fast is it (speed), and what is it good for (study)?

One command, no network. Everything is done in units, each in a process of its own; what is found is in `gpu.json` and
`gpu.md` of `--out` after every one of them, and a second call of the same code, device and sizes does what is left.

Exit codes: 0 when every unit of the tiers came to a good end or was skipped, and where there is no GPU; 3 when one has
failed or is unfinished; 2 for arguments, packages or results that do not fit; 128 and the signal's number where one has
stopped it, and all that it had started with it; 1 for anything else.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from on_gpu.processes import stop_by_signals
from on_gpu.wheels import REPOSITORY, MissingPackageError, put_in_place

DOCUMENT = REPOSITORY / "docs" / "results" / "gpu.md"
TIERS = {"check": 100.0, "speed": 180.0, "study": 240.0}
ENVIRONMENT = {
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # to look for a GPU without touching it: a process that has cannot be forked
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # for deterministic algorithms
    "HF_HUB_OFFLINE": "1",
}
OF_TINY = {"TORCHDYNAMO_DISABLE": "1"}  # to compile takes a minute; there, graphs run as they are written
AHEAD = ("tensorboard.backend.event_processing.event_accumulator", "torch.utils.tensorboard", "sklearn.datasets",
         "matplotlib.backends.backend_agg", "lightning_vitc.pipeline.train", "torch._dynamo")  # fmt: skip
INCOMPLETE = 3
NO_GPU = "no GPU that torch can use here: nothing was run (--tiny runs everything small, on a CPU too)"


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="check,speed,study", help="comma-separated (default: %(default)s)")
    parser.add_argument("--seconds", help="of each tier, comma-separated, or one number for all of them together "
                        f"(default: {','.join(f'{seconds:.0f}' for seconds in TIERS.values())})")  # fmt: skip
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "gpu", help="results (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="a folder of the archives that the study and the loader read")
    parser.add_argument(
        "--scratch", type=Path, help="everything else; kept for a second call (default: a temporary one)"
    )
    parser.add_argument("--wheels", type=Path, help="of packages that are missing (default: wheels/ here, .whl/)")
    parser.add_argument("--commit", help="where there is no git to ask")
    parser.add_argument("--tiny", action="store_true", help="everything at sizes that take a CPU two minutes")
    parser.add_argument("--again", action="store_true", help="also run again what has failed")
    parser.add_argument("--table-only", action="store_true", help=f"write the tables of --out into {DOCUMENT.name}")
    args = parser.parse_args()
    args.tiers = args.tier.split(",")
    for tier in args.tiers:
        if tier not in TIERS:
            parser.error(f"--tier: {tier!r} is not one of {', '.join(TIERS)}")
    for option in ("data", "wheels"):
        if (path := getattr(args, option)) is not None and not path.is_dir():
            parser.error(f"--{option}: {path} is no folder")
    try:
        args.seconds = seconds_of(args.tiers, args.seconds)
    except ValueError:
        parser.error(f"--seconds: {args.seconds!r} is neither one number > 0 nor one for each of {args.tier}")
    return args


def seconds_of(tiers: list[str], text: str | None) -> dict[str, float]:
    """By tier; one number is shared out as the defaults are.

    Raises:
        ValueError: for anything else than one positive number, or one a tier.
    """
    if text is None:
        return {tier: TIERS[tier] for tier in tiers}
    given = [float(part) for part in text.split(",")]
    if min(given) <= 0 or len(given) not in (1, len(tiers)):
        raise ValueError(text)
    if len(given) == len(tiers):
        return dict(zip(tiers, given, strict=True))
    whole = sum(TIERS[tier] for tier in tiers)
    return {tier: given[0] * TIERS[tier] / whole for tier in tiers}


def main() -> int:
    """Run the tiers that are asked for."""
    began, args = time.monotonic(), arguments()
    if args.table_only:
        return write_tables(args.out)
    out = args.out.absolute()
    name = f"lightning-vitc-gpu-{zlib.crc32(str(out).encode()):08x}"
    scratch = (args.scratch or Path(tempfile.gettempdir()) / name).absolute()
    if not (out / "gpu.json").exists() and args.scratch is None:
        shutil.rmtree(scratch, ignore_errors=True)  # of results that are gone
    scratch.mkdir(parents=True, exist_ok=True)
    prepare_environment(args.tiny)
    try:
        used = put_in_place(args.wheels, scratch / "site")
    except MissingPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = device_of(args.tiny)
    if device is None:
        print(NO_GPU)
        return 0
    stop_by_signals()
    return run(args, device, out, scratch, {"wheels": used, "began": began})


def prepare_environment(tiny: bool) -> None:
    """Before torch is imported."""
    own = {"OMP_NUM_THREADS": "2" if len(os.sched_getaffinity(0)) > 8 else "1"} | (OF_TINY if tiny else {})
    for key, value in (ENVIRONMENT | own).items():
        os.environ.setdefault(key, value)
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def device_of(tiny: bool) -> str | None:
    """`cuda`, or for tiny sizes what there is; `None` for neither. Looks without touching the GPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "cpu" if tiny else None


def run(args: argparse.Namespace, device: str, out: Path, scratch: Path, facts: dict[str, Any]) -> int:
    """All tiers, one after another; `INCOMPLETE` where something of them has failed or is unfinished."""
    for module in AHEAD:  # what every process needs, imported once before they are forked
        import_module(module)
    from on_gpu import identity, machine, pretend, tiers
    from on_gpu.place import Place
    from on_gpu.record import Record
    from on_gpu.units import Tier

    data = args.data and args.data.absolute()
    found = machine.found(Place(device, args.tiny, out, scratch, data, machine.cores()))
    own = identity.identity_of(found, args.tiny, args.commit or machine.commit())
    record, scratch = Record(out), identity.scratch_of(scratch, out, own)
    try:
        if not record.claim(own):
            shutil.rmtree(scratch, ignore_errors=True)  # of results that are gone
    except identity.OtherResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")  # latencies are measured anew
    place = Place(device, args.tiny, out, scratch, data, machine.cores())
    if args.tiny and data is None:
        place = replace(place, data=pretend.pretended(place))
    if args.again:
        record.forget_failures()
    record.begin(found | {"date": machine.date(), "commit": own["commit"], "tiny": args.tiny,
                          "tiers": args.tier, "seconds": args.seconds, "versions": machine.versions(),
                          "cores": place.cores, "wheels": facts["wheels"],
                          "seconds_before": round(time.monotonic() - facts["began"], 1)})  # fmt: skip
    print(record.tables().split("\n\n")[0], flush=True)
    bad: Counter[str] = Counter()
    for name in args.tiers:
        tier = Tier(tiers.units_of(name, place, args.seconds[name]), place, record, args.seconds[name])
        tier.run()
        bad.update(tier.bad())
    print(f"\n{record.tables()}\n\n{time.monotonic() - facts['began']:.0f} s in all; {out / 'gpu.md'}")
    if bad:
        print(f"incomplete: {', '.join(f'{count} {status}' for status, count in bad.items())}", file=sys.stderr)
    return INCOMPLETE if bad else 0


def write_tables(out: Path) -> int:
    """Into the document, in the place of those that were there."""
    from on_gpu.record import Record
    from study import write_section

    if not (out / "gpu.json").exists():
        print(f"error: --out: {out} holds no gpu.json", file=sys.stderr)
        return 2
    write_section(DOCUMENT, "results", Record(out).tables())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
