"""Names that steps and figures share: receiver sets with the position of their senders, and the classes of heads.

The last class is no class: heads with an effect that meet no rule. Backup name movers (`backup`) are found by another
test (self_repair.py) and are not among these.
"""

PLACE_OF_RECEIVER = {
    "logits": "end",
    "mover_queries": "end",
    "inhibition_values": "s2",
    "inhibition_keys": "s2",
    "induction_keys": "s1_next",
}
FURTHER_RECEIVERS = {"inhibition_queries": "end", "induction_queries": "s2"}
"""Receiver sets that are swept and shown, but name no head and rank none."""
CLASSES = (
    "name_mover",
    "negative",
    "s_suppressing",
    "s_inhibition",
    "induction",
    "duplicate",
    "previous",
    "unclassified",
)
NAMED = (*CLASSES[:-1], "backup")
"""Everything that is a class."""
BEFORE = "before"
"""The model before fine-tuning, in the tables of `fine_tuned.py`."""
