"""Notebooks keep the house's anatomy: stripped, parameterised, short cells, prose, alt text."""

import ast
import json
import re
import statistics

import pytest

from nbutils.manifest import notebooks
from nbutils.study import Study

EVERYWHERE = {"world", "subject", "device", "seed", "data", "results"}
NAMES = [notebook.name for notebook in notebooks()]


@pytest.fixture(params=notebooks(), ids=NAMES)
def notebook(request):
    return request.param


def texts(notebook):
    return [source for kind, _, source in notebook.sources() if kind == "markdown"]


def codes(notebook):
    """Return the code cells as plain Python, magics left out."""
    sources = [source for kind, _, source in notebook.sources() if kind == "code"]
    return [re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M) for source in sources]


def count_lines(source):
    return sum(1 for line in source.splitlines() if line.strip())


def test_outputs_are_stripped(notebook):
    document = json.loads(notebook.path.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in document["metadata"]
    for cell in document["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_parameters_are_the_studys_and_explained(notebook):
    declared = notebook.parameters()
    assert EVERYWHERE <= set(declared)
    assert set(declared) <= set(Study.model_fields)
    values = {name: line.default for name, line in declared.items()}
    assert Study(**(values | {"device": "cpu"})).subject == 1
    [cell] = [source for _, tags, source in notebook.sources() if "parameters" in tags]
    bare = [line for line in cell.splitlines() if line.strip() and "  # " not in line]
    assert bare == [], "each parameter has a line of help"


def test_every_declared_parameter_reaches_the_study(notebook):
    calls = [
        node
        for source in codes(notebook)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Study"
    ]
    passed = {keyword.arg for keyword in calls[0].keywords}
    assert passed == set(notebook.parameters())


def test_code_cells_are_short(notebook):
    lines = sorted(filter(None, map(count_lines, codes(notebook))))
    assert lines[-1] <= 30
    assert lines[int(0.9 * (len(lines) - 1))] <= 20
    assert statistics.median(lines) <= 6


def test_prose_outweighs_code(notebook):
    words = sum(len(text.split()) for text in texts(notebook))
    assert words >= 8 * sum(map(count_lines, codes(notebook)))
    assert 25 <= len(notebook.sources()) <= 45


def test_headings_are_one_title_and_do_not_jump(notebook):
    plain = [re.sub(r"```.*?```", "", text, flags=re.S) for text in texts(notebook)]
    levels = [len(mark) for text in plain for mark in re.findall(r"^(#+) ", text, re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in zip(levels, levels[1:], strict=False))


def test_every_picture_has_alt_text(notebook):
    for text in texts(notebook):
        assert not re.search(r"!\[\s*\]\(", text)
        assert not re.search(r"<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", text)
    for source in codes(notebook):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "figures.show":
                assert "alt" in {keyword.arg for keyword in node.keywords}


def test_code_is_plumbing_free(notebook):
    trees = [ast.parse(source) for source in codes(notebook)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert sum(isinstance(node, ast.FunctionDef) for node in nodes) <= 2
    assert not any(isinstance(node, ast.ClassDef) for node in nodes)
    source = "\n".join(codes(notebook))
    assert not re.search(r"plt\.show|NotImplementedError|\bjet\b|\brainbow\b|\bhsv\b", source)
    assert not re.search(r"world\s*(\.name)?\s*==|miniature\.", source), "science asks for no world"


def test_two_exercises_with_solutions(notebook):
    text = "\n".join(texts(notebook))
    assert len(re.findall(r"^#+ Exercise", text, re.M)) >= 2
    whole = "\n".join(source for _, _, source in notebook.sources())
    assert len(re.findall(r"[Ss]olution", whole)) >= 2
