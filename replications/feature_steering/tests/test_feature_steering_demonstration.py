"""What is shown of feature steering: the page and the chat."""

import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.files import write_json
from common.core.settings import ROOT
from common.saes.sae import About, Sae
from replications.feature_steering import chat, page
from replications.feature_steering.settings import GRADIENT, MEANS, OUTPUT, RANDOM_LATENT, UNSTEERED, WORDS, Fluency

D = 12


def latent(topic="horses", **more):
    about = {
        "index": 5, "seed": 0, "sae": "s-s0", "largest": 2.0, "density": 0.01, "raised": ["<b>", " x"], "topic": topic,
        "contexts": [["<script>alert(1)</script>", " one", "&"]], "words": ["horse", "ride"], "score": 1.0,
        "questions": [
            {
                "asked": "<q>", "unsteered": "<i>plain</i>",
                "answers": [
                    {"dose": 0.2, "text": "no & less", "takeover": False},
                    {"dose": 0.35, "text": "Horses <b>ride</b>", "takeover": True},
                ],
                "means": [
                    {"dose": 0.2, "text": "no", "takeover": False},
                    {"dose": 0.35, "text": "a <u>horse</u>", "takeover": True},
                ],
            }
        ],
    }  # fmt: skip
    return about | more


def shown(*latents):
    return {"model": "m", "hook": "blocks.1.hook_resid_pre", "norm": 10.0, "dose": 0.35, "latents": list(latents)}


def doses(**takeover):
    """Two doses of every method of the curve; the unsteered model takes nothing up."""
    lines = [
        {"method": method, "dose": dose, "takeover": share, "low": share / 2, "high": 1.2 * share, "perplexity": cost}
        for method in (OUTPUT, MEANS, RANDOM_LATENT, WORDS, GRADIENT)
        for dose, cost, share in zip((0.2, 0.35), (2.0, 9.0), takeover.get(method, (0.1, 0.2)), strict=True)
    ]
    plain = {"method": UNSTEERED, "dose": 0.0, "takeover": 0.0, "low": 0.0, "high": 0.0, "perplexity": 1.0}
    return pd.DataFrame([*lines[::-1], plain])


def written_page(tmp_path, *latents):
    write_json(tmp_path / "shown.json", shown(*latents))
    doses(diff_means=(0.25, 0.4)).to_csv(tmp_path / "doses.csv", index=False)
    template, out = ROOT / "replications" / "feature_steering" / "page.html", tmp_path / "page.html"
    files = page.PageFiles(shown=tmp_path / "shown.json", doses=tmp_path / "doses.csv", template=template, page=out)
    page.page(files, Fluency(perplexity=3.0, distinct=0.7, least_words=2))
    return out.read_text()


def test_the_dose_curve_stands_where_the_numbers_are():
    curve = page.dose_curve(doses(diff_means=(0.25, 0.4)), 3.0)
    [(left, _), (middle, _), (right, _)] = curve["doses"]
    assert middle - left == pytest.approx((right - left) * 0.2 / 0.35, abs=0.1)
    (bottom, none), (half, quarter), (top, most) = curve["shares"]
    assert (none, quarter, most) == (0, 25, 50), "the interval reaches 48 %"
    assert bottom > half > top, "a picture counts from above"
    start, first, last = curve["lines"]["means"]
    assert (start["x"], start["share"], start["takeover"]) == (left, bottom, 0)
    assert (first["x"], first["share"], first["takeover"]) == (middle, half, 0.25)
    assert last["share"] == pytest.approx(bottom + (top - bottom) * 0.4 / 0.5, abs=0.1)
    assert last["high"] < last["share"] < last["low"]
    ticks = {tick: place for place, tick in curve["costs"]}
    assert set(ticks) == {1, 3}
    assert ticks[3] == curve["most"]
    assert (ticks[1] - last["cost"]) == pytest.approx(2 * (ticks[1] - ticks[3]), abs=0.2), "9 is 3 squared"
    assert {dose: now["means"]["takeover"] for dose, now in curve["at"].items()} == {0.2: 0.25, 0.35: 0.4}
    assert [curve["at"][0.35][name]["takeover"] for name in ("latent", "random", "rows", "gradient")] == [0.2] * 4


