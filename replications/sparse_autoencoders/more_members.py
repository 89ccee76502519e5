"""The SAEs that `train_more` adds to the sweep (`members`): soft-frozen ones, and more seeds."""

from replications.sparse_autoencoders.members import Member, recipe
from replications.sparse_autoencoders.settings import Sweep


def narrower(sweep: Sweep) -> list[int]:
    """Widths below the central one; wider dictionaries would take too long to match one to one."""
    return [width for width in sweep.widths if width < sweep.width]


def more_members(sweep: Sweep, seeds: list[int]) -> list[Member]:
    """All SAEs of this step; those of kind `soft` are trained within their cones."""
    width, k = sweep.width, sweep.sparsity
    found = [Member(f"soft-{width}-k{k}-s{s}", "soft", recipe("batch_topk", width, k, s)) for s in seeds]
    for s in seeds[1:]:
        found += [
            Member(f"batch_topk-{one}-k{k}-s{s}", "width", recipe("batch_topk", one, k, s)) for one in narrower(sweep)
        ]
        late = recipe("batch_topk", width, k, s, source="late")
        found.append(Member(f"late-{width}-k{k}-s{s}", "late", late))
    return found
