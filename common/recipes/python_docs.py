"""Step: makes the corpus `python-docs` from docstrings and sources of named pure-Python packages of the lock.

A module gives one `source` document (its text without docstrings, comments kept) and one `docstring` document per
docstring. Test folders are left out. Near-duplicates: a document goes if at least `near_duplicate_share` of its word
8-grams (a fixed quarter of them, chosen by hash) occurred in earlier documents. Held-out text is read first, so what a
model trains on never repeats what it is judged on. The expected SHA-256 of each split is in `config/corpora.yaml`.
"""

import ast
import hashlib
import inspect
from collections import deque
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from common.core.errors import UserError
from common.core.step import Files, run_step, track
from common.data.corpora import SPLITS, Document, Packages, Split, check_disjoint, corpus_entry, text_hash, write_corpus

SHINGLE_WORDS = 8
SHINGLE_SAMPLE = 4  # one in four shingles is kept, chosen by its hash
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # of statements, as syntax trees order them
Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
LEFT_OUT = {"test", "tests", "testing", "_vendor", "__pycache__", "benchmarks"}


def package_documents(package: str) -> Iterator[Document]:
    """All documents of one installed package in the order of their paths. UserError if it is not installed."""
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {package} of corpus python-docs is not installed; run `make clean-env` and `make`")
    root = Path(spec.submodule_search_locations[0])
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if not LEFT_OUT & set(relative.parts):
            yield from module_documents(package, f"{package}/{relative.as_posix()}", path.read_text("utf-8"))


def module_documents(group: str, name: str, source: str) -> Iterator[Document]:
    """The documents of one module: each docstring, then the source without docstrings. Nothing if it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    lines = source.splitlines(keepends=True)
    for node in with_docstrings(tree):
        text = ast.get_docstring(node, clean=False)
        if text is None:
            continue
        first = node.body[0]
        for line in range(first.lineno - 1, first.end_lineno or first.lineno):
            lines[line] = ""
        owner = getattr(node, "name", "module")
        yield Document(id=f"{name}#{owner}:{first.lineno}", group=group, kind="docstring", text=inspect.cleandoc(text))
    yield Document(id=name, group=group, kind="source", text="".join(lines).strip())


def with_docstrings(tree: ast.Module) -> Iterator[Owner]:
    """The module, its classes and its functions, in the order of `ast.walk`, which also visits every expression."""
    waiting = deque[ast.AST]([tree])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, Owner):
            yield node
        for block in BLOCKS:
            waiting.extend(getattr(node, block, ()))


def shingles(text: str) -> set[int]:
    """Hashes of a fixed quarter of the word 8-grams of `text` (of all words, if there are fewer than 8)."""
    words = text.split()
    found = set()
    for start in range(max(1, len(words) - SHINGLE_WORDS + 1)):
        piece = " ".join(words[start : start + SHINGLE_WORDS]).encode()
        value = int.from_bytes(hashlib.blake2b(piece, digest_size=8).digest())
        if value % SHINGLE_SAMPLE == 0:
            found.add(value)
    return found


def without_near_duplicates(documents: Iterator[Document], seen: set[int], share: float) -> Iterator[Document]:
    """Passes on documents of whose shingles less than `share` are in `seen`; adds all shingles it meets to `seen`."""
    for document in documents:
        own = shingles(document.text)
        if own and len(own & seen) < share * len(own):
            yield document
        seen |= own


class PythonDocsFiles(Files):
    registry: Path
    manifest: Path
    """of the corpus, written last"""


def python_docs(files: PythonDocsFiles, name: str = "python-docs") -> None:
    """Writes the corpus.

    Raises:
        UserError: a package is missing, or a split's SHA-256 differs from the registry.
    """
    corpus = corpus_entry(name)
    assert isinstance(corpus, Packages)
    seen: set[int] = set()
    splits = {split: split_documents(corpus, split, seen) for split in SPLITS}
    check_disjoint(dict(splits))
    for split, expected in corpus.sha256.items():
        if (found := text_hash(splits[split])) != expected:
            raise UserError(
                f"{name}/{split} has SHA-256 {found}, config/corpora.yaml expects {expected[:12]}...: the installed "
                "packages are not those of the lock (run `make clean-env`), or the lock changed (enter the new hash)"
            )
    write_corpus(files.manifest, name, splits, corpus.licence)


def split_documents(corpus: Packages, split: Split, seen: set[int]) -> list[Document]:
    """The documents of one split; `seen` holds the shingles of all earlier splits and is added to."""
    found: list[Document] = []
    for package in track(sorted(corpus.packages[split]), split):
        fitting = (
            document
            for document in package_documents(package)
            if corpus.min_characters <= len(document.text) <= corpus.max_characters
        )
        found += without_near_duplicates(fitting, seen, corpus.near_duplicate_share)
    return found


if __name__ == "__main__":
    run_step(python_docs)
