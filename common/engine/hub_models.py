"""Which replications take which models: hub models go where a claim is about them, and may not fit elsewhere."""

from common.core.claims import load_claims, load_planned
from common.core.errors import UserError
from common.core.settings import replications
from common.data.models import registry
from common.engine.config import Run


def models_of(name: str, run: Run, *, chosen: bool) -> list[str]:
    """The models of the run that a replication takes: all that the user has chosen (MODELS=...). Without a choice they
    are those of the scale and, of the hub models that HUB=1 adds, those that its claims name."""
    if chosen:
        return run.models
    return [model for model in run.models if registry()[model].source != "hub" or model in _named(name)]


def check_chosen(models: list[str]) -> None:
    """UserError if a whole run would take a hub model to replications that have claims about other models alone."""
    named = {name: _named(name) for name in replications()}
    about_models = [name for name, own in named.items() if own != {"toy"}]
    for model in models:
        fit = [name for name in about_models if model in named[name]]
        if registry()[model].source == "hub" and fit != about_models:
            raise UserError(
                f"only claims of {', '.join(fit) or 'no replication'} are about '{model}'; name the replication that "
                "it should run, or leave out MODELS: HUB=1 alone takes hub models where they belong"
            )


def _named(name: str) -> set[str]:
    """The models that a replication's claims name, `toy` among them."""
    return {model for claim in [*load_claims(name), *load_planned(name)] for model in claim.models}
