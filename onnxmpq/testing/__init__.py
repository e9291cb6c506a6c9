"""The conformance batteries: what every pass, method, target and calibrator must meet, built in or a third party's.

from onnxmpq.testing import check_calibrator, check_method, check_pass, check_target
check_pass(FuseSilu(), model)        # raises AssertionError with what is wrong
check_method(kurtosis)
check_target(DSP)
check_calibrator(three_sigma)
"""

from onnxmpq.testing.calibrators import check_calibrator
from onnxmpq.testing.methods import check_method, classifier, labelled, probe_of
from onnxmpq.testing.models import Kind, model_of, random_feeds, run
from onnxmpq.testing.passes import Pass, check_pass
from onnxmpq.testing.targets import check_target

__all__ = [
    "Kind", "Pass", "check_calibrator", "check_method", "check_pass", "check_target", "classifier", "labelled",
    "model_of", "probe_of", "random_feeds", "run",
]  # fmt: skip
