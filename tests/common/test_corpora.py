"""Corpora: the expected bytes, nothing shared between splits, near-duplicates gone, text kept apart from markup."""

import ast
import json
import lzma
from itertools import combinations

import pytest
import torch

import common.data.corpora as corpora
import common.recipes.python_docs as python_docs
import common.recipes.sample_self_chat as sampling
from common.core.errors import UserError
from common.core.files import read_yaml, sha256, write_json
from common.core.settings import ROOT
from common.data.corpora import Document, Packages, check_disjoint, corpus_entry, read_corpus, text_hash, write_corpus
from common.recipes.python_docs import module_documents, shingles, split_documents, without_near_duplicates
from common.recipes.self_chat import SelfChatFiles, self_chat


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


NESTED = """
try:
    def a(): ...
except ValueError:
    class B:
        async def c(self): ...
else:
    with open("x"):
        def d(): ...
finally:
    for _ in [lambda: 0]:
        def e(): ...
    else:
        def f(): ...
match 1:
    case 1:
        def g(): ...
    case _:
        if True:
            def h(): ...
        elif (lambda: 1)():
            def i(): ...
"""


def test_docstrings_are_sought_where_and_in_the_order_in_which_a_walk_meets_them():
    tree = ast.parse(NESTED)
    whole = [node for node in ast.walk(tree) if isinstance(node, python_docs.Owner)]
    assert list(python_docs.with_docstrings(tree)) == whole
    assert len(whole) == 10


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
        python_docs.python_docs(python_docs.PythonDocsFiles(registry=out, manifest=out))
    assert not out.parent.exists()


def test_what_is_written_is_read_again(tmp_path, capsys):
    odd = "line\u2028separator <script>"
    splits = {"train": [document(odd)], "validation": [document("b", "v")], "held_out": [document("c", "h")]}
    write_corpus(tmp_path / "manifest.json", "demo", splits, "MIT")
    assert f"demo/train: 1 documents, {len(odd)} characters" in capsys.readouterr().out
    assert read_corpus(tmp_path, "train") == splits["train"]
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"train.jsonl is damaged or was changed.*make corpora"):
        read_corpus(tmp_path, "train")


def test_an_incomplete_folder_is_one_sentence(tmp_path):
    for content in ('{"splits": {}}', '{"splits": {"train": {}}}', "[]"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest.json has no SHA-256 of the split 'train'; .*make corpora"):
            read_corpus(tmp_path, "train")
    write_corpus(tmp_path / "manifest.json", "demo", {"train": [document("a")]}, "MIT")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train.jsonl is missing; delete .*make corpora"):
        read_corpus(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    write_json(tmp_path / "manifest.json", {"splits": {"train": {"sha256": sha256(tmp_path / "train.jsonl")}}})
    with pytest.raises(UserError, match=r"train.jsonl has a line that is no document .*make corpora"):
        read_corpus(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "key", "part"),
    [("python-docs", "packages", "validation"), ("python-docs", "sha256", "train"),
     ("self-chat", "topics", None), ("self-chat", "seed", None)],
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


def test_topics_are_held_out_whole_and_of_the_others_some_conversations():
    chat = corpus_entry("self-chat")
    topics = chat.all_topics
    assert len(set(topics)) == len(topics) >= 150
    numbers = range(len(topics) * 24)
    assert len({chat.request(number) for number in numbers[: len(topics) * len(chat.requests)]}) == len(topics) * 16
    splits: dict[str, set[str]] = {topic: set() for topic in topics}
    for number in numbers:
        splits[chat.topic(number)].add(chat.split(number))
    for field in chat.topics.values():
        assert splits[field[0]] == {"held_out"}
        assert splits[field[6]] == {"validation"}
        assert all(splits[topic] == {"train", "validation", "held_out"} for topic in field[1:6] + field[7:])
    share = sum(chat.split(n) == "train" for n in numbers) / len(numbers)
    assert share > 0.65


def test_unknown_corpus():
    with pytest.raises(UserError, match=r"unknown corpus 'pile': config/corpora.yaml has python-docs, self-chat"):
        corpus_entry("pile")


def shipped(name="self-chat-long"):
    chat = corpus_entry(name)
    with lzma.open(ROOT / chat.file, "rt", encoding="utf-8") as lines:
        return chat, {line["number"]: line["answer"] for line in map(json.loads, lines)}


@pytest.mark.parametrize("name", ["self-chat", "self-chat-long"])
def test_the_shipped_conversations_are_those_of_the_registry_without_loops_and_duplicates(name):
    chat, answers = shipped(name)
    assert sha256(ROOT / chat.file) == chat.sha256
    assert set(answers) <= set(range(chat.rounds * len(chat.all_topics)))
    assert len(answers) > 0.9 * chat.rounds * len(chat.all_topics)
    assert sampling.kept(answers, chat).keys() == answers.keys()
    looped = {0: "the same old words " * 20, 1: answers[1], 2: answers[1] + " indeed", 3: "", 4: answers[4]}
    assert list(sampling.kept(looped, chat)) == [1, 4]


def test_the_shorter_corpus_is_the_beginning_of_the_longer_one():
    (short, first), (long, every) = shipped("self-chat"), shipped("self-chat-long")
    assert long.model_copy(update={"file": short.file, "sha256": short.sha256, "rounds": short.rounds}) == short
    asked = {long.request(number) for number in range(long.rounds * len(long.all_topics))}
    assert len(asked) == len(long.requests) * len(long.all_topics), "every request about every topic, once"
    rounds = short.rounds * len(short.all_topics)
    assert first == {number: answer for number, answer in every.items() if number < rounds}


@pytest.mark.model
def test_unpacking_keeps_every_conversation_in_chat_format(model_folder, tmp_path, monkeypatch):
    _, every = shipped()
    answers = dict(list(every.items())[:100])
    packed, content = tmp_path / "self-chat.xz", read_yaml(corpora.CORPORA_FILE)
    with lzma.open(packed, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"number": number, "answer": answers[number]}) + "\n" for number in answers)
    content["corpora"]["self-chat"]["sha256"] = sha256(packed)
    write_json(tmp_path / "corpora.yaml", content)
    monkeypatch.setattr(corpora, "CORPORA_FILE", tmp_path / "corpora.yaml")
    chat = corpus_entry("self-chat")
    files = {"model": model_folder / "manifest.json", "registry": corpora.CORPORA_FILE, "packed": packed}
    self_chat(SelfChatFiles(**files, manifest=tmp_path / "manifest.json"))
    found = [one for split in corpora.SPLITS for one in read_corpus(tmp_path, split)]
    assert len(found) == len(answers)
    one = next(document for document in found if document.id.endswith("/00001"))
    assert one.text == f"<|im_start|>user\n{chat.request(1)}<|im_end|>\n<|im_start|>assistant\n{answers[1]}"
    assert one.group == chat.topic(1)
    (tmp_path / "other.xz").write_bytes(b"no")
    with pytest.raises(UserError, match=r"other.xz is damaged or was changed: .*git checkout config/self-chat"):
        self_chat(SelfChatFiles(**files | {"packed": tmp_path / "other.xz"}, manifest=tmp_path / "m.json"))


