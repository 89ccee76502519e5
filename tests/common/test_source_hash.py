"""The source hash: an edit that can change results changes it, and nothing else does."""

import ast
import json
import shutil

import pytest

import common.core.source_hash as sources
import common.publish.reference as reference
from common.core.settings import replications


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project; `write(name, text)` changes a file, `hash_of(module)` hashes without memory of earlier calls."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)

    class Project:
        def write(self, name, text):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def hash_of(self, module="replications.a.step"):
            sources._parsed.cache_clear()
            sources._known.cache_clear()
            return sources.source_hash(module)

    project = Project()
    project.write("common/tool.py", "def f():\n    return 1\n")
    project.write("common/deep.py", "X = 1\n")
    project.write("common/__init__.py", "")
    project.write("replications/a/step.py", "from common.tool import f\nimport os\n")
    project.write("replications/b/step.py", "Y = 2\n")
    yield project
    sources._parsed.cache_clear()
    sources._known.cache_clear()


def test_what_was_read_is_kept_and_belongs_to_the_bytes(project, tmp_path):
    (tmp_path / ".snakemake").mkdir()
    before = project.hash_of()
    path = tmp_path / ".snakemake" / "sources.json"
    sources._keep(path, sources._known(), 0)
    assert len(json.loads(path.read_text())) >= 3
    assert project.hash_of() == before
    project.write("common/tool.py", "def f():\n    return 2\n")
    assert project.hash_of() != before
    path.write_text("torn")
    project.write("common/tool.py", "def f():\n    return 1\n")
    assert project.hash_of() == before


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return 1\n",
        "# a comment\ndef f():\n\n    return 1  # another\n",
        '"""Docstring."""\ndef f():\n    """What it does."""\n    return (1)\n',
    ],
)
def test_touch_comments_docstrings_and_format_do_not_count(project, text):
    before = project.hash_of()
    project.write("common/tool.py", text)
    assert project.hash_of() == before


def test_the_text_of_a_tree_has_nothing_that_other_pythons_lack():
    plain = sources.shape(ast.parse("def f(a=None): return {**a, 1: [None]}"))
    assert "type_params" not in plain
    assert "[]" not in plain
    assert plain.startswith(
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='a')],defaults=[Constant()])"
    )
    texts = ["{**a}", "{a: b}", "[None]", "[]", "None", "0", "False", "f()", "f(x)", "f(*x)", "lambda: 0"]
    assert len({sources.shape(ast.parse(text)) for text in texts}) == len(texts)


def test_an_edit_counts_for_importers_only(project):
    before, other = project.hash_of(), project.hash_of("replications.b.step")
    project.write("common/tool.py", "def f():\n    return 2\n")
    assert project.hash_of() != before
    assert project.hash_of("replications.b.step") == other


@pytest.mark.parametrize(
    "line",
    [
        "from common import deep",
        "import common.deep as d",
        "from common.deep import *",
        "from .deep import X",
        "from . import deep",
        "def g():\n    from common.deep import X\n",
    ],
)
def test_every_form_of_import_is_followed(project, line):
    project.write("common/tool.py", line + "\n")
    before = project.hash_of()
    project.write("common/deep.py", "X = 3\n")
    assert project.hash_of() != before


def test_package_code_counts(project):
    before = project.hash_of()
    project.write("common/__init__.py", "FLAG = 1\n")
    assert project.hash_of() != before


def test_unknown_module(project):
    with pytest.raises(ValueError, match="is no module"):
        project.hash_of("replications.a.missing")


def test_no_step_hides_an_import(root):
    """`importlib.import_module` cannot be seen by the hash; only the settings loader and the fork server,
    which no step uses, have it."""
    users = [
        path.relative_to(root).as_posix()
        for folder in ("common", "replications")
        for path in (root / folder).rglob("*.py")
        if "import_module(" in path.read_text()
    ]
    assert sorted(users) == ["common/core/settings.py", "common/engine/forkserver.py"]


