"""Feature absorption: words of a letter on which the letter's latents are silent because another latent speaks for it.

Chanin et al., "A is for Absorption: Studying Feature Splitting and Absorption in Sparse Autoencoders", 2024
(arXiv 2409.14507), with SAEBench's scores. What is read is the first letter of a word, at the word's token in a prompt
that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from expander_sae.activations import LanguageModel
from expander_sae.activations.models import residual_after_block
from expander_sae.activations.tokens import adds_bos
from expander_sae.records import AbsorptionRecord, ExpanderSaeError
from expander_sae.saes import AbstractSae

from .features import Features, latent_features
from .means import one_block_each
from .probing import f1
from .regularised import regularised

LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUESTION = " has the first letter:"
EXAMPLES = 10
"""Words with their answer before the word that is asked for."""
TRAIN_SHARE = 0.8
MOST_SPLIT = 10
"""Latents that one letter may be split into."""
SPLIT_GAIN = 0.03
"""A further latent is a split of the letter if it raises F1 by more than this."""
LEAST_PROBE_F1, LEAST_LETTERS = 0.6, 20
"""A letter counts if the stream's own probe tells it so well; a model in which fewer letters do is not asked."""
FULL_COSINE, PART_COSINE = 0.025, 0.1
"""Least cosine with the probe of a latent that absorbs a word wholly, or in part."""
LEAST_SHARE = 0.4
"""Least share of the stream's projection on the probe that the absorbing latents have."""
MOST_ABSORBERS = 3
LEAST_PARAMETERS, LEAST_LATENTS = 1_000_000_000, 16_000
"""Below these SAEBench does not advise the measure."""
SILENT = 1e-8


class Words(NamedTuple):
    """The stream at words whose first letter is asked for."""

    x: Tensor
    """[words, d_in] float32."""
    letters: np.ndarray
    """int64 [words], 0 for a."""
    training: np.ndarray
    """bool [words]."""


def cautions(language_model: LanguageModel, saes: Mapping[str, AbstractSae]) -> list[str]:
    """Why these numbers should not be leaned on, a sentence each; none where they may."""
    found = []
    parameters = sum(parameter.numel() for parameter in language_model.model.parameters())
    if parameters < LEAST_PARAMETERS:
        found.append(
            f"The model has {parameters / 1e6:,.0f} million parameters; below 1,000 million it may not know how words "
            "are spelled, and SAEBench does not advise this measure."
        )
    small = [name for name, sae in saes.items() if sae.n_latents < LEAST_LATENTS]
    if small:
        found.append(
            f"{', '.join(small)}: fewer than {LEAST_LATENTS:,} latents; small SAEs have few latents that could absorb, "
            "and SAEBench does not advise this measure."
        )
    return found


def read_words(
    language_model: LanguageModel, layer: int, *, max_words: int = 4000, seed: int = 0, sequences: int = 16,
    say: Callable[[int], None] = lambda _words: None,
) -> Words:  # fmt: skip
    """The stream at tokens of the vocabulary that are words, each asked for its first letter after ten examples.

    A prompt is ten lines "WORD has the first letter: L" and one without the answer; the stream is read at the word's
    token. Examples of training words are training words, and those of the others the others.

    Args:
        language_model: runs as far as the layer.
        layer: block after which the stream is read.
        max_words: how many tokens of the vocabulary are drawn.
        seed: of the draw.
        sequences: prompts that the model reads at once.
        say: told how many words are done.

    Raises:
        ExpanderSaeError: too few tokens of the vocabulary are words.
    """
    tokenizer = language_model.tokenizer
    draw = np.random.default_rng(seed)
    vocabulary = words_of(tokenizer)
    chosen = [vocabulary[place] for place in draw.permutation(len(vocabulary))[:max_words]]
    training = np.arange(len(chosen)) < TRAIN_SHARE * len(chosen)
    if (~training).sum() <= EXAMPLES:
        raise ExpanderSaeError(
            f"expected more than {5 * EXAMPLES} tokens that are words of plain letters; got {len(chosen)}. Raise "
            "--max-words, or take a model of a language written in them."
        )
    prompts, places = [], []
    begin = [int(tokenizer.bos_token_id)] if adds_bos(tokenizer) else []
    begin += tokenizer("\n", add_special_tokens=False)["input_ids"]  # no word stands first
    for place in range(len(chosen)):
        pool = np.flatnonzero(training == training[place])
        others = draw.choice(pool[pool != place], EXAMPLES, replace=False)
        head = list(begin)
        for other in others:
            text = f"{QUESTION} {first_letter(chosen[other][1]).upper()}\n"
            head += [chosen[other][0], *tokenizer(text, add_special_tokens=False)["input_ids"]]
        places.append(len(head))
        prompts.append([*head, chosen[place][0]])  # what stands behind the word cannot change the stream at it
    rows = []
    for start in range(0, len(prompts), sequences):
        blocks = one_block_each(prompts[start : start + sequences], tokenizer)
        stream = residual_after_block(language_model.model, blocks.input_ids, blocks.attention_mask, layer)
        at = torch.tensor(places[start : start + sequences], device=stream.device)
        rows.append(stream[torch.arange(len(at), device=stream.device), at].float().cpu())
        say(min(start + sequences, len(prompts)))
    letters = np.array([LETTERS.index(first_letter(word)) for _, word in chosen])
    return Words(torch.cat(rows), letters, training)


def words_of(tokenizer: Any) -> list[tuple[int, str]]:
    """Tokens of plain letters, with or without a space before them, and what they say; in order of their ids."""
    found = []
    for token in sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)):
        word = tokenizer.decode([token]).removeprefix(" ")
        if word and word.isascii() and word.isalpha():
            found.append((int(token), word))
    return found


