"""Whether BPF programs are at a device by way of tcx or netkit, of which rtnetlink knows nothing.

Asked with bpf(2), in the network namespace of the thread. The layout is that of `union bpf_attr` in
<linux/bpf.h>; the kernel has tcx since 6.6.
"""

import ctypes
import os
import struct

# The number of bpf(2); where it is not known here, no program is seen.
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_QUERY = 16  # BPF_PROG_QUERY
_TCX, _NETKIT = (46, 47), (54, 55)  # BPF_TCX_INGRESS and _EGRESS, BPF_NETKIT_PRIMARY and _PEER
_QUESTION = struct.Struct("=IIIIQI")  # device, attach type, two flags, identifiers, their count
_SIZE = 128  # bytes; the kernel takes zeros behind what it knows


def attached(index: int, *, netkit: bool) -> bool:
    """False too where the kernel does not say: an old one, or a sandbox without bpf(2)."""
    return any(_count(index, where) for where in (*_TCX, *(_NETKIT if netkit else ())))


def _count(index: int, where: int) -> int:
    call = _NUMBERS.get(os.uname().machine)
    if call is None:
        return 0
    asked = ctypes.create_string_buffer(_QUESTION.pack(index, where, 0, 0, 0, 0), _SIZE)
    if ctypes.CDLL(None).syscall(call, _QUERY, asked, _SIZE):
        return 0
    return int(_QUESTION.unpack_from(asked.raw)[5])
