"""Who may call, and how the server proves who it is; knows nothing of gRPC, collections and models.

files           files that an operator writes: read with a bound, watched by content, checked for who may write them
keys            the file of API keys: its format, and how a new key is made
key_ring        the keys that are valid at this moment, and who holds them
certificates    the server's certificate, its key and the authorities of clients: read and checked
"""
