# SPDX-License-Identifier: MIT
"""
Forges qcow2 images byte by byte from a description, and knows what they must read as.

Written from the description of the format alone and independent of the library, so that a shared
misunderstanding has to be made twice. An Image collects guest clusters of every kind, snapshots,
bitmaps and header extensions; build() lays them out in a host file; truth() and extents() say what
a reader must find. It makes valid images only: tests damage what they get from build().

What it doesn't do: allocate as QEMU does, write in place, encrypt.
"""
import struct
from dataclasses import dataclass, field

from lib import codecs
from lib.sparse import Sparse

MAGIC = b"QFI\xfb"
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
INCOMPAT = {"dirty": 1, "corrupt": 2, "data_file": 4, "compression": 8, "extended_l2": 16}
EXT_FORMAT, EXT_NAMES, EXT_BITMAPS, EXT_DATA = 0xe2792aca, 0x6803f857, 0x23852875, 0x44415441
FEATURE_NAMES = [(0, 0, "dirty bit"), (0, 1, "corrupt bit"), (0, 2, "external data file"),
                 (0, 3, "compression type"), (0, 4, "extended L2 entries"),
                 (1, 0, "lazy refcounts"), (2, 0, "bitmaps"), (2, 1, "raw external data")]


@dataclass(eq=False)
class Cluster:
    kind: str  # normal, zero, zero_allocated, compressed, parts
    data: bytes = b""
    stream: bytes = b""  # compressed only
    states: str = ""  # parts only: 32 of d (data), z (zeros), . (unallocated)
    host: int = None  # given by build()

    def needs_host_cluster(self):
        return self.kind in ("normal", "zero_allocated") or "d" in self.states or self.data

    def references(self, cs):
        """The host clusters that this one counts in, by number."""
        if self.host is None:
            return []
        last = self.host
        if self.kind == "compressed":
            sectors = sector_count(self.host, len(self.stream))
            last = self.host // 512 * 512 + sectors * 512 - 1
        return range(self.host // cs, last // cs + 1)


@dataclass(eq=False)
class Snapshot:
    ident: str
    name: str
    clusters: dict
    extra: bytes
    vm_state: int = 0
    l1: int = 0
    tables: dict = field(default_factory=dict)


@dataclass
class Bitmap:
    name: str
    granularity_bits: int
    ones: set
    flags: int = 0
    full: bool = False  # the table says "all ones" without a data cluster
    table: int = 0
    data: int = 0


@dataclass(eq=False)
class Table:
    """An L2 table: slot -> Cluster. Shared by all L1 tables in which it is the same."""
    slots: dict
    host: int = None
    refs: int = 0


def sector_count(off, length):
    return (off + length - 1) // 512 - off // 512 + 1


def pad8(data):
    return data + bytes(-len(data) % 8)


class Image:
    def __init__(self, size, *, version=3, cluster_bits=16, header_length=None, refcount_order=4,
                 extended_l2=False, compression="zlib", backing=None, backing_name=None,
                 backing_format=None, data_file=None, data_file_raw=False, l1_size=None, rng=None,
                 feature_names=True, packing="tight", incompatible=0, compatible=0, autoclear=0,
                 name_gap=0, end_marker=True, crypt_method=0):
        self.size, self.version, self.cluster_bits = size, version, cluster_bits
        self.cs = 1 << cluster_bits
        self.header_length = header_length or (72 if version == 2 else 112)
        self.refcount_order, self.extended_l2 = refcount_order, extended_l2
        self.compression, self.packing = compression, packing
        self.backing, self.backing_name, self.backing_format = backing, backing_name, backing_format
        self.data_file, self.data_file_raw = data_file, data_file_raw
        self.rng, self.crypt_method = rng, crypt_method
        self.feature_names, self.name_gap, self.end_marker = feature_names, name_gap, end_marker
        self.incompatible, self.compatible, self.autoclear = incompatible, compatible, autoclear
        self.entry_size = 16 if extended_l2 else 8
        self.l2_entries = self.cs // self.entry_size
        self.l1_size = l1_size or -(-size // (self.cs * self.l2_entries))
        self.clusters, self.snapshots, self.bitmaps, self.extensions = {}, [], [], []
        self.tail = None

    # ---- the description ----

    def _pad(self, data):
        assert 0 < len(data) <= self.cs
        return bytes(data).ljust(self.cs, b"\0")

    def normal(self, index, data):
        self.clusters[index] = Cluster("normal", self._pad(data))

    def last_in_file(self, index, data):
        """A normal cluster at the end of the file, which ends with these data."""
        self.normal(index, data)
        self.tail = self.clusters[index], len(data)

    def zero(self, index):
        self.clusters[index] = Cluster("zero")

    def zero_allocated(self, index, stale):
        """Reads as zeros; the host cluster holds something that nobody may see."""
        self.clusters[index] = Cluster("zero_allocated", self._pad(stale))

    def compressed(self, index, data, stream=None):
        data = self._pad(data)
        if stream is None:
            stream = (codecs.deflate if self.compression == "zlib" else codecs.zstd)(data)
        self.clusters[index] = Cluster("compressed", data, stream)

    def parts(self, index, states, data=b""):
        """Subclusters. data fill the host cluster, also where the states hide them."""
        assert self.extended_l2 and len(states) == 32 and ("d" not in states or data)
        self.clusters[index] = Cluster("parts", self._pad(data) if data else b"", states=states)

    def unallocated(self, index):
        self.clusters.pop(index, None)

    def snapshot(self, ident, name, extra=None, vm_state=0):
        """Keeps the present clusters under this name; what is put later is new."""
        if extra is None:
            extra = struct.pack(">QQQ", vm_state, self.size, (1 << 64) - 1)
        self.snapshots.append(Snapshot(ident, name, dict(self.clusters), extra, vm_state))

    def bitmap(self, name, granularity_bits, ones=(), flags=0, full=False):
        self.bitmaps.append(Bitmap(name, granularity_bits, set(ones), flags, full))

    def extension(self, kind, data):
        self.extensions.append((kind, data))

    # ---- what it must read as ----

    def truth(self, snapshot=None):
        """The guest's disk, or that of a snapshot (an index)."""
        disk = Sparse()
        if self.backing:
            below = self.backing.truth()
            below.truncate(min(below.size, self.size))
            disk = below
        disk.truncate(self.size)
        clusters = self.clusters if snapshot is None else self.snapshots[snapshot].clusters
        for index, cluster in clusters.items():
            if index * self.cs < self.size:
                self._apply(disk, index * self.cs, cluster)
        disk.truncate(self.size)
        return disk

    def truth_if_empty(self):
        """The disk if nothing of this layer were there."""
        clusters, self.clusters = self.clusters, {}
        try:
            return self.truth()
        finally:
            self.clusters = clusters

    def _apply(self, disk, off, cluster):
        if cluster.kind in ("normal", "compressed"):
            disk.write(off, cluster.data)
        elif cluster.kind in ("zero", "zero_allocated"):
            disk.zero(off, self.cs)
        else:
            part = self.cs // 32
            for i, state in enumerate(cluster.states):
                if state == "d":
                    disk.write(off + i * part, cluster.data[i * part:(i + 1) * part])
                elif state == "z":
                    disk.zero(off + i * part, part)

    def pieces(self):
        """
        (start, length, state, host offset or None) of this layer in order: state is data, packed
        (compressed), zero or none (ask the layer below).
        """
        step = self.cs // 32 if self.extended_l2 else self.cs
        pos = 0
        for index in sorted(i for i in self.clusters if i * self.cs < self.size):
            start, cluster = index * self.cs, self.clusters[index]
            if start > pos:
                yield pos, start - pos, "none", None
            pos = start + self.cs
            if cluster.kind == "parts":
                for i, state in enumerate(cluster.states):
                    host = None if cluster.host is None else cluster.host + i * step
                    name = {"d": "data", "z": "zero", ".": "none"}[state]
                    yield start + i * step, step, name, host
            else:
                name = {"normal": "data", "compressed": "packed"}.get(cluster.kind, "zero")
                host = None if name == "packed" else cluster.host
                yield start, self.cs, name, host
        if pos < self.size:
            yield pos, self.size - pos, "none", None

    def _header_features(self):
        bits = self.incompatible
        bits |= INCOMPAT["data_file"] if self.data_file else 0
        bits |= INCOMPAT["compression"] if self.compression == "zstd" else 0
        bits |= INCOMPAT["extended_l2"] if self.extended_l2 else 0
        autoclear = self.autoclear | (1 if self.bitmaps else 0) | (2 if self.data_file_raw else 0)
        return bits, self.compatible, autoclear

    # ---- the layout ----

    def build(self):
        return Builder(self).build()

    def save(self, path):
        self.path = path
        built = self.build()
        built.file.save(path)
        return path


@dataclass
class Built:
    """A forged host file and where things are in it."""
    file: Sparse
    where: dict  # l1, reftable, refblock, snapshots, bitmaps, extensions: host offsets
    l2_entry: dict  # guest cluster -> host offset of its entry in the active tables
    data_file: Sparse = None

    def patch(self, off, data):
        size = self.file.size
        self.file.write(off, data)
        self.file.truncate(max(size, off + len(data)))
        return self

    def save(self, path):
        return self.file.save(path)


class Builder:
    """Lays one Image out: every structure gets host clusters, then counts, then bytes."""

    def __init__(self, image):
        self.image, self.cs = image, image.cs
        self.file, self.next = Sparse(), 1
        self.counts = {0: 1}
        self.where = {"snapshots": 0}
        self.l2_entry = {}
        self.data_file = Sparse(image.size) if image.data_file else None

    def take(self, nbytes, gap=True):
        """Host clusters for nbytes, counted once; sometimes behind a gap that stays free."""
        if gap and self.image.rng and self.image.rng.random() < 0.3:
            self.next += self.image.rng.randrange(3)
        first, n = self.next, max(1, -(-nbytes // self.cs))
        self.next += n
        for i in range(first, first + n):
            self.counts[i] = self.counts.get(i, 0) + 1
        return first * self.cs

    def build(self):
        image = self.image
        for s in image.snapshots:
            s.tables = self.tables(s.clusters)
        active = self.tables(image.clusters)
        self.share(active, image.snapshots)
        self.place_clusters()
        self.place_tables(active)
        for b in image.bitmaps:
            self.place_bitmap(b)
        self.count_references(active)
        directory = self.write_bitmaps()
        tail = image.tail
        self.place_refcounts(1 if tail else 0)
        if tail:
            tail[0].host = self.take(self.cs, gap=False)
        self.write_clusters()
        self.write_tables(active)
        self.write_refcounts()
        self.write_header(directory)
        self.file.truncate(tail[0].host + tail[1] if tail else self.next * self.cs)
        return Built(self.file, self.where, self.l2_entry, self.data_file)

    # ---- placing ----

    def tables(self, clusters):
        tables = {}
        for index, cluster in clusters.items():
            l1_index, slot = divmod(index, self.image.l2_entries)
            tables.setdefault(l1_index, Table({})).slots[slot] = cluster
        assert all(i < self.image.l1_size for i in tables)
        return tables

    def share(self, active, snapshots):
        """An L2 table that is the same in several L1 tables exists once."""
        seen = {}
        for tables in [active, *(s.tables for s in snapshots)]:
            for l1_index, table in tables.items():
                key = l1_index, tuple(sorted((i, id(c)) for i, c in table.slots.items()))
                tables[l1_index] = seen.setdefault(key, table)
                tables[l1_index].refs += 1

    def all_clusters(self):
        image = self.image
        found = {}
        for clusters in [image.clusters, *(s.clusters for s in image.snapshots)]:
            for index, cluster in clusters.items():
                found.setdefault(id(cluster), (index, cluster))
        found = list(found.values())
        if image.rng:
            image.rng.shuffle(found)
        return found

    def place_clusters(self):
        tail = self.image.tail and self.image.tail[0]
        packed = []
        for index, cluster in self.all_clusters():
            if cluster.kind == "compressed":
                packed.append(cluster)
            elif self.data_file is not None and cluster.needs_host_cluster():
                cluster.host = index * self.cs
            elif cluster.needs_host_cluster() and cluster is not tail:
                cluster.host = self.take(self.cs)
                self.counts[cluster.host // self.cs] = 0  # counted by reference
        self.place_packed(packed)

    def place_packed(self, packed):
        """
        Byte after byte through consecutive host clusters ("tight"), each in fresh ones ("fresh"),
        or so that each lies across a border where it can ("across"); never more in one cluster
        than its count can tell.
        """
        image, cs = self.image, self.cs
        most = ((1 << (1 << image.refcount_order)) - 1) // (1 + len(image.snapshots))
        pos, users = self.next * cs, {}
        for cluster in packed:
            length = len(cluster.stream)
            crowded = users.get(pos // cs, 0) >= most
            if image.packing == "fresh" or crowded or sector_count(pos, length) > cs // 256:
                pos = -(-pos // cs) * cs
            if image.packing == "across" and 1 < length < cs and most > 1:
                pos = max(pos, -(-(pos + length) // cs) * cs - length // 2)
            cluster.host = pos
            for ci in cluster.references(cs):
                users[ci] = users.get(ci, 0) + 1
                self.next = max(self.next, ci + 1)
            pos += length

    def place_tables(self, active):
        image = self.image
        for tables in [active, *(s.tables for s in image.snapshots)]:
            for table in tables.values():
                if table.host is None:
                    table.host = self.take(self.cs)
                    self.counts[table.host // self.cs] = table.refs
        self.where["l1"] = self.take(image.l1_size * 8) if image.l1_size else 0
        for s in image.snapshots:
            s.l1 = self.take(image.l1_size * 8)
        if image.snapshots:
            self.where["snapshots"] = self.take(len(self.snapshot_table()))

    def count_references(self, active):
        for tables in [active, *(s.tables for s in self.image.snapshots)]:
            for table in tables.values():
                for cluster in table.slots.values():
                    if self.data_file is None:
                        for ci in cluster.references(self.cs):
                            self.counts[ci] = self.counts.get(ci, 0) + 1

    def place_refcounts(self, more):
        """Table and blocks behind everything else, covering themselves and `more` clusters."""
        per_block = self.cs * 8 >> self.image.refcount_order
        blocks = table = 1
        while True:
            end = self.next + blocks + table + more
            need = -(-end // per_block)
            need_table = -(-need * 8 // self.cs)
            if (need, need_table) == (blocks, table):
                break
            blocks, table = need, need_table
        self.where["reftable"] = self.take(table * self.cs, gap=False)
        self.where["refblock"] = self.take(blocks * self.cs, gap=False)
        self.blocks, self.reftable_clusters = blocks, table

    # ---- bytes ----

    def write_clusters(self):
        for _, cluster in self.all_clusters():
            if cluster.host is None:
                continue
            store = self.file if self.data_file is None else self.data_file
            data = cluster.stream if cluster.kind == "compressed" else cluster.data
            store.write(cluster.host, data)

    def entry(self, cluster):
        """The first word of an L2 entry."""
        if cluster.kind == "compressed":
            shift = 70 - self.image.cluster_bits
            extra = sector_count(cluster.host, len(cluster.stream)) - 1
            assert cluster.host < 1 << shift and extra < self.cs // 256
            return COMPRESSED | extra << shift | cluster.host
        zero = ZERO if cluster.kind in ("zero", "zero_allocated") else 0
        if zero and self.image.extended_l2:
            zero = 0
        if cluster.host is None:
            return zero
        alone = self.data_file is not None or self.counts[cluster.host // self.cs] == 1
        return cluster.host | zero | (COPIED if alone else 0)

    def bitmap_word(self, cluster):
        if cluster.kind in ("zero", "zero_allocated"):
            return 0xffffffff << 32
        if cluster.kind == "normal":
            return 0xffffffff
        word = 0
        for i, state in enumerate(cluster.states):
            word |= {"d": 1 << i, "z": 1 << 32 + i, ".": 0}[state]
        return word

    def write_tables(self, active):
        image = self.image
        for tables in [active, *(s.tables for s in image.snapshots)]:
            for l1_index, table in tables.items():
                for slot, cluster in table.slots.items():
                    off = table.host + slot * image.entry_size
                    raw = struct.pack(">Q", self.entry(cluster))
                    if image.extended_l2:
                        raw += struct.pack(">Q", self.bitmap_word(cluster))
                    self.file.write(off, raw)
                    if tables is active:
                        self.l2_entry[l1_index * image.l2_entries + slot] = off
        self.write_l1(self.where["l1"], active, exact=True)
        for s in image.snapshots:
            self.write_l1(s.l1, s.tables, exact=False)
        if image.snapshots:
            self.file.write(self.where["snapshots"], self.snapshot_table())

    def write_l1(self, host, tables, exact):
        for l1_index, table in tables.items():
            # An inactive table keeps the flags of the day on which it was copied.
            flag = COPIED if table.refs == 1 or not exact else 0
            self.file.write(host + l1_index * 8, struct.pack(">Q", table.host | flag))

    def snapshot_table(self):
        out = b""
        for n, s in enumerate(self.image.snapshots):
            ident, name = s.ident.encode(), s.name.encode()
            out = pad8(out) + struct.pack(
                ">QIHHIIQII", s.l1, self.image.l1_size, len(ident), len(name), 1700000000 + n,
                123456789, 5_000_000_000 * n, min(s.vm_state, 0xffffffff), len(s.extra))
            out += s.extra + ident + name
        return out

    def place_bitmap(self, b):
        bits = -(-self.image.size // (1 << b.granularity_bits))
        b.entries = -(-(-(-bits // 8)) // self.cs)
        b.table = self.take(b.entries * 8)
        if b.ones:
            b.data = self.take(b.entries * self.cs)

    def write_bitmaps(self):
        """The directory's (offset, size)."""
        directory = b""
        for b in self.image.bitmaps:
            name = b.name.encode()
            directory += pad8(struct.pack(">QIIBBHI", b.table, b.entries, b.flags, 1,
                                          b.granularity_bits, len(name), 0) + name)
            for i in range(b.entries):
                entry = b.data + i * self.cs if b.ones else ZERO if b.full else 0
                self.file.write(b.table + i * 8, struct.pack(">Q", entry))
            for bit in b.ones:
                old = self.file.read(b.data + bit // 8, 1)[0]
                self.file.write(b.data + bit // 8, bytes([old | 1 << bit % 8]))
        self.where["bitmaps"] = self.take(len(directory)) if directory else 0
        self.file.write(self.where["bitmaps"], directory)
        return self.where["bitmaps"], len(directory)

    def write_refcounts(self):
        order, base = self.image.refcount_order, self.where["refblock"]
        for i in range(self.blocks):
            self.file.write(self.where["reftable"] + i * 8, struct.pack(">Q", base + i * self.cs))
        tail = self.image.tail
        if tail:
            self.counts[tail[0].host // self.cs] = 1
        for ci, count in self.counts.items():
            assert count < 1 << (1 << order), "refcounts too narrow for this image"
            if order >= 3:
                width = 1 << order - 3
                self.file.write(base + ci * width, count.to_bytes(width, "big"))
            else:
                bit = ci << order
                old = self.file.read(base + bit // 8, 1)[0]
                self.file.write(base + bit // 8, bytes([old | count << bit % 8]))

    # ---- the header ----

    def extension_area(self, directory):
        image = self.image
        parts = []
        if image.backing_format:
            parts.append((EXT_FORMAT, image.backing_format.encode()))
        if image.data_file:
            parts.append((EXT_DATA, str(image.data_file).encode()))
        if image.version >= 3 and image.feature_names:
            parts.append((EXT_NAMES, b"".join(
                struct.pack(">BB46s", kind, bit, name.encode())
                for kind, bit, name in FEATURE_NAMES)))
        if image.bitmaps:
            off, size = directory
            parts.append((EXT_BITMAPS, struct.pack(">IIQQ", len(image.bitmaps), 0, size, off)))
        parts += image.extensions
        if image.rng:
            image.rng.shuffle(parts)
        area = b"".join(struct.pack(">II", k, len(d)) + pad8(d) for k, d in parts)
        return area + (bytes(8) if image.end_marker else b"")

    def write_header(self, directory):
        image = self.image
        area = self.extension_area(directory)
        name = image.backing_name
        if name is None and image.backing:
            name = str(image.backing.path)
        name = (name or "").encode()
        name_off = image.header_length + len(area) + image.name_gap
        header = MAGIC + struct.pack(
            ">IQIIQIIQQIIQ", image.version, name_off if name else 0, len(name),
            image.cluster_bits, image.size, image.crypt_method, image.l1_size, self.where["l1"],
            self.where["reftable"], self.reftable_clusters, len(image.snapshots),
            self.where["snapshots"])
        if image.version >= 3:
            header += struct.pack(">QQQII", *image._header_features(), image.refcount_order,
                                  image.header_length)
            header += bytes([image.compression == "zstd"]) + bytes(7)
            # Bytes of fields that we don't know and may ignore, for no feature bit is set.
            header += b"\xa5" * (image.header_length - len(header))
        header = header[:image.header_length]
        assert name_off + len(name) <= self.cs, "the header doesn't fit its cluster"
        self.where["extensions"] = image.header_length
        self.where["name"] = name_off
        self.file.write(0, header + area)
        self.file.write(name_off, name)
