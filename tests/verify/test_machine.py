from pathlib import Path

import pytest

from onnxmpq.verify.machine import has_vnni, processor


@pytest.mark.parametrize(
    ("info", "words", "vnni"),
    [
        ("model name\t: Fast CPU\nflags\t: fpu avx512_vnni\n", "Fast CPU (with AVX512-VNNI)", True),
        ("model name\t: Small CPU\nflags\t: fpu avx2 avx_vnni\n", "Small CPU (with AVX-VNNI)", True),
        ("model name\t: Old CPU\nflags\t: fpu avx2\n", "Old CPU (without VNNI)", False),
        ("model name\t: Arm CPU\nFeatures\t: asimddp\n", "Arm CPU", False),
    ],
)
def test_what_linux_says(info: str, words: str, vnni: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(info, encoding="utf-8")
    assert processor(path) == words
    assert has_vnni(path) is vnni


def test_a_system_that_tells_nothing_has_a_name_all_the_same(tmp_path: Path) -> None:
    assert processor(tmp_path / "none")
    assert not has_vnni(tmp_path / "none")
