"""Run every stage, from raw labels to the report: what launch/adapt.sh calls.

  gta|synthia NETWORK   the published setting; resnet101, vgg16 or vgg16fcn, or an encoder: dinov2b, convnext, lite0
  CONFIG.yaml           your own SAC configuration (docs/own_data.md)
  demo                  toy worlds, rendered first (launch/demo.sh)
  demo_pretrained       the same with EfficientNet-Lite0, pretrained on ImageNet (launch/demo.sh --pretrained)

Each stage prints its command, which you can also run by hand, and is done once: run the same command again to resume
where it was interrupted. If settings change, the stages that depend on them run again. KEY VALUE pairs change the
configuration of all trainings; TRAIN.NUM_EPOCHS includes the baseline's epochs.

Rows, each trained and compared (default: abn and sac):
  source   the source only; no target data is read
  abn      the baseline, which SAC starts from
  control  ABN for as many epochs as SAC has in total; added if --rows names both abn and sac
  sac      SAC
  oracle   training on the target labels: an upper bound for adaptation
Each row's last snapshot is evaluated. Target labels are read only by the oracle and for evaluation, and select nothing.

Environment, as for launch/train.sh: EXP (v1) and EXP_ID (01), which name the runs, and NUM_GPUS.
"""

import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import SEED, Parser, UserError, run  # isort: skip

from core.step_log import duration
from tools.pipeline import estimates, plan, tasks
from tools.pipeline.execute import execute
from tools.pipeline.plan import Stage
from tools.pipeline.record import Record

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = """examples:
  bash launch/adapt.sh gta resnet101 --dry-run
  bash launch/adapt.sh synthia vgg16 --rows source,abn,sac,oracle TRAIN.MICRO_BATCH 2
  bash launch/adapt.sh gta resnet101 --target acdc
  bash launch/adapt.sh configs/own.yaml"""


def arguments() -> Namespace:
    """The command line."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("pairs", nargs="+", metavar="WHAT", help="{gta|synthia} NETWORK, CONFIG.yaml or demo; then KEY VALUE ...")
    add("--rows", metavar="NAMES", help=f"some of {', '.join(plan.ROWS)}, separated by commas (default: abn,sac)")
    add("--target", default="", metavar="NAME", help="for gta or synthia: a data set in configs/domains (default: "
        "cityscapes) with lists train_NAME and val_NAME; also becomes part of the run names")
    add("--dry-run", action="store_true", help="print the plan: stages, commands, disk, memory")
    add("--measure", action="store_true", help="with --dry-run: hours too, from 20 iterations of each kind of training")
    add("--again", metavar="STAGE", help="repeat a stage and all that depend on it")
    add("--seed", type=SEED, default=0, metavar="N", help="random seed (default: 0)")
    args = parser.parse_intermixed_args()
    if args.measure and not args.dry_run:
        raise UserError("--measure needs --dry-run")
    return args


def rows_of(text: str | None) -> list[str]:
    """The rows that --rows names, in the order of plan.ROWS."""
    if text is None:
        return ["abn", "sac"]
    named = [name for name in text.replace(" ", "").split(",") if name]
    unknown = [name for name in named if name not in plan.ROWS]
    if unknown or not named:
        raise UserError(f"--rows {text}: expected some of {', '.join(plan.ROWS)}, separated by commas")
    control = {"control"} if {"abn", "sac"} <= set(named) else set()
    return [row for row in plan.ROWS if row in {*named, *control}]


def show(found: list[Stage], record: Record) -> None:
    """Print the plan."""
    keys = plan.keys(found)
    for number, stage in enumerate(found, 1):
        done = record.is_done(stage.name, keys[stage.name])
        print(f"{number:2}. {stage.name}: {stage.says}" + (" (done)" if done else ""))
        for command in stage.commands:
            print(f"      {line(command)}")


def line(command: Iterable[str]) -> str:
    """The command to run by hand."""
    return shlex.join(["python", *command])


def forget(name: str, found: list[Stage], record: Record) -> None:
    """Mark a stage and all that depend on it as not done; UserError if there is no such stage."""
    if name not in [stage.name for stage in found]:
        raise UserError(f"--again {name}: expected one of {', '.join(stage.name for stage in found)}")
    names = {name}
    for stage in found:  # each comes after those it depends on
        if names & set(stage.after):
            names.add(stage.name)
    record.forget(names)


def do(found: list[Stage], record: Record) -> None:
    """Run the stages that are not done yet, in order.

    Raises:
        SystemExit: a command failed, with its status; it has already said why.
    """
    keys = plan.keys(found)
    for number, stage in enumerate(found, 1):
        key, title = keys[stage.name], f"[{number}/{len(found)}] {stage.name}"
        if record.is_done(stage.name, key):
            print(f"{title}: already done, in {duration(record.seconds(stage.name))}", flush=True)
            continue
        print(f"{title}: {stage.says}", flush=True)
        start = time.monotonic()
        for command in stage.commands:
            print(f"  {line(command)}", flush=True)
            status = execute(command) or (143 if was_stopped(stage) else 0)
            if status:
                record.add(stage.name, "", time.monotonic() - start)
                print(f"{title}: stopped (exit status {status}); run the same command again to resume", flush=True)
                sys.exit(status)
        record.add(stage.name, key, time.monotonic() - start)
        print(f"{title}: done in {duration(record.seconds(stage.name))}", flush=True)


def was_stopped(stage: Stage) -> bool:
    """Whether a training ended early: stopped by a signal, it ends cleanly, with status 0."""
    path = Path(stage.log)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if stage.log and path.is_file() else []
    return bool(lines) and "stopped by a signal" in lines[-1]


def main() -> None:
    """Parse, plan, then show or run the plan."""
    args = arguments()
    rows = rows_of(args.rows)
    what = tasks.here(args.pairs, Path.cwd(), ROOT)
    os.chdir(ROOT)
    folder = tasks.home(what, args.seed, args.target)
    record = Record(folder)
    task = tasks.make(what, args.seed, record, args.target)
    found = plan.stages(task, rows)
    if args.target not in ("", tasks.TARGET):
        print("note: DATASET.TARGET_MEAN and TARGET_STD are Cityscapes' unless given as KEY VALUE; measure them with "
              f"tools/dataset_stats.py --list train_{args.target} --as TARGET")
    if args.again:
        forget(args.again, found, record)
    if args.dry_run:
        show(found, record)
        for text in estimates.lines(task, rows, args.measure, execute):
            print(text, flush=True)
        return
    print(f"{len(found)} stages, recorded in {record.path}", flush=True)
    do(found, record)


if __name__ == "__main__":
    run(main)
