"""The fault-injecting proxy in front of a real S3 server: what an S3 client without retries sees of each fault."""

import http.client
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.exceptions import ResponseStreamingError as StreamingError

from benchmarks.chaos import proxy as module
from benchmarks.chaos.proxy import Effect, FaultProxy, Request, Rule
from benchmarks.swift import SwiftServer

BODY = bytes(range(256)) * 8
GET, PUT = frozenset({"GET"}), frozenset({"PUT"})
EVERY = frozenset({"GET", "PUT", "LIST", "HEAD", "DELETE"})


@pytest.fixture
def proxy(swift: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(swift.endpoint) as running:
        yield running


@pytest.fixture
def bucket(swift: SwiftServer) -> str:
    name = f"chaos-{uuid4().hex}"
    swift.make_bucket(name)
    return name


@pytest.fixture
def client(proxy: FaultProxy, swift: SwiftServer, bucket: str) -> Any:
    """An S3 client of the proxy that tries once; `images/a` is stored."""
    session = boto3.Session(swift.access_key, swift.secret_key, region_name="us-east-1")
    config = Config(
        retries={"total_max_attempts": 1},
        read_timeout=20,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.client("s3", endpoint_url=proxy.endpoint, config=config)
    client.put_object(Bucket=bucket, Key="images/a", Body=BODY)
    return client


def read(client: Any, bucket: str, key: str = "images/a") -> bytes:
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def keys(client: Any, bucket: str) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_without_rules_every_operation_passes_and_is_counted(proxy, client, bucket):
    key = "images/ü &?#%.jpg"
    client.put_object(Bucket=bucket, Key=key, Body=BODY)
    assert read(client, bucket, key) == BODY
    assert client.get_object(Bucket=bucket, Key=key, Range="bytes=2-5")["Body"].read() == BODY[2:6]
    assert client.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(BODY)
    client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    assert keys(client, bucket) == ["copy", "images/a", key]
    client.delete_object(Bucket=bucket, Key="copy")
    passed = proxy.counts.passed
    assert proxy.counts.keys("PUT", "images/") == {"images/a": 1, key: 1}
    assert passed[Request("GET", key)] == 2
    assert passed[Request("COPY", "copy")] == passed[Request("DELETE", "copy")] == passed[Request("LIST", "")] == 1
    assert not proxy.counts.failed


@pytest.mark.parametrize("effect", [effect for effect in Effect if effect.error])
def test_an_error_has_its_status_and_code_and_changes_nothing(proxy, client, bucket, effect):
    proxy.rules = [Rule(effect, EVERY)]
    for call in (
        lambda: read(client, bucket),
        lambda: keys(client, bucket),
        lambda: client.put_object(Bucket=bucket, Key="images/b", Body=BODY),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        response = caught.value.response
        assert (response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]) == effect.error
    assert proxy.counts.failed == {effect: 3}
    proxy.rules = []
    assert keys(client, bucket) == ["images/a"]


def test_a_rule_hits_its_operations_and_keys_only(proxy, client, bucket):
    proxy.rules = [Rule(Effect.FORBIDDEN, PUT, prefix="runs/")]
    assert read(client, bucket) == BODY
    client.put_object(Bucket=bucket, Key="images/b", Body=BODY)
    with pytest.raises(ClientError):
        client.put_object(Bucket=bucket, Key="runs/b", Body=BODY)


def test_a_rule_hits_a_share_of_the_requests(proxy, client, bucket):
    proxy.rules = [Rule(Effect.UNAVAILABLE, GET, share=0.5)]
    hit = 0
    for _ in range(60):
        try:
            read(client, bucket)
        except ClientError:
            hit += 1
    assert 10 < hit < 50
    assert proxy.counts.failed[Effect.UNAVAILABLE] == hit


def test_a_reset_put_has_been_stored_or_not(proxy, client, bucket):
    """Each is as likely: a client cannot know whether the store did its work."""
    proxy.rules = [Rule(Effect.RESET, PUT)]
    for i in range(20):
        with pytest.raises(ConnectionClosedError):
            client.put_object(Bucket=bucket, Key=f"runs/{i}", Body=BODY)
    proxy.rules = []
    stored = keys(client, bucket)
    assert 1 < len(stored) < 20


def test_a_reset_is_a_reset(proxy, swift):
    proxy.rules = [Rule(Effect.RESET, EVERY)]
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=20)
    connection.request("GET", "/bucket/key")
    with pytest.raises(ConnectionResetError):
        connection.getresponse()


def test_a_cut_body_seems_whole(proxy, client, bucket):
    proxy.rules = [Rule(Effect.CUT, GET)]
    response = client.get_object(Bucket=bucket, Key="images/a")
    assert response["Body"].read() == BODY[: len(BODY) // 2]
    assert response["ContentLength"] == len(BODY) // 2


def test_a_short_body_ends_before_its_length(proxy, client, bucket):
    proxy.rules = [Rule(Effect.SHORT, GET)]
    response = client.get_object(Bucket=bucket, Key="images/a")
    assert response["ContentLength"] == len(BODY)
    with pytest.raises(StreamingError):
        response["Body"].read()


def test_a_slow_body_takes_a_second_for_each_kilobyte(proxy, client, bucket):
    proxy.rules = [Rule(Effect.SLOW, GET)]
    start = time.monotonic()
    assert read(client, bucket) == BODY
    assert time.monotonic() - start > len(BODY) / 1024 - 0.5


def test_a_stalled_request_is_answered_late(proxy, client, bucket, monkeypatch):
    monkeypatch.setattr(module, "STALL_SECONDS", 1.0)
    proxy.rules = [Rule(Effect.STALLED, GET)]
    start = time.monotonic()
    assert read(client, bucket) == BODY
    assert time.monotonic() - start >= 1.0


def test_a_stall_exceeds_the_patience_of_a_client(proxy, client, bucket, swift):
    proxy.rules = [Rule(Effect.STALLED, GET)]
    session = boto3.Session(swift.access_key, swift.secret_key, region_name="us-east-1")
    impatient = Config(retries={"total_max_attempts": 1}, read_timeout=0.5)
    with pytest.raises(ReadTimeoutError):
        read(session.client("s3", endpoint_url=proxy.endpoint, config=impatient), bucket)


def test_the_pace_is_kept(swift, client, bucket):
    with FaultProxy(swift.endpoint, pace=20, paced="images/") as slow:
        start = time.monotonic()
        for _ in range(10):
            slow.keep_pace(Request("GET", "images/a"))
            slow.keep_pace(Request("GET", "model/card.json"))
        assert time.monotonic() - start >= 10 / 20
