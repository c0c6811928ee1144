"""The paper's tables as data: for each row, what it takes to measure it, and the paper's figures.

Only DEKR's own rows are here, not those of other methods, nor Table 4 and a row of Table 6, which are on COCO test-dev.
The figures are those of the printed paper. The authors' page (README of HRNet/DEKR at commit 7a30313) repeats those of
Tables 2, 3, 6 and 7 digit by digit, adds AR50 and AR75 to Table 2, and has neither Table 1 nor Table 5.
"""

from dataclasses import dataclass

from dekr_tf.config import Config

AUTHORS = "https://github.com/HRNet/DEKR"


@dataclass(frozen=True)
class DataSet:
    """Labeled images that a row is measured on.

    Attributes:
        name: to print.
        option: of the command line, for its folder.
        annotations, images: possible paths in that folder, in the order in which they are tried.
        published: where to download them.
        metric: one of `evaluator.METRICS`.
        rescoring: name of the rescoring net's file, without suffix.
    """

    name: str
    option: str
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    published: str
    metric: str
    rescoring: str


#: Data sets by the name of their skeleton.
DATA_SETS = {
    "coco": DataSet(
        "COCO val2017",
        "--coco",
        ("annotations/person_keypoints_val2017.json",),
        ("images/val2017", "val2017", "images/val2017.zip", "val2017.zip"),
        "https://cocodataset.org/#download, 2017 Val images and 2017 Train/Val annotations",
        "coco",
        "final_rescore_coco_kpt",
    ),
    "crowdpose": DataSet(
        "CrowdPose test",
        "--crowdpose",
        ("json/crowdpose_test.json", "annotations/crowdpose_test.json"),
        ("images", "images.zip"),
        "https://github.com/Jeff-sjtu/CrowdPose#dataset",
        "crowdpose",
        "final_rescore_crowd_pose_kpt",
    ),
}

