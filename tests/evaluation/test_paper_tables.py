"""The paper's tables as data: their networks are those of configs/, and their figures fit each other."""

from pathlib import Path

import pytest

from dekr_tf.config import load_config
from dekr_tf.evaluation import coco, crowdpose
from dekr_tf.evaluation.paper_tables import DATA_SETS, PUBLISHED, SIZES, TABLES, UNKNOWN
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
        known = METRICS[row.data.metric] if row.checkpoint else SIZES
        assert set(table.columns) <= set(known)
        assert len(row.paper) == len(table.columns)
        for figure in row.paper:
            assert figure == UNKNOWN or float(figure) > 0


@pytest.mark.parametrize("name", ["table2", "table7"])
def test_figures_fit_each_other(name):
    table = TABLES[name]
    rows = [dict(zip(table.columns, map(float, row.paper), strict=True)) for row in table.rows]
    for row in rows:
        assert row["AP50"] > row["AP75"] > row["AP"]
        if name == "table2":
            assert row["APM"] < row["AP"] < row["APL"]
            assert row["AR50"] > row["AR75"] > row["AR"] and row["ARM"] < row["AR"] < row["ARL"]
            assert all(row[key.replace("P", "R")] > row[key] for key in ("AP", "AP50", "AP75", "APM", "APL"))
        else:
            assert row["APE"] > row["APM"] > row["APH"]
    # W48 is better than W32, and several scales are better than one.
    assert rows[0]["AP"] < rows[1]["AP"] < rows[3]["AP"]
    assert rows[0]["AP"] < rows[2]["AP"] < rows[3]["AP"]


def test_the_same_row_has_the_same_figure_in_every_table():
    figures = {}
    for table in TABLES.values():
        for row in table.rows:
            if row.checkpoint and not row.match:
                key = row.checkpoint, row.scales, row.data.name
                figures.setdefault(key, set()).add(row.paper[table.columns.index("AP")])
    assert [len(each) for each in figures.values()] == [1] * len(figures)
    assert set(DATA_SETS) == {"coco", "crowdpose"}
