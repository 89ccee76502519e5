"""All architectures by name."""

from common.saes.architectures.base import Architecture
from common.saes.architectures.cross_layer import CrossLayer
from common.saes.architectures.gated import Gated
from common.saes.architectures.jumprelu import JumpRelu
from common.saes.architectures.matching_pursuit import MatchingPursuit
from common.saes.architectures.matryoshka import Matryoshka
from common.saes.architectures.relu import Relu
from common.saes.architectures.topk import TopK
from common.saes.architectures.transcoder import Transcoder
from common.saes.recipe import ArchitectureName

ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    "relu_bricken": Relu(centred=True),
    "relu_april": Relu(centred=False),
    "gated": Gated(),
    "topk": TopK(of_batch=False),
    "batch_topk": TopK(of_batch=True),
    "jumprelu": JumpRelu(),
    "matryoshka": Matryoshka(),
    "matching_pursuit": MatchingPursuit(),
    "transcoder": Transcoder(skip=False),
    "skip_transcoder": Transcoder(skip=True),
    "cross_layer": CrossLayer(),
}
