import pytest

from featurestore.backbones.precision import native_bfloat16_cpu, resolve_precision
from featurestore.errors import InvalidInput

XEON = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\nbugs\t\t: none\n"
LAPTOP = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t\t: avx512_bf16\n"
AMX = "flags : amx_bf16\n"


@pytest.mark.parametrize(
    ("text", "native"), [(XEON, True), (LAPTOP, False), (AMX, True), ("", False)]
)
def test_native_bfloat16_is_read_from_the_processor_flags(tmp_path, text, native):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert native_bfloat16_cpu(path) is native


def test_without_cpuinfo_nothing_is_native(tmp_path):
    assert native_bfloat16_cpu(tmp_path / "absent") is False


@pytest.mark.parametrize(
    ("gpu", "cpu", "expected"),
    [
        ((8, 0), False, "bfloat16"),
        ((9, 0), False, "bfloat16"),
        ((7, 5), True, "float32"),
        (None, True, "bfloat16"),
        (None, False, "float32"),
    ],
)
def test_auto_is_what_the_device_computes_natively(gpu, cpu, expected):
    assert resolve_precision("auto", gpu=lambda: gpu, cpu=lambda: cpu) == expected


@pytest.mark.parametrize("choice", ["float32", "bfloat16", "float16"])
def test_an_explicit_choice_asks_no_device(choice):
    def asked():
        raise AssertionError("asked")

    assert resolve_precision(choice, gpu=asked, cpu=asked) == choice


def test_an_unknown_precision_is_refused():
    with pytest.raises(InvalidInput, match="int8"):
        resolve_precision("int8", gpu=lambda: None, cpu=lambda: False)
