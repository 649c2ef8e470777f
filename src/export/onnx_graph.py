"""Exports a trained network as an ONNX graph, which is built node by node.

`torch.onnx` is not used because its graphs only work for names of one length. The recurrent
operators of ONNX take the length of each name instead.

Shapes: B names in a batch, L letters in the longest name, S symbols in the alphabet, E size of a
letter vector, H hidden size, D directions, G gates of the cell, C categories.
"""

import json
from typing import Any

import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from src.errors import UserError
from src.inference.trained_model import TrainedModel
from src.models.recurrent import RecurrentNetwork, TutorialNetwork

OPSET_VERSION = 17
"""Version of the operators. It dates from 2022, so that older runtimes can read the graph."""
OPERATORS = {"RNN_TANH": "RNN", "GRU": "GRU", "LSTM": "LSTM"}
"""ONNX operator for each `mode` of PyTorch's recurrent layers."""
GATE_ORDERS = {"RNN_TANH": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}
"""Order of the gates: gate number i of ONNX is gate number `GATE_ORDERS[mode][i]` of PyTorch. The
gates of a GRU are r z n in PyTorch and z r n in ONNX, and those of an LSTM i f g o and i o f g."""


def export_onnx(model: TrainedModel) -> bytes:
    """Return the content of an ONNX file that computes the probabilities of a model.

    The inputs of the graph are `letters` [B, L] and `lengths` [B], both int64. Its output is
    `probabilities` [B, C] under the prior of the model. The metadata of the file are the entries of
    `model.metadata()`, each as JSON.

    Raises:
        UserError: if the model contains n-gram models.
    """
    network = model.network
    recurrent: Any = network.recurrent
    if network.ngrams:
        raise UserError(
            f"{model.path}: --onnx: n-gram models cannot be exported to ONNX; train with ngrams=0"
        )
    graph = GraphBuilder()
    if isinstance(recurrent, TutorialNetwork):
        scores = add_tutorial_network(graph, recurrent)
    else:
        scores = add_recurrent_network(graph, recurrent)
    add_calibration(graph, scores, model)
    file = build_onnx_model(graph, n_categories=len(model.categories))
    metadata = {}
    for name, value in model.metadata().items():
        metadata[name] = json.dumps(value, ensure_ascii=False)
    helper.set_model_props(file, metadata)
    return bytes(file.SerializeToString())


