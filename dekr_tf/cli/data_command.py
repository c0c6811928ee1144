"""Make, prepare and inspect data sets.

dekr data synthetic --output DIR            synthetic people with exact labels, in COCO's format
dekr data crowdpose-trainval TRAIN VAL ...  CrowdPose's two training splits in one file
dekr data schema ANNOTATIONS ...            the skeleton of an annotation file, to edit
dekr data tfrecord --annotations A ...      images and labels in a few large files
dekr data show --config C ...               a sheet of training samples with their targets
"""

import argparse
import json
from pathlib import Path

from dekr_tf.cli.arguments import image_size
from dekr_tf.cli.evaluation_options import add_category_option
from dekr_tf.config import Config, load_config
from dekr_tf.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subparser for every kind of data work."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    synthetic = actions.add_parser(
        "synthetic",
        help="draw synthetic people with exact labels",
        description="Draws synthetic people with exact labels: DIR/train.json, DIR/val.json, and images in "
        "DIR/train/images and DIR/val/images. The same seed gives the same images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    synthetic.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    synthetic.add_argument("--train", type=int, default=500, metavar="N", help="number of training images")
    synthetic.add_argument("--val", type=int, default=100, metavar="N", help="number of validation images")
    synthetic.add_argument("--size", type=image_size, default="256x256", metavar="HxW", help="pixels of an image")
    synthetic.add_argument("--seed", type=int, default=0, help="of the random drawing, 0 or more")
    synthetic.set_defaults(act=_synthetic)

    trainval = actions.add_parser(
        "crowdpose-trainval",
        help="merge CrowdPose's two training splits",
        description="Writes one annotation file with the images and people of two, on which CrowdPose models train.",
    )
    trainval.add_argument("train", type=Path, metavar="TRAIN", help="crowdpose_train.json")
    trainval.add_argument("val", type=Path, metavar="VAL", help="crowdpose_val.json")
    trainval.add_argument("--output", type=Path, required=True, metavar="FILE", help="annotation file to write")
    trainval.set_defaults(act=_crowdpose_trainval)

    schema = actions.add_parser(
        "schema",
        help="the skeleton of an annotation file, to edit",
        description="Writes the skeleton that the categories of an annotation file describe, as YAML for `keypoints` "
        "of a config. Flip pairs come from names that differ in left and right, or l and r.",
    )
    schema.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="JSON file in COCO keypoint format")
    add_category_option(schema)
    schema.add_argument("--output", type=Path, required=True, metavar="FILE", help="YAML file to write")
    schema.set_defaults(act=_schema)

    tfrecord = actions.add_parser(
        "tfrecord",
        help="write images and labels as a few large files",
        description="Writes DIR with the unchanged images, their labels, and metadata.json, for data.train_records of "
        "a config. DIR appears when everything is written, and may then be copied to object storage.",
    )
    tfrecord.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO keypoint labels")
    add_category_option(tfrecord)
    tfrecord.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder or zip file of the images")
    tfrecord.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder to write to")
    tfrecord.add_argument("--shards", type=int, metavar="N", help="number of files (default: one per 1024 images)")
    tfrecord.add_argument("--config", metavar="FILE", help="for its keypoints and data.damaged_images (default: COCO)")
    tfrecord.set_defaults(act=_tfrecord)

    show = actions.add_parser(
        "show",
        help="draw a sheet of training samples",
        description="Draws samples of the training data as they enter the network. Left: heatmaps, orange on the "
        "person's left, blue on the right, else green, the center white; redder where more heatmaps have no loss "
        "weight. Right: the target offsets at each person's center.",
    )
    show.add_argument("--config", required=True, metavar="FILE", help="YAML file of the experiment")
    show.add_argument("--output", type=Path, required=True, metavar="FILE", help="picture to write")
    show.add_argument("--count", type=int, default=8, metavar="N", help="number of samples (default: %(default)s)")
    show.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, e.g. input_size=256")
    show.set_defaults(act=_show)


