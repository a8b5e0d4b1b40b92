"""Long tables show the largest and the worst rows."""

from hgt.evaluation.ranking_table import shortened


def test_a_table_of_thousands_of_edge_types_shows_the_largest_and_the_worst():
    rows = [f"row {i}" for i in range(9_174)]
    assert shortened(rows[:40], "edge types", "with most ranks", rows[:5]) == rows[:40]
    shown = shortened(rows, "edge types", "with most ranks", ["row 3", *rows[:8_999:-1]])
    assert shown[:34] == rows[:34]
    assert (
        shown[34].strip()
        == "the 34 with most ranks of 9,174 edge types, and below the 5 worst of the others;"
        " report/validation.json has all"
    )
    assert shown[35:] == ["row 9173", "row 9172", "row 9171", "row 9170", "row 9169"]
    assert len(shortened(rows, "node types", "highest")) == 40
