"""Pieces that several figures of this replication share."""

from common.core.figures import PALETTE

ARM_LABELS = {
    "one_layer": "1 layer",
    "one_layer_smeared": "1 layer, smeared keys",
    "two_layers": "2 layers",
    "two_layers_smeared": "2 layers, smeared keys",
    "two_layers_added": "2 layers, added positions",
    "three_layers": "3 layers",
    "two_layers_mlp": "2 layers + MLP",
    "two_layers_narrow": "2 layers, narrow",
    "two_layers_wide": "2 layers, wide",
}
ARM_COLOURS = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(ARM_LABELS)}


def arms_in(found: list[str]) -> list[str]:
    """The arms that occur, in the order of the legend."""
    return [name for name in ARM_LABELS if name in set(found)]
