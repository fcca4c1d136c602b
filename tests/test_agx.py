"""The tool that asks Mesa's compiler for registers; only its last class needs that compiler."""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import replace

import pytest
from agx import (
    calibration,
    cli,
    compiler,
    dialect,
    listing,
    markdown,
    mlx_kernels,
    pressure,
    progress,
    project,
    report,
    spirv,
    steps,
)

TEXT = """
#line 3 "some/template"
typedef half T;
[[max_total_threads_per_threadgroup(64)]]
[[kernel]] void {name}(
  const device T* a [[buffer(0)]],
  const constant int& size [[buffer(1)]],
  device float* out [[buffer(2)]],
  uint3 group [[threadgroup_position_in_grid]],
  uint lane [[thread_index_in_simdgroup]]) {{
  if (lane < 32) {{ out[group.x] = float(a[size]); }}
}}
"""
TWO = TEXT.format(name="first") + TEXT.format(name="second").replace("typedef half T;", "")


class TestDialect:
    def test_signature(self):
        (program,) = dialect.convert(TEXT.format(name="mine"))
        assert (program.name, program.threads) == ("mine", (64, 1, 1))
        head, _, body = program.code.partition(f"{dialect.ENTRY}(")
        assert "reqd_work_group_size(64, 1, 1)" in head
        parameters, _, places = body.partition(") {")
        expected = "const device T* a, const constant int* size_at, device float* out"
        assert " ".join(parameters.split()) == expected
        assert "const constant int& size = *size_at;" in places
        assert "const uint3 group = agx::threadgroup_position();" in places
        assert "const uint lane = nir_load_subgroup_invocation();" in places
        assert "out[group.x] = float(a[size]);" in places

    def test_names_and_line_numbers_do_not_count(self):
        one, other = TEXT.format(name="one"), TEXT.format(name="two").replace("#line 3", "#line 9")
        assert dialect.convert(one)[0].code == dialect.convert(other)[0].code

    def test_each_kernel_is_a_program(self):
        first, second = dialect.convert(TWO)
        assert (first.name, second.name) == ("first", "second")
        assert all(one.code.count("out[group.x]") == 1 for one in (first, second))
        assert "typedef half T;" in second.code

    def test_given_threads_win(self):
        (program,) = dialect.convert(TEXT.format(name="k"), (8, 4, 2))
        assert program.threads == (8, 4, 2)
        assert "reqd_work_group_size(8, 4, 2)" in program.code

    def test_buffers_need_no_number(self):
        text = re.sub(r" \[\[buffer\(\d\)\]\]", "", TEXT.format(name="k"))
        assert dialect.convert(text) == dialect.convert(TEXT.format(name="k"))

    def test_the_size_of_the_grid_is_a_parameter(self):
        text = TEXT.format(name="k").replace("threadgroup_position_in_grid", "threads_per_grid")
        (program,) = dialect.convert(text)
        assert f"__constant uint* {dialect.GRID})" in program.code
        assert f"agx::threads_of_all({dialect.GRID});" in program.code

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("float f();", "with a kernel"),
            ("[[kernel]] void f(device int* a [[buffer(0)]]) {}", "threads of a threadgroup of f"),
            (
                TEXT.format(name="f").replace("[[buffer(2)]]", "[[stage_in]]"),
                "known parameter of f",
            ),
            ("[[kernel]] void f(int a {", "Expected a"),
        ],
    )
    def test_refusals(self, text, message):
        with pytest.raises(dialect.DialectError, match=message):
            dialect.convert(text)

    def test_split_keeps_brackets_together(self):
        assert dialect.split("a<b, c> d, e(f, g), [[h(1), i]] j") == [
            "a<b, c> d",
            "e(f, g)",
            "[[h(1), i]] j",
        ]


def words(*instructions):
    """Return SPIR-V of instructions, each an opcode and its operands."""
    body = [
        word for opcode, *rest in instructions for word in (len(rest) + 1 << 16 | opcode, *rest)
    ]
    return struct.pack(f"={5 + len(body)}I", 0x07230203, 0x10400, 0, 9, 0, *body)


NAME = struct.unpack("=2I", b"kernel\0\0")
ENTRY_POINT = (15, 6, 7, *NAME, 3)
DECORATION = (71, 3, 11, 26)


