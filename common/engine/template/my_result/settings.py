"""Settings of `my_result`; `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict


class Data(Strict):
    """The data set of one seed."""

    n_features: Annotated[int, Field(ge=2, le=1000)] = Field(description="number of inputs")
    samples: Annotated[int, Field(ge=10)] = Field(description="number of labelled points")
    noise: Annotated[float, Field(ge=0.0)] = Field(description="standard deviation added before the label is taken")


class Probe(Strict):
    """The part `probe`: does a linear probe find the direction that made the labels?"""

    data: Data


class Settings(Strict):
    """All parts."""

    probe: Probe