class GraphBuilder:
    """Collects the nodes and the constant tensors of a graph.

    A value of the graph is represented by its name: an input of the graph or the output of a node.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(
        self,
        operator: str,
        *inputs: str | Tensor,
        output: str = "",
        output_index: int = 0,
        **attributes: Any,
    ) -> str:
        """Add a node, and return the name of the one output that is used.

        Args:
            operator: the name of an ONNX operator.
            inputs: names of values, or tensors that become constants of the graph. An empty name
                leaves out an optional input.
            output: the name of the output; by default the operator and a number.
            output_index: which output of the operator is used.
            attributes: the attributes of the operator.
        """
        output = output or f"{operator}_{len(self.nodes)}"
        input_names = []
        for value in inputs:
            if isinstance(value, Tensor):
                input_names.append(self._add_constant(value))
            else:
                input_names.append(value)
        # ONNX identifies an output by its position. The outputs before it remain unnamed, so they
        # are not computed.
        output_names = [""] * output_index
        output_names.append(output)
        node = helper.make_node(operator, input_names, output_names, name=output, **attributes)
        self.nodes.append(node)
        return output

    def _add_constant(self, tensor: Tensor) -> str:
        name = f"tensor_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        return name


def build_onnx_model(graph: GraphBuilder, n_categories: int) -> ModelProto:
    """Return an ONNX model of a complete graph, without metadata."""
    letters = helper.make_tensor_value_info(
        "letters",
        TensorProto.INT64,
        shape=["B", "L"],
        doc_string="index of each letter in symbols; the padding may be any valid index",
    )
    lengths = helper.make_tensor_value_info(
        "lengths", TensorProto.INT64, shape=["B"], doc_string="from 1 to L"
    )
    probabilities = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, shape=["B", n_categories]
    )
    graph_proto = helper.make_graph(
        nodes=graph.nodes,
        name="names",
        inputs=[letters, lengths],
        outputs=[probabilities],
        initializer=graph.constants,
    )
    opset = helper.make_opsetid("", OPSET_VERSION)
    # This helper chooses the oldest version of the file format that has these operators.
    return helper.make_model_gen_version(graph_proto, opset_imports=[opset])


def add_calibration(graph: GraphBuilder, scores: str, model: TrainedModel) -> None:
    """Add the nodes that turn the scores of a network into the graph's output.

    The formula is probabilities = softmax(scale · scores + offsets of the prior); see
    `TrainedModel` for the scale and the offsets.
    """
    scaled = graph.add("Mul", scores, torch.tensor(model.score_scale))
    offsets = torch.tensor(model.score_offsets[model.prior_label])  # [C]
    shifted = graph.add("Add", scaled, offsets)
    graph.add("Softmax", shifted, output="probabilities", axis=1)


def add_letter_lookup(graph: GraphBuilder, vectors: Tensor) -> str:
    """Add the look-up of the letters in a table [S, E], and return the vectors [L, B, E]."""
    # The recurrent operators of ONNX read time steps first.
    letters_by_step = graph.add("Transpose", "letters")  # [L, B]
    return graph.add("Gather", vectors, letters_by_step)


def add_int32_lengths(graph: GraphBuilder) -> str:
    """Add the lengths of the names in the type that recurrent operators take, int32 [B]."""
    return graph.add("Cast", "lengths", to=TensorProto.INT32)


def add_tutorial_network(graph: GraphBuilder, network: TutorialNetwork) -> str:
    """Add the hand-written cell, and return its scores [B, C].

    The cell has two linear layers, which read the letter x and the previous hidden state h:

        h_t = i2h(x_t, h_{t-1})
        o_t = i2o(x_t, h_{t-1})

    Neither has a nonlinearity. They are therefore one ONNX layer with H + C units and the state
    (h_t, o_t). With the weights W of i2h and U of i2o, it computes

        (h_t, o_t) = [W_x; U_x] x_t + [W_h, 0; U_h, 0] (h_{t-1}, o_{t-1}) + bias

    where the zeros are the weights that would read o_{t-1}.
    """
    rnn = network.rnn
    hidden = rnn.hidden_size
    weight = torch.cat([rnn.i2h.weight, rnn.i2o.weight])  # [H + C, S + H]
    bias = torch.cat([rnn.i2h.bias, rnn.i2o.bias])  # [H + C]
    n_units = len(weight)  # H + C
    n_symbols = weight.shape[1] - hidden  # S
    letter_weight, hidden_weight = torch.split(weight, [n_symbols, hidden], dim=1)
    state_weight = F.pad(hidden_weight, (0, n_units - hidden))  # [H + C, H + C], zeros for o

    # A one-hot letter times a weight is a column of the weight. Looking up the columns, with the
    # bias added, replaces this product, so the input weight of the layer is the identity.
    vectors = add_letter_lookup(graph, letter_weight.T + bias)  # [L, B, H + C]
    lengths = add_int32_lengths(graph)
    # ONNX has no identity among its activations; LeakyRelu with a slope of 1 is one.
    last_state = graph.add(
        "RNN",
        vectors,
        torch.eye(n_units).unsqueeze(0),  # input weights [1, H + C, H + C]
        state_weight.unsqueeze(0),  # recurrent weights [1, H + C, H + C]
        "",  # no bias
        lengths,
        output_index=1,
        hidden_size=n_units,
        activations=["LeakyRelu"],
        activation_alpha=[1.0],
    )  # [1, B, H + C]
    first_axis = torch.tensor([0])  # unlike Gather, Squeeze takes its axes as an input
    last_state = graph.add("Squeeze", last_state, first_axis)  # [B, H + C]
    output_units = torch.arange(hidden, n_units)  # [C]
    return graph.add("Gather", last_state, output_units, axis=1)


def add_recurrent_network(graph: GraphBuilder, network: RecurrentNetwork) -> str:
    """Add PyTorch's recurrent layers and the linear layer, and return the scores [B, C]."""
    rnn = network.rnn
    lengths = add_int32_lengths(graph)
    states = add_letter_lookup(graph, network.sum_input_vectors())  # [L, B, E]
    last_layer = rnn.num_layers - 1
    for layer in range(last_layer):
        states = add_layer_with_all_states(graph, rnn, layer, states, lengths)  # [L, B, D · H]
    if network.pooling == "all":
        states = add_layer_with_all_states(graph, rnn, last_layer, states, lengths)
        features = add_max_and_mean_pooling(graph, states)  # [B, 2 · D · H]
    else:
        features = add_layer_with_last_states(graph, rnn, last_layer, states, lengths)  # [B, D · H]
    # Gemm computes features · weightᵀ + bias. Unlike the network, it returns logits: the missing
    # log_softmax would not change the softmax at the end of the graph.
    return graph.add("Gemm", features, network.output.weight, network.output.bias, transB=1)


def add_layer_with_all_states(
    graph: GraphBuilder, rnn: nn.RNNBase, layer: int, inputs: str, lengths: str
) -> str:
    """Add a recurrent layer, and return its hidden states after each letter [L, B, D · H]."""
    states = add_recurrent_operator(
        graph, rnn, layer=layer, inputs=inputs, lengths=lengths, output_index=0
    )  # [L, D, B, H]
    transposed = graph.add("Transpose", states, perm=[0, 2, 1, 3])  # [L, B, D, H]
    return graph.add("Reshape", transposed, torch.tensor([0, 0, -1]))  # 0 keeps a dimension


