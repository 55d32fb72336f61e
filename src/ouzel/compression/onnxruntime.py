"""Weights of exported graphs in int8, by ONNX Runtime's dynamic quantisation.

Only products with weights change: they read a quarter of the bytes, which is what one appended
event of a large model waits for. Products of a query with cached keys stay as they are.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def with_int8_weights(graph: bytes) -> bytes:
    """Return an ONNX graph whose weight matrices are int8 with a scale per output.

    >>> from onnx import TensorProto, helper, numpy_helper
    >>> import numpy as np
    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])
    >>> weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> graph = helper.make_graph([node], "linear", [x], [y], [weight])
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    >>> small = onnx.load_model_from_string(with_int8_weights(model.SerializeToString()))
    >>> "MatMulInteger" in {node.op_type for node in small.graph.node}
    True
    """
    model = onnx.load_model_from_string(graph)
    # The exporter's shapes of inner values contradict those that are inferred.
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it advises a step for image models
        try:
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        finally:
            logging.disable(before)
        return path.read_bytes()
