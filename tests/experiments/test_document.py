from counterpoint.experiments.document import Document, Picture, Section
from counterpoint.tables import Cell, Table

TABLE = Table(
    "Errors",
    ["metric", "L", "L"],
    [["GAP | all", Cell("9.75", "± 0.03", bold=True), Cell("<i>", link="https://example.org/?a&b")]],
    caption="Lower is better.",
    spans=[("", 1), ("this experiment", 1), ("the paper", 1)],
)
REPORT = Document(
    "A & B", "Lead.", [Section("First part", ["Said <so>.", TABLE, Picture("p.png", b"png", "a picture")])]
)


def test_html_needs_no_other_file_and_escapes() -> None:
    page = REPORT.html()
    assert "<title>A &amp; B</title>" in page
    assert "Said &lt;so&gt;." in page
    assert "<strong>9.75</strong><small>± 0.03</small>" in page
    assert '<a href="https://example.org/?a&amp;b">&lt;i&gt;</a>' in page
    assert 'src="data:image/png;base64,cG5n" alt="a picture"' in page
    assert '<a href="#first-part">First part</a>' in page
    assert 'id="first-part"' in page


def test_markdown() -> None:
    lines = REPORT.markdown("figures").splitlines()
    assert lines[0] == "# A & B"
    assert "| metric | L | the paper: L |" in lines
    assert "|---|--:|--:|" in lines
    assert "| GAP \\| all | **9.75** ± 0.03 | [<i>](https://example.org/?a&b) |" in lines
    assert "![a picture](figures/p.png)" in lines