class TestSpirv:
    def test_a_kernel_is_exported(self):
        module = words((17, 6), ENTRY_POINT, DECORATION, (54, 1))
        exported = words((17, 6), ENTRY_POINT, (71, 7, 41, *NAME, 0), DECORATION, (54, 1))
        assert spirv.prepare(module) == exported

    def test_contraction_is_allowed(self):
        size = (16, 7, 17, 32, 1, 1)
        module = words(ENTRY_POINT, size, (16, 7, 31), DECORATION)
        assert spirv.prepare(module) == words(ENTRY_POINT, size, (71, 7, 41, *NAME, 0), DECORATION)

    def test_wide_loads_are_aligned(self):
        types = ((21, 8, 64, 0), (21, 9, 32, 0))
        loads = (
            (61, 8, 20, 30, 2, 2),
            (61, 8, 21, 30, 2, 8),
            (61, 9, 22, 30, 2, 2),
            (61, 8, 23, 30),
        )
        raised = ((61, 8, 20, 30, 2, 4), *loads[1:])
        kept = spirv.prepare(words(ENTRY_POINT, DECORATION, *types, *loads))
        expected = words(ENTRY_POINT, (71, 7, 41, *NAME, 0), DECORATION, *types, *raised)
        assert kept == expected

    @pytest.mark.parametrize("module", [words((17, 6), DECORATION), words((17, 6), ENTRY_POINT)])
    def test_nothing_to_export(self, module):
        with pytest.raises(ValueError, match="with a kernel and decorations"):
            spirv.prepare(module)


def shader(text):
    """Return a shader as it is read from the second of three that are printed."""
    other = "block0 {\n   stop \n}\n\n"
    found = listing.scheduled(f"shared_size: 64\n{other}{text}\n{other}{other}")
    assert found is not None
    return found


# A loop in block 1 with two ways through it, and in block 5 a loop inside it.
LOOPS = """block0 {
   0d = mov u0:u1
   1 = mov_imm #7
} -> block1

block1 {
   2d = phi 0d, 9d
   3h = device_load 2d, #0, xyzw, #0, slot 0
   if_icmp 1, #4, #0, n=1
} -> block2 block3  from block0 block5

block2 {
   4h = local_load 1, #0, x, #0
   5h = local_load 1, #1, x, #0
} -> block4  from block1

block3 {
   6h = local_load 1, #2, x, #0
} -> block4  from block1

block4 {
   8 = iadd 1, #1, #0
} -> block5  from block2 block3

block5 {
   9d = iadd 2d, 0d, #0
   threadgroup_barrier
} -> block5 block1 block6  from block4 block5

block6 {
   device_store 3h, 9d, #0, xyzw, #0, slot 0
   stop
} from block5
"""


class TestListing:
    def test_blocks_and_instructions(self):
        blocks = shader(LOOPS).blocks
        assert len(blocks) == 7
        assert (blocks[4].predecessors, blocks[4].successors) == ((2, 3), (5,))
        load = blocks[1].instructions[1]
        assert (load.operation, load.channels) == ("device_load", 4)
        assert (load.made, load.used) == ({3}, {2})
        assert [one.operation for one in blocks[1].phis] == ["phi"]

    def test_loops_inner_first(self):
        assert shader(LOOPS).loops == (frozenset({5}), frozenset({1, 2, 3, 4, 5}))

    def test_a_log_without_the_three_shaders(self):
        assert listing.scheduled("block0 {\n   stop \n}\n") is None


class TestPressure:
    @pytest.mark.parametrize(
        ("code", "halves"),
        [
            # 2 + 2 live together, then 2.
            ("0 = mov u0\n1 = mov u1\n2 = fadd 0, 1\ndevice_store 2, u4:u5, #0, x, #0, slot 0", 4),
            # Four halves of a load, and the pair that addresses it is dead by then.
            ("0d = mov u0:u1\n1h = device_load 0d, #0, xyzw, #0, slot 0\nuse 1h", 4),
            # The pair lives on.
            ("0d = mov u0:u1\n1h = device_load 0d, #0, xyzw, #0, slot 0\nuse 1h, 0d", 8),
            # Three elements take the room of four.
            ("0 = device_load u0:u1, #0, xyz, #0, slot 0\nuse 0", 8),
            # A vector is as wide as its parts.
            ("0 = mov u0\n1d = collect 0, u1\n2h = collect u4l, u5h\nuse 1d, 2h", 6),
            # What is not used takes room where it is made.
            ("0 = mov u0\n1, 2 = split 0\nuse 0", 6),
        ],
    )
    def test_straight_code(self, code, halves):
        body = "".join(f"   {line}\n" for line in code.splitlines())
        found = pressure.demand(shader(f"block0 {{\n{body}}}\n"))
        assert found == pressure.Demand(halves=halves, in_loop=False)

    def test_loops(self):
        # In block 5: 0d, 1, 2d, 9d, the four halves of 3h, and one half for control flow.
        assert pressure.demand(shader(LOOPS)) == pressure.Demand(halves=19, in_loop=True)

    def test_a_phi_takes_the_room_of_its_operand(self):
        first = "block0 {\n   0d = mov u0:u1\n} -> block1\n"
        second = "block1 {\n   1d = phi 0d\n   use 1d\n} from block0\n"
        assert pressure.demand(shader(f"{first}\n{second}")).halves == 4 + 1

    def test_widest_outside_the_loop(self):
        wide = "".join(f"   {20 + i}d = mov u0:u1\n" for i in range(6))
        uses = "".join(f"   use {20 + i}d\n" for i in range(6))
        text = LOOPS.replace("   stop\n", f"{wide}{uses}   stop\n")
        assert pressure.demand(shader(text)) == pressure.Demand(halves=25, in_loop=False)