def add_layer_with_last_states(
    graph: GraphBuilder, rnn: nn.RNNBase, layer: int, inputs: str, lengths: str
) -> str:
    """Add a recurrent layer, and return its last hidden state of each direction [B, D · H]."""
    last_states = add_recurrent_operator(
        graph, rnn, layer=layer, inputs=inputs, lengths=lengths, output_index=1
    )  # [D, B, H]
    transposed = graph.add("Transpose", last_states, perm=[1, 0, 2])  # [B, D, H]
    return graph.add("Reshape", transposed, torch.tensor([0, -1]))  # 0 keeps a dimension


def add_recurrent_operator(
    graph: GraphBuilder,
    rnn: nn.RNNBase,
    *,
    layer: int,
    inputs: str,
    lengths: str,
    output_index: int,
) -> str:
    """Add ONNX's operator for one recurrent layer of PyTorch.

    Args:
        graph: the graph.
        rnn: PyTorch's layers.
        layer: the index of the layer.
        inputs: what the layer reads [L, B, size of the input].
        lengths: the number of letters in each name, int32 [B].
        output_index: 0 for all hidden states [L, D, B, H], 1 for the last ones [D, B, H].
    """
    input_bias = stack_directions_with_onnx_gates(rnn, f"bias_ih_l{layer}")
    hidden_bias = stack_directions_with_onnx_gates(rnn, f"bias_hh_l{layer}")
    attributes: dict[str, Any] = {
        "hidden_size": rnn.hidden_size,
        "direction": "bidirectional" if rnn.bidirectional else "forward",
    }
    if rnn.mode == "GRU":
        # The reset gate of PyTorch's GRU multiplies W h + b, and not h.
        attributes["linear_before_reset"] = 1
    return graph.add(
        OPERATORS[rnn.mode],
        inputs,
        stack_directions_with_onnx_gates(
            rnn, f"weight_ih_l{layer}"
        ),  # [D, G · H, size of the input]
        stack_directions_with_onnx_gates(rnn, f"weight_hh_l{layer}"),  # [D, G · H, H]
        torch.cat([input_bias, hidden_bias], dim=1),  # [D, 2 · G · H]
        lengths,
        output_index=output_index,
        **attributes,
    )


def stack_directions_with_onnx_gates(rnn: nn.RNNBase, parameter: str) -> Tensor:
    """Return a parameter of all directions [D, G · H, …], with its gates in ONNX's order."""
    gate_order = GATE_ORDERS[rnn.mode]
    suffixes = ["", "_reverse"] if rnn.bidirectional else [""]
    directions = []
    for suffix in suffixes:
        gates = getattr(rnn, parameter + suffix).chunk(len(gate_order))  # G tensors [H, …]
        reordered = [gates[gate] for gate in gate_order]
        directions.append(torch.cat(reordered))  # [G · H, …]
    return torch.stack(directions)


def add_max_and_mean_pooling(graph: GraphBuilder, states: str) -> str:
    """Add the maximum and the mean of the hidden states of each name.

    Args:
        graph: the graph.
        states: the hidden states after each letter [L, B, D · H].

    Returns:
        The maximum and the mean, concatenated [B, 2 · D · H].
    """
    # is_letter = steps < lengths: whether a name still has a letter at a step.
    letters_shape = graph.add("Shape", "letters")  # [B, L]
    dimension_l = torch.tensor(1)
    n_steps = graph.add("Gather", letters_shape, dimension_l)
    first_step = torch.tensor(0)
    step_size = torch.tensor(1)
    steps = graph.add("Range", first_step, n_steps, step_size)
    steps = graph.add("Unsqueeze", steps, torch.tensor([1]))  # [L, 1]
    is_letter = graph.add("Less", steps, "lengths")  # [L, B]
    is_letter = graph.add("Unsqueeze", is_letter, torch.tensor([2]))  # [L, B, 1]

    # The padding becomes -∞, which is never the maximum.
    masked = graph.add("Where", is_letter, states, torch.tensor(-torch.inf))  # [L, B, D · H]
    # In this version of the operators, ReduceMax has its axes as an attribute, and ReduceSum as an
    # input.
    maximum = graph.add("ReduceMax", masked, axes=[0], keepdims=0)  # [B, D · H]

    # The padding becomes 0, which does not change the sum.
    masked = graph.add("Where", is_letter, states, torch.tensor(0.0))  # [L, B, D · H]
    total = graph.add("ReduceSum", masked, torch.tensor([0]), keepdims=0)  # [B, D · H]
    lengths = graph.add("Cast", "lengths", to=TensorProto.FLOAT)
    lengths = graph.add("Unsqueeze", lengths, torch.tensor([1]))  # [B, 1]
    mean = graph.add("Div", total, lengths)  # [B, D · H]
    return graph.add("Concat", maximum, mean, axis=1)
