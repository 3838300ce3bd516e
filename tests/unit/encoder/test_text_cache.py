import numpy as np

from clip_search_server.encoder.text_cache import TextCache


def test_the_texts_used_last_are_kept() -> None:
    """Beyond its length the text goes that was not asked for longest."""
    cache = TextCache(length_max=2)
    for text in ("a", "b"):
        cache.put(text, np.ones(2, np.float32))
    assert cache.get("a") is not None
    cache.put("c", np.ones(2, np.float32))
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert len(cache) == 2


def test_what_is_kept_is_a_copy_that_nobody_can_change() -> None:
    """A row of a batch does not keep the batch alive, and callers cannot spoil each other's results."""
    batch = np.ones((8, 2), np.float32)
    kept = TextCache().put("a", batch[0])
    batch[0] = 5
    assert kept.tolist() == [1, 1]
    assert kept.base is None
    assert not kept.flags.writeable


def test_long_texts_are_not_kept() -> None:
    """Few ask for the same long text twice; kept, thousands of them would fill the memory."""
    cache = TextCache(text_chars_max=10)
    assert cache.put("x" * 11, np.ones(2, np.float32)).tolist() == [1, 1]
    assert len(cache) == 0
