"""Writes the network as an ONNX file, in floating point or in 8-bit integers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from dsa_fast.deploy.embedding_network import EmbeddingNetwork
from dsa_fast.deploy.sidecar import NO_MEAN, InputSpec, OutputSpec
from dsa_fast.extras import require

CalibrationMethod = Literal["minmax", "percentile"]

#: Version 22 introduced convolutions in bfloat16.
OPSET, OPSET_BF16 = 20, 22
_CALIBRATION_BATCH = 4  # images whose maps of all layers are in memory at once


def write_onnx(network: EmbeddingNetwork, path: Path, spec: InputSpec, output: OutputSpec) -> None:
    """Writes a network with PyTorch's `torch.export`-based exporter, with a dynamic batch.

    Args:
        network: the network; its layout must be `spec`'s.
        path: the file. Callers write to a temporary folder, so an incomplete file never gets its final name.
        spec: name and size of the input.
        output: name of the output.

    Raises:
        ValueError: onnx or onnxscript is not installed.
    """
    onnx = require("onnx")
    require("onnxscript")
    example = torch.zeros(spec.shape(2), dtype=getattr(torch, spec.dtype))
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            input_names=[spec.name],
            output_names=[output.name],
            opset_version=OPSET_BF16 if network.dtype == torch.bfloat16 else OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter records the source of each node, with paths of this machine.
    del model.metadata_props[:]
    for item in [model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]:
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    onnx.helper.set_model_props(model, describe(spec, output))
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def describe(spec: InputSpec, output: OutputSpec) -> dict[str, str]:
    """Returns a file's metadata: what it takes and gives, for programs that do not read the sidecar."""
    inside = spec.dtype == "uint8"
    outside = "value / 255" if spec.mean == NO_MEAN else "(value / 255 - mean) / std"
    return {
        "input.height": str(spec.height),
        "input.width": str(spec.width),
        "input.channels": spec.channels,
        "input.layout": spec.layout,
        "input.dtype": spec.dtype,
        "input.normalization": "none: 0..255, normalized inside the graph" if inside else outside,
        "input.mean": ", ".join(map(str, spec.mean)),
        "input.std": ", ".join(map(str, spec.std)),
        "output.dim": str(output.dim),
        "output.normalized": "true: each vector has length 1" if output.normalized else "false",
    }


def write_int8_onnx(
    source: Path,
    path: Path,
    images: NDArray[Any],
    *,
    input_name: str = "images",
    method: CalibrationMethod = "minmax",
) -> None:
    """Quantizes the convolutions of a float32 ONNX file with explicit Q/DQ pairs.

    Weights are quantized by channel, to 7 bits; activations by tensor, to 8 bits. Everything is symmetric (no zero
    points). Biases stay in floating point, and so do the few convolutions that OpenVINO gets wrong, see
    `_left_in_float`. ONNX Runtime, OpenVINO, TensorRT and TensorRT-RTX all run this form in integers. The shortcut of a
    block reads the quantized tensor that its first convolution reads, so the sum can be fused with the convolution
    before it.

    Args:
        source: the float32 file.
        path: the file to write.
        images: in the shape, layout and type of the file's input, used to determine the ranges.
        input_name: name of the input.
        method: range of an activation: `minmax` uses all values, `percentile` all except the outermost 0.001 % (several
            times slower).

    Raises:
        ValueError: there are no images, the method is unknown, or onnxruntime is not installed.
    """
    if len(images) == 0:
        raise ValueError("images must hold at least one image to calibrate with, got none")
    if method not in ("minmax", "percentile"):
        raise ValueError(f"method must be minmax or percentile, got {method!r}")
    require("onnxruntime")
    quantization: Any = require("onnxruntime.quantization")
    stride = min(_CALIBRATION_BATCH, len(images))
    images = images[: len(images) // stride * stride]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Gives the images of a range one by one. The quantizer sets the ranges."""

        def __init__(self) -> None:
            self.place, self.end = 0, len(images)

        def __len__(self) -> int:
            return len(images)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.place, self.end = start_index, end_index

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            if self.place >= self.end:
                return None
            self.place += 1
            return {input_name: images[self.place - 1 : self.place]}

    methods = quantization.CalibrationMethod
    with _quiet():
        quantization.quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_left_in_float(source),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            # Without VNNI, x86 processors add two products in 16 bits, which overflows unless weights have 7 bits.
            reduce_range=True,
            calibrate_method=methods.MinMax if method == "minmax" else methods.Percentile,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "CalibStridedMinMax": stride,  # despite its name, it bounds the memory of every method
            },
        )


def _left_in_float(source: Path) -> list[str]:
    """Names the convolutions of one pixel with a stride whose input channels are no multiple of 16.

    On a processor with AVX2 but without VNNI, OpenVINO 2026.4.1 computes them wrongly in 8 bits if two threads work at
    the same moment: now and then, images of a batch come out wrong. Its threads may write into each other's memory;
    that is a guess. A ResNet of `width` 0.125 has such convolutions, one of full, half or quarter width has none.
    """
    graph = require("onnx").load(str(source)).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    names = []
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in shapes:
            _, channels, *kernel = shapes[node.input[1]]
            strides = next((list(each.ints) for each in node.attribute if each.name == "strides"), [1])
            if max(kernel) == 1 and max(strides) > 1 and channels % 16:
                names.append(node.name)
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides logs and warnings of the libraries. Errors are still raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
