"""Comprehensiveness and sufficiency of a rationale (DeYoung et al. 2020, ERASER, arXiv:1911.03429), on the margin."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainer.explain.case import Case
from trainer.explain.evidence.budget import RATIONALES
from trainer.explain.evidence.faithfulness import falling, share_beaten

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the tokens: ERASER's bins (section 4.2)


def measured(case: Case, values: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """What the margin loses without the first tokens, and with them alone, the mean over `SHARES`; and the share of random rationales that are worse."""
    units = len(case)
    counts = torch.tensor([max(1, math.ceil(share * units)) for share in SHARES])
    orders = [falling(values, generator), *(torch.randperm(units, generator=generator) for _ in range(RATIONALES))]
    alone = torch.stack([order.argsort() for order in orders]).unsqueeze(1) < counts.view(1, -1, 1)
    whole = case.all_present()
    found = case.value(torch.cat([~alone, alone]).flatten(0, 1)).view(2, len(orders), len(counts)).mean(2)
    comprehensiveness, sufficiency = whole - found[0], whole - found[1]
    return {
        "comprehensiveness": float(comprehensiveness[0]),
        "comprehensiveness_random": float(comprehensiveness[1:].mean()),
        "comprehensiveness_beaten": share_beaten(-float(comprehensiveness[0]), -comprehensiveness[1:]),
        "sufficiency": float(sufficiency[0]),
        "sufficiency_random": float(sufficiency[1:].mean()),
        "sufficiency_beaten": share_beaten(float(sufficiency[0]), sufficiency[1:]),
    }
