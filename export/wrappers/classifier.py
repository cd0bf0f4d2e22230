"""Wrapper for classifiers of torchvision and dlcv. Finds the last layers in the traced network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from dlcv.export.wrappers.base import Normalize, Unwrappable, Wrapper
from dlcv.export.wrappers.maps import class_activation_map
from dlcv.runtime.bundle.schema import Activation
from dlcv.train.attention.walk import relative_to_maximum

_PASSING_MODULES = (nn.Flatten, nn.Dropout, nn.Identity)
_PASSING_FUNCTIONS = (torch.flatten, torch.squeeze, F.dropout)
_PASSING_METHODS = ("flatten", "squeeze", "view", "reshape", "contiguous")


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """The nodes of a traced classifier that become outputs. features: None if they are not globally pooled."""

    logits: fx.Node
    embedding: fx.Node
    features: fx.Node | None
    linear: str | None


@final
class ClassifierWrapper(Wrapper):
    """Returns probabilities, embedding and, if the network ends in pooling and one linear layer, a map.

    The network is traced with `torch.fx`. The input of the last linear layer is `embedding`. If that is the
    mean of feature maps, `explanation` is the class activation map of the top class. A network that ends in a
    1x1 convolution and pooling (SqueezeNet) already has class maps.
    """

    def __init__(
        self, model: nn.Module, normalize: Normalize, activation: Activation = "softmax"
    ) -> None:
        super().__init__(normalize, activation)
        graph = _traced(model)
        ends = _linear_ends(graph, model) or _convolution_ends(graph, model)
        if ends is None:
            raise Unwrappable("no last linear layer was found in its graph")
        output = next(node for node in graph.nodes if node.op == "output")
        output.args = ((ends.logits, ends.embedding, ends.features),)
        self.traced = fx.GraphModule(model, graph)
        self._linear = ends.linear
        self._has_features = ends.features is not None
        self.output_names = ("probabilities", "embedding")
        if self._has_features:
            self.output_names += ("explanation",)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs. image: uint8 (B, H, W, C)."""
        logits, embedding, features = self.traced(self.normalize(image))
        probabilities = self.probabilities(logits)
        if not self._has_features:
            return probabilities, embedding
        if self._linear is None:
            top = logits.argmax(dim=1).reshape(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])
            explanation = relative_to_maximum(features.gather(1, top).squeeze(1).relu())
            return probabilities, embedding.mean(dim=(2, 3)), explanation
        weight: Any = self.traced.get_submodule(self._linear).weight
        return probabilities, embedding, class_activation_map(features, weight, logits)


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as e:  # tracing can raise anything from the model's code
        raise Unwrappable(f"torch.fx cannot trace it ({' '.join(str(e).split())})") from e


def _linear_ends(graph: fx.Graph, model: nn.Module) -> _Ends | None:
    linears = [node for node in graph.nodes if isinstance(_module(node, model), nn.Linear)]
    if not linears:
        return None
    logits, linear = _result(graph), linears[-1]
    embedding = linear.all_input_nodes[0]
    pooling = _before_passing(embedding, model)
    features = None
    if _before_passing(logits, model) is linear and _pools_globally(pooling, model):
        features = pooling.all_input_nodes[0]
    return _Ends(logits=logits, embedding=embedding, features=features, linear=str(linear.target))


def _convolution_ends(graph: fx.Graph, model: nn.Module) -> _Ends | None:
    logits = _result(graph)
    pooling = _before_passing(logits, model)
    if not _pools_globally(pooling, model):
        return None
    maps = pooling.all_input_nodes[0]
    convolution = maps
    if isinstance(_module(maps, model), nn.ReLU):
        convolution = maps.all_input_nodes[0]
    module = _module(convolution, model)
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1):
        return None
    seen = convolution.all_input_nodes[0]
    return _Ends(logits=logits, embedding=seen, features=maps, linear=None)


def _result(graph: fx.Graph) -> fx.Node:
    output = next(node for node in graph.nodes if node.op == "output")
    if not isinstance(output.args[0], fx.Node):
        raise Unwrappable("it does not return one tensor of logits")
    return output.args[0]


def _module(node: fx.Node, model: nn.Module) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _before_passing(node: fx.Node, model: nn.Module) -> fx.Node:
    """Walk back over nodes that only change a tensor's shape, or nothing."""
    while _passes(node, model):
        node = node.all_input_nodes[0]
    return node


def _passes(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_function":
        return node.target in _PASSING_FUNCTIONS
    if node.op == "call_method":
        return node.target in _PASSING_METHODS
    return isinstance(_module(node, model), _PASSING_MODULES)


def _pools_globally(node: fx.Node, model: nn.Module) -> bool:
    """Return whether a node takes the mean over height and width, for maps of any size."""
    module = _module(node, model)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if node.target is F.adaptive_avg_pool2d:
        return _argument(node, 1, "output_size") in (1, (1, 1), [1, 1])
    if node.target in ("mean", torch.mean):
        return _is_height_width(_argument(node, 1, "dim"))
    return False


def _is_height_width(dims: Any) -> bool:
    return isinstance(dims, (tuple, list)) and sorted(d % 4 for d in dims) == [2, 3]


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)
