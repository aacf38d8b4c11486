"""One pass over the activations trains several SAEs: every batch is read once and shown to all of them."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError, Provenance, check_provenance, write_json
from expander_sae.records.files import remove_leftovers
from expander_sae.records.interrupts import held_back
from expander_sae.records.locks import alone_in
from expander_sae.records.mirror import at_a_url, withdraw
from expander_sae.records.results import TrainingRecord
from expander_sae.saes import AbstractSae, ExpanderSae, InputStatistics, IrregularSae, input_statistics

from .batches import largest_norm
from .beginning import begin, end
from .checkpointing import CHECKPOINT, fingerprint, values_hash
from .config import TrainConfig
from .finished import PASS, RECORDS, finished_records, recorded
from .member import Member
from .parts import AnnealPart, ExtraLoss
from .recorded import WATCHED
from .run import METRICS, BatchSource, Run, bar


@own_precision
@torch.inference_mode(False)  # with gradients, whatever is around it
@at_a_url
def train(
    saes: Mapping[str, AbstractSae],
    stream: BatchSource,
    config: TrainConfig,
    *,
    folder: str | Path,
    progress: bool = True,
    extra_losses: Mapping[str, ExtraLoss] | None = None,
    wide: Mapping[str, ExpanderSae] | None = None,
    heldout: Tensor | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _text: None,
    ranks: Ranks = ALONE,
    accumulate: int = 1,
) -> dict[str, TrainingRecord]:
    """Train every SAE on the same batches, where it is (`sae.to("cuda")` first, for a GPU), save each to `folder/NAME`,
    and return how it went.

    Per batch and SAE: squared error (in units of the data's variance by default), its gradients from the sparse
    kernels, clip, Adam, and the auxiliary loss while some latents are dead. An interrupted call with the same arguments
    goes on from `folder/checkpoint.pt` and ends with the same numbers to the last bit (on the CPU of one machine, with
    the same number of threads); a finished one is not done again: its SAEs are read back. One process at a time trains
    in a folder. An SAE whose loss stops being finite is reported as diverged and not saved; the others go on.

    Args:
        saes: by name; trained in place.
        stream: endless shuffled activations.
        config: the settings of the pass.
        folder: gets one folder per SAE, `metrics.jsonl`, `training.json` and, meanwhile, the checkpoint. At a URL
            each goes there when it is written (`records.mirror`).
        progress: show a progress bar.
        extra_losses: by SAE name, added to its own loss, such as one that keeps it near another SAE.
        wide: by SAE name, where an annealed one begins (`config.anneal`), instead of random columns: an SAE of the same
            sizes and a higher degree.
        heldout: activations [tokens, d_in] that are not trained on; every `config.watch.heldout_every` steps and at the
            end each SAE's fvu and rel_err on them go to `metrics.jsonl`. What is learned does not depend on it.
        overwrite: train anew where this or another pass of these SAEs is finished, or another one was interrupted.
        say: told if this pass is finished already, and what several ranks exchanged.
        ranks: the processes that train together, each calling this with the same arguments and its share of every
            batch (docs/guides/scaling.md); the first one writes. The batches are those of one process, and an
            interrupted pass goes on with any number of ranks.
        accumulate: gradients of so many pieces of each rank's share are summed before a step, for batches that do not
            fit into memory at once. Results differ by rounding, as they do with the number of ranks.

    Returns:
        One record per SAE.

    Raises:
        ExpanderSaeError: widths differ, the folder has work of another pass (interrupted, or finished SAEs of these
            names), another process trains in it, or it cannot be written; ranks were given different passes.
    """
    folder = Path(folder)
    sample = stream.sample(config.inputs.statistics_tokens, seed=config.seed)
    _check(saes, sample)
    _check_heldout(heldout, sample)
    source = stream.describe()
    mismatches = {name: check_provenance(name, sae, Provenance.of_settings(source)) for name, sae in saes.items()}
    statistics = input_statistics(sample)
    # Where values of a seed are not the start, the start is part of what a pass is.
    hashed = config.fine_tune or config.amortise
    begun = {name: begin(sae, folder, hashed=hashed) for name, sae in saes.items()}
    starts = {name: one.values for name, one in begun.items()} if hashed else None
    own = dict(extra_losses or {})
    _check_extra_losses(own, saes, config.amortise)
    _check_accumulate(accumulate, config)
    begins = dict(wide or {})
    _check_wide(begins, saes, config)
    members = [
        Member(name, sae, config, statistics, own.get(name), begins.get(name), ranks, accumulate)
        for name, sae in saes.items()
    ]
    description = {
        "config": config.to_dict(),
        "saes": {name: one.recorded for name, one in begun.items()},
        "activations": source,
        "extra_losses": sorted(own),
    }
    if begins:
        description["wide"] = {name: values_hash(sae) for name, sae in begins.items()}
    learned = {name: value for name, value in config.to_dict().items() if name not in WATCHED}
    before_seals = fingerprint({**description, "config": learned})
    mark = before_seals if starts is None else fingerprint({**description, "config": learned, "starts": starts})
    heldout = None if heldout is None else heldout.float()
    run = Run(folder, members, stream, config, mark, largest_norm(sample, config), heldout, ranks)
    ranks.agree("settings, SAEs and activations", mark)
    with alone_in(folder, "training", "trains SAEs") if ranks.first else nullcontext():
        if ranks.first:
            remove_leftovers(folder, CHECKPOINT, METRICS, RECORDS)
        ranks.wait()
        if not (overwrite or (folder / CHECKPOINT).exists()):
            records = finished_records(folder, saes, mark, config)
            if records is not None:
                say(f"{folder} is finished: these SAEs were trained there by this very pass, and nothing is done again")
                return records
        run.resume(before_seals, overwrite)
        try:
            with bar(progress and ranks.first, config.steps, run.step) as show:
                run.to_the_end(show)
        except (KeyboardInterrupt, BrokenPipeError, SystemExit):  # rich makes the last of the one before
            with held_back():
                if ranks.alone:  # else it is saved already, or the ranks are not at one step
                    run.save()
            raise
        if not ranks.alone:
            run.check_copies()
            say(run.exchanged())
        with held_back():  # a pass that no checkpoint was due in has its SAEs only now
            return _finish(run, statistics, description, mismatches)


def _check_extra_losses(extra_losses: Mapping[str, ExtraLoss], saes: Mapping[str, AbstractSae], amortise: bool) -> None:
    wrong = [name for name in extra_losses if amortise or name not in saes]
    if wrong:
        raise ExpanderSaeError(f"expected extra losses for SAEs that are trained and not amortised; got {wrong[0]!r}")


def _check_accumulate(accumulate: int, config: TrainConfig) -> None:
    if accumulate < 1 or (accumulate > 1 and config.amortise):
        raise ExpanderSaeError(
            f"expected accumulate >= 1, and 1 beside amortise, whose loss is no sum over tokens; got {accumulate}"
        )


def _check_wide(wide: Mapping[str, ExpanderSae], saes: Mapping[str, AbstractSae], config: TrainConfig) -> None:
    for name, start in wide.items():
        sae = saes.get(name)
        if config.anneal is None or not isinstance(sae, ExpanderSae) or not AnnealPart.can_anneal(sae):
            raise ExpanderSaeError(f"expected wide columns for tied Expander SAEs that are annealed; got {name!r}")
        fewest = sae.degree if isinstance(sae, IrregularSae) else sae.degree + 1  # the slots of irregular columns
        if (start.d_in, start.n_latents) != (sae.d_in, sae.n_latents) or start.degree < fewest:
            raise ExpanderSaeError(
                f"expected wide columns of (d_in, n_latents) = {(sae.d_in, sae.n_latents)} and a degree from "
                f"{fewest} on for {name!r}; got {(start.d_in, start.n_latents)} and {start.degree}"
            )


def _check(saes: Mapping[str, AbstractSae], sample: Tensor) -> None:
    if not saes:
        raise ExpanderSaeError("expected at least one SAE to train; got none")
    for name, sae in saes.items():
        if sae.d_in != sample.shape[1]:
            raise ExpanderSaeError(f"SAE {name!r} has d_in = {sae.d_in}, the activations have {sample.shape[1]}")
        frozen = [part for part, parameter in sae.named_parameters() if not parameter.requires_grad]
        if sae.b_dec.dtype != torch.float32 or frozen:
            got = f"{', '.join(frozen)} that do not" if frozen else str(sae.b_dec.dtype).removeprefix("torch.")
            raise ExpanderSaeError(f"expected {name!r} in float32, all of it requiring gradients; got {got}")
        if not name or "/" in name or name.startswith("."):
            raise ExpanderSaeError(f"expected SAE names that can be folder names; got {name!r}")


def _check_heldout(heldout: Tensor | None, sample: Tensor) -> None:
    if heldout is None:
        return
    fits = heldout.ndim == 2 and heldout.shape[1] == sample.shape[1] and len(heldout) > 1
    if not fits or not heldout.is_floating_point():
        raise ExpanderSaeError(
            f"expected held-out activations [two or more, {sample.shape[1]}] of a floating type; got "
            f"{list(heldout.shape)} of {heldout.dtype}. Take some like those that are trained on, or None."
        )
    if not bool(torch.isfinite(heldout).all()):
        raise ExpanderSaeError(
            "expected finite held-out activations; got NaN or infinity. Leave those tokens out, or give None."
        )


def _finish(
    run: Run,
    statistics: InputStatistics,
    description: dict[str, Any],
    mismatches: Mapping[str, list[str] | None],
) -> dict[str, TrainingRecord]:
    """Save what was trained and say how it went."""
    records = {}
    for member in run.members:
        member.sae.eval()
        record = TrainingRecord(
            name=member.name,
            steps=run.step,
            tokens=run.tokens,
            seconds=run.seconds,
            tokens_per_second=run.tokens / run.seconds if run.seconds else float("nan"),
            final_loss=member.last.get("loss", float("nan")),
            final_fvu=member.last.get("fvu", float("nan")),
            final_dead_fraction=member.last.get("dead_fraction", float("nan")),
            config=run.config.to_dict(),
            diverged=member.diverged,
            device=str(member.device),
            mismatches=mismatches[member.name],
            cpu_seconds=member.cpu_seconds,
        )
        records[member.name] = record
        if not member.diverged:
            member.sae.metadata |= {
                "activations": description["activations"],
                "training": record.to_dict(),
                "input_scale": statistics.scale if run.config.inputs.scale else 1.0,
                "outlier_tokens_left_out": run.outliers,
                PASS: run.mark,
            }
            member.sae.fold_input_scale()
            if run.ranks.first:
                member.sae.save(run.folder / member.name)
            member.sae.folder = run.folder / member.name
    if run.ranks.first:
        together = recorded(run.folder) | records  # other passes may have trained other SAEs here
        write_json(run.folder / RECORDS, {name: record.to_dict() for name, record in together.items()})
        withdraw(run.folder / CHECKPOINT)
    run.ranks.wait()
    for member in run.members:
        end(member.sae)
    return records
