"""Requests to mutate: as messages that become queries, items and filters, and as bytes that a server is sent."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from clip_search.v1 import content_pb2, embedding_pb2, filter_pb2, index_pb2, item_pb2, search_pb2
from clip_search_server.errors import ClipSearchError
from clip_search_server.index import Collection, Ranking, Record, Search
from clip_search_server.limits import Limits
from clip_search_server.rpc.convert import check_ids, item_from, optional_filter_from, query_from
from clip_search_server.rpc.convert_filter import filter_from
from tests.faults.mutation import mutate

DIM = 8
ANSWERS = (ClipSearchError, DecodeError)


def filter_seeds() -> list[filter_pb2.Filter]:
    """Return filters that use every kind of condition and of value."""
    text, number = item_pb2.AttributeValue(string_value="dog"), item_pb2.AttributeValue(int_value=2026)
    real, truth = item_pb2.AttributeValue(double_value=0.5), item_pb2.AttributeValue(bool_value=True)
    instant = item_pb2.AttributeValue()
    instant.timestamp_value.FromSeconds(1_700_000_000)
    conditions = [
        filter_pb2.Filter(equals=filter_pb2.EqualsCondition(attribute="tag", value=text)),
        filter_pb2.Filter(in_set=filter_pb2.InCondition(attribute="year", values=[number, real, truth])),
        filter_pb2.Filter(range=filter_pb2.RangeCondition(attribute="year", at_least=number, less_than=real)),
        filter_pb2.Filter(range=filter_pb2.RangeCondition(attribute="when", greater_than=instant)),
        filter_pb2.Filter(exists=filter_pb2.ExistsCondition(attribute="tag")),
    ]
    joined = filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=conditions))
    either = filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=[joined, *conditions]))
    return [*conditions, joined, either, filter_pb2.Filter(negation=joined)]


def item_seeds(picture: bytes, dim: int) -> list[item_pb2.Item]:
    """Return items with every kind of content and attribute."""
    plain = item_pb2.Item(id="a", content=content_pb2.Content(text="words"), text="words of its own", thumbnail=b"RIFF")
    plain.attributes["year"].int_value = 2026
    plain.attributes["ratio"].double_value = 0.5
    plain.attributes["good"].bool_value = True
    plain.attributes["tags"].string_list_value.values.extend(["x", "y"])
    plain.attributes["when"].timestamp_value.FromSeconds(1_700_000_000)
    return [
        plain,
        item_pb2.Item(id="b", content=content_pb2.Content(image=picture)),
        item_pb2.Item(id="c", content=content_pb2.Content(vector=content_pb2.Vector(values=[0.5] * dim))),
        item_pb2.Item(id="a", text="new words"),
    ]


def request_seeds(picture: bytes, dim: int) -> dict[str, list[Message]]:
    """Return requests by the path of the method that they are for; none of them changes which collections there are."""
    contents = [item.content for item in item_seeds(picture, dim)[:3]] + [content_pb2.Content(item_id="a")]
    searches: list[Message] = [
        search_pb2.SearchRequest(
            parts=[search_pb2.QueryPart(content=contents[0]), search_pb2.QueryPart(content=content, weight=-0.5)],
            limit=5,
            offset=2,
            filter=filter_,
            ranking=ranking,
            exact=bool(ranking),
            min_score=0.1,
            at_least_sequence=0,
        )
        for content in contents
        for filter_ in filter_seeds()[-3:]
        for ranking in search_pb2.Ranking.values()
    ]
    ids = index_pb2.Ids(ids=["a", "b", "none"])
    prefix = "/clip_search.v1"
    return {
        f"{prefix}.SearchService/Search": searches,
        f"{prefix}.SearchService/Classify": [
            search_pb2.ClassifyRequest(image=contents[1], labels=["cat", "dog"], templates=["a photo of {}"])
        ],
        f"{prefix}.EmbeddingService/Embed": [embedding_pb2.EmbedRequest(inputs=contents[:3])],
        f"{prefix}.IndexService/Upsert": [index_pb2.UpsertRequest(items=item_seeds(picture, dim))],
        f"{prefix}.IndexService/Delete": [
            index_pb2.DeleteRequest(ids=ids),
            *(index_pb2.DeleteRequest(filter=filter_) for filter_ in filter_seeds()),
        ],
        f"{prefix}.IndexService/GetItems": [index_pb2.GetItemsRequest(ids=["a", "b"], include_vectors=True)],
        f"{prefix}.IndexService/GetThumbnails": [index_pb2.GetThumbnailsRequest(ids=["a", "b"])],
        f"{prefix}.IndexService/ListItems": [
            index_pb2.ListItemsRequest(page_size=3, page_token="YQ==", filter=filter_) for filter_ in filter_seeds()
        ],
        f"{prefix}.IndexService/GetStats": [index_pb2.GetStatsRequest(collection="default")],
    }


def make_conversion() -> Callable[[int], None]:
    """Return what reads a mutated request and converts all of it."""
    limits = Limits()
    kinds: list[tuple[type[Message], Callable[[Any], object]]] = [
        (search_pb2.SearchRequest, query_from),
        (index_pb2.UpsertRequest, lambda request: [item_from(item) for item in request.items]),
        (index_pb2.DeleteRequest, lambda request: filter_from(request.filter)),
        (index_pb2.ListItemsRequest, optional_filter_from),
        (index_pb2.GetItemsRequest, lambda request: check_ids(request.ids, "ids", limits)),
    ]
    requests = [request for each in request_seeds(b"\xff\xd8", DIM).values() for request in each]
    seeds = {
        kind: [request.SerializeToString() for request in requests if isinstance(request, kind)] for kind, _ in kinds
    }

    def run(number: int) -> None:
        chance = random.Random(number)
        kind, convert = chance.choice(kinds)
        convert(kind.FromString(mutate(seeds[kind], chance)))

    return run


def make_search(folder: Path) -> Callable[[int], None]:
    """Return what asks a collection with mutated filters and words, whatever SQLite may make of them."""
    vectors = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    # One each, since the processes that run this share the folder.
    own = folder / f"{random.SystemRandom().getrandbits(64):x}"
    collection = Collection.open(own, dim=DIM, space_id="fuzzed")
    collection.upsert(
        [
            Record(
                f"{at}", vector, {"year": 2000 + at, "tag": ("dog", "cat")[at % 2], "r": at / 2}, f"words {at} of it"
            )
            for at, vector in enumerate(vectors)
        ]
    )
    rankings: tuple[Ranking, ...] = ("vector", "text", "fused")
    filters = [filter_.SerializeToString() for filter_ in filter_seeds()]
    words = [
        text.encode() for text in ('words AND NOT "of it"', "text:5 OR words*", "NEAR(words of, 3) ^it", "ü\0'\";--")
    ]

    def run(number: int) -> None:
        chance = random.Random(number)
        filter_ = filter_from(filter_pb2.Filter.FromString(mutate(filters, chance))) if chance.random() < 0.7 else None
        text = mutate(words, chance).decode(errors="ignore")
        ranking = chance.choice(rankings)
        search = Search(vectors[number % 40], limit=5, ranking=ranking, words=text, filter=filter_)
        assert len(collection.find(search).hits) <= 5
        assert collection.count(filter_) <= 40

    return run
