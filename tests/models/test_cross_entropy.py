"""The summed loss: in pieces the same as at once, and never below fp32."""

from __future__ import annotations

import pytest
import torch

from trainer.data.base import IGNORE
from trainer.models import cross_entropy
from trainer.models.cross_entropy import projected_cross_entropy, summed_cross_entropy, widened_cross_entropy


@pytest.fixture
def case():
    torch.manual_seed(0)
    labels = torch.randint(0, 11, (3, 7))
    labels[1, 2:5] = IGNORE
    return torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True), torch.nn.Linear(5, 11, dtype=torch.float64), labels


def test_pieces_give_the_loss_and_gradients_of_the_whole(case, monkeypatch):
    hidden, head, labels = case
    whole = summed_cross_entropy(head(hidden), labels)
    gradients = torch.autograd.grad(whole, [hidden, head.weight, head.bias])
    calls = []
    head.register_forward_hook(lambda module, inputs, output: calls.append(tuple(output.shape)))
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", 50)
    pieces = projected_cross_entropy(head, hidden, labels)
    assert len(calls) > 1
    assert all(rows * vocab <= 55 for rows, vocab in calls)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad(pieces, [hidden, head.weight, head.bias]), gradients)


def test_logits_that_are_there_are_widened_piece_by_piece(case, monkeypatch):
    hidden, head, labels = case
    logits = head(hidden).detach().requires_grad_()
    whole = summed_cross_entropy(logits, labels)
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", 50)
    torch.testing.assert_close(widened_cross_entropy(logits, labels), whole)
    torch.testing.assert_close(torch.autograd.grad(widened_cross_entropy(logits, labels), logits), torch.autograd.grad(whole, logits))


def test_half_precision_logits_are_summed_in_fp32(case):
    hidden, head, labels = case
    logits = head(hidden).bfloat16()
    assert summed_cross_entropy(logits, labels).dtype is torch.float32
    torch.testing.assert_close(summed_cross_entropy(logits, labels), summed_cross_entropy(logits.float(), labels))


def test_a_batch_without_valid_labels_is_zero(case):
    hidden, head, labels = case
    loss = projected_cross_entropy(head, hidden, torch.full_like(labels, IGNORE))
    assert loss.item() == 0
    assert bool((torch.autograd.grad(loss, hidden)[0] == 0).all())
