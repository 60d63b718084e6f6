"""Quantization: the only importer of torch.ao, behind a narrow seam.

    load_program → raise_program → verify_raised → plan → prepare | prepare_qat → convert → freeze
                                                        → quantize_dynamic → freeze

An exported program is raised to a graph of modules under its own names; that graph is verified against the program,
quantized layer by layer as the plan says, and frozen to what users run.
"""

from worker.quantization.boundaries import glob_of, in_float, in_int8
from worker.quantization.choosing_kernels import has_vnni, where_weights_are_affine
from worker.quantization.converting import convert, use_kernels_of
from worker.quantization.copying import collect_garbage, weight_bytes
from worker.quantization.correcting import Biases, bias_corrections, correct_biases, has_corrected_biases
from worker.quantization.counting import depthwise_elements, layer_macs
from worker.quantization.describing import Description, describe
from worker.quantization.describing_qparams import OUTLIER_STRETCH, stretch_of
from worker.quantization.digest import weights_digest
from worker.quantization.dynamic import holds_float16, quantize_dynamic
from worker.quantization.dynamic_planning import DynamicPlan
from worker.quantization.dynamic_reference import departing_dynamic_layers, dynamic_in_float, without_departing
from worker.quantization.dynamic_tracing import DynamicModel
from worker.quantization.equalizing import equalize
from worker.quantization.float_reasons import FloatKind, FloatReason
from worker.quantization.freezing import freeze
from worker.quantization.grouping import Group, groups
from worker.quantization.int8_kernels import DEQUANTIZED_FOR_IT, has_kernel
from worker.quantization.int8_modules import per_channel_gain_db, weight_values
from worker.quantization.islands import without_islands
from worker.quantization.kernel_check import departing_layers
from worker.quantization.labelling import passes_on
from worker.quantization.learnable_scales import keep_scales_positive, learn_scales, scale_parameters
from worker.quantization.loading import InputSpec, input_specs, load_program, output_names
from worker.quantization.masks import without_masks
from worker.quantization.named_functions import is_function, layer_of_scopes, with_named_functions
from worker.quantization.parking import parked
from worker.quantization.planning import head_of
from worker.quantization.plans import Plan
from worker.quantization.preparing import (
    freeze_batch_norm,
    freeze_observers,
    prepare,
    prepare_qat,
)
from worker.quantization.quantizers import Quantizer
from worker.quantization.raising import raise_program
from worker.quantization.ranging import settle_rule
from worker.quantization.reference_graph import reference_graph
from worker.quantization.simulating import LayerTrace, Simulation, simulate
from worker.quantization.smoothing import channel_maxima, smooth
from worker.quantization.trying import plan
from worker.quantization.verifying import verify_raised

__all__ = [
    "DEQUANTIZED_FOR_IT",
    "OUTLIER_STRETCH",
    "Biases",
    "Description",
    "DynamicModel",
    "DynamicPlan",
    "FloatKind",
    "FloatReason",
    "Group",
    "InputSpec",
    "LayerTrace",
    "Plan",
    "Quantizer",
    "Simulation",
    "bias_corrections",
    "channel_maxima",
    "collect_garbage",
    "convert",
    "correct_biases",
    "departing_dynamic_layers",
    "departing_layers",
    "depthwise_elements",
    "describe",
    "dynamic_in_float",
    "equalize",
    "freeze",
    "freeze_batch_norm",
    "freeze_observers",
    "glob_of",
    "groups",
    "has_corrected_biases",
    "has_kernel",
    "has_vnni",
    "head_of",
    "holds_float16",
    "in_float",
    "in_int8",
    "input_specs",
    "is_function",
    "keep_scales_positive",
    "layer_macs",
    "layer_of_scopes",
    "learn_scales",
    "load_program",
    "output_names",
    "parked",
    "passes_on",
    "per_channel_gain_db",
    "plan",
    "prepare",
    "prepare_qat",
    "quantize_dynamic",
    "raise_program",
    "reference_graph",
    "scale_parameters",
    "settle_rule",
    "simulate",
    "smooth",
    "stretch_of",
    "use_kernels_of",
    "verify_raised",
    "weight_bytes",
    "weight_values",
    "weights_digest",
    "where_weights_are_affine",
    "with_named_functions",
    "without_departing",
    "without_islands",
    "without_masks",
]
