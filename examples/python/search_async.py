"""Stores, searches and deletes over asyncio: `python examples/python/search_async.py [HOST:PORT]`."""

import asyncio
import sys

from clip_search import AsyncClient, Attribute, ClipSearchError, Item, Text

ITEMS = [
    Item("example/apple", Text("a red apple"), {"kind": "fruit"}),
    Item("example/pear", Text("a green pear"), {"kind": "fruit"}),
    Item("example/whale", Text("a whale in the sea"), {"kind": "animal"}),
]


async def main(server: str) -> None:
    """Run the example."""
    async with AsyncClient(server, timeout_seconds=10) as client:
        async with client.ingest(ITEMS) as outcomes:
            async for outcome in outcomes:
                print(f"stored {outcome.id}" if outcome.error is None else f"{outcome.id}: {outcome.error}")

        # Calls run side by side.
        found = await asyncio.gather(
            client.search("an animal that swims", limit=1, filter=Attribute("kind") == "animal"),
            client.search("something to eat", limit=1, filter=Attribute("kind") == "fruit"),
        )
        for hit in found[0].hits:
            print(f"found {hit.id} {hit.attributes['kind']}")

        try:
            await client.search("")
        except ClipSearchError as error:
            print(f"refused {error.code}")

        deletion = await client.delete(item.id for item in ITEMS)
        print(f"deleted {deletion.deleted}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"))
