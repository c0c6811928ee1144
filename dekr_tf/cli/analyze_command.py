"""Show which errors a model makes, and the AP that each kind costs.

  dekr analyze --model best.keras --annotations val.json --images val/ --plot errors.png
  dekr analyze --results results.json --annotations val.json

Every labeled keypoint of a person who was found is good, or has one of the errors of Ronchi and Perona (ICCV 2017):
jitter (near its place), inversion (where the other side's keypoint is), swap (at another person's keypoint), miss (near
none of these). The first table has the shares for each keypoint; the second, the AP with the errors of one kind
corrected, and of all kinds. With --metric crowdpose, a person's size is measured as in CrowdPose's toolkit.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dekr_tf.cli.evaluation_options import add_options, add_rescore_option, check_options, input_files, open_source

if TYPE_CHECKING:
    from dekr_tf.evaluation.error_analysis import ErrorAnalysis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    add_options(parser, ("coco", "crowdpose"))
    add_rescore_option(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them: .png, .pdf or .svg")


def run(arguments: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        InputError: options, annotations, images, model or results do not fit, or an output cannot be written.
    """
    from dekr_tf.errors import InputError
    from dekr_tf.evaluation.crowdpose import area_of_box
    from dekr_tf.evaluation.error_analysis import analyze_errors
    from dekr_tf.evaluation.evaluator import default_metric, evaluate_detector
    from dekr_tf.files.coco_format import read_labels
    from dekr_tf.files.outputs import atomic_output, check_outputs, write_text

    check_options(arguments, "rescore")
    if arguments.plot:
        from dekr_tf.visualization.error_chart import FORMATS, error_chart

        if arguments.plot.suffix.lower() not in FORMATS:
            raise InputError(f"--plot: expected a file name in {', '.join(FORMATS)}. Received: {arguments.plot}")

    outputs = arguments.output, arguments.plot
    check_outputs(outputs, input_files(arguments))
    detector, schema, category = open_source(arguments)
    labels = read_labels(arguments.annotations, schema, category=category)
    check_outputs(outputs, input_files(arguments, labels))
    metric = arguments.metric or default_metric(labels, schema)
    results = arguments.results
    if detector:
        batch_size = 1 if arguments.batch_size is None else arguments.batch_size
        _, results = evaluate_detector(
            detector, labels, arguments.images, metric=metric, batch_size=batch_size, progress=True
        )
    areas = {"area": area_of_box} if metric == "crowdpose" else {}
    analysis = analyze_errors(labels, results, schema, **areas)

    content = analysis.to_dict()
    if arguments.output:
        write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    if arguments.plot:
        chart = error_chart(content["counts"], content["AP"], content["AP_corrected"])
        with atomic_output(arguments.plot) as temporary:
            chart.savefig(temporary)
    print(f"metric: {metric}, skeleton: {schema.name}")
    print(f"labeled people: {analysis.people}, poses: {analysis.poses}, matched: {analysis.matched}")
    print(_tables(analysis))


def _tables(analysis: "ErrorAnalysis") -> str:
    from dekr_tf.evaluation.error_analysis import KINDS

    names = [*analysis.schema.names, "all"]
    width = max(map(len, [*names, "% of keypoints"]))
    lines = [f"\n{'% of keypoints':{width}}  " + "  ".join(f"{kind:>9}" for kind in KINDS) + f"  {'labeled':>9}"]
    for name, counts in zip(names, [*analysis.counts, analysis.counts.sum(axis=0)], strict=True):
        total = counts.sum()
        shares = [f"{100 * count / total:9.1f}" if total else f"{'-':>9}" for count in counts]
        lines.append(f"{name:{width}}  " + "  ".join(shares) + f"  {total:9d}")
    lines.append(f"\n{'corrected':{width}}  {'AP':>9}  {'gain':>9}")
    lines.append(f"{'none':{width}}  {analysis.precision:9.3f}")
    for name, precision in analysis.corrected.items():
        lines.append(f"{name:{width}}  {precision:9.3f}  {precision - analysis.precision:+9.3f}")
    return "\n".join(lines)
