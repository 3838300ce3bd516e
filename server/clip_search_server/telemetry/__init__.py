"""What operators see of a running server; knows nothing of gRPC.

collector.py   figures that encoder, index and open calls keep anyway, read when Prometheus asks
endpoint.py    the HTTP endpoint that Prometheus asks
"""
