"""Train the ABN baseline or SAC (docs/method.md)."""

from core import config
from core.cli import Parser, UserError, run
from core.run_folder import Run
from core.trainer import Trainer

EXAMPLES = """examples:
  python train.py --cfg configs/deeplabv2_resnet101.yaml --exp v1 --run baseline
  python train.py --cfg configs/deeplabv2_resnet101_train.yaml --exp v1 --run sac \\
      --resume snapshots/cityscapes/v1/baseline/epoch010_score0.400.pth --set MODEL.LR_TARGET 2
The same command again continues an interrupted run."""


def main() -> None:
    """Parse, load the configuration, train."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="configuration, YAML")
    parser.add_argument("--exp", required=True, metavar="NAME", help="experiment")
    parser.add_argument("--run", required=True, metavar="NAME", help="run; the same name continues the run")
    parser.add_argument("--resume", default="", metavar="SNAPSHOT", help="snapshot to start from")
    parser.add_argument("--dataloader", default="cityscapes", metavar="NAME", help="folder for the target's runs")
    parser.add_argument("--snapshot-dir", default="snapshots", metavar="DIR")
    parser.add_argument("--logdir", default="logs", metavar="DIR")
    parser.add_argument("--workers", type=int, metavar="N", help="loader processes (default: this process's cores)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything drawn (default: 0)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY VALUE", help="configuration keys", dest="pairs")
    args = parser.parse_args()
    if args.seed < 0 or (args.workers or 0) < 0:
        raise UserError(f"--{'seed' if args.seed < 0 else 'workers'}: expected a whole number >= 0")
    cfg, notes = config.load(args.cfg, args.pairs)
    folder = Run(args.exp, args.run, args.dataloader, args.snapshot_dir, args.logdir)
    Trainer(cfg, folder, args.resume, args.seed, args.workers, notes).fit()


if __name__ == "__main__":
    run(main)
