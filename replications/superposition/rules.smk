# Toy models of superposition: train -> measure -> draw, four parts. All models of a part train batched in one job.
from common.plotting_files import ENDINGS
from common.workflow import flags, source_hash
