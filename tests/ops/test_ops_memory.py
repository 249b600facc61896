"""Running out of memory says which call it was and what would take less."""

import pytest
import torch

from softmap.ops import attention, make_call, memory, reference


def test_the_message_names_the_call_and_the_smaller_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(2, 4, 300, 8)

    def run(call: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(reference, "run", run)
    whole = 2 * 4 * 300 * 300 * 4
    with pytest.raises(torch.OutOfMemoryError, match=r"batch 2, 4 maps of 300 x 300") as found:
        attention(q, q, q, impl="reference")
    assert f"{whole:,} bytes" in str(found.value) and "impl='chunked' takes" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_band_takes_less_than_the_map() -> None:
    from softmap.ops import chunked

    q = torch.randn(1, 8, 2048, 8)
    call = make_call(q, q, q)
    assert chunked.map_bytes(call) * 10 < reference.map_bytes(call) == 8 * 2048 * 2048 * 4


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_other_errors_are_not_taken_for_it(error: Exception, is_one: bool) -> None:
    assert memory.is_out_of_memory(error) == is_one


def test_another_error_goes_through_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(call: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(reference, "run", run)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        attention(*(torch.randn(1, 2, 4, 8),) * 3, impl="reference")
