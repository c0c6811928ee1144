"""The paper's tables as data: their networks are those of configs/, and their figures those of the printed paper."""

from pathlib import Path

import pytest

from dekr_tf.config import load_config
from dekr_tf.evaluation import coco, crowdpose
from dekr_tf.evaluation.error_analysis import KINDS
from dekr_tf.evaluation.paper_tables import DATA_SETS, PUBLISHED, SIZES, TABLES
from dekr_tf.sidecar import Sidecar

CONFIGS = Path(__file__).parents[2] / "configs"
METRICS = {"coco": coco.METRICS, "crowdpose": crowdpose.METRICS}
MEASURED = [(name, row) for name, table in TABLES.items() for row in table.rows if row.checkpoint]


@pytest.mark.parametrize(("table", "row"), MEASURED, ids=lambda value: getattr(value, "name", value))
def test_a_row_is_of_the_network_that_its_config_file_trains(table, row):
    name = row.checkpoint
    if name.startswith("pose_dekr_hrnet"):
        width, data = name.removeprefix("pose_dekr_hrnet").split("_")
        name = f"{data}_{width}"
        assert row.checkpoint in PUBLISHED
    assert Sidecar.from_config(row.config) == Sidecar.from_config(load_config(CONFIGS / f"{name}.yaml"))
    assert row.data.rescoring in PUBLISHED


@pytest.mark.parametrize("name", TABLES)
def test_every_column_has_a_figure(name):
    table = TABLES[name]
    assert len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        known = (*METRICS[row.data.metric], *KINDS) if row.checkpoint else SIZES
        assert set(table.columns) <= set(known)
        assert len(row.paper) == len(table.columns)
        assert all(float(figure) > 0 for figure in row.paper)


def cells(table):
    """The figures by row and column."""
    return [dict(zip(table.columns, row.paper, strict=True)) for row in table.rows]


def printed(columns, *lines):
    """The same of lines as the paper prints them."""
    return [dict(zip(columns, line.split(), strict=True)) for line in lines]


#: DEKR's rows as the paper prints them (arXiv 2104.02300), in the order of its tables and columns.
PAPER = {
    # Head: parameters, GFLOPs; overall: parameters, GFLOPs. Rows: baseline, + AA, + SR, DEKR.
    "table1": printed(
        ("head params (M)", "head GFLOPs", "params (M)", "GFLOPs"),
        "1.31 21.48 30.65 63.28",
        "1.34 21.94 30.68 63.73",
        "0.19 3.14 29.53 44.93",
        "0.22 3.59 29.56 45.39",
    ),
    # Single-scale testing with W32 and W48, then multi-scale testing.
    "table2": printed(
        ("AP", "AP50", "AP75", "APM", "APL", "AR", "ARM", "ARL"),
        "68.0 86.7 74.5 62.1 77.7 73.0 66.2 82.7",
        "71.0 88.3 77.4 66.7 78.5 76.0 70.6 84.0",
        "70.7 87.7 77.1 66.2 77.8 75.9 70.5 83.6",
        "72.3 88.3 78.6 68.6 78.6 77.7 72.8 84.9",
    ),
    "table3": printed(("params (M)", "GFLOPs"), "29.6 45.4", "65.7 141.5"),
    # Neither, SR, AA, both.
    "table5": printed(
        ("AP", "jitter", "miss", "inversion", "swap"),
        "61.9 16.4 7.6 3.3 1.0",
        "63.6 15.2 7.2 3.3 1.0",
        "65.4 13.5 6.7 3.1 1.1",
        "68.0 11.8 6.1 3.0 1.1",
    ),
    # D-32 (ss), D-32 (ms), D-48 (ss), D-48 (ms): on COCO val, then on CrowdPose.
    "table6": printed(("AP",), "68.0", "71.0", "71.0", "72.8", "65.5", "67.5", "67.0", "68.3"),
    # As in Table 2.
    "table7": printed(
        ("AP", "AP50", "AP75", "APE", "APM", "APH"),
        "65.7 85.7 70.4 73.0 66.4 57.5",
        "67.3 86.4 72.2 74.6 68.1 58.7",
        "67.0 85.4 72.4 75.5 68.0 56.9",
        "68.0 85.5 73.4 76.6 68.8 58.4",
    ),
}
#: The authors' page (HRNet/DEKR at commit 7a30313), which gives accuracy as fractions of one: here times 100.
PAGE = {
    "table2": printed(
        ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"),
        "68.0 86.7 74.5 62.1 77.7 73.0 89.8 78.4 66.2 82.7",
        "71.0 88.3 77.4 66.7 78.5 76.0 91.4 81.5 70.6 84.0",
        "70.7 87.7 77.1 66.2 77.8 75.9 91.3 81.3 70.5 83.6",
        "72.3 88.3 78.6 68.6 78.6 77.7 92.4 83.2 72.8 84.9",
    ),
    # Digit by digit those of the paper.
    **{name: PAPER[name] for name in ("table3", "table6", "table7")},
}


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_is_as_printed(name):
    assert TABLES.keys() == PAPER.keys()
    table = TABLES[name]
    for row, on_paper, on_page in zip(cells(table), PAPER[name], PAGE.get(name, PAPER[name]), strict=True):
        assert row == on_page
        assert {column: on_page[column] for column in on_paper} == on_paper
    only_on_page = set(table.columns) - set(PAPER[name][0])
    assert only_on_page == ({"AR50", "AR75"} if name == "table2" else set())
    assert all(column in table.source for column in only_on_page)
    assert ("the authors' page does not have them" in table.source) == (name not in PAGE)


def test_rows_are_in_the_order_of_the_figures():
    assert [row.name for row in TABLES["table1"].rows] == [
        "baseline",
        "adaptive activation",
        "separate regression",
        "both: DEKR",
    ]
    assert [row.name for row in TABLES["table5"].rows] == [
        "baseline",
        "separate regression",
        "adaptive activation",
        "both: DEKR",
    ]
    networks = ["DEKR-W32", "DEKR-W48", "DEKR-W32, multi-scale", "DEKR-W48, multi-scale"]
    assert [row.name for row in TABLES["table2"].rows] == [row.name for row in TABLES["table7"].rows] == networks
    for name in ("table2", "table6", "table7"):
        for row in TABLES[name].rows:
            assert ("W48" in row.name) == (row.config.model.width == 48)
            assert ("multi-scale" in row.name) == (len(row.scales) == 3)
    networks = ("DEKR-W32", "DEKR-W32, multi-scale", "DEKR-W48", "DEKR-W48, multi-scale")
    expected = [f"{data}, {network}" for data in ("COCO val2017", "CrowdPose test") for network in networks]
    assert [row.name for row in TABLES["table6"].rows] == expected


def test_the_same_row_has_the_same_figure_in_every_table():
    figures = {}
    for table in TABLES.values():
        for row in table.rows:
            if row.checkpoint and not row.match:
                key = row.checkpoint, row.scales, row.data.name
                figures.setdefault(key, set()).add(row.paper[table.columns.index("AP")])
    assert [len(each) for each in figures.values()] == [1] * len(figures)
    assert set(DATA_SETS) == {"coco", "crowdpose"}