def first_letter(word: str) -> str:
    """The first letter of a word, in lower case."""
    return word[0].lower()


def absorbed(projection: float, codes: np.ndarray, cosines: np.ndarray, main: Sequence[int]) -> tuple[float, bool]:
    """How far a word is absorbed: a share from 0 to 1, and whether one latent absorbs it wholly.

    Every latent has code * cosine of the probe. *Share*: of the projection that the up to three strongest other latents
    (cosine at least .1) and the letter's own have together, what the others have; 0 if they have less than .4 of the
    stream's. *Wholly*: the letter's own latents are silent, and the strongest latent of all (cosine at least .025) has
    at least .4 of it.

    Args:
        projection: of the stream on the unit probe.
        codes: of all latents at the word.
        cosines: of each column with the probe.
        main: the letter's own latents.

    Example:
        >>> absorbed(2.0, np.array([0.0, 2.0]), np.array([0.9, 0.8]), [0])
        (1.0, True)
        >>> absorbed(2.0, np.array([2.0, 0.0]), np.array([0.9, 0.8]), [0])
        (0.0, False)
    """
    each = codes * cosines
    own = float(each[list(main)].sum())
    others = np.ones(len(each), dtype=bool)
    others[list(main)] = False
    others &= (cosines >= PART_COSINE) & (each > 0)
    absorbing = float(np.sort(each[others])[::-1][:MOST_ABSORBERS].sum())
    if own >= projection or absorbing < LEAST_SHARE * projection or projection <= 0:
        share = 0.0
    elif own <= 0:
        share = 1.0
    else:
        taken = min(absorbing, projection - own)
        share = min(1.0, max(0.0, taken / (taken + own)))
    top = int(np.argmax(each))
    wholly = (
        projection > 0
        and bool((codes[list(main)] < SILENT).all())
        and cosines[top] >= FULL_COSINE
        and each[top] / projection >= LEAST_SHARE
    )
    return share, bool(wholly)


def absorption(name: str, sae: AbstractSae, words: Words, *, cautions: Sequence[str] = ()) -> AbsorptionRecord:
    """How much of the first letters is absorbed in one SAE.

    For each letter that a probe of the stream tells (F1 above .6 on words it was not fitted on): its latents are the
    first k by the weight of an l1-regularised probe of all codes, k growing while the F1 of a probe on them rises by
    more than .03; the words asked are those of the letter that the stream's probe says right.

    Args:
        name: of the SAE.
        sae: explains the stream at `words`.
        words: what `read_words` gave.
        cautions: go into the record.

    Raises:
        ExpanderSaeError: fewer than twenty letters can be told from the stream.
    """
    fit, test = np.flatnonzero(words.training), np.flatnonzero(~words.training)
    features = latent_features(name, sae, words.x)
    rows = sparse.csr_matrix(features.values)
    x = words.x.double().numpy()
    columns = sae.dictionary().columns(torch.arange(sae.n_latents, device=sae.center().device))
    directions = columns.detach().double().cpu().numpy()
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    rates, shares, splits = {}, {}, {}
    for place, letter in enumerate(LETTERS):
        labels = words.letters == place
        if min(labels[fit].sum(), labels[test].sum()) == 0:
            continue
        probe = _balanced_probe(x[fit], labels[fit])
        right = probe.decision_function(x[test]) > 0
        if f1(right, labels[test]) <= LEAST_PROBE_F1:
            continue
        main = split_latents(features, labels, fit, test)
        unit = probe.coef_[0] / np.linalg.norm(probe.coef_[0])
        cosines = directions @ unit
        asked = test[labels[test] & right]
        found = [absorbed(float(x[row] @ unit), rows[row].toarray().ravel(), cosines, main) for row in asked]
        shares[letter] = float(np.mean([share for share, _ in found]))
        rates[letter] = float(np.mean([wholly for _, wholly in found]))
        splits[letter] = len(main)
    if len(rates) < LEAST_LETTERS:
        raise ExpanderSaeError(
            f"expected a model in whose stream at least {LEAST_LETTERS} first letters can be told (F1 above "
            f"{LEAST_PROBE_F1}); got {len(rates)}. Take a larger model, another layer or more --max-words."
        )
    return AbsorptionRecord(
        name=name,
        kind=sae.kind,
        reading=str(sae.reading),
        words=len(words.letters),
        letters=len(rates),
        absorption_fraction=float(np.mean(list(shares.values()))),
        full_absorption=float(np.mean(list(rates.values()))),
        split_latents=float(np.mean(list(splits.values()))),
        full_absorption_by_letter=rates,
        cautions=list(cautions),
    )


def split_latents(features: Features, labels: np.ndarray, fit: np.ndarray, test: np.ndarray) -> list[int]:
    """The latents of one class: those of an l1 probe of all, by falling weight, while each still raises F1."""
    every = regularised(sparse.csr_matrix(features.values)[fit], labels[fit], "l1", 1.0, class_weight="balanced")
    order = np.argsort(-every.coef_[0], kind="stable")[:MOST_SPLIT]
    columns = np.stack([features.column(int(f), np.arange(features.n_tokens)) for f in order], 1)
    kept, best = 0, -np.inf
    for count in range(1, len(order) + 1):
        probe = _balanced_probe(columns[fit, :count], labels[fit])
        quality = f1(probe.decision_function(columns[test, :count]) > 0, labels[test])
        if quality <= best + SPLIT_GAIN:
            break
        kept, best = count, quality
    return [int(latent) for latent in order[:kept]]


def _balanced_probe(x: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    return regularised(x, labels, "l2", 1.0, class_weight="balanced")
