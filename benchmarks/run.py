"""Benchmarks: measure on this machine, and write what was found to `results/`.

python benchmarks/run.py speed invariance --data DIR
python benchmarks/run.py accuracy --data DIR --only 'trec-*' --minutes 60      # some cells; run again to go on
python benchmarks/run.py all --tiny                                            # only to see that everything runs
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

import tinydata
from machine import ROOT
from results import write
from subjects import Setting

NAMES = ("speed", "invariance", "estimate", "accuracy", "rivals", "bank", "compile", "kills", "serving", "http", "soak")
MODULES = {"compile": "compiling", "http": "serving_http", "soak": "serving_soak"}
TINY = {"backbone": "tiny-gemma3", "dtype": "fp32", "quick": True}
USUAL = NAMES[:2]
ALWAYS = {"soak": {"dtype": "fp32"}}
"""What a benchmark is run with whatever is asked for."""


def main() -> None:
    asked = _arguments()
    folder = Path(asked.out or ROOT / ("runs/benchmarks" if asked.quick else "results"))
    data = asked.data or (str(tinydata.write(folder / "data")) if asked.tiny else None)
    for name in NAMES if "all" in asked.what else asked.what or USUAL:
        began, own = time.monotonic(), argparse.Namespace(**{**vars(asked), **ALWAYS.get(name, {})})
        setting = Setting(
            own.backbone, data, own.quick, own.dtype, own.device, str(folder), own.only, own.seeds, own.rates,
            own.minutes, own.again,
        )  # fmt: skip
        print(f"== {name}", file=sys.stderr, flush=True)
        result = getattr(import_module(MODULES.get(name, name)), MODULES.get(name, name))(setting)
        write(result, folder, _command(name, own), own.dtype, own.device)
        print(f"wrote {folder / name}.md ({time.monotonic() - began:.0f} s)", file=sys.stderr)
        for table in result.tables:
            print(f"\n{table.markdown()}" if table.rows else "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(NAMES)} or all; default: {' '.join(USUAL)}")
    parser.add_argument("--data", help="folder of the data sets (benchmarks/DATA.md); default: the packaged SMS set")
    parser.add_argument("--backbone", default="gemma-3-270m", help="as for `load_backbone`; or tiny-FAMILY")
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"], help="of the frozen weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for accuracy, rivals, bank and compile")
    parser.add_argument("--quick", action="store_true", help="few rows and steps: shows that it runs, measures nothing")
    parser.add_argument("--tiny", action="store_true", help="--quick on a tiny random backbone and made-up data")
    parser.add_argument("--only", nargs="+", default=[], help="patterns of the cells to run, for instance 'trec-*'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="of accuracy and rivals")
    parser.add_argument("--rates", nargs="+", type=float, default=[], help="learning rates of rivals")
    parser.add_argument("--minutes", type=float, help="begin no further cell after these; of soak: so long")
    parser.add_argument("--again", action="store_true", help="run cells that are there already")
    parser.add_argument("--out", help="folder of the results; default: results, with --quick runs/benchmarks")
    found = parser.parse_args()
    if found.tiny:
        vars(found).update(TINY)
    for name in found.what:
        if name not in (*NAMES, "all"):
            parser.error(f"there is no benchmark `{name}`; there are {', '.join(NAMES)} and all")
    if found.data and not Path(found.data).is_dir():
        parser.error(f"--data is `{found.data}`, which is no folder; benchmarks/DATA.md says what belongs into it")
    return found


def _command(name: str, asked: argparse.Namespace) -> str:
    """What to type for this result again; where things lie is nobody's business."""
    backbone = "FOLDER" if Path(asked.backbone).exists() else asked.backbone
    flags = [*(["--data DIR"] if asked.data else []), f"--backbone {backbone}", f"--dtype {asked.dtype}"]
    flags += [f"--device {asked.device}"] if asked.device != "cpu" else []
    flags += [f"--seeds {' '.join(map(str, asked.seeds))}"] if asked.seeds else []
    flags += [f"--minutes {asked.minutes:g}"] if name == "soak" and asked.minutes else []
    flags += ["--tiny"] if asked.tiny else ["--quick"] if asked.quick else []
    return " ".join(["python benchmarks/run.py", name, *flags])


if __name__ == "__main__":
    main()
