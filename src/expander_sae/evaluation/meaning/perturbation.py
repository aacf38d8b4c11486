"""Targeted probe perturbation (TPP) and spurious correlation removal (SCR): what probes lose with a few latents.

Definitions: SAEBench (Karvonen et al. 2025), after Marks et al., "Sparse Feature Circuits", 2024. Latents are ablated
in the stream at the SAE's layer, where the probes read. A probe reads the mean over a text's tokens, and taking codes
out of a stream is linear, so

    mean of (x - sum over ablated latents j of code_j w_j) = mean of x - sum over j of (mean of code_j) w_j

and no model runs again for another set of latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy import sparse

from expander_sae.saes import AbstractSae

from .features import Features
from .labelled import Dealt, Task
from .linear_probe import STEPS, LinearProbe, train_linear_probe

ABLATED = (2, 5, 10, 20, 50, 100, 500)
"""How many latents are taken out; SAEBench's."""
Columns = Callable[[np.ndarray], np.ndarray]
"""Dictionary columns, float64 [latents, d_in], of latents, int64."""
LEAST_GAP = 0.001
"""A biased probe that is no further below an unbiased one has no correlation to remove: its SCR is 0."""


def effects(latents: Features, columns: Columns, task: Task, probe: LinearProbe) -> np.ndarray:
    """How much each latent speaks for yes to a probe, float64 [latents].

        effect of j = (mean of code_j over yes - mean over no) * (probe weight . w_j)

    Args:
        latents: means of codes, a row for each text.
        columns: dictionary columns of latents (int64), [latents, d_in].
        task: the texts to fit on count.
        probe: what is attacked.
    """
    yes, no = task.fit[task.fit_labels], task.fit[~task.fit_labels]
    difference = np.asarray(latents.values[yes].mean(0) - latents.values[no].mean(0)).ravel()
    found = np.zeros(latents.n_features)
    some = np.flatnonzero(difference)
    found[some] = difference[some] * (columns(some) @ probe.weight)
    return found


def ablated(channels: np.ndarray, latents: Features, columns: Columns, chosen: np.ndarray) -> np.ndarray:
    """The means of texts [texts, d_in] with some latents taken out of the stream."""
    if len(chosen) == 0:
        return channels
    codes = sparse.csc_matrix(latents.values[:, chosen])
    return channels - np.asarray(codes @ columns(chosen))


def strongest(effect: np.ndarray, count: int) -> np.ndarray:
    """The latents of largest effect, those that have one above zero, int64.

    Example:
        >>> strongest(np.array([0.0, 3.0, -1.0, 2.0]), 2).tolist()
        [1, 3]
    """
    some = np.flatnonzero(effect > 0)
    return some[np.argsort(-effect[some], kind="stable")][:count]


def tpp(
    channels: np.ndarray, latents: Features, columns: Columns, tasks: Sequence[Task],
    probes: Mapping[str, LinearProbe], counts: Sequence[int] = ABLATED,
) -> dict[int, float]:  # fmt: skip
    """Targeted probe perturbation: what the probe of a class loses with its latents, beyond what other probes lose.

        TPP = mean over classes i of (loss of probe i - mean over j != i of the loss of probe j), i's latents ablated

    The latents of a class are those with the largest effect on its probe that are higher in its texts. Losses are of
    test accuracy.

    Args:
        channels: means of the stream, [texts, d_in].
        latents: means of codes, a row for each text.
        columns: dictionary columns of latents.
        tasks: one for each class.
        probes: by task.
        counts: how many latents are ablated.

    Returns:
        TPP by that number.
    """
    clean = {task.name: probes[task.name].accuracy(channels[task.test], task.test_labels) for task in tasks}
    found: dict[int, list[float]] = {count: [] for count in counts}
    for task in tasks:
        effect = effects(latents, columns, task, probes[task.name])
        yes, no = task.fit[task.fit_labels], task.fit[~task.fit_labels]
        higher = np.asarray(latents.values[yes].mean(0) > latents.values[no].mean(0)).ravel()
        for count in counts:
            x = ablated(channels, latents, columns, strongest(np.where(higher, effect, 0.0), count))
            lost = {t.name: clean[t.name] - probes[t.name].accuracy(x[t.test], t.test_labels) for t in tasks}
            others = [value for name, value in lost.items() if name != task.name]
            found[count].append(lost[task.name] - float(np.mean(others)))
    return {count: float(np.mean(values)) for count, values in found.items()}


