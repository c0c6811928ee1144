"""Measure a model on labeled images, or score a results file.

  dekr evaluate --model best.keras --annotations val.json --images val/
  dekr evaluate --results results.json --annotations val.json --config configs/coco_w32.yaml

Metrics: "coco" is COCO's AP and AR over OKS thresholds, for any skeleton; "crowdpose" is that of CrowdPose's toolkit,
with AP of easy, medium and hard images; "pck" is PCK@0.2 by the torso's diameter, for one labeled person per image, of
the pose with the highest score. The skeleton is that of the model; for a results file it is that of --config, else
CrowdPose's with --metric crowdpose, else COCO's.

Image files are read as they are stored, whatever their EXIF orientation, since labels are in stored pixels. A "-" in
the table means that the annotations have no such people. With --results-output, the annotations may lack labels, like
those of COCO's test-dev: then the poses are written for the server and nothing is measured.
"""

import argparse
import json
from pathlib import Path

from dekr_tf.cli.evaluation_options import add_options, add_rescore_option, check_options, input_files, open_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    add_options(parser, ("coco", "crowdpose", "pck"))
    add_rescore_option(parser)
    parser.add_argument("--results-output", type=Path, metavar="FILE", help="write the poses as a COCO results file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the metric as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        InputError: options, annotations, images, model or results do not fit, or an output cannot be written.
    """
    from dekr_tf.evaluation.evaluator import METRICS, default_metric, detect_people, evaluate_detector
    from dekr_tf.files.coco_format import read_labels
    from dekr_tf.files.outputs import check_outputs, write_text

    check_options(arguments, "rescore", "results_output")
    outputs = arguments.results_output, arguments.output
    check_outputs(outputs, input_files(arguments))
    detector, schema, category = open_source(arguments)
    only_write = arguments.results_output and not (arguments.output or arguments.metric)
    labels = read_labels(arguments.annotations, schema, need_people=not only_write, category=category)
    check_outputs(outputs, input_files(arguments, labels))
    people = sum(person.labeled for image in labels for person in image.people)
    metric = arguments.metric or default_metric(labels, schema)
    how = {"batch_size": 1 if arguments.batch_size is None else arguments.batch_size, "progress": True}
    if only_write and not people:
        metrics, results = {}, detect_people(detector, labels, arguments.images, **how)
    elif detector:
        metrics, results = evaluate_detector(detector, labels, arguments.images, metric=metric, **how)
    else:
        metrics = METRICS[metric](labels, arguments.results, schema)

    if arguments.results_output:
        write_text(arguments.results_output, json.dumps(results) + "\n")
    if arguments.output:
        write_text(arguments.output, json.dumps(metrics, indent=2) + "\n")
    ignored = sum(person.labeled and not person.scored for image in labels for person in image.people)
    note = f", {ignored} of them ignored: num_keypoints is 0" if ignored and metric != "pck" else ""
    print(f"images: {len(labels)}, labeled people: {people}{note}")
    if metrics:
        print(f"metric: {metric}, skeleton: {schema.name}")
        print(_table(metrics))
    else:
        print(f"no labels to score; {len(results)} poses are in {arguments.results_output}")


def _table(metrics: dict[str, float]) -> str:
    """One column per number, or one line per number if there are many."""
    values = {
        name: f"{value:d}" if isinstance(value, int) else f"{value:.3f}" if value >= 0 else "-"
        for name, value in metrics.items()
    }
    if len(values) > 10:
        width = max(map(len, values))
        return "\n".join(f"{name:{width}}  {value:>5}" for name, value in values.items())
    return "\n".join("  ".join(f"{cell:>5}" for cell in row) for row in (values, values.values()))
