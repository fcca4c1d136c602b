"""The records are complete, say where they come from, and are found."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from mlx_tilegemm.errors import ProblemError
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.chips.accelerators import as_mlx_uses, mlx_build, tf32_enabled
from mlx_tilegemm.machine.chips.record import NUMBERS, Provenance

FULL = [chip for chip in chips.CHIPS if not chip.name.rsplit("-", 1)[-1].isdigit()]


@pytest.mark.parametrize("chip", chips.CHIPS, ids=lambda chip: chip.name)
class TestRecords:
    def test_every_number_has_one_source(self, chip):
        sourced = [name for source in chip.sources for name in source.fields]
        assert sorted(sourced) == sorted(NUMBERS)
        assert all(chip.source_of(name).text for name in NUMBERS)

    def test_what_is_assumed_is_marked(self, chip):
        for name in NUMBERS:
            assumed = chip.source_of(name).provenance is Provenance.ASSUMED
            assert assumed == (name in chip.uncertain)

    def test_numbers_are_in_order_of_size(self, chip):
        assert chip.mma_half_cycles <= chip.mma_cycles
        assert chip.mma_cycles >= 16 * chip.alu_cycles, "512 FMAs of 32 lanes"
        assert chip.threadgroup_bytes_per_cycle > chip.l2_bytes_per_cycle
        per_core = chip.dram_bytes_per_second / chip.clock_hz / chip.cores
        assert 5 < per_core < chip.l2_bytes_per_cycle
        assert chip.dram_bytes_per_second * chip.memory_latency_seconds < chip.slc_bytes

    def test_fewer_registers_hold_more_threads(self, chip):
        registers = [row[0] for row in chip.occupancy]
        threads = [row[1] for row in chip.occupancy]
        assert registers == sorted(registers)
        assert threads == sorted(threads, reverse=True)

    def test_it_is_found_by_name(self, chip):
        assert chips.get(chip.name.upper()) is chip


def test_occupancy_is_a_register_file_in_portions_of_64_threads():
    for registers, threads in chips.DEFAULT.occupancy:
        assert threads == 208 * 1024 // (4 * registers) // 64 * 64


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("m1", 2.62), ("m1-max", 10.62), ("m2-pro", 6.80), ("m4-max", 16.16), ("m5-max", 16.6)],
)
def test_peaks_are_the_published_ones(name, tflops):
    assert chips.get(name).peak_flops == pytest.approx(tflops * 1e12, rel=0.01)


def test_names_are_unique_and_cover_m1_to_m5():
    names = [chip.name for chip in chips.CHIPS]
    assert len(set(names)) == len(names)
    ranges = {f"m{n}{suffix}" for n in range(1, 6) for suffix in ("", "-pro", "-max")}
    assert ranges | {"m1-ultra", "m2-ultra", "m3-ultra"} == {chip.name for chip in FULL}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ProblemError, match=r"Expected one of m1, .* m5-max-32, got 'm9'\."):
        chips.get("m9")


@pytest.mark.parametrize(
    ("architecture", "device", "cores", "name", "note"),
    [
        ("applegpu_g16g", "Apple M4", 10, "m4", None),
        ("applegpu_g16g", "Apple M4", 8, "m4-8", None),
        ("applegpu_g13g", "Apple M1", None, "m1", "GPU cores unknown; planned for the 8"),
        ("applegpu_g13s", "Apple M1 Max", 24, "m1-max-24", None),
        ("applegpu_g17s", "Apple M5 Max", 40, "m5-max", None),
        ("applegpu_g17s", "Apple M5 Max", 39, "m5-max", "no record has 39 GPU cores"),
        ("applegpu_g18s", "Apple M6 Max", 40, "m5-max", "Apple M6 Max has no record"),
        ("applegpu_g18s", "Apple M6 Max", None, "m5-max", "Apple M6 Max has no record"),
        ("applegpu_g18s", "Apple M6 Pro", 17, "m5-pro-16", "Apple M6 Pro has no record"),
        ("applegpu_g16d", "Apple M4 Ultra", 64, "m4-max", "Apple M4 Ultra has no record"),
        ("applegpu_g17d", "", None, "m5-max", "this GPU has no record"),
        ("applegpu_g13p", "Apple A14 GPU", 4, "m1-7", "Apple A14 GPU has no record"),
        ("applegpu_g18g", "Apple M6", 10, "m5", "Apple M6 has no record"),
        ("applegpu_g12d", "Apple M0 Ultra", 64, "m1-ultra", "has no record"),
        ("", "", None, "m4", "this GPU has no record"),
        (None, None, None, "m4", "this GPU has no record"),
        ("x86_64", "AMD EPYC", None, "m4", "AMD EPYC has no record"),
    ],
)
def test_chips_are_matched_by_name_and_cores_then_generation(
    architecture, device, cores, name, note
):
    chip, said = chips.match({"architecture": architecture, "device_name": device}, cores)
    assert chip.name == name
    assert (said is None) if note is None else (note in said)


def test_cores_are_read_from_the_registry():
    assert chips.gpu_cores('+-o AGXAcceleratorG13X\n  "gpu-core-count" = 32\n') == 32
    assert chips.gpu_cores("") is None


def test_without_metal_detection_says_what_it_plans_for(monkeypatch):
    if chips.mx.metal.is_available():
        pytest.skip("this machine has an Apple GPU")
    monkeypatch.setattr(chips.mx.cuda, "is_available", lambda: False)
    chip, note = chips.detect()
    assert chip is chips.DEFAULT
    assert "no Apple GPU here" in note


def test_where_mlx_has_cuda_a_chip_with_more_registers_stands_in(monkeypatch):
    monkeypatch.setattr(chips.mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(chips.mx.cuda, "is_available", lambda: True)
    chip, note = chips.detect()
    assert chip is chips.NVIDIA
    assert chip.cores == max(one.cores for one in chips.CHIPS)
    assert chip.limits.registers > chips.DEFAULT.limits.registers
    assert "nothing is modelled" in note


class TestAccelerators:
    @pytest.mark.parametrize(
        ("system", "build", "note"),
        [
            ("26.2", "26.0", None),
            ("27.0", None, None),
            ("", None, None),
            ("26.1", "26.0", "macOS is 26.1, not 26.2 or later"),
            ("15.7.2", None, "macOS is 15.7.2"),
            ("26.4.1", "14.0", "its wheel is for macOS 14.0, not 26 or later"),
        ],
    )
    def test_mlx_uses_them_from_some_version_on(self, system, build, note):
        m5 = chips.get("m5-max")
        chip, said = as_mlx_uses(m5, system=system, build=build, tf32=True)
        assert (chip == m5) is (note is None)
        assert (chip.neural_fma_per_cycle > 0) is (note is None)
        assert (said is None) if note is None else (note in said)
        assert chip.name == m5.name

    def test_without_tf32_only_float32_stays_off_them(self):
        chip, said = as_mlx_uses(chips.get("m5"), system="26.2", build=None, tf32=False)
        assert chip.neural_fma_per_cycle
        assert not chip.neural_float32_fma_per_cycle
        assert said is None

    def test_a_chip_without_them_is_as_it_was(self):
        m4 = chips.get("m4")
        assert as_mlx_uses(m4, system="15.0", build="14.0", tf32=False) == (m4, None)

    @pytest.mark.parametrize(
        ("value", "enabled"), [(None, True), ("1", True), ("0", False), ("", False), ("yes", False)]
    )
    def test_the_variable_is_read_as_mlx_reads_it(self, value, enabled, monkeypatch):
        monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
        if value is not None:
            monkeypatch.setenv("MLX_ENABLE_TF32", value)
        assert tf32_enabled() is enabled

    @pytest.mark.parametrize(
        ("tag", "build"),
        [
            ("py3-none-macosx_26_0_arm64", "26.0"),
            ("py3-none-macosx_14_0_arm64", "14.0"),
            ("", None),
        ],
    )
    def test_the_build_is_the_wheels(self, tag, build, monkeypatch):
        wheel = SimpleNamespace(read_text=lambda name: f"Wheel-Version: 1.0\nTag: {tag}\n")
        monkeypatch.setattr("importlib.metadata.distribution", lambda name: wheel)
        assert mlx_build() == build

    def test_a_build_from_source_is_not_known(self, monkeypatch):
        def missing(name):
            raise PackageNotFoundError(name)

        monkeypatch.setattr("importlib.metadata.distribution", missing)
        assert mlx_build() is None

    def test_a_mac_is_asked_for_both(self, monkeypatch):
        monkeypatch.setattr(chips.mx.metal, "is_available", lambda: True)
        info = {"architecture": "applegpu_g17g", "device_name": "Apple M5"}
        monkeypatch.setattr(chips.mx, "device_info", lambda: info)
        monkeypatch.setattr(chips, "_registry", lambda: '"gpu-core-count" = 10')
        monkeypatch.setattr("platform.mac_ver", lambda: ("26.1", ("", "", ""), "arm64"))
        chip, note = chips._detect_apple.__wrapped__()
        assert chip.name == "m5"
        assert not chip.neural_fma_per_cycle
        assert note.startswith("MLX leaves the neural accelerators alone")
