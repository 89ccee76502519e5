"""Corpora: the expected bytes, nothing shared between splits, near-duplicates gone, text kept apart from markup."""

from itertools import combinations

import pytest

import common.data.corpora as corpora
import common.recipes.python_docs as python_docs
import common.recipes.self_chat as self_chat
from common.core.errors import UserError
from common.core.files import read_yaml, sha256, write_json
from common.core.step import RunInfo
from common.data.corpora import Document, Packages, check_disjoint, corpus_entry, read_corpus, text_hash, write_corpus
from common.recipes.python_docs import module_documents, shingles, split_documents, without_near_duplicates
from common.recipes.self_chat import TOPICS, questions, split_of


class Letters:
    """A tokenizer with one token per character."""

    def __call__(self, texts, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [list(range(len(text))) for text in texts]}


def document(text, group="package", kind="source"):
    return Document(id=text[:20], group=group, kind=kind, text=text)


SOURCE = '''"""Module text."""

# a comment
def f(x):
    """Doubles x."""
    return 2 * x  # kept
'''


def test_a_module_gives_its_docstrings_and_its_source_without_them():
    documents = list(module_documents("package", "package/module.py", SOURCE))
    assert [(d.kind, d.text) for d in documents[:2]] == [("docstring", "Module text."), ("docstring", "Doubles x.")]
    assert documents[2].kind == "source"
    assert "Doubles" not in documents[2].text
    assert "# a comment" in documents[2].text
    assert "return 2 * x  # kept" in documents[2].text
    assert list(module_documents("package", "broken.py", "def f(:")) == []


def test_held_out_text_has_the_expected_hash_and_no_near_duplicates():
    """The first split that is made, so its hash needs no other; the step checks all three."""
    corpus = corpus_entry("python-docs")
    assert isinstance(corpus, Packages)
    assert set(corpus.sha256) == {"train", "validation", "held_out"}
    seen = set()
    found = split_documents(corpus, "held_out", seen)
    assert text_hash(found) == corpus.sha256["held_out"]
    assert {d.group for d in found} == set(corpus.packages["held_out"])
    assert {d.kind for d in found} == {"docstring", "source"}
    repeated = list(without_near_duplicates(iter(found), seen, corpus.near_duplicate_share))
    assert repeated == []


def test_no_package_is_in_two_splits():
    corpus = corpus_entry("python-docs")
    for first, second in combinations(corpus.packages.values(), 2):
        assert not set(first) & set(second)


def test_near_duplicates_go_and_different_text_stays():
    words = [f"word{i}" for i in range(400)]
    text = " ".join(words)
    nearly = " ".join(["changed", *words[1:390]])
    other = " ".join(reversed(words))
    kept = list(without_near_duplicates(iter([document(t) for t in (text, nearly, other)]), set(), 0.5))
    assert [d.text for d in kept] == [text, other]
    assert 50 < len(shingles(text)) < 150  # one in four of 393


def test_a_wrong_package_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(python_docs, "split_documents", lambda corpus, split, seen: [document("changed", group=split)])
    out = tmp_path / "python-docs" / "manifest.json"
    with pytest.raises(UserError, match=r"python-docs/\w+ has SHA-256"):
        python_docs.python_docs(
            python_docs.PythonDocsFiles(model=tmp_path / "no-model" / "manifest.json", registry=out, manifest=out)
        )
    assert not out.parent.exists()


def test_write_and_read_with_token_counts(tmp_path, capsys):
    odd = "line\u2028separator <script>"
    splits = {"train": [document(odd)], "validation": [document("b", "v")], "held_out": [document("c", "h")]}
    write_corpus(tmp_path / "manifest.json", "demo", splits, Letters(), "MIT")
    assert f"demo/train: 1 documents, {len(odd)} tokens" in capsys.readouterr().out
    assert read_corpus(tmp_path, "train") == splits["train"]
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"train.jsonl is damaged or was changed.*make corpora"):
        read_corpus(tmp_path, "train")


