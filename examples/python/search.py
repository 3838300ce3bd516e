"""Stores, searches and deletes with the Python client: `python examples/python/search.py [HOST:PORT]`."""

import sys

from clip_search import Attribute, Client, ClipSearchError, Item, Text

ITEMS = [
    Item("example/apple", Text("a red apple"), {"kind": "fruit"}),
    Item("example/pear", Text("a green pear"), {"kind": "fruit"}),
    Item("example/whale", Text("a whale in the sea"), {"kind": "animal"}),
]


def main(server: str) -> None:
    """Run the example."""
    # TLS and a key: Client(server, tls=TlsOptions(ca="ca.pem"), api_key="…")
    with Client(server, timeout_seconds=10) as client:
        # A stream of any length: a few items at a time are on their way, and it goes on after a broken connection.
        with client.ingest(ITEMS) as outcomes:
            for outcome in outcomes:
                print(f"stored {outcome.id}" if outcome.error is None else f"{outcome.id}: {outcome.error}")

        for hit in client.search("an animal that swims", limit=1, filter=Attribute("kind") == "animal").hits:
            print(f"found {hit.id} {hit.attributes['kind']}")

        try:
            client.search("")
        except ClipSearchError as error:  # says what is wrong; error.code is the name of the gRPC status
            print(f"refused {error.code}")

        print(f"deleted {client.delete(item.id for item in ITEMS).deleted}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
