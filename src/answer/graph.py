"""A trained network as an ONNX graph, written node by node.

Shapes: B names of a batch, L letters of the longest, S symbols, E size of a letter's vector,
H hidden size, D directions, F features of a name, C categories.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from src.answer.model import TrainedModel
from src.errors import UserError
from src.models.networks import RecurrentNetwork, TutorialNetwork

OPSET = 17
"""ONNX's operators as of 2022, so that older runtimes read it, too."""
GATES = {"RNN_TANH": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}
"""Where among PyTorch's gates each of ONNX's stands."""


def to_onnx(model: TrainedModel) -> bytes:
    """Return a file's content: letters [B, L] and lengths [B] → probabilities [B, C].

    The probabilities are those under the model's prior. The metadata are `model.described()`, each
    value as JSON.

    Raises:
        UserError: if n-grams stand beside the network.
    """
    if model.network.ngrams:
        why = "ONNX has no operator that looks up n-grams in the tables beside the network"
        raise UserError(f"{model.path}: --onnx: {why}; train with ngrams=0")
    graph, recurrent = _Graph(), model.network.recurrent
    if isinstance(recurrent, TutorialNetwork):
        scores = _tutorial(graph, recurrent)
    else:
        assert isinstance(recurrent, RecurrentNetwork)
        scores = _recurrent(graph, recurrent)
    scores = graph.add("Mul", scores, torch.tensor(model.sharpness))
    scores = graph.add("Add", scores, torch.tensor(model.offsets[model.prior]))
    graph.add("Softmax", scores, name="probabilities", axis=1)
    about = "each letter's place in symbols; behind the end of a name that of any"
    letters = _value("letters", "B", "L", kind=TensorProto.INT64, about=about)
    lengths = _value("lengths", "B", kind=TensorProto.INT64, about="from 1 to L")
    closed = graph.close([letters, lengths], _value("probabilities", "B", len(model.categories)))
    operators = [helper.make_opsetid("", OPSET)]
    file = helper.make_model_gen_version(closed, opset_imports=operators)
    values = {k: json.dumps(value, ensure_ascii=False) for k, value in model.described().items()}
    helper.set_model_props(file, values)
    return bytes(file.SerializeToString())


