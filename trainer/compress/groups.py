"""Which channels of a model can go, and what goes with each: Torch-Pruning's dependency graph, made without values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.base import Samples
from trainer.models.base import Model

OUT, IN = 0, 1
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
Plain = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)


@dataclass(frozen=True)
class Member:
    """Rows (OUT) or columns (IN) of a layer that belong to a group."""

    layer: str
    side: int
    rows: Tensor
    """(n,): which rows or columns."""
    units: Tensor
    """(n,): the unit of the group that each belongs to."""


@dataclass(frozen=True)
class Group:
    """Units that can each go alone: channels, hidden units, or heads."""

    name: str
    """Of the layer that gives them."""
    size: int
    members: tuple[Member, ...]
    heads: bool = False
    """Whether a unit is a head, of several rows."""

    def readers(self) -> list[Member]:
        """The layers that take these units as inputs."""
        return [member for member in self.members if member.side == IN]


@dataclass(frozen=True)
class Plan:
    """What a model is made of, for one sample."""

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Of the weights of each layer."""
    positions: Mapping[str, float]
    """How often each layer's weights are applied in a pass over one sample."""


@torch.enable_grad()
def plan(model: Model, samples: Samples, may_give: Callable[[str], bool]) -> Plan:
    """The groups of `model` whose givers all are layers that `may_give` units."""
    import torch_pruning

    with torch.device("meta"):
        module = model.build(samples.spec)
    module.eval()
    batch = {key: value.to("meta") for key, value in samples.batch([0]).items()}
    names = {sub: name for name, sub in module.named_modules()}
    counted, handles = _counted(module, names)
    model.outputs(module, batch)
    for handle in handles:
        handle.remove()
    attentions = {name: sub for sub, name in names.items() if _is_attention(sub)}
    for sub in attentions.values():
        sub.forward = partial(_untangled, sub, sub.forward)  # type: ignore[method-assign]
    graph = torch_pruning.DependencyGraph().build_dependency(
        module, example_inputs=batch, forward_fn=lambda module, _: model.outputs(module, batch), verbose=False
    )
    heads = [_heads(name, sub) for name, sub in attentions.items()]
    taken = {(member.layer, member.side) for group in heads for member in group.members}
    groups = []
    for found in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        group = _group(graph, found, names)
        if group is not None and not taken & {(member.layer, member.side) for member in group.members}:
            groups.append(group)
    shapes = {name: tuple(sub.weight.shape) for sub, name in names.items() if isinstance(sub, Plain)}

    def may_go(group: Group) -> bool:
        givers = [member.layer for member in group.members if member.side == OUT and len(shapes[member.layer]) > 1]  # normalisations pass on
        return group.size > 1 and bool(group.readers()) and all(map(may_give, givers))

    chosen = tuple(group for group in (*groups, *heads) if may_go(group))
    return Plan(chosen, shapes, counted)


def _group(graph: Any, found: Any, names: Mapping[nn.Module, str]) -> Group | None:
    """None: something belongs to it that is not understood here, or it is what the model gives."""
    from torch_pruning import ops

    members = []
    for item in found:
        layer, handler = item.dep.target.module, item.dep.handler
        if isinstance(layer, (ops._OutputOp, nn.Parameter)):
            return None
        if layer not in names:
            continue  # an operation without parameters
        if not isinstance(layer, Plain) or (isinstance(layer, nn.Conv2d) and layer.groups != 1):
            return None
        side = OUT if isinstance(layer, nn.BatchNorm2d) or graph.is_out_channel_pruning_fn(handler) else IN
        members.append(Member(names[layer], side, torch.tensor(item.idxs), torch.tensor(item.root_idxs)))
    root = found[0]
    return Group(names[root.dep.target.module], len(root.idxs), tuple(members))


def _is_attention(module: nn.Module) -> bool:
    """With projections of the names that Llama has, and as many heads as they give."""
    projections = [getattr(module, key, None) for key in ATTENTION]
    return isinstance(getattr(module, "head_dim", None), int) and all(isinstance(each, nn.Linear) and each.bias is None for each in projections)


def _untangled(attention: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What comes in and what goes out, without what happens to heads between: `_heads` knows that, and the graph could not follow it."""
    with torch.no_grad():
        given = forward(*args, **kwargs)
    x = args[0] if args else kwargs["hidden_states"]
    out = attention.o_proj(attention.q_proj(x))
    return (out, *given[1:]) if isinstance(given, tuple) else out


def _heads(name: str, attention: Any) -> Group:
    """A head of keys and values goes with all heads of queries that it answers."""
    size, queries, keys = attention.head_dim, attention.q_proj.out_features, attention.k_proj.out_features
    grouped = queries // keys
    one, many = torch.arange(keys), torch.arange(queries)
    members = [Member(f"{name}.{key}", OUT, one, one // size) for key in ("k_proj", "v_proj")]
    members.append(Member(f"{name}.q_proj", OUT, many, many // (size * grouped)))
    members.append(Member(f"{name}.o_proj", IN, many, many // (size * grouped)))
    return Group(f"{name}.k_proj", keys // size, tuple(members), heads=True)


def _counted(module: nn.Module, names: Mapping[nn.Module, str]) -> tuple[dict[str, float], list[Any]]:
    counted: dict[str, float] = {}

    def hook(layer: nn.Module, _: Any, output: Tensor) -> None:
        outputs = output.shape[1] if isinstance(layer, nn.Conv2d) else output.shape[-1]
        counted[names[layer]] = counted.get(names[layer], 0) + output.numel() / outputs

    return counted, [sub.register_forward_hook(hook) for sub in module.modules() if isinstance(sub, (nn.Conv2d, nn.Linear))]
