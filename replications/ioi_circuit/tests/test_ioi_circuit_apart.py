"""One receiver of a group alone, and sentences in which subject and repeated name are not the same."""

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from common.interp.decoder import Decoder
from common.interp.path_patching import Receivers, path_patch
from replications.ioi_circuit import other_half
from replications.ioi_circuit.batches import balanced, whole_templates
from replications.ioi_circuit.dataset import ORDERS
from replications.ioi_circuit.passes import Passes, shared_passes
from replications.ioi_circuit.path_patching import measure_classes
from replications.ioi_circuit.prompt_statistics import SignificantEffects
from replications.ioi_circuit.receivers_apart import Input, effects, expanded, inputs_of
from replications.ioi_circuit.subject_or_repeat import CELLS, FORMS, names_of, read, sentences, text_of
from replications.ioi_circuit.sweeps import Effects, add_sweep, sweep_flipped
from tests.fixtures.ioi_circuit_tiny import tiny_prompts, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("kind", ["k", "v"])
def test_copies_of_all_heads_of_a_group_together_are_the_group(decoder: Decoder, kind: Literal["k", "v"]) -> None:
    wide, group = decoder.expanded(), decoder.group
    one_copy, senders = [], []
    for each in shared_passes(decoder, balanced(tiny_prompts([0, 1]), 1, 6)):
        batch, cache, partner, *_ = each
        copied, end = expanded(each, decoder).clean, batch.at("end")
        own = path_patch(decoder, cache, partner, end, end, Receivers(kind, ((2, 1),)))
        every = Receivers(kind, tuple((2, head) for head in range(group, 2 * group)))
        torch.testing.assert_close(path_patch(wide, copied, partner, end, end, every), own, atol=1e-3, rtol=1e-4)
        alone = path_patch(wide, copied, partner, end, end, Receivers(kind, ((2, group),)))
        one_copy.append(float((alone - own).abs().max()))
        senders.append(float((own - own[:1]).abs().max()))
    assert group == 1 or max(one_copy) > 1e-2
    assert max(senders) > 1e-2  # so equality says something


def test_effects_come_in_the_order_of_their_senders(decoder: Decoder) -> None:
    passes = shared_passes(decoder, balanced(tiny_prompts([0]), 1, 4))
    one = Input("2.0", "q at end", Receivers("q", ((2, 0),)), "end")
    wide, copied = decoder.expanded(), [expanded(each, decoder) for each in passes]
    every = effects(wide, copied, one, {(layer, head) for layer in range(2) for head in range(decoder.n_heads)})
    for sender in ((1, 2), (0, 1)):
        np.testing.assert_allclose(effects(wide, copied, one, {sender})[sender], every[sender], atol=1e-4)


@pytest.mark.parametrize("counted", [[4, 1], []])
def test_flips_are_exact_for_heads_that_count(decoder: Decoder, counted: list[int]) -> None:
    passes = shared_passes(decoder, balanced(tiny_prompts([0]), 1, 4))
    receivers, size = Receivers("v", ((2, 0),)), decoder.n_layers * decoder.n_heads
    found = Effects(receivers={"inhibition_values": receivers})
    sign = np.zeros((size, len(passes[0].batch.prompts)))
    sign[counted] = 1
    found.significant["inhibition_values"] = SignificantEffects(sign, threshold=0.5)
    flipped = sweep_flipped(decoder, found, passes)
    every = Effects()
    shared = [one.beside_flipped(decoder) for one in passes]
    add_sweep(decoder, every, "inhibition_values", shared, receivers)
    exact, estimate = every.percent("inhibition_values").mean(1), flipped.estimate["inhibition_values"].mean(1)
    expected = 100 * estimate / every.clean["inhibition_values"].mean()
    assert np.abs(exact - expected)[[1, 4]].max() > 1e-2  # so that it matters which of them is taken
    expected[counted] = exact[counted]
    np.testing.assert_allclose(flipped.mean_percent("inhibition_values"), expected, atol=1e-4)


def test_templates_may_share_a_pass_and_none_is_cut(decoder: Decoder) -> None:
    prompts = balanced(tiny_prompts([0, 1]), 1, 12)
    sizes = Counter(prompt.template for prompt in prompts)
    chunks = whole_templates(prompts, 5)
    assert [row for chunk in chunks for row in chunk] == prompts
    assert all(len({row.template for row in chunk}) == 1 or len(chunk) <= 5 for chunk in chunks)
    assert sum(len({row.template for row in chunk}) for chunk in chunks) == len(sizes) > len(chunks)

    def measured(passes: list[Passes]) -> tuple[np.ndarray, np.ndarray]:
        receivers, senders = Receivers("k", ((2, 0),)), {(0, 1), (1, 0)}
        patched = [
            path_patch(decoder, one.clean, one.partner, one.batch.at("s2"), one.batch.at("end"), receivers, senders)
            for one in passes
        ]
        return torch.cat(patched, 1).numpy(), np.concatenate([one.attends["s2>s1"] for one in passes], 1)

    together = measured(shared_passes(decoder, prompts))
    alone = measured([one for chunk in whole_templates(prompts, 1) for one in shared_passes(decoder, chunk)])
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_third_prompt_of_each_template_is_kept(decoder: Decoder) -> None:
    """Three templates keep every order and seed once, where every prompt is there."""
    drawn = [row for row in tiny_prompts([0, 1, 2, 3, 4]) if row.template in (0, 2, 4)]
    [one] = shared_passes(decoder, drawn)
    kept = one.thinned(3)
    assert Counter((row.order, row.seed) for row in kept.batch.prompts) == dict.fromkeys(
        itertools.product(ORDERS, range(5)), 1
    )
    assert {row.template for row in kept.batch.prompts} == {0, 2, 4}
    assert len(kept.clean.final) == len(kept.clean.z[0]) == len(kept.partner.z[0]) == len(kept.batch.prompts) == 10