def test_a_record_is_out_of_date_when_claims_or_models_of_its_scale_change(tmp_path, monkeypatch, root):
    name = "grokking"
    for folder in (f"replications/{name}", "config"):
        shutil.copytree(root / folder, tmp_path / folder)
    before = reference.state(name, "laptop")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "replications", lambda: [name])
    monkeypatch.setattr(reference, "records", lambda: {name: {"state": before, "scale": "laptop"}})
    assert reference.stale() == []
    registry = reference.registry()
    own, other = reference.load_scale("laptop").models[0], "gpt2"
    for model, counts in ((other, False), (own, True)):
        edited = registry | {model: registry[model].model_copy(update={"size_mb": 1})}
        monkeypatch.setattr(reference, "registry", lambda edited=edited: edited)
        assert (reference.stale() == [name]) == counts, model
    monkeypatch.setattr(reference, "registry", lambda: registry)
    claims = tmp_path / "replications" / name / "claims.yaml"
    for old, new in (
        ("expected_verdict: reproduced", "expected_verdict: not reproduced"),
        ("    scales: [full, gpu]", "    scales: [gpu]"),
    ):
        assert old in claims.read_text()
        claims.write_text(claims.read_text().replace(old, new))
        assert reference.stale() == [], "what is expected, or decided at other scales, changes no verdict here"
    claims.write_text(claims.read_text().replace("at_least: 5", "at_least: 4"))
    assert reference.stale() == [name]


READERS = {
    "python-docs": {"circuit_tracing", "induction_heads", "monosemanticity", "probing", "refusal_direction"},
    "self-chat": {"circuit_tracing", "feature_steering", "probing"},
    "self-chat-long": set(),
}


SHIPPED = set().union(*READERS.values(), {"grokking", "ioi_circuit", "sparse_autoencoders", "superposition"})


@pytest.mark.parametrize("corpus", READERS)
def test_an_edited_corpus_puts_the_records_of_its_readers_alone_out_of_date(tmp_path, monkeypatch, root, corpus):
    for folder in ("replications", "config"):
        shutil.copytree(root / folder, tmp_path / folder)
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    before = {name: reference.chosen(name, "laptop") for name in replications()}
    path = tmp_path / "config" / "corpora.yaml"
    first, named, rest = path.read_text().partition(f"  {corpus}:\n")
    path.write_text(first + named + rest.replace("licence: ", "licence: not ", 1))
    changed = {name for name in replications() if reference.chosen(name, "laptop") != before[name]}
    assert changed & SHIPPED == READERS[corpus] | {"sparse_autoencoders"}


def test_a_corpus_is_named_by_its_whole_name(tmp_path, monkeypatch):
    folder = tmp_path / "replications" / "demo"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("default: {text: my-corpus}\n")
    (folder / "rules.smk").write_text('"<corpora>/others/manifest.json", "<corpora>/self-chat-sampled/manifest.json"\n')
    (folder / "read.py").write_text('corpus_entry("books")\n')
    (tmp_path / "config").mkdir()
    names = ("others", "self-chat", "chat", "corpus", "my-corpus", "books", "unread")
    (tmp_path / "config" / "corpora.yaml").write_text(f"corpora: {{{', '.join(f'{name}: 1' for name in names)}}}\n")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert set(reference.corpora_of("demo")) == {"others", "my-corpus", "books"}


SETTINGS_NODES = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Expr)
VALIDATORS = {"field_validator", "model_validator"}


def settings_modules(root):
    return sorted((root / "replications").glob("*/settings.py"))


def test_settings_modules_hold_fields_and_validators_alone(root):
    """The source hash leaves them out, so nothing in them may compute what a step uses."""
    for path in settings_modules(root):
        tree = ast.parse(path.read_text())
        assert all(isinstance(node, SETTINGS_NODES) for node in tree.body), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):  # called by validators
                assert node.name.startswith("_"), f"{path}: {node.name} is no validator"
        for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for method in (node for node in owner.body if isinstance(node, ast.FunctionDef)):
                marks = {getattr(mark.func, "id", "") for mark in method.decorator_list if isinstance(mark, ast.Call)}
                assert marks & VALIDATORS, f"{path}: {owner.name}.{method.name} is no validator"