def test_the_names_of_perplexities_do_not_cover_each_other():
    for cost in (1.5, 3.0, 40.0, 1e6):
        wild = doses().assign(perplexity=lambda table, cost=cost: table["perplexity"].clip(upper=1.0) * cost)
        curve = page.dose_curve(wild, 3.0)
        places = sorted(place for place, _ in curve["costs"])
        assert len(places) >= 2
        assert min(high - low for low, high in pairwise(places)) >= 10, "a figure is 11 units high"
        assert 3.0 in [tick for _, tick in curve["costs"]]
        assert max(point["cost"] for point in curve["lines"]["means"]) <= page.COST[0]


def test_every_dial_marks_its_dose_on_the_curve_and_says_the_numbers(tmp_path):
    text = written_page(tmp_path, latent(), latent("snow"))
    assert text.count('<g id="curve">') == 1, "drawn once, used by every latent"
    assert text.count('<use href="#curve"/>') == text.count('role="img" aria-label="Dose curve') == 2
    marks = re.findall(r'<g class="at d(\d)"><path class="now" d="M([\d.]+) ', text)
    places = dict(marks)
    assert len(marks) == 4
    assert float(places["0"]) < float(places["1"]) == page.RIGHT
    assert "difference of means: 25 %, 2.0 times" in text
    assert "difference of means: 40 %, 9.0 times" in text
    assert "gradient towards its words: 20 %, 9.0 times" in text, "the control that decides stands beside"
    for number in (0, 1):
        assert f"#l1d{number}:checked ~ * .d{number}" in text


def test_the_page_escapes_what_models_say_and_marks_the_words_of_the_topic(tmp_path):
    text = written_page(tmp_path, latent(), latent("<topic>"))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;i&gt;plain" in text
    assert "&lt;topic&gt;" in text
    assert "<mark>Horses</mark> &lt;b&gt;<mark>ride</mark>&lt;/b&gt;" in text
    assert "a &lt;u&gt;<mark>horse</mark>" in text
    assert "http" not in text
    assert text.count('type="radio"') == 4
    assert text.count(" checked") == 2, "the dial stands at the common dose"


@pytest.mark.parametrize(
    ("topic", "dose", "message"),
    [
        ("the sea", 1.0, "no latent was chosen for the topic 'the sea'; --topic takes 'horses', 'snow'"),
        ("2", 1.0, "no latent"),
        ("horses", float("nan"), "not a finite number"),
        ("horses", float("inf"), "not a finite number"),
    ],
)
def test_chat_refuses_bad_input(topic, dose, message):
    with pytest.raises(UserError, match=message):
        chat.chosen_latent([latent(), latent("snow")], topic, dose)


def test_chat_takes_a_topic_or_its_place():
    known = [latent(), latent("snow")]
    assert chat.chosen_latent(known, "snow", 0.3) is chat.chosen_latent(known, "1", 0.3) is known[1]


def test_chat_needs_results_and_the_right_sae(tmp_path, monkeypatch):
    from common.saes.saelens import save_saelens

    monkeypatch.setattr(chat, "ROOT", tmp_path)
    with pytest.raises(UserError, match="make SCALE=laptop feature_steering"):
        chat.chat()
    results = tmp_path / "results" / "laptop"
    write_json(results / "feature_steering" / "m" / "steering" / "shown.json", shown(latent()))
    monkeypatch.setattr(chat, "entry", lambda name: SimpleNamespace(chat_template="any"))
    manifest = {"name": "m", "source": "local", "origin": "o", "licence": "l", "processing": "p", "files": {}}
    write_json(tmp_path / "resources" / "models" / "m" / "manifest.json", manifest)
    other = Sae(
        About("relu", model="other", hook="h"), "relu", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D)
    )
    save_saelens(other, results / "sparse_autoencoders" / "m" / "saes" / "s-s0")
    with pytest.raises(UserError, match="belongs to h of other, not to"):
        chat.chat(model="m")


def test_chat_shows_both_answers_and_ends_on_an_empty_line(monkeypatch, capsys):
    import io

    from rich.console import Console

    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nnever"))
    assert list(chat.messages(None)) == ["hello"]
    assert list(chat.messages("once")) == ["once"]
    console = Console(file=io.StringIO(), width=100)
    chat.show(console, iter([["a", "b"], ["a long [bold]answer", "another"]]))
    assert console.file.getvalue() == "unsteered: a long [bold]answer\nsteered: another\n"


