"""Prints the serial number of the first X509-SVID each time the Workload API sends one."""

import sys
import threading

from spiffe import WorkloadApiClient

ended = threading.Event()


def arrived(context):
    print(f"serial {context.default_svid.leaf.serial_number}", flush=True)


def failed(error):
    print(f"error {error}", flush=True)
    ended.set()


with WorkloadApiClient(sys.argv[1]) as client:
    client.stream_x509_contexts(arrived, failed)
    ended.wait()
