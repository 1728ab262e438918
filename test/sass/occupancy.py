"""How many blocks of a kernel does a multiprocessor of compute capability 9.0 (H100, H200) hold?

The arithmetic of cuda_occupancy.h, in CUDA's include folder, for that one GPU; test_sass.py asks the header itself.
"""

MULTIPROCESSORS = 132
WARP = 32
RESERVED = 1024  # bytes of shared memory in each block that are CUDA's own

_WARPS, _BLOCKS = 64, 32  # that a multiprocessor holds at most
_PARTITIONS, _REGISTERS = 4, 65536  # schedulers; registers of all four
_REGISTER_UNIT, _SHARED_UNIT = 256, 128  # what a warp's registers, and a block's bytes, are rounded up to
_SHARED, _SHARED_BLOCK = 228 * 1024, 227 * 1024  # of a multiprocessor; of a block


def _up(value, unit):
    return -(-value // unit) * unit


def blocks_held(threads, registers, shared):
    """Blocks of so many threads, registers a thread and bytes of shared memory, static and dynamic, at once; 0 where
    there is no room for one."""
    warps = -(-threads // WARP)
    if threads > 1024 or shared > _SHARED_BLOCK:
        return 0
    a_warp = _up(registers * WARP, _REGISTER_UNIT)
    if a_warp * _up(warps, _PARTITIONS) > _REGISTERS:
        return 0
    by_registers = _REGISTERS // _PARTITIONS // a_warp * _PARTITIONS // warps
    by_shared = _SHARED // _up(shared + RESERVED, _SHARED_UNIT)
    return min(_BLOCKS, _WARPS // warps, by_registers, by_shared)


def waves(blocks, held):
    """How often the whole GPU is filled until so many blocks are through."""
    return blocks / (MULTIPROCESSORS * held) if held else float("inf")
