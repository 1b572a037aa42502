"""The command line: every command is a request to the API.

Where a server runs on the data directory, commands go to it over HTTP, so that one process alone
writes. Where none does, the installation is opened in this process and the same requests are
answered without a socket. Either way the operator's key is used, read from the directory.
"""