PRODUCTS = """block0 {
   0d = mov u0:u1
   1d = mov u2:u3
} -> block1

block1 {
   2d = phi #0, 9d
   3d = phi 0d, 10d
   4 = device_load 3d, #0, xy, #0, slot 0
   5d = collect 4, u8
   6d = iadd 5d, 1d, #0
   7d = iadd 6d, 2d, #0
   8d = iadd 5d, 5d, #0
   9d = iadd 8d, 7d, #0
   10d = iadd 3d, 1d, #0
   11d = iadd 1d, 0d, #0
   12, 13 = split 11d
   14h = icmp 12, #3, #0
   if_icmp 14h, #0, #0, n=1
} -> block1 block2  from block0 block1

block2 {
   15d = iadd 5d, 0d, #0
   device_store 9d, 3d, #0, xy, #0, slot 0
   device_store 15d, 3d, #0, xy, #0, slot 0
   stop
} from block1
"""


class TestSteps:
    def test_the_heavier_way_counts(self):
        step = steps.main_step(shader(LOOPS))
        assert (step.device_loads, step.threadgroup_loads, step.barriers) == (1, 2, 1)
        assert step.instructions == 7

    def test_products_are_told_from_addresses_and_bounds(self):
        # 5d + 1d + 2d and 5d + 5d + 7d; 10d is an address, 11d is compared.
        assert steps.main_step(shader(PRODUCTS)).products == 2

    def test_products_may_decide_what_follows(self):
        compared = "   16, 17 = split 9d\n   18h = fcmpsel 16, #0.0, #1, #0, #0\n"
        compared += "   19h = icmp 18h, #0, #0\n"
        text = PRODUCTS.replace("   if_icmp 14h", f"{compared}   if_icmp 14h")
        assert steps.main_step(shader(text)).products == 2

    def test_a_product_added_to_zero_is_one_addition(self):
        text = PRODUCTS.replace("   7d = iadd 6d, 2d, #0\n", "").replace("8d, 7d", "8d, 6d")
        assert steps.main_step(shader(text)).products == 2

    def test_narrow_products_are_multiplied_first(self):
        # One element of a narrow product is enough to know it by; floats of 32 bits are not.
        narrow = "   20 = fmul 4h, 4\n   21 = fmul 4h, 4\n   8d = collect 20, 21\n"
        text = PRODUCTS.replace("   8d = iadd 5d, 5d, #0\n", narrow)
        assert steps.main_step(shader(text)).products == 2
        text = text.replace("4h", "4").replace("iadd 6d, 2d", "iadd 5d, 2d")
        assert steps.main_step(shader(text)).products == 2
        assert steps.main_step(shader(text.replace("fmul 4,", "fmul 4h,"))).products == 3

    def test_no_loop(self):
        assert steps.main_step(shader("block0 {\n   0 = mov u0\n}\n")) == steps.Step()


LOG = "shared_size: 512\nshared_size: 768\n" + "block0 {\n   0d = mov u0:u1\n   use 0d\n}\n\n" * 3
STATISTICS = (
    "SHADER-DB:  - MESA_SHADER_COMPUTE shader: 1259 inst, 890 alu, 890 fscib, 348 ic, 9228 bytes, "
    "199 regs, 104 uniforms, 16 scratch, 512 threads, 1 loops, 7:9 spills:fills\n"
)


class TestBuild:
    def test_what_is_read(self):
        build = compiler.read_build(LOG, STATISTICS)
        assert build == compiler.Build(
            registers=2,
            in_loop=False,
            occupancy=512,
            spills=7,
            fills=9,
            instructions=1259,
            threadgroup_bytes=768,
            step=steps.Step(),
        )

    @pytest.mark.parametrize(("log", "statistics"), [("", STATISTICS), (LOG, "crashed")])
    def test_nothing_to_read(self, log, statistics):
        with pytest.raises(compiler.CompileError, match="statistics"):
            compiler.read_build(log, statistics)

    def test_results_are_kept_by_what_they_depend_on(self, tmp_path, monkeypatch):
        made = []

        class Counted(compiler.Compiler):
            identity = "these compilers"

            def run(self, program, flags):
                made.append(program)
                return LOG, STATISTICS

        (program,) = dialect.convert(TEXT.format(name="k"))
        first = Counted(tmp_path, tmp_path, tmp_path / "cache")
        assert not first.knows(program)
        bracket = first.bracket(program)
        assert first.knows(program)
        assert len(made) == 2
        assert Counted(tmp_path, tmp_path, tmp_path / "cache").bracket(program) == bracket
        assert len(made) == 2
        changed = replace(program, code=program.code + "\n")
        assert not first.knows(changed)
        first.bracket(changed)
        assert len(made) == 4
        first.identity = "others"
        first.bracket(program)
        assert len(made) == 6

    @pytest.mark.parametrize(
        ("refusal", "tried"), [(compiler.CompileError, 1), (compiler.ExpiredError, 2)]
    )
    def test_a_refusal_is_kept_unless_time_ran_out(self, tmp_path, refusal, tried):
        made = []

        class Refusing(compiler.Compiler):
            identity = "these compilers"

            def run(self, program, flags):
                made.append(program)
                raise refusal("[agx] it crashed")

        (program,) = dialect.convert(TEXT.format(name="k"))
        for _ in range(2):
            again = Refusing(tmp_path, tmp_path, tmp_path / "cache")
            with pytest.raises(compiler.CompileError, match="crashed"):
                again.bracket(program)
        assert again.knows(program) is (tried == 1)
        assert len(made) == tried


