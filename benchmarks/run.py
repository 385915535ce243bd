"""Benchmarks: measure on this machine, and write what was found to `results/`.

python benchmarks/run.py speed invariance --data DIR
python benchmarks/run.py all --quick --backbone tiny-gemma3      # only to see that everything runs
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

from machine import ROOT
from results import write
from subjects import Setting

NAMES = ("speed", "invariance", "accuracy", "kills")
USUAL = NAMES[:2]


def main() -> None:
    asked = _arguments()
    setting = Setting(asked.backbone, asked.data, asked.quick, asked.dtype)
    folder = Path(asked.out or ROOT / ("runs/benchmarks" if asked.quick else "results"))
    for name in NAMES if "all" in asked.what else asked.what or USUAL:
        began = time.monotonic()
        print(f"== {name}", file=sys.stderr, flush=True)
        result = getattr(import_module(name), name)(setting)
        write(result, folder, _command(name, asked), asked.dtype)
        print(f"wrote {folder / name}.md ({time.monotonic() - began:.0f} s)", file=sys.stderr)
        for table in result.tables:
            print(f"\n{table.markdown()}" if table.rows else "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(NAMES)} or all; default: {' '.join(USUAL)}")
    parser.add_argument("--data", help="folder of the data sets (benchmarks/DATA.md); default: the packaged SMS set")
    parser.add_argument("--backbone", default="gemma-3-270m", help="as for `load_backbone`; or tiny-FAMILY")
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"], help="of the frozen weights")
    parser.add_argument("--quick", action="store_true", help="few rows and steps: shows that it runs, measures nothing")
    parser.add_argument("--out", help="folder of the results; default: results, with --quick runs/benchmarks")
    found = parser.parse_args()
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
    return " ".join(["python benchmarks/run.py", name, *flags, *(["--quick"] if asked.quick else [])])


if __name__ == "__main__":
    main()
