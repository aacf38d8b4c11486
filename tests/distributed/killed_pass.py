"""A pass for torchrun: on the first attempt the last rank is killed at a step. Arguments: folder, step."""

import os
import signal
import sys
from dataclasses import replace

from test_training_over_ranks import BATCH, PASSES, Interrupting, activations, made

from expander_sae.distributed import started
from expander_sae.training import PRESETS, Watch, train
from expander_sae.training.memory import MemoryBatches


def main(folder, step):
    with started() as (ranks, _):
        first_attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        source = MemoryBatches(activations(), BATCH, 0)
        if first_attempt and ranks.rank == ranks.size - 1:
            source = Interrupting(activations(), step, signal.SIGKILL)
        sae = made(PRESETS["meaning"])
        config = replace(PASSES["meaning"], watch=Watch(checkpoint_every=8))
        record = train({"a": sae}, source, config, folder=folder, progress=False, ranks=ranks)["a"]
        if ranks.first:
            attempts = os.environ["TORCHELASTIC_RESTART_COUNT"]
            print(f"ranks {ranks.size} restarts {attempts} steps {record.steps}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
