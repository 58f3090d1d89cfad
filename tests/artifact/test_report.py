from __future__ import annotations

import re
from html.parser import HTMLParser

from adapass.artifact import Description, Exits, GeneratorInfo, Kind, Latency, Original, Port, Quality, Trust
from adapass.artifact.charts import Point, points_svg
from adapass.artifact.report import report_html

EVIL = "<script>alert('x')</script>\"&"

ABOUT = Description(
    kind=Kind.OPTIMIZED,
    target=EVIL,
    task=EVIL,
    inputs=(Port(name=EVIL, dtype="float32", shape=(EVIL, None, 3)),),
    outputs=(Port(name="y", dtype="float32", shape=None),),
    original=Original(name=EVIL, sha256="0" * 64, size_bytes=1),
    generator=GeneratorInfo(name=EVIL, variant=EVIL, options={EVIL: EVIL}),
    quality=Quality(metric=EVIL, before=0.9, after=None, samples=10),
    certificate={EVIL: EVIL, "bound": 0.01},
    latency=Latency(
        before_seconds=4e-3, after_seconds=1e-3, trust=Trust.MEASURED, threads=2, batch=1, device=EVIL
    ),
    exits=Exits(rule=EVIL, shares=(0.25, 0.75), mean_depth=0.5),
    tools={EVIL: EVIL},
    warnings=(EVIL,),
)
PARETO = ({"seconds": 1e-3, "damage": 0.01, "plan": EVIL}, {"seconds": "x", "damage": 0.1}, {"damage": 1.0})


class Tags(HTMLParser):
    """Collects tags and attributes, and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(name for name, _ in attrs)))
        if tag != "meta":
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def page() -> str:
    return report_html(ABOUT, {EVIL: EVIL}, PARETO)


def test_escapes_everything_it_is_given() -> None:
    assert "<script" not in page()
    assert "&lt;script&gt;" in page()


def test_is_well_formed_and_loads_nothing() -> None:
    parser = Tags()
    parser.feed(page())

    assert parser.stack == []
    assert {tag for tag, _ in parser.seen}.isdisjoint({"script", "link", "img", "iframe", "object"})
    attributes = {name for _, names in parser.seen for name in names}
    assert attributes.isdisjoint({"href", "src", "style", "onload", "onclick"})
    assert not re.search(r"https?://|url\(|@import", page())


def test_says_what_was_won_and_what_it_cost() -> None:
    text = page()

    assert "The measured time is 0.25 of the original" in text
    assert "4.000 ms" in text
    assert "25.0%" in text
    assert "0.9000" in text
    assert text.count("<circle") == 1
    assert "2 threads on" in text


def test_tells_the_certificate_in_words_first_and_lists_every_plan() -> None:
    words = "accuracy drop at most 1.0 point"
    about = ABOUT.model_copy(update={"certificate": {"method": "exact", "statement": words}})
    plans = (
        {"name": "all", "seconds": 0.00123456, "chosen": True},
        {"name": "none", "seconds": 2.0, "chosen": False},
    )

    text = report_html(about, {}, plans)

    assert text.index(words) < text.index("exact</td>")
    assert text.count(words) == 1
    assert "<td>all</td><td>0.001235</td><td>yes</td>" in text
    assert "<td>none</td><td>2</td><td></td>" in text
    assert "<circle" not in text


def test_says_when_the_original_comes_back_and_nothing_is_known() -> None:
    bare = ABOUT.model_copy(
        update={"kind": Kind.ORIGINAL, "latency": None, "quality": None, "certificate": None, "exits": None}
    )

    text = report_html(bare, {}, ())

    assert "handed back unchanged" in text
    assert "Not measured" in text
    assert "quality was not measured" in text
    assert "<svg" not in text


def test_points_stay_inside_the_plot() -> None:
    svg = points_svg([Point(-1.0, 0.0, "a"), Point(2.0, 3.0, "b")], x_label="x", y_label="y", title="t")

    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', svg)]
    assert len(places) == 2
    assert all(0 <= x <= 640 and 0 <= y <= 260 for x, y in places)
