"""Files for other runtimes: the reference graph as ONNX, in the form that each runtime fuses into int8 kernels."""

from worker.exporting.forms import FORMS, in_form
from worker.exporting.onnx_export import CannotExport, export_onnx, save, trace

__all__ = ["FORMS", "CannotExport", "export_onnx", "in_form", "save", "trace"]
