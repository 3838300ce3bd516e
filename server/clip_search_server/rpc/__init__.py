"""Transport: the API's services over grpc.aio. The only package that imports gRPC.

server.py        builds, starts and drains the server
interceptor.py   request ids, error mapping and logging around every method
errors.py        the exception tree as gRPC statuses, in one place
convert.py       messages to domain values and back
*_service.py     one module a service, each method a few lines
"""
