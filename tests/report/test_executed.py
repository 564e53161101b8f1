"""Executed notebooks as HTML: today's prose, nothing that runs."""

import nbformat

from her2lib.report import executed


def shown(**data):
    return nbformat.v4.new_output(
        "display_data", {key.replace("_", "/"): value for key, value in data.items()}
    )


class TestProse:
    """Prose is today's when the code is today's; else the notebook is shown as it ran."""

    def source(self, *codes, prose="new words"):
        v4 = nbformat.v4
        cells = [
            v4.new_markdown_cell(prose),
            v4.new_code_cell("study = 1", metadata={"tags": ["parameters"]}),
        ]
        return v4.new_notebook(
            cells=cells + [v4.new_code_cell(code, metadata={"tags": ["report"]}) for code in codes]
        )

    def ran(self, *codes):
        notebook = self.source(*codes, prose="old words")
        notebook.cells.insert(
            2, nbformat.v4.new_code_cell("study = 2", metadata={"tags": ["injected-parameters"]})
        )
        for cell in notebook.cells[2:]:
            cell.outputs = [shown(text_plain=f"result of {cell.source}")]
        return notebook

    def test_equal_code_takes_the_new_prose_and_keeps_what_was_executed(self):
        text = executed.whole(executed.with_prose_of(self.ran("x", "y"), self.source("x", "y")))
        assert "new words" in text
        assert "old words" not in text
        for result in ("result of study = 2", "result of x", "result of y"):
            assert text.count(result) == 1

    def test_other_code_keeps_the_old_prose(self):
        assert "old words" in executed.whole(
            executed.with_prose_of(self.ran("x"), self.source("y"))
        )
        assert "old words" in executed.whole(
            executed.with_prose_of(self.ran("x"), self.source("x", "y"))
        )


def test_html_of_strangers_is_made_harmless_and_balanced():
    given = (
        '<div onclick="x()"><a href="http://a.b">t</a><img src="//x">'
        '<img src="data:image/png;base64,AA"><iframe src=x></iframe><b>open'
    )
    made_ = executed.output(shown(text_html=given))
    assert made_ == '<div><a>t</a><img/><img src="data:image/png;base64,AA"/><b>open</b></div>'