def run(arguments: argparse.Namespace) -> None:
    """Runs the chosen action."""
    arguments.act(arguments)


def _synthetic(arguments: argparse.Namespace) -> None:
    from dekr_tf.data.synthetic import write_dataset

    counts = write_dataset(
        arguments.output, train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed
    )
    for split, (images, people) in counts.items():
        print(f"{arguments.output / split}.json: {images} images, {people} people")


def _crowdpose_trainval(arguments: argparse.Namespace) -> None:
    from dekr_tf.data.annotations import merge_annotations
    from dekr_tf.files.outputs import check_outputs, write_text

    check_outputs([arguments.output], [arguments.train, arguments.val])
    merged = merge_annotations([arguments.train, arguments.val])
    write_text(arguments.output, json.dumps(merged))
    print(f"{arguments.output}: {len(merged['images'])} images, {len(merged['annotations'])} people")


def _schema(arguments: argparse.Namespace) -> None:
    import yaml

    from dekr_tf.files.inputs import read_json
    from dekr_tf.files.outputs import check_outputs, write_text
    from dekr_tf.keypoints import schema_from_categories

    check_outputs([arguments.output], [arguments.annotations])
    content = read_json(arguments.annotations, "annotations")
    if not isinstance(content, dict):
        raise InputError(f"annotations {arguments.annotations}: expected a mapping. Received: {type(content).__name__}")
    schema = schema_from_categories(content.get("categories"), arguments.annotations.stem, arguments.category)
    # Pairs of names read better in brackets than on two lines each.
    write_text(arguments.output, yaml.safe_dump(schema.to_dict(), sort_keys=False, default_flow_style=None, width=100))
    print(
        f"{arguments.output}: {len(schema)} keypoints, {len(schema.flip_pairs)} flip pairs, {len(schema.edges)} edges"
    )


def _tfrecord(arguments: argparse.Namespace) -> None:
    from dekr_tf.data.annotations import read_annotations
    from dekr_tf.data.records import write_records
    from dekr_tf.data.samples import report_people
    from dekr_tf.files.images import check_images

    config = load_config(arguments.config) if arguments.config else Config()
    records = read_annotations(arguments.annotations, config.schema, arguments.category or config.data.category)
    images = check_images([record.file_name for record in records], arguments.images)
    count = write_records(
        records,
        images,
        arguments.output,
        config.schema,
        shards=arguments.shards,
        damaged=config.data.damaged_images,
        progress=True,
    )
    print(f"{arguments.output}: {count} of {len(records)} images")
    print(report_people(records, config.targets, str(arguments.output)))


def _show(arguments: argparse.Namespace) -> None:
    if arguments.count < 1:
        raise InputError(f"--count: expected a positive number. Received: {arguments.count}")
    config = load_config(arguments.config, arguments.overrides)
    import numpy as np

    from dekr_tf.data.pipeline import input_errors, train_dataset
    from dekr_tf.data.samples import LabeledImages, open_training_data
    from dekr_tf.data.target_maps import draw_targets
    from dekr_tf.files.images import check_picture_name, write_image
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.visualization.sample_sheet import draw_sample, make_sheet

    check_picture_name(arguments.output)
    check_outputs([arguments.output], [arguments.config, *config.files()])
    training = config.training.model_copy(update={"batch_size": 1, "accumulation_steps": 1})
    config = config.model_copy(update={"training": training})
    data = open_training_data(config)
    sets = [each for each in data.sets if isinstance(each, LabeledImages)]
    check_outputs([arguments.output], (each.images.path / record.file_name for each in sets for record in each.records))
    drawings = []
    with input_errors():
        for image, labels in train_dataset(data, config).repeat().take(arguments.count):
            maps = {name: np.array(values[0]) for name, values in draw_targets(labels, config.targets).items()}
            drawings.append(draw_sample(image[0].numpy(), maps, config.schema))
    write_image(make_sheet(drawings), arguments.output)
    print(f"{arguments.output}: {arguments.count} samples")
