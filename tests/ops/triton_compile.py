"""Compile every kernel for compute capability 9.0, which needs no GPU; test_triton.py runs this as a script."""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from expander_sae.ops.encode_topk import triton_kernels as encode
from expander_sae.ops.sparse_decode import triton_kernels as decode

POINTERS = {
    "x": "*bf16", "x_tiles": "*bf16", "rows": "*i16", "rows_t": "*i16", "values": "*fp32", "values_t": "*fp32",
    "bias": "*fp32", "center": "*fp32", "keys": "*i64", "winners": "*i32", "indices": "*i64", "codes": "*fp32",
    "out": "*fp32", "grad_out": "*fp32", "grad_codes": "*fp32", "latents": "*i64", "order": "*i64", "starts": "*i64",
    "weights": "*fp32", "grad_values": "*fp32", "grad_bias": "*fp32",
}  # fmt: skip
COLUMN: dict[str, Any] = {"NARROW": True, "DEGREE": 7}
ENCODER: dict[str, Any] = COLUMN | {"HAS_BIAS": True, "SIGNED": False, "GROUP": 16, "LANES": 128}
KERNELS: list[tuple[Any, dict[str, Any], int]] = [
    (encode.group_keys_kernel, ENCODER | {"TILE": 32, "UNROLL": 7}, 8),
    (encode.top_groups_kernel, {"K_PAD": 32, "CHUNK": 512, "TOKENS": 2}, 4),
    (encode.refine_kernel, ENCODER | {"K_PAD": 32, "CHUNK": 512, "TOKENS": 2}, 4),
    (decode.decode_kernel, COLUMN | {"LANES": 8, "TOKENS": 4}, 1),
    (decode.code_gradient_kernel, COLUMN | {"LANES": 8, "CODES": 32}, 2),
    (
        decode.sum_per_latent_kernel,
        COLUMN | {"LANES": 8, "CODES": 32, "HAS_CENTER": True, "NEEDS_VALUES": True, "NEEDS_BIAS": True},
        2,
    ),
]


def compile_kernel(kernel: Any, constants: dict[str, Any], warps: int) -> str:
    """The PTX of one kernel."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name in POINTERS}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    options = {"num_warps": warps, "num_stages": 1}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


if __name__ == "__main__":
    for kernel, constants, warps in KERNELS:
        ptx = compile_kernel(kernel, constants, warps)
        assert ".entry" in ptx
        if kernel is encode.group_keys_kernel:
            # The point of the tile: 16 bytes of one row of x at a time, and no barrier among the gathers.
            gathers = ptx.count("ld.global.v4.b32")
            assert gathers >= 7, f"x is not read in 16-byte pieces: {gathers}"
        print(kernel.__name__, "compiles")
