"""The one-page summary of a trace."""

import jax
import jax.numpy as jnp
import pytest

from mmtok.train.profile import Instruction, durations, instructions, summary


@pytest.fixture(scope="module")
def compiled():
    def loss(weights, x):
        with jax.named_scope("attention"):
            x = jax.nn.softmax(x @ weights, axis=-1)
        with jax.named_scope("heads"):
            return jnp.log(x @ weights.T + 2).sum()

    def step(weights, x):
        grads = jax.grad(loss)(weights, x)
        with jax.named_scope("optimizer"):
            return weights - jnp.sqrt(jnp.abs(grads) + 1)

    ones = jnp.ones((256, 256))
    return jax.jit(step).lower(ones, ones).compile(), ones


def test_operations_are_told_by_their_scopes(compiled):
    program = instructions(compiled[0].as_text())
    products = [item for item in program.values() if item.opcode == "dot"]
    assert {item.part for item in products} == {"attention", "heads"}
    assert all(item.matmul for item in products)
    assert any(item.part == "optimizer" and not item.matmul for item in program.values())


def test_a_trace_of_real_steps(compiled, tmp_path):
    step, ones = compiled

    def traced(times):
        with jax.profiler.trace(str(tmp_path)):
            for _ in range(times):
                step(ones, ones).block_until_ready()
        return durations(tmp_path)

    before, spent = traced(60), traced(3)
    assert 0 < sum(spent.values()) < sum(before.values()) / 3, "earlier traces in the folder do not count"
    program = instructions(step.as_text())
    assert set(spent) & set(program)
    text = summary(spent, program, steps=3, seconds=1.0, input_wait=0.25)
    assert "3 steps in 1.000 s, 333.3 ms each; input wait  25.0%" in text
    shares = dict(line.rsplit(maxsplit=1) for line in text.splitlines() if line.startswith(("matrix", "heads", "att")))
    assert 0 < float(shares["matrix products"].rstrip("%")) <= 100
    assert 0 < float(shares["heads"].rstrip("%")) <= 100


TILED = """
%fused (a: bf16[64,128]) -> bf16[64,128] {
  ROOT %convolution.4 = bf16[64,128]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
}

ENTRY %main (p: bf16[64,128]) -> bf16[64,128] {
  %fusion.5 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%p), calls=%fused, metadata={op_name="jit/mlp/dot"}
  %while.6 = (s32[]{:T(128)}, /*index=1*/bf16[64,128]{1,0:T(8,128)(2,1)}) while(%fusion.5), condition=%c, body=%b
  %start.7 = ((bf16[8]{0:T(128)}), bf16[32]{0:T(128)}) all-gather-start(%p), channel_id=2
  ROOT %copy.8 = f32[] copy(%start.7)
}
"""


def test_opcodes_follow_types_with_tiles():
    program = instructions(TILED)
    assert {name: (item.opcode, item.matmul) for name, item in program.items()} == {
        "convolution.4": ("convolution", True),
        "fusion.5": ("fusion", True),
        "while.6": ("while", False),
        "start.7": ("all-gather-start", False),
        "copy.8": ("copy", False),
    }
    assert program["fusion.5"].part == "mlp"


def traced_on(folder, plane, *lines):
    """Writes a trace with one plane of lines of (name, events of (name, picoseconds, hlo_op or None))."""
    names = sorted({event for _, events in lines for event, _, _ in events})
    text = ""
    for line, events in lines:
        text += f'lines {{ name: "{line}" timestamp_ns: 1000\n'
        for event, spent, operation in events:
            said = f'stats {{ metadata_id: 1 str_value: "{operation}" }}' if operation else ""
            text += f"events {{ metadata_id: {names.index(event) + 1} duration_ps: {spent} {said} }}\n"
        text += "}\n"
    for index, name in enumerate(names, 1):
        text += f'event_metadata {{ key: {index} value {{ id: {index} name: "{name}" }} }}\n'
    text += 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }'
    profile = jax.profiler.ProfileData.text_proto_to_serialized_xspace(f'planes {{ name: "{plane}" {text} }}')
    (folder / "t.xplane.pb").write_bytes(profile)
    return {name: round(seconds * 1e12) for name, seconds in durations(folder).items()}


def test_kernels_of_gpus_belong_to_operations(tmp_path):
    kernels = ("Stream #7", [("sm90_gemm", 3000, "dot.1"), ("splitk_reduce", 2000, "dot.1"), ("memset", 9000, None)])
    other = ("Stream #8", [("nccl_all_gather", 4000, "all-gather.2")])
    assert traced_on(tmp_path, "/device:GPU:0", kernels, other) == {"dot.1": 5000, "all-gather.2": 4000}


def test_operations_of_tpus_are_named_by_their_text(tmp_path):
    modules = ("XLA Modules", [("jit_step(123)", 9000, None)])
    operations = ("XLA Ops", [("%fusion.2 = f32[8]{0:T(8,128)} fusion(f32[8]{0} %p)", 4000, None)])
    assert traced_on(tmp_path, "/device:TPU:0", modules, operations) == {"fusion.2": 4000}


def test_threads_of_hosts_count_where_they_run_operations(tmp_path):
    thread = ("tf_XLAEigen/1", [("dot.1", 5000, "dot.1"), ("Thunk", 7000, "dot.1"), ("other", 1000, None)])
    assert traced_on(tmp_path, "/host:CPU", thread) == {"dot.1": 5000}


def test_shares_and_order():
    program = {
        "dot.1": Instruction("dot", "jit(step)/jvp(heads)/dot_general", True),
        "fusion.2": Instruction("fusion", "jit(step)/decoder/attention/exp", False),
        "while.3": Instruction("while", "jit(step)/decoder/while", False),
    }
    spent = {"dot.1": 0.3, "fusion.2": 0.1, "while.3": 0.4, "copy of something else": 1.0}
    lines = summary(spent, program, steps=2, seconds=0.5, input_wait=0.0).splitlines()
    assert lines[1].endswith("200.0 ms a step")
    assert lines[3].split() == ["matrix", "products", "75.0%"]
    assert [line.split() for line in lines[4:10]] == [
        ["attention", "25.0%"],
        ["mlp", "0.0%"],
        ["embeddings", "0.0%"],
        ["heads", "75.0%"],
        ["optimizer", "0.0%"],
        ["other", "0.0%"],
    ]
    assert [line.split()[2] for line in lines[12:]] == ["dot.1", "fusion.2"]
