"""Texts as cases: a unit is a word, and what is decided is the token that comes next, or the class of the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.base import IGNORE, Sample, Samples
from trainer.errors import ConfigError
from trainer.explain.calls import calls
from trainer.explain.case import Case, in_chunks, log_odds
from trainer.explain.decisions import Decisions

LOGITS = 2**24  # in one pass: a large vocabulary makes them far more than the embeddings that go in


@dataclass(frozen=True)
class TextDecisions(Decisions):
    """Decisions on a text of which the last `tokens` are seen. Inputs are the embeddings of the tokens, (length, dim).

    An absent token has the mean embedding of the background's tokens: what is there when nothing is known of it. Zero would be no
    such thing: it lies where the first normalisation is singular, and gradients along a path from there cannot be summed in few steps.
    """

    tokens: int = 64
    """Of a sample that the model sees: the last ones before the token that it predicts; of a text with one label the first."""

    def case(self, index: int, module: nn.Module | None = None) -> Case:
        ids = self._context(index)[0]
        with torch.no_grad():
            chosen = self.chosen(self._outputs(self.module, ids)[0])
        decider = self.module if module is None else module
        layer = embedding_layer(partial(self._outputs, decider, ids), decider, ids)
        units, unit_of = words(self.samples, ids[0].tolist())
        with torch.no_grad():
            inputs = layer(ids)[0].to(torch.float32)
            background = self._mean_embedding(layer).expand(1, *inputs.shape)
        return Case(
            margin=partial(in_chunks, partial(self._margin, decider, layer, ids, chosen), LOGITS // self._logits(ids)),
            inputs=inputs,
            background=background,
            unit_of=torch.tensor(unit_of, device=ids.device)[:, None].expand(inputs.shape),
            units=units,
            seed=index,
            module=decider,
        )

    def shown(self, index: int) -> dict[str, Any]:
        """`words`, whether it is a token that `continues` them or a class that is `explained`, the one `predicted` with its `probability`, and the `truth`."""
        ids, truth = self._context(index)
        with torch.no_grad():
            outputs = self._outputs(self.module, ids)[0]
        best = int(outputs.argmax())
        return {
            "words": list(words(self.samples, ids[0].tolist())[0]),
            "continues": not self._has_classes(),
            "explained": self._named(self.chosen(outputs)),
            "predicted": self._named(best),
            "probability": float(outputs.to(torch.float64).softmax(-1)[best]),
            "truth": self._named(truth),
        }

    def describe(self) -> str:
        """What is explained, in a sentence's words."""
        if self._has_classes():
            return super().describe()
        return "log-odds of the next token that the model predicts" if self.output is None else f"log-odds of the next token {self._named(self.output)}"

    def _context(self, index: int) -> tuple[Tensor, int]:
        """(1, length) ids that the model sees of sample `index`, on its device, and the label.

        Raises:
            ConfigError: there is no token to predict from.
        """
        sample = self.samples[index]
        ids, truth = context(sample, self.tokens)
        if not ids:
            raise ConfigError(
                f"explain: sample {index} of the evaluation split has no token that the model could predict the next from; data.packing=true joins short texts"
            )
        return torch.tensor([ids], device=self.device()), truth

    def _outputs(self, module: nn.Module, ids: Tensor) -> Tensor:
        """(n, classes): of (n, length) ids, or of what `_margin` puts in their places."""
        outputs = self.model.outputs(module, {"input_ids": ids})
        return outputs if outputs.ndim == 2 else outputs[:, -1]

    def _logits(self, ids: Tensor) -> int:
        """How many a forward pass makes of (1, length) ids."""
        spec = self.samples.spec
        return int(spec["classes"]) if self._has_classes() else ids.shape[1] * int(spec["vocab_size"])

    def _margin(self, module: nn.Module, layer: nn.Module, ids: Tensor, chosen: int, embeddings: Tensor) -> Tensor:
        def instead(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            return embeddings.to(output.dtype)

        handle = layer.register_forward_hook(instead)
        try:
            return log_odds(self._outputs(module, ids.expand(len(embeddings), -1)), chosen)
        finally:
            handle.remove()

    def _mean_embedding(self, layer: nn.Module) -> Tensor:
        """(dim,)"""
        ids, shares = self._background_tokens
        return shares @ layer(ids[None])[0].to(torch.float32)

    @cached_property
    def _background_tokens(self) -> tuple[Tensor, Tensor]:
        """(tokens,): those that the background has, and the share that each is of it."""
        found = [context(self.background[number], self.samples.spec["seq_len"])[0] for number in range(len(self.background))]
        ids, counts = torch.tensor([one for each in found for one in each]).unique(return_counts=True)
        return ids.to(self.device()), (counts / counts.sum()).to(self.device())

    def _has_classes(self) -> bool:
        return "classes" in self.samples.spec

    def _named(self, number: int) -> str:
        if self._has_classes():
            names = self.samples.describe().get("class_names")
            return str(names[number] if names else number)
        return named(self.samples, number)


def context(sample: Sample, most: int) -> tuple[list[int], int]:
    """Of `sample` at most `most` ids that a label is predicted from, and the label: the last that counts. No ids where none does.

    Only those of the label's document: it is predicted from no others. A text with one label for all of it is cut at its end.
    """
    ids, labels = sample["input_ids"], sample["labels"]
    if labels.ndim == 0:
        return ids[:most].tolist(), int(labels)
    counted = (labels != IGNORE).nonzero()[0]
    if not len(counted):
        return [], IGNORE
    last = int(counted[-1])
    first = max(0, last + 1 - most)
    if "document_ids" in sample:
        documents = sample["document_ids"]
        first = max(first, int((documents == documents[last]).nonzero()[0][0]))
    return ids[first : last + 1].tolist(), int(labels[last])


def embedding_layer(forward: Callable[[], object], module: nn.Module, ids: Tensor) -> nn.Module:
    """The layer of `module` that `forward()` gives `ids` to, and that makes (n, length, dim) of them.

    Found by running it, so that it needs no name: models of transformers, tied ones and compressed ones have it too.

    Raises:
        ConfigError: there is none, or several, which could not all be replaced by one.
    """
    leaves = [(name, layer) for name, layer in module.named_modules() if not any(True for _ in layer.children())]
    found = {
        call.name: call.layer
        for call in calls(leaves, forward)
        if any(isinstance(value, Tensor) and value.shape == ids.shape and torch.equal(value, ids) for value in call.given)
        and (call.output.is_floating_point() and call.output.ndim == 3 and call.output.shape[:2] == ids.shape)
    }
    if len(found) != 1:
        told = f"has several ({', '.join(found)})" if found else "has none"
        raise ConfigError(
            f"explain: a text is explained through the one layer that makes embeddings of its tokens, and {type(module).__name__} {told}; "
            "it needs a submodule that is called with the token ids and gives (batch, length, dim)"
        )
    return next(iter(found.values()))


def words(samples: Samples, ids: Sequence[int]) -> tuple[tuple[str, ...], list[int]]:
    """The words that `ids` are, each with the white space before it, and for each id the number of its own.

    Ids that make no text, such as an end of document, stand alone; so does every id where the text has no white space to cut it at.
    """
    pieces = _pieces(samples, ids)
    if pieces is None:
        return tuple(str(one) for one in ids), list(range(len(ids)))
    owner = _joined(pieces, lambda before, piece: piece[:1].isspace() and not before[-1:].isspace())
    if owner[-1] == 0:
        owner = _joined(pieces, lambda before, piece: True)
    texts = [""] * (owner[-1] + 1)
    for number, piece, one in zip(owner, pieces, ids, strict=True):
        texts[number] += named(samples, one) if piece is None else piece
    return tuple(texts), owner


def named(samples: Samples, token: int) -> str:
    """The text of `token`, or its number where it has none."""
    return samples.decode([token]) or f"<{token}>"


def _joined(pieces: Sequence[str | None], begins: Callable[[str, str], bool]) -> list[int]:
    """For each piece the number of its unit. An empty piece is part of a character that the next one goes on with."""
    owner: list[int] = []
    before: str | None = None
    open_character = False
    for piece in pieces:
        new = not owner or piece is None or before is None or (not open_character and begins(before, piece))
        owner.append((owner[-1] if owner else -1) + new)
        open_character = piece == ""
        before = piece if piece is None or new or before is None else before + piece
    return owner


def _pieces(samples: Samples, ids: Sequence[int]) -> list[str | None] | None:
    """What each id adds to the text; "": part of a character that is not whole yet; None: it is no text. None of all: samples are no text.

    By decoding ever more of them: a tokenizer's decoder may treat the first id apart, and a character may take several.
    """
    whole = samples.decode(ids)
    if whole is None:
        return None
    pieces: list[str | None] = []
    end = 0
    for number, one in enumerate(ids, 1):
        so_far = samples.decode(ids[:number]) or ""
        if not samples.decode([one, one]):  # twice: a space that begins a text may be left out
            pieces.append(None)
            continue
        until = so_far if number == len(ids) else so_far.rstrip("\N{REPLACEMENT CHARACTER}")
        if len(until) > end and whole.startswith(until):
            pieces.append(whole[end : len(until)])
            end = len(until)
        else:
            pieces.append("")
    return pieces