def test_an_incomplete_folder_is_one_sentence(tmp_path):
    for content in ('{"splits": {}}', '{"splits": {"train": {}}}', "[]"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest.json has no SHA-256 of the split 'train'; .*make corpora"):
            read_corpus(tmp_path, "train")
    write_corpus(tmp_path / "manifest.json", "demo", {"train": [document("a")]}, Letters(), "MIT")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train.jsonl is missing; delete .*make corpora"):
        read_corpus(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    write_json(tmp_path / "manifest.json", {"splits": {"train": {"sha256": sha256(tmp_path / "train.jsonl")}}})
    with pytest.raises(UserError, match=r"train.jsonl has a line that is no document .*make corpora"):
        read_corpus(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "key", "part"),
    [("python-docs", "packages", "validation"), ("python-docs", "sha256", "train"), ("self-chat", "new_tokens", "gpu"),
     ("self-chat", "conversations", "smoke"), ("self-chat", "seed", None)],
)  # fmt: skip
def test_an_incomplete_entry_is_one_sentence(tmp_path, monkeypatch, name, key, part):
    content = read_yaml(corpora.CORPORA_FILE)
    entry = content["corpora"][name]
    del (entry if part is None else entry[key])[part or key]
    write_json(tmp_path / "corpora.yaml", content)
    monkeypatch.setattr(corpora, "CORPORA_FILE", tmp_path / "corpora.yaml")
    said = "Field required" if part is None else f"'{part}' is missing; needed are "
    with pytest.raises(UserError, match=rf"corpora.yaml: 'corpora.{name}.(packages.)?{key}': {said}"):
        corpus_entry(name)


def test_a_group_in_two_splits_is_refused():
    with pytest.raises(UserError, match="'package' is in the splits"):
        check_disjoint({"train": [document("a")], "held_out": [document("b")]})


def test_self_chat_topics_are_split_and_questions_differ():
    asked = questions(len(TOPICS) * 8)
    assert len(set(asked)) == len(TOPICS) * 8
    assert len(set(TOPICS)) == len(TOPICS)
    assert {split_of(topic) for topic, _ in questions(8)} == {"train", "validation", "held_out"}


def test_unknown_corpus():
    with pytest.raises(UserError, match=r"unknown corpus 'pile': config/corpora.yaml has python-docs, self-chat"):
        corpus_entry("pile")


def write(model_folder, out):
    files = self_chat.SelfChatFiles(
        model=model_folder / "manifest.json", registry=corpora.CORPORA_FILE, manifest=out / "manifest.json"
    )
    self_chat.self_chat(files, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))


@pytest.mark.model
def test_self_chat_is_seeded_text_in_chat_format(model_folder, tmp_path, monkeypatch):
    corpus = corpus_entry("self-chat").model_copy(update={"conversations": {"smoke": 6}, "new_tokens": {"smoke": 5}})
    monkeypatch.setattr(self_chat, "corpus_entry", lambda name: corpus)
    for run in ("first", "second"):
        write(model_folder, tmp_path / run)
    first, second = ((tmp_path / run / "manifest.json").read_bytes() for run in ("first", "second"))
    assert first == second
    found = read_corpus(tmp_path / "first", "train")
    assert found[0].text.startswith("<|im_start|>user\n")
    assert "<|im_start|>assistant\n" in found[0].text
    assert not found[0].text.endswith("assistant\n")
    assert "<|im_start|>system" not in found[0].text


def test_a_conversation_depends_on_no_other(model_folder, tmp_path, monkeypatch):
    """So another rounding, on another processor, that changes a token leaves all other conversations as they are."""
    found = {}
    for batch in (8, 3):
        monkeypatch.setattr(self_chat, "BATCH", batch)
        write(model_folder, tmp_path / str(batch))
        documents = [one for split in corpora.SPLITS for one in read_corpus(tmp_path / str(batch), split)]
        found[batch] = {one.id: one.text for one in documents}
    assert found[8] == found[3]
    assert len(set(found[8].values())) == len(found[8]) == corpus_entry("self-chat").conversations["smoke"]
    assert all(text.startswith("<|im_start|>user") and "assistant\n" in text for text in found[8].values())
