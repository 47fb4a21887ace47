"""``chain fmt`` of a YAML file: blocks are formatted in their place, the rest of the file is not touched (L12)."""

from __future__ import annotations

import pytest

from common.chain.errors import ChainErrors
from common.chain.format import format_text
from common.chain.format_file import format_yaml
from common.chain.loader import load_yaml

UNTIDY = """\
# the file's own comment
main:   # kept
  c:
    blocks:
      a:
        block: |
          x="a";echo $x   # why

            if $x then accept
            end
        priority: 2   # behind the block
      b: {block: 'y=1;  reject'}
      d:
        block: |-
          drop
      e:
        block: >
          echo
          a
"""

TIDY = """\
# the file's own comment
main:   # kept
  c:
    blocks:
      a:
        block: |
          x = "a"
          echo $x  # why

          if $x then
            accept
          end
        priority: 2   # behind the block
      b: {block: 'y=1;  reject'}
      d:
        block: |-
          drop
      e:
        block: >
          echo
          a
"""


def test_blocks_are_formatted_in_their_place() -> None:
    """Literal blocks are formatted; keys, comments and other kinds of scalars stay as they are."""
    assert format_yaml(UNTIDY) == TIDY
    assert format_yaml(TIDY) == TIDY


def test_the_blocks_mean_the_same() -> None:
    """The file has the same chains with the same texts, formatted."""
    before, after = load_yaml(UNTIDY)["main"], load_yaml(format_yaml(UNTIDY))["main"]
    assert [block.id for block in after.chains[0].blocks] == [block.id for block in before.chains[0].blocks]
    for old, new in zip(before.chains[0].blocks, after.chains[0].blocks, strict=True):
        assert format_text(new.text) == format_text(old.text)


def test_wrong_blocks_are_told_all_at_once() -> None:
    """A file with blocks that do not parse is refused with the errors of all of them, in their order."""
    text = "m: {c: {blocks: {a: {block: a == 1}, f: {block: accept},\n b: {block: else}}}}"
    with pytest.raises(ChainErrors) as caught:
        format_yaml(text)
    assert [error.where for error in caught.value.errors] == ["m:c:a", "m:c:b"]