def scr(
    channels: np.ndarray, latents: Features, columns: Columns, tasks: Sequence[Task], probes: Mapping[str, LinearProbe],
    counts: Sequence[int] = ABLATED,
) -> dict[int, float]:  # fmt: skip
    """Spurious correlation removal: how much of what a biased probe lacks comes back without the spurious latents.

        SCR = (accuracy ablated - accuracy biased) / (accuracy of an unbiased probe - accuracy biased)

    The biased probe is fitted where label and attribute go together. Of both ways (the attribute is spurious for the
    label, or the label for the attribute) the one counts in which the biased probe is worse. Latents are ablated by the
    size of their effect on the probe of what is spurious.

    Args:
        channels: means of the stream, [texts, d_in].
        latents: means of codes, a row for each text.
        columns: dictionary columns of latents.
        tasks: the label, the attribute, and both where they go together.
        probes: by task.
        counts: how many latents are ablated.

    Returns:
        SCR by that number.
    """
    by_label, by_attribute, together = tasks
    biased = {
        task.name: probes[together.name].accuracy(channels[task.test], task.test_labels)
        for task in (by_label, by_attribute)
    }
    asked, spurious = (
        (by_label, by_attribute) if biased[by_label.name] < biased[by_attribute.name] else (by_attribute, by_label)
    )
    before = biased[asked.name]
    gap = probes[asked.name].accuracy(channels[asked.test], asked.test_labels) - before
    effect = np.abs(effects(latents, columns, spurious, probes[spurious.name]))
    found = {}
    for count in counts:
        x = ablated(channels, latents, columns, strongest(effect, count))
        after = probes[together.name].accuracy(x[asked.test], asked.test_labels)
        found[count] = (after - before) / gap if gap >= LEAST_GAP else 0.0
    return found


def crossed(dealt: Dealt) -> bool:
    """Whether there are two labels and two attributes, and texts of all four kinds on both sides."""
    if dealt.attributes is None:
        return False
    kinds = set(zip(dealt.labels, dealt.attributes, dealt.training, strict=True))
    return len(kinds) == 8 and len(set(dealt.labels)) == len(set(dealt.attributes)) == 2


def _quadrants(dealt: Dealt) -> tuple[Task, Task, Task]:
    """Tasks for the label, for the attribute, and for both where they go together; as many texts of each quadrant."""
    assert dealt.attributes is not None
    label, attribute = dealt.labels == min(dealt.labels), dealt.attributes == min(dealt.attributes)

    def rows(training: bool, kinds: Sequence[tuple[bool, bool]]) -> np.ndarray:
        each = [np.flatnonzero((dealt.training == training) & (label == a) & (attribute == b)) for a, b in kinds]
        least = min(len(of) for of in each)
        return np.concatenate([of[:least] for of in each])

    every = [(True, True), (True, False), (False, True), (False, False)]
    fit, test = rows(True, every), rows(False, every)
    biased, apart = rows(True, [every[0], every[3]]), rows(False, [every[0], every[3]])
    return (
        Task("label", fit, label[fit], test, label[test]),
        Task("attribute", fit, attribute[fit], test, attribute[test]),
        Task("together", biased, label[biased], apart, label[apart]),
    )


class Attack:
    """What a few latents do to probes of labelled texts: the probes are trained once for all dictionaries.

    Args:
        channels: means of the stream, a row for each text.
        dealt: what `deal` gave.
        steps: that each probe learns for.
        seed: of the probes.
    """

    def __init__(self, channels: Features, dealt: Dealt, *, steps: int = STEPS, seed: int = 0) -> None:
        self.channels, self.dealt = channels.values.toarray(), dealt
        self.quadrants = _quadrants(dealt) if crossed(dealt) else ()
        self.probes = {
            task.name: train_linear_probe(self.channels[task.fit], task.fit_labels, steps=steps, seed=seed)
            for task in (*dealt.tasks, *self.quadrants)
        }

    def measures(
        self, latents: Features, columns: Columns, counts: Sequence[int] = ABLATED
    ) -> dict[str, dict[str, float]]:
        """TPP and, of texts with two labels and two attributes, SCR; each by how many latents are ablated."""
        found = {"tpp": tpp(self.channels, latents, columns, self.dealt.tasks, self.probes, counts)}
        if self.quadrants:
            found["scr"] = scr(self.channels, latents, columns, self.quadrants, self.probes, counts)
        return {name: {str(count): value for count, value in of.items()} for name, of in found.items()}


def columns_of(sae: AbstractSae) -> Columns:
    """Dictionary columns of an SAE by latent."""
    dictionary = sae.dictionary()

    def columns(chosen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            at = torch.from_numpy(chosen).to(sae.center().device)
            return dictionary.columns(at).double().cpu().numpy()

    return columns
