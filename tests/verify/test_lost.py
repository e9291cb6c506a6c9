import math

import pytest

from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.score import OutputScore, Score
from onnxmpq.verify.lost import lost_outputs

VALUES, LOGITS = OutputKind.VALUES, OutputKind.LOGITS


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (OutputScore(LOGITS, sqnr=15.0, worst_sqnr=15.0, agreement=0.49), "49.0% same class"),
        (OutputScore(LOGITS, sqnr=50.0, worst_sqnr=50.0, contrast=4.0, agreement=0.49), "49.0% same class"),
        (OutputScore(LOGITS, sqnr=50.0, worst_sqnr=50.0, agreement=0.49), None),  # then they are no classes
        (
            OutputScore(OutputKind.PROBABILITIES, sqnr=50.0, worst_sqnr=50.0, agreement=0.49),
            "49.0% same class",
        ),
        (
            OutputScore(LOGITS, sqnr=1.0, worst_sqnr=1.0, agreement=0.5),
            None,
        ),  # classes decide where there are some
        (OutputScore(OutputKind.POSITIONS, sqnr=1.0, worst_sqnr=1.0, agreement=0.4), "40.0% same class"),
        (OutputScore(VALUES, sqnr=9.9, worst_sqnr=9.9), "is at 9.9 dB"),
        (OutputScore(VALUES, sqnr=10.0, worst_sqnr=10.0), None),
        (
            OutputScore(VALUES, sqnr=34.0, worst="channels 4 to 11", worst_sqnr=-1.8),
            "channels 4 to 11 of output 'y'",
        ),
        (OutputScore(VALUES, sqnr=20.0, worst_sqnr=20.0, contrast=-8.0), "-8.0 dB about its mean"),
        (OutputScore(VALUES, sqnr=math.inf, worst_sqnr=math.inf, contrast=math.inf), None),
        (OutputScore(VALUES, sqnr=40.0, worst_sqnr=40.0, moved=0.02), "NaN or Inf"),
        (OutputScore(VALUES, sqnr=40.0, worst_sqnr=40.0, moved=0.001), None),
        (OutputScore(OutputKind.EMBEDDING, sqnr=12.0, worst_sqnr=12.0, cosine=0.7), "cosine 0.700"),
        (
            OutputScore(OutputKind.HEATMAP, sqnr=2.0, worst_sqnr=2.0, before_sigmoid=5.0, agreement=0.9),
            "is at 2.0 dB",
        ),
        (OutputScore(agreement=0.2), "20.0% equal values"),
        (OutputScore(), None),
        (OutputScore(LOGITS, sqnr=0.1, worst_sqnr=0.1, agreement=0.9, elsewhere=0.0), "commonest"),
        (
            OutputScore(OutputKind.PROBABILITIES, sqnr=1.3, worst_sqnr=1.3, agreement=0.99, elsewhere=0.1),
            "commonest",
        ),
        (OutputScore(VALUES, is_silent=True), None),
        (OutputScore(VALUES, sqnr=30.0, worst_sqnr=30.0, reshaped=0.1, resized=0.98), None),
        (OutputScore(VALUES, reshaped=1.0, resized=3.0), "3 times as many values in 100% of the runs"),
        (OutputScore(OutputKind.EMBEDDING, sqnr=8.4, worst_sqnr=8.4, cosine=0.93), None),
    ],
)
def test_when_an_output_has_lost_its_function(output: OutputScore, said: str | None) -> None:
    found = lost_outputs(Score(9, outputs={"y": output}), real=True)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_noise_tells_nothing_of_what_varies_little() -> None:
    score = Score(9, outputs={"y": OutputScore(VALUES, sqnr=6.3, worst_sqnr=6.3, contrast=-8.0)})
    assert lost_outputs(score, real=False) == ()
    noise = Score(9, outputs={"y": OutputScore(LOGITS, sqnr=-1.0, worst_sqnr=-1.0, agreement=0.2)})
    assert lost_outputs(noise, real=False) == ("output 'y' is at -1.0 dB on noise; give --data to be sure",)


def test_one_lost_output_of_many_is_named() -> None:
    fine = OutputScore(VALUES, sqnr=40.0, worst_sqnr=40.0)
    bad = OutputScore(VALUES, sqnr=1.0, worst_sqnr=1.0)
    assert lost_outputs(Score(9, outputs={"a": fine, "b": bad}), real=True) == ("output 'b' is at 1.0 dB",)
