"""The command as a deployment engineer meets it: what it prints, what it refuses, and what it leaves behind."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from onnxmpq import cli, commands
from onnxmpq.calibrate.calibrators import CALIBRATORS
from onnxmpq.sensitivity.methods import METHODS

BUDGET = ("--budget", "8bit-avg")
CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[N, 3, 8, 8] image) => (float[N, 4] scores) {
  h = Conv (image, w)
  r = Relu (h)
  p = GlobalAveragePool (r)
  scores = Flatten (p)
}"""
DENSE = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[N, 3, 8, 8] image) => (float[N, 4, 6, 6] map) { h = Conv (image, w) map = Relu (h) }"""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


Command = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process; returns its exit code and what it printed."""

    def command(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["onnxmpq", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command


def save(text: str, path: Path, channels: int = 3) -> Path:
    model = parse_model(text)
    weight = np.random.default_rng(0).standard_normal((4, channels, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(CLASSIFIER, tmp_path / "m.onnx")


def images(count: int = 40) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def refused(run: Command, folder: Path, *words: object, code: int = 1) -> str:
    """Run a command that must fail: one line of error, nothing on stdout, no file made or changed."""
    before = contents(folder)
    outcome = run(*words)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert contents(folder) == before
    return outcome.error


# What works


def test_compile_prints_a_table_and_a_verdict(run: Command, model: Path) -> None:
    outcome = run("compile", model, *BUDGET)
    assert outcome.code == 0
    for words in (
        "layer",
        "wrote",
        "m.mpq.onnx",
        "8bit-avg: reached 8.000 bits",
        "agreement",
        "speed, batch 1",
    ):
        assert words in outcome.out
    for words in ("CPU execution provider", "16 synthetic inputs", "sensitivity is not measured"):
        assert words in outcome.err
    assert model.with_name("m.mpq.onnx").is_file()


def test_json_is_all_there_is_on_stdout(run: Command, model: Path, tmp_path: Path) -> None:
    outcome = run("compile", model, *BUDGET, "--json", "--report", tmp_path / "r.json")
    fields = json.loads(outcome.out)
    assert outcome.err == ""
    assert fields == json.loads((tmp_path / "r.json").read_text())
    assert fields["average_weight_bits"] == 8.0


def test_no_verify_measures_nothing(run: Command, model: Path) -> None:
    fields = json.loads(run("compile", model, *BUDGET, "--no-verify", "--report", "-").out)
    assert fields["metrics"] == {}
    assert fields["latency"] == []
    assert fields["file_bytes"] == model.with_name("m.mpq.onnx").stat().st_size


def test_a_result_without_function_is_written_and_said_so_last(run: Command, tmp_path: Path) -> None:
    model, data = save(DENSE, tmp_path / "m.onnx"), npz(tmp_path, image=images())
    outcome = run(
        "compile", model, "--budget", "1bit-avg", "--bits", "1", "--data", data, "--activations", "fp32"
    )
    assert outcome.code == 3
    assert outcome.out.splitlines()[-1].startswith("LOST: ")
    assert model.with_name("m.mpq.onnx").is_file()


def test_names_in_brackets_are_printed_as_they_are(run: Command, tmp_path: Path) -> None:
    model = onnx.load(save(CLASSIFIER, tmp_path / "m.onnx"))
    model.graph.node[0].name = "[/stem]:smile:[red]"
    onnx.save(model, tmp_path / "[b].onnx")
    for words in (("compile", tmp_path / "[b].onnx", *BUDGET), ("inspect", tmp_path / "[b].onnx")):
        outcome = run(*words)
        assert outcome.code == 0
        assert "[/stem]:smile:[red]" in outcome.out
        assert "[b]." in outcome.out


def test_inspect_and_eval(run: Command, model: Path, tmp_path: Path) -> None:
    data = npz(tmp_path, image=images(), labels=np.zeros(40, np.int64))
    run("compile", model, *BUDGET)
    assert "1 of 1 layers can be quantized" in run("inspect", model).out
    assert "8.000 bits a weight" in run("inspect", model.with_name("m.mpq.onnx")).out
    assert json.loads(run("inspect", model, "--json").out)["layers"][0]["weight_bits"] == 32
    compiled = model.with_name("m.mpq.onnx")
    assert "agreement" in run("eval", compiled, "--reference", model, "--data", data).out
    alone = json.loads(run("eval", model, "--data", data, "--json").out)
    assert alone["reference"] is None
    assert alone["score"]["sqnr"] is None  # equal outputs: infinite, which JSON cannot say


def test_files_side_by_side(run: Command, model: Path, tmp_path: Path) -> None:
    data = npz(tmp_path, image=images(), labels=np.zeros(40, np.int64))
    for bits in (4, 8):
        run("compile", model, "--budget", f"{bits}bit-avg", "-o", tmp_path / f"{bits}.onnx")
    asked = ("compare", model, tmp_path / "4.onnx", tmp_path / "8.onnx", "--data", data)
    lines = run(*asked).out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["m.onnx", "4.onnx", "8.onnx"]
    assert "top-1" in lines[1]
    four, eight = json.loads(run(*asked, "--json").out)
    assert four["file_bytes"] < eight["file_bytes"] < four["reference_bytes"]


def test_help_lists_every_option_once_in_groups_and_gives_examples(run: Command) -> None:
    shown = [
        word
        for p in commands.compile_command.params
        if not getattr(p, "hidden", False)
        for word in p.opts[-1:]
    ]
    options = [word for word in shown if word.startswith("--")]
    text = run("compile", "--help").out
    assert len(options) < 30
    for option in options:
        assert len(re.findall(rf"^  (-\w, )?{option}\b", text, re.MULTILINE)) == 1, option
    for title in ("What the file may be:", "Data:", "How it is found:", "The compile itself:", "Examples:"):
        assert title in text


def test_help_names_what_the_tables_hold(run: Command) -> None:
    text = run("compile", "--help").out
    for name in (*CALIBRATORS, *METHODS):
        assert name in text


def test_help_and_version(run: Command) -> None:
    assert "compile" in run("--help").out
    assert "--budget" in run("compile", "-h").out
    assert run("--version").code == 0
    assert run().code == 2


def test_a_closed_pipe_is_no_traceback(model: Path) -> None:
    command = subprocess.run(
        f"{sys.executable} -m onnxmpq inspect {model} | true",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in command.stderr


# Files that are no models


def test_no_such_file(run: Command, model: Path) -> None:
    error = refused(run, model.parent, "compile", model.with_name("n.onnx"), *BUDGET)
    assert "does not exist; nearest: m.onnx" in error


@pytest.mark.parametrize(
    "content", [b"", b"not a model", bytes(range(256)) * 9], ids=["empty", "text", "noise"]
)
def test_not_an_onnx_file(run: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "m.onnx is" in refused(run, tmp_path, "compile", tmp_path / "m.onnx", *BUDGET)


@pytest.mark.parametrize("command", ["compile", "inspect"])
def test_truncated_file(run: Command, model: Path, command: str) -> None:
    model.write_bytes(model.read_bytes()[:-40])
    error = refused(run, model.parent, command, model, *(BUDGET if command == "compile" else ()))
    assert "is cut short" in error


def test_no_weights(run: Command, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[1, 3] x) => (float[1, 3] y) { y = Relu (x) }'
    onnx.save(parse_model(text), tmp_path / "m.onnx")
    error = refused(run, tmp_path, "compile", tmp_path / "m.onnx", *BUDGET)
    assert "no weights to quantize" in error


def external(folder: Path, location: str | None = None) -> Path:
    """A model whose weight lies in `w.bin`, or is said to lie at `location`."""
    path = save(CLASSIFIER, folder / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    if location is not None:
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = location
        path.write_bytes(model.SerializeToString())
    return path


def test_external_data_missing(run: Command, tmp_path: Path) -> None:
    model = external(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "v.bin")
    error = refused(run, tmp_path, "compile", model, *BUDGET)
    assert "'w.bin', which is missing; nearest: v.bin" in error


def test_external_data_outside_the_folder(run: Command, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    model = external(tmp_path / "inner", "../secret.bin")
    (tmp_path / "secret.bin").write_bytes(bytes(432))
    assert "outside the model's folder" in refused(run, tmp_path, "compile", model, *BUDGET)


def test_unknown_domain(run: Command, tmp_path: Path) -> None:
    text = CLASSIFIER.replace('"" : 13', '"" : 13, "my.ops" : 1').replace("Relu (h)", "my.ops.Snap (h)")
    error = refused(run, tmp_path, "compile", save(text, tmp_path / "m.onnx"), *BUDGET)
    assert "my.ops" in error
    assert "Snap" in error


# Data


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": images(), "b": images()}, "the graph inputs are 'image'"),
        ({"image": images()[:, :, :4]}, "4 instead of 8"),
        ({"image": images()[:, 0]}, "wants 3x8x8"),
        ({"image": images().astype(np.int64)}, "holds int64"),
        ({"image": images(0)}, "no samples"),
        ({"image": np.where(images() > 3, np.nan, images())}, "NaN"),
        ({"image": np.where(images() > 3, np.inf, images())}, "Inf"),
        ({"image": np.array([{}, 1], dtype=object)}, "pickled objects"),
        ({"image": images(), "labels": np.zeros(39, np.int64)}, "labels"),
        ({"image": images(), "labels": np.array([None] * 40, dtype=object)}, "pickled objects"),
    ],
    ids=["names", "shape", "rank", "dtype", "zero", "nan", "inf", "pickle", "labels", "pickled-labels"],
)
def test_data_that_do_not_fit(
    run: Command, model: Path, tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    data = npz(tmp_path, **arrays)
    error = refused(run, tmp_path, "compile", model, *BUDGET, "--data", data, "--activations", "int8")
    assert words in error
    assert "data.npz" in error


def test_data_that_are_not_there(run: Command, model: Path) -> None:
    error = refused(run, model.parent, "compile", model, *BUDGET, "--data", model.with_name("x.npz"))
    assert "there is no file or folder" in error


def test_a_callable_that_fails(run: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text("def samples():\n    raise ValueError('boom')\n")
    error = refused(run, tmp_path, "compile", model, *BUDGET, "--data", f"{tmp_path / 'd.py'}:samples")
    assert "ValueError: boom" in error


def test_labels_near_chance_stop_unless_forced(run: Command, model: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    scores = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images()})[0]
    wrong = npz(tmp_path, image=images(), labels=np.roll(scores.argmax(axis=1), 1) * 0 + 3)
    words = ("compile", model, *BUDGET, "--eval", wrong, "--activations", "fp32")
    if (scores.argmax(axis=1) == 3).mean() > 0.3:
        pytest.fail("the test's labels are too good")
    error = refused(run, tmp_path, *words)
    assert "no better than chance (25.0%)" in error
    assert run(*words, "--force").code == 0


# Options


@pytest.mark.parametrize("word", ["foo", "0x", "-1MB", "4bits", "drop=1", "", "²x"])
def test_budget_that_does_not_parse(run: Command, model: Path, word: str) -> None:
    error = refused(run, model.parent, "compile", model, "--budget", word, code=2)
    if word != "0x":
        assert "4bit-avg, 1.5MB or drop=0.5%" in error


@pytest.mark.parametrize(
    ("word", "least"),
    [
        ("1bit-avg", "2bit-avg"),
        ("10B", r"\d{3}B"),
        ("99x", r"10\.\d+x; with 1 among --bits it is 1\d\.\d+x$"),
        ("1kBOPs", r"\d+\.?\d*kBOPs"),
    ],
)
def test_budget_that_cannot_be_met(run: Command, model: Path, word: str, least: str) -> None:
    error = refused(run, model.parent, "compile", model, "--budget", word)
    assert re.search(rf"{word} cannot be met: the smallest this model gets is {least}", error)


def test_a_pattern_that_decides_nothing_is_said(run: Command, model: Path) -> None:
    outcome = run("compile", model, *BUDGET, "--no-verify", "--keep", "h=4", "--keep", "op:Conv=8")
    assert outcome.code == 0
    assert "--keep 'h=4' changes nothing: later patterns match all that it does" in outcome.err
    assert "'op:Conv=8'" not in outcome.err


def test_drop_of_a_model_that_is_no_classifier(run: Command, tmp_path: Path) -> None:
    model = save(DENSE, tmp_path / "m.onnx")
    error = refused(run, tmp_path, "compile", model, "--budget", "drop=1%", code=2)
    assert "drop=1%" in error
    assert "no classifier" in error


def test_keep_that_matches_nothing(run: Command, tmp_path: Path) -> None:
    model = onnx.load(save(CLASSIFIER, tmp_path / "m.onnx"))
    model.graph.node[0].name = "stage1/conv"
    onnx.save(model, tmp_path / "m.onnx")
    words = ("compile", tmp_path / "m.onnx", *BUDGET, "--keep")
    assert "nearest: stage1/conv" in refused(run, tmp_path, *words, "stge1/*=8", code=2)
    assert "op:Conv" in refused(run, tmp_path, *words, "op:Cnv=8", code=2)
    assert "it could be stage1/conv, op:Conv" in refused(run, tmp_path, *words, "zzz=8", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("--bits", "0"),
        ("--bits", "9"),
        ("--bits", "²"),
        ("--bits", ""),
        ("--keep", "x"),
        ("--keep", "x=9"),
        ("--shape", "image"),
        ("--shape", "image=1x²"),
        ("--shape", "picture=1x3x8x8"),
        ("--shape", "image=1x3x9x9"),
        ("--samples", "0"),
        ("--method", "nonsense"),
        ("--calibrator", "nonsense"),
        ("--target", "nonsense"),
        ("--metric", "nonsense"),
        ("--provider", "nonsense"),
        ("--preprocess", "imagenet"),
        ("--data", ""),
        ("--eval", ""),
        ("-o", ""),
        ("-o", "-"),
        ("-o", "somedir/"),
        ("--nonsense",),
    ],
    ids="=".join,
)
def test_usage_errors(run: Command, model: Path, words: tuple[str, ...]) -> None:
    refused(run, model.parent, "compile", model, *BUDGET, *words, code=2)


def test_nothing_to_do_is_a_usage_error(run: Command, model: Path) -> None:
    assert "--budget" in refused(run, model.parent, "compile", model, code=2)
    assert "MODEL" in refused(run, model.parent, "compile", *BUDGET, code=2)
    assert "nonsense" in refused(run, model.parent, "nonsense", code=2)


def test_weights_beyond_half_precision(run: Command, model: Path) -> None:
    large = onnx.load(model)
    weight = numpy_helper.to_array(large.graph.initializer[0]) * 1e6
    large.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "w"))
    onnx.save(large, model)
    error = refused(
        run, model.parent, "compile", model, "--budget", "16bit-avg", "--keep", "op:Conv=fp16", code=2
    )
    assert "layer 'h' cannot be kept in fp16: its largest weight is" in error
    assert "65,504" in error


def test_paths_that_name_no_model(run: Command, tmp_path: Path) -> None:
    assert "empty path" in refused(run, tmp_path, "compile", "", *BUDGET, code=2)
    for folder in (".", "/", tmp_path):
        assert "is a folder" in refused(run, tmp_path, "compile", folder, *BUDGET)
        assert "is a folder" in refused(run, tmp_path, "inspect", folder)


def test_odd_names_of_files(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "dir \u00fc [x] %s"
    folder.mkdir()
    model = save(CLASSIFIER, folder / "a model.v2.onnx")
    (tmp_path / "link.onnx").symlink_to(model)
    for source in (model, tmp_path / "link.onnx"):
        assert run("compile", source, *BUDGET).code == 0
        assert source.with_name(f"{source.stem}.mpq.onnx").is_file()  # a link's result lies beside the link


# Where it is written


def test_the_input_is_never_overwritten(run: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "alias.onnx").symlink_to(model)
    for output in (model, tmp_path / "alias.onnx"):
        assert "never overwritten" in refused(run, tmp_path, "compile", model, *BUDGET, "-o", output)
    assert "never overwritten" in refused(run, tmp_path, "compile", model, *BUDGET, "--report", model)


def test_report_and_model_in_one_file(run: Command, model: Path) -> None:
    both = model.with_name("both")
    error = refused(run, model.parent, "compile", model, *BUDGET, "-o", both, "--report", both, code=2)
    assert "would be written twice" in error
    default = model.with_name("m.mpq.onnx")
    assert "would be written twice" in refused(
        run, model.parent, "compile", model, *BUDGET, "--report", default, code=2
    )


def test_what_was_saved_serves_another_budget(run: Command, model: Path) -> None:
    saved = model.with_name("saved.json")
    run("compile", model, "--budget", "4bit-avg", "--method", "fisher", "--save-sensitivity", saved)
    again = run("compile", model, "--budget", "3bit-avg", "--method", saved)
    assert "fisher, read from saved.json" in again.out
    for option in ("-o", "--report"):
        error = refused(run, model.parent, "compile", model, *BUDGET, "--method", saved, option, saved)
        assert "is an input of the compile" in error


def test_what_is_saved_has_a_file_of_its_own_that_a_method_is_known_by(run: Command, model: Path) -> None:
    other = model.with_name("s.json")
    for words in (("--report", other), ("-o", other)):
        error = refused(
            run, model.parent, "compile", model, *BUDGET, "--save-sensitivity", other, *words, code=2
        )
        assert "would be written twice" in error
    error = refused(run, model.parent, "compile", model, *BUDGET, "--save-sensitivity", "s.txt", code=2)
    assert "must end in .json" in error


def test_output_folder_that_is_not_there(run: Command, model: Path) -> None:
    output = model.parent / "nowhere" / "out.onnx"
    for option in ("-o", "--report"):
        assert "there is no folder" in refused(run, model.parent, "compile", model, *BUDGET, option, output)


def test_output_folder_that_cannot_be_written(
    run: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:  # who may write anywhere
        monkeypatch.setattr(os, "access", lambda path, _: Path(path) != folder)
    folder.chmod(0o500)
    error = refused(run, tmp_path, "compile", model, *BUDGET, "-o", folder / "out.onnx")
    assert "is read-only for you" in error


def test_output_folder_that_takes_no_files(run: Command, model: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    error = refused(run, model.parent, "compile", model, *BUDGET, "-o", "/proc/out.onnx")
    assert "/proc/out.onnx cannot be written" in error


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", [(os, "fsync"), (Path, "replace")], ids=["write", "rename"])
def test_disk_full(run: Command, model: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, str]) -> None:
    model.with_name("m.mpq.onnx").write_bytes(b"an older file")
    monkeypatch.setattr(*call, full)
    error = refused(run, model.parent, "compile", model, *BUDGET)
    assert "No space left on device" in error


def test_disk_full_while_printing(model: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as disk:
        done = subprocess.run(
            [sys.executable, "-m", "onnxmpq", "inspect", model],
            stdout=disk,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Path]:
    """A sensitivity method that says when it was reached, and then takes its time."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import pathlib, time\n\n"
        f"def wait(probe):\n    pathlib.Path({str(tmp_path / 'started')!r}).touch()\n    time.sleep(60)\n"
    )
    yield path
    (tmp_path / "started").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 128 + 2, "error: interrupted"), (signal.SIGTERM, 128 + 15, "error: ended by SIGTERM")],
)
def test_interrupt(
    model: Path, sleeper: Path, tmp_path: Path, sent: signal.Signals, code: int, said: str
) -> None:
    words = ["compile", str(model), "--budget", "4bit-avg", "--method", f"{sleeper}:wait"]
    before = contents(tmp_path)
    command = subprocess.Popen(
        [sys.executable, "-m", "onnxmpq", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the interrupt, and so would everything they start.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(sent)
    out, err = command.communicate(timeout=30)
    (tmp_path / "started").unlink()
    assert command.returncode == code
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert {k: v for k, v in contents(tmp_path).items() if "__pycache__" not in k} == before