def test_inputs_are_those_of_the_named_heads() -> None:
    heads = pd.DataFrame(
        {
            "layer": [3, 3, 2, 3, 1],
            "head": [0, 1, 0, 2, 0],
            "logits_class": ["name_mover", "name_mover", None, "end_reader", None],
            "mover_queries_class": [None, None, "s_inhibition", None, "unclassified"],
        }
    )
    names = [(one.name, one.kind) for one in inputs_of(heads)]
    assert names == [
        ("name movers", "q at end"), ("3.0", "q at end"), ("3.1", "q at end"),
        ("3.2", "q at end"), ("3.2", "k at end"), ("3.2", "v at end"),
        ("2.0", "q at end"), ("2.0", "k at s2"), ("2.0", "v at s2"),
    ]  # fmt: skip
    assert inputs_of(heads)[0].receivers.heads == ((3, 0), (3, 1))


def test_sentences_say_who_is_subject_and_who_comes_twice() -> None:
    row = tiny_prompts([0])[2]
    texts = {cell: text_of(row, "unlike", cell) for cell in CELLS}
    a, b, c, d = (names_of(row)[name][0] for name in "ABCD")
    assert len({a, b, c, d}) == 4
    assert f"{b}, unlike {c}, " in texts["both"]
    assert f"{c}, unlike {b}, " in texts["repeated"]
    assert f"{c}, unlike {d}, " in texts["neither"]
    assert [text.count(b) for text in texts.values()] == [2, 2, 1]
    assert text_of(row, "in_front", "repeated").startswith(f"Yesterday {b} was away. ")
    for form in FORMS:
        made = sentences(tiny_tokenizer(), [row], form, "repeated", "cpu")
        ids = {name: token for name, (_, token) in names_of(row).items()}
        assert made.tokens[0, made.subject[0]] == ids["C"]
        assert made.tokens[0, made.mention[0]] == ids["B"]
        assert (made.mention[0] < made.subject[0]) == (form == "in_front")


def test_readings_are_those_of_the_bridge_on_single_sentences(bridge: TransformerBridge) -> None:
    rows = tiny_prompts([0])[:5]
    made = sentences(tiny_tokenizer(), rows, "unlike", "repeated", "cpu")
    writer = (1, 2)
    found = read(Decoder(bridge, made.tokens.shape[1]), rows, made, writer, batch_size=2)
    for place, row in enumerate(rows):
        end = int(made.end[place])
        logits, cache = bridge.run_with_cache(made.tokens[place : place + 1, : end + 1])
        ids = [names_of(row)[name][1] for name in "ABCD"]
        last = logits[0, -1] - logits[0, -1].mean()
        torch.testing.assert_close(found.logits[place], last[ids], atol=2e-3, rtol=1e-3)
        pattern = cache["blocks.1.attn.hook_pattern"][0, 2, end]
        expected = pattern[[int(made.subject[place]), int(made.mention[place])]]
        torch.testing.assert_close(found.attends[place], expected, atol=1e-4, rtol=1e-3)
        z = cache["blocks.1.attn.hook_z"][0, end]
        z = z.reshape(bridge.cfg.n_heads, -1)[2]
        torch.testing.assert_close(found.written[place], z @ bridge.W_O[1][2], atol=1e-3, rtol=1e-3)


def test_effects_on_the_other_half_are_exact_where_a_head_was_swept() -> None:
    change = np.array([[[-2.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    estimate = np.array([[-1.0], [0.5], [0.0]])
    effects = Effects({"logits": change}, clean={"logits": np.array([4.0])}, estimate={"logits": estimate})
    heads = pd.DataFrame({f"{name}{end}": [1.0, 2.0, 3.0] for name in other_half.RECEIVERS for end in ("", "_class")})
    for name in other_half.RECEIVERS:
        heads[f"{name}_class"] = ["name_mover", "negative", None]
    table = other_half.beside(heads, effects, {"logits": {0: "name_mover"}}, 3)
    direct = table[table["receivers"] == "logits"]
    assert direct["effect_again"].tolist() == [-50, 12.5]
    assert direct["effect"].tolist() == [1, 2]
    assert direct["class_again"].tolist() == ["name_mover", ""]
    assert table.loc[table["receivers"] != "logits", "effect_again"].isna().all()


def test_names_that_are_given_again_are_counted_against_names_dealt_out() -> None:
    classes = ["name_mover"] * 3 + ["negative"] * 3 + ["unclassified"] * 4
    table = pd.DataFrame({"receivers": "logits", "head": [f"1.{at}" for at in range(10)], "class": classes})
    same = other_half.measure(table.assign(class_again=classes))["named_again"]
    assert (same.value, same.n) == (1, 6)
    assert same.control("names_dealt_out").value < 0.5
    none = other_half.measure(table.assign(class_again=""))
    assert none["named_again"].value == none["named_before"].value == 0


def test_a_receiver_whose_named_heads_were_not_swept_has_no_share() -> None:
    swept, spared = np.zeros((3, 4, 2)), np.zeros((3, 4, 2))
    swept[:2, :, 0] = [[3.0], [1.0]]
    effects = Effects({"logits": swept, "inhibition_keys": spared})
    named = {0: "name_mover", 1: "unclassified"}
    found = measure_classes(effects, {"logits": named, "inhibition_keys": named})
    assert found["n_name_mover"].value == 1
    assert found["logits_classified_share"].value == pytest.approx(0.75)
    assert found["inhibition_keys_classified_share"].value == 0
