"""Weights of exported graphs in int8, by ONNX Runtime's products of blocks of eight bits.

Only products with weights change: they read a quarter of the bytes, which is what one appended
event of a large model waits for. Products of a query with cached keys stay as they are. A row is
rounded by itself, so an answer does not depend on the batch it rides in, as it would where a whole
batch shares one scale.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel

BLOCK = 128
"""Weights of an output that share a scale."""
INT8_PRODUCTS = 4
"""ONNX Runtime's name for products that round the other side to int8 too, block by block."""


def with_int8_weights(graph: bytes) -> bytes:
    """Return an ONNX graph whose weight matrices are int8 with a scale for each `BLOCK` weights.

    >>> from onnx import TensorProto, helper, numpy_helper
    >>> import numpy as np
    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])
    >>> weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> graph = helper.make_graph([node], "linear", [x], [y], [weight])
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    >>> small = onnx.load_model_from_string(with_int8_weights(model.SerializeToString()))
    >>> [node.op_type for node in small.graph.node]
    ['MatMulNBits']
    """
    model = onnx.load_model_from_string(graph)
    # The exporter's shapes of inner values contradict those that are inferred.
    del model.graph.value_info[:]
    ONNXModel(model).replace_gemm_with_matmul()
    with _silent():
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )

        blocks = DefaultWeightOnlyQuantConfig(
            block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_PRODUCTS, bits=8
        )
        quantizer = MatMulNBitsQuantizer(model, algo_config=blocks)
        quantizer.process()
    small: bytes = quantizer.model.model.SerializeToString()
    return small


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the library from setting up logging of its own, and from telling every node."""
    before, silent = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(silent)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        logging.root.removeHandler(silent)
