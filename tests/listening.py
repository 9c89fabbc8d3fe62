"""What a process and its descendants listen at, read from Linux's own tables."""

import ipaddress
import os
from pathlib import Path
from typing import NamedTuple

_LISTENS = "0A"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


class Listener(NamedTuple):
    """One listening socket."""

    process: str
    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine reaches it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listeners(root: int) -> set[Listener]:
    """Of the process `root` and all its descendants."""
    sockets = _listening_sockets()
    found = set()
    for pid in _tree(root):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:  # it has ended
            continue
        links = filter(None, (_link(f"/proc/{pid}/fd/{name}") for name in names))
        found.update(Listener(command, *sockets[link]) for link in links if link in sockets)
    return found


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile, as the one is that lists the folder
        return None


def _listening_sockets() -> dict[str, tuple[str, int]]:
    """`socket:[inode]` -> (address, port)."""
    sockets = {}
    for table in _TABLES:
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                host, port = fields[1].split(":")
                sockets[f"socket:[{fields[9]}]"] = (_address(host), int(port, 16))
    return sockets


def _address(host: str) -> str:
    """From the kernel's words of four bytes, each in the machine's order."""
    words = [int(host[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(host), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _tree(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    tree, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        tree.add(pid)
        waiting.extend(children.get(pid, []))
    return tree