#: Names of files that the authors publish, without suffix, and the folder that their page puts them into.
PUBLISHED = {
    "pose_dekr_hrnetw32_coco": "pose_coco",
    "pose_dekr_hrnetw48_coco": "pose_coco",
    "pose_dekr_hrnetw32_crowdpose": "pose_crowdpose",
    "pose_dekr_hrnetw48_crowdpose": "pose_crowdpose",
    "final_rescore_coco_kpt": "rescore",
    "final_rescore_crowd_pose_kpt": "rescore",
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: to print.
        config: of the paper's network.
        paper: the paper's figures as printed, one for each column of the table.
        checkpoint: name of the file, without suffix; None for a row about sizes, which needs none.
        scales, match: settings of `PoseDetector`; flip test and rescoring are always on.
    """

    name: str
    config: Config
    paper: tuple[str, ...]
    checkpoint: str | None = None
    scales: tuple[float, ...] = (1.0,)
    match: bool = False

    @property
    def data(self) -> DataSet:
        """The data set that the row is measured on."""
        return DATA_SETS[self.config.keypoints]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        title: what it shows.
        source: where its figures are published.
        columns: keys of `SIZES`; or those of the metric and kinds of errors (`error_analysis.KINDS`), in percent.
        rows: from top to bottom.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


#: Columns about sizes: the key of `complexity.count_complexity`, and the unit of the column.
SIZES = {
    "params (M)": ("parameters", 1e6),
    "GFLOPs": ("gmacs", 1),
    "head params (M)": ("head_parameters", 1e6),
    "head GFLOPs": ("head_gmacs", 1),
}

_W32 = Config()
_W48 = Config(input_size=640, model={"width": 48})
_CROWDPOSE = {"keypoints": "crowdpose", "decoder": {"multi_scale_damping": 0.8}}
_CROWDPOSE_W32 = Config(**_CROWDPOSE)
_CROWDPOSE_W48 = Config(**_CROWDPOSE, input_size=640, model={"width": 48})
_BASELINE = Config(model={"offset_head": {"block": "plain", "branches": "single", "channels": 256}})
_ADAPTIVE = Config(model={"offset_head": {"branches": "single", "channels": 256}})
_SEPARATE = Config(model={"offset_head": {"block": "plain"}})

_SCALES = (0.5, 1.0, 2.0)
_PAPER_ALONE = "printed in the paper; the authors' page does not have them"
_PAPER_AND_PAGE = f"printed in the paper; the authors' page, {AUTHORS}, has the same"
_COCO_COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
_CROWDPOSE_COLUMNS = ("AP", "AP50", "AP75", "APE", "APM", "APH")


def _row(name: str, config: Config, paper: str, checkpoint: str | None = None, **how) -> Row:
    return Row(name, config, tuple(paper.split()), checkpoint, **how)


#: Tables by their names on the command line.
TABLES = {
    "table1": Table(
        "Parameters and multiply-adds, which the paper calls FLOPs, of adaptive activation and separate regression",
        _PAPER_ALONE,
        ("head params (M)", "head GFLOPs", "params (M)", "GFLOPs"),
        (
            _row("baseline", _BASELINE, "1.31 21.48 30.65 63.28"),
            _row("adaptive activation", _ADAPTIVE, "1.34 21.94 30.68 63.73"),
            _row("separate regression", _SEPARATE, "0.19 3.14 29.53 44.93"),
            _row("both: DEKR", _W32, "0.22 3.59 29.56 45.39"),
        ),
    ),
    "table2": Table(
        "COCO val2017, with flip test and rescoring",
        f"{_PAPER_AND_PAGE}, and is the only source of AR50 and AR75",
        _COCO_COLUMNS,
        (
            _row("DEKR-W32", _W32, "68.0 86.7 74.5 62.1 77.7 73.0 89.8 78.4 66.2 82.7", "pose_dekr_hrnetw32_coco"),
            _row("DEKR-W48", _W48, "71.0 88.3 77.4 66.7 78.5 76.0 91.4 81.5 70.6 84.0", "pose_dekr_hrnetw48_coco"),
            _row(
                "DEKR-W32, multi-scale",
                _W32,
                "70.7 87.7 77.1 66.2 77.8 75.9 91.3 81.3 70.5 83.6",
                "pose_dekr_hrnetw32_coco",
                scales=_SCALES,
            ),
            _row(
                "DEKR-W48, multi-scale",
                _W48,
                "72.3 88.3 78.6 68.6 78.6 77.7 92.4 83.2 72.8 84.9",
                "pose_dekr_hrnetw48_coco",
                scales=_SCALES,
            ),
        ),
    ),
    "table3": Table(
        "Parameters and multiply-adds, which the paper calls FLOPs, of both networks",
        _PAPER_AND_PAGE,
        ("params (M)", "GFLOPs"),
        (_row("DEKR-W32, 512", _W32, "29.6 45.4"), _row("DEKR-W48, 640", _W48, "65.7 141.5")),
    ),
    "table5": Table(
        "Ablation on W32: COCO val2017, with flip test and rescoring; AP, and errors as shares of the keypoints",
        f"{_PAPER_ALONE}; its errors are those of coco-analyze, which finds a few more swaps than dekr analyze",
        ("AP", "jitter", "miss", "inversion", "swap"),
        (
            _row("baseline", _BASELINE, "61.9 16.4 7.6 3.3 1.0", "coco_w32_baseline"),
            _row("separate regression", _SEPARATE, "63.6 15.2 7.2 3.3 1.0", "coco_w32_sr"),
            _row("adaptive activation", _ADAPTIVE, "65.4 13.5 6.7 3.1 1.1", "coco_w32_aa"),
            _row("both: DEKR", _W32, "68.0 11.8 6.1 3.0 1.1", "pose_dekr_hrnetw32_coco"),
        ),
    ),
    "table6": Table(
        "Keypoints matched to the closest peaks of the heatmaps, with flip test and rescoring",
        _PAPER_AND_PAGE,
        ("AP",),
        tuple(
            _row(f"{DATA_SETS[config.keypoints].name}, {name}", config, paper, checkpoint, scales=scales, match=True)
            for name, config, paper, checkpoint, scales in (
                ("DEKR-W32", _W32, "68.0", "pose_dekr_hrnetw32_coco", (1.0,)),
                ("DEKR-W32, multi-scale", _W32, "71.0", "pose_dekr_hrnetw32_coco", _SCALES),
                ("DEKR-W48", _W48, "71.0", "pose_dekr_hrnetw48_coco", (1.0,)),
                ("DEKR-W48, multi-scale", _W48, "72.8", "pose_dekr_hrnetw48_coco", _SCALES),
                ("DEKR-W32", _CROWDPOSE_W32, "65.5", "pose_dekr_hrnetw32_crowdpose", (1.0,)),
                ("DEKR-W32, multi-scale", _CROWDPOSE_W32, "67.5", "pose_dekr_hrnetw32_crowdpose", _SCALES),
                ("DEKR-W48", _CROWDPOSE_W48, "67.0", "pose_dekr_hrnetw48_crowdpose", (1.0,)),
                ("DEKR-W48, multi-scale", _CROWDPOSE_W48, "68.3", "pose_dekr_hrnetw48_crowdpose", _SCALES),
            )
        ),
    ),
    "table7": Table(
        "CrowdPose test, with flip test and rescoring",
        _PAPER_AND_PAGE,
        _CROWDPOSE_COLUMNS,
        (
            _row("DEKR-W32", _CROWDPOSE_W32, "65.7 85.7 70.4 73.0 66.4 57.5", "pose_dekr_hrnetw32_crowdpose"),
            _row("DEKR-W48", _CROWDPOSE_W48, "67.3 86.4 72.2 74.6 68.1 58.7", "pose_dekr_hrnetw48_crowdpose"),
            _row(
                "DEKR-W32, multi-scale",
                _CROWDPOSE_W32,
                "67.0 85.4 72.4 75.5 68.0 56.9",
                "pose_dekr_hrnetw32_crowdpose",
                scales=_SCALES,
            ),
            _row(
                "DEKR-W48, multi-scale",
                _CROWDPOSE_W48,
                "68.0 85.5 73.4 76.6 68.8 58.4",
                "pose_dekr_hrnetw48_crowdpose",
                scales=_SCALES,
            ),
        ),
    ),
}
