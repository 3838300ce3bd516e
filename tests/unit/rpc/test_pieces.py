import asyncio

from clip_search_server.rpc.pieces import in_pieces


async def test_others_get_their_turn_while_a_long_list_is_converted() -> None:
    """The list comes out in order, and somebody else ran many times meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert await in_pieces(lambda number: 2 * number, range(1_000)) == list(range(0, 2_000, 2))
    assert turns >= 10
    task.cancel()
