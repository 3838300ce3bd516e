"""What operators see of a running server; knows nothing of gRPC.

calls.py       counts calls and their outcomes
collector.py   figures that encoder, index and calls keep anyway, read when Prometheus asks
families.py    such figures in Prometheus' own terms
endpoint.py    the HTTP endpoint that Prometheus asks
"""
