"""The program that shuts itself in and becomes another: namespaces, limits, Landlock, seccomp, no way back (Linux).

Started by `isolation.py` as a script of its own, with the standard library alone. Knows the kernel's calls; does not
know what it runs. It makes a chain: the launcher, the first process of the new namespace, and the worker, which becomes
the command. When one of the first two ends, the kernel ends all that the command may have left running.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_NEW_MOUNTS, _NEW_NAMES, _NEW_MESSAGES = 0x00020000, 0x04000000, 0x08000000
_NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_ALL = _NEW_USERS | _NEW_NETWORK | _NEW_PROCESSES | _NEW_MOUNTS | _NEW_MESSAGES | _NEW_NAMES
_DIE_WITH_PARENT, _DROP_FROM_BOUND, _NO_NEW_PRIVILEGES = 1, 24, 38  # of prctl
_PRIVATE_MOUNTS, _BIND = (1 << 14) | (1 << 18), (1 << 12) | (1 << 14)
_SET_MOUNT = 442  # mount_setattr, the same on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT = 444, 445, 446  # Landlock's calls, the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_TRUNCATE, _DEVICE_CALLS = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_CALLS  # what can be allowed of a file
_NOBODY = 65534
_FOLDERS = ("/dev/shm", "/mnt", "/media")  # one of them is hidden by the command's own folder
_FILTER, _LET, _REFUSE = 22, 0x7FFF0000, 0x00050000  # prctl's word for seccomp, and what a filter answers
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06  # words of its language
_THREAD = 0x00010000  # a clone that is no process
# Calls that no command needs: sockets (one that has a path is not behind the network's wall), looking into others, new
# namespaces and mounts, keys, memory that counts for no limit (of System V, and files without a name), and doors into
# the kernel.
_CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "clone": 56, "fork": 57, "vfork": 58, "socket": 41, "connect": 42, "bind": 49, "socketpair": 53,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "mount_setattr": 442,
        "add_key": 248, "request_key": 249, "keyctl": 250, "open_by_handle_at": 304,
        "shmget": 29, "semget": 64, "msgget": 68, "memfd_create": 319, "memfd_secret": 447,
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    }),
    "aarch64": (0xC00000B7, {
        "clone": 220, "socket": 198, "connect": 203, "bind": 200, "socketpair": 199,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
        "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "mount_setattr": 442,
        "add_key": 217, "request_key": 218, "keyctl": 219, "open_by_handle_at": 265,
        "shmget": 194, "semget": 190, "msgget": 186, "memfd_create": 279, "memfd_secret": 447,
        "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    }),
}  # fmt: skip
_CLONE3 = 435  # its flags lie in memory, where no filter looks: it is said not to exist, and clone is taken
_CANNOT = 7

_libc: Any = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Reads what is to be done from the one argument (JSON), and does it; what holds is told on a descriptor."""
    spec = json.loads(sys.argv[1])
    try:
        _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        held = _enter_namespaces()
        if "processes" in held and (first := os.fork()):
            os.close(spec["report"])
            os.waitpid(first, 0)
            os._exit(0)
        _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if "mounts" in held:
            _renew_proc()
            if not _still(spec["writable"]):
                held -= {"mounts"}
            held |= _make_folder(spec)
        if worker := os.fork():
            _tend(worker, spec["report"])
        _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        held |= _shut_in(spec)
        if missing := set(spec["needs"]) - held:
            raise OSError(0, f"no wall around {', '.join(sorted(missing))}")
        _tell(spec["report"], "held " + " ".join(sorted(held)))
        os.set_inheritable(spec["report"], False)
        os.execve(spec["command"][0], spec["command"], spec["environment"])
    except OSError as error:
        _tell(spec["report"], f"cannot {error.strerror or error}")
        os._exit(_CANNOT)


def _enter_namespaces() -> set[str]:
    """Leaves the users, network, processes and mounts of the machine; returns which of them."""
    uid, gid = os.geteuid(), os.getegid()
    for flags, held in (
        (_ALL, {"network", "processes", "mounts"}),
        (_NEW_USERS | _NEW_NETWORK, {"network"}),
        (_NEW_NETWORK, {"network"}),  # of the superuser, where the kernel has no namespaces of users
    ):
        if _libc.unshare(flags) == 0:
            if flags & _NEW_USERS:
                _map_user(uid, gid)
            return held
    return set()


def _map_user(uid: int, gid: int) -> None:
    """Is nobody inside and oneself outside, so that own files can be read and no superuser is left."""
    for name, content in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {uid} 1"), ("gid_map", f"{_NOBODY} {gid} 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)


def _renew_proc() -> None:
    """Shows the processes of the new namespace alone, where the system lets it; else Landlock shows no other."""
    if _libc.mount(None, b"/", None, _PRIVATE_MOUNTS, None) == 0:
        _libc.mount(b"proc", b"/proc", b"proc", 0, None)