class TestRun:
    """What is made of what a compiler does."""

    @pytest.fixture
    def run(self, tmp_path):
        def run(script):
            program = tmp_path / "program"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            return compiler._checked([program, "argument"], tmp_path)

        return run

    def test_both_outputs(self, run):
        assert run('echo "$AGX_MESA_DEBUG" $1; echo words >&2') == (
            "shaderdb,shaders,demand,internal argument\n",
            "words\n",
        )

    def test_failure(self, run):
        with pytest.raises(compiler.CompileError, match="program: it failed"):
            run("echo it failed >&2; exit 3")
        with pytest.raises(compiler.CompileError, match="status 3"):
            run("exit 3")

    def test_what_never_ends(self, run, monkeypatch):
        monkeypatch.setattr(compiler, "TIMEOUT_SECONDS", 0.2)
        with pytest.raises(compiler.CompileError, match=r"did not end in 0\.2 s"):
            run("exec sleep 60")

    def test_what_is_said_for_ever(self, run):
        with pytest.raises(compiler.CompileError, match=r"Unhandled ALU op pack$"):
            run("while true; do echo Unhandled ALU op pack >&2; done")


BUILD = compiler.Build(
    registers=72,
    in_loop=True,
    occupancy=704,
    spills=0,
    fills=0,
    instructions=500,
    threadgroup_bytes=5376,
    step=steps.Step(products=32, threadgroup_loads=32, instructions=180),
)


def row(config="64x64", digest="aa", low=BUILD, high=BUILD, reason=""):
    return report.Row(
        kernel="gemm",
        problem="m 4",
        config=config,
        digest=digest,
        threads=128,
        estimate=72,
        threadgroup_bytes=5376,
        usual=True,
        bracket=None if reason else compiler.Bracket(low=low, high=high),
        reason=reason,
    )


def fake_text(metal):
    (program,) = dialect.convert(metal)
    return project.Text(
        kernel="gemm",
        config=str(len(metal)),
        problem="m 4",
        program=program,
        estimate=64,
        threadgroup_bytes=0,
        metal=metal,
        usual=True,
    )


def full(*rows):
    return report.Report(chip="m1", core_memory=61440, compilers="clang", rows=rows)


