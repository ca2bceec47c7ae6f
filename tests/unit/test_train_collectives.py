"""Collectives read from HLO text as the three backends write it."""

from mmtok.train.collectives import by_kind, collectives

LOOP = """
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: bf16[64,8]) -> bf16[16,8] {
  %all-reduce.7 = bf16[64,8]{1,0} all-reduce(%input), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %part = bf16[16,8]{1,0} dynamic-slice(%all-reduce.7, %place, %zero), dynamic_slice_sizes={16,8}
}

%start (x: bf16[16,8]) -> bf16[64,8] {
  %all-gather.1 = bf16[64,8]{1,0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, chain_id="3"
  ROOT %started = bf16[64,8]{1,0} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (x: bf16[16,8]) -> bf16[64,8] {
  ROOT %all-gather.2 = bf16[64,8]{1,0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, chain_id="3"
}

%until (p: (s32[], f32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%turn, %limit), direction=LT
}

%body (p: (s32[], f32[])) -> (s32[], f32[]) {
  %f = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %s = bf16[64,8]{1,0} fusion(%f), kind=kCustom, calls=%start
  %m = bf16[64,8]{1,0} fusion(%f), kind=kCustom, calls=%meanwhile
  ROOT %t = (s32[], f32[]) tuple(%turn, %s)
}

%unused (p: f32[]) -> f32[] {
  ROOT %all-reduce.3 = f32[]{:T(128)} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (p: (s32[], f32[])) -> f32[2] {
  %loop = (s32[], f32[]) while(%p), condition=%until, body=%body
  ROOT %all-reduce.1 = (f32[2]{0}, s32[4]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""

STARTED = """
%scatter (x: f32[64]) -> f32[16] {
  ROOT %reduce-scatter.1 = f32[16]{0} reduce-scatter(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}

%body.1 (p: s32[]) -> s32[] {
  %s = ((f32[64]{0}), f32[16]{0}) async-start(%x), calls=%scatter
  %r = (f32[64]{0}, f32[16]{0}) reduce-scatter-start(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
}

ENTRY %main (p: s32[]) -> s32[] {
  %g = (bf16[8]{0}, bf16[32]{0}) all-gather-start(%p), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}
  %w = s32[] while(%p), condition=%c, body=%body.1, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_loops_fused_scatters_and_repeated_gathers():
    found = by_kind(collectives(LOOP))
    assert found == {
        "all-reduce": (1, 2 * 4 + 4 * 4),
        "all-gather": (12, 12 * 64 * 8 * 2),
        "reduce-scatter": (12, 12 * 64 * 8 * 2),
    }


def test_asynchronous_ones():
    found = by_kind(collectives(STARTED))
    assert found == {"all-gather": (1, 32 * 2), "reduce-scatter": (10, 10 * 64 * 4)}