def _still(writable: Sequence[str]) -> bool:
    """Makes every file read-only, but below these paths: Landlock lets modes, owners and times be changed."""
    for path in writable:
        _libc.mount(path.encode(), path.encode(), None, _BIND, None)  # a mount of its own
    done = _libc.syscall(_SET_MOUNT, -100, b"/", 1 << 15, (ctypes.c_uint64 * 4)(1, 0, 0, 0), 32) == 0
    for path in writable:
        _libc.syscall(_SET_MOUNT, -100, path.encode(), 1 << 15, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)
    os.chdir(os.getcwd())  # into the new mount, if it is one
    return done


def _make_folder(spec: dict[str, Any]) -> set[str]:
    """Makes a folder of so many bytes that lies in memory, is seen from inside alone, and goes with the namespace."""
    place = next((path for path in _FOLDERS if os.path.isdir(path)), None)
    if not spec["folder_bytes"] or place is None:
        return set()
    options = f"size={spec['folder_bytes']},nr_inodes=1000,mode=700".encode()
    if _libc.mount(b"tmpfs", place.encode(), b"tmpfs", 6, options):  # no programs of root's, no devices
        return set()
    os.chdir(place)
    spec["writable"].append(place)
    spec["environment"] |= {"HOME": place, "TMPDIR": place}
    return {"folder"}


def _tend(worker: int, report: int) -> None:
    """Waits as the first process of the namespace, and tells how the worker ended; all others end with this one."""
    while True:
        ended, status = os.wait()
        if ended == worker:
            _tell(report, f"status {status}")
            os._exit(0)


def _shut_in(spec: Mapping[str, Any]) -> set[str]:
    """Sets limits and gives up every privilege; returns what Landlock and seccomp hold beyond that."""
    for name, most in spec["limits"].items():
        _limit(getattr(resource, f"RLIMIT_{name}"), most)
    for capability in range(64):
        _libc.prctl(_DROP_FROM_BOUND, capability, 0, 0, 0)  # fails beyond the last, and where there is none
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), ctypes.byref(nothing)))
    _prctl(_NO_NEW_PRIVILEGES, 1)
    held = _landlock([*spec["readable"], "/proc/self"], spec["writable"])
    architecture, calls = _CALLS.get(os.uname().machine, (0, {}))
    if not calls:
        return held
    forbidden = [number for name, number in calls.items() if name not in ("clone", "fork", "vfork")]
    if spec["folder_bytes"] is None:  # who has no folder of its own may want such files in its place
        forbidden.remove(calls["memfd_create"])
    if not spec["children"]:
        forbidden += [number for name, number in calls.items() if name in ("fork", "vfork")]
    return held | _forbid(architecture, forbidden, calls["clone"], spec["children"])


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    told_first = kind == resource.RLIMIT_CPU and hard != most  # by a signal of its own, a second before the end
    resource.setrlimit(kind, (most, most + 1 if told_first else most))


def _landlock(readable: Sequence[str], writable: Sequence[str]) -> set[str]:
    """Allows files to be read and written below these paths alone; returns `files`, or nothing on an old kernel."""
    version = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return set()
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    rights = (ctypes.c_uint64 * 3)(every, network, scopes)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _check(_libc.syscall(_CREATE_RULESET, ctypes.byref(rights), size, 0))
    for path in readable:
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_FOLDER)
    for path in ("/dev/null", "/dev/urandom", "/dev/zero", *writable):
        _allow(ruleset, path, every)
    _check(_libc.syscall(_RESTRICT, ruleset, 0))
    os.close(ruleset)
    return {"files"}


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    try:
        handled = rights if os.path.isdir(path) else rights & _OF_FILES
        rule = handled.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        if _libc.syscall(_ADD_RULE, ruleset, 1, rule, 0):
            handled &= _EXECUTE | _WRITE_FILE | _READ_FILE  # on kernels without the later ones
            rule = handled.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
            _check(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
    finally:
        os.close(descriptor)


def _forbid(architecture: int, forbidden: Sequence[int], clone: int, children: bool) -> set[str]:
    """Lets the kernel refuse these calls from now on, new namespaces, and, if asked for, any further process."""
    refuse = (_ANSWER, 0, 0, _REFUSE | errno.EPERM)
    let = (_ANSWER, 0, 0, _LET)
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), refuse, (_LOAD, 0, 0, 0)]
    steps += [(_AT_LEAST, 0, 1, 1 << 30), refuse]  # the calls of another word size
    for number in forbidden:
        steps += [(_EQUAL, 0, 1, number), refuse]
    steps += [(_EQUAL, 0, 1, _CLONE3), (_ANSWER, 0, 0, _REFUSE | errno.ENOSYS)]
    steps += [(_EQUAL, 1, 0, clone), let, (_LOAD, 0, 0, 16), (_ANY_OF, 0, 1, _ALL), refuse]
    steps += [] if children else [(_ANY_OF, 1, 0, _THREAD), refuse]
    program = b"".join(struct.pack("=HBBI", *step) for step in [*steps, let])
    text = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("@HP", len(program) // 8, ctypes.addressof(text))
    return {"calls"} if _libc.prctl(_FILTER, 2, ctypes.create_string_buffer(whole, len(whole)), 0, 0) == 0 else set()


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0))


def _check(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def _tell(report: int, line: str) -> None:
    os.write(report, f"{line}\n".encode())


if __name__ == "__main__":
    main()
