"""The feature browser's numbers on an SAE whose latents are known, and the page that carries them."""

import json

import pytest
import torch

from common.saes.browser import census, choose, coherence, filled, logit_effects, nearest
from tests.fixtures.saes_browser_tiny import WORDS, D, tiny_data, tiny_sae, tiny_texts


def activations(data, latent):
    places = torch.tensor(data["at"][latent]).cumsum(0).tolist()
    return dict(zip(places, data["level"][latent], strict=True))


def test_every_activation_of_every_latent_is_on_the_page():
    data, sae, texts = tiny_data(), tiny_sae(), tiny_texts()
    assert [data["words"][word] for word in data["tokens"]] == [WORDS[token] for token in texts.tokens[texts.real]]
    assert data["windows"] == [6, 10, 16]
    literal = sae.encode(texts.resid) * texts.used[..., None]
    flat = literal[texts.real]
    for latent in range(sae.d_sae):
        levels = activations(data, latent)
        assert sorted(levels) == flat[:, latent].nonzero()[:, 0].tolist()
        for place, level in levels.items():
            assert level / 100 * data["largest"][latent] == pytest.approx(float(flat[place, latent]), rel=0.01)
    assert data["at"][9] == data["top"][9] == []
    assert data["density"][9] == data["coherence"][9] == 0


def test_contexts_are_the_strongest_of_each_document_and_some_of_each_quarter():
    data = tiny_data()
    assert data["top"][1] == [13, 9]  # the one of document 4, and the stronger of two of document 3
    strength = torch.arange(1.0, 41.0)
    at = torch.arange(100, 140)
    top, quarters = choose(at, strength, torch.arange(40) // 10, torch.Generator().manual_seed(0))
    assert top == [139, 129, 119, 109]
    assert [len(part) for part in quarters] == [2, 2, 2, 2]
    for quarter, part in enumerate(quarters):
        assert all(130 - 10 * quarter <= one < 140 - 10 * quarter for one in part)
    few = choose(at[:1], strength[:1], torch.zeros(1, dtype=torch.long), torch.Generator())
    assert few == ([100], [[100], [], [], []])


def test_neighbours_by_cosine_and_by_shared_tokens():
    data = tiny_data()
    assert data["near"][0][0] == [8, 71]
    assert dict(map(tuple, data["near"][8])) == {0: 71, 1: 71}
    assert all(latent != own for key in ("near", "together") for own, row in enumerate(data[key]) for latent, _ in row)
    sae, texts = tiny_sae(), tiny_texts()
    fires = sae.encode(texts.resid[texts.used]) != 0
    jaccard = (fires[:, 8] & fires[:, 1]).sum() / (fires[:, 8] | fires[:, 1]).sum()
    assert dict(map(tuple, data["together"][8]))[1] == round(100 * float(jaccard))
    assert nearest(torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]]), 2) == [
        [[1, 50]], [[0, 50], [2, 20]], [[1, 20]],
    ]  # fmt: skip


def test_census_counts_in_chunks_as_in_one_piece(monkeypatch):
    sae = tiny_sae()
    x = torch.randn(500, D, generator=torch.Generator().manual_seed(0))
    whole = census(sae, x)
    fires = sae.encode(x) > 0
    assert torch.allclose(whole.density, fires.float().mean(0))
    assert torch.equal(whole.largest, sae.encode(x).amax(0))
    monkeypatch.setattr("common.saes.browser.CHUNK", 64)
    parts = census(sae, x)
    assert all(torch.allclose(one, other) for one, other in zip(whole[1:], parts[1:], strict=True))
    both = (fires[:, 0] & fires[:, 8]).sum() / (fires[:, 0] | fires[:, 8]).sum()
    assert whole.jaccard[0, 8] == pytest.approx(float(both))


def test_logit_effects_fold_the_gain_and_compare_with_other_latents():
    sae, generator = tiny_sae(), torch.Generator().manual_seed(1)
    unembedding, gain = torch.randn(30, D, generator=generator), torch.rand(D, generator=generator)
    found = logit_effects(sae, unembedding, gain)
    for latent in (0, 8):
        row = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
        column = torch.stack([(row[one] * gain * unembedding[5]).sum() for one in range(sae.d_sae)])
        assert found[latent, 5] == pytest.approx(float((column[latent] - column.mean()) / column.std()), abs=1e-4)
    data = tiny_data()
    assert data["words"][data["raised"][3][0]] == WORDS[3]


def test_coherence_compares_surroundings_within_their_windows():
    tokens = torch.tensor([5, 6, 7, 5, 6, 7, 1, 2, 3])
    assert coherence([1, 4], tokens, [0, 3, 6, 9]) == 1
    assert coherence([1, 7], tokens, [0, 3, 6, 9]) == 0
    assert coherence([1, 7], tokens, [0, 9]) == pytest.approx(5 / 6)


def test_text_cannot_leave_its_place_in_the_page():
    page = filled("<script>__DATA__</script>", {"words": [*WORDS, "a\u2028b", "<!--"]})
    inside = page.removeprefix("<script>").removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside)["words"] == [*WORDS, "a\u2028b", "<!--"]


def test_the_template_writes_text_as_text(root):
    template = (root / "common" / "saes" / "browser.html").read_text()
    assert template.count("__DATA__") == 1
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http", "src="):
        assert unsafe not in template
