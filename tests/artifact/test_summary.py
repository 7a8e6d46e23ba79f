from dataclasses import replace

from tests.artifact.engines import MANIFEST

from beicli.artifact.manifest import Quantization, Tuning
from beicli.artifact.summary import summarise
from beicli.machine import this_machine

QUANTIZATION = Quantization(
    method="smooth_quant",
    residual_precision="bf16",
    static=("a", "b"),
    dynamic=(),
    kept=("c",),
    quantized_fraction=0.875,
    dynamic_group_size=128,
    calibration="64 samples of mine.txt",
)


def test_an_engine_in_8_bit_says_how_much_of_it_is() -> None:
    summary = summarise(replace(MANIFEST, precision="int8", quantization=QUANTIZATION), None)

    assert summary["quantization"] == (
        "smooth_quant, 88% of the multiplications in 8 bit; products: 2 with fixed scales, 1 left "
        "in bf16; calibrated on 64 samples of mine.txt"
    )
    assert "quantization" not in summarise(MANIFEST, None)


def test_what_tuning_found_is_told_with_its_machine() -> None:
    tuning = Tuning(
        machine=this_machine(),
        num_slots=2,
        num_threads=4,
        preferred_num_tokens=512,
        tokens_per_second=9.5,
    )

    told = summarise(replace(MANIFEST, tuning=tuning), None)["tuning"]

    assert told["num_slots"] == 2
    assert told["machine"]["cpu"] == this_machine().cpu
    assert summarise(MANIFEST, None)["tuning"] is None
