"""Shape and dtype checks shared by the ops: one sentence with what was expected and what was seen."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

INTEGERS = (torch.uint8, torch.uint16, torch.int16, torch.int32, torch.uint32, torch.int64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def shape_of(tensor: Tensor) -> str:
    """`float32 [4, 512]`, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_tensor(
    name: str, tensor: Tensor, axes: str, shape: Sequence[int | None], dtypes: Sequence[torch.dtype]
) -> None:
    """Raise unless `tensor` has this shape (None: any size) and one of these dtypes."""
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, sizes, strict=True)
    )
    if not fits or tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        known = ", ".join("any" if size is None else str(size) for size in shape)
        raise ExpanderSaeError(f"expected {name} as {axes} = [{known}], {wanted}; got {shape_of(tensor)}")


def check_dictionary(rows: Tensor | None, values: Tensor, d_in: int) -> None:
    """Raise unless rows and values [n_latents, degree] are a dictionary over d_in rows (rows None: dense)."""
    check_tensor("values", values, "[n_latents, degree]", (None, None), (torch.float32, torch.float64))
    n_latents, degree = values.shape
    if n_latents < 1 or degree < 1:
        raise ExpanderSaeError(f"expected at least one latent and degree >= 1; got values {shape_of(values)}")
    if rows is None:
        if degree != d_in:
            raise ExpanderSaeError(
                f"without rows the dictionary is dense: expected values [n_latents, d_in={d_in}]; "
                f"got {shape_of(values)}"
            )
        return
    check_tensor("rows", rows, "[n_latents, degree]", (n_latents, degree), INTEGERS)
    if degree > d_in:
        raise ExpanderSaeError(f"expected degree <= d_in = {d_in}; got degree {degree}")


def check_rows(rows: Tensor, d_in: int) -> None:
    """Raise unless rows [n_latents, degree] are below d_in and distinct in a column."""
    check_range(rows, d_in)
    ordered = rows.long().sort(dim=1).values  # torch compares few unsigned types
    again = ordered[:, 1:] == ordered[:, :-1]
    if bool(again.any()):
        latent = int(again.any(dim=1).int().argmax())
        row = int(ordered[latent, 1:][again[latent]][0])
        raise ExpanderSaeError(
            f"expected the rows of a column to be distinct; got row {row} twice in column {latent}. Add its values up."
        )


def check_range(rows: Tensor, d_in: int) -> None:
    """Raise where a row is not below d_in, or is negative."""
    if rows.numel() and not 0 <= int(rows.long().min()) <= int(rows.long().max()) < d_in:
        raise ExpanderSaeError(f"a row index is not below d_in = {d_in}, or is negative")


def check_numbers(x: Tensor, rows: Tensor | None, values: Tensor, **others: Tensor | None) -> None:
    """Raise where an input holds NaN or infinity, or a row is not below d_in; the C++ core does this itself."""
    if rows is not None:
        check_range(rows, x.shape[1])
    for name, numbers in others.items():
        check_finite(name, numbers)
    good = torch.isfinite(x).all(dim=1)
    if not bool(good.all()):
        token = int((~good).int().argmax())
        raise ExpanderSaeError(f"x holds NaN or infinity in token {token}. Check the activations for overflow.")
    if not bool(torch.isfinite(values).all()):
        raise ExpanderSaeError("values hold NaN or infinity. Check the dictionary for a diverged run.")


def check_code_indices(indices: Tensor, n_latents: int) -> None:
    """Raise where a code points outside the dictionary; the C++ core does this itself."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < n_latents:
        raise ExpanderSaeError(f"a code index is not below n_latents = {n_latents}, or is negative")


def check_finite(name: str, numbers: Tensor | None) -> None:
    """Raise where something an op is given beside x and the dictionary holds NaN or infinity."""
    if numbers is not None and not bool(torch.isfinite(numbers).all()):
        raise ExpanderSaeError(f"{name} holds NaN or infinity. Check the SAE for a diverged run.")


def check_overflow(numbers: Tensor, what: str) -> None:
    """Raise where finite input gave [batch, ...] numbers that are not; the C++ core does this itself."""
    if not bool(torch.isfinite(numbers).all()):
        token = int((~torch.isfinite(numbers).flatten(1).all(dim=1)).int().argmax())
        kind = str(numbers.dtype).removeprefix("torch.")
        raise ExpanderSaeError(
            f"{what} of token {token} is beyond the numbers of {kind}. Check the activations for overflow and the "
            "dictionary for a diverged run."
        )