def test_answers_grow_side_by_side_in_a_terminal():
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    chat.show(console, iter([["a", "b"], ["a long [bold]answer", "another"]]))
    lines = console.file.getvalue().splitlines()
    place = max(place for place, line in enumerate(lines) if "a long [bold]answer" in line)
    assert lines[place].index("a long [bold]answer") < lines[place].index("another"), "in one line"
    titles = lines[place - 1]
    assert titles.index("unsteered") < titles.rindex(" steered")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scale", "lptop"], "error: unknown scale 'lptop': --scale takes smoke, laptop, full, gpu"),
        (["--seed", "-1"], "error: --seed must be 0 or more, not -1"),
        (["--new-tokens", "0"], "error: --new-tokens must be at least 1, not 0"),
        (["--model", "gpt5"], "error: unknown model 'gpt5': config/models.yaml has smollm2"),
        (["--device", "cuda"], "error: --device cuda needs an NVIDIA GPU, and torch finds none; leave --device out"),
        (["--model", "gpt2", "--scale", "smoke"], "gpt2 has no chat template, so it cannot chat"),
        (
            ["--model", "qwen2.5-0.5b-instruct", "--scale", "smoke"],
            "run `make SCALE=smoke MODELS=qwen2.5-0.5b-instruct HUB=1 feature_steering` first",
        ),
    ],
)
def test_chat_says_in_one_sentence_what_is_wrong(tmp_path, monkeypatch, options, sentence):
    monkeypatch.setattr(chat, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(chat, "make_deterministic", lambda threads: None)
    monkeypatch.setattr("sys.argv", ["chat", *options])
    with pytest.raises(SystemExit) as end:
        chat.main()
    assert str(end.value).startswith("error: ")
    assert sentence in str(end.value)


def chat_at_the_terminal(tmp_path, monkeypatch, answers):
    """The chat with everything loaded replaced; `answers` are called, one a message."""
    called = iter(answers)
    monkeypatch.setattr(chat, "ROOT", tmp_path)
    record = tmp_path / "results" / "laptop" / "feature_steering" / "m" / "steering" / "shown.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    about = {"name": "m", "source": "local", "origin": "o", "licence": "l", "processing": "p", "files": {}}
    about |= shown(latent())
    monkeypatch.setattr(chat, "read_json", lambda path: about)
    monkeypatch.setattr(chat, "entry", lambda name: SimpleNamespace(chat_template="any"))
    monkeypatch.setattr(chat.Manifest, "model_validate", lambda content: SimpleNamespace(name="m"))
    sae = SimpleNamespace(W_dec=torch.eye(D), check_belongs=lambda *_: None)
    monkeypatch.setattr(chat, "load_saelens", lambda folder: sae)
    monkeypatch.setattr(chat, "Steering", lambda *_, **__: SimpleNamespace(to=lambda device: None))
    monkeypatch.setattr(chat, "encode", lambda *_: [0] * 90)
    read = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=1000))
    monkeypatch.setattr(chat, "load_writer", lambda *_: read)
    for name in ("load_tokenizer", "chat_prompt", "stream"):
        monkeypatch.setattr(chat, name, lambda *_, **__: SimpleNamespace(all_special_ids=[]))
    monkeypatch.setattr(chat, "show", lambda *_: next(called)())
    monkeypatch.setattr(chat, "make_deterministic", lambda threads: None)
    monkeypatch.setattr("sys.argv", ["chat", "--model", "m"])


def test_ctrl_c_ends_an_answer_and_not_the_chat(tmp_path, monkeypatch, capsys):
    import io

    def interrupt():
        raise KeyboardInterrupt

    ended = []
    monkeypatch.setattr("sys.stdin", io.StringIO("first\nsecond\n\n"))
    monkeypatch.setattr("os._exit", ended.append)
    chat_at_the_terminal(tmp_path, monkeypatch, [interrupt, lambda: print("answered")])
    chat.main()
    said = capsys.readouterr().out
    assert said.splitlines()[1:] == ["(stopped)", "answered"], "no line of costs follows"
    assert ended == [0]


@pytest.mark.parametrize(("new_tokens", "fits"), [(910, True), (911, False)])
def test_an_answer_must_fit_into_what_the_model_reads(tmp_path, monkeypatch, capsys, new_tokens, fits):
    monkeypatch.setattr("os._exit", lambda code: None)
    chat_at_the_terminal(tmp_path, monkeypatch, [lambda: print("answered")])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--message", "hello", "--new-tokens", str(new_tokens)])
    if fits:
        chat.main()
        assert capsys.readouterr().out.endswith("answered\n")
        return
    with pytest.raises(SystemExit, match=r"911 is too much: the message takes 90 of the 1000 .* so 910 are left"):
        chat.main()
