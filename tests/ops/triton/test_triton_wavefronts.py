"""Cycles of shared memory, counted in PTX written for the purpose."""

from __future__ import annotations

import pytest
from triton_wavefronts import wavefronts

from softmap.errors import SoftmapError

# A loop of one access, whose address is the thread's number times a stride, moved by a base.
LOOP = """
	mov.u32 	%r1, %tid.x;
	shl.b32 	%r2, %r1, {shift};
	xor.b32 	%r3, %r2, {mask};
	mov.b32 	%r4, global_smem;
	add.s32 	%r5, %r4, %r3;
$L__BB0_1:
	{access}
	@%p1 bra 	$L__BB0_1;
"""


@pytest.mark.parametrize(
    ("shift", "mask", "access", "cycles"),
    [
        (2, 0, "st.shared.b32 [%r5], %r9;", 1),  # neighbours
        (3, 0, "st.shared.b32 [%r5+64], %r9;", 2),  # every second bank
        (7, 0, "ld.shared.b16 %rs1, [%r5];", 32),  # one bank
        (4, 0, "st.shared.v4.b32 [%r5], {%r6, %r7, %r8, %r9};", 4),  # 512 bytes
        (4, 64, "ld.shared.v4.b32 {%r6, %r7, %r8, %r9}, [%r5];", 4),  # permuted
        (5, 0, "ld.shared.v4.b32 {%r6, %r7, %r8, %r9}, [%r5];", 8),
        (4, 0, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r5];", 4),
        (7, 0, "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r6, %r7}, [%r5];", 16),
        (2, 0, "shfl.sync.bfly.b32 %r6, %r7, 1, 31, -1;", 1),
        (2, 0, "ld.global.b32 %r6, [%rd1];", 0),
    ],
)
def test_cycles_of_an_access(shift: int, mask: int, access: str, cycles: int) -> None:
    text = LOOP.replace("{shift}", str(shift)).replace("{mask}", str(mask))
    assert wavefronts(text.replace("{access}", access), 64) == [2 * cycles]


def test_loops_are_told_apart_and_inner_ones_belong_to_their_outer() -> None:
    inner = LOOP.replace("{shift}", "2").replace("{mask}", "0")
    access = "st.shared.b32 [%r5], %r9;"
    nested = "$L__BB0_0:\n" + inner.replace("{access}", access) + "@%p2 bra $L__BB0_0;\n"
    after = inner.replace("BB0_1", "BB0_2").replace("{access}", f"{access}\n\t{access}")
    assert wavefronts(nested + access + "\n" + after, 32) == [1, 2]


def test_an_address_that_cannot_be_known_is_told() -> None:
    with pytest.raises(SoftmapError, match="'%r5' is not known"):
        wavefronts("$L__BB0_1:\n\tst.shared.b32 [%r5], %r9;\n\tbra.uni $L__BB0_1;\n", 32)
