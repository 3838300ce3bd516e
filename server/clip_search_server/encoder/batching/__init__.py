"""From single requests to batches for a tower, and who may wait; knows nothing of pictures, texts or ONNX Runtime.

urgency.py   when an answer is wanted, whose it is, and whether a person waits for it
door.py      who may come in: bounds in items and bytes, shares of clients, what cannot be done in time
gate.py      room for so many things and bytes; who waits is let in by turns of clients
drain.py     how fast work leaves while more waits, and when who was refused should come back
line.py      entries that wait for a batch; clients take turns
bounds.py    how large a batch may be, and how much of it padding
pace.py      how long batches take
following.py spans of batches, where requests are traced
batcher.py   forms the batches, runs them, and answers each entry
"""

from clip_search_server.encoder.batching.batcher import Batcher
from clip_search_server.encoder.batching.bounds import BatchBounds
from clip_search_server.encoder.batching.door import Door, DoorBounds
from clip_search_server.encoder.batching.gate import Gate
from clip_search_server.encoder.batching.pace import Pace
from clip_search_server.encoder.batching.urgency import INTERACTIVE_INPUTS_MAX, Urgency

__all__ = ["INTERACTIVE_INPUTS_MAX", "BatchBounds", "Batcher", "Door", "DoorBounds", "Gate", "Pace", "Urgency"]
