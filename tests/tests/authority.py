"""Dials an agent as Python programs do, `unix:PATH`, and asks three services with raw bytes."""

import sys

import grpc


def raw(message: bytes) -> bytes:
    return message


def main() -> None:
    with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
        unary = {"request_serializer": raw, "response_deserializer": raw}
        check = channel.unary_unary("/grpc.health.v1.Health/Check", **unary)
        # HealthCheckResponse.status is field 1; SERVING is 1.
        print("serving:", check(b"", timeout=10)[1])

        lanes = channel.unary_unary("/laneway.v1.LaneService/ListLanes", **unary)
        # ListLanesResponse.lanes is field 1; the first lane's length follows its tag.
        print("lanes:", lanes(b"", timeout=10)[0] >> 3)

        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        reflect = channel.stream_stream(path, **unary)
        # ServerReflectionRequest.list_services is field 7, a text that may be empty.
        answer = next(reflect(iter([b"\x3a\x00"]), timeout=10))
        print("services:", answer.decode("latin-1"))


if __name__ == "__main__":
    main()