class TestReport:
    def test_kept_and_read(self, tmp_path):
        wide = replace(BUILD, registers=140, spills=5, fills=9, occupancy=384, in_loop=False)
        made = full(row(), row("32x32", "bb", high=wide), row("8x8", "cc", reason='no "end"'))
        path = tmp_path / "report.json"
        report.save(made, path)
        assert report.load(path) == made
        assert len(path.read_text().splitlines()) == len(made.rows) + 6

    def test_texts_as_they_were_are_not_compiled_again(self, tmp_path, monkeypatch):
        text = fake_text(TEXT.format(name="k"))
        other = fake_text(TEXT.format(name="k").replace("a[size]", "a[size + 1]"))
        before = row(digest=report.digest(text.program), low=replace(BUILD, registers=61))
        before = replace(before, kernel="gemv", problem="m 9")
        earlier = tmp_path / "earlier.json"
        report.save(full(before), earlier)
        made = []

        class Counted(compiler.Compiler):
            identity = "these compilers"
            description = "clang"

            def run(self, program, flags):
                made.append(program)
                return LOG, STATISTICS

        monkeypatch.setattr(cli, "find", lambda cache: Counted(tmp_path, tmp_path, cache))
        monkeypatch.setattr(cli.project, "every_text", lambda chip: iter((text, other)))
        now = tmp_path / "now.json"
        options = ["--cache", str(tmp_path / "cache"), "report", "--reuse", str(earlier)]
        assert cli.main([*options, "--known", "--json", str(now)]) == 0
        (kept,) = report.load(now).rows
        assert kept == report.Row(
            kernel=text.kernel,
            problem=text.problem,
            config=text.config,
            digest=before.digest,
            threads=64,
            estimate=text.estimate,
            threadgroup_bytes=text.threadgroup_bytes,
            usual=text.usual,
            bracket=before.bracket,
            reason="",
        )
        assert not made
        assert cli.main([*options, "--json", str(now)]) == 0
        assert [one.digest for one in report.load(now).rows] == [
            report.digest(one.program) for one in (text, other)
        ]
        assert made == [other.program] * 2
        report.save(full(replace(before, bracket=None, reason="no end")), earlier)
        assert cli.main([*options, "--known", "--json", str(now)]) == 1
        assert [one.reason for one in report.load(now).rows] == ["no end", ""]
        Counted.description = "another clang"
        assert cli.main([*options, "--json", str(now)]) == 2

    def test_another_file(self, tmp_path):
        path = tmp_path / "report.json"
        path.write_text('{"columns": ["digest"]}')
        with pytest.raises(ValueError, match="a report of this version"):
            report.load(path)

    @pytest.mark.parametrize(
        ("changed", "change", "worse"),
        [
            ({"registers": 84}, "+12 registers", True),
            ({"registers": 60}, "-12 registers", False),
            ({"spills": 3}, "new spill, 3", True),
            ({"occupancy": 640, "registers": 74}, "704 -> 640 threads, high: +2 registers", True),
            ({"occupancy": 768}, "704 -> 768 threads", False),
        ],
    )
    def test_notable_changes(self, changed, change, worse):
        now = row(high=replace(BUILD, **changed))
        (found,) = report.compare([now], [row()]).changes
        assert ", ".join(found.words) == f"high: {change}"
        assert found.worse is worse

    def test_spills_that_go_and_grow(self):
        before = row(low=replace(BUILD, spills=4), high=replace(BUILD, spills=4))
        now = row(high=replace(BUILD, spills=6))
        (found,) = report.compare([now], [before]).changes
        assert found.words == ("low: no spill any more", "high: +2 spills")
        assert found.worse

    def test_threadgroup_memory_and_refusals(self):
        larger = replace(BUILD, threadgroup_bytes=5632)
        (grown,) = report.compare([row(low=larger, high=larger)], [row()]).changes
        assert grown.words == ("+256 threadgroup bytes",)
        (refused,) = report.compare([row(reason="crash")], [row()]).changes
        assert (refused.words, refused.worse) == (("does not compile any more: crash",), True)
        (back,) = report.compare([row()], [row(reason="crash")]).changes
        assert (back.words, back.worse) == (("compiles now",), False)

    def test_counts(self):
        little = row("b", "b", low=replace(BUILD, registers=73))
        found = report.compare(
            [row("a", "new"), little, row("c", "c"), row("renamed", "d")],
            [row("a", "a"), row("b", "b"), row("old", "d"), row("gone", "e")],
        )
        assert not found.changes
        assert (found.small, found.same, found.new, found.gone) == (1, 2, 1, 1)

    def test_worse_first(self):
        better = row("a", low=replace(BUILD, registers=40))
        worse = row("b", low=replace(BUILD, registers=100))
        found = report.compare([better, worse], [row("a"), row("b")])
        assert [one.worse for one in found.changes] == [True, False]

    @pytest.mark.parametrize(
        ("threads", "occupancy", "used", "held"),
        [(128, 704, 0, 640), (128, 704, 16384, 384), (1024, 704, 0, 0), (64, 704, 5376, 704)],
    )
    def test_resident(self, threads, occupancy, used, held):
        build = replace(BUILD, occupancy=occupancy, threadgroup_bytes=used)
        assert report.resident(build, threads, 61440) == held


def comparison(mlx, *ours, group="Attention", name="D 64"):
    sides = [
        calibration.Side(
            name=kernel,
            threads=128,
            bracket=compiler.Bracket(low=low, high=high),
            reason="",
        )
        for kernel, low, high in ours
    ]
    theirs = calibration.Side(
        name="MLX", threads=128, bracket=compiler.Bracket(low=mlx, high=mlx), reason=""
    )
    case = calibration.Case(group=group, name=name, mlx=lambda: None, kernels=("ours",))
    return calibration.Row(case=case, mlx=theirs, ours=tuple(sides))


