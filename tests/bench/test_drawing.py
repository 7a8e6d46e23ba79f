from itertools import combinations
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.drawing import Drawing, Panel
from beicli.bench.scales import linear_scale
from beicli.bench.series import Series

SERIES = Series("p50", 0, "main")
PLACES = st.lists(
    st.tuples(st.integers(20, 380), st.integers(20, 180)), min_size=1, max_size=25, unique=True
)


def drawing() -> Drawing:
    return Drawing("test", "A title", "What is to be seen", size_px=(400, 200))


def parse(picture: Drawing) -> ET.Element:
    return ET.fromstring(picture.markup)  # noqa: S314 - our own


def test_a_picture_has_a_title_and_a_description_that_it_points_at() -> None:
    root = parse(drawing())

    identifiers = [root.find(tag).get("id") for tag in ("title", "desc")]  # type: ignore[union-attr]
    assert root.get("aria-labelledby") == " ".join(str(one) for one in identifiers)
    assert (root.findtext("title"), root.findtext("desc")) == ("A title", "What is to be seen")
    assert root.get("role") == "img"


def test_text_that_looks_like_markup_stays_text() -> None:
    picture = drawing()

    picture.text((10, 10), "</svg><script>&")

    assert [text.text for text in parse(picture).iter("text")] == ["</svg><script>&"]


def test_a_gap_cuts_a_line_and_what_stands_alone_becomes_a_dot() -> None:
    picture = drawing()

    picture.line([(1, 1), (2, 2), None, (3, 3), None, None, (4, 4), (5, 5)], SERIES)

    root = parse(picture)
    assert [line.get("points") for line in root.iter("polyline")] == ["1,1 2,2", "4,4 5,5"]
    assert [(dot.get("cx"), dot.get("cy")) for dot in root.iter("circle")] == [("3", "3")]


def test_a_lone_label_stands_above_its_dot() -> None:
    picture = drawing()
    picture.dot((100, 100), SERIES)

    picture.label((100, 100), "32")

    (text,) = parse(picture).iter("text")
    assert float(text.get("x", "")) == 100
    assert float(text.get("y", "")) < 100 - 3.6


def test_a_label_does_not_cover_the_name_of_an_axis() -> None:
    picture = drawing()
    x, y = (linear_scale([10], *ends, max_ticks=5) for ends in ((50, 390), (180, 40)))
    picture.axes(Panel(x=x, y=y, x_label="", y_label="latency, ms"))

    picture.label((60, 42), "1,024")

    label = list(parse(picture).iter("text"))[-1]
    assert label.text == "1,024"
    assert float(label.get("y", "")) > 40


@given(PLACES)
def test_labels_cover_neither_each_other_nor_dots_and_stay_inside(
    places: list[tuple[int, int]],
) -> None:
    picture = drawing()
    for place in places:
        picture.dot(place, SERIES)
    for place in places:
        picture.label(place, "1,024")

    middles = [
        (float(text.get("x", "")), float(text.get("y", "")) - 4)
        for text in parse(picture).iter("text")
    ]

    # 5 characters are 5 x 6.8 pixels wide; a box is 14 high, and numbers have one decimal.
    for (x1, y1), (x2, y2) in combinations(middles, 2):
        assert abs(x1 - x2) >= 34 - 0.2 or abs(y1 - y2) >= 14 - 0.2
    for x, y in middles:
        assert 17 - 0.1 <= x <= 400 - 17 + 0.1
        for dot_x, dot_y in places:
            assert abs(x - dot_x) >= 17 + 3.6 - 0.2 or abs(y - dot_y) >= 7 + 3.6 - 0.2
