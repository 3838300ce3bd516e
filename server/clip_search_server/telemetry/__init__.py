"""What operators see of a running server; knows nothing of gRPC.

calls.py         counts calls and their outcomes
collector.py     figures that encoder, index and calls keep anyway, read when Prometheus asks
families.py      such figures in Prometheus' own terms
endpoint.py      the HTTP endpoint that Prometheus asks
tracing.py       spans of calls and their stages, in OpenTelemetry's terms
trace_export.py  sends these to a collector; like tracing.py imported only where traces are asked for
"""