class TestProgress:
    def test_kept_and_read(self, tmp_path):
        rows = [comparison(BUILD, ("ours", BUILD, replace(BUILD, registers=80, spills=3)))]
        path = tmp_path / "before.json"
        progress.save(rows, path)
        assert progress.load(path) == progress.kept(rows)
        assert progress.load(path)["Attention: D 64"]["ours"].spills == (BUILD.spills, 3)

    @pytest.mark.parametrize(
        ("change", "met"),
        [
            ({}, True),
            ({"registers": BUILD.registers + 4}, True),
            ({"registers": BUILD.registers + 5}, False),
            ({"spills": 1}, False),
            ({"occupancy": BUILD.occupancy - 128}, False),
        ],
        ids=str,
    )
    def test_goal(self, change, met):
        rows = [comparison(BUILD, ("ours", BUILD, replace(BUILD, **change)))]
        text = progress.to_markdown(rows, {}, "clang", "command")
        assert ("| met |" in text, "| not met |" in text) == (met, not met)
        assert f"Of 1 cases {int(met)} are met" in text

    @pytest.mark.parametrize("more", [0, 1])
    def test_the_comparison_says_first_what_it_says(self, more):
        wide = replace(BUILD, registers=BUILD.registers + more)
        text = calibration.to_markdown([comparison(BUILD, ("ours", BUILD, wide))], "clang", "c")
        assert f"In {1 - more} of 1 cases a kernel of ours wants no more registers" in text

    def test_both_times(self):
        wide = replace(BUILD, registers=140, spills=5)
        before = progress.kept([comparison(BUILD, ("gone", wide, wide), ("ours", wide, wide))])
        rows = [comparison(BUILD, ("ours", BUILD, BUILD), ("new", BUILD, BUILD))]
        text = progress.to_markdown(rows, before, "clang", "command")
        pair = f"{BUILD.registers} \\| {BUILD.registers}"
        spilled = "140 \\| 140, spills 5 \\| 5"
        assert "| Attention | 1 | 0 | 1 | 2 | 0 |" in text
        assert f"| D 64 | gone | {pair} | {spilled} |  |" in text
        assert f"|  | ours | {pair} | {spilled} | {pair} |" in text
        assert f"|  | new | {pair} |  | {pair} |" in text


def test_no_refusal_tells_where_files_lie():
    class Refusing:
        def bracket(self, program):
            raise compiler.CompileError("/tmp/some/place/k.cl:3: no 1/2 of 'a/b' in /opt/x.h")

    _, reason = report.compiled(Refusing(), None)
    assert reason == "k.cl:3: no 1/2 of 'a/b' in x.h"


class TestMarkdown:
    def test_sections(self):
        wide = replace(BUILD, registers=140, spills=5, occupancy=384)
        made = full(row(), row("32x32", "bb", high=wide), row("8x8", "cc", reason="crash"))
        difference = report.compare(made.rows, [row(), row("32x32", "bb")])
        text = markdown.markdown(made, difference, "the command")
        assert "    the command\n" in text
        assert "high: new spill, 5" in text
        assert "| gemm | 2 | 72 \\| 106 | 72 \\| 140 | 72 | 0 \\| 1 | 0 | 0 |" in text
        widest = text.partition("## Widest of gemm")[2]
        assert widest.index("| 32x32 |") < widest.index("| 64x64 |")
        assert "| gemm | 8x8 | m 4 | crash |" in text.partition("## Not compiled")[2]

    def test_how_many_of_all(self):
        assert "# Registers and spills of 1 texts\n" in markdown.markdown(full(row()), None, "c", 1)
        text = markdown.markdown(full(row()), None, "c", 7)
        assert "# Registers and spills of 1 of 7 texts\n" in text

    def test_errors_of_estimates(self):
        wider = row("32x32", "bb", high=replace(BUILD, registers=BUILD.registers + 8))
        text = markdown.markdown(full(row(), wider, row("8x8", "cc", reason="crash")), None, "c")
        assert "2 texts were compiled, 1 were refused by a compiler. 0 spill" in text
        section = text.partition("## Estimates")[2].partition("\n## ")[0]
        assert "| gemm | 2 | 2.0 | -2.0 | -4 | +0 |" in section

    def test_without_an_earlier_report(self):
        text = markdown.markdown(full(row()), None, "c")
        assert "earlier" not in text
        assert "Not compiled" not in text


HEADERS = {
    "helper.h": "#pragma once\nMETAL_FUNC int one() { return 1; } // a > b\n",
    "kernels.h": """
#include "mlx/backend/metal/kernels/utils.h"
#include "mlx/backend/metal/kernels/helper.h"
#include "mlx/backend/metal/kernels/helper.h"
constant bool scaled [[function_constant(3)]];
constant int blocks [[function_constant(4)]];
template <typename T, int N /* of > 1 */, bool B = true>
[[kernel, max_total_threads_per_threadgroup(N * 32)]] void mine(
    device T* out [[buffer(0)]], // all of them
    const constant float& scale [[buffer(1), function_constant(scaled)]],
    const device T* more [[buffer(2), function_constant(scaled)]],
    uint lane [[thread_index_in_simdgroup]]) { out[lane] = T(N + blocks); }
template <typename T, typename U = Other<T, T>>
[[kernel]] void another(device T* out [[buffer(0)]]) { out[0] = T(0); }
""",
}


