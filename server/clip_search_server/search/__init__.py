"""Joins encoder and index: queries, classification and ingest in the API's terms; knows nothing of gRPC.

content.py         what a query part or an item is made of, and its vector
catalog.py         which collections, aliases and models there are, and how that changes
snapshots.py       generations of all collections, at intervals
collection.py      the blocking index behind threads, for the event loop
query.py           weighted parts -> one vector and words -> hits
classification.py  which words fit a picture
ingest.py          items -> embeddings -> durable records
repeats.py         a content that comes again is not embedded again
"""
