"""The paper's Table 5 on synthetic people: what adaptive activation and separate regression bring to a small DEKR.

Trains every head with the same data, steps and seeds, measures AP on unseen images, and prints mean and spread. Results
are kept in the output folder, so that a run that was interrupted goes on where it stopped.

dekr data synthetic --output demo/data
python benchmarks/ablation.py --output runs/ablation
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "synthetic_small.yaml"
#: (adaptive activation, separate regression) and the settings.
HEADS = {
    "baseline": ("", "", ["block=plain", "branches=single"]),
    "+ adaptive activation": ("x", "", ["block=adaptive", "branches=single"]),
    "+ separate regression": ("", "x", ["block=plain", "branches=separate"]),
    "DEKR": ("x", "x", ["block=adaptive", "branches=separate"]),
}


def dekr(*words) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from dekr_tf.cli.main import main; sys.exit(main())",
        *map(str, words),
    ]
    subprocess.run(command, check=True)


def measure(head: str, seed: int, options: argparse.Namespace) -> float:
    folder = options.output / f"{head.strip('+ ').replace(' ', '_')}_{seed}"
    metrics = folder / "metrics.json"
    if not metrics.exists():
        settings = [f"model.offset_head.{setting}" for setting in HEADS[head][2]]
        data = [
            f"data.{split}_{kind}={options.data / name}"
            for split in ("train", "val")
            for kind, name in (("annotations", f"{split}.json"), ("images", f"{split}/images"))
        ]
        settings += [*data, f"training.seed={seed}", *options.settings]
        dekr("train", "--resume", "--config", CONFIG, "--output", folder, *settings)
        labels = ["--annotations", options.data / "val.json", "--images", options.data / "val/images"]
        dekr("evaluate", "--model", folder / "last.keras", *labels, "--output", metrics)
    return json.loads(metrics.read_text())["AP"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("demo/data"), help="of `dekr data synthetic`")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes to configs/synthetic_small.yaml")
    options = parser.parse_args()
    found = {head: [] for head in HEADS}
    for seed in range(options.seeds):
        for head, values in found.items():
            values.append(measure(head, seed, options))
    print("head                   adaptive  separate  AP mean  lowest  highest  deviation")
    for head, values in found.items():
        row = statistics.mean(values), min(values), max(values), statistics.stdev(values) if len(values) > 1 else 0.0
        adaptive, separate, _ = HEADS[head]
        print(f"{head:22} {adaptive:>8}  {separate:>8}  {'  '.join(f'{value:7.3f}' for value in row)}")


if __name__ == "__main__":
    main()
