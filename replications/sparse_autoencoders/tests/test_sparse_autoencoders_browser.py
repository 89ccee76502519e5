"""The step that writes the pages of the feature browser."""

import pytest
import torch
from safetensors.torch import save_file

from common.core.errors import UserError
from common.core.files import write_json
from common.saes.saelens import save_saelens
from replications.sparse_autoencoders.browse import BrowseFiles, browse
from tests.fixtures.saes_browser_tiny import D, tiny_sae


@pytest.mark.model
def test_unknown_saes_and_missing_streams_are_refused(tmp_path, model_folder, monkeypatch):
    monkeypatch.setattr("replications.sparse_autoencoders.browse.load_writer", lambda folder: _Stub())
    monkeypatch.setattr("replications.sparse_autoencoders.browse.load_tokenizer", lambda folder: None)
    write_json(tmp_path / "index.json", [{"name": "tiny"}])
    save_saelens(tiny_sae(), tmp_path / "tiny")
    save_file({"tokens": torch.zeros(1)}, tmp_path / "held.safetensors")
    common = {
        "manifest": model_folder / "manifest.json", "index": tmp_path / "index.json", "activations": [],
        "held_out": tmp_path / "held.safetensors", "template": tmp_path / "t.html", "caption": tmp_path / "c.rst",
    }  # fmt: skip
    with pytest.raises(UserError, match="no SAE 'other' in"):
        browse(BrowseFiles(**common, pages=[tmp_path / "other.html"]))
    with pytest.raises(UserError, match="of which no activations were given"):
        browse(BrowseFiles(**common, pages=[tmp_path / "tiny.html"]))


class _Stub:
    """A model of which only the unembedding is asked for."""

    base_model = None

    def get_output_embeddings(self):
        return torch.nn.Linear(D, 4, bias=False)