@pytest.mark.model
def test_shipped_conversations_are_sampled_again_byte_for_byte(model_folder, tmp_path, monkeypatch):
    """In other company and other slots than when the file was made: a conversation depends on no other."""
    chat, answers = shipped()
    monkeypatch.setattr(sampling, "SLOTS", 2)
    monkeypatch.setattr(sampling, "REFILL", 1)
    numbers = sorted(sorted(answers, key=lambda number: len(answers[number]))[:3])
    found = sampling.answers(model_folder, chat, numbers, tmp_path / "partial")
    assert found == {number: answers[number] for number in numbers}
    with monkeypatch.context() as gone:
        gone.setattr(sampling, "load_model", None)  # what was finished is not sampled again
        assert sampling.answers(model_folder, chat, numbers, tmp_path / "partial") == found


def test_finished_conversations_survive_a_cut_line_and_belong_to_their_settings(tmp_path, monkeypatch):
    chat, _ = shipped()
    monkeypatch.setattr(sampling, "load_tokenizer", lambda _: None)
    monkeypatch.setattr(sampling, "encode_all", lambda *_: [])
    partial = tmp_path / "partial"
    whole = '{"number": 7, "answer": "one\\ntwo"}\n'
    partial.write_text(whole + '{"number": 8, "ans')
    assert sampling.answers(tmp_path, chat, [7], partial) == {7: "one\ntwo"}
    assert partial.read_text() == whole, "the next answer begins on a line of its own"
    (tmp_path / "manifest.json").write_text("{}")
    own = sampling.identity(chat, tmp_path / "manifest.json")
    assert sampling.identity(chat.model_copy(update={"rounds": 99}), tmp_path / "manifest.json") == own
    assert sampling.identity(chat.model_copy(update={"seed": 99}), tmp_path / "manifest.json") != own
    (tmp_path / "manifest.json").write_text('{"another": "model"}')
    assert sampling.identity(chat, tmp_path / "manifest.json") != own


def test_no_step_reads_what_is_scored_whatever_the_seeds(root):
    """`judging_split(run.seeds)` keeps the documents of scoring from calibration; a literal split does not."""

    def literal(source):
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        reads = [call for call in calls if "read_corpus" in ast.unparse(call.func)]
        named = [node for call in reads for node in ast.walk(call) if isinstance(node, ast.Constant)]
        return any(node.value in ("held_out", "validation") for node in named)

    assert literal('texts = read_corpus(files.docs.parent, "held_out")')
    assert literal("corpora.read_corpus(Path(folder), split='validation' if late(f(x)) else 'train')")
    assert not literal('read_corpus(folder, judging_split(run.seeds))\nname = "held_out"')
    assert [path for path in root.glob("replications/*/*.py") if literal(path.read_text(encoding="utf-8"))] == []


def test_draws_follow_the_probabilities_of_the_likeliest_tokens():
    logits = torch.tensor([[1.0, 3.0, 2.0, -9.0]]).repeat(6000, 1)
    chances = torch.linspace(0, 1, 6002, dtype=torch.float64)[1:-1]
    drawn = torch.tensor(sampling.draw(logits, chances, 0.5, 2))
    share = torch.tensor([3.0, 2.0]).div(0.5).softmax(0)
    assert (drawn == 1).double().mean() == pytest.approx(float(share[0]), abs=1e-3)
    assert set(drawn.tolist()) == {1, 2}
