"""A trained network as an ONNX graph, written node by node.

Shapes: B names of a batch, L letters of the longest, S symbols, E size of a letter's vector,
H hidden size, D directions, F features of a name, C categories.
"""

import json
from typing import Any, cast

import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from src.errors import UserError
from src.inference.trained_model import TrainedModel
from src.models.recurrent import RecurrentNetwork, TutorialNetwork

OPSET = 17
"""ONNX's operators as of 2022, so that older runtimes read it, too."""
GATES = {"RNN_TANH": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}
"""Where among PyTorch's gates each of ONNX's stands."""


def to_onnx(model: TrainedModel) -> bytes:
    """Return a file's content: letters [B, L] and lengths [B] → probabilities [B, C].

    The probabilities are those under the model's prior. The metadata are `model.metadata()`, each
    value as JSON.

    Raises:
        UserError: if n-grams stand beside the network.
    """
    if model.network.ngrams:
        why = "ONNX has no operator that looks up n-grams in the tables beside the network"
        raise UserError(f"{model.path}: --onnx: {why}; train with ngrams=0")
    graph, recurrent = _Graph(), cast("Any", model.network.recurrent)
    build = _tutorial if isinstance(recurrent, TutorialNetwork) else _recurrent
    scores = graph.add("Mul", build(graph, recurrent), torch.tensor(model.score_scale))
    scores = graph.add("Add", scores, torch.tensor(model.score_offsets[model.prior_label]))
    graph.add("Softmax", scores, name="probabilities", axis=1)
    about = "each letter's place in symbols; behind the end of a name that of any"
    value = helper.make_tensor_value_info
    letters = value("letters", TensorProto.INT64, ["B", "L"], about)
    lengths = value("lengths", TensorProto.INT64, ["B"], "from 1 to L")
    answer = value("probabilities", TensorProto.FLOAT, ["B", len(model.categories)])
    whole = helper.make_graph(graph.nodes, "names", [letters, lengths], [answer], graph.tensors)
    file = helper.make_model_gen_version(whole, opset_imports=[helper.make_opsetid("", OPSET)])
    values = {k: json.dumps(v, ensure_ascii=False) for k, v in model.metadata().items()}
    helper.set_model_props(file, values)
    return bytes(file.SerializeToString())


class _Graph:
    """Nodes, and the tensors that they hold."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(
        self, kind: str, *inputs: str | Tensor, name: str = "", output: int = 0, **how: Any
    ) -> str:
        """Add a node of an operator; return the name of the one output that is used."""
        name = name or f"{kind}_{len(self.nodes)}"
        names = [each if isinstance(each, str) else self._hold(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, names, [""] * output + [name], name, **how))
        return name

    def _hold(self, tensor: Tensor) -> str:
        name = f"tensor_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        return name


def _tutorial(graph: _Graph, network: TutorialNetwork) -> str:
    """Return the scores [B, C] of the hand-written cell.

    Without a nonlinearity, its two layers are one of ONNX's: H + C units that read H of them.
    """
    rnn, size = network.rnn, network.rnn.hidden_size
    both = torch.cat([rnn.i2h.weight, rnn.i2o.weight])  # [H + C, S + H]
    of_letter, of_hidden = torch.split(both, [both.shape[1] - size, size], dim=1)
    units, biases = len(both), torch.cat([rnn.i2h.bias, rnn.i2o.bias])
    letters = graph.add("Gather", of_letter.T + biases, graph.add("Transpose", "letters"))
    lengths = graph.add("Cast", "lengths", to=TensorProto.INT32)
    of_hidden = F.pad(of_hidden, (0, units - size))  # [H + C, H + C]
    identity: dict[str, Any] = {"activations": ["LeakyRelu"], "activation_alpha": [1.0]}
    read = letters, torch.eye(units)[None], of_hidden[None], "", lengths
    states = graph.add("RNN", *read, output=1, hidden_size=units, **identity)  # [1, B, H + C]
    states = graph.add("Squeeze", states, torch.tensor([0]))
    return graph.add("Gather", states, torch.arange(size, units), axis=1)


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
    vectors = network.input_vectors()
    states = graph.add("Gather", vectors, graph.add("Transpose", "letters"))  # [L, B, E]
    for layer in range(rnn.num_layers):
        parts = (f"{part}_l{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        w, r, *biases = map(weights, parts)
        last = layer == rnn.num_layers - 1 and not pools  # then only the last states are used
        read = states, w, r, torch.cat(biases, dim=1), lengths
        states = graph.add(kind, *read, output=int(last), **how)  # [L, D, B, H], or [D, B, H]
        states = graph.add("Transpose", states, perm=[1, 0, 2] if last else [0, 2, 1, 3])
        states = graph.add("Reshape", states, torch.tensor([0, -1] if last else [0, 0, -1]))
    if pools:
        states = _pooled(graph, states)
    return graph.add("Gemm", states, network.output.weight, network.output.bias, transB=1)


def _pooled(graph: _Graph, states: str) -> str:
    """Return the highest and the mean of each name's states [L, B, D · H]: [B, F]."""
    n_letters = graph.add("Gather", graph.add("Shape", "letters"), torch.tensor(1))
    steps = graph.add("Range", torch.tensor(0), n_letters, torch.tensor(1))  # [L]
    on = graph.add("Less", graph.add("Unsqueeze", steps, torch.tensor([1])), "lengths")  # [L, B]
    on = graph.add("Unsqueeze", on, torch.tensor([2]))
    highest = graph.add("Where", on, states, torch.tensor(-torch.inf))
    highest = graph.add("ReduceMax", highest, axes=[0], keepdims=0)
    mean = graph.add("Where", on, states, torch.tensor(0.0))
    mean = graph.add("ReduceSum", mean, torch.tensor([0]), keepdims=0)
    n = graph.add("Cast", "lengths", to=TensorProto.FLOAT)
    mean = graph.add("Div", mean, graph.add("Unsqueeze", n, torch.tensor([1])))
    return graph.add("Concat", highest, mean, axis=1)
