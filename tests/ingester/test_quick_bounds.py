"""What the quick reader remembers of lines that a hostile worker makes up."""

from __future__ import annotations

import pytest

from decnet_master.ingester import quick
from decnet_master.ingester.quick import quick_row

HEAD = b'<164>1 2026-11-23T12:30:15.000000Z web-1 ssh 7 guest.line [relay@55555 source="s" cursor="1"'


@pytest.mark.parametrize(("params", "is_quick"), [(10, True), (2_000, False)])
def test_a_shape_that_is_remembered_is_small(params: int, is_quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_SHAPES", quick._Known(quick._shape, 512))
    for shape in range(600 if is_quick else 20):
        names = b"".join(b' n%d-%d="x"' % (shape, number) for number in range(params))
        assert (quick_row(HEAD + names + b"] x", "w1", 0) is not None) is is_quick
    assert len(quick._SHAPES) <= 512
    assert max((shape.count('"') + 1 for shape in quick._SHAPES), default=0) <= quick._MOST_PARAMS
