# SPDX-License-Identifier: MIT
"""
What the well-known users of qemu-img do with it, in the order in which they do it, as their manuals
and logs show: run with both tools and compared after each step. A line that begins with "!" is what
they do beside it, and runs in both folders; one with "?" does, too, and has to print the same.
After a commit the check is a quiet one: in what order qemu-img then fills the file, and so how
fragmented it calls it, isn't the same every time.
"""
import os
import shlex
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import twin  # noqa: E402

SCENARIOS = {
    # libguestfs: an overlay to look at a guest with, and what it asks of an image before
    "guestfs_overlay": """
        create -f qcow2 -o preallocation=off disk.img 64M
        info --output json ./disk.img
        create -f qcow2 -b disk.img -F qcow2 overlay.qcow2
        ! qemu-io -f qcow2 -c 'write -P 3 1M 2M' overlay.qcow2
        info --output json ./overlay.qcow2
        info -U --output json ./overlay.qcow2
        convert -f qcow2 -O raw overlay.qcow2 copy.raw
        compare -f qcow2 -F raw overlay.qcow2 copy.raw
        """,
    # virt-sparsify, virt-v2v: into a new image with the zeros left out, over an overlay
    "sparsify": """
        ! truncate -s 32M in.raw
        ! qemu-io -f raw -c 'write -P 1 0 1M' -c 'write -P 0 8M 4M' in.raw
        create -q -f qcow2 -o compat=1.1,backing_fmt=raw -b in.raw tmp.qcow2
        ! qemu-io -f qcow2 -c 'write -z -u 8M 4M' tmp.qcow2
        convert -f qcow2 -O qcow2 -o compat=1.1 tmp.qcow2 out.qcow2
        check out.qcow2
        ! truncate -s 32M there.raw
        convert -p -n -f qcow2 -O raw tmp.qcow2 there.raw
        map --output=json out.qcow2
        """,
    # virt-install and libvirt's storage driver: volumes, with their options, and clones of them
    "libvirt_volumes": """
        create -f qcow2 -o compat=1.1,lazy_refcounts=on pool.qcow2 10G
        create -f qcow2 -o preallocation=metadata,compat=1.1,lazy_refcounts=on full.qcow2 16M
        create -f raw vol.img 8M
        create -f qcow2 -b pool.qcow2 -F qcow2 clone.qcow2
        info --output=json --backing-chain clone.qcow2
        convert -f qcow2 -O qcow2 -o compat=1.1 full.qcow2 copy.qcow2
        convert -f raw -O qcow2 vol.img vol.qcow2
        snapshot -c before full.qcow2
        snapshot -l full.qcow2
        snapshot -a before full.qcow2
        snapshot -d before full.qcow2
        """,
    # oVirt (vdsm): volumes on block and file storage, merged and pruned
    "vdsm_volumes": """
        ! truncate -s 64M base.raw
        ! qemu-io -f raw -c 'write -P 1 0 3M' base.raw
        create -f qcow2 -o compat=1.1 -u -b base.raw -F raw top.qcow2 64M
        ! qemu-io -f qcow2 -c 'write -P 2 1M 1M' -c 'write -z 2M 512k' top.qcow2
        info --output json -f qcow2 top.qcow2
        info --output json -f qcow2 -U top.qcow2
        check --output json -f qcow2 top.qcow2
        map --output json -f qcow2 top.qcow2
        convert -p -t none -T none -f qcow2 top.qcow2 -O raw -W merged.raw
        compare -f qcow2 -F raw -p top.qcow2 merged.raw
        measure --output json -f qcow2 -O qcow2 top.qcow2
        measure --output json -f qcow2 -O qcow2 -o backing_file=base.raw top.qcow2
        create -f qcow2 -o compat=1.1 new.qcow2 64M
        convert -p -t none -T none -f qcow2 top.qcow2 -O qcow2 -n -W new.qcow2
        rebase -u -t none -f qcow2 -b merged.raw -F raw top.qcow2
        info --output json -f qcow2 top.qcow2
        commit -p -t none -b merged.raw -f qcow2 top.qcow2
        """,
    # OpenStack: Glance's image is looked at and cached raw, Nova's disk is an overlay of it
    "nova_instance": """
        create -f qcow2 glance.part 32M
        ! qemu-io -f qcow2 -c 'write -P 7 0 5M' glance.part
        info --output=json --force-share glance.part
        convert -t none -O raw -f qcow2 glance.part base.converted
        info --output=json --force-share base.converted
        create -f qcow2 -o backing_file=base.converted,backing_fmt=raw,size=64M disk
        info --output=json --force-share disk
        ! qemu-io -f qcow2 -c 'write -P 8 40M 1M' disk
        snapshot -c nova disk
        convert -f qcow2 -O qcow2 -l snapshot.name=nova disk snapshot.qcow2
        snapshot -d nova disk
        rebase -b '' -f qcow2 disk
        info --output=json --force-share disk
        """,
    # OpenStack Cinder: uploads and downloads of volumes
    "cinder_volume": """
        create -f qcow2 image 16M
        ! qemu-io -f qcow2 -c 'write -P 1 0 3M' image
        info -f qcow2 --output=json --force-share image
        convert -O raw -t none -f qcow2 image volume
        convert -O qcow2 -t none -f raw -c volume upload.qcow2
        info --output=json upload.qcow2
        check upload.qcow2
        """,
    # oVirt's incremental backups: bitmaps along a chain, what they say to who reads it over NBD,
    # and what becomes of them when the chain is folded (vdsm's bitmaps.py)
    "ovirt_incremental": """
        create -f qcow2 -o compat=1.1 base.qcow2 16M
        ! qemu-io -f qcow2 -c 'write -P 1 0 2M' base.qcow2
        bitmap --add base.qcow2 b1
        ! qemu-io -f qcow2 -c 'write -P 2 1M 64k' -c 'write -z 8M 1M' base.qcow2
        bitmap --add base.qcow2 b2 -g 4k
        info --output json -f qcow2 base.qcow2
        ? nbdinfo --map=qemu:dirty-bitmap:b1 -- [ qemu-nbd -r -f qcow2 -B b1 base.qcow2 ]
        bitmap --disable base.qcow2 b1
        create -f qcow2 -o compat=1.1 -b base.qcow2 -F qcow2 top.qcow2
        bitmap --add top.qcow2 b2 -g 4k
        ! qemu-io -f qcow2 -c 'write -P 3 4M 100k' top.qcow2
        info -U --output json -f qcow2 --backing-chain top.qcow2
        ? nbdinfo --map=qemu:dirty-bitmap:b2 -- [ qemu-nbd -r -f qcow2 -B b2 top.qcow2 ]
        create -f qcow2 -o compat=1.1 copy.qcow2 16M
        convert -p -t none -T none -f qcow2 top.qcow2 -O qcow2 -n -W --bitmaps copy.qcow2
        info --output json copy.qcow2
        ? nbdinfo --map=qemu:dirty-bitmap:b2 -- [ qemu-nbd -r -f qcow2 -B b2 copy.qcow2 ]
        bitmap --merge b2 -F qcow2 -b top.qcow2 base.qcow2 b2
        commit -p -t none -b base.qcow2 -f qcow2 top.qcow2
        ? nbdinfo --map=qemu:dirty-bitmap:b2 -- [ qemu-nbd -r -f qcow2 -B b2 base.qcow2 ]
        bitmap --clear base.qcow2 b2
        bitmap --remove base.qcow2 b1
        info --output json -f qcow2 base.qcow2
        check -q base.qcow2
        """,
    # sizes: OpenStack's flavours, libguestfs' virt-resize, and back again; raw volumes likewise
    "resizes": """
        create -f qcow2 -o preallocation=metadata disk 32M
        ! qemu-io -f qcow2 -c 'write -P 5 0 3M' -c 'write -P 6 20M 1M' disk
        info --output=json -f qcow2 disk
        resize -f qcow2 disk 64M
        snapshot -c before disk
        resize --preallocation=falloc -f qcow2 disk +1M
        resize --shrink -f qcow2 disk 16M
        resize -f qcow2 disk 8M
        check --output=json -f qcow2 disk
        info --output=json --force-share disk
        snapshot -a before disk
        convert -f qcow2 -O raw disk flat
        resize -f raw flat 70M
        resize --shrink -f raw flat 1M
        info --output=json -f raw flat
        resize --shrink -f qcow2 disk -- -1M
        check -q -U disk
        """,
    # virt-sparsify, virt-install --disk, virt-clone: out of the page cache, in any order, sparse
    # and not, compressed for the shelf
    "virt_tools": """
        create -f qcow2 -o preallocation=falloc,lazy_refcounts=on,cluster_size=128k vm.qcow2 8M
        ! qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 0 2M 1M' -c 'write -P 2 5M 1M' vm.qcow2
        check --output=json vm.qcow2
        convert -p -S 64k -t none -T none -W -f qcow2 -O qcow2 vm.qcow2 sparse.qcow2
        convert -t none -W -m 8 -f qcow2 -O raw vm.qcow2 clone.img
        convert -c -o compression_type=zstd -f raw -O qcow2 clone.img shelf.qcow2
        convert -S 0 -O qcow2 shelf.qcow2 full.qcow2
        compare vm.qcow2 sparse.qcow2
        compare clone.img full.qcow2
        create -f qcow2 -b shelf.qcow2 -F qcow2 run.qcow2
        ! mv shelf.qcow2 moved.qcow2
        rebase -u -f qcow2 -b moved.qcow2 -F qcow2 run.qcow2
        check --output=json run.qcow2
        ! qemu-io -f qcow2 -c 'write -P 9 6M 64k' run.qcow2
        rebase -p -t none -T none -f qcow2 -b full.qcow2 -F qcow2 run.qcow2
        rebase -u -f qcow2 -b '' run.qcow2
        info --output=json --backing-chain run.qcow2
        check -q run.qcow2
        """,
    # backups: a chain that grows and is folded, with what it needs checked on the way
    "chain": """
        create -q -f qcow2 one.qcow2 8M
        ! qemu-io -f qcow2 -c 'write -P 1 0 2M' one.qcow2
        create -q -f qcow2 -b one.qcow2 -F qcow2 two.qcow2
        ! qemu-io -f qcow2 -c 'write -P 2 1M 2M' two.qcow2
        create -q -f qcow2 -b two.qcow2 -F qcow2 three.qcow2
        ! qemu-io -f qcow2 -c 'write -P 3 2M 2M' three.qcow2
        info --backing-chain three.qcow2
        map three.qcow2
        rebase -b one.qcow2 -F qcow2 three.qcow2
        commit -d three.qcow2
        check -q one.qcow2
        convert -O qcow2 -B one.qcow2 -F qcow2 three.qcow2 four.qcow2
        compare three.qcow2 four.qcow2
        """,
}


def steps(text):
    return [shlex.split(line) for line in text.strip().splitlines()]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, images, face, work):
    case = twin.Case(name, 0, [], steps(SCENARIOS[name]))
    found = twin.compare(case, images, work, face)
    assert not found, "\n".join(f"{respect}: {what}" for respect, what in found.items())
