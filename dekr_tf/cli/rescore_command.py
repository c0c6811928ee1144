"""Train a rescoring net, which ranks poses by the OKS that it predicts.

dekr rescore collect --model M --annotations A --images I --output P   poses in the training images, and their OKS
dekr rescore train P --output NET                                      the net, for --rescore of predict and evaluate
"""

import argparse
from pathlib import Path

from dekr_tf.cli.evaluation_options import add_options, check_options, input_files, open_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subparser for each step."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    collect = actions.add_parser(
        "collect",
        help="find poses in labeled images, and how good they are",
        description="Runs a model on the training images and writes every pose with its OKS, compared with the labeled "
        "person whom it fits best. Use the options that the net will be used with, such as --flip.",
    )
    add_options(collect, ("coco", "crowdpose"))
    collect.add_argument("--output", type=Path, required=True, metavar="FILE", help=".npz file of poses to write")
    collect.set_defaults(act=_collect)

    train = actions.add_parser(
        "train",
        help="fit a net to the OKS of poses",
        description="Fits a net to the poses of `dekr rescore collect`: mean squared error, Adam. Prints "
        "the loss of every epoch; small data sets may need a smaller batch.",
    )
    train.add_argument("poses", type=Path, metavar="POSES", help=".npz file of `dekr rescore collect`")
    train.add_argument("--output", type=Path, required=True, metavar="FILE", help=".npz file of the net to write")
    train.add_argument("--validation", type=Path, metavar="POSES", help="more poses, whose loss is printed too")
    train.add_argument(
        "--epochs", type=int, default=20, metavar="N", help="passes over the poses (default: %(default)s)"
    )
    train.add_argument(
        "--batch-size", type=int, default=1024, metavar="N", help="poses in a step (default: %(default)s)"
    )
    train.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="of Adam (default: %(default)s)")
    train.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the initial weights and the order of the poses"
    )
    train.set_defaults(act=_train)


def run(arguments: argparse.Namespace) -> None:
    """Runs the chosen step.

    Raises:
        InputError: a file or an option does not fit, or the output cannot be written.
    """
    arguments.act(arguments)


def _collect(arguments: argparse.Namespace) -> None:
    from dekr_tf.evaluation.crowdpose import area_of_box
    from dekr_tf.evaluation.evaluator import default_metric, detect_people
    from dekr_tf.evaluation.scoring import check_somebody_is_labeled
    from dekr_tf.files.coco_format import read_labels
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.inference.rescoring import count_features
    from dekr_tf.training.rescoring_samples import collect_samples

    check_options(arguments)
    check_outputs([arguments.output], input_files(arguments))
    detector, schema, category = open_source(arguments)
    count_features(schema)
    labels = read_labels(arguments.annotations, schema, category=category)
    check_outputs([arguments.output], input_files(arguments, labels))
    check_somebody_is_labeled(labels)
    results = arguments.results
    if detector:
        batch_size = 1 if arguments.batch_size is None else arguments.batch_size
        # `collect_samples` would leave out poses in the other images.
        useful = [image for image in labels if any(person.labeled for person in image.people)]
        results = detect_people(detector, useful, arguments.images, batch_size=batch_size, progress=True)
    metric = arguments.metric or default_metric(labels, schema)
    areas = {"area": area_of_box} if metric == "crowdpose" else {}
    samples = collect_samples(labels, results, schema, **areas)
    samples.save(arguments.output)
    print(f"{arguments.output}: {len(samples)} poses, mean OKS {samples.oks.mean():.3f}")


def _train(arguments: argparse.Namespace) -> None:
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.training.rescoring_samples import RescoringSamples

    check_outputs([arguments.output], [arguments.poses, arguments.validation])
    samples = RescoringSamples.load(arguments.poses)
    validation = RescoringSamples.load(arguments.validation) if arguments.validation else None
    from dekr_tf.training.rescoring import train_rescoring_net

    options = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "learning_rate", "seed")}
    # The variance is the loss of a net that always predicts the mean.
    print(f"{len(samples)} poses, skeleton: {samples.schema.name}, variance of the OKS: {samples.oks.var():.5f}")
    net = train_rescoring_net(samples, validation, verbose=True, **options)
    net.save(arguments.output)
    print(f"{arguments.output}: rescoring net, {sum(part.size for pair in net.layers for part in pair):,} values")