class _Graph:
    """Nodes, and the tensors that they hold.

    Args:
        name: how the names in it begin.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(
        self, kind: str, *inputs: str | Tensor, name: str = "", output: int = 0, **how: Any
    ) -> str:
        """Add a node of an operator; return the name of the one output that is used."""
        name = name or f"{self.name}{kind}_{len(self.nodes)}"
        names = [each if isinstance(each, str) else self._hold(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, names, [""] * output + [name], name, **how))
        return name

    def _hold(self, tensor: Tensor) -> str:
        name = f"{self.name}tensor_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        return name

    def close(self, inputs: Sequence[Any], output: Any) -> Any:
        """Return it as a graph with inputs and one output."""
        return helper.make_graph(self.nodes, f"{self.name}names", inputs, [output], self.tensors)


def _value(name: str, *shape: str | int, kind: int = TensorProto.FLOAT, about: str = "") -> Any:
    """Return what describes an input or output."""
    return helper.make_tensor_value_info(name, kind, shape, about)


def _before(graph: _Graph, ends: str) -> str:
    """Return whether each letter stands before a place of its name [B], as bool [L, B, 1]."""
    n_letters = graph.add("Gather", graph.add("Shape", "letters"), torch.tensor(1))
    steps = graph.add("Range", torch.tensor(0), n_letters, torch.tensor(1))  # [L]
    before = graph.add("Less", graph.add("Unsqueeze", steps, torch.tensor([1])), ends)  # [L, B]
    return graph.add("Unsqueeze", before, torch.tensor([2]))


def _tutorial(graph: _Graph, network: TutorialNetwork) -> str:
    """Return the scores [B, C] of the hand-written cell, by the sums of `read_names`."""
    rnn, size = network.rnn, network.rnn.hidden_size

    def parts(layer: nn.Linear) -> tuple[Tensor, Tensor]:
        of_letter, of_hidden = torch.split(layer.weight.T, [layer.in_features - size, size])
        return of_letter + layer.bias, of_hidden.contiguous()

    letter_to_hidden, hidden_to_hidden = parts(rnn.i2h)  # [S, H], [H, H]
    letter_to_output, hidden_to_output = parts(rnn.i2o)  # [S, C], [H, C]
    step = _Graph("step_")  # what the loop does at each letter
    moved = step.add("Gemm", "step_hidden", hidden_to_hidden, "step_letter")
    step.add("Where", "step_on", moved, "step_hidden", name="step_next")
    read = _value("step_hidden", "B", size), _value("step_letter", "B", size)
    on = _value("step_on", "B", 1, kind=TensorProto.BOOL)
    body = step.close([*read, on], _value("step_next", "B", size))
    last = graph.add("Sub", "lengths", torch.tensor(1))  # [B]
    shape = graph.add("Concat", graph.add("Shape", "lengths"), torch.tensor([size]), axis=0)
    vectors = graph.add("Gather", letter_to_hidden, graph.add("Transpose", "letters"))  # [L, B, H]
    none, on = graph.add("ConstantOfShape", shape), _before(graph, last)
    hidden = graph.add("Scan", none, vectors, on, body=body, num_scan_inputs=2)  # [B, H]
    letters = graph.add("Unsqueeze", last, torch.tensor([1]))
    letters = graph.add("GatherElements", "letters", letters, axis=1)  # [B, 1], the last ones
    letters = graph.add("Squeeze", letters, torch.tensor([1]))
    return graph.add(
        "Gemm", hidden, hidden_to_output, graph.add("Gather", letter_to_output, letters)
    )


def _recurrent(graph: _Graph, network: RecurrentNetwork) -> str:
    """Return the scores [B, C] of PyTorch's layers; ONNX has them, too."""
    rnn, pools = network.rnn, network.pooling == "all"

    def weights(kind: str) -> Tensor:
        """Return a layer's weights or biases, both directions' [D, gates · H, …]."""
        places, ways = GATES[rnn.mode], ("", "_reverse")[: 1 + rnn.bidirectional]
        gates = (getattr(rnn, kind + way).chunk(len(places)) for way in ways)
        return torch.stack([torch.cat([way[place] for place in places]) for way in gates])

    how: dict[str, Any] = {"hidden_size": rnn.hidden_size}
    how["direction"] = "bidirectional" if rnn.bidirectional else "forward"
    if rnn.mode == "GRU":
        how["linear_before_reset"] = 1  # the reset gate is multiplied to W h + b, not to h
    kind, lengths = rnn.mode.partition("_")[0], graph.add("Cast", "lengths", to=TensorProto.INT32)
    states = graph.add("Gather", network.vectors(), graph.add("Transpose", "letters"))  # [L, B, E]
    for layer in range(rnn.num_layers):
        parts = (f"{part}_l{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        w, r, *biases = map(weights, parts)
        last = layer == rnn.num_layers - 1 and not pools  # then only the last states are used
        read = states, w, r, torch.cat(biases, dim=1), lengths
        states = graph.add(kind, *read, output=int(last), **how)  # [L, D, B, H], or [D, B, H]
        states = graph.add("Transpose", states, perm=[1, 0, 2] if last else [0, 2, 1, 3])
        states = graph.add("Reshape", states, torch.tensor([0, -1] if last else [0, 0, -1]))
    if pools:
        on = _before(graph, "lengths")
        highest = graph.add("Where", on, states, torch.tensor(-torch.inf))
        highest = graph.add("ReduceMax", highest, axes=[0], keepdims=0)
        mean = graph.add("Where", on, states, torch.tensor(0.0))
        mean = graph.add("ReduceSum", mean, torch.tensor([0]), keepdims=0)
        n = graph.add("Cast", "lengths", to=TensorProto.FLOAT)
        mean = graph.add("Div", mean, graph.add("Unsqueeze", n, torch.tensor([1])))
        states = graph.add("Concat", highest, mean, axis=1)  # [B, F]
    return graph.add("Gemm", states, network.output.weight, network.output.bias, transB=1)