class TestMlxKernels:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        below = tmp_path / mlx_kernels.KERNELS
        below.mkdir(parents=True)
        for name, text in HEADERS.items():
            (below / name).write_text(text)
        monkeypatch.setattr(mlx_kernels, "headers", lambda: tmp_path)

    def instance(self, **constants):
        return mlx_kernels.instance("kernels", "mine", "half, 4", (32, 4, 1), constants).code

    def test_a_template_is_written_out(self, folder):
        code = self.instance(blocks=7)
        for line in (
            "typedef half T;",
            "constant constexpr int N = 4;",
            "constant constexpr bool B = true;",
            "constant constexpr int blocks = int(7);",
            "constant constexpr bool scaled = bool(0);",
        ):
            assert line in code
        assert "reqd_work_group_size(32, 4, 1)" in code
        assert code.count("int one()") == 1
        assert "another" not in code

    def test_buffers_that_are_left_out(self, folder):
        code = self.instance()
        parameters = code.partition(f"{dialect.ENTRY}(")[2].partition(")")[0]
        assert " ".join(parameters.split()) == "device T* out"
        assert "const float scale = 0; const device T* more = 0;" in " ".join(code.split())

    def test_buffers_that_are_there(self, folder):
        parameters = self.instance(scaled=1).partition(f"{dialect.ENTRY}(")[2].partition(")")[0]
        assert "const constant float* scale_at" in parameters
        assert "const device T* more" in parameters


