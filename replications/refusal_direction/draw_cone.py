"""Step: draws what cones of directions do when ablated, by their number of dimensions."""

import matplotlib.pyplot as plt
import pandas as pd

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans

PANELS = {  # how directions of one cone are summed up, title
    "bypassed": ("mean", "harmful requests not refused,\nmean over directions"),
    "worst": ("min", "the same for the direction\nthat ends the fewest refusals"),
    "kl": ("mean", "KL of the first token on\nharmless requests (nats)"),
}
KINDS = {"optimised": ("optimised cone", PALETTE[1], "o"), "start": ("at its start: r, random axes", "0.5", "s")}


def draw_cones(rows: pd.DataFrame) -> Picture:
    """One mark per seed and a line through their means."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.4))
    for axis, (name, (how, title)) in zip(axes, PANELS.items(), strict=True):
        column = "bypassed" if name == "worst" else name
        for kind, (label, colour, marker) in KINDS.items():
            own = rows[rows["kind"] == kind].groupby(["dimensions", "seed"])[column].agg(how)
            places, values = own.index.get_level_values("dimensions"), own.to_numpy()
            axis.plot(places, values, marker, color=colour, markersize=4, alpha=0.7, label=label)
            axis.plot(own.groupby("dimensions").mean(), "-", color=colour, linewidth=1.2)
        axis.set(title=title, xlabel="dimensions of the cone", xticks=sorted(set(rows["dimensions"])))
        axis.set_ylim(0, 1.05 if name != "kl" else None)
    axes[0].legend(loc="lower left")
    return figure, rows


PLANS = {"cone/cone": Plan(draw_cones, ("directions.csv",))}


if __name__ == "__main__":
    run_plans(PLANS)
