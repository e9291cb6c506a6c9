"""Runs one ONNX file in one runtime, in the interpreter that has it: started by runtimes.py, imports nothing of ours.

python benchmarks/runtime_host.py RUNTIME                            # prints the runtime's version
python benchmarks/runtime_host.py RUNTIME FILE INPUT SHAPE OUTPUT    # raw float32: SHAPE is 64x3x32x32, the first output is written

RUNTIME is onnxruntime, qnn, openvino, tract, or web:FOLDER (of npm's onnxruntime-web). What the runtime says where it fails is the last
thing on stderr, after "SAID:".
"""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
_WAIT = 120  # seconds that a page has


def onnxruntime(file: Path, values: Values) -> Values:
    """ONNX Runtime's CPU provider with its default options."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: values})[0])


def qnn(file: Path, values: Values) -> Values:
    """Qualcomm's HTP, emulated on x86, one sample at a time; a node that is left to the CPU is an error."""
    import onnxruntime as ort
    import onnxruntime_qnn

    name = "QNNExecutionProvider"
    ort.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name][:1]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_free_dimension_override_by_name(_batch_of(file), 1)  # shapes are fixed there
    options.add_provider_for_devices(devices, {"backend_path": onnxruntime_qnn.get_qnn_htp_path()})
    session = ort.InferenceSession(str(file), options)
    feed = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {feed: sample[None]})[0] for sample in values])


def _batch_of(file: Path) -> str:
    """What the free dimension of the first input is called."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return str(plain.get_inputs()[0].shape[0])


def openvino(file: Path, values: Values) -> Values:
    """OpenVINO on the CPU in single precision; integer weights do not make it quantize the inputs of float layers."""
    import openvino as ov

    core = ov.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    network = core.compile_model(core.read_model(str(file)), "CPU", config)
    return np.asarray(network([values])[network.outputs[0]])


def tract(file: Path, values: Values) -> Values:
    """tract, with fixed shapes."""
    import tract as runtime

    model = runtime.onnx().load(str(file))
    model.set_input_fact(0, ",".join(map(str, values.shape)) + ",f32")
    return np.asarray(model.into_model().into_runnable().run([values])[0].to_numpy())


def web(folder: Path, file: Path, values: Values) -> Values:
    """onnxruntime-web (wasm, one thread) in headless Chromium: a page of this machine loads the file and runs it."""
    with tempfile.TemporaryDirectory() as scratch:
        pages = Path(scratch, "pages")
        shutil.copytree(folder / "node_modules" / "onnxruntime-web" / "dist", pages, ignore=_other_than_wasm)
        shutil.copy(Path(__file__).with_suffix(".html"), pages / "index.html")
        shutil.copy(file, pages / "model.onnx")
        values.tofile(pages / "input.bin")
        (pages / "shape.json").write_text(str(list(values.shape)), encoding="utf-8")
        told = _shown(pages, Path(scratch, "profile"))
    if not told.startswith(b"values"):
        raise RuntimeError(told.decode())
    return np.frombuffer(told[len(b"values--") :], np.float32).reshape(len(values), -1)


def _other_than_wasm(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(("ort.wasm.min.mjs", "ort-wasm-simd-threaded."))]


def _shown(pages: Path, profile: Path) -> bytes:
    """What the page posts back."""
    told: list[bytes] = []
    done = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(pages))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = subprocess.Popen(
            [_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
             f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        done.wait(_WAIT)
        browser.terminate()
        browser.wait()
        server.shutdown()
    return told[0] if told else f"the page said nothing for {_WAIT} seconds".encode()


def _chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise RuntimeError("there is no Chromium")
    return found


def version(runtime: str) -> str:
    """Raises ImportError and others where the runtime is not there."""
    from importlib import metadata

    if runtime.startswith("web:"):
        package = Path(runtime[4:], "node_modules", "onnxruntime-web", "package.json").read_text(
            encoding="utf-8"
        )
        found = package.split('"version": "')[1].split('"')[0]
        browser = subprocess.run([_chromium(), "--version"], capture_output=True, text=True, check=True)
        return f"{found}, {' '.join(browser.stdout.split()[:2])}"
    names = {"qnn": ("onnxruntime-qnn", "onnxruntime"), "onnxruntime": ("onnxruntime", "onnxruntime-gpu")}
    found_all = [
        d for d in names.get(runtime, (runtime,)) if next(iter(metadata.distributions(name=d)), None)
    ]
    if runtime == "qnn":
        return ", ".join(
            [metadata.version("onnxruntime-qnn"), f"onnxruntime {metadata.version('onnxruntime')}"]
        )
    return metadata.version(found_all[0] if found_all else runtime)


def main() -> None:
    runtime, *rest = sys.argv[1:]
    if not rest:
        print(version(runtime))
        return
    file, source, shape, target = rest
    values = np.fromfile(source, np.float32).reshape([int(size) for size in shape.split("x")])
    hosts: dict[str, Callable[[Path, Values], Values]] = {
        "onnxruntime": onnxruntime, "qnn": qnn, "openvino": openvino, "tract": tract,
    }  # fmt: skip
    host = functools.partial(web, Path(runtime[4:])) if runtime.startswith("web:") else hosts[runtime]
    sys.excepthook = lambda _kind, error, _trace: print(f"SAID:{error}", file=sys.stderr)
    np.ascontiguousarray(host(Path(file), values), np.float32).tofile(target)


if __name__ == "__main__":
    main()
