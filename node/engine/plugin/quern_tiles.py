"""Has vLLM use a processor's tile registers (Intel AMX) only where the kernel grants them.

vLLM's attention on CPUs takes them wherever the processor has them, and does not ask. Linux gives them to a process
that asked for them (arch_prctl ARCH_REQ_XCOMP_PERM) and ends any other at the first use: an engine whose first prompt
is so short that no library has asked before dies of an illegal instruction. vLLM calls this in each of its processes,
by the entry point in the `.dist-info` beside it.
"""


def request_tiles() -> None:
    """Ask the kernel for tile registers; without them, let vLLM believe that there are none."""
    import torch  # noqa: PLC0415 - of the engine's environment, which imports it anyway

    if torch.cpu._is_amx_tile_supported() and not torch.cpu._init_amx():
        torch.cpu._is_amx_tile_supported = lambda: False