class TestCommand:
    def test_no_compiler_is_no_pass(self, monkeypatch, capsys, tmp_path):
        monkeypatch.delenv(compiler.ENVIRONMENT_VARIABLE, raising=False)
        assert cli.main(["text", "-"]) == 2
        assert compiler.ENVIRONMENT_VARIABLE in capsys.readouterr().err
        monkeypatch.setenv(compiler.ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
        assert cli.main(["text", "-"]) == 2
        assert "cannot be run" in capsys.readouterr().err

    def test_extent(self):
        assert cli._extent("128") == (128, 1, 1)
        assert cli._extent("32x4x2") == (32, 4, 2)


@pytest.mark.parametrize(
    ("spelled", "kernel"),
    [
        ("64x64x64:f16", "gemm_simdgroup"),
        ("8x64x64:f16:affine4x64", "quantized_gemv"),
        ("quantized-matmul=8x64x64:f16:mxfp4", "quantized_gemv"),
        ("experts=2x2x4x64x64:f16", "expert_gemv"),
        ("segments=64x64x256:f16:tn", "segmented_gemm"),
    ],
)
def test_problems_of_every_family_are_spelled(spelled, kernel):
    from agx import project

    assert kernel in {text.kernel for text in project.texts_of(spelled, "m1")}


def test_an_unknown_option_is_refused():
    from agx import project

    with pytest.raises(ValueError, match="option of a family before '=', got 'matmule'"):
        list(project.texts_of("matmule=64x64x64", "m1"))


def test_texts_of_one_name_are_not_kept_for_two(tmp_path, monkeypatch):
    from agx import project

    from mlx_tilegemm.call import compiled

    monkeypatch.setattr(compiled, "TABLE", tmp_path / "compiled.tsv")
    (text,) = project.texts_of("64x64x64:f16", "m1", "gemm_simdgroup/32x32x16-2x2-direct")
    low, high = replace(BUILD, registers=70), BUILD
    same = (text, compiler.Bracket(low=low, high=high))
    assert project.keep([same, same]) == 1
    found = compiled.compiled(text.metal)
    compiled._table.cache_clear()
    assert found == compiled.Compiled(low=70, high=72, spills=False)
    with pytest.raises(ValueError, match="one text of the name"):
        project.keep([same, (text, compiler.Bracket(low=low, high=low))])


def front_end(program, folder):
    """Return what clang says of a program, which it turns into SPIR-V."""
    zig = pytest.importorskip("ziglang", reason="no clang that writes SPIR-V")
    found = compiler.Compiler(folder, compiler.Path(zig.__file__).parent / "zig")
    (folder / "kernel.cl").write_text(program.code)
    command = found.clang((), "kernel.spv", "kernel.cl")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        spirv.prepare((folder / "kernel.spv").read_bytes())
    return done.returncode, done.stderr


LIBRARY = """
[[max_total_threads_per_threadgroup(32)]]
[[kernel]] void library(
  device float* out [[buffer(0)]],
  const device bfloat* b [[buffer(1)]],
  constant half4& h [[buffer(2)]],
  uint2 at [[thread_position_in_grid]],
  uint3 size [[threads_per_grid]],
  uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[32];
  simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_half8x8 narrow;
  simdgroup_load(narrow, (const device half*)b, 8);
  simdgroup_multiply_accumulate(sum, narrow, narrow, sum);
  simdgroup_store(sum, shared, 8);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float4 v = float4(h) * 2.0f + float4(float2(b[0], b[1]), float2(1.0f));
  v.xy += v.zw;
  v[at.x % 4] = simd_shuffle_xor(v.x, ushort(1)) + float(simd_shuffle(b[lane], ushort(2)));
  const int3 n = int3(uint3(size)) % 5;
  v.y = select(tanh(v.y), precise::exp2(fast::exp(v.z)), any(v.x) && isnan(v.w));
  out[lane] = simd_sum(v.x) + max(v.y, clamp(v.z, 0.0f, 1.0f)) + float(n.z) + shared[lane] +
      float(bfloat(v.w)) + float(simd_prefix_exclusive_sum(popcount(lane)));
}
""".replace("any(v.x)", "simd_any(v.x > 0.0f)")


class TestFrontEnd:
    def test_library(self, tmp_path):
        (program,) = dialect.convert(LIBRARY)
        assert front_end(program, tmp_path) == (0, "")

    def test_mistakes_are_found(self, tmp_path):
        (program,) = dialect.convert(LIBRARY.replace("tanh", "tanhh"))
        status, said = front_end(program, tmp_path)
        assert status != 0
        assert "tanhh" in said

    @pytest.mark.slow
    def test_a_text_of_every_kernel(self, tmp_path):
        from agx import project

        left = {"gemm_simdgroup", "gemm_scalar", "gemv", "reduce_splits"}
        left |= {"attention_chain", "attention_decode", "combine_splits"}
        left |= {"attention_backward_query", "attention_backward_key_value"}
        left |= {"expert_gemm", "expert_gemv", "scaled_gemm", "delta_recurrent", "delta_chunk"}
        for text in project.every_text("m1"):
            if text.kernel in left:
                left.remove(text.kernel)
                assert front_end(text.program, tmp_path) == (0, ""), text
            if not left:
                return
        pytest.fail(f"no text of {left}")

    @pytest.mark.slow
    def test_a_kernel_of_mlx_in_every_table(self, tmp_path):
        from agx import calibration

        tried = set()
        for case in calibration.cases():
            if case.group not in tried:
                tried.add(case.group)
                assert front_end(case.mlx(), tmp_path) == (0, ""), case.name
        assert len(tried) > 5


@pytest.fixture(scope="module")
def mesa():
    """The compilers of this machine."""
    try:
        return compiler.find()
    except compiler.MissingError as missing:
        pytest.skip(str(missing))


CROWDED = """
[[max_total_threads_per_threadgroup(32)]]
[[kernel]] void crowded(
  device float* out [[buffer(0)]], constant int& n [[buffer(1)]],
  uint lane [[thread_index_in_simdgroup]]) {
  float values[COUNT], sum = 0.0f;
  MLX_MTL_PRAGMA_UNROLL
  for (int i = 0; i < COUNT; ++i) { values[i] = float(lane + i); }
  for (int turn = 0; turn < n; ++turn) {
    MLX_MTL_PRAGMA_UNROLL
    for (int i = 0; i < COUNT; ++i) { values[i] = values[i] * values[(i + 1) % COUNT] + 1.0f; }
  }
  MLX_MTL_PRAGMA_UNROLL
  for (int i = 0; i < COUNT; ++i) { sum += values[i]; }
  out[lane] = sum;
}
"""


class TestMesa:
    @pytest.mark.parametrize(("count", "spills"), [(40, False), (100, False), (180, True)])
    def test_registers_of_values_that_live_together(self, mesa, count, spills):
        (program,) = dialect.convert(CROWDED.replace("COUNT", str(count)))
        bracket = mesa.bracket(program)
        for build in (bracket.low, bracket.high):
            assert count <= build.registers <= count + 8
            assert (build.spills > 0) is spills
            assert build.in_loop

    def test_demand_is_what_mesa_counts(self, mesa):
        from agx import project

        (text,) = project.texts_of("1000x1000x1000:f16", "m1", "gemm_simdgroup/64x64x16-2x2-staged")
        log, statistics = mesa.run(text.program, ())
        printed = int(statistics.partition(" regs")[0].rpartition(" ")[2])
        halves = pressure.demand(listing.scheduled(log)).halves
        assert halves - 8 < printed < halves + 8

    @pytest.mark.parametrize(
        ("spelled", "kernel", "products"),
        [
            ("4096x4096x4096:f16", "gemm_simdgroup/64x64x16-2x2-staged", 4 * 4 * 2),
            ("1x2x1x64x64x128:f16", "attention_chain/32x16-staged", 16 * 2 * 2),
        ],
    )
    def test_our_kernels(self, mesa, spelled, kernel, products):
        from agx import project

        (text,) = project.texts_of(spelled, "m1", kernel)
        bracket = mesa.bracket(text.program)
        assert bracket.low.step.products == bracket.high.step.products == products
        assert bracket.low.threadgroup_bytes == text.threadgroup_bytes

    def test_mlx_kernel_of_the_same_tile(self, mesa):
        from agx import calibration

        case = next(one for one in calibration.cases() if one.name == "nn f16 111")
        found = calibration.row(mesa, case)
        sides = [found.mlx, *(one for one in found.ours if one.name.endswith("staged"))]
        assert len(sides) == 2
        for side in sides:
            assert side.bracket is not None, side.reason
            assert side.bracket.low.step.products == 32
            assert side.bracket.low.threadgroup_bytes == 5376
            assert side.bracket.high.spills == 0

    def test_refusal_has_its_reason(self, mesa):
        (program,) = dialect.convert(TEXT.format(name="k").replace("out[group.x]", "nothing"))
        with pytest.raises(compiler.CompileError, match="nothing"):
            mesa.bracket(program)
