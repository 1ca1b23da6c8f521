"""Memory traffic: what is read and written, once for each run."""

from rnope_jax.planning.hlo import Module
from rnope_jax.planning.traffic import memory_traffic

PROGRAM = """HloModule jit_f, is_scheduled=true

%inner (p.0: f32[100,10], p.1: s32[], p.2: f32[1,10]) -> f32[100,10] {
  %p.0 = f32[100,10]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[1,10]{1,0} parameter(2)
  %c.0 = s32[] constant(0)
  %slice.1 = f32[1,10]{1,0} dynamic-slice(%p.0, %p.1, %c.0), dynamic_slice_sizes={1,10}
  %sum.1 = f32[1,10]{1,0} add(%slice.1, %p.2)
  ROOT %put.1 = f32[100,10]{1,0} dynamic-update-slice(%p.0, %sum.1, %p.1, %c.0)
}

%condition (s.0: (s32[], f32[100,10])) -> pred[] {
  %s.0 = (s32[], f32[100,10]{1,0}) parameter(0)
  %i.0 = s32[] get-tuple-element(%s.0), index=0
  %n.0 = s32[] constant(100)
  ROOT %lt.0 = pred[] compare(%i.0, %n.0), direction=LT
}

%body (s.1: (s32[], f32[100,10])) -> (s32[], f32[100,10]) {
  %s.1 = (s32[], f32[100,10]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %x.1 = f32[100,10]{1,0} get-tuple-element(%s.1), index=1
  %one.1 = f32[1,10]{1,0:S(1)} constant({...})
  %fusion.1 = f32[100,10]{1,0} fusion(%x.1, %i.1, %one.1), kind=kLoop, calls=%inner
  ROOT %t.1 = (s32[], f32[100,10]{1,0}) tuple(%i.1, %fusion.1)
}

ENTRY %main (x.2: f32[100,10]) -> (s32[], f32[100,10]) {
  %x.2 = f32[100,10]{1,0} parameter(0)
  %z.2 = s32[] constant(0)
  %copy.2 = f32[100,10]{1,0} copy(%x.2)
  %t.2 = (s32[], f32[100,10]{1,0}) tuple(%z.2, %copy.2)
  ROOT %while.2 = (s32[], f32[100,10]{1,0}) while(%t.2), condition=%condition, body=%body
}
"""


def test_a_loop_that_updates_rows_in_place_moves_a_row_at_a_time():
    row, whole = 40, 4000
    counter = 4  # read by the fusion in each run
    comparison = 4 + 4 + 1
    assert memory_traffic(Module(PROGRAM)) == 2 * whole + 100 * (2 * row + counter + comparison)
