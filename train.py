"""Train the ABN baseline or SAC (docs/method.md)."""

from core.cli import KEY_VALUE, SEED, WORKERS, Parser, folder_name, run  # isort: skip

from core import config
from core.run_folder import Run
from core.trainer import Trainer

EXAMPLES = """examples:
  python train.py --cfg configs/deeplabv2_resnet101.yaml --exp v1 --run baseline
  python train.py --cfg configs/deeplabv2_resnet101_train.yaml --exp v1 --run sac \\
      --resume snapshots/cityscapes/v1/baseline/epoch010_score0.400.pth --set MODEL.LR_TARGET 2
Run the same command again to resume an interrupted run."""


def main() -> None:
    """Parse, load the configuration, train."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="configuration (YAML)")
    parser.add_argument("--exp", type=folder_name, default="main", metavar="NAME", help="experiment (default: main)")
    parser.add_argument("--run", type=folder_name, required=True, metavar="NAME",
                        help="run; using the same name again resumes it")
    parser.add_argument("--resume", default="", metavar="SNAPSHOT", help="snapshot to start from")
    parser.add_argument("--dataloader", type=folder_name, default="cityscapes", metavar="NAME",
                        help="folder for the target's runs (default: cityscapes)")
    parser.add_argument("--snapshot-dir", default="snapshots", metavar="DIR")
    parser.add_argument("--logdir", default="logs", metavar="DIR")
    parser.add_argument("--workers", type=WORKERS, metavar="N",
                        help="loader processes (default: as many as cores, at most 16)")
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument("--set", **KEY_VALUE)
    args = parser.parse_args()
    cfg, notes = config.load(args.cfg, args.pairs)
    folder = Run(args.exp, args.run, args.dataloader, args.snapshot_dir, args.logdir)
    Trainer(cfg, folder, args.resume, args.seed, args.workers, notes).fit()


if __name__ == "__main__":
    run(main)
