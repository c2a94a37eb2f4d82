"""The server of moto, whose conditional writes are atomic, as those of S3 are.

Moto checks whether an object exists and stores it in two steps, between which another thread can do the same.
"""

import threading
from typing import Any
from unittest import mock

from moto.s3.responses import S3Response
from moto.server import main

if __name__ == "__main__":
    lock, put_object = threading.Lock(), S3Response.put_object

    def put_object_alone(response: S3Response) -> Any:
        with lock:
            return put_object(response)

    with mock.patch.object(S3Response, "put_object", put_object_alone):
        main()
